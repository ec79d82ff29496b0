//! Tells the data process what consensus assigns to it, and for how long it may serve.
//!
//! One task owns the order of messages on the link. A lease update of revision R is sent only when
//! the local applied state has reached R for this member and every assignment up to it was sent
//! before (R9); a new life of the data process gets everything again. Only what changed is sent,
//! and only that is looked at: a change of one database must not cost a look at thousands.
//!
//! Failure behaviour: if a message cannot be queued, what was sent is forgotten, and the next look
//! sends everything again; a lease is not extended meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keelson_cluster_core::{
    ClusterState, CopyConfig, CopyKind, Database, LeaseHolder, LossReceipt,
};
use keelson_types::{
    CopyId, DatabaseId, IncarnationId, MemberId, MountDial, MountIntent, Tick, Weakness,
};
use keelson_wire::v1::{
    AssignDatabase, AssignMembers, CommitConstraint, CopyAssignment, DatabaseAssignment,
    ForgetDatabase, LeaseUpdate, MemberAddress, control_to_data,
};
use keelson_wire::{ids, v1};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::applied::AppliedState;
use crate::clock;
use crate::context::Context;
use crate::data_link::DataEvent;
use crate::leases::Granted;
use crate::reports::Reports;

/// How long a message may wait for room on the link.
const SEND_DEADLINE: Duration = Duration::from_secs(1);

/// What the running life was told.
struct Told {
    incarnation: IncarnationId,
    holder: LeaseHolder,
    /// Expiry and revision of the lease as last announced.
    lease: Option<(Tick, u64)>,
    members: Option<AssignMembers>,
    databases: BTreeMap<DatabaseId, DatabaseAssignment>,
    /// What was looked at; nothing if everything has to be.
    seen: Option<Seen>,
}

/// What the assignments follow from, as far as it concerns more than one database.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    /// Of the databases.
    revision: u64,
    /// Snapshots taken over: their revisions begin anew.
    snapshots: u64,
    dials: Vec<(MemberId, MountDial)>,
}

impl Seen {
    fn of(all: &AppliedState) -> Self {
        let members = all.state.members.iter();
        Self {
            revision: all.state.databases.revision(),
            snapshots: all.snapshots,
            dials: members.map(|(id, member)| (*id, member.activation.dial)).collect(),
        }
    }

    /// Databases that may be assigned otherwise than when `before` was seen; nothing if all of them
    /// may.
    fn changed_since(&self, before: &Self, state: &ClusterState) -> Option<Vec<DatabaseId>> {
        let same = (before.snapshots, &before.dials) == (self.snapshots, &self.dials);
        same.then(|| state.databases.changed_since(before.revision).collect())
    }
}

/// What is new of databases; nothing for those of which no copy is here.
type News = BTreeMap<DatabaseId, Option<DatabaseAssignment>>;

/// The owner of the order of messages to the data process.
pub(crate) struct Assigner {
    context: Arc<Context>,
    events: mpsc::Receiver<DataEvent>,
    grants: mpsc::Receiver<Granted>,
    running: watch::Sender<Option<IncarnationId>>,
    /// Applied index up to which the running life was told everything.
    assigned: watch::Sender<u64>,
    reports: Reports,
    told: Option<Told>,
}

impl Assigner {
    pub(crate) fn new(
        context: Arc<Context>,
        events: mpsc::Receiver<DataEvent>,
        grants: mpsc::Receiver<Granted>,
        (running, assigned): (watch::Sender<Option<IncarnationId>>, watch::Sender<u64>),
    ) -> Self {
        let reports = Reports::new(context.clone());
        Self { context, events, grants, running, assigned, reports, told: None }
    }

    /// Runs until the control plane stops or the supervision is gone.
    pub(crate) async fn run(mut self) {
        let mut applied = self.context.applied.watch();
        loop {
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                Some(granted) = self.grants.recv() => self.granted(&granted),
                changed = applied.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    applied.mark_unchanged();
                }
            }
            self.bring_up_to_date().await;
        }
    }

    fn take(&mut self, event: DataEvent) {
        match event {
            DataEvent::Up { incarnation } => self.up(incarnation),
            DataEvent::Down { incarnation, certified } => {
                if self.told.as_ref().is_some_and(|told| told.incarnation == incarnation) {
                    self.told = None;
                    self.context.set_lease_until(Tick(0));
                    self.running.send_replace(None);
                }
                if certified {
                    self.reports.certify(incarnation);
                }
            }
            DataEvent::Message(message) => {
                if let Some(message) = message.message {
                    self.reports.take(message);
                }
            }
        }
    }

    fn up(&mut self, incarnation: IncarnationId) {
        let member = self.context.identity.member;
        let lease = self.context.timings.lease;
        let holder = LeaseHolder::new(lease, member, incarnation, Weakness::None);
        self.told = Some(Told {
            incarnation,
            holder,
            lease: None,
            members: None,
            databases: BTreeMap::new(),
            seen: None,
        });
        self.context.set_lease_until(Tick(0));
        self.assigned.send_replace(0);
        self.running.send_replace(Some(incarnation));
    }

    fn granted(&mut self, granted: &Granted) {
        if let Some(told) = &mut self.told {
            told.holder.granted(clock::now(), granted.sent, &granted.grant);
        }
    }

    async fn bring_up_to_date(&mut self) {
        let Some(told) = &mut self.told else { return };
        let me = self.context.identity.member;
        let caught_up = *self.context.caught_up.borrow();
        // One look at one state: the lease goes out with exactly the assignments of its revision.
        let (index, (members, news, lease)) = self.context.applied.read_all(|all| {
            let (index, state) = (all.index(), &all.state);
            let lease = told.holder.announced(clock::now(), state);
            (index, (members(state, caught_up), told.news(all, me), lease))
        });
        let (mut messages, forgotten) = told.changes(members, news);
        if let Some((until, revision)) = lease.filter(|_| lease != told.lease) {
            told.lease = lease;
            self.context.set_lease_until(until);
            let update = LeaseUpdate { expires_boottime_nanos: until.0, revision };
            messages.push(control_to_data::Message::Lease(update));
        }
        for message in messages {
            let sent = tokio::time::timeout(SEND_DEADLINE, self.context.link.send(message)).await;
            if !matches!(sent, Ok(Ok(()))) {
                tracing::debug!(
                    "the data process takes no messages; everything is sent again later"
                );
                told.unsure(forgotten);
                return;
            }
        }
        self.assigned.send_replace(index);
    }
}

impl Told {
    /// What became of the databases that changed since the last look, and remembers this one.
    fn news(&mut self, all: &AppliedState, me: MemberId) -> News {
        let state = &all.state;
        let now = Seen::of(all);
        let before = self.seen.as_ref();
        let changed = before.and_then(|before| now.changed_since(before, state));
        let changed = changed.unwrap_or_else(|| {
            state.databases.keys().chain(self.databases.keys()).copied().collect()
        });
        self.seen = Some(now);
        let here = |id| assigned_to(me, state, state.databases.get(&id)?);
        changed.into_iter().map(|id| (id, here(id))).collect()
    }

    /// The messages that bring the data process from what it was told to what is so, in order, and
    /// the databases that it is to forget.
    fn changes(
        &mut self,
        members: AssignMembers,
        news: News,
    ) -> (Vec<control_to_data::Message>, Vec<DatabaseId>) {
        let (mut messages, mut forgotten) = (Vec::new(), Vec::new());
        if self.members.as_ref() != Some(&members) {
            messages.push(control_to_data::Message::Members(members.clone()));
            self.members = Some(members);
        }
        for (id, now) in news {
            match now {
                None if self.databases.remove(&id).is_some() => {
                    let forget = ForgetDatabase { database: ids::bytes(id) };
                    messages.push(control_to_data::Message::Forget(forget));
                    forgotten.push(id);
                }
                Some(now) if self.databases.get(&id) != Some(&now) => {
                    self.databases.insert(id, now.clone());
                    let assign = AssignDatabase { assignment: Some(now) };
                    messages.push(control_to_data::Message::Assign(assign));
                }
                None | Some(_) => {}
            }
        }
        (messages, forgotten)
    }

    /// Not everything arrived: all of it is sent again, what was to be forgotten included.
    fn unsure(&mut self, forgotten: Vec<DatabaseId>) {
        (self.members, self.lease, self.seen) = (None, None, None);
        self.databases.extend(forgotten.into_iter().map(|id| (id, DatabaseAssignment::default())));
        self.databases.values_mut().for_each(|told| *told = DatabaseAssignment::default());
    }
}

/// A value for the data process; nothing for the default, which most have.
fn json<T: Serialize + Default + PartialEq>(value: &T) -> Bytes {
    if *value == T::default() {
        return Bytes::new();
    }
    serde_json::to_vec(value).expect("string keys only").into()
}

fn whole_json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("string keys only").into()
}

fn members(state: &ClusterState, caught_up: bool) -> AssignMembers {
    let members = state.members.values().map(|member| MemberAddress {
        member: ids::bytes(member.config.id),
        name: member.config.name.to_string(),
        site: member.config.site.to_string(),
        data_address: member.config.data_address.clone(),
        alive: !member.is_gone(),
        replication_addresses: member.config.replication_addresses.clone(),
    });
    AssignMembers {
        members: members.collect(),
        cluster: state.cluster.map(ids::bytes).unwrap_or_default(),
        recovery: state.recovery_generation,
        settings: state.settings.changed().clone().into_iter().collect(),
        networks: json(&state.networks),
        tokens: if caught_up { json(&state.tokens) } else { Bytes::new() },
    }
}

/// What `me` is told of a database; nothing if no copy of it is there.
fn assigned_to(
    me: MemberId,
    state: &ClusterState,
    database: &Database,
) -> Option<DatabaseAssignment> {
    let copy = database.copy_on(me)?;
    let (bounded, clock) = (state.is_bounded(database, copy), state.clock_unix_ms);
    Some(assignment(database, copy, (bounded, clock)))
}

/// What a copy's member is told. It follows from the database, and from the dials of members by
/// `bounded`: what else it hangs on must be in [`Seen`].
fn assignment(
    database: &Database,
    this_copy: CopyId,
    (bounded, clock_unix_ms): (bool, u64),
) -> DatabaseAssignment {
    let copy = |(id, config): (&CopyId, &CopyConfig)| CopyAssignment {
        copy: ids::bytes(*id),
        member: ids::bytes(config.member),
        leaving: config.leaving,
        lagged: config.kind == CopyKind::Lagged,
        suspended: config.is_stopped(),
        suspended_since_unix_millis: config
            .suspension
            .replication
            .map_or(0, |stop| stop.since_unix_ms),
        cut_off: config.cut_off,
    };
    let own = database.copies.get(&this_copy);
    let lag = own.map(|config| config.lag).unwrap_or_default();
    let active = database.target == Some(this_copy);
    let promised = database.newest_ceiling().filter(|_| active);
    DatabaseAssignment {
        database: ids::bytes(database.id),
        name: database.name.to_string(),
        stream: ids::bytes(database.stream),
        generation_bytes: database.settings.generation_bytes,
        degrade_after_millis: database.settings.degrade_after_ms.unwrap_or(0),
        dismount_after_millis: database.settings.dismount_after_ms,
        epoch: Some(database.epoch.into()),
        active: database.target.map(ids::bytes).unwrap_or_default(),
        rule: database.rule.as_ref().map(v1::CommitRule::from),
        assigned_at: database.assigned_at,
        mount_wanted: database.intent == MountIntent::Mounted,
        this_copy: ids::bytes(this_copy),
        copies: database.copies.iter().map(copy).collect(),
        lz4: database.settings.lz4,
        wanted_constraint: CommitConstraint::from(database.wanted_constraint()).into(),
        replay_lag_seconds: lag.replay_lag().as_secs(),
        truncation_lag_seconds: lag.truncation_lag().as_secs(),
        resumes: own.map_or(0, |config| config.resumes),
        circular_logging: database.settings.circular_logging,
        backed_up_to: database.backed_up.map(Into::into),
        suspension: own.map(|config| json(&config.suspension)).unwrap_or_default(),
        holds: json(&database.holds),
        content_index: json(&database.settings.content_index),
        automations: json(&database.settings.automations),
        lag_disabled: own.and_then(|config| config.lag_switch.disabled().map(str::to_owned)),
        play_down_max_delay_seconds: lag.play_down_max_delay().as_secs(),
        discards: database.receipts.iter().map(discarded).collect(),
        bounded,
        ceiling: promised.and_then(|r| r.ceiling).map(|c| whole_json(&c)).unwrap_or_default(),
        ceiling_number: promised.map_or(0, |record| record.ceiling_number),
        seed: own.and_then(|config| config.seeding.as_ref()).map(whole_json).unwrap_or_default(),
        // Of the moment that is told; it is not told anew because it goes on.
        consensus_unix_millis: if database.holds.is_empty() { 0 } else { clock_unix_ms },
    }
}

fn discarded(receipt: &LossReceipt) -> v1::DiscardedLog {
    v1::DiscardedLog { epoch: Some(receipt.epoch.into()), kept: Some(receipt.kept.into()) }
}

#[cfg(test)]
mod tests {
    use keelson_cluster_core::{Command, DatabaseSettings, MemberConfig, NewCopy};
    use keelson_types::{DatabaseName, MemberName, SiteName, StreamId};

    use super::*;

    const ME: MemberId = MemberId::from_u128(1);

    fn added(n: u128) -> Command {
        let member = MemberConfig {
            id: MemberId::from_u128(n),
            node: n as u64,
            name: MemberName::new(format!("m{n}")).expect("a name"),
            site: SiteName::new("here").expect("a name"),
            control_address: format!("m{n}:1"),
            data_address: format!("m{n}:2"),
            replication_addresses: Vec::new(),
            voter: true,
        };
        Command::AddMember { member }
    }

    fn created(n: u128, members: &[u128]) -> Command {
        let copy = |member: &u128| NewCopy {
            copy: CopyId::from_u128(10 * n + member),
            member: MemberId::from_u128(*member),
            preference: 1,
            kind: CopyKind::Ha,
        };
        Command::CreateDatabase {
            id: DatabaseId::from_u128(n),
            name: DatabaseName::new(format!("DB{n}")).expect("a name"),
            stream: StreamId::from_u128(n),
            settings: DatabaseSettings::default(),
            copies: members.iter().map(copy).collect(),
        }
    }

    fn removed(n: u128) -> Command {
        Command::RemoveDatabase { database: DatabaseId::from_u128(n), force: true }
    }

    /// A member that was told of everything so far.
    struct World {
        all: AppliedState,
        told: Told,
        index: u64,
    }

    impl World {
        fn new() -> Self {
            let incarnation = IncarnationId::from_u128(9);
            let lease = crate::timings::Timings::lan().lease;
            let holder = LeaseHolder::new(lease, ME, incarnation, Weakness::None);
            let databases = BTreeMap::new();
            let told =
                Told { incarnation, holder, lease: None, members: None, databases, seen: None };
            Self { all: AppliedState::default(), told, index: 0 }
        }

        fn apply(&mut self, command: &Command) {
            self.index += 1;
            self.all.state.apply(self.index, command).into_result().expect("accepted");
        }

        /// How many databases are looked at, and of which something is told. What the data process
        /// then knows is what a look at everything finds.
        fn look(&mut self) -> (usize, usize) {
            let news = self.told.news(&self.all, ME);
            let looked = news.len();
            let (messages, _) = self.told.changes(AssignMembers::default(), news);
            let state = &self.all.state;
            let plain = state
                .databases
                .values()
                .filter_map(|database| Some((database.id, assigned_to(ME, state, database)?)));
            assert_eq!(self.told.databases, plain.collect());
            let members = |m: &&_| !matches!(m, control_to_data::Message::Members(_));
            (looked, messages.iter().filter(members).count())
        }
    }

    #[test]
    fn only_what_changed_is_looked_at() {
        let mut world = World::new();
        [added(1), added(2), created(1, &[1, 2]), created(2, &[2]), created(3, &[1])]
            .iter()
            .for_each(|command| world.apply(command));
        assert_eq!(world.look(), (3, 2));
        assert_eq!(world.look(), (0, 0));
        world.apply(&created(4, &[1]));
        assert_eq!(world.look(), (1, 1));
        world.apply(&removed(3));
        assert_eq!(world.look(), (1, 1), "it is to be forgotten");
    }

    #[test]
    fn everything_is_looked_at_when_many_may_be_different() {
        let mut world = World::new();
        [added(1), added(2), created(1, &[1, 2]), created(2, &[1])]
            .iter()
            .for_each(|command| world.apply(command));
        world.look();
        // A snapshot's revisions say nothing about those from before.
        world.all.snapshots += 1;
        assert_eq!(world.look(), (2, 0));
        // Whether an active keeps a ceiling hangs on the dials of others.
        world.all.state.members.get_mut(&MemberId::from_u128(2)).expect("added").activation.dial =
            MountDial::BestAvailability;
        assert_eq!(world.look(), (2, 1));
    }

    #[test]
    fn what_did_not_arrive_is_sent_again() {
        let mut world = World::new();
        [added(1), created(1, &[1]), created(2, &[1])].iter().for_each(|c| world.apply(c));
        world.look();
        world.apply(&removed(2));
        let news = world.told.news(&world.all, ME);
        let (_, forgotten) = world.told.changes(AssignMembers::default(), news);
        world.told.unsure(forgotten);
        assert_eq!(world.look(), (2, 2), "one to assign, one to forget");
    }
}

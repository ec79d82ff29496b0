//! Tells the data process what consensus assigns to it, and for how long it may serve.
//!
//! One task owns the order of messages on the link. A lease update of revision R is sent only when
//! the local applied state has reached R for this member and every assignment up to it was sent
//! before (R9); a new life of the data process gets everything again. Only what changed is sent.
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
use keelson_types::{CopyId, DatabaseId, IncarnationId, MemberId, MountIntent, Tick, Weakness};
use keelson_wire::v1::{
    AssignDatabase, AssignMembers, CommitConstraint, CopyAssignment, DatabaseAssignment,
    ForgetDatabase, LeaseUpdate, MemberAddress, control_to_data,
};
use keelson_wire::{ids, v1};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

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
}

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
        let (index, (members, databases, lease)) = self.context.applied.read_all(|all| {
            let (index, state) = (all.index(), &all.state);
            let lease = told.holder.announced(clock::now(), state);
            (index, (members(state, caught_up), databases_on(state, me), lease))
        });
        let mut messages = told.changes(members, databases);
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
                told.members = None;
                told.databases.clear();
                told.lease = None;
                return;
            }
        }
        self.assigned.send_replace(index);
    }
}

impl Told {
    /// The messages that bring the data process from what it was told to what is so, in order.
    fn changes(
        &mut self,
        members: AssignMembers,
        databases: BTreeMap<DatabaseId, DatabaseAssignment>,
    ) -> Vec<control_to_data::Message> {
        let mut messages = Vec::new();
        if self.members.as_ref() != Some(&members) {
            messages.push(control_to_data::Message::Members(members.clone()));
            self.members = Some(members);
        }
        for id in self.databases.keys().filter(|id| !databases.contains_key(id)) {
            let forget = ForgetDatabase { database: ids::bytes(*id) };
            messages.push(control_to_data::Message::Forget(forget));
        }
        for (id, assignment) in &databases {
            if self.databases.get(id) != Some(assignment) {
                let assignment = Some(assignment.clone());
                messages.push(control_to_data::Message::Assign(AssignDatabase { assignment }));
            }
        }
        self.databases = databases;
        messages
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

fn databases_on(state: &ClusterState, me: MemberId) -> BTreeMap<DatabaseId, DatabaseAssignment> {
    let here = state.databases.values().filter_map(|database| {
        let copy = database.copy_on(me)?;
        Some((database.id, assignment(state, database, copy)))
    });
    here.collect()
}

fn assignment(state: &ClusterState, database: &Database, this_copy: CopyId) -> DatabaseAssignment {
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
    let promised = state.newest_ceiling(database.id).filter(|_| active);
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
        lag_disabled: own.and_then(|config| config.lag_switch.disabled().map(str::to_owned)),
        play_down_max_delay_seconds: lag.play_down_max_delay().as_secs(),
        discards: database.receipts.iter().map(discarded).collect(),
        bounded: state.is_bounded(database, this_copy),
        ceiling: promised.and_then(|r| r.ceiling).map(|c| whole_json(&c)).unwrap_or_default(),
        ceiling_number: promised.map_or(0, |record| record.ceiling_number),
        seed: own.and_then(|config| config.seeding.as_ref()).map(whole_json).unwrap_or_default(),
    }
}

fn discarded(receipt: &LossReceipt) -> v1::DiscardedLog {
    v1::DiscardedLog { epoch: Some(receipt.epoch.into()), kept: Some(receipt.kept.into()) }
}

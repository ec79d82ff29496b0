//! Control processes: followers, leases of the own data process, what is passed between the leader
//! and the data process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keelson_cluster_core::{
    ClusterState, LeaseConfig, LeaseHolder, LeaseTable, Manager, ManagerConfig, MountOrder, Outcome,
};
use keelson_copy_core::{Assignment, PeerCopy, RecordedCeiling};
use keelson_types::{
    CopyId, DatabaseState, Discard, IncarnationId, LagSettings, MemberId, MountIntent, Tick,
};

use super::consensus::Origin;
use super::leader::Leading;
use super::{Happening, World, database_id, database_index};
use crate::messages::{ControlMessage, OtherFacts, ToData, TruncationFacts};
use crate::params::MS;

/// Shortest time without a heartbeat after which a member votes for another leader.
const ELECTION_MIN: Duration = Duration::from_millis(600);

/// A control process.
pub(crate) struct Control {
    pub(crate) state: ClusterState,
    pub(crate) applied: usize,
    pub(crate) term: u64,
    pub(crate) leader: Option<usize>,
    last_heard: Tick,
    patience: Duration,
    pub(crate) leading: Option<Leading>,
    pub(crate) table: LeaseTable,
    pub(crate) manager: Manager,
    pub(crate) wake: Option<Tick>,
    holder: Option<LeaseHolder>,
    incarnation: Option<IncarnationId>,
    /// A child that was reaped and is not certified in the state yet.
    reaped: Option<IncarnationId>,
    last_renewal: Option<Tick>,
    ticks: u64,
    dead: BTreeSet<MemberId>,
    told: BTreeMap<usize, Assigned>,
    told_dead: BTreeSet<MemberId>,
}

pub(crate) fn lease_config() -> LeaseConfig {
    LeaseConfig::default()
}

impl World {
    pub(crate) fn start_control(&mut self, member: usize) {
        let weakness = self.params.weakness;
        let patience = match self.params.first_leader {
            Some(first) if first == member => Duration::from_millis(650),
            Some(_) => Duration::from_millis(1_150),
            None => Duration::from_millis(600 + self.random.below(600)),
        };
        let now = self.tick(member);
        let machine = &mut self.machines[member];
        if machine.control.is_some() || machine.down_for_good {
            return;
        }
        machine.control_life += 1;
        let life = machine.control_life;
        let kept = machine.kept.clone();
        let config = ManagerConfig {
            mount_deadline: Duration::from_secs(4),
            backoff_max: Duration::from_secs(1),
            startup_grace: Duration::from_secs(3),
            ..ManagerConfig::default()
        };
        machine.control = Some(Control {
            state: kept.state,
            applied: kept.applied,
            term: kept.term,
            leader: None,
            last_heard: now,
            patience,
            leading: None,
            table: LeaseTable::new(lease_config(), weakness),
            manager: Manager::new(config, weakness),
            wake: None,
            holder: None,
            incarnation: None,
            reaped: None,
            last_renewal: None,
            ticks: 0,
            dead: BTreeSet::new(),
            told: BTreeMap::new(),
            told_dead: BTreeSet::new(),
        });
        self.note(format_args!("m{member}: control process {life} starts"));
        self.after(MS, Happening::ControlTick { member, life });
        self.after(2 * MS, Happening::StartData { member });
    }

    /// Ends both processes: the data process never outlives its parent.
    pub(crate) fn end_member(&mut self, member: usize) {
        self.end_data(member);
        let machine = &mut self.machines[member];
        if let Some(control) = machine.control.take() {
            machine.kept.state = control.state;
            machine.kept.applied = control.applied;
            machine.kept.term = control.term;
            machine.control_paused = false;
            machine.parked.clear();
            self.counts.crashes += 1;
            self.note(format_args!("m{member}: control process ends"));
        }
    }

    pub(crate) fn control_sees_data(&mut self, member: usize, incarnation: IncarnationId) {
        let weakness = self.params.weakness;
        let id = self.machines[member].id;
        if let Some(control) = &mut self.machines[member].control {
            control.incarnation = Some(incarnation);
            control.holder = Some(LeaseHolder::new(lease_config(), id, incarnation, weakness));
            control.told.clear();
            control.told_dead.clear();
        }
        self.tell_news(member);
    }

    /// The data process ended and its parent saw it.
    pub(crate) fn control_reaps(&mut self, member: usize, incarnation: IncarnationId) {
        if let Some(control) = &mut self.machines[member].control {
            control.incarnation = None;
            control.holder = None;
            control.reaped = Some(incarnation);
        }
    }

    pub(crate) fn has_lost_its_leader(&self, member: usize) -> bool {
        let now = self.tick(member);
        let control = self.machines[member].control.as_ref();
        control.is_some_and(|c| c.leading.is_none() && now.since(c.last_heard) >= ELECTION_MIN)
    }

    /// Votes, which every later leader of a lower term will learn of.
    pub(crate) fn vote(&mut self, member: usize, term: u64, leader: usize) {
        let now = self.tick(member);
        if let Some(control) = &mut self.machines[member].control {
            control.term = term;
            control.last_heard = now;
            control.leader = Some(leader);
        }
        if member == leader {
            self.begin_leading(member, term);
        }
    }

    pub(crate) fn control_tick(&mut self, member: usize, life: u64) {
        if self.machines[member].control_life != life || self.machines[member].control.is_none() {
            return;
        }
        let now = self.tick(member);
        let Some(control) = &mut self.machines[member].control else { return };
        control.ticks += 1;
        let (ticks, leads) = (control.ticks, control.leading.is_some());
        if !leads && now.since(control.last_heard) >= control.patience {
            control.last_heard = now;
            let patience = Duration::from_millis(600 + self.random.below(600));
            if let Some(control) = &mut self.machines[member].control {
                control.patience = patience;
            }
            self.stand(member);
        }
        self.renew(member, now);
        if ticks.is_multiple_of(5) {
            self.introduce(member);
            self.tell_cover(member);
        }
        if leads {
            self.leader_tick(member, now, ticks);
        }
        self.after(20 * MS, Happening::ControlTick { member, life });
    }

    /// Asks for a lease every 150 ms.
    fn renew(&mut self, member: usize, now: Tick) {
        let Some(control) = &mut self.machines[member].control else { return };
        let Some(incarnation) = control.incarnation else { return };
        let renewal = lease_config().renewal;
        if control.last_renewal.is_some_and(|last| now.since(last) < renewal) {
            return;
        }
        control.last_renewal = Some(now);
        self.say_to_leader(member, ControlMessage::Renew { incarnation, sent: now });
    }

    /// Has the own life recorded, and the end of the one before.
    fn introduce(&mut self, member: usize) {
        let id = self.machines[member].id;
        let Some(control) = &mut self.machines[member].control else { return };
        let Some(recorded) = control.state.members.get(&id) else { return };
        let certified = |life: &IncarnationId| recorded.certified_dead.contains(life);
        if control.reaped.as_ref().is_some_and(certified) {
            control.reaped = None;
        }
        let reaped = control.reaped;
        let fresh = control.incarnation.filter(|life| recorded.incarnation != Some(*life));
        if let Some(incarnation) = reaped {
            self.say_to_leader(member, ControlMessage::Certify { incarnation });
        } else if let Some(incarnation) = fresh {
            self.say_to_leader(member, ControlMessage::StartLife { incarnation });
        }
    }

    pub(crate) fn say_to_leader(&mut self, member: usize, message: ControlMessage) {
        let leader = self.machines[member].control.as_ref().and_then(|control| control.leader);
        if let Some(leader) = leader {
            self.datagram_to(member, leader, message);
        }
    }

    pub(crate) fn tell_cover(&mut self, member: usize) {
        let now = self.tick(member);
        let Some(control) = &self.machines[member].control else { return };
        let Some(holder) = &control.holder else { return };
        let covered = holder.covered(now, &control.state);
        self.tell(member, ToData::Cover(covered));
    }

    pub(crate) fn datagram(&mut self, from: usize, to: usize, message: ControlMessage) {
        if self.machines[to].control.is_none() {
            return;
        }
        if !matches!(
            message,
            ControlMessage::Heartbeat { .. }
                | ControlMessage::HeartbeatAck { .. }
                | ControlMessage::Renew { .. }
                | ControlMessage::Granted { .. }
        ) {
            self.note(format_args!("m{from}>m{to} {}", message.name()));
        }
        match message {
            ControlMessage::Heartbeat { term, commit, sent, dead } => {
                self.heartbeat(from, to, (term, commit), sent, dead);
            }
            ControlMessage::Granted { grant, sent } => {
                let now = self.tick(to);
                if let Some(control) = &mut self.machines[to].control
                    && let Some(holder) = &mut control.holder
                {
                    holder.granted(now, sent, &grant);
                    self.tell_cover(to);
                }
            }
            ControlMessage::Seal { items } => self.seal_asked(from, to, items),
            ControlMessage::Mount { order, incarnation } => {
                self.mount_asked(to, order, incarnation);
            }
            ControlMessage::Dismount { database, epoch } => {
                self.tell(to, ToData::Dismount { database, epoch });
            }
            ControlMessage::RuleRefused { proposal } => {
                let Some(control) = &self.machines[to].control else { return };
                let database = control.state.databases.get(&proposal.database);
                let current = database.filter(|database| database.epoch == proposal.epoch);
                if let Some(recorded) = current.and_then(|database| database.rule.clone()) {
                    self.tell(to, ToData::RuleRefused { proposal, recorded });
                }
            }
            other => self.leader_hears(from, to, other),
        }
    }

    fn seal_asked(&mut self, from: usize, to: usize, items: Vec<keelson_cluster_core::SealItem>) {
        let ready = |control: &Control| {
            let known = |item: &keelson_cluster_core::SealItem| {
                control.told.contains_key(&database_index(item.database))
            };
            control.incarnation.is_some() && items.iter().all(known)
        };
        if self.machines[to].control.as_ref().is_some_and(ready) {
            self.tell(to, ToData::Seal { items });
        } else {
            self.datagram_to(to, from, ControlMessage::SealFailed);
        }
    }

    /// An order for an earlier life of the data process is not for this one (R5).
    fn mount_asked(&mut self, to: usize, order: Box<MountOrder>, incarnation: IncarnationId) {
        let control = self.machines[to].control.as_ref();
        if control.is_some_and(|control| control.incarnation == Some(incarnation)) {
            self.tell(to, ToData::Mount { order });
        }
    }

    fn heartbeat(
        &mut self,
        from: usize,
        to: usize,
        (term, commit): (u64, usize),
        sent: Tick,
        dead: BTreeSet<MemberId>,
    ) {
        let now = self.tick(to);
        let Some(control) = &mut self.machines[to].control else { return };
        if term < control.term {
            return;
        }
        let deposed = control.leading.is_some() && term > control.term;
        control.term = term;
        control.leader = Some(from);
        control.last_heard = now;
        control.dead = dead;
        if deposed {
            self.stop_leading(to);
        }
        self.apply_up_to(to, commit);
        self.tell_news(to);
        self.datagram_to(to, from, ControlMessage::HeartbeatAck { term, sent });
    }

    /// After entries were applied.
    pub(crate) fn applied(&mut self, member: usize, news: Vec<(Origin, Outcome)>) {
        for (origin, outcome) in news {
            self.outcome(member, origin, outcome);
        }
        self.leader_applied(member);
        self.tell_news(member);
        self.tell_cover(member);
    }

    /// Tells the data process what changed in the applied state.
    pub(crate) fn tell_news(&mut self, member: usize) {
        let id = self.machines[member].id;
        let databases = self.params.databases;
        let Some(control) = &mut self.machines[member].control else { return };
        if control.incarnation.is_none() {
            return;
        }
        let mut news = Vec::new();
        for index in 0..databases {
            let Some(fresh) = assignment_of(&control.state, index, id) else { continue };
            if control.told.get(&index) != Some(&fresh) {
                control.told.insert(index, fresh.clone());
                let (copy, assignment, established, lag, truncation) = fresh;
                let assignment = Box::new(assignment);
                news.push(ToData::Assigned {
                    database: index,
                    copy,
                    assignment,
                    established,
                    lag,
                    truncation,
                });
            }
        }
        if control.told_dead != control.dead {
            control.told_dead.clone_from(&control.dead);
            news.push(ToData::Dead(control.dead.clone()));
        }
        news.into_iter().for_each(|message| self.tell(member, message));
    }

    pub(crate) fn own_dead(&mut self, member: usize, dead: BTreeSet<MemberId>) {
        if let Some(control) = &mut self.machines[member].control {
            control.dead = dead;
        }
        self.tell_news(member);
    }
}

/// A copy, its assignment, whether that epoch is recorded as established, the copy's lag, and what
/// truncation needs.
type Assigned = (CopyId, Assignment, bool, LagSettings, TruncationFacts);

fn truncation_facts(database: &keelson_cluster_core::Database, copy: CopyId) -> TruncationFacts {
    let others = database.copies.iter().filter(|(id, _)| **id != copy);
    let facts = |(id, config): (&CopyId, &keelson_cluster_core::CopyConfig)| OtherFacts {
        copy: *id,
        member: config.member,
        lagged: config.lag.is_lagged(),
        leaving: config.leaving,
        cut_off: config.cut_off,
        suspended_since_unix_ms: config.suspension.replication.map(|stop| stop.since_unix_ms),
    };
    TruncationFacts { others: others.map(facts).collect(), holds: database.holds.clone() }
}

/// What was given up on an operator's word.
fn discards_of(database: &keelson_cluster_core::Database) -> Vec<Discard> {
    let receipts = database.receipts.iter();
    receipts.map(keelson_cluster_core::LossReceipt::discard).collect()
}

/// What is recorded of the ceiling of the newest epoch, for its active.
fn ceiling_of(database: &keelson_cluster_core::Database, copy: CopyId) -> RecordedCeiling {
    let active = database.target == Some(copy);
    let record = database.newest_ceiling().filter(|_| active);
    let told = |r: &keelson_cluster_core::RuleRecord| RecordedCeiling {
        number: r.ceiling_number,
        ceiling: r.ceiling,
    };
    record.map(told).unwrap_or_default()
}

/// What the state says of a database to its copy on a member.
fn assignment_of(state: &ClusterState, index: usize, member: MemberId) -> Option<Assigned> {
    let database = state.databases.get(&database_id(index))?;
    let copy = database.copy_on(member)?;
    let peers = database.copies.iter().filter_map(|(id, config)| {
        Some(PeerCopy {
            copy: *id,
            member: config.member,
            site: state.members.get(&config.member)?.config.site.clone(),
            may_count: config.may_count(),
            suspended: config.is_stopped(),
        })
    });
    let open = database.intent == MountIntent::Mounted;
    let assignment = Assignment {
        epoch: database.epoch,
        active: database.target.filter(|_| open),
        rule: database.rule.clone(),
        constraint: database.wanted_constraint(),
        copies: peers.collect(),
        degrade_after: database.settings.degrade_after_ms.map(Duration::from_millis),
        dismount_after: Duration::from_millis(database.settings.dismount_after_ms),
        suspension: database.copies.get(&copy)?.suspension.clone(),
        discards: discards_of(database),
        bounded: state.is_bounded(database, copy),
        ceiling: ceiling_of(database, copy),
    };
    let lag = database.copies.get(&copy)?.lag;
    let established = database.state == DatabaseState::Established;
    Some((copy, assignment, established, lag, truncation_facts(database, copy)))
}

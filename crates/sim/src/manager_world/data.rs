//! Data processes: seals, mounts, what an active does to serve, commit and keep its rule.

use std::collections::{BTreeMap, BTreeSet};

use keelson_cluster_core::{
    ClusterState, CopyConfig, Database, LeaseHolder, MountFailure, MountOrder, SealAnswer,
    SealItem, SealRefusal, SealReply,
};
use keelson_types::{
    CommitRule, CopyFault, CopyId, DatabaseId, Epoch, FailureTag, IncarnationId, MemberId,
    MountIntent,
};

use super::control::lease_config;
use super::copies::CopyFile;
use super::leader::Message;
use super::ship::KeptCeiling;
use super::{Happening, ManagerWorld, member_id, member_index};
use crate::params::MS;

/// A data process that does not answer for so long is told of, a while before an active degrades.
const UNREACHED_AFTER: u64 = 600 * MS;
/// The disk is taken for hung after this.
const HUNG_AFTER: u64 = 1_000 * MS;

pub(super) struct Data {
    pub(super) incarnation: IncarnationId,
    pub(super) actives: BTreeMap<DatabaseId, Active>,
    /// Epochs in which copies are being mounted.
    mounting: BTreeMap<DatabaseId, Epoch>,
    /// Since when the state names a copy here as active that is not.
    missing: BTreeMap<DatabaseId, u64>,
}

/// The active copy of a database in one epoch.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) epoch: Epoch,
    pub(super) copy: CopyId,
    /// Bytes of the epoch that each other copy holds, and when it said so last.
    pub(super) acked: BTreeMap<CopyId, (u64, u64)>,
    /// Bytes of the epoch that are committed.
    pub(super) committed: u64,
    pub(super) recorded: CommitRule,
    /// What was asked for since: each of them may be recorded.
    pub(super) pending: Vec<CommitRule>,
    pub(super) ceiling: KeptCeiling,
}

impl ManagerWorld {
    pub(super) fn start_data(&mut self, member: usize) {
        let incarnation = IncarnationId::from_u128(0x9000 + u128::from(self.fresh()));
        let weakness = self.params.weakness;
        let machine = &mut self.machines[member];
        let id = machine.id;
        let Some(control) = &mut machine.control else { return };
        if machine.data.is_some() {
            return;
        }
        control.incarnation = Some(incarnation);
        control.holder = Some(LeaseHolder::new(lease_config(), id, incarnation, weakness));
        let (actives, mounting, missing) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        machine.data = Some(Data { incarnation, actives, mounting, missing });
        machine.hung = None;
        self.note(format_args!("m{member}: data process {incarnation} starts"));
    }

    /// The data process ends; its parent, if it lives on, sees it.
    pub(super) fn end_data(&mut self, member: usize) {
        let now = self.now;
        let machine = &mut self.machines[member];
        let Some(data) = machine.data.take() else { return };
        machine.parked.clear();
        machine.hung = None;
        if let Some(control) = &mut machine.control {
            control.incarnation = None;
            control.holder = None;
            control.reaped.insert(data.incarnation, now);
        }
        self.note(format_args!("m{member}: data process {} ends", data.incarnation));
    }

    pub(super) fn file(&mut self, member: usize, id: DatabaseId) -> Option<&mut CopyFile> {
        let machine = &mut self.machines[member];
        let copy = machine.control.as_ref()?.state.databases.get(&id)?.copy_on(machine.id)?;
        Some(machine.copies.entry(id).or_insert_with(|| CopyFile::new(copy)))
    }

    pub(super) fn config(&self, member: usize, id: DatabaseId) -> Option<&CopyConfig> {
        let machine = &self.machines[member];
        let database = machine.control.as_ref()?.state.databases.get(&id)?;
        database.copies.get(&database.copy_on(machine.id)?)
    }

    /// What is known here of a database.
    pub(super) fn known(
        &self,
        member: usize,
        id: DatabaseId,
    ) -> Option<(&ClusterState, &Database)> {
        let state = &self.machines[member].control.as_ref()?.state;
        Some((state, state.databases.get(&id)?))
    }

    /// Stops being the active of epochs that are over.
    pub(super) fn step_down(&mut self, member: usize, id: DatabaseId, below: Epoch) {
        if let Some(data) = &mut self.machines[member].data
            && data.actives.get(&id).is_some_and(|active| active.epoch < below)
        {
            data.actives.remove(&id);
        }
    }

    pub(super) fn seal_asked(&mut self, from: usize, to: usize, items: &[SealItem]) {
        let known = |item: &SealItem| self.known(to, item.database).is_some();
        let ready = self.machines[to].data.is_some() && items.iter().all(known);
        if !ready {
            return self.datagram_to(to, from, Message::SealFailed);
        }
        if self.machines[to].hung.is_some() {
            // The promise cannot be made durable, nor said.
            return;
        }
        let answers: Vec<_> = items.iter().filter_map(|item| self.sealed(to, *item)).collect();
        self.datagram_to(to, from, Message::SealReplies { answers });
    }

    fn sealed(&mut self, member: usize, item: SealItem) -> Option<SealAnswer> {
        let SealItem { database, epoch } = item;
        let ha = self.config(member, database).is_some_and(|c| !c.lag.is_lagged());
        let file = self.file(member, database)?;
        if file.sealed > epoch {
            let result = Err(SealRefusal::HigherEpoch(file.sealed));
            return Some(SealAnswer { database, epoch, result });
        }
        file.sealed = epoch;
        let reply = SealReply {
            copy: file.copy,
            member: member_id(member),
            sealed: epoch,
            end: file.log.end(),
            committed: file.committed,
            replayed: file.committed,
            fault: file.failure.map(fault),
            may_have_lost: false,
            ha,
            health: file.health,
        };
        self.step_down(member, database, epoch);
        Some(SealAnswer { database, epoch, result: Ok(reply) })
    }

    /// An order for an earlier life of the data process is not for this one (R5).
    pub(super) fn mount_asked(
        &mut self,
        to: usize,
        order: &MountOrder,
        incarnation: IncarnationId,
    ) {
        let id = order.database;
        let life = self.machines[to].data.as_ref().map(|data| data.incarnation);
        let resumes = self.params.weakness == keelson_types::Weakness::ResumeAfterRestart;
        if life.is_none() || (life != Some(incarnation) && !resumes) {
            return;
        }
        let Some(file) = self.file(to, id) else { return };
        let refused = if file.copy != order.target {
            Some(MountFailure::UnknownCopy)
        } else if file.sealed > order.epoch {
            Some(MountFailure::StaleEpoch(file.sealed))
        } else {
            file.failure.map(|tag| MountFailure::Fault(fault(tag)))
        };
        let opened = file.log.of(order.epoch) > 0;
        file.sealed = file.sealed.max(order.epoch);
        let Some(data) = &mut self.machines[to].data else { return };
        let active = data.actives.get(&id).is_some_and(|active| active.epoch == order.epoch);
        let busy = data.mounting.get(&id) == Some(&order.epoch);
        match refused {
            Some(failure) => self.mounted(to, order, Err(failure)),
            None if active => self.mounted(to, order, Ok(())),
            None if busy => {}
            // An earlier life wrote in this epoch.
            None if opened => {
                let failure = MountFailure::StaleEpoch(order.epoch);
                self.mounted(to, order, Err(failure));
            }
            None => {
                data.mounting.insert(id, order.epoch);
                let slow = self.random.chance(1, 25);
                let delay = if slow { self.between(500, 6_000) } else { self.between(5, 150) };
                let order = Box::new(order.clone());
                let life = life.expect("checked above");
                self.after(delay * MS, Happening::Fetched { member: to, life, order });
            }
        }
    }

    fn mounted(&mut self, member: usize, order: &MountOrder, result: Result<(), MountFailure>) {
        let (database, epoch) = (order.database, order.epoch);
        self.say_to_leader(member, Message::MountResult { database, epoch, result });
    }

    /// The target has had time to fetch what it lacks.
    pub(super) fn fetched(&mut self, member: usize, life: IncarnationId, order: MountOrder) {
        let id = order.database;
        let now = self.now;
        let Some(data) = &mut self.machines[member].data else { return };
        if data.incarnation != life || data.mounting.remove(&id) != Some(order.epoch) {
            return;
        }
        let usable = |world: &Self, other: usize| {
            let machine = &world.machines[other];
            let up = machine.data.is_some() && machine.hung.is_none() && machine.paused.is_none();
            up && world.both_ways(member, other) && world.by_data(member, other)
        };
        let others = order.sources.iter().map(|source| member_index(source.member));
        let others: Vec<_> = others.filter(|other| usable(self, *other)).collect();
        let own =
            self.machines[member].copies.get(&id).and_then(|f| f.log.cut_at(order.required_end));
        let fetched = others.iter().find_map(|other| {
            self.machines[*other].copies.get(&id)?.log.cut_at(order.required_end)
        });
        let failed = self.random.chance(1, 40);
        let Some(file) = self.machines[member].copies.get_mut(&id) else { return };
        if file.sealed > order.epoch {
            let failure = MountFailure::StaleEpoch(file.sealed);
            return self.mounted(member, &order, Err(failure));
        }
        let Some(mut log) = own.or(fetched).filter(|_| !failed) else {
            self.fire("mount failed");
            return self.mounted(member, &order, Err(MountFailure::LogNotFetched));
        };
        log.open(order.epoch);
        file.log = log;
        let copy = order.target;
        let active = Active {
            epoch: order.epoch,
            copy,
            acked: BTreeMap::new(),
            committed: 0,
            recorded: order.rule.clone(),
            pending: Vec::new(),
            ceiling: KeptCeiling::recorded(0, order.ceiling),
        };
        if let Some(data) = &mut self.machines[member].data {
            data.actives.insert(id, active);
        }
        self.truth.opened(id, order.epoch, copy, now);
        self.mounted(member, &order, Ok(()));
        self.ship(member, id);
        self.commit(member, id);
    }

    pub(super) fn dismount_asked(&mut self, to: usize, database: DatabaseId, epoch: Epoch) {
        let Some(data) = &mut self.machines[to].data else { return };
        if data.actives.get(&database).is_some_and(|active| active.epoch <= epoch) {
            data.actives.remove(&database);
        }
        self.say_to_leader(to, Message::Dismounted { database, epoch });
    }

    /// The applied state moved on: what is over is given up at once.
    pub(super) fn data_sees_state(&mut self, member: usize) {
        let Some(data) = &self.machines[member].data else { return };
        let over = data.actives.iter().filter_map(|(id, active)| {
            let (_, database) = self.known(member, *id)?;
            (database.epoch > active.epoch).then_some((*id, database.epoch))
        });
        let over: Vec<_> = over.collect();
        over.into_iter().for_each(|(id, epoch)| self.step_down(member, id, epoch));
    }

    /// Every 100 ms: rules, ceilings, reports, seeds.
    pub(super) fn data_tick(&mut self, member: usize) {
        if self.machines[member].hung.is_some() {
            return;
        }
        let Some(data) = &self.machines[member].data else { return };
        let actives: Vec<_> = data.actives.keys().copied().collect();
        for id in actives {
            self.keep(member, id);
        }
        self.report_missing(member);
        self.seed_if_asked(member);
        self.failures(member);
    }

    /// An active that is none any more asks for the next epoch by itself.
    fn report_missing(&mut self, member: usize) {
        let (now, me) = (self.now, self.machines[member].id);
        let machine = &mut self.machines[member];
        let (Some(control), Some(data)) = (&machine.control, &mut machine.data) else { return };
        let mut given_up = Vec::new();
        let mine = control.state.assignments(me).filter(|a| a.incarnation == data.incarnation);
        // One that is being opened has what it opened in its log; else the order is on its way.
        let opened = |a: &keelson_cluster_core::Assignment| {
            let file = machine.copies.get(&a.database);
            file.is_some_and(|file| file.log.of(a.epoch) > 0)
        };
        let mine: Vec<_> =
            mine.filter(opened).filter(|a| !data.actives.contains_key(&a.database)).collect();
        data.missing.retain(|id, _| mine.iter().any(|a| a.database == *id));
        for assignment in mine {
            let since = *data.missing.entry(assignment.database).or_insert(now);
            if now - since > 300 * MS {
                given_up.push((assignment.database, assignment.epoch));
            }
        }
        for (database, epoch) in given_up {
            self.fire("an active gave up");
            self.say_to_leader(member, Message::GaveUp { database, epoch });
        }
    }

    /// Active databases whose log waits for a disk that does not answer.
    pub(super) fn wedged(&self, member: usize) -> Vec<(DatabaseId, Epoch)> {
        let machine = &self.machines[member];
        let hung = machine.hung.is_some_and(|since| self.now - since > HUNG_AFTER);
        let Some(data) = machine.data.as_ref().filter(|_| hung) else { return Vec::new() };
        data.actives.iter().map(|(id, active)| (*id, active.epoch)).collect()
    }

    /// Members whose data process does not answer this one.
    pub(super) fn unreached(&self, member: usize) -> BTreeSet<MemberId> {
        let since = |member: usize| self.data_cut.get(&member).copied();
        let cut = |other: usize| {
            let since = since(member).into_iter().chain(since(other)).max();
            let long = since.is_some_and(|since| self.now - since > UNREACHED_AFTER);
            let silent = self.machines[other].data.is_none() || !self.both_ways(member, other);
            other != member && (long || silent)
        };
        (0..self.params.members).filter(|other| cut(*other)).map(member_id).collect()
    }

    /// Whether the lease covers the active of an epoch now.
    pub(super) fn covered(&self, member: usize, id: DatabaseId, epoch: Epoch) -> bool {
        let machine = &self.machines[member];
        let Some(control) = &machine.control else { return false };
        let Some(holder) = control.holder.as_ref().filter(|_| machine.paused.is_none()) else {
            return false;
        };
        let open = |d: &Database| d.intent == MountIntent::Mounted;
        control.state.databases.get(&id).is_some_and(open)
            && holder
                .covered_until(&control.state, id, epoch)
                .is_some_and(|until| until > self.tick(member))
    }
}

pub(super) fn fault(tag: FailureTag) -> CopyFault {
    match tag {
        FailureTag::LogIo => CopyFault::LogIo("simulated".into()),
        FailureTag::StoreDamaged => CopyFault::StoreDamaged("simulated".into()),
        FailureTag::NoSpace => CopyFault::DiskFull,
        _ => CopyFault::Store("simulated".into()),
    }
}

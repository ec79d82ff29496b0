//! What follows from the applied state and the reports: begins activations and drives them on.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_types::{
    DatabaseId, DatabaseState, Epoch, MemberId, MountIntent, Setting, Tick, Weakness,
};

use super::batch::{Batch, Owner};
use super::handed_over::HandedOver;
use super::patience::{process_expected, waits_for_incumbent};
use super::{DismountProgress, Dismounting, Manager};
use crate::activation::{Activation, Contacts, Evaluation, Phase, Sealing, Situation, evaluate};
use crate::command::{AllocateItem, Command};
use crate::decision::ActivationReason;
use crate::event::EventKind;
use crate::order::SealItem;
use crate::state::{ClusterState, Database};

/// Waiting points that one database may pass in one step.
const TRANSITIONS_MAX: usize = 8;

impl Batch {
    pub(super) fn allocate(&mut self, database: &Database, reason: ActivationReason) {
        let (id, expected) = (database.id, database.epoch);
        self.allocate.push(AllocateItem { database: id, expected, reason });
    }

    pub(super) fn seal(&mut self, member: MemberId, database: DatabaseId, epoch: Epoch) {
        self.seals.entry(member).or_default().push(SealItem { database, epoch });
    }
}

/// The circumstances of one step.
pub(super) struct Round<'a> {
    pub(super) now: Tick,
    pub(super) state: &'a ClusterState,
    pub(super) contacts: Arc<Contacts>,
    /// Databases of which each member is the active, or is about to be.
    actives: BTreeMap<MemberId, u32>,
}

/// Whether places are given in this look: first everything is looked at that changed, so that all
/// places which become free are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Closed,
}

/// What becomes of an activation after one look.
enum Flow {
    /// It reached another waiting point; look again.
    Again,
    /// It waits.
    Stay,
    /// It waits for a place at this member.
    Full(MemberId),
    /// It is over, or somebody else has gone on.
    Over,
}

impl Manager {
    pub(super) fn plan(&mut self, now: Tick, state: &ClusterState, batch: &mut Batch) {
        self.leave_cold(now, state);
        self.permit_mounts(state, batch);
        self.certified.retain(|(id, life)| {
            state.members.get(id).is_some_and(|member| !member.certified_dead.contains(life))
        });
        let actives = self.actives(state);
        let contacts = self.gather(now, state, &actives);
        let mut round = Round { now, state, contacts, actives };
        // One that is looked at may add others behind it.
        while let Some(id) = self.work.databases.pop_first() {
            self.look_at(&mut round, id, Door::Closed, batch);
        }
        self.let_in(&mut round, batch);
        self.note_limits(state, &round.actives);
    }

    /// Gives places to those that wait for one, in the order of their ids. Who found a member full
    /// is asked again when a place there became free.
    fn let_in(&mut self, round: &mut Round<'_>, batch: &mut Batch) {
        let mut freed = self.jobs.take_freed();
        let mut last = None;
        loop {
            let room = |member: &&MemberId| {
                self.jobs.load(**member) < self.config.activations_per_member_max
            };
            let blocked = freed.iter().filter(room);
            let blocked = blocked.filter_map(|member| self.jobs.next_blocked(*member, last));
            let Some(next) = blocked.chain(self.jobs.next_fresh(last)).min() else { return };
            self.look_at(round, next, Door::Open, batch);
            freed.extend(self.jobs.freed());
            last = Some(next);
        }
    }

    fn look_at(&mut self, round: &mut Round<'_>, id: DatabaseId, door: Door, batch: &mut Batch) {
        match round.state.databases.get(&id) {
            Some(database) => self.consider(round, database, door, batch),
            None => {
                self.jobs.end(id);
                self.dismounts.remove(&id);
            }
        }
    }

    fn consider(
        &mut self,
        round: &mut Round<'_>,
        database: &Database,
        door: Door,
        batch: &mut Batch,
    ) {
        let id = database.id;
        if database.intent == MountIntent::Dismounted {
            self.jobs.end(id);
            return self.dismount(round, database, batch);
        }
        self.dismounts.remove(&id);
        if self.mounts_are_held(round.state) {
            return;
        }
        for _ in 0..TRANSITIONS_MAX {
            let job = self.jobs.take(&id).or_else(|| self.begin(round, database, batch));
            let Some(mut job) = job else { return };
            match self.drive(round, database, &mut job, (door, batch)) {
                Flow::Over => self.jobs.end(id),
                Flow::Again => self.jobs.put(round.now, id, job),
                Flow::Stay => return self.jobs.put(round.now, id, job),
                Flow::Full(member) => {
                    self.jobs.put(round.now, id, job);
                    return self.jobs.block(id, member);
                }
            }
        }
        self.work.databases.insert(id);
    }

    /// Closes the active copy of a database that is wanted closed.
    fn dismount(&mut self, round: &Round<'_>, database: &Database, batch: &mut Batch) {
        let (Some(_), Some(member)) = (database.target, database.target_member()) else { return };
        let epoch = database.epoch;
        let fresh = Dismounting { epoch, progress: DismountProgress::Wanted };
        let dismount = self.dismounts.entry(database.id).or_insert(fresh);
        if dismount.epoch != epoch {
            *dismount = fresh;
        }
        let reachable = round.contacts.alive.contains(&member);
        if reachable && dismount.progress == DismountProgress::Wanted {
            dismount.progress = DismountProgress::Ordered;
            batch.dismounts.push((member, database.id, epoch));
        }
    }

    /// Begins an activation if the database needs one.
    fn begin(
        &self,
        round: &Round<'_>,
        database: &Database,
        batch: &mut Batch,
    ) -> Option<Activation> {
        let now = round.now;
        let reason = || database.newest_reason().cloned().unwrap_or(ActivationReason::NewDatabase);
        let allocating = Phase::Allocating { expected: database.epoch };
        match database.state {
            DatabaseState::New => {
                batch.allocate(database, ActivationReason::NewDatabase);
                Some(Activation::new(now, ActivationReason::NewDatabase, allocating))
            }
            DatabaseState::Sealing => {
                let queued = Phase::Queued { epoch: database.epoch };
                let ready = !self.is_cold() || actives_alive(round, database);
                let taken_over = HandedOver::of(database);
                ready.then(|| taken_over.take_over(Activation::new(now, reason(), queued)))
            }
            DatabaseState::Activating | DatabaseState::Established => {
                let unfinished = database.state == DatabaseState::Activating;
                let taken_over = match unfinished {
                    true => HandedOver::of(database),
                    false => HandedOver::default(),
                };
                if let Some(reason) = self.trigger(round, database) {
                    batch.allocate(database, reason.clone());
                    let job = Activation::new(now, reason, allocating);
                    let failed = database.target.filter(|_| unfinished);
                    let after = failed.map(|target| taken_over.after_failure_of(target));
                    return Some(after.unwrap_or_default().take_over(job));
                }
                // A predecessor bound the target: its order is repeated to the life that was bound.
                let (target, member) = (database.target?, database.target_member()?);
                let here = unfinished && round.contacts.alive.contains(&member);
                let binding = Phase::Binding { epoch: database.epoch, target };
                let at = Some(member);
                let job = Activation { at, ..Activation::new(now, reason(), binding) };
                here.then(|| taken_over.take_over(job))
            }
        }
    }

    /// What the state assigns, and what was bound and is not recorded yet.
    pub(super) fn actives(&self, state: &ClusterState) -> BTreeMap<MemberId, u32> {
        let mut actives = state.active_counts();
        for (id, job) in self.jobs.binding() {
            let Phase::Binding { target, .. } = job.phase else { continue };
            let database = state.databases.get(&id).filter(|database| database.target.is_none());
            let member = database.and_then(|d| d.copies.get(&target)).map(|copy| copy.member);
            member.into_iter().for_each(|member| *actives.entry(member).or_default() += 1);
        }
        actives
    }

    /// Why the bound target of the newest epoch cannot go on, if so.
    fn trigger(&self, round: &Round<'_>, database: &Database) -> Option<ActivationReason> {
        let life = database.binding.as_ref()?.incarnation;
        let id = database.target_member()?;
        let Some(member) = round.state.members.get(&id) else {
            return Some(ActivationReason::Released);
        };
        let certified = self.certified.contains(&(id, life));
        if certified || member.certified_dead.contains(&life) {
            return Some(ActivationReason::DeathCertified);
        }
        if member.holds_no_lease() {
            return Some(ActivationReason::Released);
        }
        // H8: a restarted active goes on in its epoch (S10).
        if member.incarnation != Some(life) && self.weakness != Weakness::ResumeAfterRestart {
            return Some(ActivationReason::Restarted);
        }
        let expired = round.contacts.over.contains(&id) && !self.is_cold();
        expired.then_some(ActivationReason::LeaseExpired)
    }

    /// One look at an activation.
    fn drive(
        &mut self,
        round: &mut Round<'_>,
        database: &Database,
        job: &mut Activation,
        (door, batch): (Door, &mut Batch),
    ) -> Flow {
        let now = round.now;
        match job.phase {
            Phase::Allocating { expected } => self.drive_allocating(now, database, job, expected),
            Phase::Queued { epoch } => {
                self.drive_queued(round, database, (job, epoch), (door, batch))
            }
            Phase::Sealing(_) => self.drive_sealing(round, database, job, batch),
            Phase::Binding { epoch, target } if database.epoch == epoch => {
                if database.target == Some(target) {
                    return self.mount(round, database, job, batch);
                }
                if !self.outcome_known(job) {
                    return Flow::Stay;
                }
                self.attempt_failed(now, job, epoch, target);
                Flow::Again
            }
            Phase::Mounting { epoch, target, .. } | Phase::Opening { epoch, target, .. }
                if database.epoch == epoch =>
            {
                if database.state == DatabaseState::Established {
                    return Flow::Over;
                }
                if let Some(reason) = self.trigger(round, database) {
                    job.try_another(target);
                    allocate_again(now, database, job, reason, batch);
                    return Flow::Stay;
                }
                let deadline = match job.phase {
                    Phase::Mounting { deadline, .. } => Some(deadline),
                    Phase::Opening { deadline, .. } => deadline,
                    _ => None,
                };
                if deadline.is_some_and(|deadline| now >= deadline) {
                    self.attempt_failed(now, job, epoch, target);
                    return Flow::Again;
                }
                Flow::Stay
            }
            Phase::Mounting { target, .. } | Phase::Opening { target, .. }
                if database.target.is_none() =>
            {
                // The target gave its epoch up by itself, which allocates the next one (S8).
                job.try_another(target);
                let reason = database.newest_reason().cloned();
                job.reason = reason.unwrap_or(ActivationReason::Wedged);
                job.enter(now, Phase::Queued { epoch: database.epoch });
                Flow::Again
            }
            Phase::Binding { .. } | Phase::Mounting { .. } | Phase::Opening { .. } => Flow::Over,
            Phase::BackingOff { until } if now >= until => {
                if database.state == DatabaseState::Sealing {
                    job.enter(now, Phase::Queued { epoch: database.epoch });
                    return Flow::Again;
                }
                let reason = job.reason.clone();
                allocate_again(now, database, job, reason, batch);
                Flow::Stay
            }
            Phase::Waiting { epoch, until } if now >= until || !self.is_open(database, epoch) => {
                job.enter(now, Phase::Queued { epoch });
                Flow::Again
            }
            Phase::BackingOff { .. } | Phase::Waiting { .. } => Flow::Stay,
        }
    }

    /// Whether the attempt of this epoch has no target yet.
    fn is_open(&self, database: &Database, epoch: Epoch) -> bool {
        // H7: a bound epoch is used again for the next target (S11).
        let shared = self.weakness == Weakness::AttemptsShareEpoch;
        database.epoch == epoch && (database.target.is_none() || shared)
    }

    fn outcome_known(&self, job: &Activation) -> bool {
        job.tag.is_some_and(|tag| !self.pending.contains_key(&tag))
    }

    fn drive_allocating(
        &self,
        now: Tick,
        database: &Database,
        job: &mut Activation,
        expected: Epoch,
    ) -> Flow {
        if database.epoch != expected {
            if database.target.is_some() {
                return Flow::Over;
            }
            job.enter(now, Phase::Queued { epoch: database.epoch });
            return Flow::Again;
        }
        if self.outcome_known(job) {
            let until = now.after(self.backoff(job.attempt));
            job.enter(now, Phase::BackingOff { until });
        }
        Flow::Stay
    }

    fn drive_queued(
        &self,
        round: &Round<'_>,
        database: &Database,
        (job, epoch): (&mut Activation, Epoch),
        (door, batch): (Door, &mut Batch),
    ) -> Flow {
        if !self.is_open(database, epoch) {
            return Flow::Over;
        }
        job.fence_clock(round.now, epoch, &self.config);
        if waits_for_incumbent(round, database, job, epoch, batch) || door == Door::Closed {
            return Flow::Stay;
        }
        let members = || database.copies.values().map(|copy| copy.member);
        let most = self.config.activations_per_member_max;
        if let Some(full) = members().find(|member| self.jobs.load(*member) >= most) {
            return Flow::Full(full);
        }
        // A member without a recorded life has nobody who could answer.
        let lives = |id: &MemberId| {
            round.state.members.get(id).is_some_and(|member| member.incarnation.is_some())
        };
        let asked = members().filter(lives).collect();
        let sealing = Sealing {
            epoch,
            deadline: round.now.after(self.config.seal_deadline),
            asked,
            replies: BTreeMap::new(),
            silent: members().filter(|id| !lives(id)).collect(),
        };
        sealing.asked.iter().for_each(|member| batch.seal(*member, database.id, epoch));
        job.enter(round.now, Phase::Sealing(sealing));
        Flow::Again
    }

    fn drive_sealing(
        &mut self,
        round: &mut Round<'_>,
        database: &Database,
        job: &mut Activation,
        batch: &mut Batch,
    ) -> Flow {
        let Phase::Sealing(sealing) = &job.phase else { return Flow::Stay };
        let epoch = sealing.epoch;
        if !self.is_open(database, epoch) {
            return Flow::Over;
        }
        let data_cut = self.left_by_data(round, database);
        let situation = Situation {
            now: round.now,
            state: round.state,
            database,
            contacts: &round.contacts,
            actives: &round.actives,
            config: &self.config,
            accepted: self.accepted_loss(database.id),
            instant: self.instant_wanted(database.id),
            dial: job.requested.and_then(|_| self.dial_of_move(database.id)),
            process_expected: process_expected(round, database, job),
            data_cut: &data_cut,
            weakness: self.weakness,
        };
        match evaluate(&situation, job, sealing) {
            Evaluation::Pending => Flow::Stay,
            Evaluation::Bind(item) => {
                let target = item.target;
                let member = database.copies.get(&target).map(|copy| copy.member);
                if let Some(member) = member {
                    *round.actives.entry(member).or_default() += 1;
                    self.has_less_room(round, member, database.id);
                }
                job.at = member;
                batch.activate.push(*item);
                job.enter(round.now, Phase::Binding { epoch, target });
                Flow::Stay
            }
            Evaluation::Unfit(operation, refusal) => {
                self.end_operation(operation);
                batch.finished.push((operation, Err(refusal)));
                Flow::Again
            }
            Evaluation::Stuck(..) if job.requested.take().is_some() => Flow::Again,
            Evaluation::Stuck(record, picture) => {
                if job.stuck.as_ref() != Some(&picture) {
                    job.stuck = Some(picture);
                    let waiting = Command::AppendEvent {
                        member: None,
                        database: Some(database.id),
                        kind: EventKind::ActivationWaiting(epoch),
                    };
                    batch.single.push((Owner::Nobody, Command::RecordDecision(record)));
                    batch.single.push((Owner::Nobody, waiting));
                }
                job.rounds += 1;
                let until = round.now.after(self.backoff(job.rounds));
                job.enter(round.now, Phase::Waiting { epoch, until });
                Flow::Stay
            }
        }
    }

    /// A member with a maximum got one database more: seals that are waited for behind this one
    /// are judged again.
    fn has_less_room(&mut self, round: &Round<'_>, member: MemberId, bound: DatabaseId) {
        let limits = round.state.members.get(&member).map(|member| member.activation.max_active);
        if limits.flatten().is_some() {
            self.work.databases.extend(self.jobs.on(member).filter(|id| *id > bound));
        }
    }

    fn mount(
        &self,
        round: &Round<'_>,
        database: &Database,
        job: &mut Activation,
        batch: &mut Batch,
    ) -> Flow {
        let order = round.state.mount_order(database.id);
        let (Some(order), Some(member)) = (order, database.target_member()) else {
            return Flow::Over;
        };
        let (epoch, target) = (order.epoch, order.target);
        batch.mounts.push((member, order));
        let (most, budget) = (self.config.mount_deadline, Setting::SwitchoverBudget);
        let patience = match job.undo_to {
            Some(_) => most.min(round.state.settings.span(budget)),
            None => most,
        };
        let deadline = round.now.after(patience);
        job.enter(round.now, Phase::Mounting { epoch, target, deadline });
        // Whoever was lost between its seal and its record is not waited for.
        Flow::Again
    }

    /// The active gave up or is stuck on a member that lives: the next epoch takes the pair away
    /// (S8).
    pub(super) fn wedged(
        &mut self,
        now: Tick,
        state: &ClusterState,
        id: DatabaseId,
        epoch: Epoch,
        batch: &mut Batch,
    ) {
        let database = state.databases.get(&id).filter(|database| database.epoch == epoch);
        let Some((database, target)) = database.and_then(|d| Some((d, d.target?))) else { return };
        if database.intent == MountIntent::Dismounted {
            return;
        }
        if !self.another_could_serve(state, database, target) {
            // Who makes no progress still answers reads, and may go on.
            return;
        }
        let allocating = Phase::Allocating { expected: epoch };
        let fresh = Activation::new(now, ActivationReason::Wedged, allocating);
        self.work.databases.insert(id);
        let mut job = match self.jobs.take(&id) {
            None => fresh,
            Some(mut job) => {
                if matches!(job.phase, Phase::Mounting { .. } | Phase::Opening { .. }) {
                    self.attempt_failed(now, &mut job, epoch, target);
                }
                return self.jobs.put(now, id, job);
            }
        };
        job.avoid.insert(target);
        batch.allocate(database, ActivationReason::Wedged);
        self.jobs.put(now, id, job);
    }
}

impl Manager {
    /// Whether a copy beside `target` is on a member with contact and nothing stops it.
    fn another_could_serve(
        &self,
        state: &ClusterState,
        database: &Database,
        target: keelson_types::CopyId,
    ) -> bool {
        let alive = self.contacts(state).alive;
        // One that the rule does not count need not hold what was acknowledged.
        let counts = |id| database.rule.as_ref().is_none_or(|rule| rule.has(id));
        let mut others = database.copies.iter().filter(|(id, _)| **id != target);
        others.any(|(id, copy)| counts(*id) && copy.may_count() && alive.contains(&copy.member))
    }
}

fn allocate_again(
    now: Tick,
    database: &Database,
    job: &mut Activation,
    reason: ActivationReason,
    batch: &mut Batch,
) {
    job.reason = reason.clone();
    batch.allocate(database, reason);
    job.enter(now, Phase::Allocating { expected: database.epoch });
}

/// Whether every copy bound since the last established epoch is on a member with contact.
fn actives_alive(round: &Round<'_>, database: &Database) -> bool {
    database.unestablished.iter().all(|record| {
        let mut participants = record.rule.participants.iter();
        let active = participants.find(|p| p.copy == record.rule.active);
        active.is_none_or(|active| round.contacts.alive.contains(&active.member))
    })
}

//! How the manager takes what it is told about members, copies and proposals.

use keelson_types::{CopyId, DatabaseId, Epoch, IncarnationId, MemberId, Tick, Weakness};

use super::batch::{Batch, Owner};
use super::operations::{PendingOperation, Proposal};
use super::{Contact, DismountProgress, Manager, ManagerEvent};
use crate::activation::{Activation, Phase};
use crate::command::{Command, Outcome};
use crate::decision::ActivationReason;
use crate::order::{MountFailure, SealAnswer};
use crate::state::ClusterState;

impl Manager {
    pub(super) fn report(
        &mut self,
        now: Tick,
        state: &ClusterState,
        event: ManagerEvent,
        batch: &mut Batch,
    ) {
        match event {
            ManagerEvent::MemberAlive { member, incarnation } => {
                self.member_alive(now, state, member, incarnation, batch);
            }
            ManagerEvent::LeaseExpired { member } => self.lease_expired(state, member, batch),
            ManagerEvent::DeathCertified { member, incarnation } => {
                self.death_certified(state, member, incarnation, batch);
            }
            ManagerEvent::SealReplies { member, answers } => {
                answers.into_iter().for_each(|answer| self.seal_answer(now, member, answer));
            }
            ManagerEvent::SealFailed { member } => self.seal_failed(now, member),
            ManagerEvent::MountResult { database, epoch, result } => {
                self.mount_result(now, database, epoch, result);
            }
            ManagerEvent::EstablishedReported { database, epoch } => {
                self.established_reported(now, database, epoch, batch);
            }
            ManagerEvent::Wedged { database, epoch } => {
                self.wedged(now, state, database, epoch, batch);
            }
            ManagerEvent::Unreached { member, members } => {
                self.unreached(now, state, (member, members), batch);
            }
            ManagerEvent::Dismounted { database, epoch } => {
                let dismount = self.dismounts.get_mut(&database);
                if let Some(dismount) = dismount.filter(|dismount| dismount.epoch == epoch) {
                    dismount.progress = DismountProgress::Done;
                }
            }
            ManagerEvent::MoveRequested { operation, database, to, options } => {
                self.move_requested(now, state, (operation, database), (to, options), batch);
            }
            ManagerEvent::MountRequested { operation, database, accept_loss } => {
                self.mount_requested(now, (operation, database), accept_loss);
            }
            ManagerEvent::InstantRequested { operation, database, order } => {
                self.instant_requested(now, state, (operation, database), order, batch);
            }
            ManagerEvent::DismountRequested { operation, database } => {
                self.dismount_requested(operation, database);
            }
            ManagerEvent::CommandDone { tag, outcome } => self.command_done(tag, outcome, batch),
            ManagerEvent::Applied => self.hear_again(state, batch),
            ManagerEvent::Timer
            | ManagerEvent::BecameLeader { .. }
            | ManagerEvent::LostLeadership => {}
        }
    }

    fn member_alive(
        &mut self,
        now: Tick,
        state: &ClusterState,
        member: MemberId,
        incarnation: IncarnationId,
        batch: &mut Batch,
    ) {
        if self.certified.contains(&(member, incarnation)) {
            return;
        }
        self.contacts.insert(member, Contact::Alive(incarnation));
        self.work.contacts_stale = true;
        if state.members.get(&member).is_some_and(|m| m.silent == Some(incarnation)) {
            let silent = false;
            batch.commands.push(Command::NoteSilence { member, incarnation, silent });
        }
        self.warm_up(state, Some((member, incarnation)));
        let holds =
            |id: &DatabaseId| state.databases.get(id).is_some_and(|d| d.copy_on(member).is_some());
        let concerned: Vec<_> = self.jobs.ids().filter(holds).collect();
        for id in concerned {
            self.change(now, id, |job| match &mut job.phase {
                Phase::Waiting { until, .. } => *until = now,
                Phase::Sealing(sealing) => {
                    // What an earlier life said, or that it said nothing, does not speak for this
                    // one.
                    sealing.replies.remove(&member);
                    sealing.silent.remove(&member);
                    sealing.asked.insert(member);
                    batch.seal(member, id, sealing.epoch);
                }
                _ => {}
            });
        }
        for (id, dismount) in &mut self.dismounts {
            let here = state.databases.get(id).and_then(|d| d.target_member()) == Some(member);
            if here && dismount.progress == DismountProgress::Ordered {
                dismount.progress = DismountProgress::Wanted;
                self.work.databases.insert(*id);
            }
        }
    }

    /// A silence that was proposed before its member was heard again, and recorded after it, would
    /// stay for ever: members are reported alive once per life.
    fn hear_again(&mut self, state: &ClusterState, batch: &mut Batch) {
        for (member, contact) in &self.contacts {
            let Contact::Alive(incarnation) = contact else { continue };
            let recorded = state.members.get(member);
            if recorded.is_some_and(|recorded| recorded.silent == Some(*incarnation)) {
                let (member, incarnation, silent) = (*member, *incarnation, false);
                batch.commands.push(Command::NoteSilence { member, incarnation, silent });
            }
        }
    }

    fn lease_expired(&mut self, state: &ClusterState, member: MemberId, batch: &mut Batch) {
        self.contacts.insert(member, Contact::Over);
        self.unreached.remove(&member);
        self.work.contacts_stale = true;
        let previous = state.members.get(&member).and_then(|member| member.previous);
        if let Some(previous) = previous {
            // Nobody holds a lease there, and only the recorded life can get one from now on.
            batch.commands.push(Command::ConfirmIncarnation { member, previous });
        }
        let recorded = state.members.get(&member).filter(|m| !m.is_gone() && m.previous.is_none());
        if let Some(incarnation) = recorded.and_then(|m| m.incarnation) {
            let silent = true;
            batch.commands.push(Command::NoteSilence { member, incarnation, silent });
        }
    }

    fn death_certified(
        &mut self,
        state: &ClusterState,
        id: MemberId,
        incarnation: IncarnationId,
        batch: &mut Batch,
    ) {
        if self.contacts.get(&id) == Some(&Contact::Alive(incarnation)) {
            self.contacts.remove(&id);
        }
        self.work.contacts_stale = true;
        self.work.members.insert(id);
        let Some(member) = state.members.get(&id) else { return };
        let known = member.certified_dead.contains(&incarnation);
        if !known {
            // Whoever certifies repeats it until it is recorded; so a lost proposal is made good.
            self.certified.insert((id, incarnation));
            batch.commands.push(Command::CertifyDeath { member: id, incarnation });
        }
    }

    fn seal_answer(&mut self, now: Tick, member: MemberId, answer: SealAnswer) {
        let epoch = answer.epoch;
        self.change(now, answer.database, |job| {
            let Phase::Sealing(sealing) = &mut job.phase else { return };
            if sealing.epoch != epoch || !sealing.asked.contains(&member) {
                return;
            }
            match answer.result {
                Ok(reply) if reply.member == member && reply.sealed == sealing.epoch => {
                    sealing.replies.insert(member, (now, reply));
                }
                Ok(_) | Err(_) => {
                    sealing.silent.insert(member);
                }
            }
        });
    }

    fn seal_failed(&mut self, now: Tick, member: MemberId) {
        let asked: Vec<_> = self.jobs.on(member).collect();
        for id in asked {
            self.change(now, id, |job| {
                if let Phase::Sealing(sealing) = &mut job.phase
                    && sealing.asked.contains(&member)
                {
                    sealing.silent.insert(member);
                }
            });
        }
    }

    /// Changes an activation because of a report about it, and looks at it in this step.
    pub(super) fn change(
        &mut self,
        now: Tick,
        id: DatabaseId,
        change: impl FnOnce(&mut Activation),
    ) {
        let Some(mut job) = self.jobs.take(&id) else { return };
        change(&mut job);
        self.jobs.put(now, id, job);
        self.work.databases.insert(id);
    }

    fn mount_result(
        &mut self,
        now: Tick,
        database: DatabaseId,
        epoch: Epoch,
        result: Result<(), MountFailure>,
    ) {
        let Some(mut job) = self.jobs.take(&database) else { return };
        match (&job.phase, result) {
            (Phase::Mounting { epoch: at, target, .. }, Ok(())) if *at == epoch => {
                let target = *target;
                job.enter_opening(now, epoch, target);
            }
            (
                Phase::Mounting { epoch: at, target, .. }
                | Phase::Opening { epoch: at, target, .. },
                Err(_),
            ) if *at == epoch => {
                let target = *target;
                self.attempt_failed(now, &mut job, epoch, target);
            }
            _ => {}
        }
        self.jobs.put(now, database, job);
        self.work.databases.insert(database);
    }

    /// The next attempt gets its own epoch, after a pause, and prefers other copies (R5, S11).
    pub(super) fn attempt_failed(
        &self,
        now: Tick,
        job: &mut Activation,
        epoch: Epoch,
        target: CopyId,
    ) {
        let pause = self.backoff(job.attempt);
        // Clients of a switchover wait: it is undone at once.
        let until = if job.try_another(target) { now } else { now.after(pause) };
        job.reason = ActivationReason::MountFailed { copy: target };
        match self.weakness {
            // H7: the next target mounts in the epoch that the first one may still be mounting in
            // (S11).
            Weakness::AttemptsShareEpoch => job.enter(now, Phase::Waiting { epoch, until }),
            _ => job.enter(now, Phase::BackingOff { until }),
        }
    }

    fn established_reported(
        &mut self,
        now: Tick,
        database: DatabaseId,
        epoch: Epoch,
        batch: &mut Batch,
    ) {
        let Some(job) = self.jobs.get(&database) else { return };
        match job.phase {
            Phase::Mounting { epoch: at, target, .. } if at == epoch => {
                self.change(now, database, |job| job.enter_opening(now, epoch, target));
            }
            Phase::Opening { epoch: at, .. } if at == epoch => {}
            _ => return,
        }
        let tag = self.jobs.get(&database).and_then(|job| job.tag);
        if tag.is_none_or(|tag| !self.pending.contains_key(&tag)) {
            let command = Command::Established { database, epoch };
            batch.single.push((Owner::Database(database), command));
        }
    }

    fn command_done(&mut self, tag: u64, outcome: Outcome, batch: &mut Batch) {
        self.work.databases.extend(self.pending.remove(&tag).into_iter().flatten());
        let waits = |operation: &PendingOperation| operation.proposal == Proposal::Made(tag);
        let owner = self.operations.iter().find(|(_, operation)| waits(operation));
        if let (Some(id), Outcome::Refused(refusal)) = (owner.map(|(id, _)| *id), outcome) {
            self.end_operation(id);
            batch.finished.push((id, Err(refusal)));
        }
    }
}

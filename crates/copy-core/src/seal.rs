//! Seals: a durable promise to refuse lower epochs.
//!
//! Order (review S5): acks and appends of lower epochs stop at once, the sync in flight is waited
//! for, the promise is saved, and only then the log end is reported. A crash before the save has
//! promised nothing; a crash after it keeps the promise.

use keelson_types::{CopyFault, Epoch, Position, Weakness};

use crate::event::Action;
use crate::machine::{CopyMachine, Role};
use crate::outcome::{SealAnswer, SealRefusal, StopReason};

/// A seal under way.
#[derive(Debug)]
pub(crate) struct Sealing {
    request: u64,
    epoch: Epoch,
    step: SealStep,
}

#[derive(Debug)]
enum SealStep {
    /// Frames handed to the log are not durable yet.
    SyncInFlight,
    /// The control record of this number is being written.
    Saving(u64),
}

/// What keeps a copy from being chosen while its store is not what it was.
pub(crate) fn being_rebuilt(until: Position) -> CopyFault {
    CopyFault::StoreDamaged(format!("it is being rebuilt and was at {until}"))
}

impl CopyMachine {
    pub(crate) fn seal(&mut self, request: u64, epoch: Epoch, out: &mut Vec<Action>) {
        if let Some(refusal) = self.seal_refusal(epoch) {
            out.push(Action::SealReply { request, answer: Err(refusal) });
            return;
        }
        if let Some(former) = self.sealing.take() {
            let answer = Err(SealRefusal::Superseded(epoch));
            out.push(Action::SealReply { request: former.request, answer });
        }
        self.stop(StopReason::Deposed(epoch), out);
        if self.config.weakness != Weakness::SealBeforeSync {
            self.role = Role::Idle;
        }
        let known = epoch == self.sealed;
        self.sealed = epoch;
        if known && self.is_settled() && self.answered_seal == epoch {
            self.answer_seal(request, out);
            return;
        }
        if self.config.weakness == Weakness::SealBeforeSync {
            // H5: reports while a sync is in flight, and acknowledges it afterwards.
            self.save(out);
            self.answer_seal(request, out);
            return;
        }
        self.sealing = Some(Sealing { request, epoch, step: SealStep::SyncInFlight });
        self.seal_upkeep(out);
    }

    fn seal_refusal(&self, epoch: Epoch) -> Option<SealRefusal> {
        if self.log_broken {
            let fault = self.fault.clone();
            let unknown = || CopyFault::LogIo("the log failed".into());
            return Some(SealRefusal::Failed(fault.unwrap_or_else(unknown)));
        }
        if epoch < self.sealed {
            return Some(SealRefusal::SealedHigher(self.sealed));
        }
        let follows = match &self.role {
            Role::Passive(passive) => Some(passive.epoch),
            Role::Idle | Role::Activating(_) | Role::Active(_) => None,
        };
        let in_use = self.own_epoch().or(follows).filter(|used| *used == epoch);
        in_use.map(SealRefusal::EpochInUse)
    }

    /// Nothing is in flight: what the log holds is known and durable.
    fn is_settled(&self) -> bool {
        self.durable == self.end && !self.cutting
    }

    /// Goes on once nothing is in flight.
    pub(crate) fn seal_upkeep(&mut self, out: &mut Vec<Action>) {
        let waits = matches!(self.sealing, Some(Sealing { step: SealStep::SyncInFlight, .. }));
        if waits && self.is_settled() {
            let save = self.save(out);
            if let Some(sealing) = &mut self.sealing {
                sealing.step = SealStep::Saving(save);
            }
        }
    }

    pub(crate) fn seal_saved(&mut self, save: u64, out: &mut Vec<Action>) {
        let saved = |s: &Sealing| matches!(s.step, SealStep::Saving(wanted) if wanted <= save);
        if let Some(sealing) = self.sealing.take_if(|s| saved(s)) {
            debug_assert_eq!(sealing.epoch, self.sealed);
            self.answer_seal(sealing.request, out);
        }
    }

    fn answer_seal(&mut self, request: u64, out: &mut Vec<Action>) {
        self.answered_seal = self.sealed;
        self.contact.heard();
        let answer = SealAnswer {
            end: self.durable,
            committed: self.committed,
            replayed: self.replayed,
            may_have_lost: self.may_have_lost,
            fault: self.unfit(),
        };
        out.push(Action::SealReply { request, answer: Ok(answer) });
    }

    /// The log or control file failed while a seal waited for it.
    pub(crate) fn seal_failed(&mut self, out: &mut Vec<Action>) {
        if !self.log_broken {
            return;
        }
        if let Some(sealing) = self.sealing.take() {
            let fault = self.fault.clone();
            let fault = fault.unwrap_or_else(|| CopyFault::LogIo("the log failed".into()));
            let answer = Err(SealRefusal::Failed(fault));
            out.push(Action::SealReply { request: sealing.request, answer });
        }
    }
}

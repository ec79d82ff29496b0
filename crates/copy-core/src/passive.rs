//! The passive side of shipping: matching, cutting a fork, taking frames, acknowledging.
//!
//! Nothing is acknowledged in an epoch before the fork is cut, the seal of that epoch is saved and
//! the active has confirmed that the chains match (R3).

use keelson_types::{CopyFault, Epoch, EpochStart, LogEnd, MemberId, Position};

use crate::divergence::Touched;
use crate::event::{Action, OpenOffer};
use crate::machine::{CopyMachine, Role};
use crate::outcome::{OpenRefusal, StopReason};

/// A source and how far the agreement with it is.
#[derive(Debug)]
pub(crate) struct Passive {
    pub(crate) member: MemberId,
    pub(crate) epoch: Epoch,
    /// The promise of its epoch was new with its offer.
    pub(crate) rises: bool,
    pub(crate) step: PassiveStep,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PassiveStep {
    /// What this copy has beyond the offered log is being undone.
    Undoing(Box<OpenOffer>),
    /// The fork is being cut.
    Cutting,
    /// Seal and table are being saved under this number.
    Saving(u64),
    /// The offer is accepted; the active compares the chains.
    Offered,
    /// Frames come, acknowledgements count.
    Matched,
}

impl Passive {
    pub(crate) fn takes_frames(&self, epoch: Epoch) -> bool {
        self.epoch == epoch && self.step == PassiveStep::Matched
    }
}

impl CopyMachine {
    pub(crate) fn open(&mut self, offer: &OpenOffer, out: &mut Vec<Action>) {
        let (member, epoch) = (offer.member, offer.epoch);
        if let Some(refusal) = self.open_refusal(offer) {
            out.push(Action::SendRefused { member, epoch, refusal });
            return;
        }
        self.stop(StopReason::Deposed(epoch), out);
        let rises = epoch > self.sealed;
        let step = PassiveStep::Undoing(Box::new(offer.clone()));
        self.role = Role::Passive(Passive { member, epoch, rises, step });
        self.contact.compares();
        self.climb(Touched::Unknown, out);
    }

    fn open_refusal(&self, offer: &OpenOffer) -> Option<OpenRefusal> {
        match &self.fault {
            Some(CopyFault::Diverged(_)) => return Some(OpenRefusal::Diverged),
            Some(_) => return Some(OpenRefusal::Failed),
            None => {}
        }
        if self.is_suspended() {
            return Some(OpenRefusal::Suspended);
        }
        if offer.stream != self.config.stream {
            return Some(OpenRefusal::Diverged);
        }
        if offer.epoch < self.sealed {
            return Some(OpenRefusal::SealedHigher(self.sealed));
        }
        if self.sealing.is_some() || self.cutting || self.store_away {
            return Some(OpenRefusal::Busy);
        }
        let own = self.own_epoch().filter(|own| *own >= offer.epoch);
        own.map(OpenRefusal::SealedHigher)
    }

    pub(crate) fn passive_cut(&mut self, out: &mut Vec<Action>) {
        if matches!(&self.role, Role::Passive(p) if p.step == PassiveStep::Cutting) {
            self.accept_offer(true, out);
        }
    }

    /// Saves the promise of the offer's epoch, or the table after a cut, if either is new; then
    /// accepts.
    pub(crate) fn accept_offer(&mut self, news: bool, out: &mut Vec<Action>) {
        // Beyond the own log it was another epoch's word, also if a seal promised this one before;
        // whose log this is says again what holds.
        self.committed = self.committed.min(self.end.position);
        let step = if news {
            PassiveStep::Saving(self.save(out))
        } else {
            self.send_opened(out);
            PassiveStep::Offered
        };
        if let Role::Passive(passive) = &mut self.role {
            passive.step = step;
        }
    }

    pub(crate) fn passive_saved(&mut self, save: u64, out: &mut Vec<Action>) {
        let Role::Passive(passive) = &mut self.role else { return };
        if matches!(passive.step, PassiveStep::Saving(wanted) if wanted <= save) {
            passive.step = PassiveStep::Offered;
            self.send_opened(out);
        }
    }

    fn send_opened(&self, out: &mut Vec<Action>) {
        if let Role::Passive(passive) = &self.role {
            let (member, epoch) = (passive.member, passive.epoch);
            out.push(Action::SendOpened { member, epoch, matched: self.end });
        }
    }

    /// Only a seed helps: the copy waits for an operator. A resume lets it try again.
    pub(crate) fn log_gone(&mut self, epoch: Epoch, begins: Position) {
        if let Role::Passive(passive) = &self.role
            && passive.epoch == epoch
            && passive.step == PassiveStep::Offered
        {
            let what = format!("this log ends at {}, the active's begins at {begins}", self.end);
            self.role = Role::Idle;
            self.fault = Some(CopyFault::MissingLog(what));
        }
    }

    pub(crate) fn matched(&mut self, epoch: Epoch, out: &mut Vec<Action>) {
        if let Role::Passive(passive) = &mut self.role
            && passive.epoch == epoch
            && passive.step == PassiveStep::Offered
        {
            passive.step = PassiveStep::Matched;
            self.contact.matches();
            self.acknowledge(out);
        }
    }

    pub(crate) fn received(
        &mut self,
        epoch: Epoch,
        end: LogEnd,
        starts: &[EpochStart],
        out: &mut Vec<Action>,
    ) {
        if self.expects(epoch).is_none() {
            return;
        }
        self.end = end;
        let mut grown = false;
        for start in starts {
            grown |= self.table.push(*start).is_ok();
        }
        out.push(Action::Append);
        if grown {
            // The generation headers say the same until they are truncated, so nothing waits for
            // this.
            self.save(out);
        }
    }

    pub(crate) fn committed_up_to(&mut self, epoch: Epoch, committed: Position) {
        if let Role::Passive(passive) = &self.role
            && passive.takes_frames(epoch)
        {
            self.committed = self.committed.max(committed);
        }
    }

    pub(crate) fn acknowledge(&self, out: &mut Vec<Action>) {
        if let Role::Passive(passive) = &self.role
            && passive.takes_frames(passive.epoch)
        {
            out.push(Action::SendAck {
                member: passive.member,
                epoch: passive.epoch,
                durable: self.durable.position,
            });
        }
    }

    pub(crate) fn source_down(&mut self, member: MemberId) {
        if let Role::Passive(passive) = &self.role
            && passive.member == member
        {
            self.role = Role::Idle;
        }
    }
}

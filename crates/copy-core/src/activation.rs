//! Becoming active: complete the log from whoever holds it, then open the epoch.
//!
//! A crash anywhere in here leaves a copy that is sealed for the epoch and serves nothing; the
//! active manager allocates the next epoch (R5).

use keelson_types::{CommitRule, Epoch, EpochStart, LogEnd, Position};

use crate::active::Active;
use crate::ceiling::CeilingState;
use crate::event::{Action, MountOrder};
use crate::machine::{CopyMachine, Role};
use crate::outcome::{MountFailure, StopReason};

/// An activation under way.
#[derive(Debug)]
pub(crate) struct Activation {
    pub(crate) requests: Vec<u64>,
    pub(crate) order: MountOrder,
    step: ActivationStep,
}

#[derive(Debug, PartialEq, Eq)]
enum ActivationStep {
    /// The seal of the order's epoch is being saved under this number.
    Saving(u64),
    /// The holder of this index was asked.
    Asked(usize),
    /// The fork is being cut before its log is taken.
    Cutting(usize),
    /// Its log comes in.
    Pulling(usize),
    /// The opening frame is being built.
    Opening,
}

impl Activation {
    pub(crate) fn takes_frames(&self, epoch: Epoch) -> bool {
        self.order.epoch == epoch && matches!(self.step, ActivationStep::Pulling(_))
    }
}

impl CopyMachine {
    pub(crate) fn mount(&mut self, request: u64, order: MountOrder, out: &mut Vec<Action>) {
        if let Some(failure) = self.mount_failure(&order) {
            out.push(Action::MountReply { request, answer: Err(failure) });
            return;
        }
        match &mut self.role {
            Role::Active(active) if active.epoch == order.epoch => {
                if active.serving {
                    out.push(Action::MountReply { request, answer: Ok(()) });
                } else {
                    active.waiting.push(request);
                }
                return;
            }
            Role::Activating(activation) if activation.order.epoch == order.epoch => {
                activation.requests.push(request);
                return;
            }
            Role::Idle | Role::Passive(_) | Role::Activating(_) | Role::Active(_) => {}
        }
        self.stop(StopReason::Deposed(order.epoch), out);
        let rises = order.epoch > self.sealed;
        self.sealed = order.epoch;
        self.taken_up = order.epoch;
        self.lease_lost_at = None;
        let step = match rises {
            true => ActivationStep::Saving(self.save(out)),
            false => ActivationStep::Asked(0),
        };
        self.role = Role::Activating(Activation { requests: vec![request], order, step });
        if !rises {
            self.ask_source(0, out);
        }
    }

    fn mount_failure(&self, order: &MountOrder) -> Option<MountFailure> {
        if let Some(fault) = self.fault.clone().or_else(|| self.untrusted()) {
            return Some(MountFailure::Failed(fault));
        }
        if order.epoch < self.sealed {
            return Some(MountFailure::SealedHigher(self.sealed));
        }
        let known = order.epoch == self.sealed;
        if self.own_epoch() != Some(order.epoch) && known {
            // An earlier life, or this one, may have written in this epoch and streamed it (R5,
            // S10).
            let used = self.answered_seal < order.epoch
                || self.taken_up >= order.epoch
                || self.end.epoch >= order.epoch;
            if used {
                return Some(MountFailure::SealedHigher(self.sealed));
            }
        }
        self.sealing.is_some().then_some(MountFailure::Stopped)
    }

    pub(crate) fn activation_saved(&mut self, save: u64, out: &mut Vec<Action>) {
        let saved = matches!(
            &self.role,
            Role::Activating(Activation { step: ActivationStep::Saving(wanted), .. })
                if *wanted <= save
        );
        if saved {
            self.ask_source(0, out);
        }
    }

    /// Opens the epoch if the log is complete, else asks the holder of this index.
    fn ask_source(&mut self, index: usize, out: &mut Vec<Action>) {
        let (end, durable) = (self.end, self.durable);
        let Role::Activating(activation) = &mut self.role else { return };
        if self.cutting {
            // A cut of a former session is under way; its end brings us back here.
            activation.step = ActivationStep::Asked(index);
            return;
        }
        let order = &activation.order;
        if end > order.required_end {
            return self.cut_back(index, out);
        }
        if durable == end && end >= order.required_end {
            activation.step = ActivationStep::Opening;
            out.push(Action::BeginEpoch { epoch: order.epoch });
            return;
        }
        activation.step = ActivationStep::Asked(index);
        if end >= order.required_end {
            return; // Complete, and durable soon.
        }
        match order.sources.get(index) {
            Some(source) => out.push(Action::Fetch {
                epoch: order.epoch,
                source: source.clone(),
                wanted: order.required_end,
            }),
            None => self.activation_failed(MountFailure::NoSource, out),
        }
    }

    /// The order keeps less than this log holds: an operator gave the rest up (design §7). The
    /// store must hold none of it; the cut keeps it as salvage, and its end brings us back.
    fn cut_back(&mut self, index: usize, out: &mut Vec<Action>) {
        let stored = self.replayed.max(self.replay_asked);
        let Role::Activating(activation) = &mut self.role else { return };
        let kept = activation.order.required_end;
        let known = self.table.epoch_at(kept.position) == kept.epoch;
        if stored > kept.position || !known || self.end.position < kept.position {
            return self.activation_failed(MountFailure::Diverged, out);
        }
        activation.step = ActivationStep::Asked(index);
        self.committed = self.committed.min(kept.position);
        self.cut(kept.position, out);
    }

    pub(crate) fn advance_activation(&mut self, out: &mut Vec<Action>) {
        let Role::Activating(activation) = &self.role else { return };
        let index = match activation.step {
            ActivationStep::Asked(index) | ActivationStep::Pulling(index) => index,
            ActivationStep::Saving(_) | ActivationStep::Cutting(_) | ActivationStep::Opening => {
                return;
            }
        };
        if self.durable == self.end && self.end >= activation.order.required_end {
            self.ask_source(index, out);
        }
    }

    pub(crate) fn fetch_matched(&mut self, epoch: Epoch, matched: Position, out: &mut Vec<Action>) {
        let (end, floor) = (self.end.position, self.committed.max(self.replayed));
        let Role::Activating(activation) = &mut self.role else { return };
        let ActivationStep::Asked(index) = activation.step else { return };
        if activation.order.epoch != epoch {
            return;
        }
        if matched >= end {
            activation.step = ActivationStep::Pulling(index);
            out.push(Action::PullFetch);
        } else if matched < floor.min(end) {
            self.activation_failed(MountFailure::Diverged, out);
        } else {
            activation.step = ActivationStep::Cutting(index);
            self.cut(matched, out);
        }
    }

    pub(crate) fn activation_cut(&mut self, out: &mut Vec<Action>) {
        let Role::Activating(activation) = &mut self.role else { return };
        match activation.step {
            ActivationStep::Cutting(index) => {
                activation.step = ActivationStep::Pulling(index);
                out.push(Action::PullFetch);
            }
            // The cut belonged to a former session; nobody was asked while it lasted.
            ActivationStep::Asked(index) => self.ask_source(index, out),
            ActivationStep::Saving(_) | ActivationStep::Pulling(_) | ActivationStep::Opening => {}
        }
    }

    pub(crate) fn fetch_failed(&mut self, epoch: Epoch, out: &mut Vec<Action>) {
        let Role::Activating(activation) = &self.role else { return };
        let (ActivationStep::Asked(index) | ActivationStep::Pulling(index)) = activation.step
        else {
            return;
        };
        if activation.order.epoch == epoch && self.end < activation.order.required_end {
            self.ask_source(index + 1, out);
        }
    }

    fn activation_failed(&mut self, failure: MountFailure, out: &mut Vec<Action>) {
        if let Role::Activating(activation) = std::mem::replace(&mut self.role, Role::Idle) {
            out.extend(
                activation
                    .requests
                    .into_iter()
                    .map(|request| Action::MountReply { request, answer: Err(failure.clone()) }),
            );
        }
    }

    pub(crate) fn epoch_begun(&mut self, start: EpochStart, end: Position, out: &mut Vec<Action>) {
        let role = std::mem::replace(&mut self.role, Role::Idle);
        let Role::Activating(activation) = role else {
            self.role = role;
            return;
        };
        let epoch = activation.order.epoch;
        debug_assert_eq!(start.epoch, epoch);
        let row = self.table.push(start);
        debug_assert_eq!(row, Ok(()));
        self.end = LogEnd { epoch, position: end };
        // What a former active called committed beyond this log was given up on somebody's word;
        // the same positions are another log from now on.
        self.committed = self.committed.min(start.previous_end);
        self.save(out);
        self.generation_ends = [start.previous_end].into();
        let mut active = Active::new(epoch, activation.order.rule, end, activation.requests);
        active.ceiling = CeilingState::new(activation.order.ceiling);
        self.become_active(active, out);
    }

    /// H8 only: goes on in an epoch of a former life.
    pub(crate) fn resume(&mut self, epoch: Epoch, rule: CommitRule, out: &mut Vec<Action>) {
        self.sealed = epoch;
        let active = Active::new(epoch, rule, self.end.position, Vec::new());
        self.become_active(active, out);
    }
}

//! The ceiling of an active that acknowledges alone (G3, design §6).
//!
//! As long as consensus holds a ceiling for the epoch, the active commits nothing behind it: so
//! whoever has to go on without this copy knows how much may be missing. It is raised before it is
//! reached, and given up, with consensus knowing, once other copies have to hold what is committed.
//! Like a commit rule it changes one proposal at a time: of a ceiling that is being set the new one
//! holds at once, of one that is being raised or given up the old one, until the outcome is known.

use std::collections::BTreeSet;

use keelson_types::{CEILING_AHEAD_BYTES, Ceiling, Epoch, LogEnd, Position};

use crate::active::Active;
use crate::event::{Action, RecordedCeiling};
use crate::machine::{CopyMachine, Role};

/// What consensus holds, and the change under way.
#[derive(Debug, Default)]
pub(crate) struct CeilingState {
    recorded: Option<Ceiling>,
    pending: Option<RecordedCeiling>,
    /// Of the newest proposal.
    number: u64,
}

impl CeilingState {
    pub(crate) fn new(recorded: Option<Ceiling>) -> Self {
        Self { recorded, ..Self::default() }
    }

    fn in_force(&self) -> impl Iterator<Item = &Ceiling> {
        let set = self.pending.as_ref().filter(|_| self.recorded.is_none());
        self.recorded.iter().chain(set.and_then(|pending| pending.ceiling.as_ref()))
    }

    fn allows(&self, epoch: Epoch, position: Position) -> bool {
        self.in_force().all(|ceiling| ceiling.allows(epoch, position))
    }

    fn recorded_is(&mut self, told: RecordedCeiling) {
        let decided = |pending: &mut RecordedCeiling| pending.number <= told.number;
        if self.pending.take_if(decided).is_some() {
            self.recorded = told.ceiling;
        }
    }

    /// What is to be recorded instead, for a log that is durable up to here.
    fn wish(
        &self,
        wanted: bool,
        own: LogEnd,
        previous_end: Option<u64>,
    ) -> Option<Option<Ceiling>> {
        let raised = Ceiling { border: own, previous_end, ahead_bytes: CEILING_AHEAD_BYTES };
        let soon =
            Position { offset: own.position.offset + CEILING_AHEAD_BYTES / 2, ..own.position };
        match (wanted, &self.recorded) {
            _ if self.pending.is_some() => None,
            (true, None) => Some(Some(raised)),
            (true, Some(ceiling)) => (!ceiling.allows(own.epoch, soon)).then_some(Some(raised)),
            (false, Some(_)) => Some(None),
            (false, None) => None,
        }
    }
}

impl Active {
    /// The highest end of a frame up to `reach` that the ceiling allows. The border of the recorded
    /// one is such an end, so that commits go on however far the log is ahead.
    pub(crate) fn below_ceiling(&self, reach: Position) -> Position {
        if self.ceiling.allows(self.epoch, reach) {
            return reach;
        }
        let borders = self.ceiling.in_force().map(|ceiling| ceiling.border);
        let borders = borders.filter(|end| end.epoch == self.epoch).map(|end| end.position);
        let ends = borders.chain(self.peers.values().map(|peer| peer.durable));
        let allowed = |end: &Position| *end <= reach && self.ceiling.allows(self.epoch, *end);
        ends.filter(allowed).max().unwrap_or(Position::ZERO)
    }

    /// Whether this copy alone satisfies whatever an acknowledgement must satisfy now.
    fn acknowledges_alone(&self) -> bool {
        let alone = |active| BTreeSet::from([active]);
        self.rule.required().all(|rule| rule.satisfied_by(&alone(rule.active)))
    }
}

impl CopyMachine {
    /// What an assignment says of the ceiling of its epoch.
    pub(crate) fn ceiling_published(&mut self, epoch: Epoch, told: RecordedCeiling) {
        if let Role::Active(active) = &mut self.role
            && active.epoch == epoch
        {
            active.ceiling.recorded_is(told);
        }
    }

    /// Proposes another ceiling where one is due.
    pub(crate) fn keep_ceiling(&mut self, out: &mut Vec<Action>) {
        let (own, previous_end) = (self.durable, self.previous_end());
        let Role::Active(active) = &mut self.role else { return };
        let asked = self.assignment.as_ref().is_some_and(|assignment| assignment.bounded);
        let wanted = asked && active.acknowledges_alone();
        if own.epoch != active.epoch {
            return; // The opening frame is not durable yet.
        }
        let Some(ceiling) = active.ceiling.wish(wanted, own, previous_end) else { return };
        active.ceiling.number += 1;
        let proposal = RecordedCeiling { number: active.ceiling.number, ceiling };
        active.ceiling.pending = Some(proposal);
        out.push(Action::ProposeCeiling { epoch: active.epoch, proposal });
    }

    /// Where the generation before that of the durable end ends, if it was written in this life.
    fn previous_end(&self) -> Option<u64> {
        let wanted = self.durable.position.generation;
        let ends = self.generation_ends.iter().rev();
        let end = ends.into_iter().find(|end| end.generation.next() == wanted)?;
        Some(end.offset)
    }
}

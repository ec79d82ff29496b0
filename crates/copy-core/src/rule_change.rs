//! Safe changes of the commit rule (R1).
//!
//! A change goes through three steps: *waiting* (old AND new are required, until everything
//! acknowledged so far satisfies new), *proposed* (still both, until the outcome is known),
//! *recorded*. One change at a time; an unknown outcome keeps both.

use std::collections::BTreeSet;

use keelson_types::{
    CommitConstraint, CommitRule, CopyId, Epoch, LOG_UNIT_BYTES, MemberId, Participant, Position,
    Tick, Weakness,
};

use crate::active::{Active, Peer, PeerLink};
use crate::event::{Action, Assignment, PeerCopy};
use crate::machine::{CopyMachine, Role};

/// The rule that consensus holds, and the change under way.
#[derive(Debug)]
pub(crate) struct RuleState {
    pub(crate) recorded: CommitRule,
    pub(crate) pending: Option<Pending>,
}

#[derive(Debug)]
pub(crate) struct Pending {
    rule: CommitRule,
    step: PendingStep,
}

#[derive(Debug, PartialEq, Eq)]
enum PendingStep {
    /// Until what was committed when the change began satisfies the new rule.
    Waiting(Position),
    /// Consensus was asked.
    Proposed,
}

impl RuleState {
    pub(crate) fn new(recorded: CommitRule) -> Self {
        Self { recorded, pending: None }
    }

    /// Every rule that an acknowledgement must satisfy now.
    pub(crate) fn required(&self) -> impl Iterator<Item = &CommitRule> {
        std::iter::once(&self.recorded).chain(self.pending.as_ref().map(|pending| &pending.rule))
    }

    /// Whether the silence of this copy, once it has lasted long enough, changes anything: not
    /// while an outcome is waited for, nor if the change under way drops it already.
    pub(crate) fn may_drop(&self, copy: CopyId) -> bool {
        match &self.pending {
            None => self.recorded.has(copy),
            Some(Pending { step: PendingStep::Proposed, .. }) => false,
            Some(pending) => pending.rule.has(copy),
        }
    }

    fn recorded_is(&mut self, rule: CommitRule) {
        if rule.version >= self.recorded.version {
            self.recorded = rule;
            // Whatever was proposed is decided now: it is this rule, or it was refused.
            self.pending.take_if(|pending| pending.rule.version <= self.recorded.version);
        }
    }

    /// The outcome of the proposal of this version is known: recorded or refused, it is over. A
    /// late answer to an earlier proposal says nothing of the present one.
    fn outcome(&mut self, version: u64) {
        let decided = |pending: &mut Pending| {
            pending.step == PendingStep::Proposed && pending.rule.version == version
        };
        self.pending.take_if(decided);
    }
}

impl CopyMachine {
    pub(crate) fn rule_recorded(&mut self, epoch: Epoch, version: u64, rule: CommitRule) {
        if let Role::Active(active) = &mut self.role
            && active.epoch == epoch
        {
            active.rule.recorded_is(rule);
            active.rule.outcome(version);
        }
    }

    /// The rule of an assignment. An older version than the proposed one says nothing of its
    /// outcome.
    pub(crate) fn rule_published(&mut self, epoch: Epoch, rule: CommitRule) {
        if let Role::Active(active) = &mut self.role
            && active.epoch == epoch
            && rule.active == self.config.copy
        {
            active.rule.recorded_is(rule);
        }
    }

    pub(crate) fn change_rule(&mut self, now: Tick, out: &mut Vec<Action>) {
        let weakness = self.config.weakness;
        let committed = self.committed;
        let own = self.durable.position;
        let Role::Active(active) = &mut self.role else { return };
        let Some(assignment) = &self.assignment else { return };
        let View { participants, constraint } =
            desired(active, assignment, &self.dead, now, committed);
        let same =
            |rule: &CommitRule| rule.participants == participants && rule.constraint == constraint;
        let abandoned =
            |pending: &mut Pending| pending.step != PendingStep::Proposed && !same(&pending.rule);
        active.rule.pending.take_if(abandoned);
        if active.rule.pending.is_none() && !same(&active.rule.recorded) {
            let next = active.rule.recorded.with_participants(participants);
            let rule = CommitRule { constraint, ..next };
            let step = PendingStep::Waiting(committed);
            active.rule.pending = Some(Pending { rule, step });
        }
        let Some(pending) = &active.rule.pending else { return };
        let PendingStep::Waiting(until) = pending.step else { return };
        let hasty = matches!(weakness, Weakness::RuleChangeAtOnce | Weakness::AdmitBeforeCaughtUp);
        if !hasty && active.reach(&pending.rule, own) < until {
            return;
        }
        propose(active, weakness, out);
    }
}

fn propose(active: &mut Active, weakness: Weakness, out: &mut Vec<Action>) {
    let epoch = active.epoch;
    let expected_version = active.rule.recorded.version;
    let Some(pending) = &mut active.rule.pending else { return };
    pending.step = PendingStep::Proposed;
    let rule = pending.rule.clone();
    if matches!(weakness, Weakness::RuleChangeAtOnce | Weakness::AdmitBeforeCaughtUp) {
        // H1, H9: acknowledges under the new rule before consensus holds it.
        active.rule.recorded = rule.clone();
        active.rule.pending = None;
    }
    out.push(Action::ProposeRule { epoch, expected_version, rule });
}

/// Who should take part, and under which constraint.
struct View {
    participants: Vec<Participant>,
    constraint: CommitConstraint,
}

fn desired(
    active: &Active,
    assignment: &Assignment,
    dead: &BTreeSet<MemberId>,
    now: Tick,
    committed: Position,
) -> View {
    let recorded = &active.rule.recorded;
    let counts = |copy: &&PeerCopy| {
        if copy.copy == recorded.active {
            return true;
        }
        let Some(peer) = active.peers.get(&copy.copy) else { return false };
        if !copy.may_count || dead.contains(&copy.member) || is_silent(peer, assignment, now) {
            return false;
        }
        recorded.has(copy.copy)
            || peer.link == PeerLink::Matched && is_close(peer.durable, committed)
    };
    let participant = |copy: &PeerCopy| Participant {
        copy: copy.copy,
        member: copy.member,
        site: copy.site.clone(),
    };
    let mut participants: Vec<_> =
        assignment.copies.iter().filter(counts).map(participant).collect();
    participants.sort();
    // A constraint that no second copy can meet yet waits for the first one.
    let waits = participants.len() < 2 && recorded.constraint == CommitConstraint::None;
    let constraint = if waits { CommitConstraint::None } else { assignment.constraint };
    View { participants, constraint }
}

/// Connected or not, it owes an acknowledgement for longer than the database waits.
fn is_silent(peer: &Peer, assignment: &Assignment, now: Tick) -> bool {
    let patience = assignment.degrade_after;
    let since = peer.silent_since;
    matches!((since, patience), (Some(since), Some(patience)) if since.after(patience) <= now)
}

/// Within one log of what is committed, so that admitting it holds commits up only briefly.
fn is_close(durable: Position, committed: Position) -> bool {
    durable >= committed
        || durable.generation == committed.generation
            && committed.offset - durable.offset <= LOG_UNIT_BYTES
}

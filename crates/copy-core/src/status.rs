//! What status pages show of a copy: derived from the machine by [`crate::copy_state`], never kept
//! beside it.

use std::time::Duration;

use keelson_types::{
    CommitRule, CopyFault, CopyRole, CopyStatus, Epoch, LogEnd, Position, Suspension, Tick,
};

use crate::active::{PeerLink, PeerView};
use crate::copy_state::{
    ActiveStep, Connection, Reach, StateFacts, StatusReason, StatusTracker, Transition,
    derive_status,
};
use crate::machine::{CopyMachine, Role};

/// Nothing is stopped on a copy that has heard nothing yet.
static NOTHING_STOPPED: Suspension = Suspension::NONE;

/// What a copy remembers of its contact with others, for its status only.
#[derive(Debug, Default)]
pub(crate) struct Contact {
    /// The latest step.
    now: Tick,
    /// Since when it looks for a source: the first step, or the end of a suspension.
    since: Option<Tick>,
    /// It had a source, was active, or was sealed.
    heard: bool,
    /// An active's log is being compared with the own one, or was when the contact was lost.
    comparing: bool,
}

impl Contact {
    pub(crate) fn at(&mut self, now: Tick) {
        self.now = now;
        self.since.get_or_insert(now);
    }

    pub(crate) fn begin_again(&mut self) {
        *self = Self { now: self.now, since: Some(self.now), heard: false, comparing: false };
    }

    pub(crate) fn heard(&mut self) {
        self.heard = true;
    }

    pub(crate) fn compares(&mut self) {
        (self.heard, self.comparing) = (true, true);
    }

    pub(crate) fn matches(&mut self) {
        self.comparing = false;
    }

    /// The log of an active is the one that others are compared with.
    pub(crate) fn was_active(&mut self) {
        (self.heard, self.comparing) = (true, false);
    }

    fn running_for(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| self.now.since(since))
    }
}

/// A snapshot of one copy.
#[derive(Clone, Debug)]
pub struct CopyView {
    /// The state in the vocabulary of the status page.
    pub status: CopyStatus,
    /// Why.
    pub reason: StatusReason,
    /// Epoch of the session, or the own one.
    pub epoch: Epoch,
    /// Highest epoch promised.
    pub sealed: Epoch,
    /// End of the durable log.
    pub inspected: Position,
    /// The same, with the epoch of its last frame.
    pub end: LogEnd,
    /// Of the epochs that consensus calls the heirs of log that was given up: those that its log
    /// contains.
    pub heirs: Vec<Epoch>,
    /// Log that it once acknowledged may be lost (R4).
    pub may_have_lost: bool,
    /// The store.
    pub replayed: Position,
    /// How far it may replay now.
    pub replay_up_to: Position,
    /// What is known to be committed.
    pub committed: Position,
    /// What the active's end is known by is old: there is no contact with it.
    pub generated_is_stale: bool,
    /// The gate is open as far as this copy is concerned (the lease is another matter).
    pub serving: bool,
    /// The rule in force, at an active copy.
    pub rule: Option<CommitRule>,
    /// Fewer copies take part than the constraint speaks of.
    pub degraded: bool,
    /// Why it cannot go on.
    pub fault: Option<CopyFault>,
    /// The other copies, at an active one.
    pub peers: Vec<PeerView>,
}

impl CopyMachine {
    /// A snapshot for status pages, as of the latest step.
    #[must_use]
    pub fn view(&self) -> CopyView {
        let rule = match &self.role {
            Role::Active(active) => Some(active.rule.recorded.clone()),
            Role::Idle | Role::Passive(_) | Role::Activating(_) => None,
        };
        let facts = self.state_facts();
        let (status, reason) = derive_status(&facts);
        CopyView {
            status,
            reason,
            epoch: self.view_epoch(),
            sealed: self.sealed,
            inspected: self.durable.position,
            end: self.durable,
            heirs: self.heirs(),
            may_have_lost: self.may_have_lost,
            replayed: self.replayed,
            replay_up_to: self.replay_target().max(self.replayed),
            committed: self.committed,
            generated_is_stale: facts.role == CopyRole::Passive
                && facts.connection != Connection::Up,
            serving: matches!(&self.role, Role::Active(active) if active.serving),
            degraded: rule.as_ref().is_some_and(CommitRule::is_degraded),
            rule,
            fault: self.fault.clone(),
            peers: self.peer_views(),
        }
    }

    /// The transitions since `tracker` was asked last, as of the latest step.
    pub fn transitions(&self, tracker: &mut StatusTracker) -> Vec<Transition> {
        tracker.update(self.contact.now, &self.state_facts())
    }

    /// An activation that never came to its opening frame gave nothing up.
    fn heirs(&self) -> Vec<Epoch> {
        let discards = self.assignment.iter().flat_map(|assignment| &assignment.discards);
        let epochs = discards.map(|discard| discard.epoch);
        epochs.filter(|epoch| self.table.may_contain(*epoch)).collect()
    }

    fn view_epoch(&self) -> Epoch {
        match &self.role {
            Role::Passive(passive) => passive.epoch,
            Role::Idle | Role::Activating(_) | Role::Active(_) => {
                self.own_epoch().unwrap_or(self.end.epoch)
            }
        }
    }

    /// A machine stands over files that were verified when they were opened.
    fn state_facts(&self) -> StateFacts<'_> {
        let active = self.own_epoch().is_some() || self.is_assigned();
        StateFacts {
            reach: Reach::Answers,
            role: if active { CopyRole::Active } else { CopyRole::Passive },
            active: self.active_step(),
            connection: self.connection(),
            verified: true,
            running_for: self.contact.running_for(),
            resynchronizing: self.contact.comparing || self.marking.is_some_and(|mark| mark.resync),
            seeding: self.seeding.0,
            seeding_source: self.seeding.1,
            range_repair: self.rebuilding.is_some()
                || self.marking.is_some_and(|mark| !mark.resync),
            suspension: self.suspension().unwrap_or(&NOTHING_STOPPED),
            fault: self.fault.as_ref(),
        }
    }

    fn active_step(&self) -> ActiveStep {
        match &self.role {
            Role::Active(active) if active.held_since.is_some() => ActiveStep::Held,
            Role::Active(active) if active.serving => ActiveStep::Serving,
            Role::Active(_) | Role::Activating(_) => ActiveStep::Opening,
            Role::Idle | Role::Passive(_) => ActiveStep::Closed,
        }
    }

    fn connection(&self) -> Connection {
        match &self.role {
            Role::Passive(_) => Connection::Up,
            _ if self.contact.heard => Connection::Lost,
            _ => Connection::Never,
        }
    }

    fn is_assigned(&self) -> bool {
        self.assignment.as_ref().is_some_and(|a| a.active == Some(self.config.copy))
    }

    fn peer_views(&self) -> Vec<PeerView> {
        let Role::Active(active) = &self.role else { return Vec::new() };
        let view = |(copy, peer): (&keelson_types::CopyId, &crate::active::Peer)| PeerView {
            copy: *copy,
            member: peer.member,
            matched: peer.link == PeerLink::Matched,
            durable: peer.durable,
        };
        active.peers.iter().map(view).collect()
    }
}

//! What status pages show of a copy: derived from the machine, never kept beside it.

use keelson_types::{CommitRule, CopyFault, CopyStatus, Epoch, Position};

use crate::active::{PeerLink, PeerView};
use crate::machine::{CopyMachine, Role};
use crate::passive::PassiveStep;

/// A snapshot of one copy.
#[derive(Clone, Debug)]
pub struct CopyView {
    /// The state in the vocabulary of the status page.
    pub status: CopyStatus,
    /// Epoch of the session, or the own one.
    pub epoch: Epoch,
    /// Highest epoch promised.
    pub sealed: Epoch,
    /// End of the durable log.
    pub inspected: Position,
    /// The store.
    pub replayed: Position,
    /// What is known to be committed.
    pub committed: Position,
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
    /// A snapshot for status pages.
    #[must_use]
    pub fn view(&self) -> CopyView {
        let rule = match &self.role {
            Role::Active(active) => Some(active.rule.recorded.clone()),
            Role::Idle | Role::Passive(_) | Role::Activating(_) => None,
        };
        CopyView {
            status: self.status(),
            epoch: self.view_epoch(),
            sealed: self.sealed,
            inspected: self.durable.position,
            replayed: self.replayed,
            committed: self.committed,
            serving: matches!(&self.role, Role::Active(active) if active.serving),
            degraded: rule.as_ref().is_some_and(CommitRule::is_degraded),
            rule,
            fault: self.fault.clone(),
            peers: self.peer_views(),
        }
    }

    fn view_epoch(&self) -> Epoch {
        match &self.role {
            Role::Passive(passive) => passive.epoch,
            Role::Idle | Role::Activating(_) | Role::Active(_) => {
                self.own_epoch().unwrap_or(self.end.epoch)
            }
        }
    }

    fn status(&self) -> CopyStatus {
        if self.fault.is_some() {
            return match self.fault {
                Some(CopyFault::Diverged(_) | CopyFault::CrashLoop | CopyFault::MissingLog(_)) => {
                    CopyStatus::FailedAndSuspended
                }
                _ => CopyStatus::Failed,
            };
        }
        if self.is_suspended() && self.own_epoch().is_none() {
            return CopyStatus::Suspended;
        }
        if self.rebuilding.is_some() && self.own_epoch().is_none() {
            return CopyStatus::RangeRepair;
        }
        match &self.role {
            Role::Active(active) if active.held_since.is_some() => CopyStatus::Held,
            Role::Active(active) if active.serving => CopyStatus::Mounted,
            Role::Active(_) | Role::Activating(_) => CopyStatus::Mounting,
            Role::Passive(passive) if passive.step == PassiveStep::Matched => self.passive_status(),
            Role::Passive(_) => CopyStatus::Initializing,
            Role::Idle if self.is_assigned() => CopyStatus::Dismounted,
            Role::Idle if self.answered_seal == Epoch::ZERO => CopyStatus::Initializing,
            Role::Idle => CopyStatus::DisconnectedAndHealthy,
        }
    }

    /// Caught up within one log, or on its way.
    fn passive_status(&self) -> CopyStatus {
        let end = self.durable.position;
        let near = end >= self.committed
            || end.generation == self.committed.generation
                && self.committed.offset - end.offset <= keelson_types::LOG_UNIT_BYTES;
        if near { CopyStatus::Healthy } else { CopyStatus::Resynchronizing }
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

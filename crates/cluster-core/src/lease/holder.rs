//! A member's side of the leases.

use std::time::Duration;

use keelson_types::{DatabaseId, Epoch, IncarnationId, MemberId, Tick, Weakness};

use super::{Grant, LeaseConfig};
use crate::state::{Assignment, ClusterState};

/// Grants remembered: newer ones may name a revision that the local state has not reached yet.
const GRANTS_MAX: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Held {
    until: Tick,
    revision: u64,
}

/// A pair that may serve, and until when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoveredPair {
    /// The database.
    pub database: DatabaseId,
    /// The epoch.
    pub epoch: Epoch,
    /// Absolute time on this machine's clock, for both processes.
    pub until: Tick,
}

/// What a pair's active does now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It serves until then.
    Covered(Tick),
    /// It answers nothing; the store stays open, log and shipping go on (R8).
    Held,
    /// It gives its epoch up and closes.
    Dismount,
}

/// The lease of one life of a data process.
#[derive(Clone, Debug)]
pub struct LeaseHolder {
    config: LeaseConfig,
    weakness: Weakness,
    member: MemberId,
    incarnation: IncarnationId,
    grants: Vec<Held>,
}

impl LeaseHolder {
    /// A holder without a lease.
    #[must_use]
    pub fn new(
        config: LeaseConfig,
        member: MemberId,
        incarnation: IncarnationId,
        weakness: Weakness,
    ) -> Self {
        Self { config, weakness, member, incarnation, grants: Vec::new() }
    }

    /// Takes the grant that answered a request sent at `sent` on this machine's clock. Grants to
    /// another life are ignored. A grant never shortens an earlier one.
    pub fn granted(&mut self, now: Tick, sent: Tick, grant: &Grant) {
        if grant.incarnation != self.incarnation {
            return;
        }
        let until = sent.after(self.config.for_holder(grant.duration));
        let held = Held { until, revision: grant.revision };
        self.grants.retain(|old| {
            old.until > now && (old.until > held.until || old.revision != held.revision)
        });
        if until > now {
            // The oldest ones are the first that the local state reaches.
            self.grants.truncate(GRANTS_MAX - 1);
            self.grants.push(held);
        }
    }

    /// Gives everything back: after a clean stop, or when the data process is gone.
    pub fn clear(&mut self) {
        self.grants.clear();
    }

    /// Until when the lease lasts for pairs that were assigned long ago; for status pages.
    #[must_use]
    pub fn until(&self) -> Option<Tick> {
        self.grants.iter().map(|held| held.until).max()
    }

    /// The expiry and revision to announce to the data process: the newest revision that the local
    /// state has reached, and the latest expiry granted with it. It covers the pairs assigned at or
    /// before it.
    #[must_use]
    pub fn announced(&self, now: Tick, state: &ClusterState) -> Option<(Tick, u64)> {
        let reached = state.members.get(&self.member)?.assignment_revision;
        let usable = self.grants.iter().filter(|held| held.revision <= reached && held.until > now);
        let newest = usable.max_by_key(|held| (held.revision, held.until))?;
        Some((newest.until, newest.revision))
    }

    /// Until when the pair may serve, by the local applied state; `None` if it may not (R9).
    ///
    /// A grant of revision R counts once the local state has reached R, so that a pair the leader
    /// has taken away is gone here too; and only for pairs assigned at or before R, so that it
    /// covers nothing the leader had not applied. Only the life that was bound may serve (R5).
    #[must_use]
    pub fn covered_until(
        &self,
        state: &ClusterState,
        database: DatabaseId,
        epoch: Epoch,
    ) -> Option<Tick> {
        let assignment = state.assignment(database).filter(|a| a.epoch == epoch)?;
        let here = state.databases.get(&database)?.target_member() == Some(self.member);
        if here { self.cover(state, &assignment) } else { None }
    }

    fn cover(&self, state: &ClusterState, assignment: &Assignment) -> Option<Tick> {
        // H8: a restarted active goes on in the epoch of its earlier life (S10).
        let resume = self.weakness == Weakness::ResumeAfterRestart;
        if assignment.incarnation != self.incarnation && !resume {
            return None;
        }
        let reached = state.members.get(&self.member)?.assignment_revision;
        let usable = self
            .grants
            .iter()
            .filter(|held| held.revision <= reached && assignment.assigned_at <= held.revision);
        usable.map(|held| held.until).max()
    }

    /// All pairs that may serve, with their expiry; what the control process tells the data
    /// process.
    #[must_use]
    pub fn covered(&self, now: Tick, state: &ClusterState) -> Vec<CoveredPair> {
        let pairs = state.assignments(self.member);
        let covered = pairs.filter_map(|assignment| {
            let until = self.cover(state, &assignment).filter(|until| *until > now)?;
            Some(CoveredPair { database: assignment.database, epoch: assignment.epoch, until })
        });
        covered.collect()
    }

    /// What the active of a pair does now. `lost_at` is when its cover last ended, `None` if it
    /// never had any.
    #[must_use]
    pub fn standing(
        &self,
        now: Tick,
        covered_until: Option<Tick>,
        lost_at: Option<Tick>,
        dismount_after: Duration,
    ) -> Standing {
        if let Some(until) = covered_until.filter(|until| *until > now) {
            return Standing::Covered(until);
        }
        let patience = match self.weakness {
            // H12: a leader that blinks costs every database its epoch (L1).
            Weakness::ExpiryDismounts => Duration::ZERO,
            _ => dismount_after,
        };
        match lost_at {
            Some(lost) if now.since(lost) >= patience => Standing::Dismount,
            _ => Standing::Held,
        }
    }
}

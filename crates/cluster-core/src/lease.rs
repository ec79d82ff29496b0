//! Leases: who may serve, for how long, and when the leader may be sure that nobody does.
//!
//! Two halves that share one promise. The leader's [`LeaseTable`] grants only while it provably
//! leads (R7) and only to the recorded incarnation (S9.3). The member's [`LeaseHolder`] counts a
//! grant from the moment it *sent* its request, minus the drift margin, and serves exactly the
//! (database, epoch) pairs that both the leader's and its own applied state assign to it (R9). So a
//! lease is always over for its holder before it is over for the leader.
//!
//! Expiry is a *hold* (R8): it ends no epoch. A new leader renews incumbents as soon as it has
//! applied the first entry of its own term; only moves wait out the leases of its predecessor.
//!
//! Failure behaviour: nothing here is durable. A leader that restarts begins with an empty table
//! and waits out the largest lease; a member that restarts begins with no lease.

mod holder;
mod table;

use std::time::Duration;

use keelson_types::{IncarnationId, Tick};
use serde::{Deserialize, Serialize};

pub use holder::{CoveredPair, LeaseHolder, Standing};
pub use table::{LeaseTable, RenewRequest};

/// Times of the lease protocol. Equal on all members.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseConfig {
    /// How often a member asks.
    pub renewal: Duration,
    /// Longest grant.
    pub lease: Duration,
    /// Largest difference of two clocks' speeds, in thousandths.
    pub drift_permille: u32,
    /// No voter votes for another leader within this time after the last message of one that it
    /// acknowledged, not after a restart either: so long a new leader's predecessor had sent
    /// nothing on which it could grant a lease. Zero if nobody promises that.
    #[serde(default)]
    pub loyalty: Duration,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            renewal: Duration::from_millis(150),
            lease: Duration::from_secs(1),
            drift_permille: 10,
            loyalty: Duration::ZERO,
        }
    }
}

impl LeaseConfig {
    /// A duration as its holder may use it.
    #[must_use]
    pub fn for_holder(&self, granted: Duration) -> Duration {
        granted.saturating_sub(granted * self.drift_permille / 1_000)
    }

    /// How long a new leader waits for the leases of its predecessors, of which the largest was
    /// `granted`: the last one was granted on a heartbeat that was sent before the voters fell
    /// silent, on their clocks.
    #[must_use]
    pub fn for_inheriting(&self, granted: Duration) -> Duration {
        self.for_waiting(granted).saturating_sub(self.for_holder(self.loyalty))
    }

    /// How long somebody else waits for a lease to be over.
    #[must_use]
    pub fn for_waiting(&self, granted: Duration) -> Duration {
        granted + granted * self.drift_permille / 1_000
    }
}

/// A granted lease, in a reply of the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// The life that holds it.
    pub incarnation: IncarnationId,
    /// How long it lasts, counted by the holder from when it sent the request.
    pub duration: Duration,
    /// The member's assignment revision in the leader's applied state.
    pub revision: u64,
}

/// Why a leader granted nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum LeaseRefusal {
    /// This member does not lead.
    #[error("this member is not the leader")]
    NotLeader,
    /// The leader has not applied the first entry of its own term (R7).
    #[error("the leader has not yet applied the first entry of its term")]
    TermNotApplied,
    /// No heartbeat was acknowledged by a quorum within the lease (R7).
    #[error("the leader has not heard from a majority recently")]
    NoQuorum,
    /// The state records another incarnation, or none.
    #[error("another data process is recorded for this member")]
    NotRecorded,
    /// An operator stopped the member's site (F126).
    #[error("the member's site is stopped (keelson site start)")]
    Stopped,
    /// The incarnation was certified dead or released.
    #[error("this data process was certified dead or has released its lease")]
    Ended,
    /// The predecessor of this incarnation may still hold a lease (S9.3).
    #[error("the member's previous data process may still hold a lease")]
    WaitsForPredecessor {
        /// When it is over at the latest, on the leader's clock; unknown if nothing bounds it yet.
        until: Option<Tick>,
    },
    /// The recorded incarnation holds a lease: this is a second holder of the member's identity.
    #[error("another data process of this member holds a lease")]
    SecondHolder,
}

#[cfg(test)]
mod tests;

//! What consensus records of a server: its addresses, its lives, and what operators set on it.

use keelson_types::{ActivationPolicy, IncarnationId, MemberId, MemberName, MountDial, SiteName};
use serde::{Deserialize, Serialize};

/// What an operator says about a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberConfig {
    /// Random identity, from the member's own directory.
    pub id: MemberId,
    /// The consensus library's node id.
    pub node: u64,
    /// Unique in the cluster.
    pub name: MemberName,
    /// Its datacenter.
    pub site: SiteName,
    /// `host:port` of the control process.
    pub control_address: String,
    /// `host:port` of the data process, for clients and replication; empty for a witness.
    pub data_address: String,
    /// Where the data process listens besides, for other members (F116).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replication_addresses: Vec<String>,
    /// Whether it votes.
    pub voter: bool,
}

/// A server of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Identity, name, addresses.
    #[serde(flatten)]
    pub config: MemberConfig,
    /// The life of the data process that may hold leases; none after a certificate or a clean stop.
    pub incarnation: Option<IncarnationId>,
    /// An earlier life that may still hold a lease: the recorded one gets none until this one is
    /// certified dead, released, or its lease has run out (`ConfirmIncarnation`).
    pub previous: Option<IncarnationId>,
    /// Incarnations certified dead, oldest first; never granted again.
    pub certified_dead: Vec<IncarnationId>,
    /// The recorded life whose lease ran out without a successor. It may come back; until then
    /// its copies are not waited for (review L2). A hint, never part of a proof.
    #[serde(default)]
    pub silent: Option<IncarnationId>,
    /// The life that was here while databases could be mounted, if a cold start waits for all
    /// (F16).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_permission: Option<IncarnationId>,
    /// Index of the last command that changed which (database, epoch) pairs this member serves.
    /// Every lease grant carries it.
    pub assignment_revision: u64,
    /// Which activations an operator lets it take.
    #[serde(default)]
    pub activation: MemberActivation,
    /// It is under maintenance: nothing is activated there by itself. Kept apart from what an
    /// operator set, which therefore survives it.
    #[serde(default)]
    pub maintenance: Option<Maintenance>,
    /// An operator stopped its site: it gets no lease, its copies count nowhere, it does not vote,
    /// until the site is started again (F126).
    #[serde(default)]
    pub stopped: Option<Maintenance>,
}

/// Which activations a member takes (F25-F28).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MemberActivation {
    /// Which automatic activations it takes.
    #[serde(default)]
    pub policy: ActivationPolicy,
    /// More databases than these are never active there.
    #[serde(default)]
    pub max_active: Option<u32>,
    /// More than these only where nothing better is, or on request.
    #[serde(default)]
    pub max_active_preferred: Option<u32>,
    /// Databases are moved away, and come back only where no other copy can serve.
    #[serde(default)]
    pub move_away: bool,
    /// How much may be missing from a copy there that is activated by itself (F22).
    #[serde(default)]
    pub dial: MountDial,
}

/// That a member is under maintenance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Maintenance {
    /// Wall clock of its beginning, in Unix milliseconds.
    pub since_unix_ms: u64,
    /// Why, in the operator's words.
    pub comment: String,
}

impl Member {
    /// Whether databases are to leave the member.
    #[must_use]
    pub const fn is_left(&self) -> bool {
        self.activation.move_away || self.maintenance.is_some()
    }

    /// Whether the state itself proves that no incarnation holds a lease.
    #[must_use]
    pub fn holds_no_lease(&self) -> bool {
        self.incarnation.is_none() && self.previous.is_none()
    }

    /// Whether there is no reason to wait for this member's copies: its life ended, or its lease
    /// did, or its site is stopped.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.stopped.is_some()
            || self.holds_no_lease()
            || (self.silent.is_some() && self.silent == self.incarnation)
    }

    /// Whether the state itself proves that `incarnation` can hold no lease any more: it was
    /// certified, released, or succeeded by a confirmed one.
    #[must_use]
    pub fn is_over(&self, incarnation: IncarnationId) -> bool {
        self.incarnation != Some(incarnation) && self.previous != Some(incarnation)
    }
}

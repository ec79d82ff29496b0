//! Names the types with which the consensus library works here.
//!
//! A consensus node carries the member's id, name and control address, so that a voter can reach
//! the others before it has applied a single command. Node ids are the first eight bytes of the
//! member id: equal for the whole life of a data directory, and never typed in by a person.

use std::fmt;
use std::io::Cursor;

use keelson_cluster_core::{Command, Outcome};
use keelson_types::MemberId;
use serde::{Deserialize, Serialize};

/// A consensus node id, see [`node_id`].
pub type NodeId = u64;

/// The node id of a member.
#[must_use]
pub fn node_id(member: MemberId) -> NodeId {
    let bytes = member.into_bytes();
    let mut head = [0; 8];
    head.copy_from_slice(&bytes[..8]);
    u64::from_be_bytes(head)
}

/// Where a consensus node is, as recorded in the consensus membership.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterNode {
    /// The member.
    pub member: MemberId,
    /// Its name, for messages.
    pub name: String,
    /// `host:port` of its control process.
    pub control_address: String,
}

impl Default for ClusterNode {
    fn default() -> Self {
        let member = MemberId::from_u128(0);
        Self { member, name: String::new(), control_address: String::new() }
    }
}

impl fmt::Display for ClusterNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.control_address)
    }
}

openraft::declare_raft_types!(
    /// The types of the consensus library.
    pub(crate) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = NodeId,
        Node = ClusterNode,
        SnapshotData = Cursor<Vec<u8>>,
);

/// The consensus library, with these types.
pub(crate) type Raft = openraft::Raft<TypeConfig>;
/// A log entry.
pub(crate) type Entry = openraft::Entry<TypeConfig>;
/// Term, proposer and index of an entry.
pub(crate) type LogId = openraft::LogId<NodeId>;
/// The membership with the entry that recorded it.
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, ClusterNode>;
/// What a snapshot covers.
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, ClusterNode>;
/// A term, its candidate, and whether a majority granted it.
pub(crate) type Vote = openraft::Vote<NodeId>;
/// The library's storage error: shuts the node down.
pub(crate) type StorageError = openraft::StorageError<NodeId>;

//! What the active manager and a data process say to each other: seals and mounts.

use keelson_types::{
    Ceiling, CommitRule, CopyFault, CopyId, DatabaseId, Epoch, LogEnd, MemberId, Position, StreamId,
};
use serde::{Deserialize, Serialize};

use crate::criteria::CopyHealth;
use crate::state::CopyKind;

/// One database in a `SealMany` request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SealItem {
    /// The database. A recorded copy that does not exist on disk yet is created before the answer.
    pub database: DatabaseId,
    /// Lower epochs are refused from the answer on, durably.
    pub epoch: Epoch,
}

/// A copy's durable promise to refuse epochs below `sealed`, and what it holds. Sent after acks of
/// lower epochs were stopped, the fsync in flight was over and the promise was persisted (S5).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealReply {
    /// The copy's id as its control file has it.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// The epoch promised.
    pub sealed: Epoch,
    /// Durable end of its log.
    pub end: LogEnd,
    /// The highest committed position it knows of.
    pub committed: Position,
    /// Replayed position of its store.
    pub replayed: Position,
    /// Why it cannot be activated. Log faults also make it unreached; others leave it a source.
    pub fault: Option<CopyFault>,
    /// Its log was wiped or cut by more than a proven torn tail since it was admitted (R4).
    pub may_have_lost: bool,
    /// Whether it replays without lag.
    pub ha: bool,
    /// How well it and its member are, for the order of candidates only.
    #[serde(default)]
    pub health: CopyHealth,
}

/// Why a member did not seal a copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealRefusal {
    /// It holds no copy of this database.
    UnknownCopy,
    /// It promised a higher epoch before.
    HigherEpoch(Epoch),
    /// The promise could not be made durable.
    NotPersisted,
    /// The copy cannot say what it holds.
    Fault(CopyFault),
}

/// The answer of one copy to a seal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealAnswer {
    /// The database asked for.
    pub database: DatabaseId,
    /// The epoch asked for.
    pub epoch: Epoch,
    /// What came back.
    pub result: Result<SealReply, SealRefusal>,
}

/// A holder of log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Source {
    /// The member to fetch from.
    pub member: MemberId,
    /// Its copy.
    pub copy: CopyId,
    /// Durable end of its log at the seal.
    pub end: LogEnd,
}

/// Another copy of the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// HA or lagged.
    pub kind: CopyKind,
}

/// The order to become active. Idempotent: the same life of a data process answers a repetition
/// from what it already did. A copy that holds frames of `epoch` from an earlier life refuses (R5).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MountOrder {
    /// The database.
    pub database: DatabaseId,
    /// Identity of its log.
    pub stream: StreamId,
    /// The epoch to open.
    pub epoch: Epoch,
    /// The copy to open it.
    pub target: CopyId,
    /// The rule under which the opening frame must be committed before anything is served (R2).
    pub rule: CommitRule,
    /// The log must end exactly here before the opening frame: less is fetched, more is a fork and
    /// cut.
    pub required_end: LogEnd,
    /// Where to fetch, holders of the highest end first; without the target.
    pub sources: Vec<Source>,
    /// The active commits nothing behind it, until another one is recorded.
    pub ceiling: Option<Ceiling>,
    /// All other copies.
    pub peers: Vec<Peer>,
}

/// Why a mount did not succeed. Every failure leads to a new attempt in its own epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountFailure {
    /// The copy promised a higher epoch, or used this one in an earlier life.
    StaleEpoch(Epoch),
    /// The copy of that id is not here.
    UnknownCopy,
    /// The required log end could not be fetched from any source.
    LogNotFetched,
    /// The copy failed.
    Fault(CopyFault),
    /// The member did not answer in time.
    Timeout,
    /// The member could not be reached.
    Unreachable,
}

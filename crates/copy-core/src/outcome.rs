//! How a copy answers seals, mount orders and offers, and why it stops serving.

use keelson_types::{CopyFault, Epoch, LogEnd, Position};

/// A seal's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealAnswer {
    /// End of the durable log.
    pub end: LogEnd,
    /// What this copy knows to be committed.
    pub committed: Position,
    /// Where its store stands.
    pub replayed: Position,
    /// It may have lost log that it acknowledged.
    pub may_have_lost: bool,
    /// It cannot be activated, but may serve as a source of log.
    pub fault: Option<CopyFault>,
}

/// Why a copy does not let itself be sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SealRefusal {
    /// It is sealed for a higher epoch.
    SealedHigher(Epoch),
    /// It is active, being activated, or takes the log of the active in this very epoch: a late or
    /// repeated request, for the epoch has its active.
    EpochInUse(Epoch),
    /// Another seal came before this one was durable.
    Superseded(Epoch),
    /// Its log or control file failed.
    Failed(CopyFault),
}

/// Why a mount order was not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountFailure {
    /// The copy is sealed for a higher epoch, or an epoch is over for it that it had opened before.
    SealedHigher(Epoch),
    /// No source could deliver the missing log.
    NoSource,
    /// Its own log goes on where the sources' does not, and its store holds some of that.
    Diverged,
    /// The copy failed.
    Failed(CopyFault),
    /// The epoch ended before the opening frame was committed.
    Stopped,
}

/// Why a passive refuses an active's offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenRefusal {
    /// It is sealed for this higher epoch.
    SealedHigher(Epoch),
    /// Its store holds frames that the active's log does not have, or the streams differ.
    Diverged,
    /// It cannot take the log at the moment (sealing, activating, cutting); offer again.
    Busy,
    /// It failed.
    Failed,
    /// An operator suspended it.
    Suspended,
}

/// Why an active stops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// A higher epoch exists.
    Deposed(Epoch),
    /// It was told to.
    Dismounted,
    /// No lease for longer than `dismount_after`.
    LeaseGone,
    /// Its log or store failed.
    Failed(CopyFault),
    /// The process restarted; an epoch is never resumed (R5).
    Restarted,
}

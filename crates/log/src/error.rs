//! Why a log call failed.

use keelson_env::DiskError;
use keelson_format::VerifyErrorKind;
use keelson_types::{Generation, Position, StreamId};

use crate::Damage;

/// Why a log call failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogError {
    /// The volume is full. Nothing of the call remains; it may be repeated when space returns.
    #[error("the log's volume is full")]
    NoSpace,
    /// An earlier write or sync failed; what it wrote counts as lost. The log must be closed, and
    /// the epoch ends (review S10).
    #[error("the log is poisoned by an earlier failure")]
    Poisoned(#[source] DiskError),
    /// A disk call failed that changed nothing.
    #[error("a disk call failed")]
    Disk(#[from] DiskError),
    /// The log is damaged: what lies behind the damage was durable and is not readable.
    #[error("the log is damaged: {0}")]
    Damaged(Damage),
    /// The chunk does not begin where the log ends.
    #[error("a chunk at {found} does not continue the log, which ends at {expected}")]
    NotContiguous {
        /// Where the log ends.
        expected: Position,
        /// Where the chunk begins.
        found: Position,
    },
    /// A generation header does not fit the log.
    #[error("the header of generation {generation} does not continue the log: {kind}")]
    Header {
        /// The generation.
        generation: Generation,
        /// Why.
        kind: VerifyErrorKind,
    },
    /// No frame begins or ends there.
    #[error("{0} is not a border between frames of this log")]
    NotABorder(Position),
    /// The log before `first` was truncated.
    #[error("{wanted} was truncated; the log begins with generation {first}")]
    Truncated {
        /// What was asked for.
        wanted: Position,
        /// First generation that is kept.
        first: Generation,
    },
    /// The files belong to another log stream.
    #[error("the log belongs to stream {found}, not {expected}")]
    WrongStream {
        /// The copy's stream.
        expected: StreamId,
        /// What the files say.
        found: StreamId,
    },
    /// A directory to be looked into has no generation file.
    #[error("there is no generation file, so this is no log")]
    NoLog,
    /// A file of a later version of the format.
    #[error("generation {generation} has format version {version}, newer than this program knows")]
    NewerFormat {
        /// The generation.
        generation: Generation,
        /// Its version.
        version: u32,
    },
}

impl LogError {
    /// Stable code for status and errors.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoSpace => "log_no_space",
            Self::Poisoned(_) => "log_poisoned",
            Self::Disk(_) => "log_disk",
            Self::Damaged(_) => "log_damaged",
            Self::NotContiguous { .. } => "log_not_contiguous",
            Self::Header { .. } => "log_header",
            Self::NotABorder(_) => "log_not_a_border",
            Self::Truncated { .. } => "log_truncated",
            Self::WrongStream { .. } => "log_wrong_stream",
            Self::NoLog => "log_missing",
            Self::NewerFormat { .. } => "log_newer_format",
        }
    }

    /// Maps a failed call that may have been refused for lack of space and changed nothing.
    pub(crate) fn from_disk(error: DiskError) -> Self {
        if error.is_no_space() { Self::NoSpace } else { Self::Disk(error) }
    }
}

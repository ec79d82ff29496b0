//! Positions in a log stream and ends of logs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number of a log file in its stream, from 1.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A border between frames: the byte offset in a generation's file at which the next frame starts.
/// `Position::ZERO` lies before everything. Two copies of one stream agree on the bytes before a
/// position up to which their chains match.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Position {
    /// The file.
    pub generation: Generation,
    /// The offset in it, in bytes, from the start of the file (headers count).
    pub offset: u64,
}

impl Position {
    /// Before everything: what an empty log has.
    pub const ZERO: Self = Self { generation: Generation(0), offset: 0 };

    /// A position from its two numbers.
    #[must_use]
    pub const fn new(generation: u64, offset: u64) -> Self {
        Self { generation: Generation(generation), offset }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation, self.offset)
    }
}

/// The end of a log: the epoch of its last frame, then the position behind it. Ends compare by the
/// epoch first; comparing positions alone would prefer a long, discarded fork (review S3, R3).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct LogEnd {
    /// Epoch of the last frame; `Epoch::ZERO` for an empty log.
    pub epoch: crate::Epoch,
    /// Position behind the last frame.
    pub position: Position,
}

impl LogEnd {
    /// The end of an empty log.
    pub const ZERO: Self = Self { epoch: crate::Epoch::ZERO, position: Position::ZERO };
}

impl fmt::Display for LogEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.position)
    }
}

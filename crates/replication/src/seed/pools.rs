//! The threads of both sides of seeds.

use crate::pool::Pool;

/// Work that the other side waits for within seconds never waits behind work that takes as long as
/// a disk takes to be read: each has threads of its own.
#[derive(Debug)]
pub(crate) struct SeedPools {
    /// Chunks that are read or written, and files that are made durable: of all seeds in turn.
    pub(crate) chunks: Pool,
    /// Checkpoints that are made: one thread for each turn.
    pub(crate) builds: Pool,
    /// Directories that are looked through, put in place and removed.
    pub(crate) chores: Pool,
}

impl SeedPools {
    pub(crate) fn start() -> std::io::Result<Self> {
        Ok(Self {
            // So that reading or hashing goes beside writing.
            chunks: Pool::start("seed", 2)?,
            builds: Pool::start("seed-build", super::source::BUILDS_AT_ONCE)?,
            chores: Pool::start("seed-chore", 1)?,
        })
    }
}

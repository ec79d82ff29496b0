//! A copy's store on RocksDB; the only crate that names it.
//!
//! [`StoreFactory`] opens [`RocksStore`]s that share one block cache, one bound for memtables and a
//! few background threads. Replay writes effects and position in one batch; there is no write-ahead
//! log beside the copy's own, so a flush is an atomic prefix of the log and the position in it is
//! the checkpoint. `DESIGN.md` has the key layout, the crash cases and the measurements.

mod batch;
mod error;
mod factory;
mod keys;
mod manifest;
mod open_stores;
mod rescue;
mod rocks_store;
mod snapshot;
mod table_file;
mod verify;

use std::time::Duration;

pub use factory::{StoreFactory, StoreLimits, StoreMemory};
pub use keys::FORMAT_VERSION;
pub use rocks_store::RocksStore;

/// Log bytes replayed behind the checkpoint at which it should move (the checkpoint depth of the
/// model).
pub const CHECKPOINT_BYTES: u64 = 100 * 1024 * 1024;

/// Age of the oldest replayed frame behind the checkpoint at which it should move.
pub const CHECKPOINT_AGE: Duration = Duration::from_secs(15 * 60);

/// Whether the caller should call `checkpoint`: by log replayed behind the checkpoint, and by the
/// age of the oldest frame there, so that a slow database lets its log be truncated too.
#[must_use]
pub fn should_checkpoint(uncheckpointed_bytes: u64, age: Duration) -> bool {
    uncheckpointed_bytes >= CHECKPOINT_BYTES || (uncheckpointed_bytes > 0 && age >= CHECKPOINT_AGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_by_bytes_or_by_age_of_something() {
        assert!(should_checkpoint(CHECKPOINT_BYTES, Duration::ZERO));
        assert!(!should_checkpoint(CHECKPOINT_BYTES - 1, Duration::ZERO));
        assert!(should_checkpoint(1, CHECKPOINT_AGE));
        assert!(!should_checkpoint(0, CHECKPOINT_AGE * 2));
    }
}

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

pub use factory::{StoreFactory, StoreLimits, StoreMemory};
pub use keys::FORMAT_VERSION;
pub use rocks_store::RocksStore;

//! Ports to the outside world, with in-memory versions that have crash semantics.
//!
//! `Disk` is what the log needs of files, `KvStore` what a copy needs of its store. The real disk
//! lives in `log`, the real store in `store`; both pass the same conformance suites as the versions
//! here.

mod disk;
mod kv_encoding;
mod kv_store;
pub mod kv_suite;
mod mem_store;
mod sim_disk;

pub mod disk_conformance;

pub use disk::{
    DirEntry, Disk, DiskError, DiskErrorKind, DiskFile, DiskResult, DiskVerb, ReadTotals,
};
pub use kv_encoding::{
    KvDigest, LOG_END_BYTES, POSITION_KEY, SCHEMA_KEY, SESSION_PREFIX, SYSTEM_PREFIX, USER_PREFIX,
    log_end_from_bytes, log_end_to_bytes,
};
pub use kv_store::{
    KvSnapshot, KvStore, ReplayFrame, Rescued, ScanItem, SessionState, StoreError, StoreItem,
    StoreOpener, Verified, check_items, check_order, digest_ended,
};
pub use mem_store::{MemStore, MemStoreOpener};
pub use sim_disk::{SimDisk, SplitMix64};

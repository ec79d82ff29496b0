//! The port to files: everything that the log and the control file ask of a disk.
//!
//! Calls block. Nothing is durable before a [`DiskFile::sync`] (bytes and length) or a
//! [`Disk::sync_dir`] (names) has returned successfully. After a *failed* sync the bytes written
//! before it must be treated as lost, even if a later sync succeeds and reads still show them
//! (review S10).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What was tried when a disk call failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskVerb {
    /// Creating a directory.
    CreateDir,
    /// Listing a directory.
    List,
    /// Opening a file.
    Open,
    /// Creating a file.
    Create,
    /// Removing a file.
    Remove,
    /// Renaming a file.
    Rename,
    /// Making the names in a directory durable.
    SyncDir,
    /// Asking for free space or for the state of a name.
    Query,
    /// Reading bytes.
    Read,
    /// Writing bytes.
    Write,
    /// Making bytes durable.
    Sync,
    /// Changing the length of a file.
    SetLen,
    /// Reserving space.
    Allocate,
    /// Dropping cached bytes.
    DropCache,
}

impl fmt::Display for DiskVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CreateDir => "create directory",
            Self::List => "list",
            Self::Open => "open",
            Self::Create => "create",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::SyncDir => "sync directory",
            Self::Query => "query",
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::SetLen => "set the length of",
            Self::Allocate => "allocate space for",
            Self::DropCache => "drop the cache of",
        })
    }
}

/// Why a disk call failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskErrorKind {
    /// No such file or directory.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The volume, or the quota on it, is full. Some of the bytes may have been written.
    NoSpace,
    /// Not allowed, or the disk was opened for reading only.
    Denied,
    /// The simulated machine crashed; only tests see this.
    Crashed,
    /// Anything else, in the words of the operating system.
    Io(String),
}

impl fmt::Display for DiskErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("not found"),
            Self::AlreadyExists => f.write_str("it exists already"),
            Self::NoSpace => f.write_str("no space left on the volume"),
            Self::Denied => f.write_str("permission denied"),
            Self::Crashed => f.write_str("the simulated machine has crashed"),
            Self::Io(text) => f.write_str(text),
        }
    }
}

/// A failed disk call: what was tried, on which file, and why it failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot {verb} {}: {kind}", path.display())]
pub struct DiskError {
    /// The file or directory.
    pub path: PathBuf,
    /// What was tried.
    pub verb: DiskVerb,
    /// Why it failed.
    pub kind: DiskErrorKind,
}

impl DiskError {
    /// An error value from its three parts.
    #[must_use]
    pub fn new(path: &Path, verb: DiskVerb, kind: DiskErrorKind) -> Self {
        Self { path: path.to_path_buf(), verb, kind }
    }

    /// Whether the volume is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        self.kind == DiskErrorKind::NoSpace
    }

    /// Whether the file or directory does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == DiskErrorKind::NotFound
    }
}

/// Result of a disk call.
pub type DiskResult<T> = Result<T, DiskError>;

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    /// The name, without its directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A volume with directories and files.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a directory and all its parents; nothing happens if it exists.
    ///
    /// # Errors
    /// [`DiskError`] says what failed.
    fn create_dir_all(&self, path: &Path) -> DiskResult<()>;

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory.
    fn list(&self, path: &Path) -> DiskResult<Vec<DirEntry>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    fn open(&self, path: &Path) -> DiskResult<Arc<dyn DiskFile>>;

    /// Creates an empty file. Its name is durable only after [`Self::sync_dir`] of its directory.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> DiskResult<Arc<dyn DiskFile>>;

    /// Removes a file. Durable only after [`Self::sync_dir`].
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    fn remove(&self, path: &Path) -> DiskResult<()>;

    /// Renames a file, replacing a file of the new name. Durable only after [`Self::sync_dir`] of
    /// both directories. Open handles stay with the file.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    fn rename(&self, from: &Path, to: &Path) -> DiskResult<()>;

    /// Whether a file or directory exists.
    ///
    /// # Errors
    /// [`DiskError`] if that cannot be found out.
    fn exists(&self, path: &Path) -> DiskResult<bool>;

    /// Makes creations, removals and renames in a directory durable.
    ///
    /// # Errors
    /// [`DiskError`]; afterwards the names are in an unknown state.
    fn sync_dir(&self, path: &Path) -> DiskResult<()>;

    /// Bytes that may still be written to the volume that holds `path`, or to a directory with a
    /// quota that contains it: whatever is less.
    ///
    /// # Errors
    /// [`DiskError`] if the volume does not answer.
    fn free_bytes(&self, path: &Path) -> DiskResult<u64>;

    /// What the volume that holds `path` has in all, or a quota that limits it: whatever is less;
    /// nothing where nobody knows.
    fn total_bytes(&self, path: &Path) -> Option<u64> {
        let _ = path;
        None
    }

    /// When a file was written last, in Unix milliseconds; nothing where nobody knows.
    fn written_unix_ms(&self, path: &Path) -> Option<u64> {
        let _ = path;
        None
    }

    /// Reads of the device that holds `path` since the machine started; nothing where the system
    /// does not count them.
    fn read_totals(&self, path: &Path) -> Option<ReadTotals> {
        let _ = path;
        None
    }
}

/// Completed reads of a device, and the time that they took together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadTotals {
    /// Reads.
    pub reads: u64,
    /// Milliseconds.
    pub millis: u64,
}

impl ReadTotals {
    /// Mean latency of the reads since `earlier`: zero if there were none, since a disk that nobody
    /// waits for is not busy; nothing if the counters went back.
    #[must_use]
    pub fn mean_since(&self, earlier: &Self) -> Option<Duration> {
        let reads = self.reads.checked_sub(earlier.reads)?;
        let micros = self.millis.saturating_sub(earlier.millis).saturating_mul(1_000);
        Some(Duration::from_micros(micros / reads.max(1)))
    }
}

/// An open file. All methods take offsets, so that several threads may share a handle.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Length in bytes.
    ///
    /// # Errors
    /// [`DiskError`] says what failed.
    fn size(&self) -> DiskResult<u64>;

    /// Fills `buffer` from `offset`; returns fewer bytes than asked for only at the end of the
    /// file.
    ///
    /// # Errors
    /// [`DiskError`] says what failed.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> DiskResult<usize>;

    /// Writes all of `bytes` at `offset`, growing the file if needed (a gap reads as zeros).
    ///
    /// # Errors
    /// After `NoSpace` or any other error a part of the bytes may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> DiskResult<()>;

    /// Writes all parts one behind the other from `offset`, in as few system calls as possible.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    fn write_parts_at(&self, offset: u64, parts: &[&[u8]]) -> DiskResult<()> {
        let mut at = offset;
        for part in parts {
            self.write_at(at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Makes all bytes and the length durable.
    ///
    /// # Errors
    /// After an error everything written since the last successful sync counts as lost.
    fn sync(&self) -> DiskResult<()>;

    /// Cuts or extends (with zeros) the file. Durable after [`Self::sync`].
    ///
    /// # Errors
    /// [`DiskError`] says what failed.
    fn set_len(&self, bytes: u64) -> DiskResult<()>;

    /// Reserves space for `offset..offset + bytes`, extending the file with zeros if it is shorter.
    ///
    /// # Errors
    /// `NoSpace` if the volume cannot hold it.
    fn allocate(&self, offset: u64, bytes: u64) -> DiskResult<()>;

    /// Forgets cached bytes that are not waiting to be written, so that the next read shows what
    /// the disk holds. Call [`Self::sync`] first to have all bytes written.
    ///
    /// # Errors
    /// [`DiskError`] says what failed.
    fn drop_cache(&self) -> DiskResult<()>;
}

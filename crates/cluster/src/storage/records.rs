//! The tables of the consensus file, and the only code that touches them. Everything here blocks.

use std::fs::OpenOptions;
use std::ops::{Bound, RangeBounds};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use keelson_types::ClusterId;
use nix::fcntl::{FallocateFlags, fallocate};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{FORMAT_VERSION, StorageFault};
use crate::raft_types::{Entry, LogId, SnapshotMeta, Vote};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const SNAPSHOT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshot");

const KEY_FORMAT: &str = "format_version";
const KEY_ORIGIN: &str = "origin";
const KEY_ADDRESS: &str = "address";
const KEY_VOTE: &str = "vote";
const KEY_COMMITTED: &str = "committed";
const KEY_PURGED: &str = "purged";
const KEY_SNAPSHOT_META: &str = "meta";
const KEY_SNAPSHOT_BODY: &str = "body";

/// Memory for pages of the file.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// To which cluster this member belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// True if this member made it, false if it was told to join.
    pub(crate) founded_here: bool,
    /// Recovery generation of the consensus that the file is of (S19).
    #[serde(default)]
    pub(crate) recovery: u32,
}

/// What the system counts the blocks of a file in.
const BLOCK_BYTES: u64 = 512;

/// Bytes taken behind the end of a file that is still small.
const AHEAD_BYTES_MIN: u64 = 2 * 1024 * 1024;

/// The open file.
#[derive(Debug)]
pub(super) struct Records {
    database: Database,
    /// Newest committed entry; written with the next transaction.
    committed: Option<LogId>,
    path: PathBuf,
    /// The consensus of this life was forgotten for a higher generation: nothing of it is written
    /// any more.
    left_behind: Option<u32>,
}

fn io<E: Into<redb::Error>>(action: &'static str) -> impl FnOnce(E) -> StorageFault {
    move |error| StorageFault::Io { action, source: Box::new(error.into()) }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records of the consensus file have string keys only")
}

fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StorageFault> {
    serde_json::from_slice(bytes).map_err(|source| StorageFault::Malformed { what, source })
}

impl Records {
    pub(super) fn open(path: PathBuf) -> Result<Self, StorageFault> {
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create(&path);
        let database = opened.map_err(|source| match source {
            redb::DatabaseError::DatabaseAlreadyOpen => StorageFault::InUse { path: path.clone() },
            source => StorageFault::Open { path: path.clone(), source },
        })?;
        let mut records = Self { database, committed: None, path: path.clone(), left_behind: None };
        records.check_format(path)?;
        records.allocate();
        records.committed = records.meta(KEY_COMMITTED)?;
        Ok(records)
    }

    /// Writes the format into a new file; refuses a newer one before anything else is read.
    fn check_format(&mut self, path: PathBuf) -> Result<(), StorageFault> {
        let write = self.database.begin_write().map_err(io("opening"))?;
        write.open_table(LOG).map_err(io("opening"))?;
        write.open_table(SNAPSHOT).map_err(io("opening"))?;
        let found = {
            let mut meta = write.open_table(META).map_err(io("opening"))?;
            let found = meta.get(KEY_FORMAT).map_err(io("reading"))?;
            let found =
                found.map(|guard| decode::<u32>("the format", guard.value())).transpose()?;
            if found.is_none() {
                meta.insert(KEY_FORMAT, encode(&FORMAT_VERSION).as_slice())
                    .map_err(io("writing"))?;
            }
            found
        };
        match found {
            Some(found) if found > FORMAT_VERSION => {
                Err(StorageFault::NewerFormat { path, found, known: FORMAT_VERSION })
            }
            Some(_) => write.abort().map_err(io("reading")),
            None => write.commit().map_err(io("writing")),
        }
    }

    fn meta<T: DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, StorageFault> {
        let read = self.database.begin_read().map_err(io("reading"))?;
        let meta = read.open_table(META).map_err(io("reading"))?;
        let value = meta.get(key).map_err(io("reading"))?;
        value.map(|guard| decode(key, guard.value())).transpose()
    }

    /// One transaction, one sync. The committed index rides along.
    fn write(
        &mut self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), StorageFault>,
    ) -> Result<(), StorageFault> {
        if let Some(generation) = self.left_behind {
            return Err(StorageFault::LeftBehind { generation });
        }
        let write = self.database.begin_write().map_err(io("writing"))?;
        change(&write)?;
        if let Some(committed) = &self.committed {
            put_meta(&write, KEY_COMMITTED, committed)?;
        }
        write.commit().map_err(io("syncing"))?;
        self.allocate();
        Ok(())
    }

    /// Takes the blocks of holes in the file, and as many again behind its end: the library makes
    /// it longer in leaps, and a page that has no block yet could not be written once the volume is
    /// full. Then the member would lose its vote for want of a few bytes (G7). What is there is
    /// asked of the file itself, because the library also makes it shorter, and what was behind the
    /// end is gone then. Without room now it is tried again at each write.
    fn allocate(&self) {
        let (length, blocks) = match std::fs::metadata(&self.path) {
            Ok(file) => (file.len(), file.blocks() * BLOCK_BYTES),
            Err(_) => return,
        };
        let ahead = length.max(AHEAD_BYTES_MIN);
        if length + ahead / 2 <= blocks {
            return;
        }
        let Ok(file) = OpenOptions::new().write(true).open(&self.path) else { return };
        for bytes in [length + ahead, length] {
            let whole = i64::try_from(bytes).unwrap_or(i64::MAX);
            if fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, whole).is_ok() {
                return;
            }
        }
    }

    pub(super) fn origin(&self) -> Result<Option<Origin>, StorageFault> {
        self.meta(KEY_ORIGIN)
    }

    pub(super) fn set_origin(&mut self, origin: &Origin) -> Result<(), StorageFault> {
        match self.origin()? {
            Some(old) if old.cluster == origin.cluster => Ok(()),
            Some(old) => Err(StorageFault::OtherCluster(old.cluster)),
            None => self.write(|write| put_meta(write, KEY_ORIGIN, origin)),
        }
    }

    pub(super) fn address(&self) -> Result<Option<String>, StorageFault> {
        self.meta(KEY_ADDRESS)
    }

    pub(super) fn set_address(&mut self, address: &str) -> Result<(), StorageFault> {
        self.write(|write| put_meta(write, KEY_ADDRESS, &address))
    }

    pub(super) fn vote(&self) -> Result<Option<Vote>, StorageFault> {
        self.meta(KEY_VOTE)
    }

    pub(super) fn set_vote(&mut self, vote: &Vote) -> Result<(), StorageFault> {
        self.write(|write| put_meta(write, KEY_VOTE, vote))
    }

    pub(super) fn committed(&self) -> Option<LogId> {
        self.committed
    }

    pub(super) fn set_committed(&mut self, committed: Option<LogId>) {
        self.committed = committed;
    }

    pub(super) fn purged(&self) -> Result<Option<LogId>, StorageFault> {
        self.meta(KEY_PURGED)
    }

    pub(super) fn last(&self) -> Result<Option<LogId>, StorageFault> {
        let read = self.database.begin_read().map_err(io("reading"))?;
        let log = read.open_table(LOG).map_err(io("reading"))?;
        let last = log.last().map_err(io("reading"))?;
        last.map(|(_, guard)| decode::<Entry>("an entry", guard.value()).map(|entry| entry.log_id))
            .transpose()
    }

    /// The last entry, or the last one that was purged.
    pub(super) fn last_or_purged(&self) -> Result<Option<LogId>, StorageFault> {
        Ok(self.last()?.or(self.purged()?))
    }

    /// Entries of `range`, in order, until they have more than `bytes_max` bytes; at least one if
    /// any.
    pub(super) fn entries(
        &self,
        range: (Bound<u64>, Bound<u64>),
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageFault> {
        let read = self.database.begin_read().map_err(io("reading"))?;
        let log = read.open_table(LOG).map_err(io("reading"))?;
        if is_empty(&range) {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        for item in log.range::<u64>(range).map_err(io("reading"))? {
            let (_, guard) = item.map_err(io("reading"))?;
            bytes += guard.value().len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(decode("an entry", guard.value())?);
        }
        Ok(entries)
    }

    /// Adds entries behind the last one. Durable when it returns.
    pub(super) fn append(&mut self, entries: &[(u64, Vec<u8>)]) -> Result<(), StorageFault> {
        self.write(|write| {
            let mut log = write.open_table(LOG).map_err(io("writing"))?;
            for (index, bytes) in entries {
                log.insert(index, bytes.as_slice()).map_err(io("writing"))?;
            }
            Ok(())
        })
    }

    /// Removes the entry `from` and all behind it: they were never committed.
    pub(super) fn truncate(&mut self, from: u64) -> Result<(), StorageFault> {
        self.write(|write| {
            let mut log = write.open_table(LOG).map_err(io("writing"))?;
            log.retain_in(from.., |_, _| false).map_err(io("writing"))
        })
    }

    /// Removes the entries up to and including `upto`: a snapshot covers them.
    pub(super) fn purge(&mut self, upto: LogId) -> Result<(), StorageFault> {
        self.write(|write| {
            put_meta(write, KEY_PURGED, &upto)?;
            let mut log = write.open_table(LOG).map_err(io("writing"))?;
            log.retain_in(..=upto.index, |_, _| false).map_err(io("writing"))
        })
    }

    pub(super) fn snapshot(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StorageFault> {
        let read = self.database.begin_read().map_err(io("reading"))?;
        let table = read.open_table(SNAPSHOT).map_err(io("reading"))?;
        let meta = table.get(KEY_SNAPSHOT_META).map_err(io("reading"))?;
        let body = table.get(KEY_SNAPSHOT_BODY).map_err(io("reading"))?;
        let (Some(meta), Some(body)) = (meta, body) else { return Ok(None) };
        Ok(Some((decode("the snapshot's head", meta.value())?, body.value().to_vec())))
    }

    /// Puts this in the place of everything that the file says of consensus, in one transaction.
    /// What it said before is kept in a copy beside it, durable first. Returns the copy's path.
    pub(super) fn replace_all(&mut self, new: &NewConsensus) -> Result<PathBuf, StorageFault> {
        let aside = self.copy_aside()?;
        self.committed = new.snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
        self.write(|write| {
            let mut log = write.open_table(LOG).map_err(io("writing"))?;
            log.retain(|_, _| false).map_err(io("writing"))?;
            let mut meta = write.open_table(META).map_err(io("writing"))?;
            for key in [KEY_VOTE, KEY_COMMITTED, KEY_PURGED] {
                meta.remove(key).map_err(io("writing"))?;
            }
            let mut snapshot = write.open_table(SNAPSHOT).map_err(io("writing"))?;
            snapshot.retain(|_, _| false).map_err(io("writing"))?;
            drop((meta, snapshot));
            put_meta(write, KEY_ORIGIN, &new.origin)?;
            let Some((head, body)) = &new.snapshot else { return Ok(()) };
            put_snapshot(write, head, body)?;
            put_meta(write, KEY_VOTE, &new.vote)?;
            put_meta(write, KEY_PURGED, &head.last_log_id)
        })?;
        Ok(aside)
    }

    /// From now on nothing is written: this life goes on with what the file said before.
    pub(super) const fn leave_behind(&mut self, generation: u32) {
        self.left_behind = Some(generation);
    }

    fn copy_aside(&self) -> Result<PathBuf, StorageFault> {
        let recovery = self.origin()?.map_or(0, |origin| origin.recovery);
        let aside = self.path.with_file_name(format!("consensus-recovery-{recovery}.redb"));
        let copied = std::fs::copy(&self.path, &aside).and_then(|_| {
            OpenOptions::new().read(true).open(&aside)?.sync_all()?;
            let directory = self.path.parent().unwrap_or(Path::new("."));
            std::fs::File::open(directory)?.sync_all()
        });
        match copied {
            Ok(()) => Ok(aside),
            Err(source) => Err(StorageFault::Aside { path: aside, source }),
        }
    }

    /// Replaces the snapshot.
    pub(super) fn set_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        body: &[u8],
    ) -> Result<(), StorageFault> {
        self.write(|write| put_snapshot(write, meta, body))
    }
}

/// What a file says of consensus after a recovery.
#[derive(Debug)]
pub(super) struct NewConsensus {
    pub(super) origin: Origin,
    /// Written with a snapshot only.
    pub(super) vote: Vote,
    /// Covers everything; none for a member that waits to be taken in.
    pub(super) snapshot: Option<(SnapshotMeta, Vec<u8>)>,
}

fn put_snapshot(
    write: &redb::WriteTransaction,
    meta: &SnapshotMeta,
    body: &[u8],
) -> Result<(), StorageFault> {
    let mut table = write.open_table(SNAPSHOT).map_err(io("writing"))?;
    table.insert(KEY_SNAPSHOT_META, encode(meta).as_slice()).map_err(io("writing"))?;
    table.insert(KEY_SNAPSHOT_BODY, body).map_err(io("writing"))?;
    Ok(())
}

fn put_meta<T: Serialize>(
    write: &redb::WriteTransaction,
    key: &'static str,
    value: &T,
) -> Result<(), StorageFault> {
    let mut meta = write.open_table(META).map_err(io("writing"))?;
    meta.insert(key, encode(value).as_slice()).map_err(io("writing"))?;
    Ok(())
}

/// redb panics on a range that ends before it starts.
fn is_empty(range: &(Bound<u64>, Bound<u64>)) -> bool {
    let first = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match range.end_bound() {
        Bound::Included(last) => *last < first,
        Bound::Excluded(end) => *end <= first,
        Bound::Unbounded => false,
    }
}

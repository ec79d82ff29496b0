//! The store of one copy: replays batches, knows its durable position, answers reads.
//!
//! Invariants: effects and position of a batch are in one memtable, memtables reach the disk in
//! order, so whatever RocksDB has flushed is a prefix of the log that ends at the position key
//! found in it. One writer at a time is enforced by a lock; readers take none.
//!
//! Failures: a full volume is reported and heals by itself. After any other failure of a write or
//! flush the store refuses both until it is reopened, because what its memtables hold is no longer
//! known.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keelson_env::{
    KvSnapshot, KvStore, POSITION_KEY, ReplayFrame, SCHEMA_KEY, SessionState, StoreError,
    StoreItem, check_items, check_order, log_end_from_bytes,
};
use keelson_types::{HybridTime, LogEnd, Position, SessionId, Span};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    DB, FlushOptions, Options, ReadOptions, ReadTier, WriteBatch, WriteOptions, properties,
};

use crate::batch::{BatchBuilder, FilledBatch};
use crate::error::from_rocks;
use crate::factory::create_directory;
use crate::keys;
use crate::open_stores::OpenDb;
use crate::snapshot::RocksSnapshot;

/// Range tombstones in unflushed memtables at which a flush is started: many of them slow down
/// every read.
const RANGE_TOMBSTONES_MAX: u64 = 1_000;

/// How long a batch waits for RocksDB to let writes in again before the store counts as failed.
/// RocksDB would wait for ever if compactions cannot go on.
const STALL_MAX: Duration = Duration::from_secs(60);
const STALL_POLL: Duration = Duration::from_millis(1);

/// Written bytes after which RocksDB is asked how it is; asking costs as much as a small write.
const LOOK_AFTER_BYTES: usize = 64 * 1024;

/// Memtables that wait for their flush while a batch may be written; at two more RocksDB stops
/// writes.
const IMMUTABLE_MEMTABLES_MAX: u64 = 2;
/// For [`rocksdb::Options::set_max_write_buffer_number`].
pub(crate) const MEMTABLES_MAX: i32 = 4;

/// A stall this long on a volume with less free is one for want of space: compactions need room for
/// what they write before they remove what they read.
const STALL_LOOK: Duration = Duration::from_secs(2);
const STALL_FREE_BYTES: u64 = 256 * 1024 * 1024;

/// Scratch space that is kept between batches.
const SCRATCH_BYTES_MAX: usize = 64 * 1024;

/// What belongs to the one writer.
struct Writer {
    key: Vec<u8>,
    range_tombstones: u64,
    /// Written since RocksDB was last asked how it is.
    unlooked_bytes: usize,
    /// Background errors that were looked into.
    background_errors: u64,
    /// Content was changed without moving the position, and is not known to be durable.
    overwritten: bool,
    failure: Option<StoreError>,
}

/// A copy's store on RocksDB. Opened by [`StoreFactory`](crate::StoreFactory).
///
/// Dropping the last handle does not wait: a thread of the factory closes the database, and until
/// it has, the directory counts as in use.
pub struct RocksStore {
    pub(crate) db: OpenDb,
    options: Arc<Options>,
    write_options: WriteOptions,
    /// Reads what is on disk, past the memtables.
    persisted: ReadOptions,
    writer: Mutex<Writer>,
    replayed: Mutex<LogEnd>,
    /// A lower bound of the durable position.
    checkpointed: Mutex<Position>,
    /// Whether a batch was written. Before, memtables are empty and RocksDB's persisted tier would
    /// look into them, also while the first batch is being written.
    written: AtomicBool,
}

/// Nothing is left half done behind these locks when a thread panics: batches are atomic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}

impl RocksStore {
    /// Takes an open database after checking its format.
    pub(crate) fn new(db: OpenDb, options: Arc<Options>) -> Result<Self, StoreError> {
        let at = read_position(&db, &ReadOptions::default())?;
        check_version(&db, at)?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let mut persisted = ReadOptions::default();
        persisted.set_read_tier(ReadTier::Persisted);
        Ok(Self {
            db,
            options,
            write_options,
            persisted,
            writer: Mutex::new(Writer {
                key: Vec::new(),
                range_tombstones: 0,
                unlooked_bytes: 0,
                background_errors: 0,
                overwritten: false,
                failure: None,
            }),
            replayed: Mutex::new(at),
            checkpointed: Mutex::new(at.position),
            written: AtomicBool::new(false),
        })
    }

    /// The writer, unless the store has failed.
    fn writer(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        let writer = lock(&self.writer);
        writer.failure.clone().map_or(Ok(writer), Err)
    }

    /// Finds out whether work in the background failed and whether RocksDB lets writes in.
    fn look(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let errors = self.property(properties::BACKGROUND_ERRORS);
        if errors == writer.background_errors {
            self.wait_for_room(false)?;
        } else {
            // RocksDB counts errors but does not tell them. An empty write is refused with the one
            // that stands. (A flush would tell too, but it is work that the healing waits to be
            // over.)
            self.wait_for_room(true)?;
            self.put(WriteBatch::default())?;
            tracing::warn!(errors, store = %self.db.path().display(), "background work failed");
            writer.background_errors = errors;
        }
        writer.unlooked_bytes = 0;
        Ok(())
    }

    /// Remembers a failure after which memtables and files are not to be trusted, or to look again.
    fn keep_failure<T>(
        &self,
        writer: &mut Writer,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &result {
            Ok(_) => {}
            Err(StoreError::NoSpace) => writer.unlooked_bytes = LOOK_AFTER_BYTES,
            Err(error) => {
                tracing::error!(%error, store = %self.db.path().display(), "the store failed");
                writer.failure = Some(error.clone());
            }
        }
        result
    }

    /// Adds a batch to the memtable.
    fn apply(&self, writer: &mut Writer, filled: FilledBatch) -> Result<(), StoreError> {
        writer.unlooked_bytes += filled.batch.size_in_bytes();
        if writer.unlooked_bytes >= LOOK_AFTER_BYTES {
            self.look(writer)?;
        }
        self.put(filled.batch)
    }

    fn property(&self, name: &rocksdb::properties::PropName) -> u64 {
        self.db.property_int_value(name).ok().flatten().unwrap_or(0)
    }

    fn flush(&self, wait: bool) -> Result<(), StoreError> {
        let mut options = FlushOptions::default();
        options.set_wait(wait);
        self.db.flush_opt(&options).map_err(|error| from_rocks(&error))
    }

    /// Begins a flush for the range tombstones. The batch that asked for it is applied, so a
    /// failure here is not its own: it is kept for the next call, and no space leaves the count as
    /// it is.
    fn start_flush(&self, writer: &mut Writer) {
        let started = self.flush(false);
        if self.keep_failure(writer, started).is_ok() {
            writer.range_tombstones = 0;
        }
    }

    fn count_tombstones(&self, writer: &mut Writer, more: u64) {
        writer.range_tombstones += more;
        if writer.range_tombstones >= RANGE_TOMBSTONES_MAX {
            self.start_flush(writer);
        }
    }

    /// Waits until a write cannot be stopped inside RocksDB, where the wait has no end while the
    /// volume is full. A write fills at most the memtable that is open.
    fn wait_for_room(&self, suspicious: bool) -> Result<(), StoreError> {
        let begun = Instant::now();
        while self.property(properties::NUM_IMMUTABLE_MEM_TABLE) > IMMUTABLE_MEMTABLES_MAX
            || self.property(properties::IS_WRITE_STOPPED) > 0
        {
            let waited = begun.elapsed();
            let look = suspicious || waited > STALL_LOOK;
            if look && self.free_bytes() < STALL_FREE_BYTES {
                return Err(StoreError::NoSpace);
            }
            if waited > STALL_MAX {
                let error = format!("writes have been stopped for {} s", STALL_MAX.as_secs());
                return Err(StoreError::Failed(error));
            }
            thread::sleep(STALL_POLL);
        }
        Ok(())
    }

    fn put(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.db.write_opt(batch, &self.write_options).map_err(|error| from_rocks(&error))
    }

    /// Free bytes of the volume; "many" if it does not say.
    fn free_bytes(&self) -> u64 {
        let volume = nix::sys::statvfs::statvfs(self.db.path());
        volume.map_or(u64::MAX, |volume| volume.blocks_available() * volume.fragment_size())
    }

    /// The position in the newest flushed memtable, noted as the new bound.
    fn read_checkpointed(&self) -> Result<Position, StoreError> {
        let mut checkpointed = lock(&self.checkpointed);
        if self.written.load(Ordering::Acquire) {
            let stored = read_position(&self.db, &self.persisted)?.position;
            *checkpointed = stored.max(*checkpointed);
        }
        Ok(*checkpointed)
    }

    /// The sessions that lie in spans, for the index of their last use.
    fn sessions_in(&self, spans: &[Span]) -> Result<Vec<(SessionId, SessionState)>, StoreError> {
        let mut found = Vec::new();
        for (from, to) in spans.iter().filter_map(Span::sessions) {
            let mut options = ReadOptions::default();
            let end = to.map_or(keys::SESSION_END.to_vec(), |to| keys::session_key(to).to_vec());
            options.set_iterate_upper_bound(end);
            let mut iterator = self.db.raw_iterator_opt(options);
            iterator.seek(keys::session_key(from));
            while let Some((key, value)) = iterator.item() {
                found.push(keys::parse_session(key, value)?);
                iterator.next();
            }
            iterator.status().map_err(|error| from_rocks(&error))?;
        }
        Ok(found)
    }

    fn read_session(&self, session: SessionId) -> Result<Option<SessionState>, StoreError> {
        let stored = self.db.get_pinned(keys::session_key(session));
        match stored.map_err(|error| from_rocks(&error))? {
            Some(bytes) => SessionState::decode(&bytes)
                .ok_or_else(|| damaged("a session does not decode"))
                .map(Some),
            None => Ok(None),
        }
    }
}

fn read_position(db: &DB, options: &ReadOptions) -> Result<LogEnd, StoreError> {
    match db.get_pinned_opt(POSITION_KEY, options).map_err(|error| from_rocks(&error))? {
        Some(bytes) => {
            log_end_from_bytes(&bytes).ok_or_else(|| damaged("the position does not decode"))
        }
        None => Ok(LogEnd::ZERO),
    }
}

/// The version comes with the first position, in one batch.
fn check_version(db: &DB, at: LogEnd) -> Result<(), StoreError> {
    let stored = db.get_pinned(keys::VERSION_KEY).map_err(|error| from_rocks(&error))?;
    let found = match &stored {
        Some(bytes) => <[u8; 4]>::try_from(&bytes[..]).map(u32::from_le_bytes).ok(),
        None if at == LogEnd::ZERO => return Ok(()),
        None => None,
    };
    match found {
        Some(found) if found > keys::FORMAT_VERSION => {
            Err(StoreError::NewerFormat { found, known: keys::FORMAT_VERSION })
        }
        Some(keys::FORMAT_VERSION) => Ok(()),
        _ => Err(damaged("the format version is missing or wrong")),
    }
}

impl KvStore for RocksStore {
    fn replay(&self, frames: &[ReplayFrame]) -> Result<(), StoreError> {
        let mut writer = self.writer()?;
        let replayed = self.replayed();
        check_order(replayed, frames)?;
        let Some(last) = frames.last() else { return Ok(()) };
        let mut builder =
            BatchBuilder::new(frames, &mut writer.key, |session| self.read_session(session));
        let built = frames.iter().try_for_each(|frame| builder.add(frame));
        let filled = built.map(|()| builder.finish(last.end, replayed == LogEnd::ZERO));
        let tombstones = filled.as_ref().map_or(0, |filled| filled.range_tombstones);
        let written = filled.and_then(|filled| self.apply(&mut writer, filled));
        self.keep_failure(&mut writer, written)?;
        self.written.store(true, Ordering::Release);
        *lock(&self.replayed) = last.end;
        writer.key.shrink_to(SCRATCH_BYTES_MAX);
        self.count_tombstones(&mut writer, tombstones);
        Ok(())
    }

    fn rewind(&self, to: LogEnd) -> Result<(), StoreError> {
        let mut writer = self.writer()?;
        let builder = BatchBuilder::new(&[], &mut writer.key, |session| self.read_session(session));
        let filled = builder.finish(to, true);
        let written = self.apply(&mut writer, filled);
        self.keep_failure(&mut writer, written)?;
        self.written.store(true, Ordering::Release);
        *lock(&self.replayed) = to;
        writer.overwritten = true;
        // The only place where the bound goes back; nobody sees the old one once it is not true.
        let mut checkpointed = lock(&self.checkpointed);
        let flushed = self.look(&mut writer).and_then(|()| self.flush(true));
        let read = flushed.and_then(|()| read_position(&self.db, &self.persisted));
        *checkpointed = self.keep_failure(&mut writer, read)?.position;
        (writer.range_tombstones, writer.overwritten) = (0, false);
        Ok(())
    }

    fn overwrite(&self, spans: &[Span], items: &[StoreItem]) -> Result<(), StoreError> {
        let new_sessions = check_items(spans, items)?;
        let mut writer = self.writer()?;
        let at = self.replayed();
        let old = self.sessions_in(spans);
        let old_sessions = self.keep_failure(&mut writer, old)?;
        let mut builder =
            BatchBuilder::new(&[], &mut writer.key, |session| self.read_session(session));
        builder.overwrite(spans, items, old_sessions, new_sessions);
        let filled = builder.finish(at, true);
        let tombstones = filled.range_tombstones;
        let written = self.apply(&mut writer, filled);
        self.keep_failure(&mut writer, written)?;
        self.written.store(true, Ordering::Release);
        writer.overwritten = true;
        writer.key.shrink_to(SCRATCH_BYTES_MAX);
        self.count_tombstones(&mut writer, tombstones);
        Ok(())
    }

    fn replayed(&self) -> LogEnd {
        *lock(&self.replayed)
    }

    fn checkpointed(&self) -> Position {
        self.read_checkpointed().unwrap_or_else(|error| {
            // The bound known before is still true; the next write or read meets the error again.
            tracing::warn!(%error, "the durable position cannot be read");
            *lock(&self.checkpointed)
        })
    }

    fn checkpoint(&self) -> Result<Position, StoreError> {
        let mut writer = self.writer()?;
        let replayed = self.replayed().position;
        if *lock(&self.checkpointed) == replayed && !writer.overwritten {
            return Ok(replayed);
        }
        let looked = self.look(&mut writer).and_then(|()| self.flush(true));
        let flushed = looked.and_then(|()| self.read_checkpointed());
        let checked = flushed.and_then(|position| {
            let complete = position == replayed;
            let error = || format!("flushed up to {position}, not to {replayed}");
            if complete { Ok(position) } else { Err(StoreError::Failed(error())) }
        });
        let position = self.keep_failure(&mut writer, checked)?;
        (writer.range_tombstones, writer.overwritten) = (0, false);
        Ok(position)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = keys::with_user_key(key, |key| self.db.get_pinned(key));
        let copy = |value: Option<rocksdb::DBPinnableSlice<'_>>| {
            value.map(|value| Bytes::copy_from_slice(&value))
        };
        found.map(copy).map_err(|error| from_rocks(&error))
    }

    fn session(&self, session: SessionId) -> Result<Option<SessionState>, StoreError> {
        self.read_session(session)
    }

    /// Reads `limit` index keys and the states of the sessions in the last bucket only.
    fn idle_sessions(
        &self,
        before: HybridTime,
        limit: usize,
    ) -> Result<Vec<SessionId>, StoreError> {
        let last = keys::bucket(before);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::IDLE_END);
        let mut iterator = self.db.raw_iterator_opt(options);
        iterator.seek(keys::IDLE_PREFIX);
        let mut idle = Vec::new();
        while idle.len() < limit
            && let Some(key) = iterator.key()
        {
            let parsed = keys::parse_idle_key(key);
            let (bucket, id) = parsed.ok_or_else(|| damaged("a session index key is wrong"))?;
            if bucket > last {
                return Ok(idle);
            }
            let used = |state: SessionState| state.last_used;
            if bucket < last || self.read_session(id)?.map(used).is_some_and(|used| used < before) {
                idle.push(id);
            }
            iterator.next();
        }
        iterator.status().map(|()| idle).map_err(|error| from_rocks(&error))
    }

    fn schema(&self) -> Result<Option<Bytes>, StoreError> {
        self.db
            .get(SCHEMA_KEY)
            .map(|body| body.map(Bytes::from))
            .map_err(|error| from_rocks(&error))
    }

    fn snapshot(self: Arc<Self>) -> Result<Box<dyn KvSnapshot>, StoreError> {
        Ok(Box::new(RocksSnapshot::take(self)?))
    }

    fn create_checkpoint(&self, directory: &Path) -> Result<LogEnd, StoreError> {
        if let Some(parent) = directory.parent() {
            create_directory(parent)?;
        }
        let made = Checkpoint::new(&self.db).and_then(|made| made.create_checkpoint(directory));
        made.map_err(|error| from_rocks(&error))?;
        // What the flush inside took along is known only from the files.
        let copy = DB::open_for_read_only(&self.options, directory, false);
        let copy = copy.map_err(|error| from_rocks(&error))?;
        read_position(&copy, &ReadOptions::default())
    }

    fn size_bytes(&self) -> u64 {
        self.property(properties::TOTAL_SST_FILES_SIZE)
    }
}

#[cfg(test)]
mod tests;

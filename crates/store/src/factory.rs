//! Opens stores that share memory and threads, so that a thousand of them fit into one process.
//!
//! Owns the RocksDB settings; those that carry correctness are marked in `options`. All stores of a
//! factory share one block cache, to which memtables are charged, and RocksDB's process-wide
//! threads. An idle store runs nothing: statistics are off, and RocksDB's own log goes to
//! `tracing`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keelson_env::{KvStore, Rescued, StoreError, StoreOpener, Verified};
use keelson_types::{LogEnd, Position};
use rocksdb::{
    BlockBasedOptions, Cache, ChecksumType, DB, DBCompressionType, Env, InfoLogger, LogLevel,
    Options, WriteBufferManager,
};

use crate::error::{from_io, from_rocks};
use crate::open_stores::{OpenDb, OpenStores};
use crate::rescue;
use crate::rocks_store::{MEMTABLES_MAX, RocksStore};
use crate::verify::{self, Known};

/// Settings that the binding has no call for. Correctness: closing must not write (a failed store
/// is closed and reopened from its files), and a failed flush is not to be retried behind our back.
/// The identity lies in the manifest; a file of its own has no checksum.
const SET_BY_NAME: &str =
    "avoid_flush_during_shutdown=true;max_bgerror_resume_count=0;write_identity_file=false";

const MIB: usize = 1024 * 1024;

/// Sizes of everything the stores of a factory share or may use each.
#[derive(Clone, Debug)]
pub struct StoreLimits {
    /// Block cache and memtables of all stores together.
    pub memory_bytes: usize,
    /// Memtables of all stores together, a part of `memory_bytes`; beyond it the store that writes
    /// flushes. Not a hard bound: one busy store must not stop the others.
    pub memtables_bytes: usize,
    /// One memtable of one store; it is flushed when it is full.
    pub memtable_bytes: usize,
    /// Open table files of one store; about 8 more descriptors are used per store.
    pub open_files: u16,
    /// Threads for compactions, and as many for flushes, in the whole process.
    pub threads: u8,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 512 * MIB,
            memtables_bytes: 256 * MIB,
            memtable_bytes: 64 * MIB,
            open_files: 100,
            threads: 2,
        }
    }
}

/// Memory that the stores of a factory use together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreMemory {
    /// Replayed and not yet flushed. When it nears the limit, checkpoint the stores that hold most:
    /// RocksDB itself only flushes stores that are written to.
    pub memtables_bytes: u64,
    /// Block cache, memtables included.
    pub total_bytes: u64,
}

/// Opens [`RocksStore`]s; one per process. Dropping it while stores are open is allowed.
pub struct StoreFactory {
    options: Arc<Options>,
    cache: Cache,
    memtables: WriteBufferManager,
    known: Known,
    stores: Arc<OpenStores>,
}

impl StoreFactory {
    /// Allocates nothing yet but threads.
    ///
    /// # Errors
    /// A thread cannot be started, or RocksDB refuses an option: a bug here.
    pub fn new(limits: &StoreLimits) -> Result<Self, StoreError> {
        let cache = Cache::new_lru_cache(limits.memory_bytes);
        let memtables = WriteBufferManager::new_write_buffer_manager_with_cache(
            limits.memtables_bytes,
            false,
            cache.clone(),
        );
        let options = options(limits, &cache, &memtables).map_err(|error| from_rocks(&error))?;
        let stores = OpenStores::start().map_err(|error| from_io("starting a thread", &error))?;
        let (options, stores) = (Arc::new(options), Arc::new(stores));
        Ok(Self { options, cache, memtables, known: Known::default(), stores })
    }

    /// What the stores use now.
    #[must_use]
    pub fn memory(&self) -> StoreMemory {
        StoreMemory {
            memtables_bytes: self.memtables.get_usage() as u64,
            total_bytes: self.cache.get_usage() as u64,
        }
    }

    /// Opens, or creates, a store, as [`StoreOpener::open`] does.
    ///
    /// # Errors
    /// See [`StoreOpener::open`].
    pub fn open_store(&self, directory: &Path) -> Result<RocksStore, StoreError> {
        RocksStore::new(self.open_db(directory)?, self.options.clone())
    }

    /// Opens the database of a store, whatever it holds.
    pub(crate) fn open_db(&self, directory: &Path) -> Result<OpenDb, StoreError> {
        let claim = self.stores.claim(directory)?;
        create_directory(directory)?;
        self.known.clean(directory).map_err(|error| from_io("removing an old check", &error))?;
        refuse_tables_without_manifest(directory)?;
        verify::check_manifest(directory)?;
        let db = DB::open(&self.options, directory).map_err(|error| from_rocks(&error))?;
        self.known.opened(directory);
        Ok(OpenDb::new(db, claim, self.stores.clone()))
    }
}

impl StoreOpener for StoreFactory {
    fn open(&self, directory: &Path) -> Result<Arc<dyn KvStore>, StoreError> {
        Ok(Arc::new(self.open_store(directory)?))
    }

    fn in_use(&self, directory: &Path) -> bool {
        self.stores.in_use(directory)
    }

    fn verify(
        &self,
        directory: &Path,
        at_least: Position,
        pace: &mut dyn FnMut(u64),
    ) -> Result<Verified, StoreError> {
        verify::verify(&self.known, directory, at_least, pace)
    }

    fn rescue(&self, from: &Path, to: &Path, at: LogEnd) -> Result<Rescued, StoreError> {
        // Closing an earlier handle removes files: nobody has the old one open meanwhile, and what
        // an earlier attempt left is closed.
        let _from = self.stores.claim(from)?;
        drop(self.stores.claim(to)?);
        rescue::rescue(self, from, to, at)
    }

    fn destroy(&self, directory: &Path) -> Result<(), StoreError> {
        self.known.forget(directory);
        let what = || format!("removing {}", directory.display());
        verify::remove(directory).map_err(|error| from_io(&what(), &error))
    }
}

fn options(
    limits: &StoreLimits,
    cache: &Cache,
    memtables: &WriteBufferManager,
) -> Result<Options, rocksdb::Error> {
    // A store without space heals by itself all the same.
    let mut options = Options::default().get_options_from_string(SET_BY_NAME)?;
    // Correctness: a flush is a prefix of the log only with ordered writes into one memtable at a
    // time.
    options.set_unordered_write(false);
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_paranoid_checks(true);
    options.create_if_missing(true);
    set_memory(&mut options, limits, memtables);
    set_tables(&mut options, cache);
    set_background(&mut options, limits)?;
    Ok(options)
}

fn set_memory(options: &mut Options, limits: &StoreLimits, memtables: &WriteBufferManager) {
    options.set_write_buffer_manager(memtables);
    options.set_write_buffer_size(limits.memtable_bytes);
    options.set_max_write_buffer_number(MEMTABLES_MAX);
    // The default is an eighth of a memtable, which every store with one write would hold.
    options.set_arena_block_size(64 * 1024);
    options.set_max_open_files(i32::from(limits.open_files));
    options.set_table_cache_num_shard_bits(2);
    options.set_manifest_preallocation_size(16 * 1024);
    options.set_max_manifest_file_size(4 * MIB);
}

fn set_tables(options: &mut Options, cache: &Cache) {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(cache);
    tables.set_block_size(8 * 1024);
    tables.set_bloom_filter(10.0, false);
    tables.set_checksum_type(ChecksumType::XXH3);
    tables.set_format_version(6);
    // Index and filter blocks count against the cache, or many large stores would outgrow every
    // bound.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_cache_index_and_filter_blocks_with_high_priority(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    options.set_block_based_table_factory(&tables);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    // Neither removes data here, but rewriting files by age costs idle stores their idleness.
    options.set_periodic_compaction_seconds(0);
    options.set_ttl(0);
}

fn set_background(options: &mut Options, limits: &StoreLimits) -> Result<(), rocksdb::Error> {
    let threads = i32::from(limits.threads.max(1));
    let mut env = Env::new()?;
    env.set_background_threads(threads);
    env.set_high_priority_background_threads(threads);
    options.set_env(&env);
    // Per store: one flush beside `threads` compactions.
    options.set_max_background_jobs(threads + 1);
    options.set_max_subcompactions(1);
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_avoid_unnecessary_blocking_io(true);
    options.set_bytes_per_sync(MIB as u64);
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, log));
    Ok(())
}

fn log(level: LogLevel, message: &str) {
    match level {
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "rocksdb", "{message}"),
        _ => tracing::warn!(target: "rocksdb", "{message}"),
    }
}

/// Creates a directory and what is missing above it, and makes the names durable: a store must not
/// vanish after its checkpoint let the log be truncated.
pub(crate) fn create_directory(directory: &Path) -> Result<(), StoreError> {
    let missing: Vec<PathBuf> =
        directory.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
    let what = || format!("creating {}", directory.display());
    fs::create_dir_all(directory).map_err(|error| from_io(&what(), &error))?;
    for path in missing {
        let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|file| file.sync_all())
            .map_err(|error| from_io(&what(), &error))?;
    }
    Ok(())
}

/// RocksDB creates an empty database where `CURRENT` is missing, beside the tables of the old one.
fn refuse_tables_without_manifest(directory: &Path) -> Result<(), StoreError> {
    if directory.join("CURRENT").exists() {
        return Ok(());
    }
    let what = || format!("listing {}", directory.display());
    for entry in fs::read_dir(directory).map_err(|error| from_io(&what(), &error))? {
        let path = entry.map_err(|error| from_io(&what(), &error))?.path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            return Err(StoreError::Damaged(format!("{} has no CURRENT", directory.display())));
        }
    }
    Ok(())
}

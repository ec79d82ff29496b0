//! Opening a copy: directories, control file, log, store; creating it if consensus says that it
//! exists and the disk does not know it yet.
//!
//! A copy that this member created before and whose directory is gone has *forgotten*: it is opened
//! with the mark that it may have lost what it acknowledged, so that no lossless proof counts it
//! (R4).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use keelson_copy_core::Recovered;
use keelson_env::{Disk, StoreOpener};
use keelson_format::{ControlRecord, CursorState};
use keelson_log::{ControlFile, Log, LogConfig, LogReader};
use keelson_types::{
    CopyFault, CopyId, DatabaseId, EpochTable, LogId, Position, StoreId, StreamId,
};

use crate::shared::CopyShared;
use crate::store_lane::{fault_of, log_fault};

/// Starts that may be begun without an end before the copy is left alone (review S9.6).
const START_TRIES_MAX: u32 = 5;

/// Where the copies of a member lie.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) data: PathBuf,
    pub(crate) logs: PathBuf,
    /// One copy at a time is noted as created.
    pub(crate) noting: Arc<Mutex<()>>,
}

impl Places {
    pub(crate) fn database(&self, database: DatabaseId) -> PathBuf {
        self.data.join("databases").join(database.to_string())
    }

    pub(crate) fn log(&self, database: DatabaseId, log: LogId) -> PathBuf {
        self.logs.join("databases").join(database.to_string()).join(format!("log-{log}"))
    }

    pub(crate) fn store(&self, database: DatabaseId, store: StoreId) -> PathBuf {
        self.database(database).join(format!("store-{store}"))
    }
}

/// Which copy to open.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) database: DatabaseId,
    pub(crate) copy: CopyId,
    pub(crate) stream: StreamId,
    pub(crate) generation_bytes: u64,
}

/// A copy with its files.
pub(crate) struct OpenCopy {
    pub(crate) log: Log,
    pub(crate) control: ControlFile,
    pub(crate) record: ControlRecord,
    pub(crate) reader: LogReader,
    pub(crate) state: CursorState,
    pub(crate) store_directory: PathBuf,
    pub(crate) recovered: Recovered,
}

/// Opens, or creates, a copy. Blocking; runs on a thread of the pool.
pub(crate) fn open_copy(
    places: &Places,
    opener: &dyn StoreOpener,
    identity: &Identity,
    shared: &CopyShared,
) -> Result<OpenCopy, CopyFault> {
    let directory = places.database(identity.database);
    let (mut control, mut record) = open_control(places, identity, &directory)?;
    count_start(&mut control, &mut record)?;
    let log_directory = places.log(identity.database, record.log);
    make_directory(places, &log_directory)?;
    let config = LogConfig { generation_bytes: identity.generation_bytes, ..Default::default() };
    let opened = Log::open(
        places.disk.clone(),
        &log_directory,
        config,
        identity.stream,
        record.durable_floor,
    );
    let (log, recovery) = opened.map_err(|error| log_fault(&error))?;
    let store_directory = places.store(identity.database, record.store);
    let store = opener.open(&store_directory).map_err(|error| fault_of(&error))?;
    let replayed = store.replayed().position;
    shared.store.set(Some(store));
    let state = recovery.state;
    let mut table = record.epoch_table.clone();
    let known = table.last_epoch();
    table.cut(state.position);
    for row in recovery.epochs.iter().filter(|row| row.epoch > known) {
        // Rows of generations whose control record was not written yet.
        let _ = table.push(*row);
    }
    let missing = replayed > state.end.position || state.end.position < record.durable_floor;
    let damaged = recovery.damage.as_ref().map(|d| CopyFault::LogDamaged(format!("{d:?}")));
    let lost = missing.then(|| {
        CopyFault::MissingLog(format!("the log ends at {}, the store at {replayed}", state.end))
    });
    let recovered = Recovered {
        sealed: record.sealed,
        table,
        end: state.end,
        committed: recovery.committed.max(record.committed.min(state.end.position)),
        replayed,
        may_have_lost: record.may_have_lost_from.is_some() || damaged.is_some() || missing,
        fault: damaged.or(lost),
    };
    let reader = log.reader();
    Ok(OpenCopy { log, control, record, reader, state, store_directory, recovered })
}

fn count_start(control: &mut ControlFile, record: &mut ControlRecord) -> Result<(), CopyFault> {
    if record.start_tries >= START_TRIES_MAX {
        return Err(CopyFault::CrashLoop);
    }
    record.start_tries += 1;
    let written = control.write(record);
    written.map_err(|error| CopyFault::LogIo(format!("control file: {error}")))
}

fn make_directory(places: &Places, directory: &Path) -> Result<(), CopyFault> {
    let made = places.disk.create_dir_all(directory);
    made.map_err(|error| CopyFault::LogIo(error.to_string()))
}

fn open_control(
    places: &Places,
    identity: &Identity,
    directory: &Path,
) -> Result<(ControlFile, ControlRecord), CopyFault> {
    let failed = |error: &dyn std::fmt::Display| CopyFault::LogIo(format!("control file: {error}"));
    make_directory(places, directory)?;
    let path = directory.join("control");
    let opened = ControlFile::open(places.disk.as_ref(), &path);
    let (mut control, found) = opened.map_err(|error| failed(&error))?;
    if let Some(record) = found {
        if record.copy == identity.copy {
            return Ok((control, record));
        }
        let what = format!("the directory holds copy {}, not {}", record.copy, identity.copy);
        return Err(CopyFault::Diverged(what));
    }
    let mut record = ControlRecord::new(
        identity.copy,
        identity.database,
        identity.stream,
        LogId::from_bytes(identity.copy.into_bytes()),
        StoreId::from_bytes(identity.copy.into_bytes()),
    );
    if note_created(places, identity.copy).map_err(|error| failed(&error))? {
        record.may_have_lost_from = Some(Position::ZERO);
    }
    control.write(&record).map_err(|error| failed(&error))?;
    Ok((control, record))
}

/// Remembers in a file of the member that it created this copy; says whether it had done so before.
fn note_created(places: &Places, copy: CopyId) -> Result<bool, keelson_env::DiskError> {
    let _noting = places.noting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let directory = places.data.join("databases");
    let path = directory.join("created");
    let disk = &places.disk;
    let exists = disk.exists(&path)?;
    let file = if exists { disk.open(&path)? } else { disk.create(&path)? };
    let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(0)];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read - read % 16);
    let known: BTreeSet<_> = bytes.chunks_exact(16).filter_map(CopyId::from_slice).collect();
    if known.contains(&copy) {
        return Ok(true);
    }
    file.write_at(bytes.len() as u64, &copy.into_bytes())?;
    file.sync()?;
    disk.sync_dir(&directory)?;
    Ok(false)
}

/// An empty table, for a copy that could not be opened.
pub(crate) fn failed(fault: CopyFault) -> Recovered {
    Recovered { table: EpochTable::new(), fault: Some(fault), ..Recovered::default() }
}

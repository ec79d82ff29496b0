//! Opening a copy: directories, control file, log, store; creating it if consensus says that it
//! exists and the disk does not know it yet.
//!
//! A copy that this member created before, or that counts in the commit rule, and whose control
//! file is gone has *forgotten* what it promised and acknowledged. It is not opened: its owner asks
//! consensus for a new id, under which it is a new copy, empty and admitted like any other (R4).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use keelson_copy_core::Recovered;
use keelson_copy_core::range_fetch::Mark;
use keelson_env::{Disk, DiskError, StoreOpener};
use keelson_format::{ControlRecord, CursorState};
use keelson_log::{ControlFile, ControlFileError, Damage, Log, LogConfig, LogReader, Recovery};
use keelson_types::{
    CopyFault, CopyId, DatabaseId, EpochTable, LogId, Position, StoreId, StreamId,
};

use crate::lag_file::SavedLag;
use crate::mark_file;
use crate::note::{Note, NoteCode};
use crate::owner::unix_millis;
use crate::rebuild::{Condemned, StoreOpening};
use crate::scrub::ScrubReport;
use crate::shared::CopyShared;
use crate::store_lane::log_fault;
use crate::volumes::MemberVolumes;

/// Starts that may be begun without an end before the copy is left alone (review S9.6).
const START_TRIES_MAX: u32 = 5;

/// Extension of the control record: the resumes at which the starts were counted anew.
const RESUMES_EXTENSION: u16 = 1;

/// Where the copies of a member lie.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) data: PathBuf,
    pub(crate) logs: PathBuf,
    /// One copy at a time is noted as created.
    pub(crate) noting: Arc<Mutex<()>>,
    /// Where the directories of databases really are, if not here.
    pub(crate) volumes: Arc<MemberVolumes>,
}

/// The volumes of one copy, which may be one: paths to ask for space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roots {
    pub(crate) data: PathBuf,
    pub(crate) logs: PathBuf,
}

impl Places {
    /// The volumes that hold the store and the log of a database.
    pub(crate) fn roots(&self, database: DatabaseId) -> Roots {
        match self.volumes.home(database) {
            Some(home) => Roots { data: home.clone(), logs: home },
            None => Roots { data: self.data.clone(), logs: self.logs.clone() },
        }
    }

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
    /// How often an operator resumed the copy; each time its starts are counted anew.
    pub(crate) resumes: u64,
    /// Other copies of the database.
    pub(crate) others: usize,
    /// It counts in the commit rule, so it was here.
    pub(crate) admitted: bool,
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
    /// Of a copy with lags.
    pub(crate) saved_lag: SavedLag,
    /// Damage of the log at which it was opened.
    pub(crate) damage: Option<Damage>,
    /// What was found damaged and is being made anew: notes for the cluster's events.
    pub(crate) found: Vec<Note>,
    /// What stands of a range fetch.
    pub(crate) mark: Option<Mark>,
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
    let stands = shared.counted.load(Ordering::Relaxed);
    count_start(&mut control, &mut record, identity.resumes, stands)?;
    let mut found = Vec::new();
    if control.had_bad_slot() {
        // The write above has mended it.
        found.push(Note::new(NoteCode::ControlMended, "one slot of the control file was damaged"));
    }
    let mark = mark_file::load(&*places.disk, &mark_file::path(&directory, record.copy));
    let mut opening = StoreOpening {
        places,
        opener,
        shared,
        control: &mut control,
        record: &mut record,
        others: identity.others,
        mark,
        found: Vec::new(),
    };
    let opened = open_files(&mut opening, identity);
    let (mark, damaged) = (opening.mark, opening.found);
    found.extend(damaged.into_iter().map(|why| Note::new(NoteCode::StoreDamaged, why)));
    if opened.is_err() {
        // It came to an end, if a bad one: only starts that take the process along count.
        record.start_tries = record.start_tries.saturating_sub(1);
        let _ = control.write(&record);
    }
    shared.counted.store(opened.is_ok(), Ordering::Relaxed);
    let (log, state, store_directory, recovered) = opened?;
    let mark = mark?;
    let reader = log.reader();
    let saved_lag = SavedLag::load(&*places.disk, &directory);
    let damage = log.damage().copied();
    Ok(OpenCopy {
        log,
        control,
        record,
        reader,
        state,
        store_directory,
        recovered,
        saved_lag,
        damage,
        found,
        mark,
    })
}

type OpenFiles = (Log, CursorState, PathBuf, Recovered);

fn open_files(opening: &mut StoreOpening<'_>, identity: &Identity) -> Result<OpenFiles, CopyFault> {
    if let Err(fault @ CopyFault::NeedsVersion(_)) = &opening.mark {
        return Err(fault.clone());
    }
    let (places, shared) = (opening.places, opening.shared);
    let log_directory = places.log(identity.database, opening.record.log);
    make_directory(places, &log_directory)?;
    let config = LogConfig { generation_bytes: identity.generation_bytes, ..Default::default() };
    let opened = Log::open(
        places.disk.clone(),
        &log_directory,
        config,
        identity.stream,
        opening.record.durable_floor,
    );
    let (log, recovery) = opened.map_err(|error| log_fault(&error))?;
    let (store, store_directory) = opening.open(&log)?;
    let mark = opening.mark.as_ref().ok().and_then(Option::as_ref);
    let record = &*opening.record;
    // While a fork is being undone the position that the store names may lie on it.
    let stands = |found| mark.map_or(found, |mark| mark.store_position(found));
    let replayed = stands(store.replayed().position);
    shared.checkpointed.store(stands(store.checkpointed()));
    let first = log.first_generation().and_then(|first| log.header(first));
    shared.log_from.store(first.map_or(Position::ZERO, |header| header.previous_end));
    shared.marked.store(mark.is_some(), Ordering::SeqCst);
    let state = recovery.state;
    let table = epochs_of(&record.epoch_table, &recovery);
    let missing = replayed > state.end.position || state.end.position < record.durable_floor;
    let damaged = recovery.damage.as_ref().map(|d| CopyFault::LogDamaged(format!("{d:?}")));
    let lost = missing.then(|| {
        CopyFault::MissingLog(format!("the log ends at {}, the store at {replayed}", state.end))
    });
    let recovered = Recovered {
        sealed: record.sealed,
        table,
        end: state.end,
        // With a mark, what was committed may be the fork's; the active says it again.
        committed: match mark {
            Some(_) => replayed,
            None => recovery.committed.max(record.committed.min(state.end.position)),
        },
        replayed,
        may_have_lost: damaged.is_some() || missing,
        fault: damaged.or(lost),
        rebuilding: Some(Condemned::read(record).until.min(state.end.position)),
    };
    Ok((log, state, store_directory, recovered))
}

/// The epochs of the log: what was saved of them, as far as the log still holds it, and those of
/// generations whose control record was not written yet.
pub(crate) fn epochs_of(saved: &EpochTable, recovery: &Recovery) -> EpochTable {
    let mut table = saved.clone();
    table.cut(recovery.state.position);
    // Only now: a row that was cut says nothing of which ones of the log are known.
    let known = table.last_epoch();
    for row in recovery.epochs.iter().filter(|row| row.epoch > known) {
        // They rise, so none is refused.
        let _ = table.push(*row);
    }
    table
}

/// Counts a try, unless the one of a former owner in this life of the process stands.
fn count_start(
    control: &mut ControlFile,
    record: &mut ControlRecord,
    resumes: u64,
    stands: bool,
) -> Result<(), CopyFault> {
    let resumed = set_number(record, RESUMES_EXTENSION, resumes);
    if resumed {
        record.start_tries = 0;
    }
    if resumed || !stands {
        if record.start_tries >= START_TRIES_MAX {
            return Err(CopyFault::CrashLoop);
        }
        record.start_tries += 1;
    }
    let written = control.write(record);
    written.map_err(|error| CopyFault::LogIo(format!("control file: {error}")))
}

/// Keeps a number that only rises as an extension of the record; says whether it rose.
fn set_number(record: &mut ControlRecord, number: u16, value: u64) -> bool {
    let found = record.extensions.iter_mut().find(|(n, _)| *n == number);
    let bytes = value.to_le_bytes().to_vec();
    match found {
        Some((_, old)) => {
            let before = <[u8; 8]>::try_from(&old[..]).map_or(0, u64::from_le_bytes);
            *old = bytes;
            before < value
        }
        None => {
            record.extensions.push((number, bytes));
            record.extensions.sort();
            value > 0
        }
    }
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
    let created = Created::read(places).map_err(|error| failed(&error))?;
    let is_new = !created.knows(identity.copy) && !identity.admitted;
    places.volumes.prepare(identity.database, is_new)?;
    make_directory(places, directory)?;
    let path = control_of(places, directory, identity.copy).map_err(|error| failed(&error))?;
    let opened = ControlFile::open(places.disk.as_ref(), &path);
    let (mut control, found) = opened.map_err(|error| failed(&error))?;
    let record = match found {
        // Earlier versions opened such a copy, under the same id.
        Some(record) if record.may_have_lost_from.is_some() => return Err(CopyFault::Forgotten),
        Some(record) => record,
        None if !is_new => return Err(CopyFault::Forgotten),
        None => {
            let record = new_record(identity);
            control.write(&record).map_err(|error| failed(&error))?;
            record
        }
    };
    created.note(places, identity.copy).map_err(|error| failed(&error))?;
    Ok((control, record))
}

/// The record of a copy that was never here.
fn new_record(identity: &Identity) -> ControlRecord {
    let mut record = ControlRecord::new(
        identity.copy,
        identity.database,
        identity.stream,
        LogId::from_bytes(identity.copy.into_bytes()),
        StoreId::from_bytes(identity.copy.into_bytes()),
    );
    ScrubReport::put_new(&mut record, unix_millis());
    record
}

/// Whether the list of copies did not name this one, which lies here: it rotted, and does now.
pub(crate) fn note_created(places: &Places, copy: CopyId) -> Result<bool, DiskError> {
    let created = Created::read(places)?;
    created.note(places, copy)?;
    Ok(!created.knows(copy))
}

/// Where the control file of this copy lies. The file of another copy of the database that lay here
/// before is put aside under its id, with its log and its store: nothing is overwritten (G4), and a
/// member that hears of the older copy once more finds it as it was. A file without a record, left
/// by a crash in its creation, says nothing and gives way to one put aside.
fn control_of(
    places: &Places,
    directory: &Path,
    copy: CopyId,
) -> Result<PathBuf, ControlFileError> {
    let disk = places.disk.as_ref();
    let path = directory.join("control");
    let aside = |copy: CopyId| directory.join(format!("control-{copy}"));
    if disk.exists(&path)? {
        let (_, found) = ControlFile::open(disk, &path)?;
        match found {
            Some(record) if record.copy == copy => return Ok(path),
            Some(record) => {
                tracing::info!(old = %record.copy, new = %copy, "another copy lay here");
                disk.rename(&path, &aside(record.copy))?;
                disk.sync_dir(directory)?;
            }
            None => {}
        }
    }
    if disk.exists(&aside(copy))? {
        disk.rename(&aside(copy), &path)?;
        disk.sync_dir(directory)?;
    }
    Ok(path)
}

/// The copies that this member created, remembered beside their directories.
struct Created {
    known: BTreeSet<CopyId>,
    bytes: u64,
}

impl Created {
    fn path(places: &Places) -> PathBuf {
        places.data.join("databases").join("created")
    }

    fn read(places: &Places) -> Result<Self, DiskError> {
        let path = Self::path(places);
        if !places.disk.exists(&path)? {
            return Ok(Self { known: BTreeSet::new(), bytes: 0 });
        }
        let file = places.disk.open(&path)?;
        file.drop_cache()?;
        let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(0)];
        let read = file.read_at(0, &mut bytes)?;
        bytes.truncate(read - read % 16);
        let known = bytes.chunks_exact(16).filter_map(CopyId::from_slice).collect();
        Ok(Self { known, bytes: bytes.len() as u64 })
    }

    fn knows(&self, copy: CopyId) -> bool {
        self.known.contains(&copy)
    }

    /// Notes a copy whose control file is durable by now.
    fn note(&self, places: &Places, copy: CopyId) -> Result<(), DiskError> {
        if self.knows(copy) {
            return Ok(());
        }
        let _noting = places.noting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Another copy may have been noted since.
        let end = Self::read(places)?.bytes;
        let (disk, path) = (&places.disk, Self::path(places));
        let exists = disk.exists(&path)?;
        let file = if exists { disk.open(&path)? } else { disk.create(&path)? };
        file.write_at(end, &copy.into_bytes())?;
        file.sync()?;
        disk.sync_dir(&places.data.join("databases"))
    }
}

/// An empty table, for a copy that could not be opened.
pub(crate) fn failed(fault: CopyFault) -> Recovered {
    Recovered { table: EpochTable::new(), fault: Some(fault), ..Recovered::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_env::{KvStore, MemStoreOpener, Rescued, SimDisk, StoreError};
    use keelson_types::LogEnd;

    struct Broken;

    impl StoreOpener for Broken {
        fn open(&self, _: &Path) -> Result<Arc<dyn KvStore>, StoreError> {
            Err(StoreError::Failed("cannot be opened".into()))
        }

        fn in_use(&self, _: &Path) -> bool {
            false
        }

        fn verify(
            &self,
            _: &Path,
            _: Position,
            _: &mut dyn FnMut(u64),
        ) -> Result<keelson_env::Verified, StoreError> {
            Err(StoreError::Failed("cannot be read".into()))
        }

        fn rescue(&self, _: &Path, _: &Path, _: LogEnd) -> Result<Rescued, StoreError> {
            Err(StoreError::Failed("cannot be read".into()))
        }

        fn destroy(&self, _: &Path) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn places() -> Places {
        places_on(Arc::new(SimDisk::new()))
    }

    fn places_on(disk: Arc<SimDisk>) -> Places {
        disk.create_dir_all(Path::new("/data/databases")).unwrap();
        let (data, logs) = ("/data".into(), "/logs".into());
        Places { disk, data, logs, noting: Arc::default(), volumes: Arc::default() }
    }

    fn identity(copy: u8) -> Identity {
        Identity {
            database: DatabaseId::from_bytes([7; 16]),
            copy: CopyId::from_bytes([copy; 16]),
            stream: StreamId::from_bytes([9; 16]),
            generation_bytes: 1024 * 1024,
            resumes: 0,
            others: 2,
            admitted: false,
        }
    }

    fn open(places: &Places, opener: &dyn StoreOpener, copy: u8) -> Result<OpenCopy, CopyFault> {
        let shared = CopyShared::for_tests();
        open_copy(places, opener, &identity(copy), &shared)
    }

    #[test]
    fn only_starts_that_never_returned_count_as_crashes() {
        let (places, stores) = (places(), MemStoreOpener::new());
        for _ in 0..3 * START_TRIES_MAX {
            assert!(matches!(open(&places, &Broken, 1), Err(CopyFault::Store(_))));
        }
        for _ in 0..START_TRIES_MAX {
            // The process dies before the copy stands.
            drop(open(&places, &stores, 1).unwrap());
        }
        assert_eq!(open(&places, &stores, 1).err(), Some(CopyFault::CrashLoop));
        let resumed = Identity { resumes: 1, ..identity(1) };
        assert!(open_copy(&places, &stores, &resumed, &CopyShared::for_tests()).is_ok());
    }

    #[test]
    fn another_copy_in_the_same_place_overwrites_nothing() {
        let (places, stores) = (places(), MemStoreOpener::new());
        let mut first = open(&places, &stores, 1).unwrap();
        first.record.sealed = keelson_types::Epoch::new(0, 5);
        first.control.write(&first.record).unwrap();
        drop(first);
        let second = open(&places, &stores, 2).unwrap();
        assert_eq!(second.recovered.sealed, keelson_types::Epoch::ZERO);
        assert!(!second.recovered.may_have_lost);
        drop(second);
        let first = open(&places, &stores, 1).unwrap();
        assert_eq!(first.recovered.sealed, keelson_types::Epoch::new(0, 5), "as it was left");
        assert!(!first.recovered.may_have_lost);
    }

    /// The seal is the copy's promise: no crash while another copy moves in may hide it.
    #[test]
    fn a_crash_while_another_copy_moves_in_hides_no_seal() {
        let (mut steps, mut step) = (u64::MAX, 1);
        while step <= steps {
            for seed in 0..8 {
                let disk = Arc::new(SimDisk::new());
                let places = places_on(disk.clone());
                let mut first = open(&places, &MemStoreOpener::new(), 1).unwrap();
                first.record.sealed = keelson_types::Epoch::new(0, 5);
                first.control.write(&first.record).unwrap();
                drop(first);
                let before = disk.operations();
                disk.crash_at(before + step);
                if open(&places, &MemStoreOpener::new(), 2).is_ok() {
                    steps = disk.operations() - before;
                }
                disk.crash(seed);
                let first = open(&places, &MemStoreOpener::new(), 1).unwrap();
                let found = (first.recovered.sealed.counter, first.recovered.may_have_lost);
                assert_eq!(found, (5, false), "step {step}, seed {seed}");
            }
            step += 1;
        }
        assert!(steps > 5, "{steps} steps");
    }

    #[test]
    fn a_copy_whose_directory_is_gone_has_forgotten() {
        let (places, stores) = (places(), MemStoreOpener::new());
        drop(open(&places, &stores, 1).unwrap());
        let directory = places.database(identity(1).database);
        places.disk.remove(&directory.join("control")).unwrap();
        for _ in 0..2 * START_TRIES_MAX {
            assert_eq!(open(&places, &stores, 1).err(), Some(CopyFault::Forgotten));
        }
        let another = open(&places, &stores, 2).unwrap();
        assert!(!another.recovered.may_have_lost);
        assert_eq!(another.recovered.fault, None);
    }

    #[test]
    fn a_copy_of_the_commit_rule_that_nothing_is_known_of_has_forgotten() {
        let (places, stores) = (places(), MemStoreOpener::new());
        let shared = CopyShared::for_tests();
        let admitted = Identity { admitted: true, ..identity(1) };
        let opened = open_copy(&places, &stores, &admitted, &shared);
        assert_eq!(opened.err(), Some(CopyFault::Forgotten));
        drop(open(&places, &stores, 1).unwrap());
        assert!(open_copy(&places, &stores, &admitted, &shared).is_ok(), "it is here");
    }

    /// An earlier version opened a copy that had forgotten, and left it out of every proof.
    #[test]
    fn a_copy_that_was_opened_though_it_had_forgotten_becomes_another_one() {
        let (places, stores) = (places(), MemStoreOpener::new());
        let mut first = open(&places, &stores, 1).unwrap();
        first.record.may_have_lost_from = Some(Position::ZERO);
        first.control.write(&first.record).unwrap();
        drop(first);
        assert_eq!(open(&places, &stores, 1).err(), Some(CopyFault::Forgotten));
        assert!(!open(&places, &stores, 2).unwrap().recovered.may_have_lost);
    }
}

//! Opening a copy from what its volume holds.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keelson_copy_core::expanded_truncation::ExpandedSettings;
use keelson_copy_core::range_fetch::{FetchCost, Mark, Spans};
use keelson_copy_core::{CopyConfig, CopyMachine, Recovered};
use keelson_env::{Disk, KvStore, MemStoreOpener, SimDisk, StoreError, StoreOpener};
use keelson_format::{ControlRecord, Cursor, FramingConfig};
use keelson_log::{ControlFile, Damage, Evidence, Log, LogConfig, Recovery};
use keelson_types::{
    CopyFault, CopyId, DatabaseId, EpochTable, LogEnd, LogId, MemberId, Position, StoreId,
    StreamId, Weakness,
};

use super::mend::{Holder, mend};
use super::repair::{Repair, RepairPlace, load_mark, save_mark};
use super::truncating::Truncating;
use super::{CopyNode, Out};
use crate::params::Params;
use crate::probes::Probe;

/// Where a copy lies and who it is.
pub(crate) struct Place<'a> {
    pub(crate) disk: &'a SimDisk,
    pub(crate) stores: &'a MemStoreOpener,
    pub(crate) member: MemberId,
    pub(crate) database: DatabaseId,
    /// The id that consensus knows, for a copy that does not exist yet.
    pub(crate) copy: CopyId,
    pub(crate) stream: StreamId,
    pub(crate) params: &'a Params,
    /// Other copies, for log that rotted here.
    pub(crate) holders: Vec<Holder>,
}

impl Place<'_> {
    fn directory(&self) -> PathBuf {
        // A copy with a new id is a new copy, in its own directory; the old files are left alone
        // (G4).
        Path::new("/data").join(self.database.to_string()).join(self.copy.to_string())
    }
}

/// One copy may be sacrificed for space, and no log is kept beyond what somebody needs.
const EXPANDED: ExpandedSettings =
    ExpandedSettings { min_copies_to_protect: 1, min_free_bytes: 1, min_logs_to_protect: Some(0) };

type Failure = Box<dyn std::error::Error>;

impl CopyNode {
    /// Opens, or creates, the copy.
    #[expect(
        clippy::too_many_lines,
        reason = "every part of a copy begins here, one after another"
    )]
    pub(crate) fn open(place: &mut Place<'_>, out: &mut Vec<Out>) -> Result<Self, Failure> {
        let directory = place.directory();
        let disk: Arc<dyn Disk> = Arc::new(place.disk.clone());
        disk.create_dir_all(&directory)?;
        let (mut control, found) = ControlFile::open(&*disk, &directory.join("control"))?;
        let record = found.unwrap_or_else(|| {
            let (log, store) = (LogId::from_u128(1), StoreId::from_u128(1));
            ControlRecord::new(place.copy, place.database, place.stream, log, store)
        });
        let config = LogConfig {
            generation_bytes: place.params.generation_bytes,
            recycle_max: 1,
            zero_ahead_bytes: 1024,
        };
        let path = directory.join("log");
        let floor = record.durable_floor;
        let open = || Log::open(disk.clone(), &path, config, place.stream, floor);
        let (mut log, mut report) = open()?;
        while let Some(damage) = report.damage
            && mend_opened(&mut log, &damage, &record, &mut place.holders)
        {
            out.push(Out::Fired(Probe::MendedAtOpen));
            drop(log);
            (log, report) = open()?;
        }
        let mut record = record;
        let state = settle(&mut log, &report, &mut record, &mut control, out)?;
        let mark_path = directory.join("mark");
        let mut mark = load_mark(&*disk, &mark_path)?;
        let store = {
            let opening = StoreOpening {
                stores: place.stores,
                disk: &*disk,
                directory: &directory,
                mark_path: &mark_path,
                begins: begin_of(&log, &record),
                end: state.end.position,
            };
            opening.open(&mut control, &mut record, &mut mark, out)?
        };
        let found = store.replayed().position;
        let replayed = mark.as_ref().map_or(found, |mark| mark.store_position(found));
        let table = merged(&record.epoch_table, &report, state.end.position);
        let mut recovered = recovered(&record, &table, &report, &state, replayed);
        if mark.is_some() {
            // What was committed may be the fork's; the active says it again.
            recovered.committed = replayed;
        }
        let repair_place = RepairPlace {
            disk: disk.clone(),
            mark: mark_path,
            stores: place.stores.clone(),
            store: store_directory(&directory, record.store),
            weakness: of_fetches(place.params.weakness),
            saves_need_space: place.params.saves_need_space,
        };
        let framing =
            FramingConfig { generation_bytes: place.params.generation_bytes, compress: false };
        let config = CopyConfig {
            database: place.database,
            copy: place.copy,
            member: place.member,
            stream: place.stream,
            weakness: of_copies(place.params.weakness),
        };
        Ok(Self {
            database: place.database,
            copy: place.copy,
            member: place.member,
            machine: CopyMachine::new(config, recovered),
            log,
            store,
            cursor: Cursor::new(state, framing),
            control,
            record,
            ship_bytes: place.params.ship_bytes,
            sync_queued: false,
            ships: BTreeMap::new(),
            staged: None,
            fetch: None,
            next_number: 1,
            writes: VecDeque::new(),
            reads: Vec::new(),
            serving: None,
            covered: false,
            established: None,
            gave_up: None,
            proposal: None,
            ceiling: None,
            seals: BTreeMap::new(),
            mounts: BTreeMap::new(),
            lag: None,
            repair: Repair::new(repair_place, mark, replayed),
            truncating: Truncating::new(place.params.truncation.then_some(EXPANDED)),
            misses_log: false,
            source: None,
        })
    }
}

/// The weakness, if it concerns copies: those of cluster-core do not.
fn of_copies(weakness: Weakness) -> Weakness {
    match weakness {
        Weakness::RuleChangeAtOnce
        | Weakness::SealBeforeSync
        | Weakness::ResumeAfterRestart
        | Weakness::AdmitBeforeCaughtUp
        | Weakness::ExpiryDismounts => weakness,
        _ => Weakness::None,
    }
}

/// The weakness, if it concerns range fetches.
fn of_fetches(weakness: Weakness) -> Weakness {
    match weakness {
        Weakness::KeepFetchedAcrossEpochs | Weakness::TrustBeforeQ => weakness,
        _ => Weakness::None,
    }
}

/// Where the store of this id lies.
fn store_directory(directory: &Path, store: StoreId) -> PathBuf {
    directory.join(format!("store-{store}"))
}

/// A store about to be opened. One that rotted gives way to what is sound of it, with a mark, as
/// in `replication`.
struct StoreOpening<'a> {
    stores: &'a MemStoreOpener,
    disk: &'a dyn Disk,
    directory: &'a Path,
    mark_path: &'a Path,
    /// Where the log begins.
    begins: LogEnd,
    /// End of the log.
    end: Position,
}

impl StoreOpening<'_> {
    fn open(
        &self,
        control: &mut ControlFile,
        record: &mut ControlRecord,
        mark: &mut Option<Mark>,
        out: &mut Vec<Out>,
    ) -> Result<Arc<dyn KvStore>, Failure> {
        let from = store_directory(self.directory, record.store);
        match self.stores.open(&from) {
            Err(StoreError::Damaged(_)) => {}
            opened => return Ok(opened?),
        }
        let number = u128::from_be_bytes(record.store.into_bytes());
        let next = StoreId::from_u128(number + 1);
        let to = store_directory(self.directory, next);
        let rescued = self.stores.rescue(&from, &to, self.begins)?;
        out.push(Out::Fired(Probe::Rescued));
        let floor = rescued.at.map_or(self.end, |at| at.position);
        let lost: Spans = rescued.lost.iter().cloned().collect();
        let estimate = FetchCost { keys: 0, bytes: rescued.lost_bytes };
        let made = Mark::of_rescued(mark.take(), &lost, floor, estimate);
        save_mark(self.disk, self.mark_path, Some(&made))?;
        record.store = next;
        control.write(record)?;
        *mark = Some(made);
        Ok(self.stores.open(&to)?)
    }
}

fn begin_of(log: &Log, record: &ControlRecord) -> LogEnd {
    let Some(header) = log.headers().next() else { return LogEnd::ZERO };
    if header.previous_end == Position::ZERO {
        return LogEnd::ZERO;
    }
    let epoch = record.epoch_table.epoch_at(header.previous_end);
    LogEnd { epoch, position: Position { generation: header.generation, offset: 0 } }
}

/// Mends what recovery found; false if nobody has the bytes.
fn mend_opened(
    log: &mut Log,
    damage: &Damage,
    record: &ControlRecord,
    holders: &mut [Holder],
) -> bool {
    let wanted = match damage.evidence {
        Evidence::Floor(position) | Evidence::LaterFrame { durable: position, .. } => position,
        Evidence::Closed => return false,
    };
    mend(log, damage.position, wanted, &record.epoch_table, holders)
}

/// Cuts damage and headers without frames; notes durably that log may be lost (R4).
fn settle(
    log: &mut Log,
    report: &Recovery,
    record: &mut ControlRecord,
    control: &mut ControlFile,
    out: &mut Vec<Out>,
) -> Result<keelson_format::CursorState, Failure> {
    if report.cut.is_some() {
        out.push(Out::Fired(Probe::TornTail));
    }
    if let Some(damage) = &report.damage {
        out.push(Out::Fired(Probe::Damage));
        out.push(Out::Note(format!("damage: {damage}")));
        record.may_have_lost_from = Some(damage.position);
        record.durable_floor = Position::ZERO;
        control.write(record)?;
    }
    let state = report.state;
    if report.damage.is_some() || state.position != state.end.position {
        if report.damage.is_none() {
            out.push(Out::Fired(Probe::EmptyGeneration));
        }
        return Ok(log.cut(state.end.position)?.state);
    }
    Ok(state)
}

fn merged(stored: &EpochTable, report: &Recovery, end: Position) -> EpochTable {
    let mut table = stored.clone();
    table.cut(end);
    for row in &report.epochs {
        if row.epoch > table.last_epoch() {
            // Rows of the log follow those of the control file.
            let _ = table.push(*row);
        }
    }
    table.cut(end);
    table
}

fn recovered(
    record: &ControlRecord,
    table: &EpochTable,
    report: &Recovery,
    state: &keelson_format::CursorState,
    replayed: Position,
) -> Recovered {
    let lost = replayed > state.end.position;
    Recovered {
        sealed: record.sealed,
        table: table.clone(),
        end: state.end,
        committed: report.committed.max(record.committed.min(state.end.position)),
        replayed,
        may_have_lost: record.may_have_lost_from.is_some(),
        fault: lost.then(|| CopyFault::MissingLog("the store is ahead of the log".into())),
        rebuilding: None,
    }
}

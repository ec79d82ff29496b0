//! Work on a copy's log and control file. One lane per copy; what waits is written together and
//! synced once: group commit.
//!
//! A failed write or sync poisons the log: it is reported once, everything after it is dropped, and
//! the copy is opened anew from its files later (review S10). A write for which there is no space
//! is no failure of the log: what came before it is synced, what follows it is dropped up to the
//! cut that the machine orders, and seals go on (G7).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use keelson_copy_core::range_fetch::FetchEvent;
use keelson_copy_core::scrub::StoreRepair;
use keelson_env::{Disk, DiskErrorKind, DiskResult, StoreOpener};
use keelson_format::{Chunk, ControlRecord, CursorState};
use keelson_log::{ControlFile, Log, LogError};
use keelson_types::{CopyFault, CopyId, CopyRole, Epoch, EpochTable, Generation, LogEnd, Position};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::catalog;
use crate::gate::boottime_now;
use crate::lag_file::{self, Kept};
use crate::mark_file;
use crate::message::{AfterCut, Completion};
use crate::meters::Meters;
use crate::note::NoteCode;
use crate::open::Places;
use crate::rebuild::{self, Condemned, Doubt};
use crate::scrub::SCRUB_EXTENSION;
use crate::seed::SyncTimes;
use crate::shared::CopyShared;
use crate::store_lane::log_fault;
use crate::whole_file;

/// Log read at a time in search of damage.
const READ_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub(crate) enum LogJob {
    /// Write these chunks; the log ends there afterwards.
    Write { chunks: Vec<Chunk>, end: LogEnd },
    /// Cut the log behind this position.
    Cut { to: Position, then: AfterCut },
    /// Whether the chain value at a position is the one that a passive has there.
    CompareChain { copy: CopyId, epoch: Epoch, matched: Position, chain: u32 },
    /// What follows may take the process along: a try stands in the control file before it begins.
    CountTry,
    /// It did not; tries of earlier lives stay.
    EndTry,
    /// Its start, or mount, counts as a success.
    Settled,
    /// Remove generations before this one.
    Truncate(Generation),
    /// Keep the clock or the monitor of a lag.
    SaveLag(Kept, Vec<u8>),
    /// The state with which the log must go on at a damaged place.
    StateBefore(Position, oneshot::Sender<Result<CursorState, String>>),
    /// Write verified bytes over rotten ones, behind which `state` stands; answers whether the own
    /// bytes follow.
    Mend { chunk: Chunk, state: Box<CursorState>, reply: oneshot::Sender<Result<bool, String>> },
    /// Compare the small files with what they must hold, and write them again if they do not;
    /// answers which.
    CheckControl(oneshot::Sender<Vec<NoteCode>>),
    /// Give the store up if the log can make it anew, or write the doubt down.
    CondemnStore { until: Position, role: CopyRole, others: usize, why: String, doubt: Doubt },
    /// Keep how a scrub ended; answers with the stores that were given up.
    Scrubbed { kept: Vec<u8>, clean: bool, reply: oneshot::Sender<()> },
    /// Keep the mark of a range fetch, whole or not at all.
    SaveMark { life: u64, number: u64, bytes: Vec<u8> },
    /// The store is whole again.
    ClearMark { life: u64, number: u64 },
    /// Sync and do nothing any more.
    Close(tokio::sync::oneshot::Sender<()>),
    /// Keep seal and epochs.
    Control { save: u64, sealed: Epoch, table: EpochTable },
}

/// The state behind the lane.
pub(crate) struct LogWorker {
    pub(crate) shared: Arc<CopyShared>,
    pub(crate) log: Log,
    pub(crate) control: ControlFile,
    /// What the control file holds.
    pub(crate) record: ControlRecord,
    pub(crate) done: UnboundedSender<Completion>,
    pub(crate) broken: bool,
    /// A write found no space: the next ones do not follow what the log holds, until it is cut.
    pub(crate) refusing: bool,
    /// Size at which the database closes generations.
    pub(crate) generation_bytes: u64,
    pub(crate) places: Places,
    pub(crate) syncs: Arc<SyncTimes>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) opener: Arc<dyn StoreOpener>,
    pub(crate) disk: Arc<dyn Disk>,
    /// Of the control file.
    pub(crate) directory: PathBuf,
}

impl LogWorker {
    pub(crate) fn work(&mut self, jobs: Vec<LogJob>) {
        let mut unsynced: Option<(LogEnd, usize)> = None;
        for job in jobs {
            if self.broken {
                continue; // Dropping a `Close` answers it.
            }
            let result = match job {
                LogJob::Write { .. } if self.refusing => Ok(()),
                LogJob::Write { chunks, end } => match self.log.write(&chunks) {
                    Ok(()) => {
                        self.count_written(&chunks);
                        let frames = unsynced.map_or(0, |(_, frames)| frames) + 1;
                        unsynced = Some((end, frames));
                        Ok(())
                    }
                    Err(LogError::NoSpace) => self.refuse_writes(unsynced.take()),
                    Err(error) => Err(log_fault(&error)),
                },
                LogJob::Cut { .. }
                | LogJob::Close(_)
                | LogJob::Truncate(_)
                | LogJob::Mend { .. }
                | LogJob::Control { .. } => self.behind_writes(job, unsynced.take()),
                job => self.beside_writes(job),
            };
            self.note(result);
        }
        if !self.broken {
            let result = self.sync(unsynced);
            self.note(result);
        }
    }

    fn count_written(&self, chunks: &[Chunk]) {
        let bytes = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        self.meters.wrote(bytes);
        self.shared.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Work that needs what was written before to be durable.
    fn behind_writes(
        &mut self,
        job: LogJob,
        unsynced: Option<(LogEnd, usize)>,
    ) -> Result<(), CopyFault> {
        let synced = self.sync(unsynced);
        match job {
            LogJob::Close(done) => {
                let result = synced.and_then(|()| self.close());
                self.broken = true;
                let _ = done.send(());
                result
            }
            LogJob::Cut { to, then } => {
                self.refusing = false;
                synced.and_then(|()| self.cut(to, then))
            }
            LogJob::Truncate(before) => synced.and_then(|()| self.truncate(before)),
            LogJob::Mend { chunk, state, reply } => {
                synced.and_then(|()| self.mend(&chunk, &state, reply))
            }
            LogJob::Control { save, sealed, table } => {
                synced.and_then(|()| self.save(save, sealed, table))
            }
            job => synced.and_then(|()| self.beside_writes(job)),
        }
    }

    /// Work that does not care what was written before.
    fn beside_writes(&mut self, job: LogJob) -> Result<(), CopyFault> {
        match job {
            LogJob::CompareChain { copy, epoch, matched, chain } => {
                let own = self.log.chain_at(matched);
                let damage = own.is_err().then(|| self.damage_before(matched)).flatten();
                let same = own.is_ok_and(|own| own == chain);
                self.report(Completion::ChainRead { copy, epoch, matched, same, damage });
            }
            LogJob::CountTry => {
                self.record.start_tries += 1;
                self.write_control()?;
                self.report(Completion::TryCounted);
            }
            LogJob::EndTry => {
                self.record.start_tries = self.record.start_tries.saturating_sub(1);
                return self.write_control();
            }
            LogJob::Settled if self.record.start_tries == 0 => {}
            LogJob::Settled => {
                self.record.start_tries = 0;
                return self.write_control();
            }
            LogJob::SaveLag(kept, bytes) => self.save_lag(kept, &bytes),
            LogJob::StateBefore(at, reply) => {
                let state = self.log.state_before(at);
                let _ = reply.send(state.map_err(|error| error.to_string()));
            }
            LogJob::CheckControl(reply) => return self.check_control(reply),
            LogJob::CondemnStore { until, role, others, why, doubt } => {
                let repair = rebuild::repair_of(&self.log, role, others);
                return self.condemn_store(until, repair, why, doubt);
            }
            LogJob::Scrubbed { kept, clean, reply } => {
                let result = self.scrubbed(kept, clean);
                let _ = reply.send(());
                return result;
            }
            LogJob::SaveMark { life, number, bytes } => self.save_mark(life, number, &bytes),
            LogJob::ClearMark { life, number } => self.clear_mark(life, number),
            LogJob::Write { .. }
            | LogJob::Cut { .. }
            | LogJob::Close(_)
            | LogJob::Truncate(_)
            | LogJob::Mend { .. }
            | LogJob::Control { .. } => {
                debug_assert!(false, "done in its place");
            }
        }
        Ok(())
    }

    fn write_control(&mut self) -> Result<(), CopyFault> {
        let written = self.control.write(&self.record);
        written.map_err(|error| CopyFault::LogIo(format!("control file: {error}")))
    }

    fn refuse_writes(&mut self, unsynced: Option<(LogEnd, usize)>) -> Result<(), CopyFault> {
        self.sync(unsynced)?;
        self.refusing = true;
        let database = &self.shared.name;
        tracing::warn!(%database, "no space for log; what was refused is cut off");
        self.report(Completion::LogFailed(CopyFault::DiskFull));
        Ok(())
    }

    fn note(&mut self, result: Result<(), CopyFault>) {
        if let Err(fault) = result {
            self.broken = true;
            // Only a write without space leaves the log whole; a cut or a save that was not done is
            // a fault, which opening the copy anew heals once there is space.
            let fault = match fault {
                CopyFault::DiskFull => CopyFault::LogIo("the log volume is full".into()),
                other => other,
            };
            tracing::error!(database = %self.shared.name, %fault, "log failed; the copy stops");
            self.report(Completion::LogFailed(fault));
        }
    }

    fn report(&self, completion: Completion) {
        // The owner has gone when the process stops or the copy is reopened.
        let _ = self.done.send(completion);
    }

    fn sync(&mut self, unsynced: Option<(LogEnd, usize)>) -> Result<(), CopyFault> {
        let Some((end, frames)) = unsynced else { return Ok(()) };
        let begun = std::time::Instant::now();
        self.log.sync().map_err(|error: LogError| log_fault(&error))?;
        self.meters.synced(begun.elapsed());
        // What a writer waits for here: a thread, the write and the sync.
        let since = self.shared.log_clock.busy_since();
        self.syncs.took(since.map_or(begun.elapsed(), |since| boottime_now().since(since)));
        self.note_files();
        self.report(Completion::Logged { end, frames });
        // Recovery trusts what lies before the floor and reads the rest.
        if end.position.generation > self.record.durable_floor.generation {
            self.record.durable_floor = self.log.durable_end().position;
            self.write_control()?;
        }
        Ok(())
    }

    fn cut(&mut self, to: Position, then: AfterCut) -> Result<(), CopyFault> {
        let mut table = self.record.epoch_table.clone();
        table.cut(to);
        let forked = table != self.record.epoch_table;
        if to < self.record.durable_floor || to < self.record.committed || forked {
            // Before the cut: a crash in between must not look like lost log, and nothing of the
            // fork may count as committed, or as an epoch, on the log that follows.
            self.record.durable_floor = self.record.durable_floor.min(to);
            self.record.committed = self.record.committed.min(to);
            self.record.epoch_table = table;
            self.write_control()?;
        }
        let report = self.log.cut(to).map_err(|error| log_fault(&error))?;
        if let Some(salvage) = &report.salvage {
            let file = salvage.display();
            tracing::info!(database = %self.shared.name, %to, %file, "fork cut and kept");
        }
        self.note_files();
        self.report(Completion::LogCut { state: report.state, then });
        Ok(())
    }

    fn note_files(&self) {
        self.shared.log_bytes.store(self.log.kept_bytes(), Ordering::Relaxed);
        self.shared.index().refresh(&self.log, self.generation_bytes);
    }

    fn truncate(&mut self, before: Generation) -> Result<(), CopyFault> {
        let gone = self.log.truncate_before(before).map_err(|error| log_fault(&error))?;
        let first = self.log.first_generation().unwrap_or_default();
        if let Some(header) = self.log.header(first) {
            self.shared.log_from.store(header.previous_end);
        }
        self.note_files();
        tracing::debug!(database = %self.shared.name, gone, ?first, "log truncated");
        self.report(Completion::Truncated(first));
        Ok(())
    }

    fn save_mark(&self, life: u64, number: u64, bytes: &[u8]) {
        // Before it is durable: what the index says of these keys would never be put right.
        self.doubt_index();
        let path = mark_file::path(&self.directory, self.record.copy);
        let saved = whole_file::replace(&*self.disk, &path, bytes);
        self.mark_done(saved, life, FetchEvent::MarkSaved { number });
    }

    fn doubt_index(&self) {
        let store = self.places.store(self.shared.database, self.record.store);
        self.shared.catalog.doubt(&catalog::directory_of(&store));
    }

    fn clear_mark(&self, life: u64, number: u64) {
        let path = mark_file::path(&self.directory, self.record.copy);
        let removed = whole_file::remove(&*self.disk, &path);
        self.mark_done(removed, life, FetchEvent::MarkCleared { number });
    }

    /// Without its mark a fetch goes no further; the copy is opened anew from what is durable.
    fn mark_done(&self, result: DiskResult<()>, life: u64, event: FetchEvent) {
        match result {
            Ok(()) => self.report(Completion::Fetch { life, event }),
            Err(error) => {
                let fault = match error.kind {
                    DiskErrorKind::NoSpace => CopyFault::DiskFull,
                    _ => CopyFault::Store(format!("mark of a fetch: {error}")),
                };
                self.report(Completion::StoreFailed(fault));
            }
        }
    }

    /// Without it a lagged copy lags longer after a restart, so a failure stops nothing.
    fn save_lag(&self, kept: Kept, bytes: &[u8]) {
        if let Err(error) = lag_file::save(&*self.disk, &self.directory, kept, bytes) {
            tracing::warn!(database = %self.shared.name, ?kept, %error, "a lag was not saved");
        }
    }

    /// With the floor at the end, rot in the last frames is no torn tail at the next start.
    fn close(&mut self) -> Result<(), CopyFault> {
        let end = self.log.durable_end().position;
        if self.log.damage().is_some() || self.record.durable_floor == end {
            return Ok(());
        }
        self.record.durable_floor = end;
        self.write_control()
    }

    /// Where the generation of a position cannot be read.
    fn damage_before(&self, to: Position) -> Option<Position> {
        let (mut at, mut reader) = (Position { offset: 0, ..to }, self.log.reader());
        loop {
            match reader.read(at, to, READ_BYTES) {
                Ok(chunks) => at = chunks.last()?.end,
                Err(LogError::Damaged(damage)) => return Some(damage.position),
                Err(_) => return None,
            }
        }
    }

    /// A mend that is refused changes nothing; a failed write or sync is one of the log.
    fn mend(
        &mut self,
        chunk: &Chunk,
        state: &CursorState,
        reply: oneshot::Sender<Result<bool, String>>,
    ) -> Result<(), CopyFault> {
        let mended = self.log.mend(chunk).and_then(|()| self.log.goes_on(state));
        let poisoned = matches!(mended, Err(LogError::Poisoned(_)));
        let fault = mended.as_ref().err().filter(|_| poisoned).map(log_fault);
        let _ = reply.send(mended.map_err(|error| error.to_string()));
        fault.map_or(Ok(()), Err)
    }

    fn check_control(&mut self, reply: oneshot::Sender<Vec<NoteCode>>) -> Result<(), CopyFault> {
        let failed = |error| CopyFault::LogIo(format!("control file: {error}"));
        let mut mended = Vec::new();
        if !self.control.holds(&self.record).map_err(failed)? {
            self.write_control()?;
            mended.push(NoteCode::ControlMended);
        }
        if lag_file::is_damaged(&*self.disk, &self.directory) {
            mended.push(NoteCode::SideFileMended);
        }
        let _ = reply.send(mended);
        Ok(())
    }

    fn condemn_store(
        &mut self,
        until: Position,
        repair: StoreRepair,
        why: String,
        doubt: Doubt,
    ) -> Result<(), CopyFault> {
        let given_up = match repair {
            StoreRepair::ReplayLog => {
                let (places, opener) = (&self.places, &*self.opener);
                rebuild::condemn(places, opener, self.shared.database, &mut self.record, until);
                true
            }
            // The next opening takes the files apart.
            StoreRepair::Fetch => {
                Doubt::put(Some(doubt), &mut self.record);
                true
            }
            StoreRepair::Leave => false,
        };
        if given_up {
            self.write_control()?;
        }
        self.report(Completion::StoreCondemned { why, given_up });
        Ok(())
    }

    /// After a clean scrub nothing needs the evidence of former damage any more.
    fn scrubbed(&mut self, kept: Vec<u8>, clean: bool) -> Result<(), CopyFault> {
        rebuild::put_extension(&mut self.record, SCRUB_EXTENSION, kept);
        let mut condemned = Condemned::read(&self.record);
        if clean && !condemned.stores.is_empty() {
            let (places, opener) = (&self.places, &*self.opener);
            rebuild::remove(places, opener, self.shared.database, &mut condemned);
            condemned.put(&mut self.record);
        }
        self.write_control()
    }

    fn save(&mut self, save: u64, sealed: Epoch, table: EpochTable) -> Result<(), CopyFault> {
        self.record.sealed = sealed;
        self.record.epoch_table = table;
        self.record.committed = self.shared.committed.load();
        self.record.durable_floor = self.log.durable_end().position;
        self.write_control()?;
        self.report(Completion::ControlSaved(save));
        Ok(())
    }
}

#[cfg(test)]
mod tests;

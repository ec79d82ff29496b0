//! Work on a copy's store: opening, replay, checkpoint, closing. One lane per copy, in order.
//!
//! Replay takes frames from memory when the owner has them and from the log files otherwise. A
//! store whose write failed is closed and reopened from its files once; the second failure in a row
//! is reported as a fault (review S17). A full volume is none: replay is tried again later, and a
//! store that cannot be made durable stays open. Neither is an earlier handle of the store that
//! somebody still holds: the jobs come again, and the lane's thread does not wait.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use keelson_copy_core::checkpoint;
use keelson_copy_core::range_fetch::{FetchEvent, FetchFailure, Span};
use keelson_env::{KvStore, ReplayFrame, StoreError, StoreItem, StoreOpener};
use keelson_format::{Chunk, FormatError, Item};
use keelson_log::{LogError, LogReader};
use keelson_types::{CopyFault, LogEnd, Position, Record, Watermarks};
use tokio::sync::mpsc::UnboundedSender;

use crate::digest::Digests;
use crate::message::Completion;
use crate::pool::Pool;
use crate::shared::{CopyShared, Life};
use crate::store_slot::READERS_END;

/// Log read from files in one piece.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Frames applied in one store batch.
const BATCH_BYTES: usize = 2 * 1024 * 1024;

#[derive(Debug)]
pub(crate) enum StoreJob {
    /// Replay up to here; the chunks, if any, continue what was replayed before.
    Replay { to: Position, chunks: Vec<Chunk> },
    /// Open the store for a reader.
    Open,
    /// Drop what was not checkpointed, and open the store again.
    Reopen,
    /// The second half of it.
    OpenAgain,
    /// Work of a range fetch.
    Fetch(FetchWork),
    /// Make what was replayed durable, if the store is open.
    Checkpoint,
    /// Checkpoint and close: nothing to replay, no reader.
    Close,
    /// The same for good; then answer.
    Stop(tokio::sync::oneshot::Sender<()>),
}

/// What a range fetch wants of the store. Each is answered under its number, in this life of the
/// machine.
#[derive(Debug)]
pub(crate) enum FetchWork {
    /// Set the position back, durably.
    Rewind { life: u64, number: u64, to: LogEnd },
    /// Make spans equal to items.
    Overwrite {
        life: u64,
        number: u64,
        spans: Vec<Span>,
        at: LogEnd,
        items: Option<Vec<StoreItem>>,
    },
    /// Make everything durable.
    Checkpoint { life: u64, number: u64 },
}

/// The state behind the lane.
pub(crate) struct StoreWorker {
    pub(crate) shared: Arc<CopyShared>,
    pub(crate) opener: Arc<dyn StoreOpener>,
    pub(crate) directory: PathBuf,
    pub(crate) reader: LogReader,
    pub(crate) digests: Arc<Digests>,
    pub(crate) scans: Arc<Pool>,
    pub(crate) done: UnboundedSender<Completion>,
    pub(crate) generation_bytes: u64,
    pub(crate) dirty_since: Option<Instant>,
    /// The store is wanted, and an earlier handle of it is still there.
    pub(crate) waits_since: Option<Instant>,
    /// The replay that comes next has failed once.
    pub(crate) replays_again: bool,
}

enum ReplayFailure {
    Store(StoreError),
    Log(CopyFault),
    /// The log cannot be read from here on.
    Blocked(Position),
}

impl From<StoreError> for ReplayFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl StoreJob {
    fn wants_store(&self) -> bool {
        match self {
            Self::Replay { .. } | Self::Open | Self::OpenAgain | Self::Fetch(_) => true,
            Self::Reopen | Self::Checkpoint | Self::Close | Self::Stop(_) => false,
        }
    }
}

/// Several replays become one. Chunks of one that does not begin where those of the one before end
/// are left out: what lies between is in the log files only, and so is read from there.
fn gather(jobs: Vec<StoreJob>) -> VecDeque<StoreJob> {
    let mut gathered: VecDeque<StoreJob> = VecDeque::with_capacity(jobs.len());
    for job in jobs {
        match (gathered.back_mut(), job) {
            (
                Some(StoreJob::Replay { to: until, chunks: before }),
                StoreJob::Replay { to, chunks },
            ) => {
                if before.last().is_some_and(|last| last.end >= *until) {
                    before.extend(chunks);
                }
                *until = to;
            }
            (_, job) => gathered.push_back(job),
        }
    }
    gathered
}

impl StoreWorker {
    /// Works on what waits; hands back what cannot be done yet.
    pub(crate) fn work(&mut self, jobs: Vec<StoreJob>) -> Vec<StoreJob> {
        let mut jobs = gather(jobs);
        while let Some(job) = jobs.pop_front() {
            if job.wants_store() && self.must_wait() {
                let stop = jobs.iter().position(|job| matches!(job, StoreJob::Stop(_)));
                if let Some(stop) = stop {
                    jobs.drain(..stop);
                    continue;
                }
                jobs.push_front(job);
                break;
            }
            if let Some(again) = self.one(job) {
                jobs.push_front(again);
            }
        }
        jobs.into()
    }

    /// Whether an earlier handle of the store is still there, and not for too long yet.
    fn must_wait(&mut self) -> bool {
        if !self.shared.store.must_wait(&*self.opener, &self.directory) {
            self.waits_since = None;
            return false;
        }
        self.waits_since.get_or_insert_with(Instant::now).elapsed() < READERS_END
    }

    /// Does a job; gives back what is left of it.
    fn one(&mut self, job: StoreJob) -> Option<StoreJob> {
        match job {
            StoreJob::Replay { to, chunks } => return self.replay_or_again(to, &chunks),
            StoreJob::Open => {
                let opened = self.open().map_err(|error| fault_of(&error));
                self.report(Completion::StoreOpened(opened));
            }
            StoreJob::Reopen => {
                self.let_go();
                return Some(StoreJob::OpenAgain);
            }
            StoreJob::OpenAgain => {
                let opened = self.open().map(|store| store.replayed().position);
                self.report(Completion::StoreReopened(opened.map_err(|error| fault_of(&error))));
            }
            StoreJob::Fetch(work) => self.fetch(work),
            // One of several that were asked for is enough; a full volume leaves it to the next
            // look.
            StoreJob::Checkpoint if self.shared.may_checkpoint_for_space() => {
                self.checkpoint();
            }
            StoreJob::Checkpoint => {}
            StoreJob::Close => {
                if !self.checkpoint() {
                    // It stays open: what it has in memory is on no disk.
                    return None;
                }
                if let Some(store) = self.shared.store.get() {
                    self.shared.store_bytes.store(store.size_bytes(), Ordering::Relaxed);
                }
                self.shared.store.close();
                self.report(Completion::StoreClosed);
            }
            StoreJob::Stop(done) => {
                self.checkpoint();
                self.shared.store.retire();
                let _ = done.send(());
            }
        }
        None
    }

    /// The store is to be read from its files; its readers end.
    fn let_go(&self) {
        self.shared.store.retire();
        self.shared.reopened();
    }

    fn is_marked(&self) -> bool {
        self.shared.marked.load(Ordering::SeqCst)
    }

    fn report(&self, completion: Completion) {
        // The owner has gone when the process stops or the copy is reopened.
        let _ = self.done.send(completion);
    }

    fn open(&self) -> Result<Arc<dyn KvStore>, StoreError> {
        self.shared.store.open(&*self.opener, &self.directory)
    }

    /// Whether the store may be closed: not if its volume is full. Then nothing is lost, and the
    /// next checkpoint tries again.
    fn checkpoint(&mut self) -> bool {
        let Some(store) = self.shared.store.get() else { return true };
        match self.checkpoint_of(&*store) {
            Ok(_) => {}
            Err(StoreError::NoSpace) => return false,
            Err(error) => self.report(Completion::StoreFailed(fault_of(&error))),
        }
        true
    }

    fn checkpoint_of(&mut self, store: &dyn KvStore) -> Result<Position, StoreError> {
        let to = store.checkpoint()?;
        self.dirty_since = None;
        self.shared.checkpointed.store(to);
        self.report(Completion::Checkpointed);
        Ok(to)
    }

    fn fetch(&mut self, work: FetchWork) {
        let (FetchWork::Rewind { life, number, .. }
        | FetchWork::Overwrite { life, number, .. }
        | FetchWork::Checkpoint { life, number }) = &work;
        let (life, number) = (*life, *number);
        let failed = |failure| FetchEvent::FetchFailed { number, failure };
        let event = match self.fetch_work(work) {
            Ok(event) => event,
            Err(StoreError::NoSpace) => FetchEvent::StoreFull { number },
            Err(StoreError::Malformed(why)) => {
                tracing::warn!(database = %self.shared.name, %why, "a donor's items are refused");
                failed(FetchFailure::Malformed)
            }
            Err(error) => return self.report(Completion::StoreFailed(fault_of(&error))),
        };
        self.report(Completion::Fetch { life, event });
    }

    fn fetch_work(&mut self, work: FetchWork) -> Result<FetchEvent, StoreError> {
        let store = self.open()?;
        Ok(match work {
            FetchWork::Rewind { number, to, .. } => {
                // A store that was made anew is behind the fork, and replays what leads there.
                if store.replayed().position > to.position {
                    store.rewind(to)?;
                }
                let at = store.replayed().position;
                self.shared.replayed.store(at);
                self.shared.checkpointed.store(store.checkpointed().min(at));
                FetchEvent::Rewound { number }
            }
            FetchWork::Overwrite { number, spans, at, items, .. } => match items {
                Some(items) if store.replayed().position <= at.position => {
                    store.overwrite(&spans, &items)?;
                    self.dirty_since.get_or_insert_with(Instant::now);
                    FetchEvent::Applied { number }
                }
                // Older values would come under newer effects.
                Some(_) => FetchEvent::FetchFailed { number, failure: FetchFailure::Behind },
                None => FetchEvent::FetchFailed { number, failure: FetchFailure::SnapshotGone },
            },
            FetchWork::Checkpoint { number, .. } => {
                FetchEvent::Checkpointed { number, to: self.checkpoint_of(&*store)? }
            }
        })
    }

    /// Replays; gives the rest back if the store is to be reopened for it, which is tried once.
    fn replay_or_again(&mut self, to: Position, chunks: &[Chunk]) -> Option<StoreJob> {
        let again = std::mem::take(&mut self.replays_again);
        match self.replay(to, chunks) {
            Ok(completion) => self.report(completion),
            Err(ReplayFailure::Store(StoreError::NoSpace)) => {
                self.report(Completion::StoreFull { to });
            }
            // A mark speaks of chunks that a reopened store may lack: the copy begins anew then.
            Err(ReplayFailure::Store(StoreError::Failed(why))) if !again && !self.is_marked() => {
                tracing::warn!(database = %self.shared.name, %why, "store failed; reopening it");
                self.let_go();
                self.replays_again = true;
                return Some(StoreJob::Replay { to, chunks: Vec::new() });
            }
            Err(ReplayFailure::Blocked(at)) => self.report(Completion::ReplayBlocked(at)),
            Err(ReplayFailure::Log(fault)) => self.report(Completion::StoreFailed(fault)),
            Err(ReplayFailure::Store(error)) => {
                self.report(Completion::StoreFailed(fault_of(&error)));
            }
        }
        None
    }

    fn replay(&mut self, to: Position, chunks: &[Chunk]) -> Result<Completion, ReplayFailure> {
        let store = self.open()?;
        let mut at = store.replayed().position;
        let mut time_millis = 0;
        let continues = chunks.first().is_some_and(|first| first.position <= at);
        if continues {
            (at, time_millis) = self.replay_chunks(&store, chunks, at, to)?;
        }
        while at < to {
            let read = self.reader.read(at, to, READ_BYTES);
            let read = read.map_err(|error| match error {
                LogError::Damaged(damage) => ReplayFailure::Blocked(damage.position),
                error => ReplayFailure::Log(log_fault(&error)),
            })?;
            if read.is_empty() {
                break;
            }
            let before = at;
            (at, time_millis) = self.replay_chunks(&store, &read, at, to)?;
            if at == before {
                break;
            }
        }
        self.note_dirty(&store);
        Ok(Completion::Replayed { to: at, time_millis })
    }

    fn note_dirty(&mut self, store: &Arc<dyn KvStore>) {
        let since = *self.dirty_since.get_or_insert_with(Instant::now);
        let (from, to) = (store.checkpointed(), store.replayed().position);
        let bytes = Watermarks::distance_bytes(from, to, self.generation_bytes);
        if checkpoint::is_due(bytes, since.elapsed()) {
            self.checkpoint();
        }
    }

    /// Applies the frames between `at` and `to`; returns where the store is now, and the time of
    /// the last frame.
    fn replay_chunks(
        &self,
        store: &Arc<dyn KvStore>,
        chunks: &[Chunk],
        mut at: Position,
        to: Position,
    ) -> Result<(Position, u64), ReplayFailure> {
        let mut frames: Vec<ReplayFrame> = Vec::new();
        let (mut bytes, mut time_millis) = (0, 0);
        for item in chunks.iter().flat_map(Chunk::items) {
            let item = item.map_err(|(position, error)| damage(position, &error))?;
            let Item::Frame(info) = item else { continue };
            let end = info.end();
            if end.position <= at {
                continue;
            }
            if end.position > to {
                break;
            }
            let frame = info.decode().map_err(|error| damage(end.position, &error))?;
            bytes += info.bytes.len();
            time_millis = frame.time.unix_millis();
            at = end.position;
            let marker = marker_in(&frame.records);
            let (time, first_sequence) = (frame.time, frame.first_sequence);
            frames.push(ReplayFrame { end, time, first_sequence, records: frame.records });
            if bytes >= BATCH_BYTES || marker.is_some() {
                self.hand_over(store, &mut frames, &mut bytes)?;
            }
            if let Some(id) = marker {
                self.take_digest(store, id)?;
            }
        }
        if !frames.is_empty() {
            self.hand_over(store, &mut frames, &mut bytes)?;
        }
        Ok((at, time_millis))
    }

    /// Gives frames to the store, which then has so many bytes of log more.
    fn hand_over(
        &self,
        store: &Arc<dyn KvStore>,
        frames: &mut Vec<ReplayFrame>,
        bytes: &mut usize,
    ) -> Result<(), StoreError> {
        store.replay(&std::mem::take(frames))?;
        let bytes = std::mem::take(bytes) as u64;
        self.shared.replayed_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// The snapshot is taken here, at exactly this frame; the reading happens elsewhere.
    fn take_digest(&self, store: &Arc<dyn KvStore>, id: u64) -> Result<(), StoreError> {
        if self.is_marked() {
            let at = store.replayed();
            self.digests.put(id, at, Err("keys of this store are being fetched".into()));
            return Ok(());
        }
        let snapshot = store.clone().snapshot()?;
        let (digests, life) = (self.digests.clone(), Life::of(&self.shared));
        self.scans.run(move || {
            let result = snapshot.digest_while(&|| !life.is_over());
            let result = result.map_err(|error| error.to_string());
            digests.put(id, snapshot.at(), result);
        });
        Ok(())
    }
}

fn marker_in(records: &[Record]) -> Option<u64> {
    records.iter().rev().find_map(|record| match record {
        Record::DigestMarker { id } => Some(*id),
        _ => None,
    })
}

fn damage(position: Position, error: &FormatError) -> ReplayFailure {
    ReplayFailure::Log(match error {
        FormatError::NeedsVersion(version) => CopyFault::NeedsVersion(*version),
        error => CopyFault::LogDamaged(format!("at {position}: {error}")),
    })
}

pub(crate) fn log_fault(error: &LogError) -> CopyFault {
    match error {
        LogError::NoSpace => CopyFault::DiskFull,
        LogError::Damaged(_) => CopyFault::LogDamaged(error.to_string()),
        other => CopyFault::LogIo(other.to_string()),
    }
}

pub(crate) fn fault_of(error: &StoreError) -> CopyFault {
    match error {
        StoreError::NoSpace => CopyFault::DiskFull,
        StoreError::NeedsVersion(version) => CopyFault::NeedsVersion(*version),
        StoreError::Damaged(why) => CopyFault::StoreDamaged(why.clone()),
        other => CopyFault::Store(other.to_string()),
    }
}

#[cfg(test)]
mod tests;

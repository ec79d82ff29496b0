//! The copy: carries out what its machine orders, one thing at a time.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keelson_copy_core::range_fetch::{
    Chunk, FetchAction, FetchConfig, FetchCost, FetchEvent, FetchFailure, FetchOrder, FetchRequest,
    Fetched, Mark, RangeFetch, StoreKey,
};
use keelson_env::{
    Disk, DiskResult, KvStore, MemStoreOpener, ReplayFrame, SimDisk, StoreItem, StoreOpener,
};
use keelson_sim::checkers::Violation;
use keelson_types::{Epoch, HybridTime, LogEnd, Position, Tick, Weakness};

use super::Pace;
use super::model::{Content, Frame, content_at};

pub(super) struct Copy {
    pub(super) log: Vec<Frame>,
    pub(super) machine: RangeFetch,
    pub(super) disk: SimDisk,
    pub(super) disk_crashed: bool,
    pub(super) checkpointed: Position,
    pub(super) violation: Option<Violation>,
    config: FetchConfig,
    pace: Pace,
    now: Tick,
    stores: MemStoreOpener,
    store: Option<Arc<dyn KvStore>>,
    todo: VecDeque<FetchAction>,
    /// Becomes the log once the mark is durable: the fork is cut, the other log is followed.
    next_log: Option<Vec<Frame>>,
    /// The served log, its epoch, and how many frames of it the donor has replayed.
    donor: (Epoch, Vec<Frame>, usize),
    chunk: Vec<StoreItem>,
}

impl Copy {
    /// A copy that has replayed this log and made that durable.
    pub(super) fn new(log: Vec<Frame>, weakness: Weakness, pace: Pace) -> Self {
        let config = FetchConfig {
            chunk_keys_max: 2,
            chunk_spans_max: 3,
            progress_bytes: 6,
            weakness,
            ..FetchConfig::default()
        };
        let disk = SimDisk::new();
        disk.create_dir_all(directory()).expect("creates");
        let mut copy = Self {
            log,
            machine: RangeFetch::new(config.clone()),
            disk,
            disk_crashed: false,
            checkpointed: Position::ZERO,
            violation: None,
            config,
            pace,
            now: Tick(0),
            stores: MemStoreOpener::new(),
            store: None,
            todo: VecDeque::new(),
            next_log: None,
            donor: (Epoch::ZERO, Vec::new(), 0),
            chunk: Vec::new(),
        };
        copy.restart();
        while copy.work() {}
        copy.checkpoint();
        copy
    }

    fn store(&self) -> &dyn KvStore {
        self.store.as_deref().expect("open")
    }

    /// Where the store says that it stands.
    pub(super) fn position(&self) -> LogEnd {
        self.store().replayed()
    }

    /// The durable mark, as a start finds it.
    pub(super) fn mark(&self) -> Option<Mark> {
        let bytes = self.disk.bytes(&mark_path())?;
        Some(Mark::decode(&bytes).expect("the mark is written whole or not at all"))
    }

    /// Whether the durable mark says that all data is there.
    pub(super) fn has_recorded_data(&self) -> bool {
        self.mark().is_some_and(|mark| mark.fetched == Fetched::All)
    }

    pub(super) fn power_cycle(&mut self, seed: u64) {
        self.stores.crash(seed);
        self.disk.crash(seed);
        self.restart();
    }

    /// Opens the copy: what lay only in memory is gone.
    pub(super) fn restart(&mut self) {
        self.store = None;
        self.store = Some(self.stores.open(Path::new("/store")).expect("opens"));
        self.disk_crashed = false;
        self.checkpointed = self.position().position;
        self.todo.clear();
        self.next_log = None;
        self.machine = RangeFetch::new(self.config.clone());
        let (mark, replayed) = (self.mark(), self.checkpointed);
        self.step(FetchEvent::Restarted { mark, replayed });
    }

    /// The donor of an epoch begins with what the epochs before left to it, and three frames.
    pub(super) fn connect(&mut self, epoch: Epoch, served: &[Frame]) {
        if self.donor.0 != epoch {
            let old = served.iter().filter(|frame| frame.end.epoch < epoch).count();
            self.donor = (epoch, served.to_vec(), old + 3);
        }
    }

    pub(super) fn begin(&mut self, order: FetchOrder, served: Vec<Frame>) {
        self.next_log = Some(served);
        self.step(FetchEvent::Begin(order));
    }

    pub(super) fn cut(&mut self, to: Position) {
        self.log.retain(|frame| frame.end.position <= to);
    }

    pub(super) fn step(&mut self, event: FetchEvent) {
        let mut out = Vec::new();
        self.machine.step(self.now, event, &mut out);
        self.todo.extend(out);
    }

    /// Does one thing; false if there is nothing to do.
    pub(super) fn work(&mut self) -> bool {
        let replayed =
            (self.pace == Pace::ReplayFirst || self.todo.is_empty()) && self.replay_one();
        if !replayed {
            match (self.todo.pop_front(), self.machine.next_wake()) {
                (Some(action), _) => self.carry_out(action),
                (None, Some(wake)) => {
                    self.now = wake;
                    self.step(FetchEvent::Wake);
                }
                (None, None) => return false,
            }
        }
        if !self.disk_crashed {
            self.check_content();
        }
        true
    }

    fn replay_one(&mut self) -> bool {
        let at = self.position().position;
        let limit = self.machine.replay_limit();
        let next = self.log.iter().find(|frame| frame.end.position > at).cloned();
        let allowed = |frame: &Frame| limit.is_none_or(|limit| frame.end.position <= limit);
        let Some(frame) = next.filter(allowed) else { return false };
        let (end, records) = (frame.end, frame.records);
        let replayed = ReplayFrame { end, time: HybridTime(0), first_sequence: 1, records };
        self.store().replay(&[replayed]).expect("replays");
        self.step(FetchEvent::Replayed { to: end.position });
        true
    }

    fn checkpoint(&mut self) {
        self.store().checkpoint().expect("works");
        self.checkpointed = self.position().position;
    }

    fn carry_out(&mut self, action: FetchAction) {
        match action {
            FetchAction::SaveMark { number, mark } => match self.save(&mark.encode()) {
                Ok(()) => self.step(FetchEvent::MarkSaved { number }),
                Err(_) => self.disk_crashed = true,
            },
            FetchAction::ClearMark { number } => match self.clear() {
                Ok(()) => self.step(FetchEvent::MarkCleared { number }),
                Err(_) => self.disk_crashed = true,
            },
            FetchAction::Begun { .. } => self.log = self.next_log.take().expect("an order waits"),
            FetchAction::Rewind { number, to } => {
                self.store().rewind(to).expect("works");
                self.checkpointed = self.store().checkpointed();
                self.step(FetchEvent::Rewound { number });
            }
            FetchAction::Fetch { number, request, .. } => self.fetch(number, &request),
            FetchAction::ApplyChunk { number, spans, at, .. } => {
                assert!(self.position().position <= at.position, "replay passed {at}");
                let items = std::mem::take(&mut self.chunk);
                self.store().overwrite(&spans, &items).expect("works");
                self.step(FetchEvent::Applied { number });
            }
            FetchAction::Checkpoint { number } => {
                self.checkpoint();
                let to = self.checkpointed;
                self.step(FetchEvent::Checkpointed { number, to });
            }
            FetchAction::Trust | FetchAction::Finished { .. } => {}
            FetchAction::Refused { refusal, .. } => panic!("{refusal:?}"),
        }
    }

    fn save(&self, bytes: &[u8]) -> DiskResult<()> {
        let new = directory().join("new");
        if self.disk.exists(&new)? {
            self.disk.remove(&new)?;
        }
        let file = self.disk.create(&new)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        self.disk.rename(&new, &mark_path())?;
        self.disk.sync_dir(directory())
    }

    fn clear(&self) -> DiskResult<()> {
        self.disk.remove(&mark_path())?;
        self.disk.sync_dir(directory())
    }

    /// The donor keeps no snapshot for long: it replays a frame after every answer.
    fn fetch(&mut self, number: u64, request: &FetchRequest) {
        let (epoch, log, replayed) = &mut self.donor;
        let at = log[*replayed - 1].end;
        let failure = if *epoch != request.epoch {
            Some(FetchFailure::OtherEpoch)
        } else if request.snapshot.is_some_and(|snapshot| snapshot != at) {
            Some(FetchFailure::SnapshotGone)
        } else {
            (at.position < request.not_before).then_some(FetchFailure::Behind)
        };
        let snapshot = content_at(log, at).expect("the donor follows its log");
        *replayed = log.len().min(*replayed + 1);
        if let Some(failure) = failure {
            return self.step(FetchEvent::FetchFailed { number, failure });
        }
        let user = |key: &[u8]| StoreKey::User(key.to_vec().into());
        let asked = |key: &[u8]| request.spans.iter().any(|span| span.covers(&user(key)));
        let mut found = snapshot.iter().filter(|(key, _)| asked(key));
        let items: Vec<_> = found.by_ref().take(request.keys_max).collect();
        let next = found.next().map(|(key, _)| user(key));
        let bytes = items.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        let cost = FetchCost { keys: items.len() as u64, bytes };
        let item = |(key, value): (&Vec<u8>, &Vec<u8>)| (user(key), value.clone().into());
        self.chunk = items.into_iter().map(item).collect();
        self.step(FetchEvent::ChunkFetched { number, chunk: Chunk { at, next, cost } });
    }

    /// A store that may be read holds what its own log says.
    fn check_content(&mut self) {
        if self.violation.is_some() || !self.machine.may_read(&StoreKey::FIRST) {
            return;
        }
        let at = self.position();
        let store = self.store.clone().expect("open");
        let snapshot = store.snapshot().expect("reads");
        let items = snapshot.scan(&[], None, usize::MAX, usize::MAX).expect("reads");
        let plain = items.iter().map(|(key, value)| (key.to_vec(), value.to_vec()));
        let (found, expected) = (plain.collect::<Content>(), content_at(&self.log, at));
        if expected.as_ref() != Some(&found) {
            let what = format!("at {at} the store holds {found:?}, its log makes {expected:?}");
            self.violation = Some(Violation { property: "equal content", what });
        }
    }
}

fn directory() -> &'static Path {
    Path::new("/copy")
}

fn mark_path() -> PathBuf {
    directory().join("mark")
}

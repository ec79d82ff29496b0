//! The rungs of the ladder and range fetches at a node: what `owner/repairing` of `replication`
//! does, over the in-memory store and a mark on the simulated disk.
//!
//! Work on the store is done in the order in which it was told, marks in the order of the log.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keelson_copy_core::divergence::Touched;
use keelson_copy_core::range_fetch::{
    Cause, Chunk, Donor, FetchAction, FetchConfig, FetchCost, FetchEvent, FetchFailure, FetchOrder,
    FetchRequest, Mark, Purpose, RangeFetch, Spans, TouchedSet,
};
use keelson_copy_core::{Event, Ground, Marking};
use keelson_env::{
    Disk, DiskError, KvSnapshot, MemStoreOpener, StoreError, StoreItem, StoreOpener,
};
use keelson_format::Item;
use keelson_types::{
    CopyFault, CopyId, CopyRole, Epoch, LogEnd, MemberId, Position, Span, StoreKey, Tick, Weakness,
};

use super::{CopyNode, Job, Moment, Out};
use crate::messages::DataMessage;
use crate::probes::Probe;

/// Work for the store.
#[derive(Clone, Debug)]
pub(crate) enum StoreWork {
    /// Drop what is only in memory.
    Reopen,
    /// What the log touched between two positions.
    Count(Position, Position),
    Rewind(LogEnd),
    Overwrite {
        spans: Vec<Span>,
        at: LogEnd,
        items: Option<Vec<StoreItem>>,
    },
    Checkpoint,
}

/// Completions name the life of the machine that asked, and its number.
pub(crate) type Ask = (u64, u64);

/// The range fetch of a node.
pub(crate) struct Repair {
    machine: RangeFetch,
    life: u64,
    durable: Option<Mark>,
    counted: Option<TouchedSet>,
    chunk: Option<(u64, Vec<StoreItem>)>,
    /// Where the log is cut once the mark of a request is durable.
    cuts: BTreeMap<u64, Position>,
    requests: u64,
    told: Option<Marking>,
    /// For the copy's machine.
    events: VecDeque<Event>,
    donors: Vec<Donor>,
    /// Snapshots that others fetch from.
    donations: BTreeMap<MemberId, Box<dyn KvSnapshot>>,
    disk: Arc<dyn Disk>,
    place: PathBuf,
    stores: MemStoreOpener,
    directory: PathBuf,
    weakness: Weakness,
    saves_need_space: bool,
    /// Replays ordered before the store was set back count no more.
    pub(super) replays: u64,
}

/// Where a node keeps its mark and its store.
pub(super) struct RepairPlace {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) mark: PathBuf,
    pub(super) stores: MemStoreOpener,
    pub(super) store: PathBuf,
    pub(super) weakness: Weakness,
    pub(super) saves_need_space: bool,
}

impl Repair {
    pub(super) fn new(place: RepairPlace, mark: Option<Mark>, found: Position) -> Self {
        let mut repair = Self {
            machine: RangeFetch::new(config(place.weakness)),
            life: 0,
            durable: mark,
            counted: None,
            chunk: None,
            cuts: BTreeMap::new(),
            requests: 0,
            told: None,
            events: VecDeque::new(),
            donors: Vec::new(),
            donations: BTreeMap::new(),
            disk: place.disk,
            place: place.mark,
            stores: place.stores,
            directory: place.store,
            weakness: place.weakness,
            saves_need_space: place.saves_need_space,
            replays: 0,
        };
        repair.restart(found);
        repair
    }

    fn restart(&mut self, found: Position) {
        self.life += 1;
        self.chunk = None;
        self.machine = RangeFetch::new(config(self.weakness));
        let event = FetchEvent::Restarted { mark: self.durable.clone(), replayed: found };
        self.machine.step(Tick::default(), event, &mut Vec::new());
    }

    fn marking(&self) -> Option<Marking> {
        let view = self.machine.view()?;
        let resync = matches!(view.purpose, Purpose::Resync { .. });
        Some(Marking { resync, replay_limit: self.machine.replay_limit() })
    }
}

/// Tiny chunks, so that everything happens between two of them.
fn config(weakness: Weakness) -> FetchConfig {
    FetchConfig {
        chunk_keys_max: 3,
        chunk_spans_max: 2,
        progress_bytes: 600,
        weakness,
        ..FetchConfig::default()
    }
}

pub(super) fn load_mark(disk: &dyn Disk, path: &Path) -> Result<Option<Mark>, String> {
    let text = |error: DiskError| error.to_string();
    if !disk.exists(path).map_err(text)? {
        return Ok(None);
    }
    let file = disk.open(path).map_err(text)?;
    let mut bytes = vec![0; usize::try_from(file.size().map_err(text)?).unwrap_or(0)];
    file.read_at(0, &mut bytes).map_err(text)?;
    Mark::decode(&bytes).map(Some).map_err(|error| error.to_string())
}

/// Replaces the mark as a whole, or removes it.
pub(super) fn save_mark(
    disk: &dyn Disk,
    path: &Path,
    mark: Option<&Mark>,
) -> Result<(), DiskError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    match mark {
        Some(mark) => {
            let fresh = path.with_extension("new");
            if disk.exists(&fresh)? {
                disk.remove(&fresh)?;
            }
            let file = disk.create(&fresh)?;
            file.write_at(0, &mark.encode())?;
            file.sync()?;
            disk.rename(&fresh, path)?;
        }
        None if disk.exists(path)? => disk.remove(path)?,
        None => {}
    }
    disk.sync_dir(parent)
}

impl CopyNode {
    /// Whether the store's content belongs to its position.
    pub(crate) fn is_whole(&self) -> bool {
        self.repair.machine.is_whole() && !self.machine.is_store_away()
    }

    pub(crate) fn store_directory(&self) -> PathBuf {
        self.repair.directory.clone()
    }

    pub(super) fn queued_event(&mut self) -> Option<Event> {
        self.repair.events.pop_front()
    }

    /// The first event of a life.
    pub(crate) fn start(&mut self, moment: &mut Moment<'_>) {
        self.repair.told = self.repair.marking();
        self.step(moment, Event::Marked(self.repair.told));
        self.step(moment, Event::Wake);
    }

    /// H15: what a save would need that is no write in place.
    pub(super) fn space_for_a_save(&self) -> Result<(), keelson_log::ControlFileError> {
        if self.repair.saves_need_space {
            let fresh = self.repair.place.with_file_name("control.new");
            if self.repair.disk.exists(&fresh)? {
                self.repair.disk.remove(&fresh)?;
            }
            self.repair.disk.create(&fresh)?.write_at(0, &[0; 512])?;
        }
        Ok(())
    }

    fn run_queued(&mut self, moment: &mut Moment<'_>) {
        if let Some(event) = self.queued_event() {
            self.step(moment, event);
        }
    }

    pub(super) fn fetch_event(&mut self, moment: &mut Moment<'_>, event: FetchEvent) {
        let mut actions = Vec::new();
        self.repair.machine.step(moment.now, event, &mut actions);
        for action in actions {
            self.fetch_action(moment, action);
        }
        self.tell_marking();
    }

    fn tell_marking(&mut self) {
        let marking = self.repair.marking();
        if self.repair.told != marking {
            self.repair.told = marking;
            self.repair.events.push_back(Event::Marked(marking));
        }
    }

    fn fetch_action(&mut self, moment: &mut Moment<'_>, action: FetchAction) {
        let life = self.repair.life;
        let mut job = |job| moment.out.push(Out::Job(job));
        match action {
            FetchAction::SaveMark { number, mark } => {
                job(Job::Mark((life, number), Some(Box::new(mark))));
            }
            FetchAction::ClearMark { number } => job(Job::Mark((life, number), None)),
            FetchAction::Rewind { number, to } => {
                job(Job::Store((life, number), StoreWork::Rewind(to)));
            }
            FetchAction::ApplyChunk { number, fetched, spans, at } => {
                let chunk = self.repair.chunk.take().filter(|(asked, _)| *asked == fetched);
                let items = chunk.map(|(_, items)| items);
                job(Job::Store((life, number), StoreWork::Overwrite { spans, at, items }));
            }
            FetchAction::Checkpoint { number } => {
                job(Job::Store((life, number), StoreWork::Checkpoint));
            }
            FetchAction::Fetch { number, donor, request } => {
                let ask = (life, number);
                job(Job::RangeTimeout(ask));
                let message = DataMessage::RangeAsk { ask, donor: donor.copy, request };
                moment.out.push(Out::Send { to: donor.member, message });
            }
            FetchAction::Begun { request } => {
                if let Some(fork) = self.repair.cuts.remove(&request) {
                    self.repair.replays += 1;
                    self.repair.events.push_back(Event::ResyncBegun { fork });
                }
            }
            FetchAction::Refused { request, .. } => {
                if self.repair.cuts.remove(&request).is_some() {
                    self.repair.events.push_back(Event::ResyncRefused);
                }
            }
            FetchAction::Trust => moment.out.push(Out::Fired(Probe::Trusted)),
            FetchAction::Finished { .. } => {}
        }
    }

    pub(super) fn reopen_store(&mut self, moment: &mut Moment<'_>) {
        moment.out.push(Out::Fired(Probe::StoreReopened));
        self.repair.replays += 1;
        moment.out.push(Out::Job(Job::Store((0, 0), StoreWork::Reopen)));
    }

    pub(super) fn count_fork(&mut self, moment: &mut Moment<'_>, from: Position, to: Position) {
        moment.out.push(Out::Job(Job::Store((0, 0), StoreWork::Count(from, to))));
    }

    pub(super) fn begin_resync(
        &mut self,
        moment: &mut Moment<'_>,
        epoch: Epoch,
        fork: LogEnd,
        estimate: FetchCost,
    ) {
        moment.out.push(Out::Fired(Probe::Resynced));
        let counted = self.repair.counted.take().map(|touched| touched.spans());
        let mut spans: Spans = counted.unwrap_or_else(|| [].into_iter().collect());
        if spans.is_empty() {
            spans = [Span::key(StoreKey::Schema)].into_iter().collect();
        }
        self.repair.requests += 1;
        let request = self.repair.requests;
        self.repair.cuts.insert(request, fork.position);
        let cause = Cause::Resync { fork, salvage: self.record.log };
        let (role, donors) = (CopyRole::Passive, self.repair.donors.clone());
        let order = FetchOrder { request, cause, role, spans, epoch, donors, estimate };
        self.fetch_event(moment, FetchEvent::Begin(order));
    }

    /// Before the ladder looks.
    pub(super) fn tell_ground(&mut self, moment: &mut Moment<'_>) {
        let ground = Ground {
            checkpointed: self.ground_checkpointed(),
            own_log_from: self.log_from(),
            store_bytes: self.store.size_bytes(),
            generation_bytes: self.cursor.config().generation_bytes,
        };
        self.step(moment, Event::Ground(ground));
    }

    pub(super) fn ground_checkpointed(&self) -> Position {
        let checkpointed = self.store.checkpointed();
        let durable = self.repair.durable.as_ref();
        durable.map_or(checkpointed, |mark| mark.store_position(checkpointed))
    }

    /// Whom to ask: the other copies, the active first.
    pub(super) fn know_donors(&mut self, assignment: &keelson_copy_core::Assignment) {
        let others = assignment.copies.iter().filter(|peer| peer.copy != self.copy);
        let donors = others.filter(|peer| !peer.suspended);
        let donor =
            |peer: &keelson_copy_core::PeerCopy| Donor { copy: peer.copy, member: peer.member };
        self.repair.donors = donors.map(donor).collect();
        self.repair.donors.sort_by_key(|donor| Some(donor.copy) != assignment.active);
    }

    pub(super) fn follows_epoch(&mut self, moment: &mut Moment<'_>, epoch: Epoch) {
        if self.machine.expects(epoch).is_some() {
            let donors = self.repair.donors.clone();
            self.fetch_event(moment, FetchEvent::EpochChanged { epoch, donors });
            self.run_queued(moment);
        }
    }

    /// Time passed; the store replayed.
    pub(super) fn fetch_goes_on(&mut self, moment: &mut Moment<'_>, event: FetchEvent) {
        self.fetch_event(moment, event);
        self.run_queued(moment);
    }

    pub(super) fn mark_job(&mut self, moment: &mut Moment<'_>, ask: Ask, mark: Option<Box<Mark>>) {
        if let Err(error) = save_mark(&*self.repair.disk, &self.repair.place, mark.as_deref()) {
            moment.out.push(Out::Note(format!("a mark is not saved: {error}")));
            return moment.out.push(Out::Broken);
        }
        let number = ask.1;
        let event = match mark.is_some() {
            true => FetchEvent::MarkSaved { number },
            false => FetchEvent::MarkCleared { number },
        };
        self.repair.durable = mark.map(|mark| *mark);
        if ask.0 == self.repair.life {
            self.fetch_goes_on(moment, event);
        }
    }

    pub(super) fn store_job(&mut self, moment: &mut Moment<'_>, ask: Ask, work: StoreWork) {
        match work {
            StoreWork::Reopen => return self.do_reopen(moment),
            StoreWork::Count(from, to) => return self.do_count(moment, from, to),
            _ if ask.0 != self.repair.life => return,
            _ => {}
        }
        let number = ask.1;
        let event = match self.do_store_work(number, work) {
            Ok(event) => event,
            Err(StoreError::NoSpace) => FetchEvent::StoreFull { number },
            Err(error) => return moment.out.push(Out::Bug(format!("range fetch: {error}"))),
        };
        if let FetchEvent::Rewound { .. } = event {
            let to = self.store.replayed().position;
            self.step(moment, Event::StoreRewound { to });
        }
        self.fetch_goes_on(moment, event);
    }

    fn do_store_work(&mut self, number: u64, work: StoreWork) -> Result<FetchEvent, StoreError> {
        Ok(match work {
            StoreWork::Rewind(to) => {
                if self.store.replayed().position > to.position {
                    self.store.rewind(to)?;
                }
                FetchEvent::Rewound { number }
            }
            StoreWork::Overwrite { spans, at, items } => match items {
                Some(items) if self.store.replayed().position <= at.position => {
                    self.store.overwrite(&spans, &items)?;
                    FetchEvent::Applied { number }
                }
                Some(_) => FetchEvent::FetchFailed { number, failure: FetchFailure::Behind },
                None => FetchEvent::FetchFailed { number, failure: FetchFailure::SnapshotGone },
            },
            StoreWork::Checkpoint => {
                FetchEvent::Checkpointed { number, to: self.store.checkpoint()? }
            }
            StoreWork::Reopen | StoreWork::Count(..) => unreachable!("done before"),
        })
    }

    fn do_reopen(&mut self, moment: &mut Moment<'_>) {
        self.repair.donations.clear();
        let nothing = MemStoreOpener::new().open(Path::new("/nothing"));
        let opened = nothing.and_then(|nothing| {
            // The last handle goes, and what was not checkpointed with it.
            self.store = nothing;
            self.repair.stores.open(&self.repair.directory)
        });
        match opened {
            Ok(store) => self.store = store,
            Err(error) => {
                moment.out.push(Out::Note(format!("the store does not reopen: {error}")));
                return moment.out.push(Out::Broken);
            }
        }
        let found = self.store.replayed().position;
        let durable = self.repair.durable.as_ref();
        let replayed = durable.map_or(found, |mark| mark.store_position(found));
        self.repair.restart(replayed);
        self.tell_marking();
        self.tell_ground(moment);
        self.step(moment, Event::StoreReopened { replayed });
    }

    fn do_count(&mut self, moment: &mut Moment<'_>, from: Position, to: Position) {
        let mut touched = TouchedSet::default();
        let (mut at, mut reader) = (from, self.log.reader());
        while at < to {
            let chunks = match reader.read(at, to, 64 * 1024) {
                Ok(chunks) => chunks,
                Err(error) => return self.unreadable(moment, &error),
            };
            let Some(last) = chunks.last() else { break };
            for item in chunks.iter().flat_map(keelson_format::Chunk::items).flatten() {
                let Item::Frame(info) = item else { continue };
                let end = info.end().position;
                if end > from && end <= to {
                    match info.decode() {
                        Ok(frame) => frame.records.iter().for_each(|record| touched.add(record)),
                        Err(error) => {
                            let fault = CopyFault::LogDamaged(error.to_string());
                            return self.step(moment, Event::StoreFailed { fault });
                        }
                    }
                }
            }
            at = last.end;
        }
        let answer = Touched::Counted(touched.cost());
        self.repair.counted = Some(touched);
        self.tell_ground(moment);
        self.step(moment, Event::ForkCounted(answer));
    }

    pub(super) fn range_late(&mut self, moment: &mut Moment<'_>, ask: Ask) {
        self.range_given(moment, ask, Err(FetchFailure::Unreachable));
    }

    pub(super) fn range_given(
        &mut self,
        moment: &mut Moment<'_>,
        (life, number): Ask,
        answer: Result<(Chunk, Vec<StoreItem>), FetchFailure>,
    ) {
        if life != self.repair.life {
            return;
        }
        let event = match answer {
            Ok((chunk, items)) => {
                self.repair.chunk = Some((number, items));
                FetchEvent::ChunkFetched { number, chunk }
            }
            Err(failure) => FetchEvent::FetchFailed { number, failure },
        };
        self.fetch_goes_on(moment, event);
    }

    pub(super) fn range_asked(
        &mut self,
        moment: &mut Moment<'_>,
        from: MemberId,
        (ask, donor): (Ask, CopyId),
        request: &FetchRequest,
    ) {
        let answer = self.donate(from, donor, request);
        moment.out.push(Out::Send { to: from, message: DataMessage::RangeGive { ask, answer } });
    }

    fn donate(
        &mut self,
        from: MemberId,
        donor: CopyId,
        request: &FetchRequest,
    ) -> Result<(Chunk, Vec<StoreItem>), FetchFailure> {
        if donor != self.copy {
            return Err(FetchFailure::Unreachable);
        }
        if !self.is_whole() || self.machine.view().fault.is_some() {
            return Err(FetchFailure::Marked);
        }
        if self.machine.follows() != Some(request.epoch) {
            return Err(FetchFailure::OtherEpoch);
        }
        let kept = self.repair.donations.remove(&from);
        let snapshot = match (request.snapshot, kept) {
            (Some(at), Some(kept)) if kept.at() == at => kept,
            (Some(_), _) => return Err(FetchFailure::SnapshotGone),
            (None, _) => self.store.clone().snapshot().map_err(|_| FetchFailure::Unreachable)?,
        };
        if snapshot.at().position < request.not_before {
            return Err(FetchFailure::Behind);
        }
        let (items, next) = read(&*snapshot, request).map_err(|_| FetchFailure::Unreachable)?;
        let bytes = items.iter().map(|(key, value)| key.len_bytes() + value.len() as u64);
        let cost = FetchCost { keys: items.len() as u64, bytes: bytes.sum() };
        let chunk = Chunk { at: snapshot.at(), next, cost };
        self.repair.donations.insert(from, snapshot);
        Ok((chunk, items))
    }
}

fn read(
    snapshot: &dyn KvSnapshot,
    request: &FetchRequest,
) -> Result<(Vec<StoreItem>, Option<StoreKey>), StoreError> {
    let mut items: Vec<StoreItem> = Vec::new();
    for span in &request.spans {
        let left = request.keys_max.saturating_sub(items.len());
        if left == 0 {
            return Ok((items, Some(span.from().clone())));
        }
        let mut found = snapshot.read_span(span, left + 1, usize::MAX)?;
        let next = found.get(left).map(|(key, _)| key.clone());
        found.truncate(left);
        items.extend(found);
        if next.is_some() {
            return Ok((items, next));
        }
    }
    Ok((items, None))
}

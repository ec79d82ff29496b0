//! Getting the copy back onto the log that it is offered, and keys back from a donor: carries out
//! what the ladder of divergence and the machine of range fetches say.
//!
//! Marks go through the log lane, work on the store through the store lane, questions to donors
//! through tasks of their own; each answers with an event of the machine. After the store was
//! opened anew the machine is made anew from the durable mark, since what it believed to be in
//! memory may be gone; completions for the former one carry another life and are dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;

use keelson_copy_core::divergence::{Rung, RungCost, Touched, Verdict};
use keelson_copy_core::range_fetch::{
    Cause, Donor, FetchAction, FetchConfig, FetchCost, FetchEvent, FetchOrder, FetchPhase,
    FetchRefusal, FetchRequest, Mark, Purpose, RangeFetch, Spans, TouchedSet,
};
use keelson_copy_core::{Event, Ground, Marking};
use keelson_env::StoreItem;
use keelson_types::{CopyFault, CopyRole, Epoch, LogEnd, LogId, MemberId, Position};
use keelson_wire::{Refusal, v1};
use tokio::sync::oneshot;

use crate::gate::boottime_now;
use crate::log_lane::LogJob;
use crate::message::{Completion, Follows};
use crate::owner::{Owner, unix_millis};
use crate::repair::{asking, counting};
use crate::store_lane::{FetchWork, StoreJob};

/// Who began a fetch.
enum Beginner {
    /// The ladder: the log is cut here once the mark is durable.
    Resync(Position),
    /// Somebody who found damage.
    Repair(RepairReply),
}

/// Answered once the mark is durable.
pub(crate) type RepairReply = oneshot::Sender<Result<(), Refusal>>;

/// The range fetch of one copy.
pub(super) struct Repairing {
    machine: RangeFetch,
    /// Which machine this is.
    life: u64,
    durable: Option<Mark>,
    saves: VecDeque<(u64, Mark)>,
    counted: Option<TouchedSet>,
    /// What the last donor sent, under the number of the question.
    chunk: Option<(u64, Vec<StoreItem>)>,
    beginners: BTreeMap<u64, Beginner>,
    requests: u64,
    told: Option<Marking>,
    /// Member of the active that was heard last.
    source: Option<MemberId>,
    /// Where the log lies, and what is cut of it.
    log: LogId,
    last: Option<Undoing>,
}

/// The last time that something was undone or fetched, for status pages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Undoing {
    pub(crate) rung: String,
    pub(crate) cost: RungCost,
    pub(crate) spent: FetchCost,
    pub(crate) rounds: u32,
    pub(crate) phase: String,
    pub(crate) percent: u8,
    pub(crate) failure: String,
    pub(crate) whole_at: Option<Position>,
    pub(crate) began_unix_millis: u64,
    pub(crate) ended_unix_millis: u64,
}

impl Repairing {
    pub(super) fn new(mark: Option<Mark>, replayed: Position, log: LogId) -> Self {
        let mut repairing = Self {
            machine: RangeFetch::new(FetchConfig::default()),
            life: 0,
            durable: mark,
            saves: VecDeque::new(),
            counted: None,
            chunk: None,
            beginners: BTreeMap::new(),
            requests: 0,
            told: None,
            source: None,
            log,
            last: None,
        };
        repairing.restart(replayed);
        repairing.told = repairing.marking();
        // What stood when the copy was opened began before, or with the store that was made then.
        repairing.last = repairing.machine.view().map(|view| Undoing {
            rung: rung_of(&view.purpose).into(),
            began_unix_millis: unix_millis(),
            ..Undoing::default()
        });
        repairing
    }

    /// A new machine over the durable mark.
    fn restart(&mut self, replayed: Position) {
        self.life += 1;
        self.machine = RangeFetch::new(FetchConfig::default());
        self.chunk = None;
        self.saves.clear();
        let mark = self.durable.clone();
        // A start orders nothing: it waits for an epoch.
        let event = FetchEvent::Restarted { mark, replayed };
        self.machine.step(boottime_now(), event, &mut Vec::new());
    }

    /// What the copy's machine is to know of the mark.
    pub(super) fn marking(&self) -> Option<Marking> {
        let view = self.machine.view()?;
        let resync = matches!(view.purpose, Purpose::Resync { .. });
        Some(Marking { resync, replay_limit: self.machine.replay_limit() })
    }

    pub(super) fn next_wake(&self) -> Option<keelson_types::Tick> {
        self.machine.next_wake()
    }
}

fn rung_of(purpose: &Purpose) -> &'static str {
    match purpose {
        Purpose::Repair => "range repair",
        Purpose::Resync { .. } => "fetch what the fork touched",
    }
}

impl Owner {
    /// Steps the fetch and carries out what it says; then tells the copy's machine.
    pub(super) fn fetch_event(&mut self, event: FetchEvent) {
        let mut actions = Vec::new();
        self.repairing.machine.step(boottime_now(), event, &mut actions);
        for action in actions {
            self.fetch_action(action);
        }
        self.tell_marking();
    }

    pub(super) fn tell_marking(&mut self) {
        let marking = self.repairing.marking();
        if self.repairing.told != marking {
            self.repairing.told = marking;
            let before = self.shared.marked.swap(marking.is_some(), Ordering::SeqCst);
            if marking.is_some() && !before {
                self.shared.reopened(); // Readers end: what they would read is in doubt.
            }
            self.event(Event::Marked(marking));
        }
    }

    /// An event for the fetch from elsewhere, if it is for this machine.
    pub(super) fn fetch_completed(&mut self, life: u64, event: FetchEvent) {
        if life != self.repairing.life {
            return;
        }
        match &event {
            FetchEvent::MarkSaved { number } => {
                let saves = &mut self.repairing.saves;
                while let Some((_, mark)) = saves.pop_front_if(|(saved, _)| *saved <= *number) {
                    self.repairing.durable = Some(mark);
                }
            }
            FetchEvent::MarkCleared { .. } => self.repairing.durable = None,
            FetchEvent::Rewound { .. } => {
                let to = self.shared.replayed.load();
                self.replay_sent = to;
                self.guard.forget();
                self.event(Event::StoreRewound { to });
            }
            _ => {}
        }
        self.fetch_event(event);
    }

    fn fetch_action(&mut self, action: FetchAction) {
        let life = self.repairing.life;
        match action {
            FetchAction::SaveMark { number, mark } => {
                let bytes = mark.encode();
                self.repairing.saves.push_back((number, mark));
                self.log_job(LogJob::SaveMark { life, number, bytes });
            }
            FetchAction::ClearMark { number } => self.log_job(LogJob::ClearMark { life, number }),
            FetchAction::Begun { request } => self.fetch_begun(request),
            FetchAction::Refused { request, refusal } => self.fetch_refused(request, refusal),
            FetchAction::Rewind { number, to } => {
                self.store_fetch(FetchWork::Rewind { life, number, to });
            }
            FetchAction::Fetch { number, donor, request } => self.ask_donor(number, donor, request),
            FetchAction::ApplyChunk { number, fetched, spans, at } => {
                let chunk = self.repairing.chunk.take().filter(|(asked, _)| *asked == fetched);
                let items = chunk.map(|(_, items)| items);
                self.store_fetch(FetchWork::Overwrite { life, number, spans, at, items });
            }
            FetchAction::Checkpoint { number } => {
                self.store_fetch(FetchWork::Checkpoint { life, number });
            }
            FetchAction::Trust => {}
            FetchAction::Finished { spent, rounds } => self.fetch_finished(spent, rounds),
        }
    }

    fn store_fetch(&mut self, work: FetchWork) {
        self.store_used = Some(tokio::time::Instant::now());
        if let Some(files) = &self.files {
            files.store.push(StoreJob::Fetch(work));
        }
    }

    fn ask_donor(&mut self, number: u64, donor: Donor, request: FetchRequest) {
        let (context, database) = (self.context.clone(), self.shared.database);
        let (done, life) = (self.done.clone(), self.repairing.life);
        tokio::spawn(async move {
            let answer = asking::ask(context, database, donor, request).await;
            // The owner has gone when the process stops or the copy is reopened.
            let _ = done.send(Completion::RangeFetched { life, number, answer });
        });
    }

    pub(super) fn range_fetched(&mut self, life: u64, number: u64, answer: asking::Answer) {
        if life != self.repairing.life {
            return;
        }
        let event = match answer {
            Ok((chunk, items)) => {
                self.repairing.chunk = Some((number, items));
                FetchEvent::ChunkFetched { number, chunk }
            }
            Err(failure) => FetchEvent::FetchFailed { number, failure },
        };
        self.fetch_event(event);
    }

    fn fetch_begun(&mut self, request: u64) {
        match self.repairing.beginners.remove(&request) {
            Some(Beginner::Resync(fork)) => {
                self.shared.replayed.store(fork);
                self.replay_sent = fork;
                self.guard.forget();
                self.event(Event::ResyncBegun { fork });
            }
            Some(Beginner::Repair(reply)) => drop(reply.send(Ok(()))),
            None => {}
        }
    }

    fn fetch_refused(&mut self, request: u64, refusal: FetchRefusal) {
        use keelson_types::RefusalReason as R;
        match self.repairing.beginners.remove(&request) {
            Some(Beginner::Resync(_)) => self.event(Event::ResyncRefused),
            Some(Beginner::Repair(reply)) => {
                let (reason, what) = match refusal {
                    FetchRefusal::Active => (R::Precondition, "an active copy is moved away first"),
                    FetchRefusal::Empty => (R::BadArgument, "no keys are named"),
                    FetchRefusal::TooMany => (R::Diverged, "too many keys: the copy needs a seed"),
                    FetchRefusal::StaleEpoch => (R::StaleEpoch, "a newer epoch is followed"),
                };
                drop(reply.send(Err(Refusal::new(reason, what))));
            }
            None => {}
        }
    }

    fn begin_fetch(&mut self, cause: Cause, spans: Spans, estimate: FetchCost, by: Beginner) {
        self.repairing.requests += 1;
        let request = self.repairing.requests;
        self.repairing.beginners.insert(request, by);
        let role = match self.machine.own_epoch() {
            Some(_) => CopyRole::Active,
            None => CopyRole::Passive,
        };
        let epoch = self.machine.view().epoch;
        let donors = self.donors();
        let order = FetchOrder { request, cause, role, spans, epoch, donors, estimate };
        self.fetch_event(FetchEvent::Begin(order));
    }

    /// Fetches keys that are damaged or lost here from another copy, for whoever found that. The
    /// answer comes when the mark is durable; the rest shows in the status.
    pub(super) fn repair(&mut self, spans: Spans, reply: RepairReply) {
        self.begin_fetch(Cause::Repair, spans, FetchCost::default(), Beginner::Repair(reply));
        if self.repairing.marking().is_some() {
            self.note_undoing("range repair".into(), RungCost::default());
        }
    }

    /// All other copies that follow the log, the active first.
    fn donors(&self) -> Vec<Donor> {
        let Some(assigned) = &self.assigned else { return Vec::new() };
        let copies = assigned.assignment.copies.iter();
        let mut donors: Vec<_> = copies
            .filter(|copy| copy.copy != self.shared.copy && !copy.suspended)
            .map(|copy| Donor { copy: copy.copy, member: copy.member })
            .collect();
        donors.sort_by_key(|donor| Some(donor.member) != self.repairing.source);
        donors
    }

    /// Facts for the ladder, before the machine looks.
    pub(super) fn tell_ground(&mut self) {
        let store_bytes = self.shared.store.get().map_or_else(
            || self.shared.store_bytes.load(Ordering::Relaxed),
            |store| store.size_bytes(),
        );
        let ground = Ground {
            checkpointed: self.shared.checkpointed.load(),
            own_log_from: self.shared.log_from.load(),
            store_bytes,
            generation_bytes: self.generation_bytes,
        };
        self.event(Event::Ground(ground));
    }

    pub(super) fn log_id(&self) -> LogId {
        self.repairing.log
    }

    pub(super) fn heard_source(&mut self, member: MemberId) {
        self.repairing.source = Some(member);
    }

    /// The log of this epoch is followed from now on.
    pub(super) fn follows_epoch(&mut self, epoch: Epoch) {
        if self.machine.expects(epoch).is_some() {
            let donors = self.donors();
            self.fetch_event(FetchEvent::EpochChanged { epoch, donors });
        }
    }

    pub(super) fn reopen_store(&mut self) {
        self.context.donations.forget(self.shared.database);
        self.guard.forget();
        if let Some(files) = &self.files {
            files.store.push(StoreJob::Reopen);
        }
    }

    pub(super) fn store_reopened(&mut self, opened: Result<Position, CopyFault>) {
        match opened {
            Ok(found) => {
                let durable = self.repairing.durable.as_ref();
                let replayed = durable.map_or(found, |mark| mark.store_position(found));
                self.shared.replayed.store(replayed);
                self.shared.checkpointed.store(replayed);
                self.replay_sent = replayed;
                self.repairing.restart(replayed);
                self.tell_ground();
                self.tell_marking();
                self.event(Event::StoreReopened { replayed });
            }
            Err(fault) => self.store_failed(fault),
        }
    }

    pub(super) fn count_fork(&self, from: Position, to: Position) {
        let Some(files) = &self.files else { return };
        let (reader, done) = (files.reader.clone(), self.done.clone());
        self.context.readers.run(move || {
            drop(done.send(Completion::ForkCounted(counting::count(reader, from, to))));
        });
    }

    pub(super) fn fork_counted(&mut self, counted: Result<TouchedSet, CopyFault>) {
        match counted {
            Ok(touched) => {
                let answer = match touched.is_too_large() {
                    true => Touched::TooLarge,
                    false => Touched::Counted(touched.cost()),
                };
                self.repairing.counted = Some(touched);
                self.tell_ground();
                self.event(Event::ForkCounted(answer));
            }
            Err(fault) => self.event(Event::StoreFailed { fault }),
        }
    }

    pub(super) fn begin_resync(&mut self, fork: LogEnd, estimated: FetchCost) {
        let spans = self.repairing.counted.take().map(|touched| touched.spans());
        let cause = Cause::Resync { fork, salvage: self.repairing.log };
        let spans = spans.unwrap_or_else(|| [].into_iter().collect());
        if spans.is_empty() {
            // Frames that touch nothing still moved the position: any key will do as a mark.
            let first = keelson_types::Span::key(keelson_types::StoreKey::Schema);
            let spans = [first].into_iter().collect();
            return self.begin_fetch(cause, spans, estimated, Beginner::Resync(fork.position));
        }
        self.begin_fetch(cause, spans, estimated, Beginner::Resync(fork.position));
    }

    /// What the ladder says, for events and status pages.
    pub(super) fn climbed(&mut self, verdict: &Verdict) {
        let Verdict { rung, cost } = verdict;
        let name = match rung {
            Rung::Nothing | Rung::CountFork { .. } => return,
            Rung::CutFork { .. } => "cut the fork",
            Rung::ReopenAtCheckpoint { .. } => "reopen the store at its checkpoint",
            Rung::Resync { .. } => "fetch what the fork touched",
            Rung::Seed { .. } => "wait for a seed",
            Rung::Wait { .. } => "wait for somebody's word",
        };
        tracing::info!(database = %self.shared.name, rung = name, ?cost, "off the active's log");
        self.note_undoing(name.into(), *cost);
        if !matches!(rung, Rung::Resync { .. })
            && let Some(last) = &mut self.repairing.last
        {
            last.ended_unix_millis = last.began_unix_millis;
        }
        self.context.report_divergence(&self.shared, name, *cost, (cost.fetch, 0), false);
    }

    fn note_undoing(&mut self, rung: String, cost: RungCost) {
        let began_unix_millis = unix_millis();
        let last = Undoing { rung, cost, began_unix_millis, ..Undoing::default() };
        self.repairing.last = Some(last);
    }

    fn fetch_finished(&mut self, spent: FetchCost, rounds: u32) {
        let last = self.repairing.last.get_or_insert_default();
        (last.spent, last.rounds) = (spent, rounds);
        last.ended_unix_millis = unix_millis();
        let (rung, cost) = (last.rung.clone(), last.cost);
        tracing::info!(database = %self.shared.name, keys = spent.keys, bytes = spent.bytes, rounds,
            "the store is whole again");
        self.context.report_divergence(&self.shared, &rung, cost, (spent, rounds), true);
        // A passive that was out of the rule for it is offered again by its next acknowledgement.
        self.acknowledge_again();
    }

    /// For status pages: the fetch under way, or how the last one went.
    pub(super) fn undoing(&self) -> Option<Undoing> {
        let Some(view) = self.repairing.machine.view() else { return self.repairing.last.clone() };
        let last = self.repairing.last.clone().unwrap_or_default();
        let phase = match view.phase {
            FetchPhase::Marking => "marking",
            FetchPhase::Waiting => "waiting for a donor",
            FetchPhase::Fetching => "fetching",
            FetchPhase::Replaying => "replaying",
            FetchPhase::Settling => "settling",
        };
        let cost = RungCost { fetch: view.costs.estimate, ..last.cost };
        Some(Undoing {
            phase: phase.into(),
            percent: view.percent(),
            failure: view.last_failure.map(|failure| format!("{failure:?}")).unwrap_or_default(),
            whole_at: view.q.map(|q| q.position),
            spent: view.costs.spent,
            rounds: view.rounds,
            ended_unix_millis: 0,
            cost,
            ..last
        })
    }

    /// For whoever wants a part of this store.
    pub(super) fn follows(&self) -> Follows {
        let whole = self.repairing.machine.is_whole() && self.fault().is_none();
        Follows { whole, epoch: self.machine.follows() }
    }
}

impl From<&Undoing> for v1::DivergenceFacts {
    fn from(undoing: &Undoing) -> Self {
        Self {
            rung: undoing.rung.clone(),
            salvage_bytes: undoing.cost.salvage_bytes,
            replay_bytes: undoing.cost.replay_bytes,
            estimated_keys: undoing.cost.fetch.keys,
            estimated_bytes: undoing.cost.fetch.bytes,
            fetched_keys: undoing.spent.keys,
            fetched_bytes: undoing.spent.bytes,
            rounds: undoing.rounds,
            phase: undoing.phase.clone(),
            percent: undoing.percent.into(),
            failure: undoing.failure.clone(),
            whole_at: undoing.whole_at.map(Into::into),
            began_unix_millis: undoing.began_unix_millis,
            ended_unix_millis: undoing.ended_unix_millis,
        }
    }
}

//! The owner of one copy: a task that feeds the machine of `copy-core` and carries its actions out.
//!
//! Everything that happens to the copy passes through this task, one thing at a time, so no lock
//! guards any of its state. Blocking work goes to lanes of the pools and comes back as completions.
//! The loop sleeps without a timer unless the machine or an idle store asks for one.
//!
//! A panic here takes this copy down, not the process: the plane notices the closed mailbox and
//! opens the copy anew.

mod actions;
mod dispatch;
mod expanding;
mod guarding;
mod idle;
mod lagging;
mod mending;
mod repairing;
mod shipping;
mod standing;
mod taking;
mod truncating;
mod waiting;
mod writes;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keelson_copy_core::copy_state::StatusTracker;
use keelson_copy_core::range_fetch::{FetchEvent, Mark};
use keelson_copy_core::{
    Action, CopyConfig, CopyMachine, Event, MountFailure, OpenRefusal, Recovered, SealRefusal,
};
use keelson_env::KvStore;
use keelson_format::{Cursor, FramingConfig};
use keelson_log::{Damage, LogReader};
use keelson_types::{CopyFault, CopyId, CopyStatus, EpochTable, LogId, MemberId, Position};
use keelson_wire::Refusal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::catalog::Wanted;
use crate::context::PlaneContext;
use crate::directions::{Directions, LeaseNews, RuleOutcome, Unread};
use crate::gate::boottime_now;
use crate::inbound::refuse_unknown;
use crate::lag_file::SavedLag;
use crate::log_lane::LogJob;
use crate::message::{Assigned, Completion, FromSource, Message, SealedCopy, SourceSender};
use crate::owner::guarding::Guard;
use crate::owner::idle::IdleClose;
use crate::owner::lagging::Lag;
pub(crate) use crate::owner::mending::MendResult;
use crate::owner::mending::Mending;
use crate::owner::repairing::Repairing;
pub(crate) use crate::owner::repairing::{RepairReply, Undoing};
use crate::owner::shipping::PeerShip;
pub(crate) use crate::owner::truncating::{OtherFacts, Reported};
use crate::owner::truncating::{Truncating, nothing_reported};
use crate::owner::waiting::Waiting;
use crate::pool::Lane;
use crate::shared::CopyShared;
use crate::store_lane::StoreJob;
use crate::supervise::Sources;
use crate::tail::Tail;
use crate::writer::{Answer, Writer};

/// Messages that may wait for an owner.
pub(crate) const MAILBOX: usize = 4096;
/// Messages handled before the effects are carried on.
const TURN: usize = 512;
/// An open store without replay, writes or reads for this long is closed.
const STORE_IDLE: Duration = Duration::from_secs(20);
/// First pause before a failed copy is opened anew; doubled with each failure, 64 s at most.
const REOPEN_PAUSE: Duration = Duration::from_secs(2);
/// A copy that worked for so long starts with the first pause again.
const HEALED_AFTER: Duration = Duration::from_secs(120);

/// The files of an open copy, as lanes.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) log: Lane<LogJob>,
    pub(crate) store: Lane<StoreJob>,
    pub(crate) reader: LogReader,
    /// Of the store.
    pub(crate) store_directory: PathBuf,
}

impl Files {
    /// Waits until the lanes are done with the files; what was logged is synced.
    pub(crate) async fn close(&self) {
        let (log_done, log) = oneshot::channel();
        let (store_done, store) = oneshot::channel();
        self.log.push(LogJob::Close(log_done));
        self.store.push(StoreJob::Stop(store_done));
        // A lane that panicked drops its sender, which is an answer too.
        let _ = tokio::join!(log, store);
    }
}

type StoreWaiter = oneshot::Sender<Result<Arc<dyn KvStore>, Refusal>>;

/// See the module page.
pub(crate) struct Owner {
    shared: Arc<CopyShared>,
    context: Arc<PlaneContext>,
    machine: CopyMachine,
    /// None if the copy could not be opened.
    files: Option<Files>,
    cursor: Cursor,
    tail: Tail,
    events: VecDeque<Event>,
    actions: Vec<Action>,
    done: mpsc::UnboundedSender<Completion>,
    /// Where the next request of a seal or mount is answered.
    requests: u64,
    seals: BTreeMap<u64, oneshot::Sender<Result<SealedCopy, SealRefusal>>>,
    mounts: BTreeMap<u64, oneshot::Sender<Result<(), MountFailure>>>,
    /// Active: the writer of the epoch, and frames handed to the log that are not durable.
    writer: Option<Writer>,
    frames_in_flight: usize,
    /// Committed while the lease does not cover the epoch: answered when it comes back.
    parked: Vec<Answer>,
    peers: BTreeMap<CopyId, PeerShip>,
    reported: BTreeMap<CopyId, Reported>,
    truncation: Truncating,
    lag: Option<Lag>,
    idle: IdleClose,
    waiting: Waiting,
    mending: Mending,
    /// Epochs of the log, those behind damage too.
    full_table: EpochTable,
    /// What was saved of the lag, until it is needed.
    saved_lag: SavedLag,
    repairing: Repairing,
    sessions: BTreeMap<MemberId, SourceSender>,
    /// What the copies answered to the last offer that they refused; said once in the member's log.
    refusals: BTreeMap<CopyId, OpenRefusal>,
    /// Where shipping could not read the own log last.
    unreadable: Option<Position>,
    fetch_go: Option<oneshot::Sender<()>>,
    generated: Position,
    replay_sent: Position,
    store_waiters: Vec<StoreWaiter>,
    store_used: Option<Instant>,
    last_replayed_millis: u64,
    generation_bytes: u64,
    stopping: Option<oneshot::Sender<()>>,
    directions: Arc<Directions>,
    /// Passive: where acknowledgements go.
    sources: Arc<Mutex<Sources>>,
    /// What the owner was told last.
    assigned: Option<Assigned>,
    /// How often the copy failed in a row, and when it is opened anew.
    failures: u32,
    reopen_at: Option<Instant>,
    guard: Guard,
    /// The last status that was told.
    status: StatusTracker,
    opened_unix_millis: u64,
    /// Resumes at which a fault that does not heal was reported.
    stopped_told: Option<u64>,
    /// The new id was asked for.
    forgotten_told: bool,
}

/// Why an owner ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was told to, or nobody can reach it any more.
    Stopped,
    /// The copy failed and is to be opened anew.
    Reopen,
    /// The same, after it had worked for a while.
    Healed,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owner").field("database", &self.shared.name).finish_non_exhaustive()
    }
}

/// What an owner starts with.
pub(crate) struct Start {
    pub(crate) shared: Arc<CopyShared>,
    pub(crate) context: Arc<PlaneContext>,
    pub(crate) files: Option<Files>,
    pub(crate) cursor: Cursor,
    pub(crate) recovered: Recovered,
    pub(crate) done: mpsc::UnboundedSender<Completion>,
    pub(crate) generation_bytes: u64,
    pub(crate) directions: Arc<Directions>,
    pub(crate) sources: Arc<Mutex<Sources>>,
    pub(crate) failures: u32,
    /// Where the log begins.
    pub(crate) first: Position,
    pub(crate) saved_lag: SavedLag,
    pub(crate) damage: Option<Damage>,
    pub(crate) full_table: EpochTable,
    /// A range fetch that is not over.
    pub(crate) mark: Option<Mark>,
    pub(crate) log: LogId,
}

impl Owner {
    pub(crate) fn new(start: Start) -> Self {
        let config = CopyConfig {
            database: start.shared.database,
            copy: start.shared.copy,
            member: start.context.member,
            stream: start.shared.stream,
            weakness: keelson_types::Weakness::None,
        };
        let replayed = start.recovered.replayed;
        let generated = start.recovered.end.position;
        let status = start.shared.kept_status();
        let repairing = Repairing::new(start.mark, replayed, start.log);
        Self {
            machine: CopyMachine::new(config, start.recovered),
            shared: start.shared,
            context: start.context,
            files: start.files,
            cursor: start.cursor,
            tail: Tail::default(),
            // Nothing is replayed before the mark is known, nor before it is known for sure whether
            // the copy lags, or is suspended (`release_replay`): each event may begin a replay.
            events: VecDeque::from([
                Event::ReplayLimit(Some(Position::ZERO)),
                Event::Marked(repairing.marking()),
                Event::Wake,
            ]),
            actions: Vec::new(),
            done: start.done,
            requests: 0,
            seals: BTreeMap::new(),
            mounts: BTreeMap::new(),
            writer: None,
            frames_in_flight: 0,
            parked: Vec::new(),
            peers: BTreeMap::new(),
            reported: nothing_reported(),
            truncation: Truncating::of_log_from(start.first),
            lag: None,
            idle: IdleClose::default(),
            waiting: Waiting::default(),
            mending: Mending::of_log_opened(start.damage),
            full_table: start.full_table,
            saved_lag: start.saved_lag,
            repairing,
            sessions: BTreeMap::new(),
            refusals: BTreeMap::new(),
            unreadable: None,
            fetch_go: None,
            generated,
            replay_sent: replayed,
            store_waiters: Vec::new(),
            store_used: Some(Instant::now()),
            last_replayed_millis: 0,
            generation_bytes: start.generation_bytes,
            stopping: None,
            directions: start.directions,
            sources: start.sources,
            assigned: None,
            failures: start.failures,
            reopen_at: None,
            guard: Guard::new(generated, Instant::now()),
            status,
            opened_unix_millis: unix_millis(),
            stopped_told: None,
            forgotten_told: false,
        }
    }

    pub(crate) fn files(&self) -> Option<Files> {
        self.files.clone()
    }

    /// Starts with the latest news, which the former owner may have had already.
    pub(crate) fn catch_up(&mut self, sessions: BTreeMap<MemberId, SourceSender>) {
        let news = self.directions.take_all();
        self.heard(news);
        for (member, sender) in sessions {
            self.session(member, Some(sender));
        }
        // They believe that the former owner takes their log.
        self.refuse_sources();
    }

    /// Runs until the mailbox is closed, the copy is stopped, or it failed and is worth another
    /// try.
    pub(crate) async fn run(
        mut self,
        mailbox: &mut mpsc::Receiver<Message>,
        mut done: mpsc::UnboundedReceiver<Completion>,
    ) -> Exit {
        let (started, directions) = (Instant::now(), self.directions.clone());
        self.turn();
        while self.stopping.is_none() {
            if self.reopen_at.is_some_and(|at| at <= Instant::now()) {
                self.stopped().await;
                let worked = started.elapsed() > HEALED_AFTER;
                return if worked { Exit::Healed } else { Exit::Reopen };
            }
            let wake = self.wake_at();
            tokio::select! {
                biased; // Completions first: they free what the messages wait for.
                Some(completion) = done.recv() => self.completed(completion),
                () = directions.told() => self.take_news(),
                message = mailbox.recv() => match message {
                    Some(message) => self.told(message),
                    None => break,
                },
                () = sleep_until(wake) => self.woken(),
            }
            for _ in 0..TURN {
                if let Ok(completion) = done.try_recv() {
                    self.completed(completion);
                } else if let Ok(message) = mailbox.try_recv() {
                    self.told(message);
                } else {
                    break;
                }
            }
            self.turn();
        }
        self.refuse_waiting(mailbox).await;
        self.end_try();
        self.stopped().await;
        Exit::Stopped
    }

    /// Writes that nobody looked at any more were certainly not done; an offer is made again.
    async fn refuse_waiting(&mut self, mailbox: &mut mpsc::Receiver<Message>) {
        mailbox.close();
        // Also what a sender has a place for and has not put there yet.
        while let Some(message) = mailbox.recv().await {
            match message {
                Message::Write(request) => request.reply.send(Err(self.not_serving())),
                Message::FromSource(_, FromSource::Open { offer, copy, reply }) => {
                    refuse_unknown(self.shared.database, copy, &offer, &reply);
                }
                _ => {}
            }
        }
    }

    /// An order that was given before a message was sent counts before it.
    fn take_news(&mut self) {
        if let Some(news) = self.directions.take() {
            self.heard(*news);
        }
    }

    fn heard(&mut self, news: Unread) {
        if let Some(dead) = news.dead {
            self.event(Event::MembersDead(dead));
        }
        if let Some(assigned) = news.assigned {
            self.assigned(assigned);
        }
        if let Some(RuleOutcome { epoch, version, recorded }) = news.rule {
            self.event(Event::RuleRecorded { epoch, version, rule: recorded });
        }
        match news.lease {
            Some(LeaseNews::Lost) => self.event(Event::LeaseLost),
            Some(LeaseNews::Back) => self.lease_back(),
            None => {}
        }
        if news.stop.is_some() {
            self.stopping = news.stop;
        }
    }

    /// Carries on whatever became possible.
    fn turn(&mut self) {
        self.run_machine();
        self.write_frames();
        self.run_machine();
        self.pump_peers();
        self.trim_tail();
        self.publish();
        self.truncate();
        self.tell_status();
        self.mend_if_due();
        self.plan_reopen();
        self.settle();
    }

    /// A copy whose disk or store failed is opened anew from its files, with growing pauses.
    fn plan_reopen(&mut self) {
        if self.reopen_at.is_some() || !self.fault().is_some_and(|fault| heals(&fault)) {
            return;
        }
        let pause = REOPEN_PAUSE * 2u32.saturating_pow(self.failures.min(5));
        self.reopen_at = Some(Instant::now() + pause);
    }

    fn wake_at(&self) -> Option<Instant> {
        let now = boottime_now();
        let machine = self.machine.next_wake().map(|tick| Instant::now() + tick.since(now));
        let store = self.store_used.map(|used| used + STORE_IDLE);
        let fetch = self.repairing.next_wake().map(|tick| Instant::now() + tick.since(now));
        let lag = self.lag_wake().map(|tick| Instant::now() + tick.since(now));
        machine
            .into_iter()
            .chain(store)
            .chain(self.reopen_at)
            .chain(lag)
            .chain(fetch)
            .chain(self.idle.wake())
            .chain(self.waiting.wake())
            .chain(self.mending.wake())
            .chain(self.guard_wake())
            .min()
    }

    fn woken(&mut self) {
        self.events.push_back(Event::Wake);
        self.lag_woken();
        self.fetch_event(FetchEvent::Wake);
        self.close_idle_generation(Instant::now());
        self.look_for_room();
        if self.store_used.is_some_and(|used| used.elapsed() >= STORE_IDLE) {
            self.close_idle_store();
        }
    }

    fn close_idle_store(&mut self) {
        if self.machine.view().status == CopyStatus::Held {
            // A hold keeps the store open (G6); besides, what is in memory only is easily forgotten
            // if it turns out to be a fork.
            self.store_used = Some(Instant::now());
            return;
        }
        self.store_used = None;
        self.tail.clear();
        if let Some(files) = &self.files {
            files.store.push(StoreJob::Close);
        }
    }

    /// Steps the machine with everything that happened and does what it says.
    fn run_machine(&mut self) {
        while let Some(event) = self.events.pop_front() {
            let mut actions = std::mem::take(&mut self.actions);
            self.machine.step(boottime_now(), event, &mut actions);
            for action in actions.drain(..) {
                self.act(action);
            }
            self.actions = actions;
        }
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assigned(&mut self, assigned: Assigned) {
        let before = self.assigned.replace(assigned.clone());
        let first = before.is_none();
        if before.is_some_and(|before| before.resumes < assigned.resumes) && self.fault().is_some()
        {
            // The operator wants another try, now.
            self.reopen_at = Some(Instant::now());
        }
        self.generation_bytes = assigned.generation_bytes;
        self.reframe(assigned.generation_bytes, assigned.compress);
        let (lag, switch) = (assigned.lag, assigned.lag_switch);
        self.truncation.due = true;
        let stopped = assigned.assignment.suspension.replication.is_some();
        let wanted = Wanted {
            settings: assigned.content_index,
            suspended: stopped,
            seeding: assigned.seeds_catalog,
            lagged: lag.is_lagged(),
            resumes: assigned.resumes,
            generation_bytes: assigned.generation_bytes,
        };
        self.context.catalogs.want(&self.shared, wanted);
        self.event(Event::Assigned(assigned.assignment));
        self.set_lag(lag, switch);
        if first && self.lag.is_none() {
            self.release_replay(None);
        }
    }

    /// Queues an event and runs the machine at once: later messages may depend on its effects.
    fn event(&mut self, event: Event) {
        self.events.push_back(event);
        self.run_machine();
    }

    fn reframe(&mut self, generation_bytes: u64, compress: bool) {
        let config = FramingConfig { generation_bytes, compress };
        self.cursor = Cursor::new(*self.cursor.state(), config);
    }

    /// Lets readers see where the copy is.
    fn publish(&mut self) {
        let view = (self.machine.committed(), self.machine.durable().position);
        let shared = &self.shared;
        let moved = shared.committed.load() != view.0 || shared.durable.load() != view.1;
        if moved {
            shared.committed.store(view.0);
            shared.durable.store(view.1);
            shared.wake();
        }
    }

    fn fault(&self) -> Option<CopyFault> {
        self.machine.view().fault
    }

    /// Ends everything this owner began, and waits until its lanes are done with the files.
    async fn stopped(&mut self) {
        self.shared.gate.close();
        self.save_clock();
        if let Some(writer) = self.writer.take() {
            writer.into_waiting().into_iter().for_each(Answer::send);
        }
        if let Some(files) = &self.files {
            files.close().await;
        }
        if let Some(reply) = self.stopping.take() {
            let _ = reply.send(());
        }
    }
}

/// Whether opening the copy anew may help.
fn heals(fault: &CopyFault) -> bool {
    use CopyFault as F;
    matches!(fault, F::LogIo(_) | F::Store(_) | F::DiskFull | F::Forgotten)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The wall clock, for timestamps in the log and on status pages; nothing is decided by it.
pub(crate) fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

//! Range fetch at Q: how a store gets back keys that are wrong, whatever made them so.
//!
//! One mechanism for the resync of a fork, the repair of damaged ranges and lost files. Keys are
//! marked untrusted, fetched from a snapshot of a donor at position Q, and trusted again when the
//! log was replayed up to Q: what happens in between is inconsistent, what stands at Q is exact,
//! because effects are blind and their repetition changes nothing.
//!
//! Invariants (review S14, S15):
//! 1. Durable, each before the next: the mark, Q, data. Nothing of the store changes before the
//!    mark is durable, and no data is written before its Q is in the mark.
//! 2. While the mark stands the copy is no candidate, no seeding source, no donor, and takes no
//!    digest. Marked keys are not readable, after a fork none is, until everything is there *and*
//!    replayed ≥ Q. The mark itself goes only when a checkpoint ≥ Q has made that durable: a store
//!    that falls back behind Q in a crash must find it.
//! 3. A chunk is the exact content of its spans: local keys that Q lacks are removed.
//! 4. Every change of the epoch begins a new round that fetches everything again, wherever the
//!    former one was: the new timeline may lack Q itself. After a start nothing goes on before the
//!    epoch is known. Q of a round only rises; a snapshot before what was replayed is refused, and
//!    replay does not pass the lowest snapshot that may still be applied.
//! 5. The position of a store is never fetched. After a fork it is set back, durably, before any
//!    data is asked for.
//! 6. While a mark stands, further orders are added to it. Progress is recorded behind checkpoints
//!    only, since a chunk lives in memory until then.
//!
//! A crash at any point leaves the mark or nothing. A machine is dropped at will: the mark stays.

mod codec;
mod event;
mod mark;
mod round;
mod spans;
mod view;

#[cfg(test)]
mod tests;

use keelson_types::{CopyRole, Epoch, LogEnd, Position, Tick, Weakness};
pub use keelson_types::{Span, StoreKey};

pub use event::{
    Cause, Chunk, Donor, FetchAction, FetchConfig, FetchEvent, FetchFailure, FetchOrder,
    FetchRefusal, FetchRequest,
};
pub use mark::{
    CostBook, Fetched, MARK_BYTES_MAX, MARK_VERSION, Mark, MarkError, Purpose, SALVAGES_MAX,
};
pub use spans::{FetchCost, Spans, TouchedSet};
pub use view::{FetchPhase, FetchView};

use round::Pending;

/// What is waited for. Numbers are those of the orders.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// Nothing: no mark stands.
    Whole,
    /// The first epoch of this life.
    EpochUnknown,
    /// The mark of the round.
    Marking(u64),
    /// The store's position.
    Rewinding(u64),
    /// A donor.
    Asking(u64),
    /// Q in the mark, before the chunk that was fetched under the second number.
    RecordingQ(u64, Pending),
    /// The chunk in the store.
    Applying(u64, Pending),
    /// A checkpoint behind the data.
    Checkpointing(u64),
    /// The progress in the mark.
    RecordingProgress(u64),
    /// Better times.
    Pausing(Tick),
    /// Replay up to Q.
    Replaying,
    /// A checkpoint at or behind Q.
    Settling(u64),
    /// The end of the mark.
    Clearing(u64),
}

/// The machine; one per copy, beside its [`CopyMachine`](crate::CopyMachine).
#[derive(Debug)]
pub struct RangeFetch {
    config: FetchConfig,
    /// What the newest order to save says.
    mark: Option<Mark>,
    step: Step,
    /// Orders whose mark is not durable yet.
    requests: Vec<u64>,
    numbers: u64,
    replayed: Position,
    /// Everything is there and replayed ≥ Q; stays true until the next order.
    trusted: bool,
    /// How far the data of this life is in the store.
    cursor: Fetched,
    /// Bytes in it that the mark does not speak of.
    unsaved_bytes: u64,
    donors: Vec<Donor>,
    donor_index: usize,
    snapshot: Option<LogEnd>,
    failures: u32,
    last_failure: Option<FetchFailure>,
}

impl RangeFetch {
    /// A machine that does not know yet whether a mark stands; see [`FetchEvent::Restarted`].
    #[must_use]
    pub fn new(config: FetchConfig) -> Self {
        Self {
            config,
            mark: None,
            step: Step::Whole,
            requests: Vec::new(),
            numbers: 0,
            replayed: Position::ZERO,
            trusted: false,
            cursor: Fetched::Before(StoreKey::FIRST),
            unsaved_bytes: 0,
            donors: Vec::new(),
            donor_index: 0,
            snapshot: None,
            failures: 0,
            last_failure: None,
        }
    }

    /// Takes one event and pushes what has to be done, in order.
    pub fn step(&mut self, now: Tick, event: FetchEvent, out: &mut Vec<FetchAction>) {
        match event {
            FetchEvent::Begin(order) => self.begin(order, out),
            FetchEvent::Restarted { mark, replayed } => self.restarted(mark, replayed),
            FetchEvent::EpochChanged { epoch, donors } => self.epoch_changed(epoch, donors, out),
            FetchEvent::MarkSaved { number } => self.mark_saved(number, out),
            FetchEvent::MarkCleared { number } => self.mark_cleared(number, out),
            FetchEvent::Rewound { number } => self.rewound(number, out),
            FetchEvent::ChunkFetched { number, chunk } => {
                self.chunk_fetched(now, number, chunk, out);
            }
            FetchEvent::FetchFailed { number, failure } => {
                self.fetch_failed(now, number, failure, out);
            }
            FetchEvent::Applied { number } => self.applied(number, out),
            FetchEvent::StoreFull { number } => self.store_full(now, number),
            FetchEvent::Checkpointed { number, to } => self.checkpointed(now, number, to, out),
            FetchEvent::Replayed { to } => self.replayed_to(to, out),
            FetchEvent::Wake => self.wake(now, out),
        }
        debug_assert_eq!(self.check(), Ok(()));
    }

    fn restarted(&mut self, mark: Option<Mark>, replayed: Position) {
        let position = mark.as_ref().map_or(replayed, |mark| mark.store_position(replayed));
        self.replayed = position;
        if let Some(mark) = mark {
            self.cursor = mark.fetched.clone();
            self.mark = Some(mark);
            self.step = Step::EpochUnknown;
        }
    }

    fn begin(&mut self, order: FetchOrder, out: &mut Vec<FetchAction>) {
        let request = order.request;
        if let Some(refusal) = self.refusal(&order) {
            out.push(FetchAction::Refused { request, refusal });
            return;
        }
        let mark = match self.mark.take() {
            None => self.first_mark(&order),
            Some(mark) => merged(mark, &order, self.replayed),
        };
        if !mark.fits() {
            // Only a first one: what is added to a standing mark is made to fit.
            out.push(FetchAction::Refused { request, refusal: FetchRefusal::TooMany });
            return;
        }
        self.requests.push(request);
        self.donors = order.donors;
        self.replayed = mark.store_position(self.replayed);
        self.mark = Some(mark);
        self.new_round(order.epoch, out);
    }

    fn refusal(&self, order: &FetchOrder) -> Option<FetchRefusal> {
        if order.role == CopyRole::Active {
            return Some(FetchRefusal::Active);
        }
        if order.spans.is_empty() {
            return Some(FetchRefusal::Empty);
        }
        let stale = self.mark.as_ref().is_some_and(|mark| order.epoch < mark.epoch);
        stale.then_some(FetchRefusal::StaleEpoch)
    }

    fn first_mark(&self, order: &FetchOrder) -> Mark {
        let (purpose, floor) = match order.cause {
            Cause::Repair => (Purpose::Repair, self.replayed),
            Cause::Resync { fork, salvage } => {
                let salvages = vec![salvage];
                (Purpose::Resync { fork, rewound: false, salvages }, fork.position)
            }
        };
        Mark {
            purpose,
            spans: order.spans.clone(),
            epoch: order.epoch,
            floor,
            q: None,
            fetched: Fetched::Before(StoreKey::FIRST),
            rounds: 0,
            costs: CostBook { estimate: order.estimate, ..CostBook::default() },
        }
    }

    fn epoch_changed(&mut self, epoch: Epoch, donors: Vec<Donor>, out: &mut Vec<FetchAction>) {
        let Some(mark) = &mut self.mark else { return };
        if epoch < mark.epoch {
            return;
        }
        let changed = epoch != mark.epoch;
        if changed && self.config.weakness == Weakness::KeepFetchedAcrossEpochs {
            // H10: what was fetched counts, whatever became of its timeline.
            mark.epoch = epoch;
        } else if changed && !self.trusted {
            self.donors = donors;
            self.new_round(epoch, out);
            return;
        }
        self.donors = donors;
        self.donor_index = 0;
        if matches!(self.step, Step::EpochUnknown | Step::Pausing(_)) {
            self.go_on(out);
        }
    }

    /// The position beyond which the store must not replay for now; `None` if it may go on.
    #[must_use]
    pub fn replay_limit(&self) -> Option<Position> {
        let mark = self.mark.as_ref()?;
        match (&self.step, mark.q) {
            _ if self.trusted => None,
            (Step::EpochUnknown | Step::Marking(_) | Step::RecordingQ(..), _) | (_, None) => {
                Some(self.replayed)
            }
            _ if mark.fetched == Fetched::All => None,
            (_, Some(q)) => Some(q.position),
        }
    }

    /// Log from here on is needed: held by others for this copy, and in its own files. Recorded
    /// with the operation in consensus (review S16.3).
    #[must_use]
    pub fn holds_log_from(&self) -> Option<Position> {
        self.mark.as_ref().map(|mark| match &mark.purpose {
            Purpose::Repair => mark.floor,
            Purpose::Resync { fork, .. } => fork.position.min(mark.floor),
        })
    }

    /// Whether the copy may be a candidate, a seeding source, a donor, and take digests.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.mark.is_none()
    }

    /// Whether this key may be read, by whomever: clients, watches, the index.
    #[must_use]
    pub fn may_read(&self, key: &StoreKey) -> bool {
        match &self.mark {
            Some(mark) if !self.trusted => {
                mark.purpose == Purpose::Repair && !mark.spans.covers(key)
            }
            _ => true,
        }
    }

    /// When to step with [`FetchEvent::Wake`] at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Tick> {
        match self.step {
            Step::Pausing(until) => Some(until),
            _ => None,
        }
    }

    /// The invariants that can be seen from here.
    ///
    /// # Errors
    /// The one that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        let Some(mark) = &self.mark else {
            return if self.step == Step::Whole { Ok(()) } else { Err("busy without a mark") };
        };
        let weak = self.config.weakness != Weakness::None;
        let reached = mark.q.is_some_and(|q| q.position <= self.replayed);
        if self.trusted && !weak && (mark.fetched != Fetched::All || !reached) {
            return Err("trusted before Q");
        }
        if mark.fetched > self.cursor {
            return Err("recorded more than was applied");
        }
        if matches!(self.step, Step::Settling(_) | Step::Clearing(_)) && !self.trusted {
            return Err("clears a mark that is needed");
        }
        if self.step == Step::Whole { Err("idle with a mark") } else { Ok(()) }
    }
}

/// Adds an order to a standing mark. The store may still lack what the mark speaks of, so nothing
/// of it is forgotten.
fn merged(mut mark: Mark, order: &FetchOrder, replayed: Position) -> Mark {
    mark.spans = mark.spans.union(&order.spans);
    mark.costs.estimate = mark.costs.estimate.plus(order.estimate);
    match (order.cause, &mut mark.purpose) {
        (Cause::Repair, _) => mark.floor = mark.floor.max(replayed),
        (Cause::Resync { fork, salvage }, purpose) => {
            let (from, mut salvages) = match purpose {
                // The rest of the store still stands at the former fork.
                Purpose::Resync { fork: former, rewound: false, salvages } => {
                    (fork.min(*former), std::mem::take(salvages))
                }
                Purpose::Resync { salvages, .. } => (fork, std::mem::take(salvages)),
                Purpose::Repair => (fork, Vec::new()),
            };
            salvages.push(salvage);
            mark.purpose = Purpose::Resync { fork: from, rewound: false, salvages };
            // Whatever lies behind the fork is in the spans; the rest is no newer than it.
            mark.floor = fork.position;
        }
    }
    if !mark.fits() {
        mark.spans = mark.spans.hull();
    }
    mark
}

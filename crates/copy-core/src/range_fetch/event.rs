//! What goes into the machine of a range fetch and what comes out.

use std::time::Duration;

use keelson_types::{
    CopyId, CopyRole, Epoch, LogEnd, LogId, MemberId, Position, Span, StoreKey, Weakness,
};

use super::mark::Mark;
use super::spans::{FetchCost, Spans};

/// Bounds of a fetch; fixed for the life of a machine.
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// Keys in one chunk, at most.
    pub chunk_keys_max: usize,
    /// Bytes in one chunk, except that a chunk holds one key if there is any. A chunk is one atomic
    /// batch of the store.
    pub chunk_bytes_max: u64,
    /// Spans named in one request.
    pub chunk_spans_max: usize,
    /// Bytes after which progress is made durable; a crash fetches at most these, and one chunk,
    /// again.
    pub progress_bytes: u64,
    /// Pause after no donor could help; doubles from time to time.
    pub retry_first: Duration,
    /// Longest pause.
    pub retry_max: Duration,
    /// A rule switched off on purpose; `Weakness::None` outside the simulator.
    pub weakness: Weakness,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            chunk_keys_max: 20_000,
            chunk_bytes_max: 4 * 1024 * 1024,
            chunk_spans_max: 4_000,
            progress_bytes: 64 * 1024 * 1024,
            retry_first: Duration::from_millis(200),
            retry_max: Duration::from_secs(30),
            weakness: Weakness::None,
        }
    }
}

/// A copy that may be asked: whole, and following the same epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Donor {
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
}

/// Why keys are fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// They are damaged or lost here.
    Repair,
    /// A fork is undone.
    Resync {
        /// Where it left the common log.
        fork: LogEnd,
        /// The log in which the fork is kept.
        salvage: LogId,
    },
}

/// What is to be fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchOrder {
    /// Number for the answer.
    pub request: u64,
    /// Why.
    pub cause: Cause,
    /// The role of this copy; an active one is moved away first (review S15).
    pub role: CopyRole,
    /// The keys. For a resync the touched set of the *whole* fork in the log (review S14.2).
    pub spans: Spans,
    /// The epoch that this copy follows now.
    pub epoch: Epoch,
    /// Whom to ask, best first.
    pub donors: Vec<Donor>,
    /// The cost that was shown.
    pub estimate: FetchCost,
}

/// Why an order is not taken up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchRefusal {
    /// The copy is active: switch over without loss, then repair it as a passive one.
    Active,
    /// There is nothing in it.
    Empty,
    /// The keys do not fit into a mark: seed instead.
    TooMany,
    /// A newer epoch is followed already.
    StaleEpoch,
}

/// A question to a donor. It answers from the beginning of the first span, as far as the bounds let
/// it, and says how far that was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchRequest {
    /// It must follow this epoch.
    pub epoch: Epoch,
    /// The keys, ascending.
    pub spans: Vec<Span>,
    /// The snapshot to go on with; any not before `not_before` will do if there is none.
    pub snapshot: Option<LogEnd>,
    /// The snapshot must not lie before this.
    pub not_before: Position,
    /// Keys in the answer, at most.
    pub keys_max: usize,
    /// Bytes in the answer, except that one key is answered if there is any.
    pub bytes_max: u64,
}

/// A part of a donor's snapshot, held by the driver until it is applied or the next one is asked
/// for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// The snapshot it was read from.
    pub at: LogEnd,
    /// The first key that it says nothing about; `None` if it answers everything that was asked.
    pub next: Option<StoreKey>,
    /// Keys and bytes in it.
    pub cost: FetchCost,
}

/// Why a donor gave no chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchFailure {
    /// No answer before the deadline.
    Unreachable,
    /// The snapshot was given up.
    SnapshotGone,
    /// It has not replayed far enough.
    Behind,
    /// It is marked itself.
    Marked,
    /// It follows another epoch, or its snapshot does.
    OtherEpoch,
    /// Its answer makes no sense.
    Malformed,
}

/// Something happened. Completions carry the number of what was asked; late ones are ignored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchEvent {
    /// Keys are to be fetched. While a mark stands the order is added to it.
    Begin(FetchOrder),
    /// The copy was opened, first event of a life.
    Restarted {
        /// What was found beside the store.
        mark: Option<Mark>,
        /// Where the store itself says that it stands.
        replayed: Position,
    },
    /// This copy follows an epoch: a new one, the first one of its life, or the same with other
    /// donors. If its log was cut below what the store holds, [`Self::Begin`] says so instead.
    EpochChanged {
        /// The epoch.
        epoch: Epoch,
        /// Whom to ask, best first.
        donors: Vec<Donor>,
    },
    /// The mark is durable.
    MarkSaved {
        /// Number of the order to save it.
        number: u64,
    },
    /// The mark is durably gone.
    MarkCleared {
        /// Number of the order to clear it.
        number: u64,
    },
    /// The store's position is durably where it was ordered.
    Rewound {
        /// Number of the order.
        number: u64,
    },
    /// A donor answered.
    ChunkFetched {
        /// Number of the request.
        number: u64,
        /// The answer, without its data.
        chunk: Chunk,
    },
    /// A donor did not.
    FetchFailed {
        /// Number of the request.
        number: u64,
        /// Why.
        failure: FetchFailure,
    },
    /// The chunk is in the store, perhaps only in memory.
    Applied {
        /// Number of the order.
        number: u64,
    },
    /// The volume is full: a rewind, chunk or checkpoint did not happen. It is asked for again.
    StoreFull {
        /// Number of the order.
        number: u64,
    },
    /// Everything in the store is durable.
    Checkpointed {
        /// Number of the order.
        number: u64,
        /// The position that survives a crash.
        to: Position,
    },
    /// The store replayed up to here.
    Replayed {
        /// Position behind the last replayed frame.
        to: Position,
    },
    /// Time passed; see [`RangeFetch::next_wake`](super::RangeFetch::next_wake).
    Wake,
}

/// What the driver has to do, in this order. The store's thread does its part (rewind, chunk,
/// checkpoint, replay) in the order in which it was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchAction {
    /// Replaces the durable mark as a whole, or not at all.
    SaveMark {
        /// Number for the completion.
        number: u64,
        /// The mark.
        mark: Mark,
    },
    /// The mark of this order is durable: the fork may be cut off now, not before.
    Begun {
        /// Number of the order.
        request: u64,
    },
    /// Nothing was changed.
    Refused {
        /// Number of the order.
        request: u64,
        /// Why.
        refusal: FetchRefusal,
    },
    /// Sets the store's position back, and makes that durable.
    Rewind {
        /// Number for the completion.
        number: u64,
        /// The position, and the epoch of the frame before it.
        to: LogEnd,
    },
    /// Asks a donor, with a deadline.
    Fetch {
        /// Number for the completion.
        number: u64,
        /// Whom.
        donor: Donor,
        /// For what.
        request: FetchRequest,
    },
    /// Makes the store equal to the chunk, in one ordinary atomic batch: each key of the chunk is
    /// put, each other key in `spans` is removed. No file is ingested or dropped (review S14.6).
    ApplyChunk {
        /// Number for the completion.
        number: u64,
        /// Number of the request whose chunk it is.
        fetched: u64,
        /// What the chunk answers.
        spans: Vec<Span>,
        /// The snapshot; a store that has replayed more drops the chunk and reports
        /// [`FetchFailure::Behind`] for this number.
        at: LogEnd,
    },
    /// Makes everything in the store durable.
    Checkpoint {
        /// Number for the completion.
        number: u64,
    },
    /// All keys are right again at the present position: they may be read.
    Trust,
    /// Removes the durable mark.
    ClearMark {
        /// Number for the completion.
        number: u64,
    },
    /// No mark stands: the copy is a candidate and a source again.
    Finished {
        /// Spent in all rounds since the start of this life or the mark's.
        spent: FetchCost,
        /// Rounds.
        rounds: u32,
    },
}

//! What the owner of a copy is told, and by whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_copy_core::expanded_truncation::Forecast;
use keelson_copy_core::lag::LagStatus;
use keelson_copy_core::range_fetch::{FetchEvent, Spans, TouchedSet};
use keelson_copy_core::truncate::{Blocker, TruncationOrder};
use keelson_copy_core::{
    Assignment, CopyView, MountFailure, MountOrder, OpenOffer, SealAnswer, SealRefusal,
};
use keelson_env::KvStore;
use keelson_format::{Chunk, CursorState};
use keelson_log::{LogError, LogReader};
use keelson_types::{
    Automations, ContentIndexSettings, CopyFault, CopyId, Epoch, EpochTable, Generation, HoldClock,
    LagSettings, LagSwitch, LogEnd, LogHold, LogId, MemberId, MountIntent, Position, Queue,
    StreamId, Watermarks,
};
use keelson_wire::{Refusal, v1};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::note::NoteCode;
use crate::owner::{MendResult, OtherFacts, RepairReply, Reported, Undoing};
use crate::scrub::ScrubParts;
use crate::space::Volumes;
use crate::writer::{Prepared, ReadResults, Ticket, WriteRequest};

/// Sends frames and offers to one member.
pub(crate) type SourceSender = mpsc::UnboundedSender<v1::SourceMessage>;
/// Sends acknowledgements to one member.
pub(crate) type TargetSender = mpsc::UnboundedSender<Result<v1::TargetMessage, tonic::Status>>;

/// A copy that was sealed, and its queues.
pub(crate) struct SealedCopy {
    pub(crate) answer: SealAnswer,
    pub(crate) copy_queue_bytes: u64,
    pub(crate) replay_queue_bytes: u64,
}

/// Everything that arrives in the mailbox of a copy's owner. What the control process says about
/// the copy comes past it, through [`Directions`](crate::directions::Directions).
pub(crate) enum Message {
    Seal(Epoch, oneshot::Sender<Result<SealedCopy, SealRefusal>>),
    Mount(MountOrder, oneshot::Sender<Result<(), MountFailure>>),
    Dismount(Epoch),
    Write(WriteRequest),
    /// A session to this member is up, or down if there is no sender.
    Session(MemberId, Option<SourceSender>),
    FromTarget(FromTarget),
    FromSource(MemberId, FromSource),
    /// The session of this member ended to which these answers went.
    SourceDown(MemberId, TargetSender),
    View(oneshot::Sender<OwnerView>),
    /// For whoever reads the log: table, ends, a reader.
    LogView(oneshot::Sender<Result<LogView, Refusal>>),
    /// Open the store if it is closed, for a reader.
    OpenStore(oneshot::Sender<Result<Arc<dyn KvStore>, Refusal>>),
    /// For a donor: which timeline this copy follows.
    Follows(oneshot::Sender<Follows>),
    /// Fetch keys anew from another copy.
    Repair(Spans, RepairReply),
    /// The member looked at its volumes.
    LookAtSpace,
    /// Log cannot be read here; whoever asks, if anyone, hears how the mend ended.
    LogDamaged(Position, Option<oneshot::Sender<MendResult>>),
    /// The store's files are wrong.
    StoreDamaged(String, NoteCode),
    /// It is seeded or feeds a seed, or does not any more; both stand in its shared face.
    SeedStanding,
    /// The files of a lag must be saved again.
    SaveLag,
    /// What a scrub needs; nothing if the copy could not be opened.
    ScrubParts(oneshot::Sender<Option<ScrubParts>>),
}

/// What a donor must know of its copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Follows {
    /// No key of the store is in doubt.
    pub(crate) whole: bool,
    pub(crate) epoch: Option<Epoch>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message")
    }
}

/// Directions from consensus.
#[derive(Debug, Clone)]
pub(crate) struct Assigned {
    pub(crate) assignment: Assignment,
    pub(crate) generation_bytes: u64,
    pub(crate) compress: bool,
    /// How often an operator resumed this copy.
    pub(crate) resumes: u64,
    pub(crate) lag: LagSettings,
    pub(crate) circular_logging: bool,
    /// Log before this is in a backup.
    pub(crate) backed_up: Option<Position>,
    /// Whether an operator wants the database open.
    pub(crate) intent: MountIntent,
    /// An operator's word that sets the lag aside.
    pub(crate) lag_switch: LagSwitch,
    /// Log that operations need.
    pub(crate) holds: Vec<LogHold>,
    /// By which they end: no wall clock of this member drops log that an operation needs.
    pub(crate) hold_clock: HoldClock,
    pub(crate) content_index: ContentIndexSettings,
    /// A seed fetches the content index of this copy.
    pub(crate) seeds_catalog: bool,
    /// What may be done with the database by itself.
    pub(crate) automations: Automations,
    /// The other copies, as truncation sees them.
    pub(crate) others: Vec<OtherFacts>,
}

/// Answers of a passive to this active.
#[derive(Debug)]
pub(crate) enum FromTarget {
    Opened { copy: CopyId, epoch: Epoch, matched: Position, chain: u32 },
    Ack { copy: CopyId, epoch: Epoch, reported: Reported },
    Refused { copy: CopyId, epoch: Epoch, refusal: keelson_copy_core::OpenRefusal },
}

/// What an active sends to this passive.
#[derive(Debug)]
pub(crate) enum FromSource {
    Open {
        offer: OpenOffer,
        copy: CopyId,
        reply: TargetSender,
    },
    Matched {
        epoch: Epoch,
    },
    Frames {
        epoch: Epoch,
        chunk: Chunk,
        committed: Position,
    },
    Committed {
        epoch: Epoch,
        committed: Position,
    },
    Truncate(TruncationOrder),
    LogGone {
        epoch: Epoch,
        begins: Position,
    },
    /// Frames came that do not unpack.
    Garbled {
        epoch: Epoch,
    },
}

/// A snapshot for status pages.
#[derive(Debug)]
pub(crate) struct OwnerView {
    pub(crate) view: CopyView,
    pub(crate) marks: Watermarks,
    pub(crate) copy_queue: Queue,
    pub(crate) replay_queue: Queue,
    pub(crate) status_since_unix_millis: u64,
    /// When the files were opened.
    pub(crate) opened_unix_millis: u64,
    pub(crate) last_inspected_unix_millis: u64,
    pub(crate) last_replayed_unix_millis: u64,
    /// Of an idle store: when it was closed.
    pub(crate) store_bytes: u64,
    pub(crate) log_bytes: u64,
    /// How long the oldest log waits for replay, on a lagged copy.
    pub(crate) actual_lag: Option<std::time::Duration>,
    pub(crate) lag_status: LagStatus,
    pub(crate) volumes: Volumes,
    /// Of the volume that holds the log.
    pub(crate) forecast: Forecast,
    /// Who keeps log, and from where; the first one decides.
    pub(crate) blockers: Vec<Blocker>,
    /// What consensus holds log for.
    pub(crate) holds: Vec<LogHold>,
    /// One of the other copies was cut off: nothing but a hold keeps log for it.
    pub(crate) cut_off: bool,
    /// The fork that is being undone, or was last.
    pub(crate) undoing: Option<Undoing>,
    /// Where each other copy's store is, at an active.
    pub(crate) replayed: BTreeMap<CopyId, Position>,
}

/// The log as its readers need it.
#[derive(Debug)]
pub(crate) struct LogView {
    pub(crate) stream: StreamId,
    pub(crate) table: EpochTable,
    pub(crate) durable: LogEnd,
    /// What this copy knows to be committed.
    pub(crate) committed: Position,
    pub(crate) log: LogId,
    pub(crate) reader: LogReader,
}

/// Work done elsewhere for this owner. The number under way is bounded by what the owner started.
pub(crate) enum Completion {
    Logged {
        end: LogEnd,
        frames: usize,
    },
    LogFailed(CopyFault),
    LogCut {
        state: CursorState,
        then: AfterCut,
    },
    ControlSaved(u64),
    /// A try stands in the control file.
    TryCounted,
    Replayed {
        to: Position,
        time_millis: u64,
    },
    StoreOpened(Result<Arc<dyn KvStore>, CopyFault>),
    StoreClosed,
    /// There was no room to replay so far.
    StoreFull {
        to: Position,
    },
    /// The store is durable further than before.
    Checkpointed,
    /// The own log begins with this generation now.
    Truncated(Generation),
    StoreFailed(CopyFault),
    /// Log that is to be replayed cannot be read from here on.
    ReplayBlocked(Position),
    /// A mend of the log has ended.
    Mended(MendResult),
    /// A damaged store was given up, or is left as it is.
    StoreCondemned {
        why: String,
        given_up: bool,
    },
    /// The store was opened again as its files are, and stands here.
    StoreReopened(Result<Position, CopyFault>),
    /// What a fork touched.
    ForkCounted(Result<TouchedSet, CopyFault>),
    /// News for this life of the machine of range fetches.
    Fetch {
        life: u64,
        event: FetchEvent,
    },
    RangeFetched {
        life: u64,
        number: u64,
        answer: crate::repair::asking::Answer,
    },
    Prepared(Box<Prepared>),
    PrepareFailed {
        request: WriteRequest,
        ticket: Ticket,
        refusal: Refusal,
    },
    /// The copy may read log from files for this peer.
    CatchUpTurn {
        copy: CopyId,
        turn: OwnedSemaphorePermit,
    },
    PeerRead {
        copy: CopyId,
        epoch: Epoch,
        from: Position,
        result: Result<Vec<Chunk>, LogError>,
    },
    ChainRead {
        copy: CopyId,
        epoch: Epoch,
        matched: Position,
        same: bool,
        /// Where the own log cannot be read, if that is why they are not the same.
        damage: Option<Position>,
    },
    FetchMatched {
        epoch: Epoch,
        matched: Position,
        go: oneshot::Sender<()>,
    },
    FetchChunk {
        epoch: Epoch,
        chunk: Chunk,
        taken: oneshot::Sender<()>,
    },
    FetchFailed {
        epoch: Epoch,
        why: String,
    },
}

/// Why a cut was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterCut {
    /// The machine ordered it.
    Machine,
    /// Only generation headers without frames were removed, before taking an active's log.
    Opened(MemberId, Epoch, LogEnd),
    /// The same, before taking fetched log.
    Pull,
}

/// Results of reads, by ticket.
pub(crate) fn prepared(request: WriteRequest, reads: ReadResults, ticket: Ticket) -> Completion {
    Completion::Prepared(Box::new(Prepared { request, reads, ticket: Some(ticket) }))
}

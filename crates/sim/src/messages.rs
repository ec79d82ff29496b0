//! What the processes of the simulated cluster say to each other.

use std::collections::BTreeSet;

use keelson_cluster_core::{CoveredPair, Grant, MountFailure, MountOrder, SealAnswer, SealItem};
use keelson_copy_core::range_fetch::{self, FetchFailure, FetchRequest};
use keelson_copy_core::truncate::TruncationOrder;
use keelson_copy_core::{Assignment, OpenOffer, OpenRefusal, RecordedCeiling};
use keelson_env::StoreItem;
use keelson_format::Chunk;
use keelson_types::{
    CommitRule, CopyId, DatabaseId, Epoch, EpochTable, IncarnationId, LagSettings, LogEnd, LogHold,
    MemberId, OperationId, Position, Tick,
};

use crate::copy_node::Ask;

/// Between data processes, in order within a session.
#[derive(Clone, Debug)]
pub(crate) enum DataMessage {
    Open { copy: CopyId, offer: OpenOffer },
    Opened { copy: CopyId, epoch: Epoch, matched: LogEnd, chain: u32 },
    Matched { epoch: Epoch },
    Refused { copy: CopyId, epoch: Epoch, refusal: OpenRefusal },
    Frames { epoch: Epoch, chunks: Vec<Chunk>, committed: Position },
    Committed { epoch: Epoch, committed: Position },
    Ack { copy: CopyId, epoch: Epoch, durable: Position, checkpointed: Position },
    LogGone { epoch: Epoch, begins: Position },
    Truncate(TruncationOrder),
    FetchOpen { id: u64, source: CopyId, table: EpochTable, end: Position },
    FetchOpened { id: u64, matched: Position },
    FetchRefused { id: u64 },
    FetchPull { id: u64, from: Position },
    FetchFrames { id: u64, chunks: Vec<Chunk>, done: bool },
    RangeAsk { ask: Ask, donor: CopyId, request: FetchRequest },
    RangeGive { ask: Ask, answer: Result<(range_fetch::Chunk, Vec<StoreItem>), FetchFailure> },
}

impl DataMessage {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Opened { .. } => "opened",
            Self::Matched { .. } => "matched",
            Self::Refused { .. } => "refused",
            Self::Frames { .. } => "frames",
            Self::Committed { .. } => "committed",
            Self::Ack { .. } => "ack",
            Self::LogGone { .. } => "log gone",
            Self::Truncate(_) => "truncate",
            Self::FetchOpen { .. } => "fetch open",
            Self::FetchOpened { .. } => "fetch opened",
            Self::FetchRefused { .. } => "fetch refused",
            Self::FetchPull { .. } => "fetch pull",
            Self::FetchFrames { .. } => "fetch frames",
            Self::RangeAsk { .. } => "range ask",
            Self::RangeGive { .. } => "range give",
        }
    }
}

/// Between control processes; each may be lost, delayed or overtaken.
#[derive(Clone, Debug)]
pub(crate) enum ControlMessage {
    Heartbeat {
        term: u64,
        commit: usize,
        sent: Tick,
        dead: BTreeSet<MemberId>,
    },
    HeartbeatAck {
        term: u64,
        sent: Tick,
    },
    Renew {
        incarnation: IncarnationId,
        sent: Tick,
    },
    Granted {
        grant: Grant,
        sent: Tick,
    },
    StartLife {
        incarnation: IncarnationId,
    },
    Certify {
        incarnation: IncarnationId,
    },
    Seal {
        items: Vec<SealItem>,
    },
    SealReplies {
        answers: Vec<SealAnswer>,
    },
    SealFailed,
    Mount {
        order: Box<MountOrder>,
        incarnation: IncarnationId,
    },
    MountResult {
        database: DatabaseId,
        epoch: Epoch,
        result: Result<(), MountFailure>,
    },
    Dismount {
        database: DatabaseId,
        epoch: Epoch,
    },
    Dismounted {
        database: DatabaseId,
        epoch: Epoch,
    },
    Established {
        database: DatabaseId,
        epoch: Epoch,
    },
    GaveUp {
        database: DatabaseId,
        epoch: Epoch,
    },
    ProposeRule(RuleProposal),
    RuleRefused {
        proposal: RuleProposal,
    },
    ProposeCeiling(CeilingProposal),
    CutOff {
        database: DatabaseId,
        epoch: Epoch,
        /// They will need a seed.
        copies: Vec<CopyId>,
        /// They lose their hold.
        operations: Vec<OperationId>,
    },
    ClearCutOff {
        database: DatabaseId,
        epoch: Epoch,
        copy: CopyId,
    },
}

impl ControlMessage {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Heartbeat { .. } => "heartbeat",
            Self::HeartbeatAck { .. } => "heartbeat ack",
            Self::Renew { .. } => "renew",
            Self::Granted { .. } => "granted",
            Self::StartLife { .. } => "start life",
            Self::Certify { .. } => "certify",
            Self::Seal { .. } => "seal",
            Self::SealReplies { .. } => "seal replies",
            Self::SealFailed => "seal failed",
            Self::Mount { .. } => "mount",
            Self::MountResult { .. } => "mount result",
            Self::Dismount { .. } => "dismount",
            Self::Dismounted { .. } => "dismounted",
            Self::Established { .. } => "established",
            Self::GaveUp { .. } => "gave up",
            Self::ProposeRule(_) => "propose rule",
            Self::RuleRefused { .. } => "rule refused",
            Self::ProposeCeiling(_) => "propose ceiling",
            Self::CutOff { .. } => "cut off",
            Self::ClearCutOff { .. } => "clear cut off",
        }
    }
}

/// What the applied state says of a database that truncation needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct TruncationFacts {
    pub(crate) others: Vec<OtherFacts>,
    pub(crate) holds: Vec<LogHold>,
}

/// What it says of another copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OtherFacts {
    pub(crate) copy: CopyId,
    pub(crate) member: MemberId,
    pub(crate) lagged: bool,
    pub(crate) leaving: bool,
    pub(crate) cut_off: bool,
    pub(crate) suspended_since_unix_ms: Option<u64>,
}

/// A ceiling of what an active commits, on its way to the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CeilingProposal {
    pub(crate) database: DatabaseId,
    pub(crate) epoch: Epoch,
    pub(crate) proposal: RecordedCeiling,
}

/// A change of a rule, on its way to the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RuleProposal {
    pub(crate) database: DatabaseId,
    pub(crate) epoch: Epoch,
    pub(crate) expected_version: u64,
    pub(crate) rule: CommitRule,
}

/// From a control process to its data process.
#[derive(Clone, Debug)]
pub(crate) enum ToData {
    /// One database in the applied state: what this member's copy is called, and what is known.
    Assigned {
        database: usize,
        copy: CopyId,
        assignment: Box<Assignment>,
        established: bool,
        lag: LagSettings,
        truncation: TruncationFacts,
    },
    Dead(BTreeSet<MemberId>),
    Cover(Vec<CoveredPair>),
    Seal {
        items: Vec<SealItem>,
    },
    Mount {
        order: Box<MountOrder>,
    },
    Dismount {
        database: DatabaseId,
        epoch: Epoch,
    },
    RuleRefused {
        proposal: RuleProposal,
        recorded: CommitRule,
    },
}

/// From a data process to its control process.
#[derive(Clone, Debug)]
pub(crate) enum ToControl {
    SealAnswer(SealAnswer),
    MountResult {
        database: DatabaseId,
        epoch: Epoch,
        result: Result<(), MountFailure>,
    },
    Dismounted {
        database: DatabaseId,
        epoch: Epoch,
    },
    Established {
        database: DatabaseId,
        epoch: Epoch,
    },
    GaveUp {
        database: DatabaseId,
        epoch: Epoch,
    },
    ProposeRule(RuleProposal),
    ProposeCeiling(CeilingProposal),
    CutOff {
        database: DatabaseId,
        epoch: Epoch,
        /// They will need a seed.
        copies: Vec<CopyId>,
        /// They lose their hold.
        operations: Vec<OperationId>,
    },
    ClearCutOff {
        database: DatabaseId,
        epoch: Epoch,
        copy: CopyId,
    },
}

/// A client's operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Operation {
    /// Its number; unique in the run.
    pub(crate) id: u64,
    pub(crate) key: u32,
    /// The version to write; none for a read.
    pub(crate) write: Option<u64>,
}

/// What a client is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    /// The frame that holds the write ends here.
    Written(Position),
    Read(u64),
    /// Not here, or not now; nothing was done.
    Refused,
}

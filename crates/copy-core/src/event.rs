//! What goes into the machine of a copy and what comes out.

use std::collections::BTreeSet;
use std::time::Duration;

use keelson_types::{
    Ceiling, CommitConstraint, CommitRule, CopyFault, CopyId, DatabaseId, Discard, Epoch,
    EpochStart, EpochTable, LogEnd, MemberId, Position, SiteName, StreamId, Suspension, Weakness,
};

use crate::divergence::{Touched, Verdict};
use crate::outcome::{MountFailure, OpenRefusal, SealAnswer, SealRefusal, StopReason};
use crate::range_fetch::FetchCost;
use crate::undo::{Ground, Marking};

/// Who this copy is; fixed for the life of a machine.
#[derive(Clone, Debug)]
pub struct CopyConfig {
    /// The database.
    pub database: DatabaseId,
    /// This copy.
    pub copy: CopyId,
    /// The member it lies on.
    pub member: MemberId,
    /// The log stream it belongs to.
    pub stream: StreamId,
    /// A rule switched off on purpose; `Weakness::None` outside the simulator.
    pub weakness: Weakness,
}

/// What was found on disk when the copy was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Highest epoch this copy promised to serve, from the control file.
    pub sealed: Epoch,
    /// Epochs in the log.
    pub table: EpochTable,
    /// End of the log as the disk holds it.
    pub end: LogEnd,
    /// Highest committed position found in frames.
    pub committed: Position,
    /// Where the store stands.
    pub replayed: Position,
    /// Bytes were lost that were not a proven torn tail: the copy does not count as reached (R4).
    pub may_have_lost: bool,
    /// The copy cannot go on.
    pub fault: Option<CopyFault>,
    /// Its damaged store is being rebuilt and was here before. Until it is there again the copy is
    /// no candidate; its log counts (review S15).
    pub rebuilding: Option<Position>,
}

/// Another copy of the database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerCopy {
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// The member's site.
    pub site: SiteName,
    /// It may take part in the commit rule: an HA copy that is neither leaving nor suspended.
    /// Others, but for suspended ones, get the log too.
    pub may_count: bool,
    /// An operator stopped its copying and replay (F43): it is offered nothing.
    pub suspended: bool,
}

/// What consensus says of the database, as far as this copy knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// Newest epoch.
    pub epoch: Epoch,
    /// The copy it is bound to; `None` while it is being sealed.
    pub active: Option<CopyId>,
    /// The recorded commit rule of the newest bound epoch.
    pub rule: Option<CommitRule>,
    /// The constraint wanted once enough copies take part.
    pub constraint: CommitConstraint,
    /// All copies, this one included.
    pub copies: Vec<PeerCopy>,
    /// How long a connected, silent participant may hold commits up; `None` for ever.
    pub degrade_after: Option<Duration>,
    /// How long an active without a lease waits before it dismounts.
    pub dismount_after: Duration,
    /// What is stopped on this copy.
    pub suspension: Suspension,
    /// Log that was given up, oldest first.
    pub discards: Vec<Discard>,
    /// Somebody would go on without what this copy acknowledged alone, if that is little enough: it
    /// keeps a ceiling.
    pub bounded: bool,
    /// What is recorded of the ceiling of the newest epoch; told to its active.
    pub ceiling: RecordedCeiling,
}

/// A ceiling in consensus, or none, and the number of the proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecordedCeiling {
    /// Rises with every proposal of an epoch; 0 for what the epoch began with.
    pub number: u64,
    /// The ceiling; nothing if there is none.
    pub ceiling: Option<Ceiling>,
}

/// A holder of log that a copy needs before it is activated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSource {
    /// Its member.
    pub member: MemberId,
    /// The copy.
    pub copy: CopyId,
    /// End of its log when it was sealed.
    pub end: LogEnd,
}

/// The order to become active in an epoch that consensus has bound to this copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOrder {
    /// The epoch.
    pub epoch: Epoch,
    /// The rule recorded with it.
    pub rule: CommitRule,
    /// The log must end here before the opening frame: the highest end that was reached, or the
    /// instant that an operator makes the truth. What goes on behind it is cut.
    pub required_end: LogEnd,
    /// Who has it, best first.
    pub sources: Vec<LogSource>,
    /// The ceiling that was recorded with it.
    pub ceiling: Option<Ceiling>,
}

/// An active's offer to ship its log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenOffer {
    /// Member of the active.
    pub member: MemberId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its log stream.
    pub stream: StreamId,
    /// The epochs of its log.
    pub table: EpochTable,
    /// End of its log.
    pub end: Position,
    /// What it knows to be committed.
    pub committed: Position,
    /// Its log is complete from here on.
    pub log_from: Position,
}

/// Something happened. Events that belong to an epoch name it; late ones are ignored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Consensus says something new of the database.
    Assigned(Assignment),
    /// The members whose leases are over or whose data process is certified dead.
    MembersDead(BTreeSet<MemberId>),
    /// The active manager wants the copy sealed.
    Seal {
        /// Number for the answer.
        request: u64,
        /// Refuse everything lower from now on.
        epoch: Epoch,
    },
    /// The active manager wants the copy active.
    Mount {
        /// Number for the answer.
        request: u64,
        /// The order.
        order: MountOrder,
    },
    /// The active manager wants the copy closed, in this or a lower epoch.
    Dismount {
        /// The epoch.
        epoch: Epoch,
    },
    /// The lease ran out, or does not cover this epoch any more.
    LeaseLost,
    /// The lease covers this epoch (again).
    LeaseBack,
    /// The outcome of a rule proposal is known, whichever it is: this rule is recorded now. A
    /// proposal that is made again and again counts as one, and has its outcome when no attempt of
    /// it can take effect any more.
    RuleRecorded {
        /// Epoch of the proposal.
        epoch: Epoch,
        /// Version that was proposed.
        version: u64,
        /// What is recorded, which may be another rule than the one proposed.
        rule: CommitRule,
    },
    /// The log is durable up to here.
    Logged {
        /// Epoch of the last frame, position behind it.
        end: LogEnd,
    },
    /// A write or sync of the log failed. With [`CopyFault::DiskFull`] the log itself is sound:
    /// what was handed to it behind the durable end is not in it, and the copy takes part again.
    LogFailed {
        /// Why.
        fault: CopyFault,
    },
    /// The log was cut as ordered and now ends here, durably.
    LogCut {
        /// The new end.
        end: LogEnd,
    },
    /// The control record of this number is durable.
    ControlSaved {
        /// The number.
        save: u64,
    },
    /// The opening frame was built and handed to the log.
    EpochBegun {
        /// The row of the epoch.
        start: EpochStart,
        /// Position behind the opening frame.
        end: Position,
    },
    /// The active built a frame and handed it to the log and to the peers.
    Appended {
        /// Position behind it.
        end: Position,
    },
    /// The store replayed up to here.
    Replayed {
        /// Position behind the last replayed frame.
        to: Position,
    },
    /// How far a lagged copy may replay now; nothing for a copy without lag. An activation and an
    /// active copy pay no heed to it.
    ReplayLimit(Option<Position>),
    /// The store failed beyond a reopen.
    StoreFailed {
        /// Why.
        fault: CopyFault,
    },
    /// A session to this member exists: actives may offer their log.
    PeerUp {
        /// The member.
        member: MemberId,
    },
    /// The session to this member is gone.
    PeerDown {
        /// The member.
        member: MemberId,
    },
    /// A passive accepted the offer and matches up to here.
    Opened {
        /// The passive.
        copy: CopyId,
        /// Epoch of the offer.
        epoch: Epoch,
        /// Last common position.
        matched: Position,
        /// Its chain value there is the one of this log.
        chain_matches: bool,
    },
    /// A passive's log is durable up to here.
    Acked {
        /// The passive.
        copy: CopyId,
        /// The epoch the acknowledgement counts for.
        epoch: Epoch,
        /// Position.
        durable: Position,
    },
    /// A passive refused the offer.
    Refused {
        /// The passive.
        copy: CopyId,
        /// Epoch of the offer.
        epoch: Epoch,
        /// Why.
        refusal: OpenRefusal,
    },
    /// Facts for the ladder of divergence, before an offer or the answer to a rung.
    Ground(Ground),
    /// The store was opened again and stands here.
    StoreReopened {
        /// Its position.
        replayed: Position,
    },
    /// What the fork touched was counted.
    ForkCounted(Touched),
    /// The mark of a resync is durable, whoever asked for it; the store goes back to the fork.
    ResyncBegun {
        /// The common position.
        fork: Position,
    },
    /// No mark can hold what the fork touched.
    ResyncRefused,
    /// The store's position is durably at the fork.
    StoreRewound {
        /// The common position.
        to: Position,
    },
    /// A mark stands beside the store, or none any more.
    Marked(Option<Marking>),
    /// The copy is being seeded, or feeds a seed; both for its status only.
    Seeding {
        /// It is replaced by what is being fetched.
        target: bool,
        /// Another copy is made of it.
        source: bool,
    },
    /// An active offers its log.
    Open(OpenOffer),
    /// The active confirms the match; acknowledgements count from now on.
    Matched {
        /// Epoch of the offer.
        epoch: Epoch,
    },
    /// The active's log begins behind the end of this one: what lies between is gone (F107).
    LogGone {
        /// Epoch of the offer.
        epoch: Epoch,
        /// Where the active's log begins.
        begins: Position,
    },
    /// Log bytes arrived where [`crate::CopyMachine::expects`] wants them, and passed inspection.
    Received {
        /// Epoch of the session or of the mount order.
        epoch: Epoch,
        /// End of the last frame in them.
        end: LogEnd,
        /// Epochs that start in them.
        starts: Vec<EpochStart>,
    },
    /// The active says what is committed.
    CommittedUpTo {
        /// Its epoch.
        epoch: Epoch,
        /// The position.
        committed: Position,
    },
    /// The session from this member is gone.
    SourceDown {
        /// The member.
        member: MemberId,
    },
    /// The source of a fetch agrees with this log up to here.
    FetchMatched {
        /// Epoch of the mount order.
        epoch: Epoch,
        /// Last common position.
        matched: Position,
    },
    /// The fetch broke.
    FetchFailed {
        /// Epoch of the mount order.
        epoch: Epoch,
    },
    /// Time has come, see [`crate::CopyMachine::next_wake`].
    Wake,
}

/// Something to do, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write seal and epoch table to the control file; answer with [`Event::ControlSaved`].
    SaveControl {
        /// Number for the answer.
        save: u64,
        /// Seal.
        sealed: Epoch,
        /// Epochs of the log.
        table: EpochTable,
    },
    /// Cut the log here (the tail is kept as salvage); answer with [`Event::LogCut`].
    CutLog {
        /// The new end.
        to: Position,
    },
    /// What the ladder of divergence says, with its cost: for events and status pages.
    Climbed(Verdict),
    /// Drop the store without a checkpoint and open it again; answer with
    /// [`Event::StoreReopened`]. Replays that were ordered before come before.
    ReopenStore,
    /// Read what the log between these positions touched; answer with [`Event::ForkCounted`].
    CountFork {
        /// The common position.
        from: Position,
        /// End of the fork.
        to: Position,
    },
    /// Begin a range fetch of what was counted; answer with [`Event::ResyncBegun`] or
    /// [`Event::ResyncRefused`].
    BeginResync {
        /// The epoch of the offer.
        epoch: Epoch,
        /// Where the fork left the common log.
        fork: LogEnd,
        /// The cost that is shown.
        estimated: FetchCost,
    },
    /// Write the bytes just received to the log, and sync.
    Append,
    /// Open a generation of this epoch and append its opening frame; answer with
    /// [`Event::EpochBegun`] in the same turn.
    BeginEpoch {
        /// The epoch.
        epoch: Epoch,
    },
    /// Replay the log into the store up to here.
    ReplayTo(Position),
    /// Everything before this is committed: answer the writers, tell the peers.
    Commit(Position),
    /// Answer a seal.
    SealReply {
        /// Its number.
        request: u64,
        /// The answer.
        answer: Result<SealAnswer, SealRefusal>,
    },
    /// Answer a mount order.
    MountReply {
        /// Its number.
        request: u64,
        /// The answer.
        answer: Result<(), MountFailure>,
    },
    /// Open the gate: reads and writes may be answered while the lease covers the epoch.
    Serve {
        /// The epoch.
        epoch: Epoch,
    },
    /// Close the gate for good in this epoch; unanswered writes have an unknown outcome.
    StopServing {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        reason: StopReason,
    },
    /// Report that the opening frame is committed.
    Established {
        /// The epoch.
        epoch: Epoch,
    },
    /// Ask consensus to record a rule; answer with [`Event::RuleRecorded`] once the outcome is
    /// known.
    ProposeRule {
        /// Epoch of the proposal.
        epoch: Epoch,
        /// Version it replaces.
        expected_version: u64,
        /// The rule.
        rule: CommitRule,
    },
    /// Ask consensus to record a ceiling, or none, until an [`Event::Assigned`] shows it.
    ProposeCeiling {
        /// Epoch of the proposal.
        epoch: Epoch,
        /// Its number, and what is to be recorded.
        proposal: RecordedCeiling,
    },
    /// This copy cannot serve the epoch: ask for a new activation.
    GiveUp {
        /// The epoch.
        epoch: Epoch,
        /// Why.
        reason: StopReason,
    },
    /// Offer the log to a passive.
    OpenPeer {
        /// The passive.
        copy: CopyId,
        /// Its member.
        member: MemberId,
        /// The epoch of the offer.
        epoch: Epoch,
    },
    /// Confirm the match, then stream from here.
    ShipFrom {
        /// The passive.
        copy: CopyId,
        /// Its member.
        member: MemberId,
        /// The epoch.
        epoch: Epoch,
        /// First byte to send.
        from: Position,
    },
    /// Stop streaming to a passive.
    ClosePeer {
        /// The passive.
        copy: CopyId,
    },
    /// Accept an active's offer.
    SendOpened {
        /// Member of the active.
        member: MemberId,
        /// Epoch of the offer.
        epoch: Epoch,
        /// Last common position, where this log now ends.
        matched: LogEnd,
    },
    /// Acknowledge.
    SendAck {
        /// Member of the active.
        member: MemberId,
        /// The epoch it counts for.
        epoch: Epoch,
        /// Durable up to here.
        durable: Position,
    },
    /// Refuse an active's offer.
    SendRefused {
        /// Member of the active.
        member: MemberId,
        /// Epoch of the offer.
        epoch: Epoch,
        /// Why.
        refusal: OpenRefusal,
    },
    /// Fetch log from this holder; answer with [`Event::FetchMatched`] or [`Event::FetchFailed`].
    Fetch {
        /// Epoch of the mount order.
        epoch: Epoch,
        /// The holder.
        source: LogSource,
        /// What is needed.
        wanted: LogEnd,
    },
    /// Hand in the fetched bytes.
    PullFetch,
}

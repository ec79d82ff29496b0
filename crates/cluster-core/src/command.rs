//! The commands of the replicated state and their outcomes.
//!
//! A refusal is a value: applying a command never fails, and a refused command changes nothing. A
//! client that does not know the outcome may send the same command again: commands with ids or
//! expected values answer a repetition as they answered the first time.

mod outcome;

pub use outcome::{ActivatedTarget, AllocatedEpoch, Answer, Outcome, Refusal};

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{
    ActivationPolicy, Ceiling, ClusterId, CommitRule, CopyId, DatabaseId, DatabaseName, Epoch,
    FailureTag, IncarnationId, LagSettings, LagSwitch, LogEnd, LogHold, MemberId, MountIntent,
    NetworkConfig, NewToken, OperationId, Position, ResumeRequest, SeedOrder, SeedProgress,
    SiteName, StreamId, SuspendRequest, TokenName, TrafficPolicy,
};
use serde::{Deserialize, Serialize};

use crate::autoreseed::ReseedStep;
use crate::decision::{ActivationReason, DecisionRecord};
use crate::event::EventKind;
use crate::member::{MemberActivation, MemberConfig};
use crate::operation::{OperationKind, OperationState};
use crate::order::Source;
use crate::point_in_time::Turn;
use crate::rehearsal::Rehearsal;
use crate::select::Mark;
use crate::site_recovery::SiteRecovery;
use crate::state::{DatabaseSettings, NewCopy};

/// One database in an `AllocateEpochs`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AllocateItem {
    /// The database.
    pub database: DatabaseId,
    /// The item is refused if this is not the database's highest epoch.
    pub expected: Epoch,
    /// Why.
    pub reason: ActivationReason,
}

/// One database in an `Activate`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActivateItem {
    /// The database.
    pub database: DatabaseId,
    /// The item is refused if the epoch moved on or has a target.
    pub epoch: Epoch,
    /// The copy that becomes the active of the epoch; its member must have a recorded incarnation.
    pub target: CopyId,
    /// Life of the target's member that was sealed; refused if it is another one by now (R5).
    pub incarnation: IncarnationId,
    /// What the decision knew of the target; refused if more speaks against it by now, such as a
    /// suspension that was recorded while the copies were sealed.
    #[serde(default)]
    pub marks: BTreeSet<Mark>,
    /// The first rule of the epoch.
    pub rule: CommitRule,
    /// Log end that the target must hold before it opens the epoch.
    pub required_end: LogEnd,
    /// Who has the log, highest end first.
    pub sources: Vec<Source>,
    /// Why this copy.
    pub decision: DecisionRecord,
    /// It is activated at an instant.
    #[serde(default)]
    pub turn: Option<Turn>,
    /// With which the epoch begins, if its active acknowledges alone and keeps a ceiling.
    #[serde(default)]
    pub ceiling: Option<Ceiling>,
}

/// A change of the replicated state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Names the cluster; once.
    InitCluster {
        /// Its identity.
        cluster: ClusterId,
    },
    /// Adds a member.
    AddMember {
        /// Identity, name, addresses.
        member: MemberConfig,
    },
    /// Changes a member. Rules keep the site with which they were recorded until the active changes
    /// them.
    SetMember {
        /// The member.
        member: MemberId,
        /// New address of the control process.
        control_address: Option<String>,
        /// New address of the data process.
        data_address: Option<String>,
        /// New addresses of it for other members.
        #[serde(default)]
        replication_addresses: Option<Vec<String>>,
        /// New site.
        site: Option<SiteName>,
        /// Whether it votes.
        voter: Option<bool>,
    },
    /// Replaces what an operator lets a member take (F25-F28).
    SetActivation {
        /// The member.
        member: MemberId,
        /// All of it.
        activation: MemberActivation,
    },
    /// Changes which automatic activations a copy takes (F26).
    SetCopyPolicy {
        /// The database.
        database: DatabaseId,
        /// The copy.
        copy: CopyId,
        /// The policy.
        policy: ActivationPolicy,
    },
    /// Nothing is activated on a member by itself from now on (F124).
    BeginMaintenance {
        /// The member.
        member: MemberId,
        /// Why.
        comment: String,
    },
    /// The site of these members is stopped, or started again (F126). Refused if nobody would be
    /// left who holds data.
    StopMembers {
        /// The members; all of one site.
        members: BTreeSet<MemberId>,
        /// Why; nothing to start them again.
        comment: Option<String>,
    },
    /// The member takes what its policy lets it take (F125).
    EndMaintenance {
        /// The member.
        member: MemberId,
    },
    /// Removes a member that holds no copies.
    RemoveMember {
        /// The member.
        member: MemberId,
    },
    /// Records a new life of a member's data process. It gets no lease before its predecessor's is
    /// over.
    StartIncarnation {
        /// The member.
        member: MemberId,
        /// Drawn by the control process.
        incarnation: IncarnationId,
    },
    /// The predecessor's lease has run out: the recorded incarnation may hold leases. The
    /// predecessor is not the recorded life, so it can never be renewed again and the fact stays
    /// true.
    ConfirmIncarnation {
        /// The member.
        member: MemberId,
        /// The predecessor that is over; refused if the state waits for another one.
        previous: IncarnationId,
    },
    /// The lease of the recorded incarnation ran out, or was granted again.
    NoteSilence {
        /// The member.
        member: MemberId,
        /// Refused if another one is recorded by now.
        incarnation: IncarnationId,
        /// Whether it ran out.
        silent: bool,
    },
    /// These lives are here while databases may be mounted: one that lives on vouches for that to
    /// the next leader (F16).
    PermitMounts {
        /// By member; nothing is noted of another life.
        lives: BTreeMap<MemberId, IncarnationId>,
    },
    /// The control process reaped its child: this incarnation is dead and never comes back.
    CertifyDeath {
        /// The member.
        member: MemberId,
        /// The dead life.
        incarnation: IncarnationId,
    },
    /// The incarnation stopped serving and gives its lease back.
    ReleaseIncarnation {
        /// The member.
        member: MemberId,
        /// The life that ends.
        incarnation: IncarnationId,
    },
    /// Creates a database, wanted open.
    CreateDatabase {
        /// Chosen by the client; the same id again is the same request.
        id: DatabaseId,
        /// Unique.
        name: DatabaseName,
        /// Identity of its log.
        stream: StreamId,
        /// Shared settings.
        settings: DatabaseSettings,
        /// Its copies, at least one.
        copies: Vec<NewCopy>,
    },
    /// Removes a database.
    RemoveDatabase {
        /// The database.
        database: DatabaseId,
        /// Also while it is wanted open.
        force: bool,
    },
    /// Adds a copy; it counts only after the active has admitted it (R1).
    AddCopy {
        /// The database.
        database: DatabaseId,
        /// The copy.
        copy: NewCopy,
    },
    /// Changes a copy's preference or lags, or marks it as leaving.
    SetCopy {
        /// The database.
        database: DatabaseId,
        /// The copy.
        copy: CopyId,
        /// New activation preference.
        preference: Option<u32>,
        /// Whether the active must drop it from the rule, and nothing may activate it.
        leaving: Option<bool>,
        /// New lags; a replay lag makes the copy a lagged one.
        #[serde(default)]
        lag: Option<LagSettings>,
    },
    /// Sets the configured lag of a copy aside, or puts it in force again (F44).
    SwitchLag {
        /// The database.
        database: DatabaseId,
        /// The copy.
        copy: CopyId,
        /// The operator's word.
        switch: LagSwitch,
    },
    /// Stops copying and replay, or only automatic activation (F43). Refused for the active copy.
    SuspendCopy {
        /// The database.
        database: DatabaseId,
        /// The copy.
        copy: CopyId,
        /// What is stopped, why and for how long; times count from the command's stamp.
        request: SuspendRequest,
    },
    /// Lets a copy go on, and gives a fault another try (F44).
    ResumeCopy {
        /// The database.
        database: DatabaseId,
        /// The copy.
        copy: CopyId,
        /// What stays suspended.
        request: ResumeRequest,
    },
    /// A copy says that it failed for a reason that does not heal (F47): it stays suspended.
    SuspendFailed {
        /// The database.
        database: DatabaseId,
        /// The copy.
        copy: CopyId,
        /// Refused if it was resumed since.
        resumes: u64,
        /// The fault.
        comment: String,
        /// No log helps it any more.
        needs_seed: bool,
        /// The class of the fault, if the member says (F13).
        #[serde(default)]
        tag: Option<FailureTag>,
    },
    /// The next step of the automatic reseed of a copy (F129).
    ReseedStep {
        /// The database.
        database: DatabaseId,
        /// The copy.
        copy: CopyId,
        /// Refused unless so many steps were taken.
        steps: u32,
        /// The step.
        step: ReseedStep,
    },
    /// The active is about to remove log that these need (F105). Refused for participants of the
    /// commit rule.
    MarkCutOff {
        /// The database.
        database: DatabaseId,
        /// Refused if the epoch moved on.
        epoch: Epoch,
        /// Copies that will need a seed.
        copies: Vec<CopyId>,
        /// Operations that lose their hold.
        operations: Vec<OperationId>,
    },
    /// A copy that was marked as cut off reported to the active that it has all log from before it
    /// was removed: the mark goes, and with it the want of a seed.
    ClearCutOff {
        /// The database.
        database: DatabaseId,
        /// Refused if the epoch moved on.
        epoch: Epoch,
        /// The copy.
        copy: CopyId,
    },
    /// An operation needs log from a position on, or needs it longer.
    HoldLog {
        /// The database.
        database: DatabaseId,
        /// Who, from where, until when.
        hold: LogHold,
    },
    /// An operation needs its log no longer.
    ReleaseLog {
        /// The database.
        database: DatabaseId,
        /// The operation.
        operation: OperationId,
    },
    /// A suspended copy is to be made anew from another one (F52). Log from now on is held for it.
    BeginSeed {
        /// The database.
        database: DatabaseId,
        /// The copy that is replaced.
        copy: CopyId,
        /// How; the same operation again is the same request.
        order: SeedOrder,
    },
    /// The target of a seed says how far it is; holds its log for longer.
    ReportSeed {
        /// The database.
        database: DatabaseId,
        /// The copy that is replaced.
        copy: CopyId,
        /// The operation.
        operation: OperationId,
        /// How far.
        progress: SeedProgress,
        /// The target has log up to here: what is before it is not needed.
        from: Option<Position>,
        /// The epoch in which it has it; none from a member of an earlier build.
        #[serde(default)]
        epoch: Option<Epoch>,
    },
    /// A seed ended: the new copy is in place, or why not. Without success the old copy stays
    /// suspended as it was.
    EndSeed {
        /// The database.
        database: DatabaseId,
        /// The copy that is replaced.
        copy: CopyId,
        /// The operation.
        operation: OperationId,
        /// How it ended.
        result: Result<(), Refusal>,
    },
    /// A rehearsal of a move to a copy ended (`switchover --rehearse`): its operation ends, and the
    /// copy keeps the result.
    EndRehearsal {
        /// The operation; refused unless it runs.
        operation: OperationId,
        /// How it ended; times of the result are set from the command's stamp.
        result: Box<Rehearsal>,
    },
    /// Suspensions whose time has run out by the command's stamp end.
    EndSuspensions,
    /// Gives a wiped or reseeded copy its new identity (R4); the old id stays in recorded rules,
    /// where it is never reached again.
    ReplaceCopy {
        /// The database.
        database: DatabaseId,
        /// The id that is gone.
        old: CopyId,
        /// The fresh id.
        new: CopyId,
    },
    /// Removes a copy that is neither the target nor, while the database is wanted open, in the
    /// rule.
    RemoveCopy {
        /// The database.
        database: DatabaseId,
        /// The copy.
        copy: CopyId,
    },
    /// Opens or closes a database. Opening allocates an epoch: every mount is a new one (R5).
    SetMountIntent {
        /// The database.
        database: DatabaseId,
        /// What is wanted.
        intent: MountIntent,
    },
    /// Replaces the settings of a database. A new constraint takes effect when the active has
    /// changed the rule (R1), or with the next epoch.
    SetDatabase {
        /// The database.
        database: DatabaseId,
        /// All settings.
        settings: DatabaseSettings,
    },
    /// Log before this position is in a backup.
    NoteBackup {
        /// The database.
        database: DatabaseId,
        /// The position; one before what was noted already changes nothing.
        up_to: Position,
    },
    /// Begins activations: new epochs without a target. Takes each pair away from its active.
    AllocateEpochs(Vec<AllocateItem>),
    /// Binds targets, once per epoch.
    Activate(Vec<ActivateItem>),
    /// The active of the epoch committed its opening frame under the epoch's rule.
    Established {
        /// The database.
        database: DatabaseId,
        /// Refused if the epoch moved on.
        epoch: Epoch,
    },
    /// The active changes its rule. It requires old AND new from before it proposes until it knows
    /// the outcome (R1), so replacing the recorded rule of this epoch loses nothing.
    ChangeRule {
        /// The database.
        database: DatabaseId,
        /// Refused if the epoch moved on.
        epoch: Epoch,
        /// Refused if the recorded rule has another version, unless it equals `rule` already.
        expected_version: u64,
        /// The new rule, version `expected_version + 1`.
        rule: CommitRule,
    },
    /// The active of the epoch promises to commit nothing behind a ceiling, raises it, or gives it
    /// up. It obeys the lower one of what may be recorded.
    SetCeiling {
        /// The database.
        database: DatabaseId,
        /// Refused if the epoch moved on.
        epoch: Epoch,
        /// Changes nothing unless it is higher than that of the recorded one.
        number: u64,
        /// The ceiling; nothing for none.
        ceiling: Option<Ceiling>,
    },
    /// What is left of a cluster goes on without the majority that was lost (F126, S19). Proposed
    /// by nobody: it is the first entry of the consensus that is founded anew.
    RecoverSite(Box<SiteRecovery>),
    /// Several commands in order; each has its own outcome, none undoes another.
    Batch(Vec<Command>),
    /// Any command with the proposer's wall clock, which events and operations then carry.
    Stamped {
        /// Unix milliseconds.
        unix_ms: u64,
        /// The command.
        command: Box<Command>,
    },
    /// What a data process reports. Refused unless this life is the recorded one of its member: a
    /// second server on a copy of a member's directory, or a life that is over, changes nothing.
    OfLife {
        /// The member.
        member: MemberId,
        /// The life that reports.
        incarnation: IncarnationId,
        /// The command.
        command: Box<Command>,
    },
    /// Sets a setting of the cluster, or resets it to its default.
    ChangeSetting {
        /// Its name.
        name: String,
        /// The value; nothing for the default.
        value: Option<u64>,
    },
    /// Adds, changes or removes a network.
    SetNetwork {
        /// Its name.
        name: String,
        /// What it is; nothing to remove it.
        network: Option<NetworkConfig>,
    },
    /// Sets when log and seeds are compressed.
    SetCompression {
        /// The policy.
        policy: TrafficPolicy,
    },
    /// Adds an access token, or gives a known one a new secret and new rights.
    IssueToken {
        /// The token, with the digest of its secret.
        token: NewToken,
        /// Also if the name is in use.
        replace: bool,
    },
    /// Forgets an access token: nobody gets in with it any more.
    RevokeToken {
        /// Its name.
        name: TokenName,
    },
    /// Records an event.
    AppendEvent {
        /// The member concerned.
        member: Option<MemberId>,
        /// The database concerned.
        database: Option<DatabaseId>,
        /// What happened.
        kind: EventKind,
    },
    /// Records a decision that bound no target.
    RecordDecision(Box<DecisionRecord>),
    /// Records an operation; the same id and kind again is the same request.
    PutOperation {
        /// Chosen by the client.
        id: OperationId,
        /// What is done.
        kind: OperationKind,
    },
    /// Records progress. A finished operation does not change any more.
    UpdateOperation {
        /// The operation.
        id: OperationId,
        /// Where it stands.
        state: OperationState,
        /// 0 to 100.
        progress_percent: u8,
        /// For people; cut to 512 bytes.
        message: String,
    },
}

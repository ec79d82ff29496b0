//! What happened in the cluster, for `keelson event list`, the console and alerts.

use std::collections::BTreeSet;

use keelson_types::{
    ActivationPolicy, CommitConstraint, CopyId, DatabaseId, DatabaseName, Epoch, FailureTag,
    IncarnationId, LogEnd, MemberId, MountDial, MountIntent, News, OperationId, Position,
    SeedScope, TokenName, TokenRole,
};
use serde::{Deserialize, Serialize};

use crate::decision::ActivationReason;
use crate::member::MemberActivation;

/// One event. Format version 1: fields may be added, none change their meaning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Index of the command that caused it.
    pub index: u64,
    /// Wall clock of the newest stamped command, in Unix milliseconds.
    pub unix_ms: u64,
    /// The member concerned.
    pub member: Option<MemberId>,
    /// The database concerned.
    pub database: Option<DatabaseId>,
    /// What happened.
    pub kind: EventKind,
}

/// The kinds of events.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The cluster was created.
    ClusterCreated,
    /// A member joined.
    MemberAdded,
    /// A member left.
    MemberRemoved,
    /// A data process started.
    MemberUp(IncarnationId),
    /// The lease of a data process ran out.
    MemberSilent(IncarnationId),
    /// Its lease was granted again.
    MemberBack(IncarnationId),
    /// A data process ended.
    MemberDown {
        /// Which life.
        incarnation: IncarnationId,
        /// True for a death certificate, false for a clean stop.
        certified: bool,
    },
    /// A database was created.
    DatabaseCreated,
    /// A database was removed.
    DatabaseRemoved,
    /// A copy was added.
    CopyAdded(CopyId),
    /// A copy was removed.
    CopyRemoved(CopyId),
    /// An operator suspended a copy.
    CopySuspended {
        /// The copy.
        copy: CopyId,
        /// Only its activation.
        activation_only: bool,
        /// Why.
        comment: String,
    },
    /// A copy goes on: an operator resumed it, or its time was over.
    CopyResumed(CopyId),
    /// An operator changed the lags of a copy.
    CopyLagSet {
        /// The copy.
        copy: CopyId,
        /// Seconds.
        replay_lag: u64,
        /// Seconds.
        truncation_lag: u64,
    },
    /// A copy failed for a reason that does not heal, and stays suspended.
    CopyFailed {
        /// The copy.
        copy: CopyId,
        /// No log helps it any more.
        needs_seed: bool,
        /// The fault.
        comment: String,
        /// Its class, if the member says (F13).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<FailureTag>,
    },
    /// Expanded truncation gives a copy up: it will need a seed.
    CopyCutOff(CopyId),
    /// An operator set the lag of a copy aside, or put it in force again.
    CopyLagSwitched {
        /// The copy.
        copy: CopyId,
        /// Why it is set aside; nothing if it is in force.
        disabled: Option<String>,
    },
    /// What a member told of its copies and volumes.
    Reported(News),
    /// An operator changed which activations a member takes.
    ActivationSet(MemberActivation),
    /// An operator changed which automatic activations a copy takes.
    CopyPolicySet {
        /// The copy.
        copy: CopyId,
        /// The policy.
        policy: ActivationPolicy,
    },
    /// Maintenance of a member began: nothing is activated there by itself.
    MaintenanceBegun {
        /// Why.
        comment: String,
    },
    /// It ended.
    MaintenanceEnded,
    /// An operator stopped the site of the member: it serves nothing and does not vote.
    SiteStopped {
        /// Why.
        comment: String,
    },
    /// The site was started again.
    SiteStarted,
    /// What was left of the cluster was forced up without its majority (F126).
    SiteRecovered {
        /// First half of all epochs from now on.
        generation: u32,
        /// Who was taken for lost.
        lost: BTreeSet<MemberId>,
        /// Why.
        comment: String,
    },
    /// The leader is under maintenance and lets another member lead.
    LeaderStoodDown,
    /// An operator changed a setting of the cluster.
    SettingChanged {
        /// Its name.
        name: String,
        /// The value in force before.
        from: Option<u64>,
        /// The value in force now.
        to: Option<u64>,
    },
    /// An operator opened or closed a database.
    IntentChanged(MountIntent),
    /// An activation began.
    EpochAllocated {
        /// The new epoch.
        epoch: Epoch,
        /// Why.
        reason: ActivationReason,
    },
    /// A database was moved by failures so often that it is not moved on purpose for a while.
    MovesSuppressed {
        /// Moves within the window.
        moves: u32,
        /// When that ends if nothing more happens, in Unix milliseconds.
        until_unix_ms: u64,
    },
    /// Death certificates moved a database so often that it waits for the process that died.
    WaitsForProcess {
        /// Moves within the window.
        moves: u32,
        /// For so long at most, in milliseconds.
        patience_ms: u64,
    },
    /// A failover or switchover chose its target.
    Activated {
        /// The epoch.
        epoch: Epoch,
        /// The new active.
        target: CopyId,
        /// Why the epoch was allocated; a failover unless it says switchover or mount.
        reason: ActivationReason,
    },
    /// Acknowledged writes may be gone, on an operator's word or within a mount dial; the receipt
    /// is in the decision.
    ActivatedWithLoss {
        /// The epoch.
        epoch: Epoch,
        /// Where the log that is kept ends.
        kept: LogEnd,
        /// Up to here log was certainly acknowledged and is lost.
        certain: Option<Position>,
        /// Copies that were not reached and may hold more.
        unreached: BTreeSet<CopyId>,
        /// Logs that can be missing at most, if that is known.
        #[serde(default)]
        missing_logs: Option<u64>,
        /// The mount dial within which that is; nothing for an operator's word.
        #[serde(default)]
        dial: Option<MountDial>,
    },
    /// An operator made an instant of the new active the truth; the receipt is in the decision.
    ActivatedAtInstant {
        /// The epoch.
        epoch: Epoch,
        /// The instant: what lies behind is given up.
        kept: LogEnd,
        /// Up to here log was certainly acknowledged and is given up.
        certain: Option<Position>,
        /// Copies that are suspended, because they hold the discarded timeline.
        holders: BTreeSet<CopyId>,
    },
    /// The retention of a discarded timeline is over: its holder may be released. Nothing releases
    /// it but an operator.
    DiscardedRetentionOver {
        /// The copy that holds it still.
        copy: CopyId,
        /// The epoch that discarded it.
        epoch: Epoch,
        /// Where the log that was kept ends.
        kept: LogEnd,
    },
    /// The new active serves.
    Established(Epoch),
    /// The commit rule was changed by the active.
    RuleChanged {
        /// New version.
        version: u64,
        /// New constraint.
        constraint: CommitConstraint,
        /// Copies that count now.
        participants: Vec<CopyId>,
    },
    /// Fewer copies count than the constraint speaks of.
    Degraded {
        /// Copies that left the rule.
        dropped: Vec<CopyId>,
    },
    /// A copy counts again.
    Readmitted(CopyId),
    /// A database has fewer than two copies that hold what was written, for a while (F134).
    RedundancyRed {
        /// How many it has.
        copies: u32,
        /// What is wrong with the others.
        why: String,
    },
    /// It has two again.
    RedundancyGreen {
        /// How many it has.
        copies: u32,
    },
    /// No copy can be activated without losing data; see the newest decision of the database.
    ActivationWaiting(Epoch),
    /// A copy found damage, or mended it (review S15).
    CopyDamage {
        /// The copy.
        copy: CopyId,
        /// What happened, a stable word.
        code: String,
        /// Where and what.
        text: String,
    },
    /// A copy left the log of its active, or found keys of its store wrong, and gets back (G4).
    Divergence {
        /// The copy.
        copy: CopyId,
        /// What is done about it.
        rung: String,
        /// It is done.
        finished: bool,
        /// Log that is cut off and kept as salvage.
        salvage_bytes: u64,
        /// Log that is replayed again.
        replay_bytes: u64,
        /// Keys fetched from another copy: foreseen, or spent once it is done.
        keys: u64,
        /// Their bytes.
        bytes: u64,
        /// How often the fetch began.
        rounds: u32,
    },
    /// A copy, or its content index, is being made anew from another one.
    SeedBegun {
        /// The copy that is replaced, or gets an index.
        copy: CopyId,
        /// The operation.
        operation: OperationId,
        /// What is made anew.
        #[serde(default)]
        scope: SeedScope,
    },
    /// It was, or the seed ended without success.
    SeedEnded {
        /// The copy that was replaced, or stays.
        copy: CopyId,
        /// The operation.
        operation: OperationId,
        /// What was made anew.
        #[serde(default)]
        scope: SeedScope,
        /// Why it failed; empty if it did not.
        failure: String,
    },
    /// A move to a copy was rehearsed.
    Rehearsed {
        /// The copy.
        copy: CopyId,
        /// The operation.
        operation: OperationId,
        /// Keys that were read from a fork of it and compared.
        keys: u64,
        /// How long nobody would be served by a real move, in milliseconds.
        pause_ms: u64,
        /// Why it failed; empty if it passed.
        failure: String,
    },
    /// A step of the automatic reseed of a copy, or why the next one is not taken (F129).
    AutoReseed {
        /// The copy.
        copy: CopyId,
        /// The step.
        step: ReseedEvent,
    },
    /// A network, or what is compressed, was changed.
    NetworksChanged {
        /// Name of the network, or of the policy.
        what: String,
    },
    /// An administrator issued an access token.
    TokenIssued {
        /// Its name.
        name: TokenName,
        /// What its holder may do.
        role: TokenRole,
        /// Databases whose data it is for; all if there is none.
        databases: BTreeSet<DatabaseName>,
        /// When it ends, in Unix milliseconds.
        expires_unix_ms: Option<u64>,
    },
    /// An administrator revoked it.
    TokenRevoked {
        /// Its name.
        name: TokenName,
        /// What its holder could do.
        role: TokenRole,
    },
    /// Free text.
    Note(String),
}

/// A step of an automatic reseed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReseedEvent {
    /// The fault gets another try.
    Resumed {
        /// Which one, from 1.
        attempt: u32,
    },
    /// The copy is made anew from another one.
    Seeding {
        /// Which attempt, from 1.
        attempt: u32,
        /// The operation that shows it.
        operation: OperationId,
    },
    /// Its volume failed: the copy is made anew on a spare one.
    AssigningSpare {
        /// Which attempt, from 1.
        attempt: u32,
        /// The directory of the volume that it leaves.
        volume: String,
        /// The operation that shows it.
        operation: OperationId,
    },
    /// Everything was tried: it waits for a person.
    Stopped,
    /// It waited for days: everything is tried again.
    Reset,
    /// The copy is well again.
    Done,
    /// A step is due and not taken.
    Blocked {
        /// Why.
        why: String,
    },
}

//! The replicated configuration: members, databases, copies, epochs, commit rules, operations.
//!
//! Owned by consensus: it changes only through [`ClusterState::apply`](crate::ClusterState::apply),
//! in log order, and is equal on every voter and learner that has applied the same index. Nothing
//! here is a hot fact (queues, disk space); those travel separately.
//!
//! Invariants:
//! - a database's epoch only rises, and its target is bound at most once per epoch (R5);
//! - `unestablished` holds the rule of every bound epoch since, and including, the last established
//!   one (R2), so that a proof over it covers everything that may have been acknowledged;
//! - a member's recorded incarnation with `previous` unset is the only one that may hold a lease
//!   (S9.3);
//! - a (database, epoch) pair that a member serves changes only together with the member's
//!   `assignment_revision` (R9).

use std::collections::BTreeMap;

use keelson_types::{
    AccessTokens, ActivationPolicy, Automations, Ceiling, ClusterId, ClusterSettings,
    CommitConstraint, CommitRule, ContentIndexSettings, CopyId, DatabaseId, DatabaseName,
    DatabaseState, Epoch, FailureTag, IncarnationId, LagSettings, LagSwitch, LogEnd, LogHold,
    MemberId, MountDial, MountIntent, Networks, OperationId, Position, SeedOrder, StreamId,
    Suspension,
};
use serde::{Deserialize, Serialize};

use crate::autoreseed::AutoReseed;
use crate::collection::{Databases, Members};
use crate::decision::{ActivationReason, DecisionEntry};
use crate::event::Event;
use crate::guarantee::GuaranteeConstraint;
use crate::loss::{LossReceipt, RECEIPTS_MAX};
use crate::member::Member;
use crate::operation::Operation;
use crate::order::{MountOrder, Peer, Source};
use crate::point_in_time::TurnedBack;
use crate::redundancy::Alert;
use crate::rehearsal::Rehearsal;
use crate::ring::Ring;

/// Version of the serialized state; a newer one is refused by the snapshot reader.
pub const STATE_FORMAT_VERSION: u32 = 1;
/// Certified incarnations remembered per member.
pub const CERTIFIED_DEAD_MAX: usize = 64;
/// Epochs remembered per database.
pub const EPOCH_HISTORY_MAX: usize = 64;
/// Decision records kept.
pub const DECISIONS_MAX: usize = 1_000;
/// Events kept.
pub const EVENTS_MAX: usize = 2_000;
/// Operations kept, finished ones included.
pub const OPERATIONS_MAX: usize = 2048;

/// Everything that consensus decides. See the module documentation for the invariants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterState {
    /// [`STATE_FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Set once by `InitCluster`.
    pub cluster: Option<ClusterId>,
    /// First half of every new epoch (S19).
    pub recovery_generation: u32,
    /// Wall clock of the newest stamped command, in Unix milliseconds; events carry it.
    pub clock_unix_ms: u64,
    /// Switches and thresholds of the cluster as a whole.
    #[serde(default)]
    pub settings: ClusterSettings,
    /// Named lists of subnets, and what is compressed on them (F114).
    #[serde(default)]
    pub networks: Networks,
    /// Access tokens, without their secrets.
    #[serde(default, skip_serializing_if = "AccessTokens::is_empty")]
    pub tokens: AccessTokens,
    /// All members, witnesses included.
    pub members: Members,
    /// All databases.
    pub databases: Databases,
    /// Long work; ids are chosen by the clients.
    pub operations: BTreeMap<OperationId, Operation>,
    /// Why copies were activated, or were not.
    pub decisions: Ring<DecisionEntry, DECISIONS_MAX>,
    /// What happened.
    pub events: Ring<Event, EVENTS_MAX>,
}

impl Default for ClusterState {
    fn default() -> Self {
        Self {
            format_version: STATE_FORMAT_VERSION,
            cluster: None,
            recovery_generation: 0,
            clock_unix_ms: 0,
            settings: ClusterSettings::default(),
            networks: Networks::default(),
            tokens: AccessTokens::default(),
            members: Members::default(),
            databases: Databases::default(),
            operations: BTreeMap::new(),
            decisions: Ring::default(),
            events: Ring::default(),
        }
    }
}

/// Whether a copy counts for availability.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyKind {
    /// A participant and an automatic candidate.
    Ha,
    /// Replays late; never a participant nor an automatic candidate, always a source of log.
    Lagged,
}

/// A copy as a client asks for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewCopy {
    /// Fresh id; a reseeded copy gets another one (R4).
    pub copy: CopyId,
    /// Holder; at most one copy of a database per member.
    pub member: MemberId,
    /// Lower is preferred.
    pub preference: u32,
    /// HA or lagged.
    pub kind: CopyKind,
}

/// A copy of a database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyConfig {
    /// The member that holds it.
    pub member: MemberId,
    /// Activation preference; lower is preferred.
    pub preference: u32,
    /// HA or lagged.
    pub kind: CopyKind,
    /// An operator wants it gone: the active drops it from the rule (R1), nothing activates it.
    pub leaving: bool,
    /// Index of the command that added it.
    pub added_at_index: u64,
    /// What an operator stopped (F43).
    #[serde(default)]
    pub suspension: Suspension,
    /// Replay lag and truncation lag; `kind` is lagged if there is a replay lag (F87).
    #[serde(default)]
    pub lag: LagSettings,
    /// How often an operator resumed the copy: each time it gives its fault another try.
    #[serde(default)]
    pub resumes: u64,
    /// Log that it needs is gone or will go: no log is kept for it, only a seed helps. Taken back
    /// when it counts in the commit rule again, or is resumed for another try.
    #[serde(default)]
    pub cut_off: bool,
    /// An operator's word that sets its replay lag aside (F44).
    #[serde(default)]
    pub lag_switch: LagSwitch,
    /// The seed that is under way; it stays suspended meanwhile.
    #[serde(default)]
    pub seeding: Option<SeedOrder>,
    /// Which automatic activations the copy takes; the stricter one of this and its member's holds.
    #[serde(default)]
    pub policy: ActivationPolicy,
    /// The class of the failure for which the system suspended it, if its member said (F13).
    #[serde(default)]
    pub failure: Option<FailureTag>,
    /// What was tried with it automatically since it failed (F129).
    #[serde(default)]
    pub autoreseed: Option<AutoReseed>,
    /// How the last rehearsal of a move to it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<Box<Rehearsal>>,
}

impl CopyConfig {
    /// Whether the copy may take part in the commit rule.
    #[must_use]
    pub fn may_count(&self) -> bool {
        self.kind == CopyKind::Ha && !self.leaving && !self.is_stopped()
    }

    /// Whether a seed is putting another copy in its place. One whose content index alone is seeded
    /// goes on as it is.
    #[must_use]
    pub fn is_remade(&self) -> bool {
        self.seeding.as_ref().is_some_and(|order| order.scope.makes_copy())
    }

    /// Whether copying and replay are suspended.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.suspension.replication.is_some()
    }
}

/// How the commit constraint is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConstraintSetting {
    /// `none` with fewer than two HA copies, else `second_copy`.
    #[default]
    Auto,
    /// This one. Constraints other than `none` need at least two HA copies.
    Explicit(CommitConstraint),
}

/// Settings of a database that all members share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseSettings {
    /// What an acknowledgement needs.
    pub constraint: ConstraintSetting,
    /// A connected but slow participant is dropped after this many milliseconds; `None` = never,
    /// writes block instead.
    pub degrade_after_ms: Option<u64>,
    /// An active without a lease dismounts after this many milliseconds of hold.
    pub dismount_after_ms: u64,
    /// Size at which a generation is closed, 1 MiB to 1 GiB.
    pub generation_bytes: u64,
    /// Whether the active compresses frames.
    #[serde(default)]
    pub lz4: bool,
    /// Whether log that every copy is through with goes without a backup (F99).
    #[serde(default)]
    pub circular_logging: bool,
    /// Which copies writers of much wait for (F110).
    #[serde(default)]
    pub guarantee: GuaranteeConstraint,
    /// What of it can be searched.
    #[serde(default)]
    pub content_index: ContentIndexSettings,
    /// Whether copies that stay failed are seeded by themselves, if the cluster allows it (F128).
    #[serde(default = "on")]
    pub autoreseed: bool,
    /// What else may be done with it by itself, if the cluster allows it.
    #[serde(default, skip_serializing_if = "Automations::all_on")]
    pub automations: Automations,
}

const fn on() -> bool {
    true
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self {
            constraint: ConstraintSetting::Auto,
            degrade_after_ms: Some(10_000),
            dismount_after_ms: 30_000,
            generation_bytes: 16 * 1024 * 1024,
            lz4: false,
            circular_logging: true,
            guarantee: GuaranteeConstraint::None,
            content_index: ContentIndexSettings::default(),
            autoreseed: true,
            automations: Automations::default(),
        }
    }
}

/// The commit rule of one bound epoch, and who was bound.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleRecord {
    /// The epoch.
    pub epoch: Epoch,
    /// Life of the target's member when it was bound; only that life may serve in the epoch (R5).
    pub incarnation: IncarnationId,
    /// The rule; `rule.active` is the target.
    pub rule: CommitRule,
    /// End of the log that the epoch goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<LogEnd>,
    /// The active commits nothing behind it; nothing if it made no such promise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
    /// Number of the proposal of that; 0 for what the epoch began with.
    #[serde(default)]
    pub ceiling_number: u64,
}

impl RuleRecord {
    /// The record of an epoch whose active promised nothing of what it commits.
    #[must_use]
    pub const fn new(epoch: Epoch, incarnation: IncarnationId, rule: CommitRule) -> Self {
        Self { epoch, incarnation, rule, begins: None, ceiling: None, ceiling_number: 0 }
    }
}

/// One row of a database's epoch history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch.
    pub epoch: Epoch,
    /// Holder of the target; none if no target was ever bound.
    pub target: Option<MemberId>,
    /// Why it was allocated.
    pub reason: ActivationReason,
    /// Index of the allocation.
    pub index: u64,
    /// When its target was bound, in Unix milliseconds; 0 if none was.
    #[serde(default)]
    pub bound_unix_ms: u64,
}

/// How the bound target of the newest epoch is mounted; kept so that a later leader can repeat the
/// order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Binding {
    /// Life of the target's member when it was bound.
    pub incarnation: IncarnationId,
    /// Log end that the target must hold before it opens the epoch.
    pub required_end: LogEnd,
    /// Who has the log, highest end first.
    pub sources: Vec<Source>,
}

/// A database and its copies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Database {
    /// Identity.
    pub id: DatabaseId,
    /// Unique in the cluster.
    pub name: DatabaseName,
    /// Index of the command that created it.
    pub created_at_index: u64,
    /// Shared settings.
    pub settings: DatabaseSettings,
    /// Whether an operator wants it open.
    pub intent: MountIntent,
    /// Its copies.
    pub copies: BTreeMap<CopyId, CopyConfig>,
    /// Identity of its log.
    pub stream: StreamId,
    /// Highest epoch allocated.
    pub epoch: Epoch,
    /// Index at which the newest epoch was allocated or its target bound, whichever is later. A
    /// lease grant covers the pair only if its revision is at least this.
    pub assigned_at: u64,
    /// What is known of the newest epoch.
    pub state: DatabaseState,
    /// The copy bound to the newest epoch; none while it is being sealed.
    pub target: Option<CopyId>,
    /// How the target is mounted; set with `target`.
    pub binding: Option<Binding>,
    /// Rule of the newest *bound* epoch.
    pub rule: Option<CommitRule>,
    /// Rules that a lossless proof must pass, oldest first.
    pub unestablished: Vec<RuleRecord>,
    /// Newest epochs, oldest first.
    pub history: Ring<EpochRecord, EPOCH_HISTORY_MAX>,
    /// Log that operations need (review S16.3), in the order in which it was asked for.
    #[serde(default)]
    pub holds: Vec<LogHold>,
    /// Log before this is in a backup of some copy (F99); none if no backup was ever noted.
    #[serde(default)]
    pub backed_up: Option<Position>,
    /// What operators gave up, oldest first. A receipt speaks of the log that contains its epoch:
    /// an activation that never came to its opening frame gave nothing up.
    #[serde(default)]
    pub receipts: Ring<LossReceipt, RECEIPTS_MAX>,
    /// The instant that was made the truth on one copy, until another copy counts beside it.
    #[serde(default)]
    pub turned_back: Option<TurnedBack>,
    /// What was told last of its redundancy (F134).
    #[serde(default)]
    pub redundancy_told: Option<Alert>,
}

impl Database {
    /// Whether a copy counts in a rule that a proof must pass: what was acknowledged may be on it
    /// and on no other copy.
    #[must_use]
    pub fn counts(&self, copy: CopyId) -> bool {
        self.unestablished.iter().any(|record| record.rule.has(copy))
    }

    /// The copy that `member` holds.
    #[must_use]
    pub fn copy_on(&self, member: MemberId) -> Option<CopyId> {
        self.copies.iter().find(|(_, copy)| copy.member == member).map(|(id, _)| *id)
    }

    /// What the active of the newest epoch promised of what it commits.
    #[must_use]
    pub fn newest_ceiling(&self) -> Option<&RuleRecord> {
        self.unestablished.last().filter(|record| record.epoch == self.epoch)
    }

    /// How many copies are HA copies and not leaving.
    #[must_use]
    pub fn ha_copy_count(&self) -> usize {
        self.copies.values().filter(|c| c.kind == CopyKind::Ha && !c.leaving).count()
    }

    /// The member of the bound target.
    #[must_use]
    pub fn target_member(&self) -> Option<MemberId> {
        self.target.and_then(|copy| self.copies.get(&copy)).map(|copy| copy.member)
    }

    /// The constraint that the settings ask for now.
    #[must_use]
    pub fn wanted_constraint(&self) -> CommitConstraint {
        match self.settings.constraint {
            ConstraintSetting::Explicit(constraint) => constraint,
            ConstraintSetting::Auto if self.ha_copy_count() < 2 => CommitConstraint::None,
            ConstraintSetting::Auto => CommitConstraint::SecondCopy,
        }
    }

    /// The copy that was bound last: the former active while an epoch has no target yet.
    #[must_use]
    pub fn incumbent(&self) -> Option<CopyId> {
        self.rule.as_ref().map(|rule| rule.active)
    }

    /// Why the newest epoch was allocated.
    #[must_use]
    pub fn newest_reason(&self) -> Option<&ActivationReason> {
        self.history.last().map(|record| &record.reason)
    }
}

/// A pair that a member serves, if its lease covers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// The database.
    pub database: DatabaseId,
    /// The epoch.
    pub epoch: Epoch,
    /// The copy.
    pub copy: CopyId,
    /// Life of the member that was bound.
    pub incarnation: IncarnationId,
    /// [`Database::assigned_at`].
    pub assigned_at: u64,
}

impl ClusterState {
    /// The pairs that `member` serves: bound to it in the newest epoch, and wanted open.
    pub fn assignments(&self, member: MemberId) -> impl Iterator<Item = Assignment> + '_ {
        let bound = self.databases.targets_on(member);
        bound.into_iter().filter_map(|database| self.assignment(database))
    }

    /// How many databases each member is the active of, or is about to be.
    #[must_use]
    pub fn active_counts(&self) -> BTreeMap<MemberId, u32> {
        self.databases.active_counts()
    }

    /// The pair of the database's newest epoch, whoever serves it.
    #[must_use]
    pub fn assignment(&self, database: DatabaseId) -> Option<Assignment> {
        let database = self.databases.get(&database)?;
        if database.intent != MountIntent::Mounted {
            return None;
        }
        Some(Assignment {
            database: database.id,
            epoch: database.epoch,
            copy: database.target?,
            incarnation: database.binding.as_ref()?.incarnation,
            assigned_at: database.assigned_at,
        })
    }

    /// Whether a member would activate a copy of the database with loss by itself, so that its
    /// active has to keep a ceiling.
    #[must_use]
    pub fn is_bounded(&self, database: &Database, active: CopyId) -> bool {
        let passive = database.copies.iter().filter(|(id, _)| **id != active);
        let mut members = passive.filter_map(|(_, copy)| self.members.get(&copy.member));
        members.any(|member| member.activation.dial != MountDial::Lossless)
    }

    /// The order by which the bound target of the newest epoch is mounted.
    #[must_use]
    pub fn mount_order(&self, database: DatabaseId) -> Option<MountOrder> {
        let database = self.databases.get(&database)?;
        let (target, binding) = (database.target?, database.binding.as_ref()?);
        let others = database.copies.iter().filter(|(id, _)| **id != target);
        Some(MountOrder {
            database: database.id,
            stream: database.stream,
            epoch: database.epoch,
            target,
            rule: database.rule.clone()?,
            required_end: binding.required_end,
            sources: binding.sources.clone(),
            ceiling: database.newest_ceiling().and_then(|record| record.ceiling),
            peers: others
                .map(|(id, copy)| Peer { copy: *id, member: copy.member, kind: copy.kind })
                .collect(),
        })
    }

    /// The member of that name.
    #[must_use]
    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.config.name.as_str() == name)
    }

    /// The database of that name.
    #[must_use]
    pub fn database_named(&self, name: &str) -> Option<&Database> {
        self.databases.named(&DatabaseName::new(name).ok()?)
    }
}

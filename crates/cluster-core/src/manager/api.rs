//! What the manager is told and what it wants done.

use std::collections::BTreeSet;
use std::time::Duration;

use keelson_types::{DatabaseId, Epoch, IncarnationId, MemberId, OperationId, Tick};

use crate::command::{Command, Outcome, Refusal};
use crate::lease::LeaseConfig;
use crate::loss::AcceptedLoss;
use crate::operation::MoveOptions;
use crate::order::{MountFailure, MountOrder, SealAnswer, SealItem};
use crate::point_in_time::ActivateAt;

/// Times and bounds of the manager.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManagerConfig {
    /// How long seals are waited for when not every live copy answers.
    pub seal_deadline: Duration,
    /// How long a target may take to mount.
    pub mount_deadline: Duration,
    /// First pause after a failed attempt; doubles with each.
    pub backoff_first: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// Activations between Sealing and Opening in which one member takes part.
    pub activations_per_member_max: usize,
    /// Databases in one `AllocateEpochs` or `Activate`.
    pub batch_max: usize,
    /// After a cold start, how long an active's member may take to come before its databases move.
    pub startup_grace: Duration,
    /// After this, every grant from before an allocation has run out: the lease and its margin.
    pub lease_wait: Duration,
    /// Written into decision records.
    pub code_version: String,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        Self {
            seal_deadline: Duration::from_millis(300),
            mount_deadline: Duration::from_secs(10),
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            activations_per_member_max: 64,
            batch_max: 1_024,
            startup_grace: Duration::from_secs(15),
            lease_wait: Duration::from_millis(1_010),
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl ManagerConfig {
    /// Defaults for clusters whose leases have these times.
    #[must_use]
    pub fn for_leases(leases: &LeaseConfig) -> Self {
        Self { lease_wait: leases.for_waiting(leases.lease), ..Self::default() }
    }
}

/// What the manager is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManagerEvent {
    /// This member leads, and has applied the first entry of its term.
    BecameLeader {
        /// The term.
        term: u64,
    },
    /// This member does not lead any more. Everything under way is forgotten.
    LostLeadership,
    /// The applied state changed.
    Applied,
    /// A lease was granted to a member for the first time in this term, or for the first time after
    /// `LeaseExpired`, or to another incarnation than before ([`crate::LeaseTable::take_alive`]).
    /// Must be delivered before the reply with that grant leaves: until then the manager goes by
    /// the expiry that it was told last, and might bind a new target while the grant covers the old
    /// one.
    MemberAlive {
        /// The member.
        member: MemberId,
        /// Its recorded life.
        incarnation: IncarnationId,
    },
    /// No life of the member holds a lease ([`crate::LeaseTable::expired`]); may be repeated.
    LeaseExpired {
        /// The member.
        member: MemberId,
    },
    /// The control process reaped its data process. The driver has told the lease table first.
    DeathCertified {
        /// The member.
        member: MemberId,
        /// The dead life.
        incarnation: IncarnationId,
    },
    /// Copies of one member answered seals; may come in several parts.
    SealReplies {
        /// The member.
        member: MemberId,
        /// The answers.
        answers: Vec<SealAnswer>,
    },
    /// A `SealMany` did not reach its member, or found no answer in time.
    SealFailed {
        /// The member.
        member: MemberId,
    },
    /// A mount ended. Success means: the log is adopted and the opening frame appended.
    MountResult {
        /// The database.
        database: DatabaseId,
        /// The epoch of the order.
        epoch: Epoch,
        /// How it ended.
        result: Result<(), MountFailure>,
    },
    /// The active committed its opening frame; may be repeated.
    EstablishedReported {
        /// The database.
        database: DatabaseId,
        /// The epoch.
        epoch: Epoch,
    },
    /// The active of the epoch makes no progress, by its member's reports; it serves reads.
    Wedged {
        /// The database.
        database: DatabaseId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Members whose data process does not answer that of `member`, by its report; repeated for as
    /// long as there are some, and once when there are none any more.
    Unreached {
        /// Who says so.
        member: MemberId,
        /// Whom it does not reach.
        members: BTreeSet<MemberId>,
    },
    /// An ordered dismount is done.
    Dismounted {
        /// The database.
        database: DatabaseId,
        /// The epoch.
        epoch: Epoch,
    },
    /// An operator moves a database. The driver has recorded the operation (`PutOperation`) before.
    MoveRequested {
        /// Chosen by the client.
        operation: OperationId,
        /// The database.
        database: DatabaseId,
        /// Where to.
        to: MemberId,
        /// What the operator's word allows.
        options: MoveOptions,
    },
    /// An operator opens a database.
    MountRequested {
        /// Chosen by the client.
        operation: OperationId,
        /// The database.
        database: DatabaseId,
        /// With loss, if there is no other way.
        accept_loss: Option<AcceptedLoss>,
    },
    /// An operator makes an instant of a copy the truth.
    InstantRequested {
        /// Chosen by the client.
        operation: OperationId,
        /// The database.
        database: DatabaseId,
        /// The copy and the instant.
        order: ActivateAt,
    },
    /// An operator closes a database.
    DismountRequested {
        /// Chosen by the client.
        operation: OperationId,
        /// The database.
        database: DatabaseId,
    },
    /// A proposed command was applied and answered, or could not be proposed (`Refused`). Comes
    /// exactly once per proposal of this leadership, with a state that contains the command's
    /// effect.
    CommandDone {
        /// From [`ManagerAction::Propose`].
        tag: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Time passed; see [`ManagerAction::Wake`].
    Timer,
}

/// What the manager wants done, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManagerAction {
    /// Propose a command; answer with `CommandDone`.
    Propose {
        /// Names the proposal.
        tag: u64,
        /// The command.
        command: Command,
    },
    /// Seal copies on one member; answer with `SealReplies` or `SealFailed`.
    SealMany {
        /// The member.
        member: MemberId,
        /// What to seal.
        items: Vec<SealItem>,
    },
    /// Mount a copy; answer with `MountResult`, later `EstablishedReported`.
    Mount {
        /// The target's member.
        member: MemberId,
        /// The order.
        order: MountOrder,
    },
    /// Close an active copy; answer with `Dismounted`.
    Dismount {
        /// The active's member.
        member: MemberId,
        /// The database.
        database: DatabaseId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Send `Timer` at this time. Replaces the wake-up asked for before.
    Wake {
        /// On the clock of `now`.
        at: Tick,
    },
    /// An operator's operation ended; to be recorded with `UpdateOperation`.
    FinishOperation {
        /// The operation.
        operation: OperationId,
        /// How.
        result: Result<(), Refusal>,
    },
}

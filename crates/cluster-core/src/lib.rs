//! The decisions of the cluster, without clock, network or disk.
//!
//! - [`ClusterState`] and [`Command`]: the replicated configuration and its deterministic changes.
//! - [`lossless`]: the proof that no acknowledged write is left behind.
//! - [`select()`]: which copy may become active, and what log it must hold.
//! - [`LossReceipt`]: what an operator gives up where the proof fails.
//! - [`ActivateAt`]: an operator makes an instant of a copy the truth.
//! - [`LeaseTable`] and [`LeaseHolder`]: who may serve, on the leader's and on the member's side.
//! - [`Manager`]: the leader's machine that moves the active role.
//! - [`guarantee`]: whether a bulk writer may go on.
//! - [`plan_move`], [`redistribute`]: the checks of a switchover, and who should move.
//! - [`rehearsal`]: whether a copy may rehearse a move, and how long its pause would be.
//! - [`health`], [`redundancy`]: the tests of a member, and whether databases have enough copies.
//! - [`response()`]: what is done about each class of failure.
//! - [`autoreseed`]: what is tried with a copy that stays failed.
//! - [`retention`]: how long a discarded timeline is kept by somebody.
//! - [`schedule`]: moves at an appointed time.
//! - [`explain()`]: a decision, decided again from its record.
//!
//! All of it is pure: time, ids and answers come in with the call, so that the simulator and a
//! later reader of a decision record get the same result from the same inputs.

mod activation;
mod apply;
pub mod autoreseed;
mod collection;
mod command;
mod criteria;
mod decision;
pub mod dial;
mod event;
mod explain;
mod failure;
pub mod guarantee;
pub mod health;
mod lease;
mod loss;
mod manager;
mod member;
mod operation;
mod order;
mod point_in_time;
mod proof;
pub mod redistribute;
pub mod redundancy;
pub mod rehearsal;
pub mod retention;
mod ring;
pub mod schedule;
mod seed;
mod select;
mod site_recovery;
mod state;
mod suppression;
mod switchover;
#[cfg(test)]
mod testing;

pub use collection::{Databases, Members};
pub use command::{
    ActivateItem, ActivatedTarget, AllocateItem, AllocatedEpoch, Answer, Command, Outcome, Refusal,
};
pub use criteria::{CopyHealth, Fit, IndexFit, MemberFit};
pub use decision::{
    ActivationReason, ActivationStep, AgedReply, Besides, DECISION_BYTES_MAX, DECISION_FORMAT,
    DecisionEntry, DecisionRecord, Fence, FenceEvidence, RefusedMove, ReseedDecision, StepTiming,
};
pub use event::{Event, EventKind, ReseedEvent};
pub use explain::{Criterion, Explained, Explanation, explain};
pub use failure::{FailureAction, Response, response};
pub use lease::{
    CoveredPair, Grant, LeaseConfig, LeaseHolder, LeaseRefusal, LeaseTable, RenewRequest, Standing,
};
pub use loss::{
    AcceptedLoss, LossReceipt, MountPreview, RECEIPTS_MAX, preview as preview_mount,
    select_accepted,
};
pub use manager::{Manager, ManagerAction, ManagerConfig, ManagerEvent, mounts_wait};
pub use member::{Maintenance, Member, MemberActivation, MemberConfig};
pub use operation::{MoveOptions, Moved, Operation, OperationKind, OperationState, Whereabouts};
pub use order::{
    MountFailure, MountOrder, Peer, SealAnswer, SealItem, SealRefusal, SealReply, Source,
};
pub use point_in_time::{ActivateAt, Turn, TurnedBack, rank_at, select_at};
pub use proof::{Verdict, lossless};
pub use ring::Ring;
pub use seed::{SeedCheck, first_failure, seed_checks, unfit_source};
pub use select::{
    Candidate, CopyInput, Exclusion, Mark, Picture, Selection, SelectionInput, first_rule, rank,
    select,
};
pub use site_recovery::SiteRecovery;
pub use state::{
    Assignment, Binding, CERTIFIED_DEAD_MAX, ClusterState, ConstraintSetting, CopyConfig, CopyKind,
    DECISIONS_MAX, Database, DatabaseSettings, EPOCH_HISTORY_MAX, EVENTS_MAX, EpochRecord, NewCopy,
    OPERATIONS_MAX, RuleRecord, STATE_FORMAT_VERSION,
};
pub use suppression::{Suppression, certificates, suppression};
pub use switchover::{
    CheckRow, CheckVerdict, CopyReport, MoveCheck, MoveFacts, MoveInput, MovePlan, Skip, plan_move,
};

//! What a new leader goes on with of a move that its predecessor had begun.
//!
//! The history of a database's epochs says all of it: an epoch that was allocated for a switchover
//! names the target, the one before it was served by the copy from before, and one that follows it
//! before it was ever established gives the database back. So the plan of the predecessor needs no
//! record of its own, and a leader that reads it twice plans the same.

use keelson_types::CopyId;

use crate::activation::Activation;
use crate::decision::ActivationReason;
use crate::state::{Database, EpochRecord};

/// The part of an activation's plan that the history tells. The default is an activation that
/// follows no move.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct HandedOver {
    /// The only copy that is tried at first.
    requested: Option<CopyId>,
    /// The copy that gets the database back if that one does not come to serve.
    undo_to: Option<CopyId>,
    /// The target of the move that failed.
    failed: Option<CopyId>,
}

impl HandedOver {
    /// Of the newest epoch, which is not established.
    pub(super) fn of(database: &Database) -> Self {
        let rows: Vec<_> = database.history.iter().rev().take(3).collect();
        let bound = |row: &EpochRecord| row.target.and_then(|member| database.copy_on(member));
        // The oldest rule that proofs look at is that of the last established epoch.
        let unestablished = |row: &EpochRecord| {
            database.unestablished.first().is_some_and(|oldest| oldest.epoch < row.epoch)
        };
        match rows[..] {
            [EpochRecord { reason: ActivationReason::Switchover { to }, .. }, former, ..] => {
                Self { requested: database.copy_on(*to), undo_to: bound(former), failed: None }
            }
            [newest, moved, former] if gives_back(newest, moved) && unestablished(moved) => {
                let failed = bound(moved);
                let requested = bound(former).filter(|former| Some(*former) != failed);
                Self { requested, undo_to: None, failed }
            }
            _ => Self::default(),
        }
    }

    /// The same once the bound target of the newest epoch cannot go on: what its predecessor would
    /// try next.
    pub(super) fn after_failure_of(self, target: CopyId) -> Self {
        let requested = self.undo_to.filter(|former| *former != target);
        Self { requested, undo_to: None, failed: Some(target) }
    }

    pub(super) fn take_over(self, mut job: Activation) -> Activation {
        (job.requested, job.undo_to) = (self.requested, self.undo_to);
        job.avoid.extend(self.failed);
        job
    }
}

/// Whether an epoch was allocated because the move before it failed.
fn gives_back(newest: &EpochRecord, moved: &EpochRecord) -> bool {
    let operator = matches!(
        newest.reason,
        ActivationReason::Switchover { .. }
            | ActivationReason::Mount
            | ActivationReason::PointInTime { .. }
    );
    !operator && matches!(moved.reason, ActivationReason::Switchover { .. })
}

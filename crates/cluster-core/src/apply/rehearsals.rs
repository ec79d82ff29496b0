//! Commands about rehearsals of moves.

use keelson_types::{CopyId, DatabaseId, OperationId, RefusalReason};

use super::databases::known_copy;
use super::{Applied, refuse};
use crate::command::{Answer, Refusal};
use crate::event::EventKind;
use crate::operation::{OperationKind, OperationState};
use crate::rehearsal::{Rehearsal, check_rehearsal};
use crate::state::ClusterState;

impl ClusterState {
    /// Whether the copy may rehearse by what is recorded now, since the leader looked before.
    pub(super) fn check_new_rehearsal(&self, id: DatabaseId, copy: CopyId) -> Result<(), Refusal> {
        let database = self.database(id)?;
        let gone = || Refusal::new(RefusalReason::UnknownCopy, "the copy is not there any more");
        let member = database.copies.get(&copy).ok_or_else(gone)?.member;
        check_rehearsal(self, database, member).map(drop)
    }

    /// The result is kept with its copy, if that is there still, and ends the operation.
    pub(super) fn end_rehearsal(
        &mut self,
        index: u64,
        id: OperationId,
        result: &Rehearsal,
    ) -> Applied {
        let unix_ms = self.clock_unix_ms;
        let result = Rehearsal { unix_ms, ..result.clone() }.bounded();
        let unknown =
            || Refusal::new(RefusalReason::UnknownOperation, format!("no operation {id}"));
        let operation = self.operations.get_mut(&id).ok_or_else(unknown)?;
        let OperationKind::Rehearsal { database, copy } = operation.kind else {
            return refuse(RefusalReason::BadArgument, format!("operation {id} is no rehearsal"));
        };
        if operation.is_finished() {
            let what = format!("operation {id} has ended before");
            return refuse(RefusalReason::Precondition, what);
        }
        operation.state = match result.failure.clone() {
            None => OperationState::Succeeded,
            Some(failure) => OperationState::Failed(failure),
        };
        (operation.progress_percent, operation.updated_unix_ms) = (100, unix_ms);
        operation.message = result.sentence();
        let (keys, pause_ms) = (result.keys, result.pause_ms);
        let failure = result.failure.as_ref().map(ToString::to_string).unwrap_or_default();
        let kept = self.database_mut(database).and_then(|database| known_copy(database, copy));
        let Ok(kept) = kept else { return Ok(Answer::Done) };
        let member = kept.member;
        kept.rehearsal = Some(Box::new(result));
        let kind = EventKind::Rehearsed { copy, operation: id, keys, pause_ms, failure };
        self.event(index, Some(member), Some(database), kind);
        Ok(Answer::Done)
    }
}

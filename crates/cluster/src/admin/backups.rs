//! Backups that are made outside: how far they reach, so that log may go without circular logging.

use std::sync::Arc;

use keelson_cluster_core::Command;
use keelson_types::{Position, RefusalReason};
use keelson_wire::Refusal;
use keelson_wire::v1::{NoteBackupRequest, NoteBackupResponse};

use super::refusal;
use crate::context::Context;
use crate::facts::of_copy;

impl Context {
    /// A position that nobody committed yet is a slip: log would go before it is in any backup.
    pub(super) async fn admin_note_backup(
        self: &Arc<Self>,
        request: NoteBackupRequest,
    ) -> Result<NoteBackupResponse, Refusal> {
        self.require_leader()?;
        let database = self.database_called(&request.name)?;
        let up_to: Position = request.up_to.unwrap_or_default().into();
        let Some(active) = database.target_member() else {
            let what = format!("{} has no active copy", database.name);
            return Err(refusal(RefusalReason::Precondition, what));
        };
        let facts = self.facts_of([active], &[database.id]).await;
        let facts = facts.get(&active).and_then(|facts| facts.as_ref().ok());
        let marks = facts.and_then(|facts| of_copy(facts, database.id)?.watermarks);
        let Some(committed) = marks.and_then(|marks| marks.committed) else {
            let what = format!("the active copy of {} does not answer", database.name);
            return Err(refusal(RefusalReason::Precondition, what));
        };
        let committed = Position::from(committed);
        if up_to > committed {
            let what = format!("{} is committed up to {committed}, not to {up_to}", database.name);
            return Err(refusal(RefusalReason::Precondition, what));
        }
        self.propose_here(Command::NoteBackup { database: database.id, up_to }).await?.answer()?;
        Ok(NoteBackupResponse {})
    }
}

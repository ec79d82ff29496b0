//! Commands about events, decisions and operations.

use keelson_types::{DatabaseId, OperationId, RefusalReason};

use super::{Applied, refuse};
use crate::command::{Answer, Command};
use crate::decision::DecisionEntry;
use crate::event::EventKind;
use crate::operation::{Moved, Operation, OperationKind, OperationState};
use crate::redundancy::Alert;
use crate::state::{ClusterState, OPERATIONS_MAX};

/// Longest message of an operation, in bytes.
const MESSAGE_BYTES_MAX: usize = 512;

impl ClusterState {
    pub(super) fn apply_record(&mut self, index: u64, command: &Command) -> Applied {
        match command {
            Command::AppendEvent { member, database, kind } => {
                self.event(index, *member, *database, kind.clone());
                self.note_alert(*database, kind);
                Ok(Answer::Done)
            }
            Command::RecordDecision(record) => {
                let (unix_ms, record) = (self.clock_unix_ms, record.as_ref().clone());
                self.decisions.push(DecisionEntry { index, unix_ms, record });
                Ok(Answer::Done)
            }
            Command::PutOperation { id, kind } => self.put_operation(index, *id, kind),
            Command::UpdateOperation { id, state, progress_percent, message } => {
                self.update_operation(*id, state, *progress_percent, message)
            }
            _ => refuse(RefusalReason::Internal, "not a command about records"),
        }
    }

    pub(super) fn put_operation(
        &mut self,
        index: u64,
        id: OperationId,
        kind: &OperationKind,
    ) -> Applied {
        if let Some(known) = self.operations.get(&id) {
            if known.kind == *kind {
                return Ok(Answer::Operation(Box::new(known.clone())));
            }
            let message = format!("operation {id} is another request");
            return refuse(RefusalReason::AlreadyExists, message);
        }
        if let OperationKind::Rehearsal { database, copy } = kind {
            self.check_new_rehearsal(*database, *copy)?;
        }
        if self.operations.len() >= OPERATIONS_MAX {
            let finished = self.operations.values().filter(|operation| operation.is_finished());
            let oldest = finished.min_by_key(|operation| operation.started_at_index);
            let Some(oldest) = oldest.map(|operation| operation.id) else {
                return refuse(RefusalReason::Overloaded, "too many operations are running");
            };
            self.operations.remove(&oldest);
        }
        let moved = match kind {
            OperationKind::Switchover { database, .. } => {
                self.databases.get(database).map(|database| Box::new(Moved::begin(database)))
            }
            _ => None,
        };
        let operation = Operation {
            id,
            kind: kind.clone(),
            state: OperationState::Running,
            progress_percent: 0,
            message: String::new(),
            seed: None,
            moved,
            started_at_index: index,
            started_unix_ms: self.clock_unix_ms,
            updated_unix_ms: self.clock_unix_ms,
        };
        self.operations.insert(id, operation.clone());
        Ok(Answer::Operation(Box::new(operation)))
    }

    /// What was told last of the redundancy of a database stays known when its event is gone.
    fn note_alert(&mut self, database: Option<DatabaseId>, kind: &EventKind) {
        let database = database.and_then(|id| self.databases.get_mut(&id));
        if let (Some(database), Some(alert)) = (database, Alert::of(kind)) {
            database.redundancy_told = Some(alert);
        }
    }

    fn update_operation(
        &mut self,
        id: OperationId,
        state: &OperationState,
        progress_percent: u8,
        message: &str,
    ) -> Applied {
        let unix_ms = self.clock_unix_ms;
        let Some(operation) = self.operations.get_mut(&id) else {
            return refuse(RefusalReason::UnknownOperation, format!("no operation {id}"));
        };
        if !operation.is_finished() {
            operation.state = state.clone();
            operation.progress_percent = progress_percent.min(100);
            let ends = (0..=message.len().min(MESSAGE_BYTES_MAX)).rev();
            let end = ends.into_iter().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            operation.message = message[..end].to_owned();
            operation.updated_unix_ms = unix_ms;
            let database = operation.database().and_then(|id| self.databases.get(&id));
            if let (true, Some(moved), Some(database)) =
                (operation.is_finished(), operation.moved.as_mut(), database)
            {
                moved.finish(database);
            }
        }
        Ok(Answer::Operation(Box::new(operation.clone())))
    }
}

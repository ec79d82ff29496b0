//! Long work that a client can ask about: the id is the client's, so a retried request is the same
//! work.

use keelson_types::{CopyId, DatabaseId, MemberId, OperationId};
use serde::{Deserialize, Serialize};

use crate::command::Refusal;

/// What is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// A planned move of the active role.
    Switchover {
        /// The database.
        database: DatabaseId,
        /// Where to.
        to: MemberId,
        /// Why, in the operator's words; may be empty.
        #[serde(default)]
        comment: String,
    },
    /// Opens a database.
    Mount {
        /// The database.
        database: DatabaseId,
    },
    /// Closes a database.
    Dismount {
        /// The database.
        database: DatabaseId,
    },
    /// Seeds a copy.
    Seed {
        /// The database.
        database: DatabaseId,
        /// The copy to be filled.
        copy: CopyId,
    },
    /// Anything else, by a short name.
    Other(String),
}

/// Where an operation stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Over without success.
    Failed(Refusal),
}

/// An operation and its progress.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// Chosen by the client.
    pub id: OperationId,
    /// What is done.
    pub kind: OperationKind,
    /// Where it stands.
    pub state: OperationState,
    /// 0 to 100.
    pub progress_percent: u8,
    /// For people.
    pub message: String,
    /// Index of the command that recorded it.
    pub started_at_index: u64,
    /// Wall clock when it was recorded, in Unix milliseconds.
    #[serde(default)]
    pub started_unix_ms: u64,
    /// Wall clock of the last change, in Unix milliseconds.
    pub updated_unix_ms: u64,
}

impl Operation {
    /// Whether it ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state != OperationState::Running
    }
}

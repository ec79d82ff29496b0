//! What becomes of a command.

use keelson_types::{DatabaseId, Epoch, RefusalReason, Refused};
use serde::{Deserialize, Serialize};

use crate::operation::Operation;

/// Why something was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// With a stable code and a hint.
    pub reason: RefusalReason,
    /// With names and values.
    pub message: String,
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self { reason: refused.reason, message: refused.message }
    }
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What one item of an `AllocateEpochs` got.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AllocatedEpoch {
    /// The database.
    pub database: DatabaseId,
    /// Its new epoch.
    pub result: Result<Epoch, Refusal>,
}

/// What one item of an `Activate` got.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActivatedTarget {
    /// The database.
    pub database: DatabaseId,
    /// Whether the target is bound.
    pub result: Result<(), Refusal>,
}

/// Data of a successful command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Nothing to say.
    Done,
    /// Of `AllocateEpochs`, in the order of the items.
    Epochs(Vec<AllocatedEpoch>),
    /// Of `Activate`, in the order of the items.
    Activated(Vec<ActivatedTarget>),
    /// Of `PutOperation` and `UpdateOperation`: as it stands now.
    Operation(Box<Operation>),
    /// Of `Batch`, in order.
    Batch(Vec<Outcome>),
}

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Applied, or had been applied before.
    Ok(Answer),
    /// Nothing changed.
    Refused(Refusal),
}

impl Outcome {
    /// The answer as a result.
    ///
    /// # Errors
    /// The refusal.
    pub fn into_result(self) -> Result<Answer, Refusal> {
        match self {
            Self::Ok(answer) => Ok(answer),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

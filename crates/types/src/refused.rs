//! A refusal of a pure decision: a stable reason and a message with values.

use std::fmt;

use crate::RefusalReason;

/// Why a request was refused. The driver maps it to an error with the reason's code and hint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// With a stable code and a hint.
    pub reason: RefusalReason,
    /// With names and values.
    pub message: String,
}

impl Refused {
    /// A refusal.
    #[must_use]
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// An argument has no meaning.
    #[must_use]
    pub fn bad_argument(message: impl Into<String>) -> Self {
        Self::new(RefusalReason::BadArgument, message)
    }

    /// The state forbids it.
    #[must_use]
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(RefusalReason::Precondition, message)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Refused {}

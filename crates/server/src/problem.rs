//! What keeps a member from starting, with a stable code and a hint.
//!
//! `Problem` travels inside `anyhow::Error`; the command line finds it with `downcast_ref`.

use std::fmt;

use keelson_net::{BindError, TlsError};
use keelson_types::RefusalReason;

/// A problem that an operator can mend.
#[derive(Debug)]
pub struct Problem {
    /// A stable code, as in refusals.
    pub code: &'static str,
    /// What exactly is wrong.
    pub message: String,
    /// What to do next.
    pub hint: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Problem {
    /// A problem with a code and hint of its own.
    pub fn new(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into(), source: None }
    }

    /// A problem that is one of the known reasons.
    pub fn of(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self::new(reason.code().0, message, reason.hint())
    }

    /// With the error that caused it.
    #[must_use]
    pub fn caused_by(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<BindError> for Problem {
    fn from(error: BindError) -> Self {
        let (code, hint, message) = (error.code(), error.hint(), error.to_string());
        Self::new(code, message, hint).caused_by(error.source)
    }
}

impl From<TlsError> for Problem {
    fn from(error: TlsError) -> Self {
        Self::new(error.code(), error.to_string(), error.hint())
    }
}

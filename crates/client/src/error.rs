//! The one error type of the client: a stable reason, what exactly happened, and what to do next.
//!
//! Every failure becomes a [`RefusalReason`], also those that no server ever saw (nothing listens,
//! a certificate is refused, a configuration file is malformed), so that a program matches on one
//! enum and a script on one code.

use std::error::Error;
use std::fmt;

use keelson_types::RefusalReason;
use keelson_wire::{Refusal, refusal_of};
use tonic::{Code, Status};

/// Why a call failed, after all retries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientError {
    /// Stable reason; its code is what scripts match on.
    pub reason: RefusalReason,
    /// What exactly happened, for a person.
    pub message: String,
}

impl ClientError {
    /// An error with a message.
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.reason.hint()
    }

    /// The stable code of the reason.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.reason.code().0
    }

    /// Whether the same call may succeed later without anybody fixing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        use RefusalReason as R;
        matches!(
            self.reason,
            R::NotActive
                | R::NoLease
                | R::Activating
                | R::Dismounted
                | R::StaleEpoch
                | R::NoLeader
                | R::Overloaded
                | R::DiskFull
                | R::DeadlineExceeded
                | R::Unreachable
                | R::ConnectionLost
        )
    }

    /// Whether a write that ended with this error may have been applied all the same.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self.reason, RefusalReason::OutcomeUnknown)
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code())
    }
}

impl Error for ClientError {}

impl From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> Self {
        Self { reason: refusal.reason, message: refusal.message }
    }
}

/// One try that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: ClientError,
    /// Where to go instead, if the server said so.
    pub(crate) address: Option<String>,
    /// The server refused the request before it could have had any effect, or never received it.
    pub(crate) without_effect: bool,
    /// The connection failed, or what answered is no Keelson service.
    pub(crate) transport: bool,
}

impl Failure {
    /// Reads what a try at `address` came back with.
    pub(crate) fn of(status: &Status, address: &str) -> Self {
        let refusal = refusal_of(status);
        let transport = matches!(
            refusal.reason,
            RefusalReason::Unreachable
                | RefusalReason::BadCertificate
                | RefusalReason::ConnectionLost
        );
        if status.code() == Code::Unimplemented {
            let message = format!("{address} does not offer this service; is it another port?");
            return Self {
                error: ClientError::new(RefusalReason::Unreachable, message),
                address: None,
                without_effect: true,
                transport: true,
            };
        }
        let without_effect = !status.details().is_empty() && had_no_effect(refusal.reason);
        let address = refusal.address.clone();
        Self { error: refusal.into(), address, without_effect, transport }
    }

    /// A try that was given up by this side.
    pub(crate) fn given_up(message: String) -> Self {
        Self {
            error: ClientError::new(RefusalReason::DeadlineExceeded, message),
            address: None,
            without_effect: false,
            transport: false,
        }
    }
}

/// Whether a try that ended with this reason certainly changed nothing: the call was never sent, or
/// was refused before it entered the log. A server that answers `outcome_unknown` does not know the
/// session, and executed nothing in *this* try.
fn had_no_effect(reason: RefusalReason) -> bool {
    use RefusalReason as R;
    !matches!(
        reason,
        R::StaleEpoch | R::DeadlineExceeded | R::ConnectionLost | R::Internal | R::CopyFailed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_reason_and_address() {
        let status = Status::from(
            Refusal::new(RefusalReason::NotActive, "not here").with_address("10.0.0.2:7401"),
        );
        let failure = Failure::of(&status, "10.0.0.1:7401");
        assert_eq!(failure.error.reason, RefusalReason::NotActive);
        assert_eq!(failure.address.as_deref(), Some("10.0.0.2:7401"));
        assert!(failure.without_effect && !failure.transport);
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_open() {
        let lost = Status::from(Refusal::new(RefusalReason::ConnectionLost, "reset"));
        let failure = Failure::of(&lost, "a:1");
        assert!(!failure.without_effect && failure.transport && failure.error.is_retryable());
        assert!(!Failure::of(&Status::unknown("a stream broke"), "a:1").without_effect);
    }

    #[test]
    fn what_was_never_sent_had_no_effect() {
        let never = Status::from(Refusal::new(RefusalReason::Unreachable, "nothing listens"));
        assert!(Failure::of(&never, "a:1").without_effect);
    }

    #[test]
    fn another_port_is_named_as_such() {
        let failure = Failure::of(&Status::unimplemented(""), "a:1");
        assert_eq!(failure.error.reason, RefusalReason::Unreachable);
    }
}

//! One place that turns refusals into gRPC status and back.
//!
//! `UNAVAILABLE` and `ABORTED` mean: retry (elsewhere, if the details name an address).
//! `FAILED_PRECONDITION`, `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS` mean: fix something
//! first.

use std::fmt;

use keelson_types::RefusalReason;
use prost::Message;
use tonic::{Code, Status};

use crate::v1::ErrorDetail;

/// A request that was refused: reason, what exactly, and where to go instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason; its code and hint are stable.
    pub reason: RefusalReason,
    /// What exactly is wrong, for a person.
    pub message: String,
    /// Address of the member to ask instead, if known.
    pub address: Option<String>,
}

impl Refusal {
    /// A refusal with a message.
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), address: None }
    }

    /// Names the address to ask instead.
    #[must_use]
    pub fn with_address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Whether the same request may succeed later without anybody fixing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(code_of(self.reason), Code::Unavailable | Code::Aborted)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.reason.code().0)
    }
}

impl std::error::Error for Refusal {}

/// The gRPC code of each reason.
fn code_of(reason: RefusalReason) -> Code {
    use RefusalReason as R;
    match reason {
        R::NotActive | R::StaleEpoch => Code::Aborted,
        R::NoLease | R::Activating | R::NoLeader | R::Dismounted => Code::Unavailable,
        R::Unreachable | R::ConnectionLost => Code::Unavailable,
        R::Overloaded | R::DiskFull | R::ForkBudget => Code::ResourceExhausted,
        R::UnknownDatabase
        | R::UnknownMember
        | R::UnknownCopy
        | R::UnknownSite
        | R::UnknownOperation
        | R::UnknownSetting
        | R::UnknownToken
        | R::UnknownFork => Code::NotFound,
        R::NoContentIndex => Code::FailedPrecondition,
        R::ContentIndexNotReady => Code::Unavailable,
        R::AlreadyExists => Code::AlreadyExists,
        R::BadName | R::BadKey | R::ValueTooLarge | R::BatchTooLarge | R::BadArgument => {
            Code::InvalidArgument
        }
        R::Forbidden => Code::PermissionDenied,
        R::Unauthenticated => Code::Unauthenticated,
        R::Truncated | R::Discarded => Code::OutOfRange,
        R::DeadlineExceeded => Code::DeadlineExceeded,
        R::Internal => Code::Internal,
        _ => Code::FailedPrecondition,
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let detail = ErrorDetail {
            code: refusal.reason.code().0.into(),
            hint: refusal.reason.hint().into(),
            address: refusal.address.unwrap_or_default(),
        };
        Self::with_details(code_of(refusal.reason), refusal.message, detail.encode_to_vec().into())
    }
}

/// Reads a refusal back from a status. A status without details (a broken connection, a deadline, a
/// server that is no Keelson) becomes the nearest reason.
#[must_use]
pub fn refusal_of(status: &Status) -> Refusal {
    let detail = ErrorDetail::decode(status.details()).unwrap_or_default();
    let reason = RefusalReason::from_code(&detail.code).unwrap_or_else(|| match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => RefusalReason::DeadlineExceeded,
        Code::Unavailable | Code::Unknown => RefusalReason::NoLeader,
        Code::PermissionDenied => RefusalReason::Forbidden,
        Code::Unauthenticated => RefusalReason::Unauthenticated,
        Code::InvalidArgument | Code::OutOfRange => RefusalReason::BadArgument,
        Code::ResourceExhausted => RefusalReason::Overloaded,
        _ => RefusalReason::Internal,
    });
    let address = (!detail.address.is_empty()).then_some(detail.address);
    Refusal { reason, message: status.message().to_owned(), address }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_way_through_a_status() {
        for reason in RefusalReason::ALL {
            let refusal = Refusal::new(*reason, "what exactly").with_address("m2:7401");
            assert_eq!(refusal_of(&Status::from(refusal.clone())), refusal);
        }
    }

    #[test]
    fn a_status_without_details_becomes_the_nearest_reason() {
        let refusal = refusal_of(&Status::deadline_exceeded("late"));
        assert_eq!(refusal.reason, RefusalReason::DeadlineExceeded);
    }

    #[test]
    fn moved_databases_are_retryable_and_bad_keys_are_not() {
        assert!(Refusal::new(RefusalReason::NotActive, "").is_retryable());
        assert!(!Refusal::new(RefusalReason::BadKey, "").is_retryable());
    }
}

//! Why a connection could not be made, told apart so that a person knows where to look.

use std::fmt;
use std::io;

use keelson_types::RefusalReason;
use keelson_wire::Refusal;
use rustls::{AlertDescription, CertificateError};

use crate::verify::WrongName;

/// The kinds of failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectFailureKind {
    /// The address is no `host:port`, or its name is unknown.
    BadAddress,
    /// Nothing listens there.
    Refused,
    /// No answer in time, or no route.
    NoAnswer,
    /// The server's certificate comes from another authority.
    UntrustedServer,
    /// The server's certificate is expired, not yet valid, or otherwise invalid.
    InvalidServer,
    /// The server's certificate is genuine but names somebody else.
    WrongName,
    /// The server refused our certificate.
    RefusedUs,
    /// Something answers that is no Keelson server.
    NotKeelson,
}

/// A failed attempt to connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectFailure {
    /// The address dialled.
    pub address: String,
    /// What kind.
    pub kind: ConnectFailureKind,
    /// What exactly, as text.
    pub detail: String,
}

impl ConnectFailure {
    pub(crate) fn new(address: &str, kind: ConnectFailureKind, detail: impl Into<String>) -> Self {
        Self { address: address.to_owned(), kind, detail: detail.into() }
    }

    /// The reason that clients and scripts see.
    #[must_use]
    pub const fn reason(&self) -> RefusalReason {
        match self.kind {
            ConnectFailureKind::BadAddress
            | ConnectFailureKind::Refused
            | ConnectFailureKind::NoAnswer
            | ConnectFailureKind::NotKeelson => RefusalReason::Unreachable,
            ConnectFailureKind::UntrustedServer
            | ConnectFailureKind::InvalidServer
            | ConnectFailureKind::WrongName
            | ConnectFailureKind::RefusedUs => RefusalReason::BadCertificate,
        }
    }

    /// What to do next.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self.kind {
            ConnectFailureKind::BadAddress => "addresses are host:port; check name and port",
            ConnectFailureKind::Refused => {
                "nothing listens there; check that the member runs, and the port"
            }
            ConnectFailureKind::NoAnswer => {
                "check that the machine is up, and the network and firewalls between"
            }
            ConnectFailureKind::UntrustedServer => {
                "the two sides have certificates of different authorities; use the cluster's own"
            }
            ConnectFailureKind::InvalidServer => {
                "issue a new certificate for the server; check both clocks"
            }
            ConnectFailureKind::WrongName => {
                "another member answers at this address, or its certificate lacks the address \
                    (keelson certs issue --host)"
            }
            ConnectFailureKind::RefusedUs => {
                "issue a new certificate of the cluster's authority for this side"
            }
            ConnectFailureKind::NotKeelson => {
                "another program answers at this address; check the port"
            }
        }
    }

    /// Classifies what TCP said.
    pub(crate) fn of_tcp(address: &str, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectFailureKind::Refused,
            io::ErrorKind::InvalidInput | io::ErrorKind::NotFound => ConnectFailureKind::BadAddress,
            // The resolver reports an unknown name as an uncategorised error without a code.
            _ if error.raw_os_error().is_none() => ConnectFailureKind::BadAddress,
            _ => ConnectFailureKind::NoAnswer,
        };
        Self::new(address, kind, error.to_string())
    }

    /// Classifies what the TLS handshake said.
    pub(crate) fn of_handshake(address: &str, error: &io::Error) -> Self {
        if let Some(tls) = tls_error(error) {
            return Self::of_tls(address, tls);
        }
        let detail = format!("the TLS handshake ended early: {error}");
        Self::new(address, ConnectFailureKind::NotKeelson, detail)
    }

    fn of_tls(address: &str, error: &rustls::Error) -> Self {
        use ConnectFailureKind as K;
        use rustls::Error as E;
        if let E::InvalidCertificate(CertificateError::Other(other)) = error
            && let Some(wrong) = other.0.downcast_ref::<WrongName>()
        {
            return Self::new(address, K::WrongName, wrong.to_string());
        }
        let kind = match error {
            E::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => K::UntrustedServer,
            E::InvalidCertificate(_) => K::InvalidServer,
            E::AlertReceived(alert) if is_about_certificate(*alert) => K::RefusedUs,
            _ => K::NotKeelson,
        };
        Self::new(address, kind, error.to_string())
    }
}

/// Alerts by which a server says that it does not like our certificate.
fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::DecryptError
            | A::CertificateRequired
            | A::NoCertificate
    )
}

/// The TLS error inside an I/O error, if there is one.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref::<rustls::Error>()
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, kind, detail } = self;
        match kind {
            ConnectFailureKind::BadAddress => write!(f, "bad address {address}: {detail}"),
            ConnectFailureKind::Refused => write!(f, "nothing listens at {address}"),
            ConnectFailureKind::NoAnswer => write!(f, "no answer from {address}: {detail}"),
            ConnectFailureKind::UntrustedServer => {
                write!(f, "{address} has a certificate of another authority: {detail}")
            }
            ConnectFailureKind::InvalidServer => {
                write!(f, "{address} has an invalid certificate: {detail}")
            }
            ConnectFailureKind::WrongName => write!(f, "at {address}: {detail}"),
            ConnectFailureKind::RefusedUs => {
                write!(f, "{address} refused the certificate of this side: {detail}")
            }
            ConnectFailureKind::NotKeelson => {
                write!(f, "what answers at {address} is no Keelson server: {detail}")
            }
        }
    }
}

impl std::error::Error for ConnectFailure {}

impl From<ConnectFailure> for Refusal {
    fn from(failure: ConnectFailure) -> Self {
        Self::new(failure.reason(), failure.to_string())
    }
}

impl From<ConnectFailure> for tonic::Status {
    fn from(failure: ConnectFailure) -> Self {
        Refusal::from(failure).into()
    }
}

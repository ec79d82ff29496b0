//! Who a peer is: common name and organisational unit of its certificate, or the grant of its
//! token. The first word of the unit is the role; further words limit a reader or a writer to these
//! databases.
//!
//! The identity of a request is put into its extensions by the server of this crate, after the
//! certificate was verified against the cluster's authority, or the token was found. A request
//! without one did not come through this server and is refused.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use keelson_types::{MemberName, RefusalReason};
use keelson_wire::Refusal;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the organisational unit of a certificate says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// A member of the cluster; the common name is the member's name.
    Member,
    /// A person or program with every right that a client can have.
    Admin,
    /// A person or program that keeps the cluster running and sees no data.
    Operator,
    /// A program that reads and writes data.
    Writer,
    /// A program that reads data.
    Reader,
    /// Any other unit, or none (empty). It may do nothing.
    Other(String),
}

impl Role {
    /// The organisational unit as written in the certificate.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Other(unit) => unit,
        }
    }

    fn from_unit(unit: &str) -> Self {
        match unit {
            "member" => Self::Member,
            "admin" => Self::Admin,
            "operator" => Self::Operator,
            "writer" => Self::Writer,
            "reader" => Self::Reader,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl Default for Role {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The verified identity of the other side of a connection, or of the sender of a request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerIdentity {
    /// Common name: the name of a member or of a user; or the name of a token.
    pub name: String,
    /// First word of the organisational unit, or what the token is for.
    pub role: Role,
    /// Databases whose data it may use, if its certificate or token names any.
    pub databases: Vec<String>,
    /// Where it connected from; `None` for an identity that no connection showed.
    pub address: Option<SocketAddr>,
    /// It showed a token, not a certificate.
    pub by_token: bool,
}

impl PeerIdentity {
    /// Reads the identity from a certificate in DER.
    ///
    /// # Errors
    /// What is missing or malformed, as text.
    pub fn from_der(certificate: &[u8]) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| format!("not an X.509 certificate: {error}"))?;
        let subject = parsed.subject();
        let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        let name = name.filter(|name| !name.is_empty());
        let name = name.ok_or("the certificate has no common name")?.to_owned();
        let unit = subject.iter_organizational_unit().next().and_then(|unit| unit.as_str().ok());
        let mut words = unit.unwrap_or_default().split_whitespace();
        let role = Role::from_unit(words.next().unwrap_or_default());
        let databases = words.map(str::to_owned).collect();
        Ok(Self { name, role, databases, address: None, by_token: false })
    }

    /// When a certificate in DER is first not valid any more, which is after the second that it
    /// names; nothing for what is none.
    pub(crate) fn end_of(certificate: &[u8]) -> Option<SystemTime> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let last = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(last.saturating_add(1)))
    }
}

impl PeerIdentity {
    /// Whether it may use the data of `database`, which may be the address of a fork of it.
    #[must_use]
    pub fn may_use(&self, database: &str) -> bool {
        let name = database.split_once(['@', '~']).map_or(database, |(name, _)| name);
        self.databases.is_empty() || self.databases.iter().any(|known| known == name)
    }

    /// Whether it hears of some databases only: those whose data it may use. Other roles look at
    /// the whole cluster.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        matches!(self.role, Role::Reader | Role::Writer) && !self.databases.is_empty()
    }

    /// Whether it may know that `database` exists.
    #[must_use]
    pub fn may_know(&self, database: &str) -> bool {
        !self.is_limited() || self.may_use(database)
    }
}

/// Whoever sent the request may use the data of `database`.
///
/// # Errors
/// `forbidden` otherwise.
pub fn require_database<T>(request: &tonic::Request<T>, database: &str) -> Result<(), Refusal> {
    let peer = peer_of(request)?;
    if peer.may_use(database) {
        return Ok(());
    }
    let shown = if peer.by_token { "token" } else { "certificate" };
    let what = format!("the {shown} of {peer} is not for {database:?}");
    Err(Refusal::new(RefusalReason::Forbidden, what))
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.by_token { ", token" } else { "" };
        write!(f, "{} ({}{shown})", self.name, self.role)
    }
}

/// Who sent a request.
///
/// # Errors
/// `unauthenticated` if nobody vouches for the sender.
pub fn peer_of<T>(request: &tonic::Request<T>) -> Result<&PeerIdentity, Refusal> {
    request.extensions().get::<PeerIdentity>().ok_or_else(nobody)
}

/// The refusal of a call with neither a certificate nor a token.
pub(crate) fn nobody() -> Refusal {
    let what = "the caller showed neither a client certificate nor a token";
    Refusal::new(RefusalReason::Unauthenticated, what)
}

/// The name of the member that sent a request. Whether that member belongs to the cluster is for
/// the caller to check.
///
/// # Errors
/// `forbidden` if the sender is no member.
pub fn require_member<T>(request: &tonic::Request<T>) -> Result<MemberName, Refusal> {
    let peer = peer_of(request)?;
    let refuse = |what: String| Refusal::new(RefusalReason::Forbidden, what);
    if peer.role != Role::Member || peer.by_token {
        return Err(refuse(format!("only members may call this; {peer} is not one")));
    }
    let name = MemberName::new(peer.name.as_str());
    name.map_err(|error| refuse(format!("certificate of {peer}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(role: Option<Role>) -> tonic::Request<()> {
        let mut request = tonic::Request::new(());
        if let Some(role) = role {
            let identity = PeerIdentity { name: "m1".into(), role, ..PeerIdentity::default() };
            request.extensions_mut().insert(identity);
        }
        request
    }

    #[test]
    fn only_members_pass_as_members() {
        assert_eq!(
            require_member(&request(Some(Role::Member))),
            Ok(MemberName::new("m1").unwrap())
        );
        for role in [Role::Admin, Role::Other("ops".into())] {
            let refusal = require_member(&request(Some(role))).unwrap_err();
            assert_eq!(refusal.reason, RefusalReason::Forbidden);
        }
        let refusal = require_member(&request(None)).unwrap_err();
        assert_eq!(refusal.reason, RefusalReason::Unauthenticated);
        assert!(peer_of(&request(Some(Role::Admin))).is_ok());
    }

    #[test]
    fn a_certificate_may_be_for_some_databases_only() {
        let all = PeerIdentity::default();
        let some = PeerIdentity { databases: vec!["DB1".into()], ..PeerIdentity::default() };
        assert!(all.may_use("DB1") && some.may_use("DB1") && some.may_use("DB1@m2~view"));
        assert!(!some.may_use("DB2") && !some.may_use("DB10") && !some.may_use("DB2@DB1"));
    }

    #[test]
    fn a_limited_reader_or_writer_knows_of_no_other_database() {
        for (role, databases, limited) in [
            (Role::Reader, &["DB1"][..], true),
            (Role::Writer, &["DB1"], true),
            (Role::Reader, &[], false),
            (Role::Operator, &["DB1"], false),
            (Role::Admin, &["DB1"], false),
        ] {
            let databases = databases.iter().map(|name| (*name).to_owned()).collect();
            let peer = PeerIdentity { role, databases, ..PeerIdentity::default() };
            let knows = |name| peer.may_know(name);
            assert_eq!((knows("DB1"), knows("DB2")), (true, !limited), "{peer:?}");
        }
    }
}

//! Typed identities: a database can never be passed where a member is expected.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a uuid that the caller drew or read.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// An id made from a small number, for tests and simulation.
            #[must_use]
            pub const fn from_u128(value: u128) -> Self {
                Self(Uuid::from_u128(value))
            }

            /// The wrapped uuid.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// The sixteen bytes, as stored on disk and sent on the wire.
            #[must_use]
            pub const fn into_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// The reverse of [`Self::into_bytes`].
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Reads an id from a slice; `None` unless it has sixteen bytes.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }
        }

        impl From<$name> for [u8; 16] {
            fn from(id: $name) -> Self {
                id.into_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// One cluster; members of another cluster are refused in every handshake.
    ClusterId
);
uuid_id!(
    /// One member (server), random, kept in `member.json`; survives restarts.
    MemberId
);
uuid_id!(
    /// One life of a data process. Leases name it; a certified one is never granted again.
    IncarnationId
);
uuid_id!(
    /// One database.
    DatabaseId
);
uuid_id!(
    /// One copy of a database since its last seed or wipe; a new id needs re-admission (review R4).
    CopyId
);
uuid_id!(
    /// One log stream; a restore or an activation at an instant starts a new one (review F1).
    StreamId
);
uuid_id!(
    /// Names a directory `log-<id>`.
    LogId
);
uuid_id!(
    /// Names a directory `store-<id>`.
    StoreId
);
uuid_id!(
    /// A client session, the scope in which retries of writes apply once.
    SessionId
);
uuid_id!(
    /// Long work with progress; chosen by the client, so that a retried request is the same
    /// operation.
    OperationId
);

uuid_id!(
    /// A checkpoint that a source made for a seed; its files are the same as long as it stands.
    CheckpointId
);

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No characters at all.
    Empty,
    /// More than 64 characters.
    TooLong,
    /// A character outside letters, digits, `-`, `_` and `.`, or a name that does not begin with a
    /// letter or digit (names become directory names and certificate subjects).
    BadCharacter(char),
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the name is empty"),
            Self::TooLong => write!(f, "the name has more than 64 characters"),
            Self::BadCharacter(c) => {
                write!(f, "the name has the character {c:?}; use letters, digits, '-', '_', '.'")
            }
        }
    }
}

impl std::error::Error for NameError {}

fn check_name(text: &str) -> Result<(), NameError> {
    let Some(first) = text.chars().next() else { return Err(NameError::Empty) };
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::BadCharacter(first));
    }
    if text.len() > 64 {
        return Err(NameError::TooLong);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.chars().find(|c| !allowed(*c)).map_or(Ok(()), |c| Err(NameError::BadCharacter(c)))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a name: 1 to 64 letters, digits, `-`, `_`, `.`.
            ///
            /// # Errors
            /// [`NameError`] says what is wrong.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check_name(&text).map(|()| Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

name!(
    /// An operator's name for a member, unique in the cluster; also the subject of its certificate.
    MemberName
);
name!(
    /// An operator's name for a fork, unique among the forks of a copy.
    ForkName
);
name!(
    /// An operator's name for a database, unique in the cluster.
    DatabaseName
);
name!(
    /// An operator's name for an access token; its holder is known by it.
    TokenName
);
name!(
    /// An operator's name for a site (a datacenter).
    SiteName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_a_directory_or_a_certificate_cannot_hold() {
        assert_eq!(MemberName::new(""), Err(NameError::Empty));
        assert_eq!(MemberName::new(".hidden"), Err(NameError::BadCharacter('.')));
        assert_eq!(DatabaseName::new("a/b"), Err(NameError::BadCharacter('/')));
        assert_eq!(DatabaseName::new("x".repeat(65)), Err(NameError::TooLong));
        assert!(DatabaseName::new("Mail-01_a.b").is_ok());
    }

    #[test]
    fn ids_survive_the_way_through_bytes_and_text() {
        let id = CopyId::from_u128(42);
        assert_eq!(CopyId::from_bytes(id.into_bytes()), id);
        assert_eq!(id.to_string().parse::<CopyId>(), Ok(id));
        assert_eq!(CopyId::from_slice(&[1, 2]), None);
    }
}

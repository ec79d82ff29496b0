//! Access tokens as the cluster keeps them: who may what until when, and a digest of the secret.
//!
//! The secret itself is 256 random bits that the issuer draws; nobody but its holder has it. A
//! plain SHA-256 of it is as good as any slow hash: slow hashes make guessing of *guessable*
//! secrets expensive, and nobody guesses 256 bits; but every call of a client would pay for one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{DatabaseName, NameError, RefusalReason, Refused, TokenName};

/// Tokens of a cluster, those that have expired included.
pub const TOKENS_MAX: usize = 256;

/// Databases that one token may name.
pub const TOKEN_DATABASES_MAX: usize = 64;

/// Longest life of a token, in milliseconds: ten years.
pub const TOKEN_LIFE_MAX_MS: u64 = 10 * 366 * 24 * 60 * 60 * 1000;

/// What the holder of a token may do. Members have certificates and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    /// Reads data.
    Reader,
    /// Reads and writes data.
    Writer,
    /// Keeps the cluster running and sees no data.
    Operator,
    /// Every right that a client can have.
    Admin,
}

impl TokenRole {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Writer, Self::Operator, Self::Admin];

    /// The word for it, as in certificates.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Whether it can be limited to some databases.
    #[must_use]
    pub const fn uses_data(self) -> bool {
        matches!(self, Self::Reader | Self::Writer)
    }
}

impl fmt::Display for TokenRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for TokenRole {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            Refused::bad_argument(format!(
                "a token is for a reader, writer, operator or admin, not for {text:?}"
            ))
        })
    }
}

/// SHA-256 of a token's secret. Whoever has it cannot call anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Wraps a digest.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a digest; `None` unless it has 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

impl From<TokenDigest> for String {
    fn from(digest: TokenDigest) -> Self {
        digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for TokenDigest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let malformed = || "a digest has 64 hexadecimal digits".to_owned();
        let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(malformed)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::try_from(pair[0] * 16 + pair[1]).map_err(|_| malformed())?;
        }
        Ok(Self(bytes))
    }
}

/// A token as it is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewToken {
    /// Unique in the cluster; the audit knows its holder by it.
    pub name: TokenName,
    /// What its holder may do.
    pub role: TokenRole,
    /// Databases whose data it is for; all if there is none.
    pub databases: BTreeSet<DatabaseName>,
    /// Of its secret.
    pub digest: TokenDigest,
    /// When it ends, in Unix milliseconds; nothing for never.
    pub expires_unix_ms: Option<u64>,
}

/// A token of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccessToken {
    /// What was asked for.
    #[serde(flatten)]
    pub grant: NewToken,
    /// When its name was first given, in Unix milliseconds.
    pub created_unix_ms: u64,
    /// When it was last replaced, else created.
    pub changed_unix_ms: u64,
}

impl AccessToken {
    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now_unix_ms: u64) -> bool {
        self.grant.expires_unix_ms.is_some_and(|end| end <= now_unix_ms)
    }
}

/// All tokens of a cluster, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccessTokens(BTreeMap<String, AccessToken>);

impl AccessTokens {
    /// The tokens in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &AccessToken> {
        self.0.values()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a token, or gives a known one a new secret and new rights; says whether that changed
    /// anything. When there is no room, tokens that have expired make some.
    ///
    /// # Errors
    /// `bad_argument` for what has no meaning; `already_exists` for a name in use unless it is to
    /// be replaced, or a secret in use; `precondition` if there are too many.
    pub fn issue(&mut self, new: &NewToken, replace: bool, now: u64) -> Result<bool, Refused> {
        check(new, now)?;
        let known = self.0.get(new.name.as_str());
        if known.is_some_and(|known| known.grant == *new) {
            return Ok(false);
        }
        let exists = |what: String| Err(Refused::new(RefusalReason::AlreadyExists, what));
        if known.is_some() && !replace {
            return exists(format!("token {} exists", new.name));
        }
        if self.iter().any(|token| token.grant.digest == new.digest) {
            return exists("this secret is in use".to_owned());
        }
        if known.is_none() && self.0.len() >= TOKENS_MAX {
            let over = self.iter().filter(|token| token.is_expired(now)).map(|t| &t.grant.name);
            let Some(over) = over.min().map(ToString::to_string) else {
                let what = format!("there are {TOKENS_MAX} tokens: revoke those that nobody needs");
                return Err(Refused::precondition(what));
            };
            self.0.remove(&over);
        }
        let created_unix_ms = self.0.get(new.name.as_str()).map_or(now, |t| t.created_unix_ms);
        let token = AccessToken { grant: new.clone(), created_unix_ms, changed_unix_ms: now };
        self.0.insert(new.name.to_string(), token);
        Ok(true)
    }

    /// Forgets a token.
    ///
    /// # Errors
    /// `unknown_token`.
    pub fn revoke(&mut self, name: &TokenName) -> Result<AccessToken, Refused> {
        let unknown =
            || Refused::new(RefusalReason::UnknownToken, format!("there is no token {name}"));
        self.0.remove(name.as_str()).ok_or_else(unknown)
    }
}

fn check(new: &NewToken, now: u64) -> Result<(), Refused> {
    if !new.databases.is_empty() && !new.role.uses_data() {
        let what = format!(
            "a token for an {} is for the whole cluster: only a reader or a writer can be limited \
             to databases",
            new.role
        );
        return Err(Refused::bad_argument(what));
    }
    if new.databases.len() > TOKEN_DATABASES_MAX {
        let what = format!("a token names at most {TOKEN_DATABASES_MAX} databases");
        return Err(Refused::bad_argument(what));
    }
    match new.expires_unix_ms {
        Some(end) if end <= now => Err(Refused::bad_argument("the token would have expired")),
        Some(end) if end - now > TOKEN_LIFE_MAX_MS => {
            Err(Refused::bad_argument("a token ends within ten years, or never"))
        }
        _ => Ok(()),
    }
}

/// Reads the name of a token.
///
/// # Errors
/// `bad_name`.
pub fn token_name(text: &str) -> Result<TokenName, Refused> {
    let bad =
        |error: NameError| Refused::new(RefusalReason::BadName, format!("token {text:?}: {error}"));
    TokenName::new(text).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, digest: u8) -> NewToken {
        NewToken {
            name: TokenName::new(name).unwrap(),
            role: TokenRole::Reader,
            databases: BTreeSet::new(),
            digest: TokenDigest::new([digest; 32]),
            expires_unix_ms: None,
        }
    }

    #[test]
    fn a_name_and_a_secret_are_given_once() {
        let mut tokens = AccessTokens::default();
        assert_eq!(tokens.issue(&new("a", 1), false, 10), Ok(true));
        assert_eq!(tokens.issue(&new("a", 1), false, 20), Ok(false), "the same again");
        let reason = |outcome: Result<bool, Refused>| outcome.unwrap_err().reason;
        assert_eq!(reason(tokens.issue(&new("a", 2), false, 20)), RefusalReason::AlreadyExists);
        assert_eq!(reason(tokens.issue(&new("b", 1), false, 20)), RefusalReason::AlreadyExists);
        assert_eq!(tokens.issue(&new("a", 2), true, 30), Ok(true));
        let token = tokens.iter().next().unwrap();
        assert_eq!((token.created_unix_ms, token.changed_unix_ms), (10, 30));
        assert_eq!(token.grant.digest, TokenDigest::new([2; 32]));
        let name = TokenName::new("a").unwrap();
        assert!(tokens.revoke(&name).is_ok() && tokens.is_empty());
        assert_eq!(tokens.revoke(&name).unwrap_err().reason, RefusalReason::UnknownToken);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let database = BTreeSet::from([DatabaseName::new("DB1").unwrap()]);
        let many = (0..=TOKEN_DATABASES_MAX).map(|n| DatabaseName::new(format!("d{n}")).unwrap());
        let cases = [
            NewToken { role: TokenRole::Operator, databases: database, ..new("a", 1) },
            NewToken { databases: many.collect(), ..new("a", 1) },
            NewToken { expires_unix_ms: Some(100), ..new("a", 1) },
            NewToken { expires_unix_ms: Some(101 + TOKEN_LIFE_MAX_MS), ..new("a", 1) },
        ];
        for case in cases {
            let refused = AccessTokens::default().issue(&case, false, 100).unwrap_err();
            assert_eq!(refused.reason, RefusalReason::BadArgument, "{case:?}");
            let limits = refused.message.contains("only a reader or a writer can be limited");
            assert_eq!(limits, !case.role.uses_data(), "{refused:?}");
        }
    }

    #[test]
    fn their_number_is_bounded_and_expired_ones_make_room() {
        let mut tokens = AccessTokens::default();
        for n in 0..u8::MAX {
            tokens.issue(&new(&format!("t{n}"), n), false, 1).unwrap();
        }
        let ends = NewToken { expires_unix_ms: Some(50), ..new("ends", 255) };
        tokens.issue(&ends, false, 1).unwrap();
        let mut bytes = [0; 32];
        bytes[0] = 1;
        let more = NewToken { digest: TokenDigest::new(bytes), ..new("more", 0) };
        let refused = tokens.issue(&more, false, 49).unwrap_err();
        assert_eq!(refused.reason, RefusalReason::Precondition);
        assert_eq!(tokens.issue(&more, false, 50), Ok(true));
        assert_eq!(tokens.iter().count(), TOKENS_MAX);
        assert!(!tokens.iter().any(|token| token.grant.name.as_str() == "ends"));
    }

    #[test]
    fn a_digest_is_text_in_json_and_nothing_in_logs() {
        let digest = TokenDigest::new([0xa5; 32]);
        let text = String::from(digest);
        assert_eq!(text, "a5".repeat(32));
        assert_eq!(TokenDigest::try_from(text), Ok(digest));
        assert!(TokenDigest::try_from("zz".repeat(32)).is_err());
        assert!(TokenDigest::try_from("a5".repeat(31)).is_err());
        assert!(!format!("{digest:?}").contains("a5"));
    }
}

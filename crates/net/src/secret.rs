//! The secret of an access token: made, read, digested, sent; never shown by accident.
//!
//! `keelson_` and 64 hexadecimal digits: 256 random bits behind a word by which scanners find
//! secrets that got lost. `Debug` shows nothing of it; only [`AccessSecret::reveal`] does.

use std::fmt;

use http::HeaderValue;
use keelson_types::{RefusalReason, Refused, TokenDigest};
use rand::TryRngCore;
use rand::rngs::OsRng;
use ring::digest::{SHA256, digest};

/// What every secret begins with.
const PREFIX: &str = "keelson_";

/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;

/// The secret of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessSecret(String);

impl fmt::Debug for AccessSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessSecret(..)")
    }
}

impl AccessSecret {
    /// Draws a new one from the operating system.
    ///
    /// # Errors
    /// `internal` if it has no random numbers to give.
    pub fn generate() -> Result<Self, Refused> {
        let mut bytes = [0; SECRET_BYTES];
        OsRng.try_fill_bytes(&mut bytes).map_err(|error| {
            Refused::new(RefusalReason::Internal, format!("no random numbers: {error}"))
        })?;
        Ok(Self(format!("{PREFIX}{}", hex(&bytes))))
    }

    /// Reads one as it was printed; white space around it is left out.
    ///
    /// # Errors
    /// `unauthenticated` if it cannot be one. The text is not repeated: it may be another secret.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let text = text.trim();
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == 2 * SECRET_BYTES);
        let lower = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        match digits.is_some_and(|digits| digits.bytes().all(lower)) {
            true => Ok(Self(text.to_owned())),
            false => {
                let what = format!("a token is {PREFIX} and {} digits", 2 * SECRET_BYTES);
                Err(Refused::new(RefusalReason::Unauthenticated, what))
            }
        }
    }

    /// The text, for the one who is to keep it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the cluster keeps of it.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        let digest = digest(&SHA256, self.0.as_bytes());
        TokenDigest::from_slice(digest.as_ref()).expect("SHA-256 has 32 bytes")
    }

    /// The value of the header `authorization`; it is kept out of compression tables and logs.
    pub(crate) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0)).expect("it is ASCII");
        value.set_sensitive(true);
        value
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_come_back_from_their_text() {
        let (one, other) = (AccessSecret::generate().unwrap(), AccessSecret::generate().unwrap());
        assert_ne!(one, other);
        assert_ne!(one.digest(), other.digest());
        let read = AccessSecret::parse(&format!(" {}\n", one.reveal())).unwrap();
        assert_eq!((read.digest(), &read), (one.digest(), &one));
        assert!(one.header().is_sensitive());
        let digits = one.reveal().strip_prefix(PREFIX).unwrap();
        assert!(!format!("{one:?} {:?}", one.header()).contains(digits));
    }

    #[test]
    fn the_digest_is_sha_256_of_the_text() {
        let secret = AccessSecret::parse(&format!("keelson_{}", "00".repeat(32))).unwrap();
        let known = "3a966af1be053a94b770c199108f5c4110ec60bf6bbe68ea6c39b8048d6f6ad6";
        assert_eq!(String::from(secret.digest()), known);
    }

    #[test]
    fn what_is_no_secret_is_not_repeated() {
        let zeros = "0".repeat(64);
        let upper = format!("keelson_{}", "A".repeat(64));
        let short = format!("keelson_{}", "a".repeat(63));
        for text in ["", "keelson_", "hunter2", zeros.as_str(), &upper, &short] {
            let refused = AccessSecret::parse(text).unwrap_err();
            assert_eq!(refused.reason, RefusalReason::Unauthenticated);
            assert!(text.len() < 9 || !refused.message.contains(text));
        }
    }
}

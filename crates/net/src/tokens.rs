//! The tokens that a process lets in: told to it, looked up by every call that shows one.
//!
//! A token counts until the process is told otherwise or its time is over. Calls that are under way
//! are asked again: what a stream sends after its token is gone does not leave the process
//! ([`Pass`]).
//!
//! Digests are compared in constant time and with all tokens, so that the time of an answer says
//! nothing about them.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use keelson_types::{AccessToken, AccessTokens, RefusalReason, TokenDigest, TokenRole};
use keelson_wire::Refusal;
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::{AccessSecret, PeerIdentity, Role};

struct Entry {
    digest: TokenDigest,
    expires_unix_ms: Option<u64>,
    identity: PeerIdentity,
}

impl From<&AccessToken> for Entry {
    fn from(token: &AccessToken) -> Self {
        let grant = &token.grant;
        let role = match grant.role {
            TokenRole::Reader => Role::Reader,
            TokenRole::Writer => Role::Writer,
            TokenRole::Operator => Role::Operator,
            TokenRole::Admin => Role::Admin,
        };
        let identity = PeerIdentity {
            name: grant.name.to_string(),
            role,
            databases: grant.databases.iter().map(ToString::to_string).collect(),
            address: None,
            by_token: true,
        };
        let (digest, expires_unix_ms) = (grant.digest, grant.expires_unix_ms);
        Self { digest, expires_unix_ms, identity }
    }
}

#[derive(Default, Debug)]
struct Known {
    /// As told last; nothing until the process was told for the first time.
    tokens: Option<AccessTokens>,
    entries: Vec<Entry>,
}

/// All tokens that are known here. Clones share them.
#[derive(Clone, Debug)]
pub struct TokenBook {
    known: Arc<RwLock<Known>>,
    /// Counts the changes.
    revision: watch::Sender<u64>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.identity)
    }
}

impl Default for TokenBook {
    fn default() -> Self {
        Self { known: Arc::default(), revision: watch::Sender::new(0) }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn unauthenticated(what: &str) -> Refusal {
    Refusal::new(RefusalReason::Unauthenticated, what)
}

impl TokenBook {
    /// These tokens count from now on, and no others.
    pub fn replace(&self, tokens: &AccessTokens) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.tokens.as_ref() == Some(tokens) {
            return;
        }
        known.entries = tokens.iter().map(Entry::from).collect();
        known.tokens = Some(tokens.clone());
        drop(known);
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// Whose secret this is.
    ///
    /// # Errors
    /// `unauthenticated`; `no_lease`, which is retried, while the process was told nothing.
    pub fn holder(&self, secret: &AccessSecret) -> Result<PeerIdentity, Refusal> {
        self.enter(secret).map(|(identity, _)| identity)
    }

    /// As [`Self::holder`], with what watches over the call.
    pub(crate) fn enter(&self, secret: &AccessSecret) -> Result<(PeerIdentity, Pass), Refusal> {
        let digest = secret.digest();
        let changes = self.revision.subscribe();
        let identity = self.find(&digest)?;
        Ok((identity, Pass { book: self.clone(), digest, changes }))
    }

    fn find(&self, wanted: &TokenDigest) -> Result<PeerIdentity, Refusal> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.tokens.is_none() {
            let what = "this process was not told yet which tokens there are";
            return Err(Refusal::new(RefusalReason::NoLease, what));
        }
        let mut found = None;
        for entry in &known.entries {
            if bool::from(entry.digest.as_bytes().ct_eq(wanted.as_bytes())) {
                found = Some(entry);
            }
        }
        let unknown = || unauthenticated("the token is unknown: never issued, or revoked");
        let entry = found.ok_or_else(unknown)?;
        if entry.expires_unix_ms.is_some_and(|end| end <= unix_ms()) {
            let what = format!("token {} has expired", entry.identity.name);
            return Err(unauthenticated(&what));
        }
        Ok(entry.identity.clone())
    }
}

/// Lets a call go on as long as its token counts.
pub(crate) struct Pass {
    book: TokenBook,
    digest: TokenDigest,
    changes: watch::Receiver<u64>,
}

impl Pass {
    /// # Errors
    /// The token was revoked meanwhile, or has expired.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.book.find(&self.digest).map(drop)
    }

    /// Ends when the token does not count any more, and says why not.
    pub(crate) async fn ended(mut self) -> Refusal {
        /// Expiry is looked at so often.
        const LOOK: Duration = Duration::from_secs(1);
        loop {
            if let Err(refusal) = self.check() {
                return refusal;
            }
            // The book holds the sender; over time nothing changed but the clock.
            let _ = tokio::time::timeout(LOOK, self.changes.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use keelson_types::{DatabaseName, NewToken, TokenName};

    use super::*;

    fn book(secret: &AccessSecret, expires_unix_ms: Option<u64>) -> (TokenBook, AccessTokens) {
        let mut tokens = AccessTokens::default();
        let new = NewToken {
            name: TokenName::new("ann").unwrap(),
            role: TokenRole::Writer,
            databases: BTreeSet::from([DatabaseName::new("DB1").unwrap()]),
            digest: secret.digest(),
            expires_unix_ms,
        };
        let issued = expires_unix_ms.map_or(1, |end| end - 1);
        tokens.issue(&new, false, issued).unwrap();
        let book = TokenBook::default();
        book.replace(&tokens);
        (book, tokens)
    }

    fn reason(outcome: Result<PeerIdentity, Refusal>) -> RefusalReason {
        outcome.unwrap_err().reason
    }

    #[test]
    fn a_secret_leads_to_its_holder() {
        let secret = AccessSecret::generate().unwrap();
        let (book, _) = book(&secret, None);
        let holder = book.holder(&secret).unwrap();
        assert_eq!(holder.to_string(), "ann (writer, token)");
        assert!(holder.may_use("DB1") && !holder.may_use("DB2"));
        let other = AccessSecret::generate().unwrap();
        assert_eq!(reason(book.holder(&other)), RefusalReason::Unauthenticated);
    }

    #[test]
    fn nobody_gets_in_before_the_process_knows_the_tokens_or_after_their_time() {
        let secret = AccessSecret::generate().unwrap();
        assert_eq!(reason(TokenBook::default().holder(&secret)), RefusalReason::NoLease);
        let (book, _) = book(&secret, Some(unix_ms() - 1));
        assert_eq!(reason(book.holder(&secret)), RefusalReason::Unauthenticated);
    }

    #[tokio::test]
    async fn a_pass_ends_with_its_token_and_not_with_another() {
        let secret = AccessSecret::generate().unwrap();
        let (book, mut tokens) = book(&secret, None);
        let (_, pass) = book.enter(&secret).unwrap();
        book.replace(&tokens);
        assert!(pass.check().is_ok());
        let mut ended = tokio::spawn(pass.ended());
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        tokens.revoke(&TokenName::new("ann").unwrap()).unwrap();
        book.replace(&tokens);
        let refusal = (&mut ended).await.unwrap();
        assert_eq!(refusal.reason, RefusalReason::Unauthenticated);
    }
}

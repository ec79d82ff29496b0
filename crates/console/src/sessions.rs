//! Who is logged in. Sessions live in memory, are bounded in number and time, and are found by a
//! digest of their secret, so that the time of a search says nothing about the secrets.
//!
//! A session carries whatever its owner acts with (`T`) and the word that every form of it must
//! repeat. When there is no room, the session that was idle for longest makes some.

use std::collections::BTreeMap;

use keelson_types::TokenDigest;
use subtle::ConstantTimeEq;

/// Sessions of one token at the same time: another one ends the one that it left idle for longest.
const SESSIONS_OF_ONE_MAX: usize = 4;

/// Sessions at the same time.
pub const SESSIONS_MAX: usize = 64;

/// A session that nobody used for this long is over, in milliseconds: half an hour. Pages that look
/// by themselves use it, too.
pub const SESSION_IDLE_MS: u64 = 30 * 60 * 1000;

/// A session is over after this long in any case, in milliseconds: twelve hours, a long shift.
pub const SESSION_MS: u64 = 12 * 60 * 60 * 1000;

/// One login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session<T> {
    /// What its owner acts with.
    pub owner: T,
    /// Repeated by every form.
    pub csrf: String,
    /// Name of the token.
    holder: String,
    begun_ms: u64,
    used_ms: u64,
}

impl<T> Session<T> {
    /// Whether a form repeats the word of this session.
    #[must_use]
    pub fn is_form(&self, word: &str) -> bool {
        self.csrf.len() == word.len() && self.csrf.as_bytes().ct_eq(word.as_bytes()).into()
    }

    fn is_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.used_ms) > SESSION_IDLE_MS
            || now_ms.saturating_sub(self.begun_ms) > SESSION_MS
    }
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sessions<T> {
    by_digest: BTreeMap<[u8; 32], Session<T>>,
}

impl<T> Default for Sessions<T> {
    fn default() -> Self {
        Self { by_digest: BTreeMap::new() }
    }
}

impl<T: Clone> Sessions<T> {
    /// Begins a session whose secret has this digest.
    pub fn begin(
        &mut self,
        secret: TokenDigest,
        (holder, owner): (&str, T),
        csrf: String,
        now_ms: u64,
    ) {
        self.by_digest.retain(|_, session| !session.is_over(now_ms));
        self.make_room(SESSIONS_OF_ONE_MAX, |session| session.holder == holder);
        self.make_room(SESSIONS_MAX, |_| true);
        let (holder, begun_ms, used_ms) = (holder.to_owned(), now_ms, now_ms);
        let session = Session { owner, csrf, holder, begun_ms, used_ms };
        self.by_digest.insert(*secret.as_bytes(), session);
    }

    /// Ends the one that was idle for longest, if there are so many of these.
    fn make_room(&mut self, most: usize, of: impl Fn(&Session<T>) -> bool) {
        let counted = || self.by_digest.iter().filter(|(_, session)| of(session));
        if counted().count() < most {
            return;
        }
        let idle = counted().min_by_key(|(_, session)| session.used_ms);
        if let Some(idle) = idle.map(|(digest, _)| *digest) {
            self.by_digest.remove(&idle);
        }
    }

    /// The session of a secret, if it is not over; it counts as used now.
    pub fn find(&mut self, secret: TokenDigest, now_ms: u64) -> Option<Session<T>> {
        let session = self.by_digest.get_mut(secret.as_bytes())?;
        if session.is_over(now_ms) {
            self.by_digest.remove(secret.as_bytes());
            return None;
        }
        session.used_ms = now_ms;
        Some(session.clone())
    }

    /// Ends a session.
    pub fn end(&mut self, secret: TokenDigest) {
        self.by_digest.remove(secret.as_bytes());
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_digest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> TokenDigest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        TokenDigest::new(bytes)
    }

    #[test]
    fn a_session_ends_when_it_is_idle_or_old_or_ended() {
        let mut sessions = Sessions::default();
        sessions.begin(digest(1), ("ann", "ann"), "w".into(), 0);
        assert_eq!(sessions.find(digest(1), SESSION_IDLE_MS).map(|s| s.owner), Some("ann"));
        assert!(sessions.find(digest(1), 2 * SESSION_IDLE_MS + 1).is_none(), "idle");
        assert_eq!(sessions.count(), 0);
        sessions.begin(digest(1), ("ann", "ann"), "w".into(), 0);
        let mut now = 0;
        while now + SESSION_IDLE_MS <= SESSION_MS {
            now += SESSION_IDLE_MS;
            assert!(sessions.find(digest(1), now).is_some());
        }
        assert!(sessions.find(digest(1), SESSION_MS + 1).is_none(), "old");
        sessions.begin(digest(1), ("ann", "ann"), "w".into(), 0);
        sessions.end(digest(1));
        assert!(sessions.find(digest(1), 1).is_none(), "ended");
        assert!(sessions.find(digest(2), 1).is_none(), "never begun");
    }

    #[test]
    fn the_one_that_was_idle_for_longest_makes_room() {
        let mut sessions = Sessions::default();
        for number in 0..SESSIONS_MAX {
            sessions.begin(
                digest(number),
                (&number.to_string(), number),
                "w".into(),
                10 + number as u64,
            );
        }
        sessions.find(digest(0), 500);
        sessions.begin(digest(1_000), ("x", 1_000), "w".into(), 501);
        assert_eq!(sessions.count(), SESSIONS_MAX);
        assert!(sessions.find(digest(0), 502).is_some());
        assert!(sessions.find(digest(1), 502).is_none());
    }

    #[test]
    fn one_token_does_not_end_the_sessions_of_others() {
        let mut sessions = Sessions::default();
        sessions.begin(digest(1_000), ("ann", 1_000), "w".into(), 1);
        for number in 0..2 * SESSIONS_MAX {
            sessions.begin(digest(number), ("bob", number), "w".into(), 2 + number as u64);
        }
        assert_eq!(sessions.count(), 1 + SESSIONS_OF_ONE_MAX);
        assert!(sessions.find(digest(1_000), 500).is_some());
    }

    #[test]
    fn a_form_repeats_the_whole_word() {
        let mut sessions = Sessions::default();
        sessions.begin(digest(1), ("ann", ()), "word".into(), 0);
        let session = sessions.find(digest(1), 0).unwrap();
        assert!(session.is_form("word"));
        for word in ["", "wor", "words", "Word"] {
            assert!(!session.is_form(word), "{word}");
        }
    }
}

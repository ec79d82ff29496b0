//! Names the content of a store that replay defines: keys in the store's order, and spans of them.
//!
//! The position of a store is no [`StoreKey`], so no span can ever name it (review S14.5). Sessions
//! and the schema are keys like the user's: what undoes a fork undoes them too.

use bytes::Bytes;

use crate::SessionId;

/// A key of a store, in the order in which stores keep them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StoreKey {
    /// The body of the last schema record.
    Schema,
    /// What is known of a client session.
    Session(SessionId),
    /// A user's key. The empty one is a bound only.
    User(Bytes),
}

impl StoreKey {
    /// Before or at every key.
    pub const FIRST: Self = Self::Schema;

    /// The least key behind this one.
    #[must_use]
    pub fn next(&self) -> Self {
        match self {
            Self::Schema => Self::Session(SessionId::from_u128(0)),
            Self::Session(id) => match u128::from_be_bytes(id.into_bytes()).checked_add(1) {
                Some(next) => Self::Session(SessionId::from_u128(next)),
                None => Self::User(Bytes::new()),
            },
            Self::User(key) => {
                let mut next = Vec::with_capacity(key.len() + 1);
                next.extend_from_slice(key);
                next.push(0);
                Self::User(next.into())
            }
        }
    }

    /// Bytes of the key as a user sees it, or of the id.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::Schema => 1,
            Self::Session(_) => 16,
            Self::User(key) => key.len() as u64,
        }
    }
}

/// Keys from `from` to before `to`; to the end of the store without `to`. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    from: StoreKey,
    to: Option<StoreKey>,
}

impl Span {
    /// Keys in `from..to`; `None` if there can be none.
    #[must_use]
    pub fn new(from: StoreKey, to: Option<StoreKey>) -> Option<Self> {
        let empty = to.as_ref().is_some_and(|to| *to <= from);
        (!empty).then_some(Self { from, to })
    }

    /// Exactly one key.
    #[must_use]
    pub fn key(key: StoreKey) -> Self {
        let to = Some(key.next());
        Self { from: key, to }
    }

    /// The whole store.
    #[must_use]
    pub const fn all() -> Self {
        Self { from: StoreKey::FIRST, to: None }
    }

    /// The first key that may be in it.
    #[must_use]
    pub fn from(&self) -> &StoreKey {
        &self.from
    }

    /// The first key behind it; `None` if it reaches the end.
    #[must_use]
    pub fn to(&self) -> Option<&StoreKey> {
        self.to.as_ref()
    }

    /// The key, if the span can hold one only; a point delete then does instead of a range delete.
    #[must_use]
    pub fn only_key(&self) -> Option<&StoreKey> {
        (self.to.as_ref() == Some(&self.from.next())).then_some(&self.from)
    }

    /// Both as one, if they overlap or touch.
    #[must_use]
    pub fn joined(&self, other: &Self) -> Option<Self> {
        let gap = |low: &Self, high: &Self| low.to.as_ref().is_some_and(|to| *to < high.from);
        if gap(self, other) || gap(other, self) {
            return None;
        }
        let from = self.from.clone().min(other.from.clone());
        // `None` is the greatest end, unlike in the order of `Option`.
        let to = self.to.clone().zip(other.to.clone()).map(|(a, b)| a.max(b));
        Some(Self { from, to })
    }

    /// Whether the key lies in it.
    #[must_use]
    pub fn covers(&self, key: &StoreKey) -> bool {
        self.from <= *key && !self.ends_before(key)
    }

    /// The part at or behind `key`.
    #[must_use]
    pub fn behind(&self, key: &StoreKey) -> Option<Self> {
        Self::new(self.from.clone().max(key.clone()), self.to.clone())
    }

    /// The part before `key`.
    #[must_use]
    pub fn before(&self, key: &StoreKey) -> Option<Self> {
        let to = if self.ends_before(key) { self.to.clone() } else { Some(key.clone()) };
        Self::new(self.from.clone(), to)
    }

    /// Its user keys: the first that may be in it, and the first behind it; `None` if it has none.
    #[must_use]
    pub fn users(&self) -> Option<(&[u8], Option<&[u8]>)> {
        let from: &[u8] = if let StoreKey::User(key) = &self.from { key } else { &[] };
        match &self.to {
            None => Some((from, None)),
            Some(StoreKey::User(to)) if !to.is_empty() => Some((from, Some(to))),
            Some(_) => None,
        }
    }

    /// Its sessions in the same way.
    #[must_use]
    pub fn sessions(&self) -> Option<(SessionId, Option<SessionId>)> {
        let from = match &self.from {
            StoreKey::Schema => SessionId::from_u128(0),
            StoreKey::Session(id) => *id,
            StoreKey::User(_) => return None,
        };
        match &self.to {
            None | Some(StoreKey::User(_)) => Some((from, None)),
            Some(StoreKey::Session(to)) if from < *to => Some((from, Some(*to))),
            Some(_) => None,
        }
    }

    /// Whether no key at or behind `key` is in it.
    #[must_use]
    pub fn ends_before(&self, key: &StoreKey) -> bool {
        self.to.as_ref().is_some_and(|to| to <= key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(key: &'static str) -> StoreKey {
        StoreKey::User(Bytes::from_static(key.as_bytes()))
    }

    fn session(id: u128) -> StoreKey {
        StoreKey::Session(SessionId::from_u128(id))
    }

    fn span(from: StoreKey, to: Option<StoreKey>) -> Span {
        Span::new(from, to).expect("not empty")
    }

    #[test]
    fn a_span_knows_its_user_keys_and_sessions() {
        let id = SessionId::from_u128;
        let all = Span::all();
        assert_eq!((all.users(), all.sessions()), (Some((&[][..], None)), Some((id(0), None))));
        let schema = Span::key(StoreKey::Schema);
        assert_eq!((schema.users(), schema.sessions()), (None, None));
        let sessions = span(session(3), Some(session(7)));
        assert_eq!((sessions.users(), sessions.sessions()), (None, Some((id(3), Some(id(7))))));
        let to_users = span(session(3), Some(user("")));
        assert_eq!((to_users.users(), to_users.sessions()), (None, Some((id(3), None))));
        let both = span(session(3), Some(user("k")));
        assert_eq!(both.users(), Some((&[][..], Some(&b"k"[..]))));
        let users = span(user("a"), Some(user("k")));
        assert_eq!(users.users(), Some((&b"a"[..], Some(&b"k"[..]))));
        assert_eq!(users.sessions(), None);
    }

    #[test]
    fn spans_that_overlap_or_touch_are_joined() {
        let (low, high) = (span(user("a"), Some(user("c"))), span(user("c"), Some(user("e"))));
        assert_eq!(low.joined(&high), Some(span(user("a"), Some(user("e")))));
        assert_eq!(high.joined(&low), low.joined(&high));
        let (open, apart) = (span(user("b"), None), span(user("d"), Some(user("e"))));
        assert_eq!(low.joined(&open), Some(span(user("a"), None)));
        assert_eq!(low.joined(&apart), None);
        assert_eq!(apart.joined(&low), None);
    }
}

//! Keys and spans of stores, as messages.

use bytes::Bytes;
use keelson_types::{SessionId, Span, StoreKey};

use crate::v1::store_key::Key;
use crate::{Invalid, v1};

impl From<StoreKey> for v1::StoreKey {
    fn from(key: StoreKey) -> Self {
        let key = match key {
            StoreKey::Schema => Key::Schema(true),
            StoreKey::Session(id) => Key::Session(Bytes::copy_from_slice(&id.into_bytes())),
            StoreKey::User(key) => Key::User(key),
        };
        Self { key: Some(key) }
    }
}

impl TryFrom<v1::StoreKey> for StoreKey {
    type Error = Invalid;

    fn try_from(key: v1::StoreKey) -> Result<Self, Invalid> {
        match key.key.ok_or(Invalid("store_key.key"))? {
            Key::Schema(_) => Ok(Self::Schema),
            Key::Session(id) => {
                SessionId::from_slice(&id).map(Self::Session).ok_or(Invalid("store_key.session"))
            }
            Key::User(key) => Ok(Self::User(key)),
        }
    }
}

impl From<&Span> for v1::StoreSpan {
    fn from(span: &Span) -> Self {
        let to = span.to().cloned().map(Into::into);
        Self { from: Some(span.from().clone().into()), to }
    }
}

impl TryFrom<v1::StoreSpan> for Span {
    type Error = Invalid;

    fn try_from(span: v1::StoreSpan) -> Result<Self, Invalid> {
        let from = span.from.ok_or(Invalid("store_span.from"))?.try_into()?;
        let to = span.to.map(StoreKey::try_from).transpose()?;
        Self::new(from, to).ok_or(Invalid("store_span.to"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_survive_the_way_through_messages() {
        let user = |key: &'static str| StoreKey::User(Bytes::from_static(key.as_bytes()));
        let session = StoreKey::Session(SessionId::from_u128(7));
        for span in [
            Span::all(),
            Span::key(StoreKey::Schema),
            Span::key(session),
            Span::new(user("a"), Some(user("b"))).unwrap(),
        ] {
            assert_eq!(Span::try_from(v1::StoreSpan::from(&span)), Ok(span));
        }
        let backwards = v1::StoreSpan { from: Some(user("b").into()), to: Some(user("a").into()) };
        assert_eq!(Span::try_from(backwards), Err(Invalid("store_span.to")));
        assert!(StoreKey::try_from(v1::StoreKey { key: None }).is_err());
        let short = v1::StoreKey { key: Some(Key::Session(Bytes::from_static(b"x"))) };
        assert!(StoreKey::try_from(short).is_err());
    }
}

//! The key layout of a store, version 1.
//!
//! | key | value |
//! | --- | --- |
//! | `00 'c'` | body of the last schema record |
//! | `00 'p'` | replayed end: [`keelson_env::log_end_to_bytes`] |
//! | `00 's'` + session id | [`keelson_env::SessionState::encode`] |
//! | `00 't'` + bucket of last use (u32 BE) + session id | nothing; finds idle sessions |
//! | `00 'v'` | format version (u32 LE) |
//! | `01` + user key | user value |
//!
//! A bucket is 65.536 s of commit time: a busy session moves in the index once a minute, not with
//! every write. The first batch of a store writes the version, so position and version appear
//! together.

use bytes::Bytes;
use keelson_env::{
    SCHEMA_KEY, SESSION_PREFIX, SYSTEM_PREFIX, SessionState, StoreError, USER_PREFIX,
};
use keelson_types::{HybridTime, SessionId, StoreKey};

/// Newest format of keys and values that this version reads and writes.
pub const FORMAT_VERSION: u32 = 1;

pub(crate) const VERSION_KEY: [u8; 2] = [SYSTEM_PREFIX, b'v'];
pub(crate) const IDLE_PREFIX: [u8; 2] = [SYSTEM_PREFIX, b't'];
/// Behind every key of the session index.
pub(crate) const IDLE_END: [u8; 2] = [SYSTEM_PREFIX, b't' + 1];
/// Behind every session.
pub(crate) const SESSION_END: [u8; 2] = [SYSTEM_PREFIX, b's' + 1];
/// Behind every user key.
pub(crate) const USER_END: [u8; 1] = [USER_PREFIX + 1];

const IDLE_KEY_BYTES: usize = 22;

/// The bucket of the session index to which a time belongs.
pub(crate) fn bucket(time: HybridTime) -> u32 {
    u32::try_from(time.0 >> 32).expect("the upper half of 64 bits")
}

/// Key of a session in the index.
pub(crate) fn idle_key(bucket: u32, session: SessionId) -> [u8; IDLE_KEY_BYTES] {
    let mut key = [0; IDLE_KEY_BYTES];
    key[..2].copy_from_slice(&IDLE_PREFIX);
    key[2..6].copy_from_slice(&bucket.to_be_bytes());
    key[6..].copy_from_slice(&session.into_bytes());
    key
}

/// Bucket and session of a key of the index; `None` for other bytes.
pub(crate) fn parse_idle_key(key: &[u8]) -> Option<(u32, SessionId)> {
    let (bucket, id) = key.strip_prefix(&IDLE_PREFIX)?.split_first_chunk()?;
    Some((u32::from_be_bytes(*bucket), SessionId::from_slice(id)?))
}

/// Key of a session's state.
pub(crate) fn session_key(session: SessionId) -> [u8; 18] {
    let mut key = [0; 18];
    key[..2].copy_from_slice(&SESSION_PREFIX);
    key[2..].copy_from_slice(&session.into_bytes());
    key
}

/// Id and state of a stored session.
pub(crate) fn parse_session(
    key: &[u8],
    value: &[u8],
) -> Result<(SessionId, SessionState), StoreError> {
    let id = key.strip_prefix(&SESSION_PREFIX).and_then(SessionId::from_slice);
    let parsed = id.zip(SessionState::decode(value));
    parsed.ok_or_else(|| StoreError::Damaged("a session does not decode".to_owned()))
}

/// The least key of the content whose stored form is not below these bytes; `None` behind all.
pub(crate) fn at_or_behind(stored: &[u8]) -> Option<StoreKey> {
    let users = StoreKey::User(Bytes::new());
    match stored {
        stored if *stored <= SCHEMA_KEY[..] => Some(StoreKey::Schema),
        stored if stored < &SESSION_END[..] => {
            let id = stored.strip_prefix(&SESSION_PREFIX[..]).unwrap_or_default();
            let mut padded = [0; 16];
            let length = id.len().min(padded.len());
            padded[..length].copy_from_slice(&id[..length]);
            let session = StoreKey::Session(SessionId::from_bytes(padded));
            Some(if id.len() > padded.len() { session.next() } else { session })
        }
        [SYSTEM_PREFIX, ..] => Some(users),
        [USER_PREFIX, key @ ..] => Some(StoreKey::User(Bytes::copy_from_slice(key))),
        _ => None,
    }
}

/// Replaces `buffer` by the stored form of a user key and returns it.
pub(crate) fn user_key<'a>(buffer: &'a mut Vec<u8>, key: &[u8]) -> &'a [u8] {
    buffer.clear();
    buffer.reserve(key.len() + 1);
    buffer.push(USER_PREFIX);
    buffer.extend_from_slice(key);
    buffer
}

/// Calls `read` with the stored form of a user key, without the heap if the key is short.
pub(crate) fn with_user_key<T>(key: &[u8], read: impl FnOnce(&[u8]) -> T) -> T {
    let mut short = [USER_PREFIX; 128];
    match short.get_mut(1..=key.len()) {
        Some(rest) => {
            rest.copy_from_slice(key);
            read(&short[..=key.len()])
        }
        None => read(user_key(&mut Vec::new(), key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_keys_order_by_time_and_lead_back_to_the_session() {
        let (early, late) = (SessionId::from_u128(9), SessionId::from_u128(1));
        let earlier = idle_key(bucket(HybridTime::from_unix_millis(65_536)), early);
        let later = idle_key(bucket(HybridTime::from_unix_millis(2 * 65_536)), late);
        assert!(earlier < later);
        assert_eq!(parse_idle_key(&earlier), Some((1, early)));
        assert_eq!(parse_idle_key(&earlier[..9]), None);
        assert_eq!(bucket(HybridTime(u64::MAX)), u32::MAX);
    }

    #[test]
    fn bounds_between_stored_keys_name_the_next_key_of_the_content() {
        let session = |id| StoreKey::Session(SessionId::from_u128(id));
        let user = |key: &'static str| StoreKey::User(key.into());
        let longer = [&session_key(SessionId::from_u128(7))[..], &[0]].concat();
        let rows: [(&[u8], Option<StoreKey>); 10] = [
            (&[], Some(StoreKey::Schema)),
            (&[0, b'c'], Some(StoreKey::Schema)),
            (&[0, b'c', 0], Some(session(0))),
            (&[0, b'p'], Some(session(0))),
            (&session_key(SessionId::from_u128(7)), Some(session(7))),
            (&longer, Some(session(8))),
            (&[0, b't', 9], Some(user(""))),
            (&[0, b'v'], Some(user(""))),
            (b"\x01k", Some(user("k"))),
            (&[2], None),
        ];
        for (stored, expected) in rows {
            assert_eq!(at_or_behind(stored), expected, "{stored:?}");
        }
    }

    #[test]
    fn short_and_long_user_keys_get_the_same_prefix() {
        for length in [0, 1, 126, 127, 128, 129, 5_000] {
            let key = vec![7; length];
            let mut buffer = vec![1, 2, 3];
            let expected = user_key(&mut buffer, &key).to_vec();
            assert_eq!(expected[0], USER_PREFIX);
            assert_eq!(with_user_key(&key, <[u8]>::to_vec), expected);
        }
    }
}

//! A consistent view of a store, owning a share of the open database.

use std::sync::Arc;

use bytes::Bytes;
use keelson_env::{
    KvDigest, KvSnapshot, POSITION_KEY, SCHEMA_KEY, SESSION_PREFIX, ScanItem, StoreError,
    StoreItem, USER_PREFIX, digest_ended, log_end_from_bytes,
};
use keelson_types::{LogEnd, SessionId, Span, StoreKey};
use rocksdb::{DBRawIterator, ReadOptions};

use crate::RocksStore;
use crate::error::from_rocks;
use crate::keys;

/// Scans that may return more than this read ahead from the start; others let RocksDB notice by
/// itself that they are sequential.
const READAHEAD_FROM_BYTES: usize = 256 * 1024;
const SCAN_READAHEAD_BYTES: usize = 512 * 1024;
const DIGEST_READAHEAD_BYTES: usize = 2 * 1024 * 1024;
/// Read by a digest between two looks whether it is still wanted.
const DIGEST_ASK_BYTES: usize = 1024 * 1024;

type View<'a> = rocksdb::Snapshot<'a>;

self_cell::self_cell!(
    /// The store and a view of its database, which is released first. The whole store is held, not
    /// the database alone, so that whoever counts the holders of the store counts its views too.
    struct OwnedView {
        owner: Arc<RocksStore>,
        #[covariant]
        dependent: View,
    }
);

/// See [`KvSnapshot`]; made by [`crate::RocksStore`].
pub(crate) struct RocksSnapshot {
    view: OwnedView,
    at: LogEnd,
}

impl RocksSnapshot {
    /// A view of now. The position is read through the view, so that both agree beside a running
    /// replay.
    pub(crate) fn take(store: Arc<RocksStore>) -> Result<Self, StoreError> {
        let view = OwnedView::new(store, |store| store.db.snapshot());
        let stored = view.borrow_dependent().get_pinned(POSITION_KEY);
        let at = match stored.map_err(|error| from_rocks(&error))? {
            Some(bytes) => log_end_from_bytes(&bytes)
                .ok_or_else(|| StoreError::Damaged("the position does not decode".to_owned()))?,
            None => LogEnd::ZERO,
        };
        Ok(Self { view, at })
    }

    /// An iterator over stored keys in `from..to`, standing on the first.
    fn iterate(&self, from: &[u8], to: Vec<u8>, mut options: ReadOptions) -> DBRawIterator<'_> {
        options.set_iterate_upper_bound(to);
        let mut iterator = self.view.borrow_dependent().raw_iterator_opt(options);
        iterator.seek(from);
        iterator
    }

    /// Takes stored items in `from..to` until there is enough.
    fn take_between(
        &self,
        from: &[u8],
        to: Vec<u8>,
        read: impl Fn(&[u8]) -> Option<StoreKey>,
        found: &mut Bounded,
    ) -> Result<(), StoreError> {
        if found.is_full() || from >= &to[..] {
            return Ok(());
        }
        let mut iterator = self.iterate(from, to, ReadOptions::default());
        while let Some((key, value)) = iterator.item() {
            let key = read(key).ok_or_else(|| StoreError::Damaged("a key is wrong".to_owned()))?;
            if !found.take(key, value) {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(|error| from_rocks(&error))
    }
}

/// Items up to a number and a size.
struct Bounded {
    items: Vec<StoreItem>,
    bytes: usize,
    limit: usize,
    bytes_max: usize,
}

impl Bounded {
    /// Whether it took the item.
    fn take(&mut self, key: StoreKey, value: &[u8]) -> bool {
        let bytes = usize::try_from(key.len_bytes()).unwrap_or(usize::MAX) + value.len();
        let fits = self.items.is_empty() || self.bytes + bytes <= self.bytes_max;
        if self.items.len() >= self.limit || !fits {
            self.limit = 0;
            return false;
        }
        self.bytes += bytes;
        self.items.push((key, Bytes::copy_from_slice(value)));
        true
    }

    fn is_full(&self) -> bool {
        self.items.len() >= self.limit
    }
}

fn item(key: &[u8], value: &[u8]) -> ScanItem {
    (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
}

impl KvSnapshot for RocksSnapshot {
    fn at(&self) -> LogEnd {
        self.at
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let view = self.view.borrow_dependent();
        let found = keys::with_user_key(key, |key| view.get_pinned(key));
        found
            .map(|value| value.map(|value| Bytes::copy_from_slice(&value)))
            .map_err(|e| from_rocks(&e))
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<ScanItem>, StoreError> {
        let mut items = Vec::new();
        if limit == 0 || to.is_some_and(|to| to <= from) {
            return Ok(items);
        }
        let mut options = ReadOptions::default();
        if limit > 1_000 && bytes_max >= READAHEAD_FROM_BYTES {
            options.set_readahead_size(SCAN_READAHEAD_BYTES);
        }
        let mut end = Vec::new();
        match to {
            Some(to) => drop(keys::user_key(&mut end, to)),
            None => end.extend_from_slice(&keys::USER_END),
        }
        let mut iterator = keys::with_user_key(from, |from| self.iterate(from, end, options));
        let mut bytes = 0;
        while let Some((key, value)) = iterator.item() {
            bytes += key.len() - 1 + value.len();
            if bytes > bytes_max && !items.is_empty() {
                return Ok(items);
            }
            items.push(item(&key[1..], value));
            if items.len() == limit {
                return Ok(items);
            }
            iterator.next();
        }
        iterator.status().map(|()| items).map_err(|error| from_rocks(&error))
    }

    fn read_span(
        &self,
        span: &Span,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoreItem>, StoreError> {
        let mut found = Bounded { items: Vec::new(), bytes: 0, limit, bytes_max };
        if limit > 0 && span.covers(&StoreKey::Schema) {
            let body = self.view.borrow_dependent().get_pinned(SCHEMA_KEY);
            if let Some(body) = body.map_err(|error| from_rocks(&error))? {
                found.take(StoreKey::Schema, &body);
            }
        }
        if let Some((from, to)) = span.sessions() {
            let end = to.map_or(keys::SESSION_END.to_vec(), |to| keys::session_key(to).to_vec());
            let read = |key: &[u8]| {
                let id = key.get(SESSION_PREFIX.len()..).and_then(SessionId::from_slice);
                id.map(StoreKey::Session)
            };
            self.take_between(&keys::session_key(from), end, read, &mut found)?;
        }
        if let Some((from, to)) = span.users() {
            let end = to
                .map_or(keys::USER_END.to_vec(), |to| keys::user_key(&mut Vec::new(), to).to_vec());
            let read = |key: &[u8]| Some(StoreKey::User(Bytes::copy_from_slice(&key[1..])));
            keys::with_user_key(from, |from| self.take_between(from, end, read, &mut found))?;
        }
        Ok(found.items)
    }

    fn digest_while(&self, go_on: &dyn Fn() -> bool) -> Result<u128, StoreError> {
        if !go_on() {
            return Err(digest_ended());
        }
        let view = self.view.borrow_dependent();
        let schema = view.get_pinned(SCHEMA_KEY).map_err(|error| from_rocks(&error))?;
        let mut digest = KvDigest::new(self.at, schema.as_deref());
        let options = || {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_readahead_size(DIGEST_READAHEAD_BYTES);
            options
        };
        let mut sessions = self.iterate(&SESSION_PREFIX, keys::SESSION_END.to_vec(), options());
        while let Some((key, value)) = sessions.item() {
            let id = key.get(SESSION_PREFIX.len()..).and_then(SessionId::from_slice);
            let id = id.ok_or_else(|| StoreError::Damaged("a session key is no id".to_owned()))?;
            digest.session(id, value);
            sessions.next();
        }
        sessions.status().map_err(|error| from_rocks(&error))?;
        let mut users = self.iterate(&[USER_PREFIX], keys::USER_END.to_vec(), options());
        let mut unasked = 0;
        while let Some((key, value)) = users.item() {
            digest.user(&key[1..], value);
            unasked += key.len() + value.len();
            if unasked >= DIGEST_ASK_BYTES {
                unasked = 0;
                if !go_on() {
                    return Err(digest_ended());
                }
            }
            users.next();
        }
        users.status().map(|()| digest.finish()).map_err(|error| from_rocks(&error))
    }
}

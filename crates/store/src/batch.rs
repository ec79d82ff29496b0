//! Turns frames into one write batch: user effects as they come, each session once, version,
//! position.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use keelson_env::{
    POSITION_KEY, ReplayFrame, SCHEMA_KEY, SessionState, StoreError, StoreItem, log_end_to_bytes,
};
use keelson_types::{LogEnd, Record, SessionId, SessionRecord, Span, StoreKey};
use rocksdb::WriteBatch;

use crate::keys;

/// A session as the store holds it, and as it is after the frames so far.
struct Change {
    old: Option<u32>,
    new: Option<SessionState>,
}

/// A batch being filled.
pub(crate) struct BatchBuilder<'a, F> {
    batch: WriteBatch,
    key: &'a mut Vec<u8>,
    read_session: F,
    sessions: BTreeMap<SessionId, Change>,
    range_tombstones: u64,
}

/// A batch to be written, and how many range tombstones it has.
pub(crate) struct FilledBatch {
    pub(crate) batch: WriteBatch,
    pub(crate) range_tombstones: u64,
}

impl<'a, F> BatchBuilder<'a, F>
where
    F: FnMut(SessionId) -> Result<Option<SessionState>, StoreError>,
{
    /// Reserves for `frames`, so that a batch grows without copies. `key` is scratch space;
    /// `read_session` answers what the store holds before the batch.
    pub(crate) fn new(frames: &[ReplayFrame], key: &'a mut Vec<u8>, read_session: F) -> Self {
        let records = frames.iter().flat_map(|frame| &frame.records);
        let bytes = 256 + records.map(reserve_bytes).sum::<usize>();
        Self {
            batch: WriteBatch::with_capacity_bytes(bytes),
            key,
            read_session,
            sessions: BTreeMap::new(),
            range_tombstones: 0,
        }
    }

    /// Adds the effects of a frame.
    pub(crate) fn add(&mut self, frame: &ReplayFrame) -> Result<(), StoreError> {
        for record in &frame.records {
            match record {
                Record::Put { key, value } => {
                    self.batch.put(keys::user_key(self.key, key), value);
                }
                Record::Delete { key } => self.batch.delete(keys::user_key(self.key, key)),
                Record::DeleteRange { from, to } if to.is_empty() || from < to => {
                    let end = match to.is_empty() {
                        true => keys::USER_END.to_vec(),
                        false => keys::user_key(&mut Vec::new(), to).to_vec(),
                    };
                    self.batch.delete_range(keys::user_key(self.key, from), &end);
                    self.range_tombstones += 1;
                }
                Record::Session { session, change } => self.session(*session, *change, frame)?,
                Record::Schema { body } => self.batch.put(SCHEMA_KEY, body),
                Record::DeleteRange { .. }
                | Record::Opening { .. }
                | Record::DigestMarker { .. }
                | Record::RestorePoint { .. }
                | Record::NoOp => {}
            }
        }
        Ok(())
    }

    fn session(
        &mut self,
        id: SessionId,
        record: SessionRecord,
        frame: &ReplayFrame,
    ) -> Result<(), StoreError> {
        let change = match self.sessions.entry(id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let new = (self.read_session)(id)?;
                entry.insert(Change { old: bucket_of(new.as_ref()), new })
            }
        };
        change.new = SessionState::replay(change.new.take(), record, frame.end, frame.time);
        Ok(())
    }

    /// Makes spans equal to items, which were checked. A key that stands alone costs no range
    /// tombstone. Later entries of a batch win, so what is put survives the removal before it.
    pub(crate) fn overwrite(
        &mut self,
        spans: &[Span],
        items: &[StoreItem],
        old_sessions: Vec<(SessionId, SessionState)>,
        new_sessions: Vec<(SessionId, SessionState)>,
    ) {
        for span in spans {
            self.remove(span);
        }
        for (key, value) in items {
            match key {
                StoreKey::Schema => self.batch.put(SCHEMA_KEY, value),
                StoreKey::User(key) => self.batch.put(keys::user_key(self.key, key), value),
                StoreKey::Session(_) => {} // In their own list, with their index.
            }
        }
        for (id, state) in old_sessions {
            let old = bucket_of(Some(&state));
            self.sessions.insert(id, Change { old, new: None });
        }
        for (id, state) in new_sessions {
            let entry = self.sessions.entry(id).or_insert(Change { old: None, new: None });
            entry.new = Some(state);
        }
    }

    fn remove(&mut self, span: &Span) {
        if span.covers(&StoreKey::Schema) {
            self.batch.delete(SCHEMA_KEY);
        }
        if let Some(StoreKey::User(key)) = span.only_key() {
            self.batch.delete(keys::user_key(self.key, key));
        } else if let Some((from, to)) = span.users() {
            let end = match to {
                None => keys::USER_END.to_vec(),
                Some(to) => keys::user_key(&mut Vec::new(), to).to_vec(),
            };
            self.batch.delete_range(keys::user_key(self.key, from), &end);
            self.range_tombstones += 1;
        }
    }

    /// Adds sessions and position; `first` adds the format version.
    pub(crate) fn finish(mut self, end: LogEnd, first: bool) -> FilledBatch {
        for (id, change) in std::mem::take(&mut self.sessions) {
            self.write_session(id, &change);
        }
        if first {
            self.batch.put(keys::VERSION_KEY, keys::FORMAT_VERSION.to_le_bytes());
        }
        self.batch.put(POSITION_KEY, log_end_to_bytes(end));
        FilledBatch { batch: self.batch, range_tombstones: self.range_tombstones }
    }

    fn write_session(&mut self, id: SessionId, change: &Change) {
        let new = bucket_of(change.new.as_ref());
        if let Some(old) = change.old.filter(|old| Some(*old) != new) {
            self.batch.delete(keys::idle_key(old, id));
        }
        if let Some(new) = new.filter(|new| Some(*new) != change.old) {
            self.batch.put(keys::idle_key(new, id), []);
        }
        if let Some(state) = &change.new {
            self.key.clear();
            state.encode(self.key);
            self.batch.put(keys::session_key(id), &*self.key);
        } else if change.old.is_some() {
            self.batch.delete(keys::session_key(id));
        }
    }
}

fn bucket_of(state: Option<&SessionState>) -> Option<u32> {
    state.map(|state| keys::bucket(state.last_used))
}

/// About what a record takes in a batch: tag, two length prefixes, key prefix, key, value.
fn reserve_bytes(record: &Record) -> usize {
    12 + match record {
        Record::Put { key, value } => key.len() + value.len(),
        Record::Delete { key } => key.len(),
        Record::DeleteRange { from, to } => from.len() + to.len(),
        Record::Session { .. } => 128,
        Record::Schema { body } => body.len(),
        Record::Opening { .. }
        | Record::DigestMarker { .. }
        | Record::RestorePoint { .. }
        | Record::NoOp => 0,
    }
}

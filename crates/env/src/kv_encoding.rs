//! Canonical bytes of what replay defines beside user values, the rules of sessions, and the
//! digest.
//!
//! Both stores use this, so that their digests agree. The digest is XXH3 with 128 bits and seed 0
//! over the pairs of the store in key order, each as `key length (u32 LE), key, value length (u32
//! LE), value`, where keys carry their prefix:
//!
//! | key | value |
//! | --- | --- |
//! | `00 'c'`, only if a schema was replayed | body of the last schema record |
//! | `00 'p'` | epoch and position: [`log_end_to_bytes`] |
//! | `00 's'` + session id, for each session | [`SessionState::encode`] |
//! | `01` + user key, for each user key | the value |
//!
//! Nothing else of a store counts: no format version, no index, no layout of files. All integers
//! are little endian. A change of this page changes digests, so copies of two versions could not be
//! compared: it needs a new digest beside this one.

use keelson_types::{Epoch, HybridTime, LogEnd, Position, SessionId, SessionRecord};
use xxhash_rust::xxh3::Xxh3;

use crate::SessionState;

/// First byte of every key that is not a user's.
pub const SYSTEM_PREFIX: u8 = 0;
/// First byte of every user key; higher ones are kept for named key spaces.
pub const USER_PREFIX: u8 = 1;
/// Key of the last schema record's body.
pub const SCHEMA_KEY: [u8; 2] = [SYSTEM_PREFIX, b'c'];
/// Key of the replayed end.
pub const POSITION_KEY: [u8; 2] = [SYSTEM_PREFIX, b'p'];
/// Before the sixteen bytes of a session id.
pub const SESSION_PREFIX: [u8; 2] = [SYSTEM_PREFIX, b's'];

/// Length of an encoded [`LogEnd`].
pub const LOG_END_BYTES: usize = 28;
const SESSION_HEAD_BYTES: usize = 16;
const ANSWER_BYTES: usize = 8 + LOG_END_BYTES;

/// Recovery generation (4 bytes), epoch counter, generation, offset (8 bytes each).
#[must_use]
pub fn log_end_to_bytes(end: LogEnd) -> [u8; LOG_END_BYTES] {
    let mut bytes = [0; LOG_END_BYTES];
    bytes[..4].copy_from_slice(&end.epoch.recovery.to_le_bytes());
    bytes[4..12].copy_from_slice(&end.epoch.counter.to_le_bytes());
    bytes[12..20].copy_from_slice(&end.position.generation.0.to_le_bytes());
    bytes[20..].copy_from_slice(&end.position.offset.to_le_bytes());
    bytes
}

/// The reverse of [`log_end_to_bytes`]; `None` unless the length fits.
#[must_use]
pub fn log_end_from_bytes(bytes: &[u8]) -> Option<LogEnd> {
    let mut rest = bytes;
    let recovery = u32::from_le_bytes(take(&mut rest)?);
    let counter = u64::from_le_bytes(take(&mut rest)?);
    let generation = u64::from_le_bytes(take(&mut rest)?);
    let offset = u64::from_le_bytes(take(&mut rest)?);
    let end = LogEnd {
        epoch: Epoch::new(recovery, counter),
        position: Position::new(generation, offset),
    };
    rest.is_empty().then_some(end)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

impl SessionState {
    /// What is known of a session after the frame ending at `end`, of time `time`, changed it.
    /// Opening an open session keeps its answers. A write of an unknown session leaves it unknown:
    /// a retry is then refused as "outcome unknown" instead of applied twice (review S18).
    ///
    /// Frames repeated over a state that has them already lead to that state again (a range fetch
    /// does so), because an active lets no write of an unknown session into the log.
    #[must_use]
    pub fn replay(
        state: Option<Self>,
        change: SessionRecord,
        end: LogEnd,
        time: HybridTime,
    ) -> Option<Self> {
        match (change, state) {
            (SessionRecord::Expire, _) | (SessionRecord::Applied { .. }, None) => None,
            (SessionRecord::Open, None) => {
                Some(Self { last_used: time, applied: Vec::new(), lowest_unanswered: 0 })
            }
            (SessionRecord::Open, Some(mut state)) => {
                state.last_used = time;
                Some(state)
            }
            (SessionRecord::Applied { sequence, lowest_unanswered }, Some(mut state)) => {
                state.last_used = time;
                state.note(sequence, lowest_unanswered, end);
                Some(state)
            }
        }
    }

    fn note(&mut self, sequence: u64, lowest_unanswered: u64, end: LogEnd) {
        self.lowest_unanswered = self.lowest_unanswered.max(lowest_unanswered);
        let dropped = self.applied.partition_point(|(number, _)| *number < self.lowest_unanswered);
        self.applied.drain(..dropped);
        if sequence < self.lowest_unanswered {
            return;
        }
        if let Err(index) = self.applied.binary_search_by_key(&sequence, |(number, _)| *number) {
            self.applied.insert(index, (sequence, end));
        }
    }

    /// Appends last use, lowest unanswered number (8 bytes each), then each answer: its number
    /// (8 bytes) and [`log_end_to_bytes`] of its frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(SESSION_HEAD_BYTES + self.applied.len() * ANSWER_BYTES);
        out.extend_from_slice(&self.last_used.0.to_le_bytes());
        out.extend_from_slice(&self.lowest_unanswered.to_le_bytes());
        for (sequence, end) in &self.applied {
            out.extend_from_slice(&sequence.to_le_bytes());
            out.extend_from_slice(&log_end_to_bytes(*end));
        }
    }

    /// The reverse of [`Self::encode`]; `None` for other bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let last_used = HybridTime(u64::from_le_bytes(take(&mut rest)?));
        let lowest_unanswered = u64::from_le_bytes(take(&mut rest)?);
        let answers = rest.chunks_exact(ANSWER_BYTES);
        if !answers.remainder().is_empty() {
            return None;
        }
        let answer = |mut chunk: &[u8]| {
            let sequence = u64::from_le_bytes(take(&mut chunk)?);
            Some((sequence, log_end_from_bytes(chunk)?))
        };
        let applied = answers.map(answer).collect::<Option<Vec<_>>>()?;
        Some(Self { last_used, applied, lowest_unanswered })
    }
}

/// The digest of a store while it is read in key order; the module says what it is of.
pub struct KvDigest {
    hasher: Xxh3,
}

impl KvDigest {
    /// Begins with what stands before sessions and user keys.
    #[must_use]
    pub fn new(at: LogEnd, schema: Option<&[u8]>) -> Self {
        let mut digest = Self { hasher: Xxh3::new() };
        if let Some(body) = schema {
            digest.pair(&SCHEMA_KEY, &[], body);
        }
        digest.pair(&POSITION_KEY, &[], &log_end_to_bytes(at));
        digest
    }

    /// The next session, by rising id, with its encoded state. All sessions come before all user
    /// keys.
    pub fn session(&mut self, id: SessionId, encoded: &[u8]) {
        self.pair(&SESSION_PREFIX, &id.into_bytes(), encoded);
    }

    /// The next user key, in rising order, without its prefix.
    pub fn user(&mut self, key: &[u8], value: &[u8]) {
        self.pair(&[USER_PREFIX], key, value);
    }

    /// The digest of all that was given.
    #[must_use]
    pub fn finish(&self) -> u128 {
        self.hasher.digest128()
    }

    fn pair(&mut self, prefix: &[u8], key: &[u8], value: &[u8]) {
        self.length(prefix.len() + key.len());
        self.hasher.update(prefix);
        self.hasher.update(key);
        self.length(value.len());
        self.hasher.update(value);
    }

    fn length(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).expect("keys and values are far smaller than 4 GiB");
        self.hasher.update(&bytes.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(counter: u64, offset: u64) -> LogEnd {
        LogEnd { epoch: Epoch::new(3, counter), position: Position::new(7, offset) }
    }

    fn applied(sequence: u64, lowest_unanswered: u64) -> SessionRecord {
        SessionRecord::Applied { sequence, lowest_unanswered }
    }

    #[test]
    fn log_end_survives_the_way_through_bytes() {
        assert_eq!(log_end_from_bytes(&log_end_to_bytes(end(5, 99))), Some(end(5, 99)));
        assert_eq!(log_end_from_bytes(&[0; LOG_END_BYTES + 1]), None);
        assert_eq!(log_end_from_bytes(&[0; LOG_END_BYTES - 1]), None);
    }

    #[test]
    fn session_survives_the_way_through_bytes() {
        let state = SessionState {
            last_used: HybridTime(77),
            applied: vec![(4, end(1, 10)), (9, end(2, 20))],
            lowest_unanswered: 4,
        };
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        assert_eq!(SessionState::decode(&bytes), Some(state));
        assert_eq!(SessionState::decode(&bytes[1..]), None);
    }

    #[test]
    fn a_session_keeps_unanswered_results_only_and_the_first_of_each_number() {
        let time = HybridTime(1);
        let mut state = SessionState::replay(None, SessionRecord::Open, end(1, 0), time);
        for (sequence, lowest, offset) in
            [(2, 1, 20), (1, 1, 10), (2, 1, 30), (3, 2, 40), (1, 2, 50)]
        {
            state = SessionState::replay(state, applied(sequence, lowest), end(1, offset), time);
        }
        let state = state.expect("open");
        assert_eq!(state.applied, vec![(2, end(1, 20)), (3, end(1, 40))]);
        assert_eq!(state.lowest_unanswered, 2);
        let reopened =
            SessionState::replay(Some(state), SessionRecord::Open, end(1, 60), HybridTime(9));
        let reopened = reopened.expect("open");
        assert_eq!((reopened.applied.len(), reopened.last_used), (2, HybridTime(9)));
        assert_eq!(SessionState::replay(None, applied(1, 1), end(1, 0), time), None);
    }

    #[test]
    fn digest_is_what_the_page_says() {
        let mut digest = KvDigest::new(end(5, 99), None);
        digest.user(b"key", b"value");
        let mut stream = vec![2, 0, 0, 0, 0, b'p', 28, 0, 0, 0];
        stream.extend_from_slice(&log_end_to_bytes(end(5, 99)));
        stream.extend_from_slice(b"\x04\0\0\0\x01key\x05\0\0\0value");
        assert_eq!(digest.finish(), xxhash_rust::xxh3::xxh3_128(&stream));
        assert_eq!(digest.finish(), 126_217_518_625_705_360_187_898_499_577_053_245_680, "golden");
    }
}

//! Reads and writes the parts of a mark. Arbitrary bytes read as nothing, never as a panic.

use bytes::Bytes;
use keelson_types::{Epoch, KEY_BYTES_MAX, LogEnd, Position, SessionId, StoreKey};

use super::spans::FetchCost;

pub(super) fn put_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    out.extend_from_slice(&epoch.recovery.to_le_bytes());
    out.extend_from_slice(&epoch.counter.to_le_bytes());
}

pub(super) fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(&position.generation.0.to_le_bytes());
    out.extend_from_slice(&position.offset.to_le_bytes());
}

pub(super) fn put_end(out: &mut Vec<u8>, end: LogEnd) {
    put_epoch(out, end.epoch);
    put_position(out, end.position);
}

pub(super) fn put_cost(out: &mut Vec<u8>, cost: FetchCost) {
    out.extend_from_slice(&cost.keys.to_le_bytes());
    out.extend_from_slice(&cost.bytes.to_le_bytes());
}

pub(super) fn put_key(out: &mut Vec<u8>, key: &StoreKey) {
    match key {
        StoreKey::Schema => out.push(0),
        StoreKey::Session(id) => {
            out.push(1);
            out.extend_from_slice(&id.into_bytes());
        }
        StoreKey::User(key) => {
            out.push(2);
            out.extend_from_slice(&(key.len() as u32).to_le_bytes());
            out.extend_from_slice(key);
        }
    }
}

/// What is left of the bytes.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        match self.array()? {
            [0] => Some(false),
            [1] => Some(true),
            [_] => None,
        }
    }

    pub(super) fn epoch(&mut self) -> Option<Epoch> {
        Some(Epoch::new(self.u32()?, self.u64()?))
    }

    pub(super) fn position(&mut self) -> Option<Position> {
        Some(Position::new(self.u64()?, self.u64()?))
    }

    pub(super) fn end(&mut self) -> Option<LogEnd> {
        Some(LogEnd { epoch: self.epoch()?, position: self.position()? })
    }

    pub(super) fn cost(&mut self) -> Option<FetchCost> {
        Some(FetchCost { keys: self.u64()?, bytes: self.u64()? })
    }

    pub(super) fn key(&mut self) -> Option<StoreKey> {
        match self.array()? {
            [0] => Some(StoreKey::Schema),
            [1] => self.array().map(SessionId::from_bytes).map(StoreKey::Session),
            [2] => {
                let length = self.u32()? as usize;
                // A bound is one byte longer than the longest key.
                if length > KEY_BYTES_MAX + 1 || length > self.0.len() {
                    return None;
                }
                let (key, rest) = self.0.split_at(length);
                self.0 = rest;
                Some(StoreKey::User(Bytes::copy_from_slice(key)))
            }
            [_] => None,
        }
    }
}

//! Bytes of the small durable values of this crate (suspension, lag state, inspection clock).
//!
//! Numbers are little-endian. Every value begins with a version; the checksum is the business of
//! the file or control slot that carries it. Arbitrary bytes give an error, never a panic.

use std::fmt;

use keelson_types::Position;

/// Why stored bytes were not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// Fewer bytes than the value needs.
    Short,
    /// Written by a newer version.
    Version(u8),
    /// A field has a value that this version never writes.
    Malformed(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => write!(f, "the bytes end too early"),
            Self::Version(version) => write!(f, "needs version {version}"),
            Self::Malformed(what) => write!(f, "malformed {what}"),
        }
    }
}

impl std::error::Error for DecodeError {}

pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_position(out: &mut Vec<u8>, position: Position) {
    put_u64(out, position.generation.0);
    put_u64(out, position.offset);
}

/// A presence byte, then the number.
pub(crate) fn put_optional(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    put_u64(out, value.unwrap_or_default());
}

/// Takes values from the front of a slice.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader behind the version byte, which must be `version`.
    pub(crate) fn versioned(bytes: &'a [u8], version: u8) -> Result<Self, DecodeError> {
        let mut reader = Self(bytes);
        match reader.u8()? {
            found if found == version => Ok(reader),
            0 => Err(DecodeError::Malformed("version")),
            found => Err(DecodeError::Version(found)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, DecodeError> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn position(&mut self) -> Result<Position, DecodeError> {
        Ok(Position::new(self.u64()?, self.u64()?))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Malformed("flag")),
        }
    }

    pub(crate) fn optional(&mut self) -> Result<Option<u64>, DecodeError> {
        let present = self.flag()?;
        let value = self.u64()?;
        Ok(present.then_some(value))
    }

    /// All bytes must have been read.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Malformed("length")) }
    }
}

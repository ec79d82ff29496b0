//! Reading and writing of small values. Fixed numbers are little-endian; counts inside records are
//! varints (seven bits per byte, lowest first, shortest form only, so that decoding and encoding
//! again gives the same bytes).

use keelson_types::{Epoch, Position};

use crate::FormatError;

/// Longest varint of 64 bits.
const VARINT_BYTES_MAX: usize = 10;

/// Appends a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Length of a varint.
pub(crate) const fn varint_bytes(value: u64) -> usize {
    let bits = 64 - value.leading_zeros() as usize;
    if bits == 0 { 1 } else { bits.div_ceil(7) }
}

/// Appends an epoch: recovery generation (4 bytes), counter (8 bytes).
pub(crate) fn put_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    out.extend_from_slice(&epoch.recovery.to_le_bytes());
    out.extend_from_slice(&epoch.counter.to_le_bytes());
}

/// Appends a position: generation, offset, 8 bytes each.
pub(crate) fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(&position.generation.0.to_le_bytes());
    out.extend_from_slice(&position.offset.to_le_bytes());
}

/// Takes values from the front of a slice.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(FormatError::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(FormatError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn epoch(&mut self) -> Result<Epoch, FormatError> {
        Ok(Epoch::new(self.u32()?, self.u64()?))
    }

    pub(crate) fn position(&mut self) -> Result<Position, FormatError> {
        Ok(Position::new(self.u64()?, self.u64()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for index in 0..VARINT_BYTES_MAX {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if index == VARINT_BYTES_MAX - 1 && bits > 1 {
                return Err(FormatError::Malformed("a number beyond 64 bits"));
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                if byte == 0 && index > 0 {
                    return Err(FormatError::Malformed("a number in a longer form than needed"));
                }
                return Ok(value);
            }
        }
        Err(FormatError::Malformed("a number beyond 64 bits"))
    }

    /// A length followed by that many bytes.
    pub(crate) fn varint_length(&mut self) -> Result<usize, FormatError> {
        let length = usize::try_from(self.varint()?).map_err(|_| FormatError::Short)?;
        if length > self.rest.len() { Err(FormatError::Short) } else { Ok(length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_have_one_form() {
        for value in [0, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_bytes(value), "{value}");
            assert_eq!(Reader::new(&bytes).varint(), Ok(value));
        }
        assert!(Reader::new(&[0x80, 0]).varint().is_err(), "zero in two bytes");
        assert!(Reader::new(&[0xff; 10]).varint().is_err(), "too long");
        assert_eq!(Reader::new(&[0x80]).varint(), Err(FormatError::Short));
        let beyond = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert!(Reader::new(&beyond).varint().is_err(), "65 bits");
    }
}

//! A frame: the records of one group commit, with everything needed to judge them alone.
//!
//! The header has its own checksum, so that a flipped bit in a length does not blind a reader to
//! what follows (review F2); generation and offset in it make misplaced and recycled bytes
//! harmless; the embedded watermarks decide after a crash what is torn and what is damaged (F3).
//! The *chain* value covers the header fields, the payload's checksum and the chain value of the
//! frame before it.

use bytes::Bytes;
use keelson_types::{Epoch, HybridTime, LogEnd, Position, Record};

use crate::codec::{Reader, put_epoch, put_position};
use crate::record::decode_records;
use crate::{FORMAT_VERSION, FormatError};

/// Length of a frame header.
pub const FRAME_HEADER_BYTES: usize = 112;

/// The first bytes of a frame.
pub const FRAME_MAGIC: [u8; 4] = *b"KFRM";

/// Largest payload, stored or unpacked: 128 MiB. A batch of 16 MiB in records of one byte fits.
pub const FRAME_PAYLOAD_BYTES_MAX: u32 = 128 * 1024 * 1024;

const FLAG_LZ4: u8 = 1;
/// The chain covers the header up to here.
const CHAINED_BYTES: usize = 100;
/// The header's checksum lies here in every version.
const CRC_AT: usize = FRAME_HEADER_BYTES - 4;
/// Half of what a timestamp can hold, so that the next one can always be computed.
pub(crate) const TIME_MAX: HybridTime = HybridTime(u64::MAX / 2);
/// LZ4 never unpacks a byte into more than this many.
const LZ4_RATIO_MAX: u64 = 255;

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Whether the payload is packed with LZ4.
    pub compressed: bool,
    /// Bytes of the payload as stored.
    pub stored_bytes: u32,
    /// Bytes of the payload when unpacked.
    pub raw_bytes: u32,
    /// Number of records.
    pub record_count: u32,
    /// Epoch in which the active built it.
    pub epoch: Epoch,
    /// Where the frame begins.
    pub position: Position,
    /// Sequence number of its first record.
    pub first_sequence: u64,
    /// Its timestamp.
    pub time: HybridTime,
    /// The active's committed position when it built the frame.
    pub committed: Position,
    /// The active's own durable position when it built the frame.
    pub durable: Position,
    /// Checksum of the stored payload.
    pub payload_crc: u32,
    /// Chain value behind this frame.
    pub chain: u32,
}

impl FrameHeader {
    /// Bytes of the whole frame.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + self.stored_bytes as u64
    }

    /// The position behind the frame.
    #[must_use]
    pub const fn end(&self) -> Position {
        Position {
            generation: self.position.generation,
            offset: self.position.offset.saturating_add(self.frame_bytes()),
        }
    }

    /// The log end behind the frame.
    #[must_use]
    pub const fn log_end(&self) -> LogEnd {
        LogEnd { epoch: self.epoch, position: self.end() }
    }

    /// Computes the chain value behind this frame from the one before it.
    #[must_use]
    pub fn chain_after(&self, previous: u32) -> u32 {
        chain(previous, &self.chained_bytes())
    }

    fn chained_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FRAME_HEADER_BYTES);
        out.extend_from_slice(&FRAME_MAGIC);
        out.push(FORMAT_VERSION as u8);
        out.push(if self.compressed { FLAG_LZ4 } else { 0 });
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.stored_bytes.to_le_bytes());
        out.extend_from_slice(&self.raw_bytes.to_le_bytes());
        out.extend_from_slice(&self.record_count.to_le_bytes());
        put_epoch(&mut out, self.epoch);
        put_position(&mut out, self.position);
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&self.time.0.to_le_bytes());
        put_position(&mut out, self.committed);
        put_position(&mut out, self.durable);
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        out
    }

    /// The header as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = self.chained_bytes();
        out.extend_from_slice(&self.chain.to_le_bytes());
        out.resize(CRC_AT, 0);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.try_into().expect("the header was filled to its length")
    }

    /// Decodes and checks a header from the first bytes of `bytes`.
    ///
    /// # Errors
    /// [`FormatError::NewerFormat`] for a frame of a later version whose checksum matches;
    /// otherwise what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let bytes: &[u8; FRAME_HEADER_BYTES] = bytes.first_chunk().ok_or(FormatError::Short)?;
        let mut reader = Reader::new(bytes);
        if reader.array()? != FRAME_MAGIC {
            return Err(FormatError::Magic);
        }
        let (body, crc) = bytes.split_at(CRC_AT);
        if crc32fast::hash(body).to_le_bytes() != crc {
            return Err(FormatError::HeaderChecksum);
        }
        let (version, flags) = (u32::from(reader.u8()?), reader.u8()?);
        if version != FORMAT_VERSION {
            return Err(FormatError::NewerFormat(version));
        }
        reader.u16()?;
        let header = Self {
            compressed: flags & FLAG_LZ4 != 0,
            stored_bytes: reader.u32()?,
            raw_bytes: reader.u32()?,
            record_count: reader.u32()?,
            epoch: reader.epoch()?,
            position: reader.position()?,
            first_sequence: reader.u64()?,
            time: HybridTime(reader.u64()?),
            committed: reader.position()?,
            durable: reader.position()?,
            payload_crc: reader.u32()?,
            chain: reader.u32()?,
        };
        header.check(flags).map(|()| header)
    }

    fn check(&self, flags: u8) -> Result<(), FormatError> {
        let malformed = |what| Err(FormatError::Malformed(what));
        if flags & !FLAG_LZ4 != 0 {
            return malformed("a frame with unknown flags");
        }
        if self.stored_bytes > FRAME_PAYLOAD_BYTES_MAX || self.raw_bytes > FRAME_PAYLOAD_BYTES_MAX {
            return malformed("a frame beyond the largest size");
        }
        if !self.compressed && self.stored_bytes != self.raw_bytes {
            return malformed("a plain frame with two lengths");
        }
        if u64::from(self.raw_bytes) > u64::from(self.stored_bytes) * LZ4_RATIO_MAX + 64 {
            return malformed("a frame that unpacks to more than LZ4 can");
        }
        if self.time > TIME_MAX {
            return malformed("a time beyond the year 6000");
        }
        if self.first_sequence.checked_add(u64::from(self.record_count)).is_none() {
            return malformed("a frame beyond the last sequence number");
        }
        Ok(())
    }

    /// The whole frame, if `bytes` begin with it and the payload's checksum matches.
    ///
    /// # Errors
    /// [`FormatError::Short`] if the payload is not all there, [`FormatError::PayloadChecksum`] if
    /// it is damaged.
    pub fn check_payload<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], FormatError> {
        let length = FRAME_HEADER_BYTES + self.stored_bytes as usize;
        let frame = bytes.get(..length).ok_or(FormatError::Short)?;
        let payload = frame.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        if crc32fast::hash(payload) != self.payload_crc {
            return Err(FormatError::PayloadChecksum);
        }
        Ok(frame)
    }
}

/// The chain value behind a frame with these header bytes.
pub(crate) fn chain(previous: u32, chained: &[u8]) -> u32 {
    debug_assert_eq!(chained.len(), CHAINED_BYTES);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&previous.to_le_bytes());
    hasher.update(chained);
    hasher.finalize()
}

/// An inspected frame, still encoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameInfo {
    /// Its header.
    pub header: FrameHeader,
    /// Header and payload; shares the memory of the chunk it came in.
    pub bytes: Bytes,
}

impl FrameInfo {
    /// Epoch of the frame and position behind it.
    #[must_use]
    pub const fn end(&self) -> LogEnd {
        self.header.log_end()
    }

    /// Decodes the records.
    ///
    /// # Errors
    /// As [`decode_frame`].
    pub fn decode(&self) -> Result<Frame, FormatError> {
        decode_frame(&self.bytes)
    }
}

/// A decoded frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Epoch of the frame and position behind it.
    pub end: LogEnd,
    /// Its timestamp.
    pub time: HybridTime,
    /// Sequence number of its first record.
    pub first_sequence: u64,
    /// The effects, in order. Keys and values share the memory of the frame's bytes, or of the
    /// unpacked payload.
    pub records: Vec<Record>,
    /// The active's committed position when it built the frame.
    pub committed: Position,
    /// The active's durable position when it built the frame.
    pub durable: Position,
}

/// Decodes a whole frame, checking both checksums (the chain is the business of
/// [`Cursor::verify`](crate::Cursor::verify)).
///
/// # Errors
/// What is wrong with the bytes; [`FormatError::NeedsVersion`] for a record of a later version.
pub fn decode_frame(bytes: &Bytes) -> Result<Frame, FormatError> {
    let header = FrameHeader::decode(bytes)?;
    let frame = header.check_payload(bytes)?;
    let stored = bytes.slice(FRAME_HEADER_BYTES..frame.len());
    let payload = if header.compressed { unpack(&stored, header.raw_bytes)? } else { stored };
    Ok(Frame {
        end: header.log_end(),
        time: header.time,
        first_sequence: header.first_sequence,
        records: decode_records(&payload, header.record_count)?,
        committed: header.committed,
        durable: header.durable,
    })
}

fn unpack(stored: &[u8], raw_bytes: u32) -> Result<Bytes, FormatError> {
    let mut raw = vec![0; raw_bytes as usize];
    match lz4_flex::block::decompress_into(stored, &mut raw) {
        Ok(length) if length == raw.len() => Ok(Bytes::from(raw)),
        _ => Err(FormatError::Malformed("a payload that does not unpack")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            compressed: true,
            stored_bytes: 10,
            raw_bytes: 600,
            record_count: 1,
            epoch: Epoch::new(0, 1),
            position: Position::new(1, 512),
            first_sequence: 1,
            time: HybridTime(5),
            committed: Position::ZERO,
            durable: Position::ZERO,
            payload_crc: 0,
            chain: 0,
        }
    }

    #[test]
    fn numbers_without_sense_are_refused_although_the_checksum_matches() {
        let check = |header: FrameHeader, sense: bool| {
            assert_eq!(FrameHeader::decode(&header.to_bytes()).is_ok(), sense, "{header:?}");
        };
        check(header(), true);
        check(FrameHeader { raw_bytes: 10_000, ..header() }, false);
        check(FrameHeader { compressed: false, ..header() }, false);
        check(FrameHeader { time: HybridTime(u64::MAX), ..header() }, false);
        check(FrameHeader { first_sequence: u64::MAX, ..header() }, false);
        let most = FRAME_PAYLOAD_BYTES_MAX;
        check(FrameHeader { stored_bytes: most, raw_bytes: most, ..header() }, true);
        check(FrameHeader { stored_bytes: most + 1, raw_bytes: most, ..header() }, false);
    }
}

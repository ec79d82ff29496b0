//! The header of a generation: 512 bytes that tie a log file to the one before it.

use keelson_types::{Epoch, EpochStart, Generation, HybridTime, LogEnd, Position, StreamId};

use crate::codec::{Reader, put_epoch, put_position};
use crate::frame::TIME_MAX;
use crate::{FORMAT_VERSION, FormatError};

/// Length of a generation header: one sector, so that it is written whole or not at all.
pub const GENERATION_HEADER_BYTES: usize = 512;

const MAGIC: [u8; 8] = *b"KEELSLOG";
const CHECKSUM_CRC32: u32 = 1;
/// The checksum lies here in every version.
const CRC_AT: usize = GENERATION_HEADER_BYTES - 4;

/// What the first 512 bytes of a log file say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GenerationHeader {
    /// The stream; frames of another one are never mixed in.
    pub stream: StreamId,
    /// Epoch of every frame in this generation.
    pub epoch: Epoch,
    /// Epoch of the generation before it; differs if an epoch begins here.
    pub previous_epoch: Epoch,
    /// Number of this generation.
    pub generation: Generation,
    /// Where the generation before it ends; `Position::ZERO` for the first one of a stream.
    pub previous_end: Position,
    /// End of the last frame before this generation, and its epoch: exact even if the generation
    /// before has no frame.
    pub last_frame: LogEnd,
    /// Sequence number of the last record before this generation; 0 if there is none.
    pub last_sequence: u64,
    /// Timestamp of its opening.
    pub created_at: HybridTime,
    /// Chain value behind the last frame before this generation.
    pub chain: u32,
}

/// The chain value before the first frame of a stream, so that frames of two streams never chain.
#[must_use]
pub fn first_chain(stream: StreamId) -> u32 {
    crc32fast::hash(&stream.into_bytes())
}

impl GenerationHeader {
    /// The position behind the header, where the first frame lies.
    #[must_use]
    pub const fn end(&self) -> Position {
        Position { generation: self.generation, offset: GENERATION_HEADER_BYTES as u64 }
    }

    /// The row of the epoch table, if an epoch begins here.
    #[must_use]
    pub fn epoch_start(&self) -> Option<EpochStart> {
        let row =
            EpochStart { epoch: self.epoch, previous_end: self.previous_end, chain: self.chain };
        (self.epoch != self.previous_epoch).then_some(row)
    }

    /// The header as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; GENERATION_HEADER_BYTES] {
        let mut out = Vec::with_capacity(GENERATION_HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&CHECKSUM_CRC32.to_le_bytes());
        out.extend_from_slice(&self.stream.into_bytes());
        put_epoch(&mut out, self.epoch);
        put_epoch(&mut out, self.previous_epoch);
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        put_position(&mut out, self.previous_end);
        put_epoch(&mut out, self.last_frame.epoch);
        put_position(&mut out, self.last_frame.position);
        out.extend_from_slice(&self.last_sequence.to_le_bytes());
        out.extend_from_slice(&self.created_at.0.to_le_bytes());
        out.extend_from_slice(&self.chain.to_le_bytes());
        // Sixteen bytes of key id (encryption at rest, none yet) and the reserve stay zero.
        out.resize(CRC_AT, 0);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.try_into().expect("the header was filled to its length")
    }

    /// Decodes and checks a header from the first bytes of `bytes`.
    ///
    /// # Errors
    /// [`FormatError::NewerFormat`] for a header of a later version whose checksum matches;
    /// otherwise what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let bytes: &[u8; GENERATION_HEADER_BYTES] =
            bytes.first_chunk().ok_or(FormatError::Short)?;
        let mut reader = Reader::new(bytes);
        if reader.array()? != MAGIC {
            return Err(FormatError::Magic);
        }
        let (body, crc) = bytes.split_at(CRC_AT);
        if crc32fast::hash(body).to_le_bytes() != crc {
            return Err(FormatError::HeaderChecksum);
        }
        let version = reader.u32()?;
        if version != FORMAT_VERSION {
            return Err(FormatError::NewerFormat(version));
        }
        if reader.u32()? != CHECKSUM_CRC32 {
            return Err(FormatError::Malformed("an unknown checksum algorithm"));
        }
        let header = Self {
            stream: StreamId::from_bytes(reader.array()?),
            epoch: reader.epoch()?,
            previous_epoch: reader.epoch()?,
            generation: Generation(reader.u64()?),
            previous_end: reader.position()?,
            last_frame: LogEnd { epoch: reader.epoch()?, position: reader.position()? },
            last_sequence: reader.u64()?,
            created_at: HybridTime(reader.u64()?),
            chain: reader.u32()?,
        };
        if header.generation.0 == 0
            || header.previous_end.generation.0.checked_add(1) != Some(header.generation.0)
            || header.epoch < header.previous_epoch
            || header.last_frame.epoch > header.previous_epoch
            || header.last_frame.position > header.previous_end
            || header.created_at > TIME_MAX
        {
            return Err(FormatError::Malformed("a header that follows nothing"));
        }
        Ok(header)
    }
}

//! The framing state of one log: where it ends, and what the next frame must look like.
//!
//! The active builds generations and frames with a [`Cursor`], a passive inspects received chunks
//! with one; both advance the same [`CursorState`], so that after equal bytes they are equal. An
//! epoch always opens a new generation; all frames of a generation have its epoch. A failed write
//! leaves the cursor ahead of the log: keep a copy (it is small) and put it back.

use bytes::Bytes;
use keelson_types::{
    Epoch, EpochStart, Generation, HybridTime, LogEnd, Position, Record, StreamId,
};

use crate::record::{encode_record, encoded_record_bytes};
use crate::{
    Chunk, FRAME_HEADER_BYTES, FRAME_PAYLOAD_BYTES_MAX, FrameHeader, FrameInfo,
    GENERATION_HEADER_BYTES, GenerationHeader, Inspected, VerifyError, first_chain,
};

/// Payloads below this are never packed.
const LZ4_FROM_BYTES: usize = 512;

/// How frames are laid out. Only the active's settings matter: passives store what they receive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramingConfig {
    /// Target size of a generation: 1 MiB to 1 GiB, 16 MiB by default. A frame that does not fit
    /// opens the next generation; a frame larger than a whole generation lies alone in one.
    pub generation_bytes: u64,
    /// Whether payloads of 512 bytes and more are packed with LZ4 when that saves a sixteenth.
    pub compress: bool,
}

impl Default for FramingConfig {
    fn default() -> Self {
        Self { generation_bytes: 16 * 1024 * 1024, compress: true }
    }
}

/// Everything about a log's end that the next frame depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CursorState {
    /// The stream.
    pub stream: StreamId,
    /// Epoch of the last generation; newer than `end.epoch` while that generation has no frame.
    pub epoch: Epoch,
    /// End of the last frame, and its epoch.
    pub end: LogEnd,
    /// Where the next bytes lie: behind the last frame, or behind the last generation header.
    pub position: Position,
    /// Chain value behind the last frame.
    pub chain: u32,
    /// Sequence number of the next record, from 1.
    pub next_sequence: u64,
    /// Timestamp of the last frame or header.
    pub time: HybridTime,
}

impl CursorState {
    /// The state of an empty log of a stream.
    #[must_use]
    pub fn empty(stream: StreamId) -> Self {
        Self {
            stream,
            epoch: Epoch::ZERO,
            end: LogEnd::ZERO,
            position: Position::ZERO,
            chain: first_chain(stream),
            next_sequence: 1,
            time: HybridTime::default(),
        }
    }

    /// The state of the log just before a generation: a copy that was seeded begins its log with
    /// some generation and inspects its header from this state.
    #[must_use]
    pub fn before(header: &GenerationHeader) -> Self {
        Self {
            stream: header.stream,
            epoch: header.previous_epoch,
            end: header.last_frame,
            position: header.previous_end,
            chain: header.chain,
            next_sequence: header.last_sequence.saturating_add(1),
            time: header.created_at,
        }
    }
}

/// Why nothing was encoded. The cursor is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// No epoch was begun in this stream yet.
    #[error("no epoch has begun in this log")]
    NoEpoch,
    /// The new epoch is not higher than the log's.
    #[error("epoch {new} does not follow {last}")]
    EpochNotRising {
        /// The epoch asked for.
        new: Epoch,
        /// The log's epoch.
        last: Epoch,
    },
    /// The records do not fit one frame.
    #[error("{bytes} bytes of records exceed the largest frame")]
    TooLarge {
        /// Encoded length of the records.
        bytes: u64,
    },
}

/// A new frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encoded {
    /// What must be written, in order: the header of a generation if one was opened, then the
    /// frame.
    pub chunks: Vec<Chunk>,
    /// The frame.
    pub frame: FrameInfo,
}

/// The framing state of one log, with the settings of its frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    state: CursorState,
    config: FramingConfig,
}

impl Cursor {
    /// A cursor that continues from a state (of recovery, or [`CursorState::empty`]).
    #[must_use]
    pub const fn new(state: CursorState, config: FramingConfig) -> Self {
        Self { state, config }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> &CursorState {
        &self.state
    }

    /// End of the last frame, and its epoch.
    #[must_use]
    pub const fn end(&self) -> LogEnd {
        self.state.end
    }

    /// Where the next bytes lie.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.state.position
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &FramingConfig {
        &self.config
    }

    /// Begins an epoch: opens a generation of it. The row belongs into the epoch table.
    ///
    /// # Errors
    /// [`EncodeError::EpochNotRising`] unless `epoch` is higher than the log's.
    pub fn begin_epoch(
        &mut self,
        epoch: Epoch,
        wall_millis: u64,
    ) -> Result<(Chunk, EpochStart), EncodeError> {
        let last = self.state.epoch;
        if epoch <= last {
            return Err(EncodeError::EpochNotRising { new: epoch, last });
        }
        let start =
            EpochStart { epoch, previous_end: self.state.position, chain: self.state.chain };
        Ok((self.open_generation(epoch, wall_millis), start))
    }

    /// Closes the current generation on request, or because it was idle, by opening the next one of
    /// the same epoch. `None` if the current one has no frame yet.
    pub fn close_generation(&mut self, wall_millis: u64) -> Option<Chunk> {
        let begun = self.state.position.offset > GENERATION_HEADER_BYTES as u64;
        begun.then(|| self.open_generation(self.state.epoch, wall_millis))
    }

    fn open_generation(&mut self, epoch: Epoch, wall_millis: u64) -> Chunk {
        let header = GenerationHeader {
            stream: self.state.stream,
            epoch,
            previous_epoch: self.state.epoch,
            generation: self.state.position.generation.next(),
            previous_end: self.state.position,
            last_frame: self.state.end,
            last_sequence: self.state.next_sequence - 1,
            created_at: self.state.time.next(wall_millis),
            chain: self.state.chain,
        };
        self.state.advance_header(&header).expect("a header built from the state follows it");
        let position = Position { generation: header.generation, offset: 0 };
        Chunk::new(position, Bytes::copy_from_slice(&header.to_bytes()))
    }

    /// Encodes records as one frame at the end of the log, opening the next generation if the frame
    /// does not fit the current one. `wall_millis` is the Unix time; `committed` and `durable` are
    /// the active's own positions now (what lies beyond the log's end in them is left out).
    ///
    /// # Errors
    /// [`EncodeError`]; the cursor is unchanged.
    pub fn encode(
        &mut self,
        records: &[Record],
        wall_millis: u64,
        committed: Position,
        durable: Position,
    ) -> Result<Encoded, EncodeError> {
        if self.state.position.generation == Generation(0) {
            return Err(EncodeError::NoEpoch);
        }
        let raw_bytes: u64 = records.iter().map(|r| encoded_record_bytes(r) as u64).sum();
        if raw_bytes > u64::from(FRAME_PAYLOAD_BYTES_MAX) {
            return Err(EncodeError::TooLarge { bytes: raw_bytes });
        }
        let (mut bytes, compressed) = self.payload(records, raw_bytes as usize);
        let mut chunks = Vec::with_capacity(2);
        let offset = self.state.position.offset;
        if offset > GENERATION_HEADER_BYTES as u64
            && offset + bytes.len() as u64 > self.config.generation_bytes
        {
            chunks.push(self.open_generation(self.state.epoch, wall_millis));
        }
        let stored = bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        let position = self.state.position;
        let mut header = FrameHeader {
            compressed,
            stored_bytes: stored.len() as u32,
            raw_bytes: raw_bytes as u32,
            record_count: records.len() as u32,
            epoch: self.state.epoch,
            position,
            first_sequence: self.state.next_sequence,
            time: self.state.time.next(wall_millis),
            committed: committed.min(position),
            durable: durable.min(position),
            payload_crc: crc32fast::hash(stored),
            chain: 0,
        };
        header.chain = header.chain_after(self.state.chain);
        bytes[..FRAME_HEADER_BYTES].copy_from_slice(&header.to_bytes());
        self.state.advance_frame(&header).expect("a frame built from the state follows it");
        let bytes = Bytes::from(bytes);
        chunks.push(Chunk::new(position, bytes.clone()));
        Ok(Encoded { chunks, frame: FrameInfo { header, bytes } })
    }

    /// Room for a header, then the payload, packed if that is allowed and worth it.
    fn payload(&self, records: &[Record], raw_bytes: usize) -> (Vec<u8>, bool) {
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + raw_bytes);
        bytes.resize(FRAME_HEADER_BYTES, 0);
        records.iter().for_each(|record| encode_record(record, &mut bytes));
        debug_assert_eq!(bytes.len(), FRAME_HEADER_BYTES + raw_bytes);
        if !self.config.compress || raw_bytes < LZ4_FROM_BYTES {
            return (bytes, false);
        }
        let most = FRAME_HEADER_BYTES + lz4_flex::block::get_maximum_output_size(raw_bytes);
        let mut packed = vec![0; most];
        let (raw, out) = (&bytes[FRAME_HEADER_BYTES..], &mut packed[FRAME_HEADER_BYTES..]);
        match lz4_flex::block::compress_into(raw, out) {
            Ok(length) if length + raw_bytes / 16 < raw_bytes => {
                packed.truncate(FRAME_HEADER_BYTES + length);
                (packed, true)
            }
            _ => (bytes, false),
        }
    }

    /// Inspects a received chunk: checksums, place, stream, epoch, chain, sequence, time. The
    /// payload is not copied. On success the cursor stands behind the chunk, otherwise it is
    /// unchanged.
    ///
    /// # Errors
    /// Where and why the chunk does not continue the log.
    pub fn verify(&mut self, chunk: &Chunk) -> Result<Inspected, VerifyError> {
        self.state.verify(chunk)
    }
}

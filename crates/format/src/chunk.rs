//! Chunks: runs of log bytes with their position, as written, shipped and read.

use bytes::Bytes;
use keelson_types::Position;

use crate::{
    FRAME_HEADER_BYTES, FormatError, FrameHeader, FrameInfo, GENERATION_HEADER_BYTES,
    GenerationHeader,
};

/// Whole frames that lie one behind the other in one generation, perhaps with the generation's
/// header before them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Where the bytes begin. Offset 0 means that they begin with a generation header.
    pub position: Position,
    /// Where they end.
    pub end: Position,
    /// The bytes.
    pub bytes: Bytes,
}

/// One thing in a chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A generation header.
    Header(GenerationHeader),
    /// A frame.
    Frame(FrameInfo),
}

impl Chunk {
    /// A chunk of `bytes` that begin at `position`. Nothing is checked.
    #[must_use]
    pub fn new(position: Position, bytes: Bytes) -> Self {
        let end = Position {
            offset: position.offset.saturating_add(bytes.len() as u64),
            generation: position.generation,
        };
        Self { position, end, bytes }
    }

    /// Whether the chunk begins with a generation header.
    #[must_use]
    pub const fn opens_generation(&self) -> bool {
        self.position.offset == 0
    }

    /// Whether the chunk holds a frame, going by its length.
    #[must_use]
    pub fn has_frames(&self) -> bool {
        let header = if self.opens_generation() { GENERATION_HEADER_BYTES } else { 0 };
        self.bytes.len() > header
    }

    /// What lies in the chunk, in order: each item is checked alone (checksums and place, not the
    /// chain). After an error the iterator ends.
    #[must_use]
    pub fn items(&self) -> Items<'_> {
        Items { chunk: self, at: 0, failed: false }
    }
}

/// Iterator over the items of a chunk; see [`Chunk::items`].
#[derive(Debug)]
pub struct Items<'a> {
    chunk: &'a Chunk,
    at: usize,
    failed: bool,
}

impl Items<'_> {
    fn position(&self) -> Position {
        let start = self.chunk.position;
        Position { offset: start.offset.saturating_add(self.at as u64), ..start }
    }

    fn parse(&self) -> Result<(Item, usize), FormatError> {
        let bytes = self.chunk.bytes.slice(self.at..);
        let position = Items::position(self);
        if position.offset == 0 {
            let header = GenerationHeader::decode(&bytes)?;
            if header.generation != position.generation {
                return Err(FormatError::Malformed("a header of another generation"));
            }
            return Ok((Item::Header(header), GENERATION_HEADER_BYTES));
        }
        let header = FrameHeader::decode(&bytes)?;
        if header.position != position {
            return Err(FormatError::Malformed("a frame of another position"));
        }
        header.check_payload(&bytes)?;
        let length = FRAME_HEADER_BYTES + header.stored_bytes as usize;
        Ok((Item::Frame(FrameInfo { header, bytes: bytes.slice(..length) }), length))
    }
}

impl Iterator for Items<'_> {
    type Item = Result<Item, (Position, FormatError)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.at >= self.chunk.bytes.len() {
            return None;
        }
        match self.parse() {
            Ok((item, length)) => {
                self.at += length;
                Some(Ok(item))
            }
            Err(error) => {
                self.failed = true;
                Some(Err((Items::position(self), error)))
            }
        }
    }
}

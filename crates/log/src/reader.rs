//! Reading a log while it is appended to, for shipping and for replay.
//!
//! A reader gives whole frames exactly as they lie in the files, with the generation headers
//! between them, up to a limit that the caller knows to be written (usually the durable or the
//! committed position). Each frame's checksums and place are checked, and the chain from frame to
//! frame. Readers share nothing with the writer but the number of the first kept generation; when a
//! generation is truncated underneath, a reader says `Truncated`, never `Damaged`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use keelson_env::{Disk, DiskError, DiskFile};
use keelson_format::{
    Chunk, FRAME_HEADER_BYTES, FormatError, FrameHeader, GENERATION_HEADER_BYTES, GenerationHeader,
    VerifyErrorKind,
};
use keelson_types::{Generation, Position};

use crate::files::{generation_path, list};
use crate::log::Shared;
use crate::recovery::{DamageKind, Evidence};
use crate::scan::read_header;
use crate::{Damage, LogError};

/// Bytes read at least, so that a frame's header comes with its payload.
const READ_BYTES_MIN: usize = 64 * 1024;

/// A handle for reading one log. Cheap; make one per purpose, it remembers its place.
#[derive(Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
    open: Option<OpenFile>,
    /// Chain value behind the last frame that was read.
    chain: Option<(Position, u32)>,
    /// Number of cuts when the above was learned.
    cuts: u64,
}

#[derive(Debug)]
struct OpenFile {
    generation: Generation,
    file: Arc<dyn DiskFile>,
    /// Where the generation ends, once the next one has said so.
    end: Option<u64>,
}

/// Another handle for the same log, with a place of its own.
impl Clone for LogReader {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl LogReader {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, open: None, chain: None, cuts: 0 }
    }

    /// After a cut, other files have the same names.
    fn forget_what_was_cut(&mut self) {
        let cuts = self.shared.cuts.load(Ordering::Acquire);
        if cuts != self.cuts {
            self.cuts = cuts;
            self.open = None;
            self.chain = None;
        }
    }

    /// A reader of a directory that nobody writes to.
    ///
    /// # Errors
    /// A failed disk call.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path) -> Result<Self, LogError> {
        let first = list(&*disk, directory)?.generations.first().map_or(0, |first| first.0);
        let directory = directory.to_path_buf();
        let (first, cuts) = (AtomicU64::new(first), AtomicU64::new(0));
        Ok(Self::new(Arc::new(Shared { disk, directory, first, cuts })))
    }

    /// First generation that can be read; `None` for an empty log.
    #[must_use]
    pub fn first_generation(&self) -> Option<Generation> {
        let first = self.shared.first.load(Ordering::Acquire);
        (first > 0).then_some(Generation(first))
    }

    /// Forgets what the page cache holds of a generation, so that the next reads see the disk.
    ///
    /// # Errors
    /// As for [`Self::header`].
    pub fn forget_cache(&mut self, generation: Generation) -> Result<(), LogError> {
        self.forget_what_was_cut();
        self.seek(Position { generation, offset: 0 })?;
        let open = self.open.as_ref().expect("just opened");
        Ok(open.file.drop_cache()?)
    }

    /// The header of a generation that is kept.
    ///
    /// # Errors
    /// [`LogError::Truncated`], [`LogError::Damaged`], or a failed disk call.
    pub fn header(&mut self, generation: Generation) -> Result<GenerationHeader, LogError> {
        let at = Position { generation, offset: 0 };
        self.forget_what_was_cut();
        self.seek(at)?;
        let open = self.open.as_ref().expect("just opened");
        let header = read_header(&*open.file)?;
        header.map_err(|error| self.damaged(at, VerifyErrorKind::Format(error)))
    }

    /// Reads whole frames from `from` to `limit` (exclusive), both borders, at most about
    /// `max_bytes`, but at least one frame if there is one. A generation's header comes with its
    /// first frames. An empty answer means that there is nothing between the two. The first chunk
    /// may begin behind `from` only where `from` is the end of a generation (or zero): then it
    /// begins with a header.
    ///
    /// # Errors
    /// [`LogError::Truncated`] if the log begins behind `from`; [`LogError::Damaged`] where the
    /// bytes are not the frames that were written (frames before the damage are returned first).
    pub fn read(
        &mut self,
        from: Position,
        limit: Position,
        max_bytes: usize,
    ) -> Result<Vec<Chunk>, LogError> {
        self.forget_what_was_cut();
        let mut chunks = Vec::new();
        let (mut at, mut left) = (from, max_bytes.max(1));
        while at < limit && left > 0 {
            match self.read_one(at, limit, left) {
                Ok(Some(chunk)) => {
                    left = left.saturating_sub(chunk.bytes.len());
                    at = chunk.end;
                    chunks.push(chunk);
                }
                Ok(None) => at = Position { generation: at.generation.next(), offset: 0 },
                // What was read before the trouble is good; the next call meets the trouble again.
                Err(_) if !chunks.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(chunks)
    }

    /// One chunk from `at`; `None` if `at` is the end of its generation.
    fn read_one(
        &mut self,
        at: Position,
        limit: Position,
        max_bytes: usize,
    ) -> Result<Option<Chunk>, LogError> {
        if at.generation == Generation(0) {
            return self.truncated_unless_first(at).map(|()| None);
        }
        if at.generation == limit.generation && at.offset >= limit.offset {
            return Ok(None);
        }
        match self.seek(at) {
            // It is gone, but nothing is missing: the oldest generation goes on here.
            Err(LogError::Truncated { first, .. }) if self.goes_on_at(first, at)? => {
                return Ok(None);
            }
            sought => sought?,
        }
        let end =
            if at.generation == limit.generation { limit.offset } else { self.generation_end(at)? };
        if at.offset >= end {
            return Ok(None);
        }
        let room = end - at.offset;
        let wanted = usize::try_from(room).unwrap_or(usize::MAX).min(max_bytes.max(READ_BYTES_MIN));
        let mut bytes = self.read_bytes(at, wanted)?;
        let need = first_frame_bytes(at, &bytes);
        if need > bytes.len() && need as u64 <= room && bytes.len() == wanted {
            bytes = self.read_bytes(at, need)?;
        }
        let whole = self.whole_items(at, &bytes, max_bytes, room)?;
        bytes.truncate(whole);
        Ok(Some(Chunk::new(at, Bytes::from(bytes))))
    }

    fn read_bytes(&self, at: Position, length: usize) -> Result<Vec<u8>, LogError> {
        let mut bytes = vec![0; length];
        let open = self.open.as_ref().expect("the file was opened");
        let count = open.file.read_at(at.offset, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Length of the whole, intact items at the front of `bytes`, stopping once `max_bytes` are
    /// full.
    fn whole_items(
        &mut self,
        at: Position,
        bytes: &[u8],
        max_bytes: usize,
        room: u64,
    ) -> Result<usize, LogError> {
        let mut whole = 0;
        if at.offset == 0 {
            let kind = VerifyErrorKind::Format;
            let header = GenerationHeader::decode(bytes).map_err(|e| self.damaged(at, kind(e)))?;
            if header.generation != at.generation {
                let wrong = FormatError::Malformed("a header of another generation");
                return Err(self.damaged(at, kind(wrong)));
            }
            self.chain = Some((header.end(), header.chain));
            whole = GENERATION_HEADER_BYTES;
        }
        while whole < bytes.len() {
            let here = Position { offset: at.offset + whole as u64, ..at };
            let rest = bytes.get(whole..).unwrap_or_default();
            match self.check_frame(here, rest) {
                Ok(length) => whole += length,
                // The frame goes on behind what was read, within the generation: next call.
                Err(VerifyErrorKind::Format(FormatError::Short))
                    if whole > 0 && (bytes.len() as u64) < room =>
                {
                    break;
                }
                Err(_) if whole > 0 => break,
                Err(kind) => return Err(self.damaged(here, kind)),
            }
            if whole >= max_bytes {
                break;
            }
        }
        if whole == 0 {
            return Err(self.damaged(at, VerifyErrorKind::Format(FormatError::Short)));
        }
        Ok(whole)
    }

    fn check_frame(&mut self, here: Position, bytes: &[u8]) -> Result<usize, VerifyErrorKind> {
        let header = FrameHeader::decode(bytes).map_err(VerifyErrorKind::Format)?;
        if header.position != here {
            return Err(VerifyErrorKind::Position { expected: here });
        }
        let frame = header.check_payload(bytes).map_err(VerifyErrorKind::Format)?;
        if let Some((_, chain)) = self.chain.filter(|(behind, _)| *behind == here) {
            let expected = header.chain_after(chain);
            if expected != header.chain {
                return Err(VerifyErrorKind::Chain { expected, found: header.chain });
            }
        }
        self.chain = Some((header.end(), header.chain));
        Ok(frame.len())
    }

    fn seek(&mut self, at: Position) -> Result<(), LogError> {
        if self.open.as_ref().is_some_and(|open| open.generation == at.generation) {
            return Ok(());
        }
        let path = generation_path(&self.shared.directory, at.generation);
        let file = match self.shared.disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Err(self.missing(at)),
            Err(error) => return Err(error.into()),
        };
        self.open = Some(OpenFile { generation: at.generation, file, end: None });
        Ok(())
    }

    /// Where a generation ends that is not the last one: its successor says so.
    fn generation_end(&mut self, at: Position) -> Result<u64, LogError> {
        if let Some(end) = self.open.as_ref().and_then(|open| open.end) {
            return Ok(end);
        }
        let next = Position { generation: at.generation.next(), offset: 0 };
        let path = generation_path(&self.shared.directory, next.generation);
        let header = match self.shared.disk.open(&path) {
            Ok(file) => read_header(&*file)?,
            Err(error) if error.is_not_found() => return Err(self.missing(next)),
            Err(error) => return Err(error.into()),
        };
        let header = header.map_err(|e| self.damaged(next, VerifyErrorKind::Format(e)))?;
        let end = header.previous_end.offset;
        if let Some(open) = &mut self.open {
            open.end = Some(end);
        }
        Ok(end)
    }

    fn first(&self) -> Generation {
        Generation(self.shared.first.load(Ordering::Acquire))
    }

    fn goes_on_at(&mut self, first: Generation, at: Position) -> Result<bool, LogError> {
        Ok(at.generation.next() == first && self.header(first)?.previous_end == at)
    }

    fn truncated_unless_first(&self, at: Position) -> Result<(), LogError> {
        let first = self.first();
        if first.0 > 1 { Err(LogError::Truncated { wanted: at, first }) } else { Ok(()) }
    }

    /// A file is missing: truncated since, or lost.
    fn missing(&self, at: Position) -> LogError {
        let first = self.first();
        if at.generation < first {
            return LogError::Truncated { wanted: at, first };
        }
        let path = generation_path(&self.shared.directory, at.generation);
        if first == Generation(0) {
            let kind = keelson_env::DiskErrorKind::NotFound;
            return DiskError::new(&path, keelson_env::DiskVerb::Open, kind).into();
        }
        let kind = DamageKind::MissingGeneration(at.generation);
        LogError::Damaged(Damage { position: at, kind, evidence: Evidence::Closed })
    }

    /// Bytes are wrong: the file was truncated and written again, or it is damaged.
    fn damaged(&mut self, at: Position, kind: VerifyErrorKind) -> LogError {
        self.open = None;
        self.chain = None;
        let first = self.first();
        if at.generation < first {
            return LogError::Truncated { wanted: at, first };
        }
        let kind = DamageKind::Bytes(kind);
        LogError::Damaged(Damage { position: at, kind, evidence: Evidence::Closed })
    }
}

/// How many bytes the first frame needs together with what lies before it; 0 if that is not known.
fn first_frame_bytes(at: Position, bytes: &[u8]) -> usize {
    let before = if at.offset == 0 { GENERATION_HEADER_BYTES } else { 0 };
    match FrameHeader::decode(bytes.get(before..).unwrap_or_default()) {
        Ok(header) => before + FRAME_HEADER_BYTES + header.stored_bytes as usize,
        Err(_) => 0,
    }
}

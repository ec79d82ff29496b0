//! The writing side of a log: appends chunks, makes them durable, opens generations.
//!
//! Invariants: what [`Log::sync`] reported is on the disk; the bytes of a generation are exactly
//! the chunks written to it; a generation's file exists durably before anything in it is reported
//! durable. A failed write or sync poisons the log, except for lack of space, which is undone
//! completely.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keelson_env::{Disk, DiskError, DiskFile};
use keelson_format::{Chunk, CursorState, GENERATION_HEADER_BYTES, GenerationHeader};
use keelson_types::{Generation, LogEnd, Position, StreamId};

use crate::files::{generation_path, list, spare_path};
use crate::recovery::{Recovered, recover};
use crate::{Damage, LogConfig, LogError, LogReader, Recovery};

/// Zeros to write ahead of frames.
static ZEROS: [u8; 1024 * 1024] = [0; 1024 * 1024];

/// A young file gets as many zeros ahead as it has bytes, but at least these.
const ZERO_AHEAD_BYTES_MIN: u64 = 16 * 1024;

/// What readers in other threads know of a log.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    /// First generation that is kept; 0 for an empty log.
    pub(crate) first: AtomicU64,
    /// Rises when files were cut: what readers have open and remember is then of no use.
    pub(crate) cuts: AtomicU64,
}

/// The file to which frames are appended.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    pub(crate) header: GenerationHeader,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Length of the file.
    pub(crate) allocated: u64,
}

/// How far the log is written, or durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) end: LogEnd,
    pub(crate) position: Position,
}

/// The log of one copy, open for appending. One thread owns it; [`Self::reader`] makes handles for
/// others.
#[derive(Debug)]
pub struct Log {
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: LogConfig,
    pub(crate) stream: StreamId,
    /// Headers of all kept generations.
    pub(crate) headers: BTreeMap<Generation, GenerationHeader>,
    pub(crate) tail: Option<Tail>,
    pub(crate) written: Mark,
    pub(crate) durable: Mark,
    /// Files with bytes that are not synced, oldest first.
    dirty: Vec<Arc<dyn DiskFile>>,
    names_dirty: bool,
    /// Closed files and their ends, to be cut to length after the next sync.
    untrimmed: Vec<(Arc<dyn DiskFile>, u64)>,
    pub(crate) spares: Vec<PathBuf>,
    pub(crate) damage: Option<Damage>,
    poison: Option<DiskError>,
}

impl Log {
    /// Opens, or creates, the log in a directory. `floor` is a position up to which this copy knows
    /// its log to have been durable ([`keelson_format::ControlRecord::durable_floor`]), or zero.
    ///
    /// A torn tail is cut. With damage the log opens at the damage and takes no writes until
    /// [`Self::cut`].
    ///
    /// # Errors
    /// [`LogError::WrongStream`], [`LogError::NewerFormat`], or a failed disk call.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        config: LogConfig,
        stream: StreamId,
        floor: Position,
    ) -> Result<(Self, Recovery), LogError> {
        if !disk.exists(directory)? {
            disk.create_dir_all(directory).map_err(LogError::from_disk)?;
            if let Some(parent) = directory.parent() {
                disk.sync_dir(parent)?;
            }
        }
        let mut listing = list(&*disk, directory)?;
        let Recovered { report, headers, tail } =
            recover(&*disk, directory, stream, floor, &listing.generations)?;
        while listing.spares.len() > config.recycle_max {
            let spare = listing.spares.pop().expect("more than none");
            disk.remove(&spare)?;
        }
        // A name that a dead process left in the cache is made durable before it is built upon.
        disk.sync_dir(directory)?;
        let first = report.first.map_or(0, |generation| generation.0);
        let shared = Shared {
            disk,
            directory: directory.to_path_buf(),
            first: first.into(),
            cuts: AtomicU64::new(0),
        };
        let mark = Mark { end: report.state.end, position: report.state.position };
        let mut log = Self {
            shared: Arc::new(shared),
            config,
            stream,
            headers: BTreeMap::new(),
            tail: None,
            written: mark,
            durable: mark,
            dirty: Vec::new(),
            names_dirty: false,
            untrimmed: Vec::new(),
            spares: listing.spares,
            damage: report.damage,
            poison: None,
        };
        log.headers = headers.into_iter().map(|header| (header.generation, header)).collect();
        if let Some((header, file)) = tail {
            let allocated = file.size()?;
            log.tail = Some(Tail { header, file, allocated });
        }
        Ok((log, report))
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.shared.disk
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// Where the next bytes go.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.written.position
    }

    /// End of the last frame written, durable or not.
    #[must_use]
    pub const fn end(&self) -> LogEnd {
        self.written.end
    }

    /// End of the last durable frame.
    #[must_use]
    pub const fn durable_end(&self) -> LogEnd {
        self.durable.end
    }

    /// Up to where bytes are durable; a generation header behind the last frame counts.
    #[must_use]
    pub const fn durable_position(&self) -> Position {
        self.durable.position
    }

    /// First generation that is kept; `None` for an empty log.
    #[must_use]
    pub fn first_generation(&self) -> Option<Generation> {
        self.headers.keys().next().copied()
    }

    /// Last generation that is kept; `None` for an empty log.
    #[must_use]
    pub fn last_generation(&self) -> Option<Generation> {
        self.headers.keys().next_back().copied()
    }

    /// The headers of all kept generations, oldest first.
    pub fn headers(&self) -> impl Iterator<Item = &GenerationHeader> {
        self.headers.values()
    }

    /// The header of a kept generation.
    #[must_use]
    pub fn header(&self, generation: Generation) -> Option<&GenerationHeader> {
        self.headers.get(&generation)
    }

    /// The damage that must be cut before the log takes writes.
    #[must_use]
    pub const fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Bytes of log kept, headers included.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        let closed = self.headers.values().skip(1).map(|header| header.previous_end.offset);
        closed.sum::<u64>() + self.written.position.offset
    }

    /// Files of truncated generations that wait to be written again.
    #[must_use]
    pub const fn spare_count(&self) -> usize {
        self.spares.len()
    }

    /// A reader for this log, for any thread.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    pub(crate) fn check_healthy(&self) -> Result<(), LogError> {
        match &self.poison {
            Some(cause) => Err(LogError::Poisoned(cause.clone())),
            None => Ok(()),
        }
    }

    pub(crate) fn poison(&mut self, cause: DiskError) -> LogError {
        tracing::error!(%cause, directory = %self.directory().display(), "the log is poisoned");
        self.poison = Some(cause.clone());
        LogError::Poisoned(cause)
    }

    /// Appends chunks, which must continue the log one behind the other. They are durable only
    /// after [`Self::sync`]. In an empty log the first chunk may open any generation (a seeded
    /// copy).
    ///
    /// The chunks' checksums are not looked at: a [`keelson_format::Cursor`] made or inspected
    /// them.
    ///
    /// # Errors
    /// [`LogError::NoSpace`]: nothing of this call remains and it may be repeated.
    /// [`LogError::NotContiguous`], [`LogError::Header`], [`LogError::WrongStream`],
    /// [`LogError::Damaged`]: nothing was done. [`LogError::Poisoned`]: the log is done for.
    pub fn write(&mut self, chunks: &[Chunk]) -> Result<(), LogError> {
        self.check_healthy()?;
        if let Some(damage) = self.damage {
            return Err(LogError::Damaged(damage));
        }
        let opened = self.check_contiguous(chunks)?;
        let before = Before {
            written: self.written,
            tail: self.tail.clone(),
            untrimmed: self.untrimmed.len(),
        };
        match self.write_runs(chunks, &opened) {
            Ok(()) => Ok(()),
            Err(error) if error.is_no_space() => match self.undo(before) {
                Ok(()) => Err(LogError::NoSpace),
                Err(error) => Err(self.poison(error)),
            },
            Err(error) => Err(self.poison(error)),
        }
    }

    /// The headers in the chunks, if everything continues the log.
    fn check_contiguous(&self, chunks: &[Chunk]) -> Result<Vec<GenerationHeader>, LogError> {
        let mut at = self.written.position;
        let mut empty = self.tail.is_none();
        let mut headers = Vec::new();
        for chunk in chunks {
            if chunk.opens_generation() {
                let header = self.check_header(chunk)?;
                let follows = header.generation == at.generation.next() || empty;
                if !follows || (header.previous_end != at && !empty) {
                    let (expected, found) = (at, chunk.position);
                    return Err(LogError::NotContiguous { expected, found });
                }
                headers.push(header);
                empty = false;
            } else if chunk.position != at || empty {
                return Err(LogError::NotContiguous { expected: at, found: chunk.position });
            }
            at = chunk.end;
        }
        Ok(headers)
    }

    fn check_header(&self, chunk: &Chunk) -> Result<GenerationHeader, LogError> {
        use keelson_format::{FormatError, VerifyErrorKind};
        let generation = chunk.position.generation;
        let refuse = |kind| LogError::Header { generation, kind };
        let header = GenerationHeader::decode(&chunk.bytes)
            .map_err(|error| refuse(VerifyErrorKind::Format(error)))?;
        if header.generation != generation {
            let wrong = FormatError::Malformed("a header of another generation");
            return Err(refuse(VerifyErrorKind::Format(wrong)));
        }
        if header.stream != self.stream {
            return Err(LogError::WrongStream { expected: self.stream, found: header.stream });
        }
        Ok(header)
    }

    fn write_runs(
        &mut self,
        chunks: &[Chunk],
        opened: &[GenerationHeader],
    ) -> Result<(), DiskError> {
        let mut opened = opened.iter();
        let mut rest = chunks;
        while let Some(first) = rest.first() {
            let more = rest[1..].iter().take_while(|chunk| !chunk.opens_generation()).count();
            let (run, later) = rest.split_at(1 + more);
            if first.opens_generation() {
                let header = opened.next().expect("every opening chunk was decoded");
                self.open_generation(header)?;
            }
            self.write_run(run)?;
            rest = later;
        }
        Ok(())
    }

    /// Makes a new file the tail: a spare if there is one.
    fn open_generation(&mut self, header: &GenerationHeader) -> Result<(), DiskError> {
        let path = generation_path(self.directory(), header.generation);
        self.names_dirty = true;
        let file = match self.spares.pop() {
            Some(spare) => {
                self.disk().rename(&spare, &path)?;
                self.disk().open(&path)?
            }
            None => self.disk().create(&path)?,
        };
        if let Some(closed) = self.tail.take() {
            if closed.allocated > self.written.position.offset {
                self.untrimmed.push((closed.file, self.written.position.offset));
            }
        } else {
            // The end before a seeded log's first generation is what its header says.
            self.written.end = header.last_frame;
            self.shared.first.store(header.generation.0, Ordering::Release);
        }
        let allocated = file.size()?;
        self.headers.insert(header.generation, *header);
        self.tail = Some(Tail { header: *header, file, allocated });
        Ok(())
    }

    /// Writes chunks that lie one behind the other in the tail's file, in one call.
    fn write_run(&mut self, run: &[Chunk]) -> Result<(), DiskError> {
        let (Some(tail), Some(first), Some(last)) = (&mut self.tail, run.first(), run.last())
        else {
            return Ok(());
        };
        let mut parts: Vec<&[u8]> = run.iter().map(|chunk| &chunk.bytes[..]).collect();
        let ahead = zeros_ahead(&self.config, first, last.end, tail.allocated);
        parts.push(&ZEROS[..ahead]);
        self.dirty.push_new(&tail.file);
        let mut end = last.end.offset + ahead as u64;
        match tail.file.write_parts_at(first.position.offset, &parts) {
            // The zeros are a luxury: a full volume goes without.
            Err(error) if error.is_no_space() && ahead > 0 => {
                parts.pop();
                tail.file.set_len(tail.allocated)?;
                tail.file.write_parts_at(first.position.offset, &parts)?;
                end = last.end.offset;
            }
            other => other?,
        }
        tail.allocated = tail.allocated.max(end);
        self.written.position = last.end;
        if run.iter().any(Chunk::has_frames) {
            self.written.end = LogEnd { epoch: tail.header.epoch, position: last.end };
        }
        Ok(())
    }

    /// Takes back everything that a failed call wrote. New files are removed, latest first.
    fn undo(&mut self, before: Before) -> Result<(), DiskError> {
        let kept = before.tail.as_ref().map_or(Generation(0), |tail| tail.header.generation);
        let created: Vec<_> = self.headers.range(kept.next()..).map(|(g, _)| *g).collect();
        for generation in created.into_iter().rev() {
            let path = generation_path(self.directory(), generation);
            self.disk().remove(&path)?;
            self.headers.remove(&generation);
        }
        self.tail = before.tail;
        self.written = before.written;
        self.untrimmed.truncate(before.untrimmed);
        match &mut self.tail {
            Some(tail) => {
                tail.file.set_len(before.written.position.offset)?;
                tail.allocated = before.written.position.offset;
                let file = Arc::clone(&tail.file);
                self.dirty.push_new(&file);
            }
            None => {
                self.dirty.clear();
                self.shared.first.store(0, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Makes everything written durable and returns the end of the last frame. One sync per file
    /// touched since the last call (more than one only if a generation was opened), and one of the
    /// directory if a file was created.
    ///
    /// # Errors
    /// [`LogError::Poisoned`]: what was written counts as lost, whatever reads show.
    pub fn sync(&mut self) -> Result<LogEnd, LogError> {
        self.check_healthy()?;
        for file in std::mem::take(&mut self.dirty) {
            if let Err(error) = file.sync() {
                return Err(self.poison(error));
            }
        }
        if std::mem::take(&mut self.names_dirty)
            && let Err(error) = self.disk().sync_dir(self.directory())
        {
            return Err(self.poison(error));
        }
        self.durable = self.written;
        for (file, end) in std::mem::take(&mut self.untrimmed) {
            // Stale bytes behind the end of a closed generation are harmless: the next header says
            // where it ends. So this need not be durable, nor succeed.
            if let Err(error) = file.set_len(end) {
                tracing::warn!(%error, "cannot cut a closed generation to its length");
            }
        }
        Ok(self.durable.end)
    }

    /// The state of the log at a border between frames: epoch, chain value, sequence, time. Reads
    /// the frames of one generation.
    ///
    /// # Errors
    /// [`LogError::NotABorder`], [`LogError::Truncated`], or a failed disk call.
    pub fn state_at(&self, position: Position) -> Result<CursorState, LogError> {
        if position > self.written.position {
            return Err(LogError::NotABorder(position));
        }
        let Some((first, header)) = self.headers.first_key_value() else {
            return Ok(CursorState::empty(self.stream));
        };
        if position == Position::ZERO && header.previous_end == position {
            // Nothing of the first generation counts, not even its time: another log may begin
            // here.
            return Ok(CursorState::empty(self.stream));
        }
        if position == header.previous_end {
            return Ok(CursorState::before(header));
        }
        let Some(header) = self.headers.get(&position.generation) else {
            return Err(LogError::Truncated { wanted: position, first: *first });
        };
        if position.offset == 0 {
            return Ok(CursorState::before(header));
        }
        if position.offset < GENERATION_HEADER_BYTES as u64 {
            return Err(LogError::NotABorder(position));
        }
        let file = self.disk().open(&generation_path(self.directory(), position.generation))?;
        let mut state = crate::recovery::state_behind(header);
        let hole = crate::scan::walk(&file, &mut state, position.offset, &mut |_| {})?;
        if hole.is_some() || state.position != position {
            return Err(LogError::NotABorder(position));
        }
        Ok(state)
    }

    /// The chain value behind the frame that ends at `position`.
    ///
    /// # Errors
    /// As [`Self::state_at`].
    pub fn chain_at(&self, position: Position) -> Result<u32, LogError> {
        self.state_at(position).map(|state| state.chain)
    }

    /// Removes generations before `generation` (never the last one) and returns how many. Up to
    /// `recycle_max` files are kept to be written again.
    ///
    /// # Errors
    /// [`LogError::Poisoned`] if the names are in an unknown state.
    pub fn truncate_before(&mut self, generation: Generation) -> Result<usize, LogError> {
        self.check_healthy()?;
        let last = self.tail.as_ref().map_or(Generation(0), |tail| tail.header.generation);
        let generation = generation.min(last);
        let gone: Vec<_> = self.headers.range(..generation).map(|(g, _)| *g).collect();
        if gone.is_empty() {
            return Ok(0);
        }
        self.sync()?;
        self.shared.first.store(generation.0, Ordering::Release);
        let mut spares = Vec::new();
        for old in &gone {
            match self.release(*old, spares.len()) {
                Ok(spare) => spares.extend(spare),
                Err(error) => return Err(self.poison(error)),
            }
            self.headers.remove(old);
        }
        // A spare is written again only after its old name is durably gone: otherwise a crash could
        // bring the old name back, with new bytes under it.
        if let Err(error) = self.disk().sync_dir(self.directory()) {
            return Err(self.poison(error));
        }
        self.spares.append(&mut spares);
        Ok(gone.len())
    }

    fn release(&self, old: Generation, waiting: usize) -> Result<Option<PathBuf>, DiskError> {
        let path = generation_path(self.directory(), old);
        if self.spares.len() + waiting >= self.config.recycle_max {
            self.disk().remove(&path)?;
            return Ok(None);
        }
        let spare = spare_path(self.directory(), old.0);
        self.disk().rename(&path, &spare)?;
        Ok(Some(spare))
    }

    /// Forgets all unsynced work after the files were changed underneath.
    pub(crate) fn reset_pending(&mut self) {
        self.dirty.clear();
        self.untrimmed.clear();
        self.names_dirty = false;
    }
}

/// What a failed call puts back.
struct Before {
    written: Mark,
    tail: Option<Tail>,
    untrimmed: usize,
}

/// How many zeros to write behind a run that ends at `end`.
fn zeros_ahead(config: &LogConfig, first: &Chunk, end: Position, allocated: u64) -> usize {
    let run = end.offset - first.position.offset;
    if end.offset <= allocated || run >= config.zero_ahead_bytes {
        return 0;
    }
    let wanted = config.zero_ahead_bytes.min(end.offset.max(ZERO_AHEAD_BYTES_MIN));
    let room = config.generation_bytes.saturating_sub(end.offset);
    usize::try_from(wanted.min(room)).map_or(0, |bytes| bytes.min(ZEROS.len()))
}

trait PushNew {
    fn push_new(&mut self, file: &Arc<dyn DiskFile>);
}

impl PushNew for Vec<Arc<dyn DiskFile>> {
    fn push_new(&mut self, file: &Arc<dyn DiskFile>) {
        if !self.iter().any(|known| Arc::ptr_eq(known, file)) {
            self.push(Arc::clone(file));
        }
    }
}

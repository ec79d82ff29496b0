//! Cutting a log back: removing a fork, or what lies behind damage.
//!
//! What is cut is saved first, durably, as a salvage file that no automation ever deletes (G4). A
//! crash at any step leaves either the longer log, or one cut at a generation border behind the
//! target; the caller cuts again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use keelson_env::{DiskError, DiskFile};
use keelson_format::{CursorState, GENERATION_HEADER_BYTES};
use keelson_types::{Generation, Position};

use crate::files::{generation_path, list, salvage_path};
use crate::log::{Mark, Tail};
use crate::{Log, LogError};

/// Bytes copied at once into a salvage file.
const BLOCK_BYTES: usize = 1024 * 1024;

/// What a cut did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CutReport {
    /// The end of the log now.
    pub state: CursorState,
    /// Where the cut bytes are: the frames and headers that were behind the cut, one behind the
    /// other as in their files. `None` if there were none.
    pub salvage: Option<PathBuf>,
    /// How many bytes were saved.
    pub salvaged_bytes: u64,
}

/// One stretch of a file that is cut.
struct Piece {
    generation: Generation,
    from: u64,
    to: u64,
}

impl Log {
    /// Cuts the log at `to`, a border between frames at or before its end (or its damage), and
    /// lifts damage. `to` may be the end before the first kept generation: then the log is empty.
    ///
    /// # Errors
    /// [`LogError::NotABorder`], [`LogError::Truncated`], [`LogError::NoSpace`] (for the salvage):
    /// nothing was cut. [`LogError::Poisoned`] if it failed later; open the log again.
    pub fn cut(&mut self, to: Position) -> Result<CutReport, LogError> {
        self.check_healthy()?;
        let state = self.state_at(to)?;
        if to == self.position() && self.damage.is_none() {
            return Ok(CutReport { state, salvage: None, salvaged_bytes: 0 });
        }
        let pieces = self.pieces_behind(to)?;
        let (salvage, salvaged_bytes) = match self.save(to, &pieces) {
            Ok(saved) => saved,
            Err(error) => return Err(LogError::from_disk(error)),
        };
        let remove: Vec<_> = list(self.disk(), self.directory())?
            .generations
            .into_iter()
            .filter(|generation| self.is_behind(*generation, to))
            .collect();
        // Readers forget what they have open before the files change, and again afterwards.
        self.shared.cuts.fetch_add(1, Ordering::AcqRel);
        let removed = self.remove_behind(&remove, to);
        self.shared.cuts.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = removed {
            return Err(self.poison(error));
        }
        let mark = Mark { end: state.end, position: state.position };
        (self.written, self.durable) = (mark, mark);
        self.damage = None;
        Ok(CutReport { state, salvage, salvaged_bytes })
    }

    /// Whether a whole generation goes: its header lies at or behind the cut.
    fn is_behind(&self, generation: Generation, to: Position) -> bool {
        let before_first = self.headers.values().next().is_none_or(|h| h.previous_end == to);
        before_first
            || generation > to.generation
            || (generation == to.generation && to.offset == 0)
    }

    /// What is cut, in order. With damage the files are saved to their very end.
    fn pieces_behind(&self, to: Position) -> Result<Vec<Piece>, LogError> {
        let mut pieces = Vec::new();
        for generation in list(self.disk(), self.directory())?.generations {
            let whole = self.is_behind(generation, to);
            if !whole && generation != to.generation {
                continue;
            }
            let from = if whole { 0 } else { to.offset };
            let known = self.headers.get(&generation.next()).map(|next| next.previous_end.offset);
            let end = match known {
                Some(end) if self.damage.is_none() => end,
                None if self.damage.is_none() => self.position().offset,
                _ => self.disk().open(&generation_path(self.directory(), generation))?.size()?,
            };
            if end > from {
                pieces.push(Piece { generation, from, to: end });
            }
        }
        Ok(pieces)
    }

    fn save(&self, at: Position, pieces: &[Piece]) -> Result<(Option<PathBuf>, u64), DiskError> {
        if pieces.is_empty() {
            return Ok((None, 0));
        }
        let epoch = self.headers.last_key_value().map(|(_, h)| h.epoch).unwrap_or_default();
        let mut try_number = 0;
        let path = loop {
            let path = salvage_path(self.directory(), epoch, at, try_number);
            if !self.disk().exists(&path)? {
                break path;
            }
            try_number += 1;
        };
        let file = self.disk().create(&path)?;
        let saved = self.copy_pieces(&*file, pieces).and_then(|bytes| {
            file.sync()?;
            self.disk().sync_dir(self.directory())?;
            Ok(bytes)
        });
        if saved.is_err() {
            // The half salvage is of no use: nothing was cut.
            if let Err(error) = self.disk().remove(&path) {
                tracing::warn!(%error, "cannot remove an unfinished salvage file");
            }
        }
        saved.map(|bytes| (Some(path), bytes))
    }

    fn copy_pieces(&self, target: &dyn DiskFile, pieces: &[Piece]) -> Result<u64, DiskError> {
        let mut buffer = vec![0; BLOCK_BYTES];
        let mut written = 0;
        for piece in pieces {
            let source = self.disk().open(&generation_path(self.directory(), piece.generation))?;
            let mut offset = piece.from;
            while offset < piece.to {
                let left = usize::try_from(piece.to - offset).unwrap_or(BLOCK_BYTES);
                let block = &mut buffer[..left.min(BLOCK_BYTES)];
                let count = source.read_at(offset, block)?;
                if count == 0 {
                    break;
                }
                target.write_at(written, &block[..count])?;
                offset += count as u64;
                written += count as u64;
            }
        }
        Ok(written)
    }

    /// Whole files go first, latest first, and durably; then the file of the cut gets shorter. So a
    /// crash in between never leaves frames behind a hole.
    fn remove_behind(&mut self, remove: &[Generation], to: Position) -> Result<(), DiskError> {
        self.tail = None;
        self.reset_pending();
        for generation in remove.iter().rev() {
            self.disk().remove(&generation_path(self.directory(), *generation))?;
            self.headers.remove(generation);
        }
        self.disk().sync_dir(self.directory())?;
        let Some((generation, header)) = self.headers.last_key_value().map(|(g, h)| (*g, *h))
        else {
            self.shared.first.store(0, Ordering::Release);
            return Ok(());
        };
        let file = self.disk().open(&generation_path(self.directory(), generation))?;
        let end = if generation == to.generation { to.offset } else { file.size()? };
        debug_assert!(end >= GENERATION_HEADER_BYTES as u64);
        file.set_len(end)?;
        file.sync()?;
        self.tail = Some(Tail { header, file: Arc::clone(&file), allocated: end });
        Ok(())
    }
}

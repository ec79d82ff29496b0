//! Mending a log: bytes that rotted are written again, in their place, from another copy.
//!
//! Logs of copies are byte-identical, so a mend changes nothing but what is damaged: a crash in the
//! middle of it leaves right bytes, or the damage that was there before, and the mend is made
//! again. It needs no space, no second file and no rename, and works in the generation that is
//! being appended to as well. The damaged bytes are kept aside first, a bounded number of times.
//!
//! The caller has verified the bytes: they continue the log's chain from the last frame before the
//! damage ([`Log::state_before`]), and it goes on until [`Log::goes_on`] says that the own bytes
//! follow them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use keelson_env::{DiskError, DiskFile};
use keelson_format::{Chunk, CursorState, FRAME_HEADER_BYTES, FrameHeader};
use keelson_types::{Generation, Position};

use crate::files::{evidence_files, evidence_path, generation_path};
use crate::scan::read_header;
use crate::{Log, LogError};

/// Pieces of damaged log that are kept aside, the newest positions of them.
const EVIDENCE_MAX: usize = 16;

impl Log {
    /// The state with which whatever lies at `damage` must begin: behind the last frame before it,
    /// or, if that cannot be read either, behind the generation before.
    ///
    /// # Errors
    /// [`LogError::Truncated`] if the log does not reach back to it; damage before it; a failed
    /// disk call.
    pub fn state_before(&self, damage: Position) -> Result<CursorState, LogError> {
        if damage.offset > 0
            && let Ok(state) = self.state_at(damage)
        {
            return Ok(state);
        }
        match self.header(damage.generation) {
            Some(header) => self.state_at(header.previous_end),
            None => self.state_at(self.position()),
        }
    }

    /// Whether the own files hold what must follow `state`: the next frame, or the header of the
    /// next generation. It is read as the disk holds it.
    ///
    /// # Errors
    /// A failed disk call.
    pub fn goes_on(&self, state: &CursorState) -> Result<bool, LogError> {
        if self.damage.is_none() && state.position >= self.position() {
            return Ok(true);
        }
        let here = state.position.generation;
        if let Some(file) = self.open_fresh(here)? {
            let mut bytes = vec![0; FRAME_HEADER_BYTES];
            let count = file.read_at(state.position.offset, &mut bytes)?;
            if let Ok(header) = FrameHeader::decode(&bytes[..count]) {
                let mut next = *state;
                bytes.resize(FRAME_HEADER_BYTES + header.stored_bytes as usize, 0);
                let count = file.read_at(state.position.offset, &mut bytes)?;
                let whole = header.check_payload(&bytes[..count]).is_ok();
                if whole && next.advance_frame(&header).is_ok() {
                    return Ok(true);
                }
            }
        }
        let Some(file) = self.open_fresh(here.next())? else { return Ok(false) };
        let mut next = *state;
        Ok(read_header(&*file)?.is_ok_and(|header| next.advance_header(&header).is_ok()))
    }

    fn open_fresh(&self, generation: Generation) -> Result<Option<Arc<dyn DiskFile>>, DiskError> {
        let file = match self.disk().open(&generation_path(self.directory(), generation)) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        file.drop_cache()?;
        Ok(Some(file))
    }

    /// Writes verified bytes over damaged ones, durably. In a log that was opened with damage they
    /// lie at or behind it; the log is opened again afterwards and decides anew.
    ///
    /// # Errors
    /// [`LogError::Truncated`], [`LogError::NotABorder`] (bytes beyond the durable end),
    /// [`LogError::NoSpace`] (a lost file takes space): nothing was changed.
    /// [`LogError::Poisoned`] if a write or sync failed.
    pub fn mend(&mut self, chunk: &Chunk) -> Result<(), LogError> {
        self.check_healthy()?;
        self.check_mendable(chunk)?;
        let path = generation_path(self.directory(), chunk.position.generation);
        let lost = !self.disk().exists(&path)?;
        let file = if lost { self.disk().create(&path) } else { self.disk().open(&path) };
        let file = file.map_err(LogError::from_disk)?;
        if let Err(error) = self.keep_evidence(&*file, chunk) {
            // What is kept for people must not stop the mend.
            tracing::warn!(%error, "damaged log is not kept aside");
        }
        self.shared.cuts.fetch_add(1, Ordering::AcqRel);
        let written = file.write_at(chunk.position.offset, &chunk.bytes);
        let synced = written
            .and_then(|()| file.sync())
            .and_then(|()| if lost { self.disk().sync_dir(self.directory()) } else { Ok(()) });
        // Readers forget what they have open, so that a file that was lost is opened again.
        self.shared.cuts.fetch_add(1, Ordering::AcqRel);
        match synced {
            Ok(()) => Ok(()),
            Err(error) if error.is_no_space() && lost => {
                self.disk().remove(&path)?;
                Err(LogError::NoSpace)
            }
            Err(error) => Err(self.poison(error)),
        }
    }

    fn check_mendable(&self, chunk: &Chunk) -> Result<(), LogError> {
        let refuse = Err(LogError::NotABorder(chunk.end));
        if let Some(damage) = self.damage() {
            return if chunk.position >= damage.position { Ok(()) } else { refuse };
        }
        let first = self.first_generation().unwrap_or_default();
        if chunk.position.generation < first {
            return Err(LogError::Truncated { wanted: chunk.position, first });
        }
        let end = match self.header(chunk.position.generation.next()) {
            Some(next) => next.previous_end,
            None => self.durable_end().position,
        };
        let inside = chunk.end.generation == end.generation && chunk.end <= end;
        if inside { Ok(()) } else { refuse }
    }

    /// Copies what the chunk will replace into a file beside.
    fn keep_evidence(&self, file: &dyn DiskFile, chunk: &Chunk) -> Result<(), DiskError> {
        let path = evidence_path(self.directory(), chunk.position);
        if self.disk().exists(&path)? {
            return Ok(());
        }
        let kept: Vec<PathBuf> = evidence_files(self.disk(), self.directory())?;
        for old in kept.iter().take((kept.len() + 1).saturating_sub(EVIDENCE_MAX)) {
            self.disk().remove(old)?;
        }
        let mut bytes = vec![0; chunk.bytes.len()];
        let count = file.read_at(chunk.position.offset, &mut bytes)?;
        let evidence = self.disk().create(&path)?;
        evidence.write_at(0, &bytes[..count])
    }
}

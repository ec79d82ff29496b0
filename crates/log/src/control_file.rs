//! The control file of a copy on a disk: two slots, and every record is written into both, one
//! behind the other, each synced.
//!
//! One slot would do against torn writes. Both hold the newest promise because bytes also rot: with
//! one sound slot nothing that was promised is forgotten, whichever of them it is.

use std::path::Path;
use std::sync::Arc;

use keelson_env::{Disk, DiskError, DiskFile};
use keelson_format::{
    CONTROL_FILE_BYTES, CONTROL_SLOT_BYTES, ControlRecord, FormatError, choose_control,
    encode_control_slot,
};

/// Why a control file could not be read or written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlFileError {
    /// A disk call failed. After a failed write or sync the file must be opened again.
    #[error("a disk call on the control file failed")]
    Disk(#[from] DiskError),
    /// Neither slot decodes, or one is of a newer format.
    #[error("the control file does not decode")]
    Format(#[from] FormatError),
}

/// The control file of one copy. Its space is written once, when it is created, so that later
/// writes need none.
#[derive(Debug)]
pub struct ControlFile {
    file: Arc<dyn DiskFile>,
    counter: u64,
    next_slot: usize,
    failed: Option<DiskError>,
    bad_slot: bool,
}

impl ControlFile {
    /// Opens a control file, or creates it with its space written; with it the newest record, if
    /// there is one. What the page cache shows is made durable, or forgotten, first.
    ///
    /// # Errors
    /// [`ControlFileError`].
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
    ) -> Result<(Self, Option<ControlRecord>), ControlFileError> {
        let file = if disk.exists(path)? { disk.open(path)? } else { disk.create(path)? };
        if file.size()? < CONTROL_FILE_BYTES as u64 {
            Self::prepare(&*file)?;
        }
        file.sync()?;
        if let Some(parent) = path.parent() {
            disk.sync_dir(parent)?;
        }
        file.drop_cache()?;
        let mut bytes = vec![0; CONTROL_FILE_BYTES];
        let count = file.read_at(0, &mut bytes)?;
        bytes.truncate(count);
        let choice = choose_control(&bytes)?;
        let (counter, next_slot) = choice.as_ref().map_or((0, 0), |c| (c.counter, 1 - c.slot));
        if let Some(error) = choice.as_ref().and_then(|choice| choice.other) {
            tracing::warn!(%error, path = %path.display(), "one control slot does not decode");
        }
        let bad_slot = choice.as_ref().is_some_and(|choice| choice.other.is_some());
        let control = Self { file, counter, next_slot, failed: None, bad_slot };
        Ok((control, choice.map(|choice| choice.record)))
    }

    /// Fills the file with zeros from its end on: a creation that crashed half way is completed.
    fn prepare(file: &dyn DiskFile) -> Result<(), DiskError> {
        let size = file.size()?;
        let missing = usize::try_from(CONTROL_FILE_BYTES as u64 - size).unwrap_or(0);
        file.write_at(size, &vec![0; missing])
    }

    /// Whether opening found one slot that did not decode: a torn write, or rot. The next write
    /// mends it.
    #[must_use]
    pub const fn had_bad_slot(&self) -> bool {
        self.bad_slot
    }

    /// Whether the file holds `record`, the last one written, in both slots, byte for byte, as the
    /// disk has it.
    ///
    /// # Errors
    /// [`ControlFileError`].
    pub fn holds(&self, record: &ControlRecord) -> Result<bool, ControlFileError> {
        self.file.drop_cache()?;
        let mut bytes = vec![0; CONTROL_FILE_BYTES];
        let count = self.file.read_at(0, &mut bytes)?;
        bytes.truncate(count);
        let newest = slot_bytes(record, self.counter)?;
        let before = slot_bytes(record, self.counter.saturating_sub(1))?;
        let (at, other) = (1 - self.next_slot, self.next_slot);
        let slot = |index: usize| bytes.chunks(CONTROL_SLOT_BYTES).nth(index);
        Ok(slot(at) == Some(&newest[..]) && slot(other) == Some(&before[..]))
    }

    /// Writes a record durably: when this returns, it survives a crash, and the rot of either slot.
    /// It needs no space.
    ///
    /// # Errors
    /// [`ControlFileError`]; after a failed disk call every later write fails too.
    pub fn write(&mut self, record: &ControlRecord) -> Result<(), ControlFileError> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into());
        }
        self.write_slot(record)?;
        self.write_slot(record)
    }

    fn write_slot(&mut self, record: &ControlRecord) -> Result<(), ControlFileError> {
        let bytes = slot_bytes(record, self.counter + 1)?;
        let at = (self.next_slot * CONTROL_SLOT_BYTES) as u64;
        if let Err(error) = self.file.write_at(at, &bytes).and_then(|()| self.file.sync()) {
            self.failed = Some(error.clone());
            return Err(error.into());
        }
        self.counter += 1;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }
}

/// A slot with everything behind the record zero, so that each of its bytes is known.
fn slot_bytes(record: &ControlRecord, counter: u64) -> Result<Vec<u8>, FormatError> {
    let mut bytes = encode_control_slot(record, counter)?;
    bytes.resize(CONTROL_SLOT_BYTES, 0);
    Ok(bytes)
}

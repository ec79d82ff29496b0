//! The control file of a copy on a disk: two slots, written in turn, one sync per write.

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
        Ok((Self { file, counter, next_slot, failed: None }, choice.map(|choice| choice.record)))
    }

    /// Fills the file with zeros from its end on: a creation that crashed half way is completed.
    fn prepare(file: &dyn DiskFile) -> Result<(), DiskError> {
        let size = file.size()?;
        let missing = usize::try_from(CONTROL_FILE_BYTES as u64 - size).unwrap_or(0);
        file.write_at(size, &vec![0; missing])
    }

    /// Writes a record durably: when this returns, it survives a crash. It needs no space. The
    /// first write of all fills both slots, so that a torn one is told from a damaged file.
    ///
    /// # Errors
    /// [`ControlFileError`]; after a failed disk call every later write fails too.
    pub fn write(&mut self, record: &ControlRecord) -> Result<(), ControlFileError> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into());
        }
        if self.counter == 0 {
            self.write_slot(record)?;
        }
        self.write_slot(record)
    }

    fn write_slot(&mut self, record: &ControlRecord) -> Result<(), ControlFileError> {
        let bytes = encode_control_slot(record, self.counter + 1)?;
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

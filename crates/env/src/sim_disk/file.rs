//! A handle of a file on a simulated disk.

use std::fmt;
use std::path::PathBuf;
use std::sync::MutexGuard;

use crate::{DiskError, DiskErrorKind, DiskFile, DiskResult, DiskVerb};

use super::SimDisk;
use super::faults::Effect;
use super::volume::Volume;

/// A handle; it dies with the life of the machine in which it was opened.
pub(crate) struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    inode: u64,
    life: u64,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path.display())
    }
}

impl SimFile {
    pub(crate) fn new(disk: SimDisk, path: PathBuf, inode: u64, life: u64) -> Self {
        Self { disk, path, inode, life }
    }

    fn error(&self, verb: DiskVerb, kind: DiskErrorKind) -> DiskError {
        DiskError::new(&self.path, verb, kind)
    }

    fn enter(&self, verb: DiskVerb) -> DiskResult<MutexGuard<'_, Volume>> {
        let volume = self.disk.lock();
        if volume.faults.crashed || volume.life != self.life {
            return Err(self.error(verb, DiskErrorKind::Crashed));
        }
        Ok(volume)
    }

    fn change(&self, verb: DiskVerb, in_cache: bool) -> DiskResult<(MutexGuard<'_, Volume>, bool)> {
        let mut volume = self.enter(verb)?;
        match volume.faults.next(in_cache) {
            Effect::Proceed => Ok((volume, true)),
            Effect::CrashAfter => Ok((volume, false)),
            Effect::Refuse => Err(self.error(verb, DiskErrorKind::Crashed)),
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        let (mut volume, lives) = self.change(DiskVerb::Write, true)?;
        let fails = volume.faults.write_fails();
        let taken = if fails { &bytes[..bytes.len() / 2] } else { bytes };
        volume
            .write(self.inode, offset, taken)
            .map_err(|kind| self.error(DiskVerb::Write, kind))?;
        if !lives {
            return Err(self.error(DiskVerb::Write, DiskErrorKind::Crashed));
        }
        if fails {
            return Err(self.error(DiskVerb::Write, injected()));
        }
        Ok(())
    }
}

fn injected() -> DiskErrorKind {
    DiskErrorKind::Io("injected fault".to_owned())
}

impl DiskFile for SimFile {
    fn size(&self) -> DiskResult<u64> {
        let volume = self.enter(DiskVerb::Query)?;
        Ok(volume.inodes[&self.inode].current.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> DiskResult<usize> {
        let volume = self.enter(DiskVerb::Read)?;
        let bytes = &volume.inodes[&self.inode].current;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        self.write(offset, bytes)
    }

    fn write_parts_at(&self, offset: u64, parts: &[&[u8]]) -> DiskResult<()> {
        self.write(offset, &parts.concat())
    }

    fn sync(&self) -> DiskResult<()> {
        let (mut volume, _) = self.change(DiskVerb::Sync, false)?;
        let fails = volume.faults.sync_fails();
        let file = volume.inodes.get_mut(&self.inode).expect("an open file has an inode");
        if fails {
            file.fail_sync();
            return Err(self.error(DiskVerb::Sync, injected()));
        }
        file.sync();
        volume.faults.syncs += 1;
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> DiskResult<()> {
        let (mut volume, _) = self.change(DiskVerb::SetLen, false)?;
        volume.set_len(self.inode, bytes).map_err(|kind| self.error(DiskVerb::SetLen, kind))
    }

    fn allocate(&self, offset: u64, bytes: u64) -> DiskResult<()> {
        let (mut volume, _) = self.change(DiskVerb::Allocate, false)?;
        let length = volume.inodes[&self.inode].current.len() as u64;
        volume
            .set_len(self.inode, length.max(offset.saturating_add(bytes)))
            .map_err(|kind| self.error(DiskVerb::Allocate, kind))
    }

    fn drop_cache(&self) -> DiskResult<()> {
        let mut volume = self.enter(DiskVerb::DropCache)?;
        volume.inodes.get_mut(&self.inode).expect("an open file has an inode").drop_cache();
        Ok(())
    }
}

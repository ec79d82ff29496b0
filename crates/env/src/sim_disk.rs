//! An in-memory disk that loses what was not synced, on purpose and repeatably.
//!
//! What it models: sectors of 512 bytes are written whole or not at all; bytes, lengths and names
//! that were not synced survive a crash by chance; a failed sync leaves bytes that reads still show
//! and that no later sync writes; a full volume takes a part of a write. Directories themselves are
//! durable at once. Every decision comes from the seed of [`SimDisk::crash`].
//!
//! Every changing call has a number ([`SimDisk::operations`]); a test runs a scenario once to
//! count, then once per number with [`SimDisk::crash_at`], so that it crashes at every durable
//! step.

mod faults;
mod file;
mod volume;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{DirEntry, Disk, DiskError, DiskErrorKind, DiskFile, DiskResult, DiskVerb};

use faults::Effect;
use file::SimFile;
use volume::Volume;

pub use faults::SplitMix64;

/// Bytes that the disk writes whole or not at all.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// A simulated volume. Clones share it; [`SimDisk::duplicate`] makes an independent one.
#[derive(Clone)]
pub struct SimDisk {
    volume: Arc<Mutex<Volume>>,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({} operations)", self.operations())
    }
}

impl SimDisk {
    /// An empty volume without a quota.
    #[must_use]
    pub fn new() -> Self {
        Self { volume: Arc::new(Mutex::new(Volume::default())) }
    }

    fn lock(&self) -> MutexGuard<'_, Volume> {
        self.volume.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many changing calls (write, sync, length, allocation, create, remove, rename, directory
    /// sync) were made since the volume was created.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().faults.operations
    }

    /// How many file syncs succeeded.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.lock().faults.syncs
    }

    /// The machine crashes in the changing call with this number (the first call is 1): a write has
    /// taken effect in the cache, anything else has not; this and all later calls fail with
    /// `Crashed` until [`Self::crash`].
    pub fn crash_at(&self, operation: u64) {
        self.lock().faults.crash_at = Some(operation);
    }

    /// The `nth` file sync from now (1 is the next) fails with an I/O error and loses what it
    /// should have written.
    pub fn fail_sync(&self, nth: u64) {
        self.lock().faults.fail_sync_in = Some(nth);
    }

    /// The `nth` write from now (1 is the next) fails with an I/O error after half of its bytes.
    pub fn fail_write(&self, nth: u64) {
        self.lock().faults.fail_write_in = Some(nth);
    }

    /// Limits the sum of all file lengths; `None` lifts the limit. Writes into existing bytes
    /// succeed on a full volume.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.lock().quota = bytes;
    }

    /// The machine loses power and starts again. Everything not synced survives or not by chance;
    /// handles opened before are dead.
    pub fn crash(&self, seed: u64) {
        self.lock().crash(seed);
    }

    /// The process dies, the machine lives: nothing is lost, but handles opened before are dead and
    /// a crash set by [`Self::crash_at`] is over.
    pub fn restart_process(&self) {
        self.lock().restart_process();
    }

    /// An independent copy of the volume as reads show it, all of it durable (a cloned directory).
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { volume: Arc::new(Mutex::new(self.lock().duplicate())) }
    }

    /// The disk is replaced by an empty one.
    pub fn wipe(&self) {
        self.lock().wipe();
    }

    /// Flips one bit (0 to 7) of the byte at `offset`, in the cache and on the disk: rot that no
    /// write caused. Returns whether the file is that long.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        self.lock().flip_bit(path, offset, bit)
    }

    /// The bytes of a file as reads show them; `None` if there is no such file.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let volume = self.lock();
        volume.inode_of(path).map(|inode| volume.inodes[&inode].current.clone())
    }

    fn change(&self, path: &Path, verb: DiskVerb) -> DiskResult<MutexGuard<'_, Volume>> {
        let mut volume = self.lock();
        match volume.faults.next(false) {
            Effect::Proceed => Ok(volume),
            _ => Err(DiskError::new(path, verb, DiskErrorKind::Crashed)),
        }
    }

    fn look(&self, path: &Path, verb: DiskVerb) -> DiskResult<MutexGuard<'_, Volume>> {
        let volume = self.lock();
        if volume.faults.crashed {
            return Err(DiskError::new(path, verb, DiskErrorKind::Crashed));
        }
        Ok(volume)
    }

    fn handle(&self, path: &Path, inode: u64, life: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile::new(self.clone(), path.to_path_buf(), inode, life))
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> DiskResult<()> {
        let mut volume = self.look(path, DiskVerb::CreateDir)?;
        volume.create_dir_all(path).map_err(|kind| DiskError::new(path, DiskVerb::CreateDir, kind))
    }

    fn list(&self, path: &Path) -> DiskResult<Vec<DirEntry>> {
        let volume = self.look(path, DiskVerb::List)?;
        volume.list(path).map_err(|kind| DiskError::new(path, DiskVerb::List, kind))
    }

    fn open(&self, path: &Path) -> DiskResult<Arc<dyn DiskFile>> {
        let volume = self.look(path, DiskVerb::Open)?;
        let inode = volume
            .inode_of(path)
            .ok_or_else(|| DiskError::new(path, DiskVerb::Open, DiskErrorKind::NotFound))?;
        Ok(self.handle(path, inode, volume.life))
    }

    fn create(&self, path: &Path) -> DiskResult<Arc<dyn DiskFile>> {
        let mut volume = self.change(path, DiskVerb::Create)?;
        let inode =
            volume.create(path).map_err(|kind| DiskError::new(path, DiskVerb::Create, kind))?;
        Ok(self.handle(path, inode, volume.life))
    }

    fn remove(&self, path: &Path) -> DiskResult<()> {
        let mut volume = self.change(path, DiskVerb::Remove)?;
        volume.remove(path).map_err(|kind| DiskError::new(path, DiskVerb::Remove, kind))
    }

    fn rename(&self, from: &Path, to: &Path) -> DiskResult<()> {
        let mut volume = self.change(from, DiskVerb::Rename)?;
        volume.rename(from, to).map_err(|kind| DiskError::new(from, DiskVerb::Rename, kind))
    }

    fn exists(&self, path: &Path) -> DiskResult<bool> {
        let volume = self.look(path, DiskVerb::Query)?;
        Ok(volume.inode_of(path).is_some() || volume.directories.contains(path))
    }

    fn sync_dir(&self, path: &Path) -> DiskResult<()> {
        let mut volume = self.change(path, DiskVerb::SyncDir)?;
        volume.sync_dir(path).map_err(|kind| DiskError::new(path, DiskVerb::SyncDir, kind))
    }

    fn free_bytes(&self, path: &Path) -> DiskResult<u64> {
        Ok(self.look(path, DiskVerb::Query)?.free_bytes())
    }
}

#[cfg(test)]
mod tests;

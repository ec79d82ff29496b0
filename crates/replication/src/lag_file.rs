//! The files in which a copy with lags keeps when its log was inspected and replayed, and since
//! when a play-down of its lag is due.
//!
//! Checksum, then the bytes. A file is replaced as a whole; a clock that is torn, rotten or missing
//! makes the copy lag longer, never shorter, and without the other file the wait for a play-down
//! begins anew.

use std::path::{Path, PathBuf};

use keelson_env::{Disk, DiskError};

use crate::whole_file;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The clock of the lag.
    Clock,
    /// What the monitor of play-downs remembers.
    Monitor,
}

impl Kept {
    fn path(self, directory: &Path) -> PathBuf {
        directory.join(match self {
            Self::Clock => "lag-clock",
            Self::Monitor => "lag-monitor",
        })
    }
}

/// Both files, as found when the copy was opened.
#[derive(Debug, Default)]
pub(crate) struct SavedLag {
    pub(crate) clock: Option<Vec<u8>>,
    pub(crate) monitor: Option<Vec<u8>>,
}

impl SavedLag {
    pub(crate) fn load(disk: &dyn Disk, directory: &Path) -> Self {
        let load = |kept| load(disk, directory, kept);
        Self { clock: load(Kept::Clock), monitor: load(Kept::Monitor) }
    }
}

/// Largest file that is read; a clock has a bounded number of marks.
const BYTES_MAX: usize = 1024 * 1024;

/// Replaces the file.
pub(crate) fn save(
    disk: &dyn Disk,
    directory: &Path,
    kept: Kept,
    clock: &[u8],
) -> Result<(), DiskError> {
    let mut bytes = crc32fast::hash(clock).to_le_bytes().to_vec();
    bytes.extend_from_slice(clock);
    whole_file::replace(disk, &kept.path(directory), &bytes)
}

/// The bytes, if the file is whole.
fn load(disk: &dyn Disk, directory: &Path, kept: Kept) -> Option<Vec<u8>> {
    let bytes = whole_file::read(disk, &kept.path(directory), BYTES_MAX).ok()??;
    let (crc, clock) = bytes.split_first_chunk()?;
    (u32::from_le_bytes(*crc) == crc32fast::hash(clock)).then(|| clock.to_vec())
}

/// Whether there is a file that is not whole.
pub(crate) fn is_damaged(disk: &dyn Disk, directory: &Path) -> bool {
    [Kept::Clock, Kept::Monitor].into_iter().any(|kept| {
        let fresh = disk.open(&kept.path(directory)).and_then(|file| file.drop_cache());
        fresh.is_ok() && load(disk, directory, kept).is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_env::SimDisk;

    #[test]
    fn a_clock_comes_back_whole_or_not_at_all() {
        let (disk, directory) = (SimDisk::new(), Path::new("/d"));
        disk.create_dir_all(directory).unwrap();
        assert_eq!(load(&disk, directory, Kept::Clock), None);
        save(&disk, directory, Kept::Clock, b"one").unwrap();
        save(&disk, directory, Kept::Clock, b"two").unwrap();
        assert_eq!(load(&disk, directory, Kept::Clock), Some(b"two".to_vec()));
        assert!(disk.flip_bit(&Kept::Clock.path(directory), 5, 1));
        assert_eq!(load(&disk, directory, Kept::Clock), None);
    }
}

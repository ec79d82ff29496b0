//! The file in which a copy with lags keeps when its log was inspected and replayed.
//!
//! Checksum, then the bytes of the clock. It is replaced as a whole; a file that is torn, rotten or
//! missing makes the copy lag longer, never shorter.

use std::path::{Path, PathBuf};

use keelson_env::{Disk, DiskError};

/// Largest file that is read; a clock has a bounded number of marks.
const BYTES_MAX: u64 = 1024 * 1024;

fn path(directory: &Path) -> PathBuf {
    directory.join("lag-clock")
}

/// Replaces the file.
pub(crate) fn save(disk: &dyn Disk, directory: &Path, clock: &[u8]) -> Result<(), DiskError> {
    let fresh = directory.join("lag-clock.new");
    if disk.exists(&fresh)? {
        disk.remove(&fresh)?;
    }
    let file = disk.create(&fresh)?;
    let mut bytes = crc32fast::hash(clock).to_le_bytes().to_vec();
    bytes.extend_from_slice(clock);
    file.write_at(0, &bytes)?;
    file.sync()?;
    disk.rename(&fresh, &path(directory))?;
    disk.sync_dir(directory)
}

/// The bytes of the clock, if the file is whole.
pub(crate) fn load(disk: &dyn Disk, directory: &Path) -> Option<Vec<u8>> {
    let path = path(directory);
    if !disk.exists(&path).ok()? {
        return None;
    }
    let file = disk.open(&path).ok()?;
    let size = file.size().ok().filter(|size| *size <= BYTES_MAX)?;
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    let read = file.read_at(0, &mut bytes).ok()?;
    bytes.truncate(read);
    let (crc, clock) = bytes.split_first_chunk()?;
    (u32::from_le_bytes(*crc) == crc32fast::hash(clock)).then(|| clock.to_vec())
}

/// Whether there is a file that is not whole.
pub(crate) fn is_damaged(disk: &dyn Disk, directory: &Path) -> bool {
    let path = path(directory);
    let fresh = disk.open(&path).and_then(|file| file.drop_cache());
    fresh.is_ok() && load(disk, directory).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_env::SimDisk;

    #[test]
    fn a_clock_comes_back_whole_or_not_at_all() {
        let (disk, directory) = (SimDisk::new(), Path::new("/d"));
        disk.create_dir_all(directory).unwrap();
        assert_eq!(load(&disk, directory), None);
        save(&disk, directory, b"one").unwrap();
        save(&disk, directory, b"two").unwrap();
        assert_eq!(load(&disk, directory), Some(b"two".to_vec()));
        assert!(disk.flip_bit(&path(directory), 5, 1));
        assert_eq!(load(&disk, directory), None);
    }
}

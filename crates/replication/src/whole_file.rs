//! Small files that are replaced as a whole: a crash leaves the old one or the new one.

use std::path::Path;

use keelson_env::{Disk, DiskError};

/// Replaces the file. It may be torn only if the disk lies, so its bytes carry a checksum.
///
/// # Errors
/// The disk's; then the old file is there still.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let fresh = path.with_extension("new");
    if disk.exists(&fresh)? {
        disk.remove(&fresh)?;
    }
    let file = disk.create(&fresh)?;
    file.write_at(0, bytes)?;
    file.sync()?;
    disk.rename(&fresh, path)?;
    sync_parent(disk, path)
}

/// Its bytes; `None` if there is no file, or one of more than `bytes_max`.
///
/// # Errors
/// The disk's.
pub(crate) fn read(
    disk: &dyn Disk,
    path: &Path,
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, DiskError> {
    if !disk.exists(path)? {
        return Ok(None);
    }
    let file = disk.open(path)?;
    let size = usize::try_from(file.size()?).unwrap_or(usize::MAX);
    if size > bytes_max {
        return Ok(None);
    }
    let mut bytes = vec![0; size];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Removes the file durably, if it is there.
///
/// # Errors
/// The disk's; then it may be there still.
pub(crate) fn remove(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    if disk.exists(path)? {
        disk.remove(path)?;
    }
    sync_parent(disk, path)
}

fn sync_parent(disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
    path.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))
}

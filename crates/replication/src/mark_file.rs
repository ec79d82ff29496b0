//! The mark of a range fetch, as a file beside the control file of its copy.
//!
//! A file that is there and does not decode means that anything of the store may be wrong: all of
//! it is fetched (`rebuild`). Only its absence means that the store is whole.

use std::path::{Path, PathBuf};

use keelson_copy_core::range_fetch::{MARK_BYTES_MAX, Mark, MarkError};
use keelson_env::Disk;
use keelson_types::{CopyFault, CopyId};

use crate::whole_file;

/// Where it lies. Another copy of the database may have lain in the same directory.
pub(crate) fn path(directory: &Path, copy: CopyId) -> PathBuf {
    directory.join(format!("mark-{copy}"))
}

/// The mark, if one stands.
///
/// # Errors
/// Why the copy cannot be used.
pub(crate) fn load(disk: &dyn Disk, path: &Path) -> Result<Option<Mark>, CopyFault> {
    let io = |error: keelson_env::DiskError| CopyFault::LogIo(format!("mark of a fetch: {error}"));
    let there = disk.exists(path).map_err(io)?;
    let bytes = whole_file::read(disk, path, MARK_BYTES_MAX).map_err(io)?;
    if !there {
        return Ok(None);
    }
    match Mark::decode(&bytes.unwrap_or_default()) {
        Ok(mark) => Ok(Some(mark)),
        Err(MarkError::NewerFormat(version)) => Err(CopyFault::NeedsVersion(version)),
        Err(error) => {
            Err(CopyFault::Diverged(format!("what of the store is wrong is not known: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_copy_core::range_fetch::{CostBook, Fetched, Purpose, Span, StoreKey};
    use keelson_env::SimDisk;
    use keelson_types::{Epoch, Position};

    fn mark() -> Mark {
        Mark {
            purpose: Purpose::Repair,
            spans: [Span::all()].into_iter().collect(),
            epoch: Epoch::new(0, 3),
            floor: Position::new(1, 10),
            q: None,
            fetched: Fetched::Before(StoreKey::FIRST),
            rounds: 1,
            costs: CostBook::default(),
        }
    }

    #[test]
    fn a_mark_that_is_there_is_never_taken_for_none() {
        let (disk, directory) = (SimDisk::new(), Path::new("/d"));
        disk.create_dir_all(directory).unwrap();
        let path = path(directory, CopyId::from_u128(1));
        assert_eq!(load(&disk, &path), Ok(None));
        whole_file::replace(&disk, &path, &mark().encode()).unwrap();
        assert_eq!(load(&disk, &path), Ok(Some(mark())));
        assert!(disk.flip_bit(&path, 30, 1));
        assert!(matches!(load(&disk, &path), Err(CopyFault::Diverged(_))));
        whole_file::remove(&disk, &path).unwrap();
        assert_eq!(load(&disk, &path), Ok(None));
    }

    /// A crash at every step of the disk leaves the old mark or the new one.
    #[test]
    fn a_crash_leaves_one_mark_or_the_other() {
        let newer = Mark { rounds: 2, ..mark() };
        let mut seen = [false; 2];
        for step in 1..20 {
            for seed in 0..4 {
                let (disk, directory) = (SimDisk::new(), Path::new("/d"));
                disk.create_dir_all(directory).unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
                let path = path(directory, CopyId::from_u128(1));
                whole_file::replace(&disk, &path, &mark().encode()).unwrap();
                disk.crash_at(disk.operations() + step);
                let replaced = whole_file::replace(&disk, &path, &newer.encode());
                disk.crash(seed);
                let found = load(&disk, &path).unwrap().unwrap();
                assert!(found == mark() || found == newer, "{found:?}");
                assert!(replaced.is_err() || found == newer, "what was reported is durable");
                seen[usize::from(found == newer)] = true;
            }
        }
        assert_eq!(seen, [true; 2]);
    }
}

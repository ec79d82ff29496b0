//! The one directory of a run: everything is in it, and it goes at the end in any case.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// The directory. Others may pass through it, since not every server runs as our user; what is in
/// it protects itself.
#[derive(Debug)]
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    /// A new directory below `parent`, or below that for temporary files.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn new(parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let directory = tempfile::Builder::new().prefix("keelson-peers-").tempdir_in(&parent);
        let directory = directory
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711))?;
        Ok(Self { directory })
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A new directory in it.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// Removes what the last system left, so that the next one finds as much room.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(crate) fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(self.path())? {
            let path = entry?.path();
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_in_one_directory_and_goes_with_it() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place::new(Some(parent.path())).unwrap();
        let inner = place.fresh("server").unwrap();
        fs::write(inner.join("file"), "x").unwrap();
        fs::write(place.path().join("file"), "x").unwrap();
        assert!(inner.starts_with(place.path()) && place.path().starts_with(parent.path()));
        place.clear().unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        drop(place);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}

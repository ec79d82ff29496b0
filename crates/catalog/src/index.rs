//! A catalog as a directory: made, opened, checked, removed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tantivy::{Index, IndexReader, ReloadPolicy, Searcher};

use crate::error::{CatalogError, guarded};
use crate::schema::{Fields, register_tokenizers, schema};
use crate::stamp::Reflected;
use crate::writer::CatalogWriter;

/// The engine's list of the files of a commit.
const LIST: &str = "meta.json";
/// The engine's list of the files that it made, and may remove when no commit needs them.
const OWNED: &str = ".managed.json";
/// How often a snapshot is begun again because the list changed meanwhile.
const SNAPSHOT_TRIES: usize = 50;

/// Number of records that can be found.
pub type DocumentCount = u64;

/// An open catalog, as one commit left it: searches of a value see the same until that value is
/// reloaded, whatever its clones or the writer do.
#[derive(Clone)]
pub struct Catalog {
    directory: PathBuf,
    pub(crate) index: Index,
    reader: IndexReader,
    pub(crate) searcher: Searcher,
    pub(crate) fields: Fields,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Catalog {
    /// Opens the catalog in a directory; nothing if there is none.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`] also for a directory of another version: it is to be removed.
    pub fn open(directory: &Path) -> Result<Option<Self>, CatalogError> {
        if !directory.join(LIST).exists() {
            return Ok(None);
        }
        guarded("opening", || {
            let index = Index::open_in_dir(directory).map_err(|error| match error.into() {
                // A list of files that does not parse comes as many errors.
                CatalogError::Failed(why) => CatalogError::Damaged(why),
                other => other,
            })?;
            Self::of(directory, index).map(Some)
        })
    }

    /// Makes an empty one that reflects nothing yet, in place of whatever is there.
    ///
    /// # Errors
    /// [`CatalogError::NoSpace`], [`CatalogError::Failed`].
    pub fn create(directory: &Path) -> Result<Self, CatalogError> {
        Self::remove(directory)?;
        fs::create_dir_all(directory).map_err(|error| CatalogError::of_io(&error))?;
        let index = Index::create_in_dir(directory, schema())?;
        Self::of(directory, index)
    }

    fn of(directory: &Path, index: Index) -> Result<Self, CatalogError> {
        register_tokenizers(&index);
        let fields = Fields::of(&index)
            .filter(|_| index.schema() == schema())
            .ok_or_else(|| CatalogError::Damaged("it has the fields of another version".into()))?;
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        let searcher = reader.searcher();
        Ok(Self { directory: directory.to_owned(), index, reader, searcher, fields })
    }

    /// Removes a catalog that nobody has open. Nothing happens if there is none.
    ///
    /// # Errors
    /// [`CatalogError::Failed`]; some of it may be gone.
    pub fn remove(directory: &Path) -> Result<(), CatalogError> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CatalogError::of_io(&error))
            }
            _ => Ok(()),
        }
    }

    /// The last commit as a catalog of its own in another directory of the volume, by hard links,
    /// in place of whatever is there. This one goes on meanwhile.
    ///
    /// # Errors
    /// [`CatalogError::Failed`] also if it changes all the time.
    pub fn snapshot(&self, to: &Path) -> Result<Self, CatalogError> {
        for _ in 0..SNAPSHOT_TRIES {
            Self::remove(to)?;
            if self.link_commit(to)? {
                return Self::adopt(to);
            }
        }
        Err(CatalogError::Failed("it changes too often to be read".into()))
    }

    /// Links the files of the last commit; false if another one came meanwhile.
    fn link_commit(&self, to: &Path) -> Result<bool, CatalogError> {
        let failed = |error: std::io::Error| CatalogError::of_io(&error);
        let list = fs::read(self.directory.join(LIST)).map_err(failed)?;
        // Files of segments that somebody knows of are not removed.
        let metas = self.index.load_metas()?;
        let segments: Vec<_> = metas.segments.iter().map(|s| s.id().uuid_string()).collect();
        fs::create_dir_all(to).map_err(failed)?;
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let text = name.to_string_lossy();
            if !segments.iter().any(|segment| text.starts_with(segment.as_str())) {
                continue;
            }
            match fs::hard_link(self.directory.join(&name), to.join(&name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed(error));
                }
                _ => {}
            }
        }
        if fs::read(self.directory.join(LIST)).map_err(failed)? != list {
            return Ok(false);
        }
        write_whole(&to.join(LIST), &list)?;
        Ok(true)
    }

    /// Opens files that were copied here from another catalog as one that owns them. They are of
    /// this version and say what they reflect; whether they are whole, [`Self::verify`] tells.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`] if they are no catalog of this version.
    pub fn adopt(directory: &Path) -> Result<Self, CatalogError> {
        let failed = |error: std::io::Error| CatalogError::of_io(&error);
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        let owned = serde_json::to_vec(&names).map_err(|e| CatalogError::Failed(e.to_string()))?;
        write_whole(&directory.join(OWNED), &owned)?;
        let nothing = || CatalogError::Damaged("there is no list of its files".into());
        let catalog = Self::open(directory)?.ok_or_else(nothing)?;
        match catalog.reflected()? {
            Some(_) => Ok(catalog),
            None => Err(CatalogError::Damaged("it reflects nothing".into())),
        }
    }

    /// What the last commit reflects; nothing before the first one.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`] if it says so in a way that makes no sense.
    pub fn reflected(&self) -> Result<Option<Reflected>, CatalogError> {
        let metas = self.index.load_metas()?;
        let Some(line) = metas.payload else { return Ok(None) };
        let stamp = Reflected::decode(&line);
        stamp.map(Some).ok_or_else(|| CatalogError::Damaged("its stamp is not whole".into()))
    }

    /// A writer; there is one at a time.
    ///
    /// # Errors
    /// [`CatalogError::Failed`] while there is another one.
    pub fn writer(&self, fields: Vec<String>) -> Result<CatalogWriter, CatalogError> {
        CatalogWriter::open(self, fields)
    }

    /// Lets searches of this value see what was committed since.
    ///
    /// # Errors
    /// [`CatalogError`] of reading the new files.
    pub fn reload(&mut self) -> Result<(), CatalogError> {
        guarded("reading", || Ok::<_, CatalogError>(self.reader.reload()?))?;
        self.searcher = self.reader.searcher();
        Ok(())
    }

    /// Records that can be found, as of the last reload.
    #[must_use]
    pub fn document_count(&self) -> DocumentCount {
        self.searcher.num_docs()
    }

    /// Bytes on disk.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// Reads every file as the disk holds it and compares checksums; gives the bytes read.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`] with the files that are wrong.
    pub fn verify(&self) -> Result<u64, CatalogError> {
        self.forget_caches();
        self.reflected()?;
        let damaged =
            guarded("checking", || Ok::<_, CatalogError>(self.index.validate_checksum()?))?;
        if damaged.is_empty() {
            return Ok(self.size_bytes());
        }
        let mut names: Vec<_> = damaged.iter().map(|path| path.display().to_string()).collect();
        names.sort();
        Err(CatalogError::Damaged(names.join(", ")))
    }

    /// What cannot be forgotten is checked as it is in memory.
    fn forget_caches(&self) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if let Ok(file) = File::open(entry.path()) {
                let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
            }
        }
    }
}

/// Writes a file and makes it durable; its name is durable once its directory is synced.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CatalogError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| CatalogError::of_io(&error))
}

#[cfg(test)]
mod tests;

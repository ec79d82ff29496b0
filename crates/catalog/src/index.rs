//! A catalog as a directory: made, opened, checked, removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tantivy::{Index, IndexReader, ReloadPolicy};

use crate::error::{CatalogError, guarded};
use crate::schema::{Fields, register_tokenizers, schema};
use crate::stamp::Reflected;
use crate::writer::CatalogWriter;

/// Number of records that can be found.
pub type DocumentCount = u64;

/// An open catalog. Clones share it; searches run beside the writer.
#[derive(Clone)]
pub struct Catalog {
    directory: PathBuf,
    pub(crate) index: Index,
    pub(crate) reader: IndexReader,
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
        if !directory.join("meta.json").exists() {
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
        Ok(Self { directory: directory.to_owned(), index, reader, fields })
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

    /// Lets searches see what was committed since.
    ///
    /// # Errors
    /// [`CatalogError`] of reading the new files.
    pub fn reload(&self) -> Result<(), CatalogError> {
        guarded("reading", || Ok(self.reader.reload()?))
    }

    /// Records that can be found, as of the last reload.
    #[must_use]
    pub fn document_count(&self) -> DocumentCount {
        self.reader.searcher().num_docs()
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

//! What a seed has on the target's disk: staging, the record, and how the files become a copy.
//!
//! Staging is `temp-seeding/store` and, for the content index, `ci-seed.temp` below the directory
//! of the database, and `temp-seeding/log` below that of its logs, which may be another volume. A
//! file has its name there once it is verified and durable; what arrives has the ending `.part`.
//! Installing a copy renames these directories to the names that its id gives them and then writes
//! its control file beside that of the old one: that write is the install, and what consensus says
//! afterwards decides which of the two is opened. Installing an index alone is one rename, to the
//! place where the copy looks for it; the record says before that all of it is verified.
//!
//! Crash cases: before the control file is written, half of the renames are taken back; after it,
//! nothing but consensus is missing. A verified index that is in staging is not in place yet, one
//! that has left staging is. Everything here blocks.

use std::path::{Path, PathBuf};

use keelson_catalog::{Catalog, CatalogError};
use keelson_copy_core::seed::{SEED_RECORD_BYTES_MAX, SeedRecord, Staged};
use keelson_env::{Disk, DiskError};
use keelson_format::{ControlRecord, SeedFile, SeedManifest, SeedPlace};
use keelson_log::{ControlFile, ControlFileError, LogError};
use keelson_types::{CopyId, DatabaseId, LogId, News, Position, SpareOrder, StoreId};

use super::source::{digest_of, subdirectory};
use super::staged::StagedLog;
use crate::catalog;
use crate::open::{Places, note_created};
use crate::owner::unix_millis;
use crate::scrub::ScrubReport;
use crate::volumes::Stays;
use crate::whole_file;

mod clearing;
mod incoming;
#[cfg(test)]
mod tests;

pub(crate) use incoming::{Incoming, Refused};

const STAGING: &str = "temp-seeding";
const INDEX_STAGING: &str = "ci-seed.temp";
/// In the order in which they are put in place.
const PLACES: [SeedPlace; 3] = [SeedPlace::Store, SeedPlace::Log, SeedPlace::Catalog];
const RECORD: &str = "seed";
const PART: &str = "part";

/// Why something on the disk did not work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PlaceError {
    pub(crate) full: bool,
    pub(crate) text: String,
}

impl From<DiskError> for PlaceError {
    fn from(error: DiskError) -> Self {
        Self { full: error.is_no_space(), text: error.to_string() }
    }
}

impl From<ControlFileError> for PlaceError {
    fn from(error: ControlFileError) -> Self {
        Self { full: false, text: format!("control file: {error}") }
    }
}

impl From<LogError> for PlaceError {
    fn from(error: LogError) -> Self {
        Self { full: error == LogError::NoSpace, text: error.to_string() }
    }
}

impl From<std::io::Error> for PlaceError {
    fn from(error: std::io::Error) -> Self {
        let full = error.kind() == std::io::ErrorKind::StorageFull;
        Self { full, text: error.to_string() }
    }
}

type Placed<T> = Result<T, PlaceError>;

/// What an earlier life left.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) record: Option<SeedRecord>,
    /// The new copy's control file is written.
    pub(crate) installed: bool,
}

/// Where the seed of one database keeps its files.
#[derive(Clone, Debug)]
pub(crate) struct SeedFiles {
    places: Places,
    database: DatabaseId,
}

impl SeedFiles {
    pub(crate) const fn new(places: Places, database: DatabaseId) -> Self {
        Self { places, database }
    }

    fn disk(&self) -> &dyn Disk {
        &*self.places.disk
    }

    fn home(&self, place: SeedPlace) -> PathBuf {
        match place {
            SeedPlace::Store | SeedPlace::Catalog => self.places.database(self.database),
            SeedPlace::Log => self.places.logs.join("databases").join(self.database.to_string()),
        }
    }

    /// All of staging on one side.
    fn staging_root(&self, place: SeedPlace) -> PathBuf {
        self.home(place).join(match place {
            SeedPlace::Store | SeedPlace::Log => STAGING,
            SeedPlace::Catalog => INDEX_STAGING,
        })
    }

    fn staging(&self, place: SeedPlace) -> PathBuf {
        match place {
            SeedPlace::Store | SeedPlace::Log => self.staging_root(place).join(subdirectory(place)),
            SeedPlace::Catalog => self.staging_root(place),
        }
    }

    fn record_path(&self) -> PathBuf {
        self.home(SeedPlace::Store).join(RECORD)
    }

    /// Where the files of the new copy lie once they are installed.
    fn installed(&self, place: SeedPlace, copy: CopyId) -> PathBuf {
        match place {
            SeedPlace::Store => {
                self.places.store(self.database, StoreId::from_bytes(copy.into_bytes()))
            }
            SeedPlace::Log => self.places.log(self.database, LogId::from_bytes(copy.into_bytes())),
            SeedPlace::Catalog => catalog::directory_of(&self.installed(SeedPlace::Store, copy)),
        }
    }

    /// The control file of a copy that is not the one in use.
    fn control_aside(&self, copy: CopyId) -> PathBuf {
        self.home(SeedPlace::Store).join(format!("control-{copy}"))
    }

    /// Leaves a failed volume, if it was not left already: staging and what comes of it is on the
    /// spare. Says what is to be told.
    pub(crate) fn leave_volume(&self, order: &SpareOrder) -> Placed<Option<News>> {
        let left = self.places.volumes.leave(self.database, order);
        left.map_err(|Stays { full, why }| PlaceError { full, text: why })
    }

    /// Whether a seed left anything here.
    pub(crate) fn is_clean(&self) -> bool {
        let staged = PLACES.map(|place| self.staging_root(place));
        let paths = staged.into_iter().chain([self.record_path()]);
        paths.into_iter().all(|path| self.disk().exists(&path).is_ok_and(|there| !there))
    }

    pub(crate) fn record(&self) -> Placed<Option<SeedRecord>> {
        let bytes = whole_file::read(self.disk(), &self.record_path(), SEED_RECORD_BYTES_MAX)?;
        // One that rotted names nothing: staging is cleared, whatever else it named stays.
        Ok(bytes.and_then(|bytes| SeedRecord::decode(&bytes).ok()))
    }

    pub(crate) fn save(&self, record: &SeedRecord) -> Placed<()> {
        self.disk().create_dir_all(&self.home(SeedPlace::Store))?;
        whole_file::replace(self.disk(), &self.record_path(), &record.encode())?;
        Ok(())
    }

    /// Looks for what an earlier life left, and takes half an install back.
    pub(crate) fn look(&self) -> Placed<Left> {
        let record = self.record()?;
        let Some(seed) = record else { return Ok(Left { record: None, installed: false }) };
        if !seed.makes_copy() {
            let verified = matches!(seed.staged, Staged::Verified(..));
            let installed = verified && !self.disk().exists(&self.staging(SeedPlace::Catalog))?;
            return Ok(Left { record, installed });
        }
        let installed = self.written(seed.new)?.is_some();
        for place in PLACES {
            let (there, staging) = (self.installed(place, seed.new), self.staging(place));
            if !installed && self.disk().exists(&there)? && !self.disk().exists(&staging)? {
                self.make(place)?;
                std::fs::remove_dir_all(&staging)?;
                self.disk().rename(&there, &staging)?;
            }
        }
        Ok(Left { record, installed })
    }

    /// The record in the control file of a copy aside.
    fn written(&self, copy: CopyId) -> Placed<Option<ControlRecord>> {
        let path = self.control_aside(copy);
        if !self.disk().exists(&path)? {
            return Ok(None);
        }
        let (_, record) = ControlFile::open(self.disk(), &path)?;
        Ok(record.filter(|record| record.copy == copy))
    }

    fn make(&self, place: SeedPlace) -> Placed<()> {
        let staging = self.staging(place);
        self.disk().create_dir_all(&staging)?;
        for directory in staging.ancestors().skip(1).take(3) {
            self.disk().sync_dir(directory)?;
        }
        Ok(())
    }

    /// Makes the directories, and says which files of the manifest are here, verified and durable.
    /// What arrived whole and was not verified yet is verified now.
    pub(crate) fn prepare(&self, manifest: &SeedManifest) -> Placed<Vec<bool>> {
        manifest.places().into_iter().try_for_each(|place| self.make(place))?;
        manifest.files.iter().map(|file| self.is_here(file)).collect()
    }

    fn is_here(&self, file: &SeedFile) -> Placed<bool> {
        let path = self.staging(file.place).join(&file.name);
        if self.disk().exists(&path)? {
            let bytes = self.disk().open(&path)?.size()?;
            // Log goes on behind the checkpoint.
            if bytes == file.bytes || file.place == SeedPlace::Log && bytes > file.bytes {
                return Ok(true);
            }
        }
        let part = part_of(&path);
        if !self.disk().exists(&part)? || self.disk().open(&part)?.size()? != file.bytes {
            return Ok(false);
        }
        let digest = digest_of(self.disk(), &part, &mut |_| true);
        if digest != Ok(file.digest) {
            return Ok(false);
        }
        self.disk().open(&part)?.sync()?;
        self.name(&part, &path)?;
        Ok(true)
    }

    fn name(&self, part: &Path, path: &Path) -> Placed<()> {
        self.disk().rename(part, path)?;
        if let Some(parent) = path.parent() {
            self.disk().sync_dir(parent)?;
        }
        Ok(())
    }

    /// Begins to receive a file; with `go_on`, behind the whole chunks that came before. What of
    /// them did not survive a crash of the machine shows in the digest of the whole file.
    pub(crate) fn receive(&self, file: &SeedFile, go_on: bool) -> Placed<Incoming> {
        let path = self.staging(file.place).join(&file.name);
        let part = part_of(&path);
        let there = self.disk().exists(&part)?;
        if there && !go_on {
            self.disk().remove(&part)?;
        }
        let goes_on = there && go_on;
        let open = if goes_on { self.disk().open(&part)? } else { self.disk().create(&part)? };
        let mut incoming = Incoming::new(file, open, (part, path));
        if goes_on {
            incoming.take_up()?;
        }
        Ok(incoming)
    }

    /// The log of the checkpoint, and what came behind it; nobody else may have it open.
    pub(crate) fn staged_log(&self, manifest: &SeedManifest) -> Placed<Option<StagedLog>> {
        StagedLog::open(&self.places.disk, &self.staging(SeedPlace::Log), manifest)
    }

    /// Makes the files those of the new copy; see the module page. `reached` is how far its log was
    /// said to be durable: other copies may not have what lies before it.
    pub(crate) fn install(
        &self,
        manifest: &SeedManifest,
        record: &SeedRecord,
        reached: Option<Position>,
    ) -> Placed<()> {
        self.save(record)?;
        let copy = record.new;
        // One that cannot be read is mended by the new copy, as any damaged log is.
        let log = self.staged_log(manifest)?;
        let (end, epochs) = match &log {
            Some(log) => (log.end(), log.table()),
            None => (manifest.at, &manifest.epochs),
        };
        if reached.is_some_and(|reached| end.position < reached) {
            let text = format!("the log in staging was durable further than {end}, and is not");
            return Err(PlaceError { full: false, text });
        }
        for place in manifest.places() {
            let (staging, there) = (self.staging(place), self.installed(place, copy));
            self.remove_leftovers(&staging)?;
            if let (SeedPlace::Catalog, Err(error)) = (place, self.adopt_index()) {
                // The new copy makes its own: nothing else depends on it.
                tracing::warn!(%copy, why = ?error, "the index that came is of no use here");
                remove_all(&staging)?;
                continue;
            }
            self.disk().sync_dir(&staging)?;
            if let Some(parent) = there.parent() {
                self.disk().create_dir_all(parent)?;
                self.disk().rename(&staging, &there)?;
                self.disk().sync_dir(parent)?;
            }
        }
        let (store, log) = (copy.into_bytes(), copy.into_bytes());
        let mut record = ControlRecord::new(
            copy,
            manifest.database,
            manifest.stream,
            LogId::from_bytes(log),
            StoreId::from_bytes(store),
        );
        record.epoch_table.clone_from(epochs);
        // It holds log of this epoch: offers of a lower one would take it back.
        record.sealed = epochs.last_epoch().max(end.epoch);
        record.committed = manifest.at.position;
        record.durable_floor = end.position;
        ScrubReport::put_new(&mut record, unix_millis());
        if self.places.volumes.is_used() {
            // From now on its directory may be gone because a disk is, and it is no new copy.
            note_created(&self.places, copy)?;
        }
        let path = self.control_aside(copy);
        let (mut control, _) = ControlFile::open(self.disk(), &path)?;
        control.write(&record)?;
        Ok(())
    }

    /// Puts an index in place of the one that its copy has, which nobody may have open; see the
    /// module page.
    pub(crate) fn install_index(&self, record: &SeedRecord, there: &Path) -> Result<(), Refused> {
        let staging = self.staging(SeedPlace::Catalog);
        self.remove_leftovers(&staging).map_err(Refused::Disk)?;
        self.adopt_index()?;
        let put = || -> Placed<()> {
            self.disk().sync_dir(&staging)?;
            self.save(record)?;
            remove_all(there)?;
            self.disk().rename(&staging, there)?;
            self.disk().sync_dir(&self.home(SeedPlace::Catalog))?;
            Ok(())
        };
        put().map_err(Refused::Disk)
    }

    /// Whether what came is an index of this version: the mount test of the model (F64).
    fn adopt_index(&self) -> Result<(), Refused> {
        match Catalog::adopt(&self.staging(SeedPlace::Catalog)) {
            Ok(_) => Ok(()),
            Err(CatalogError::Damaged(what)) => {
                Err(Refused::Wrong(format!("the content index that came: {what}")))
            }
            Err(error) => {
                let full = matches!(error, CatalogError::NoSpace);
                Err(Refused::Disk(PlaceError { full, text: error.to_string() }))
            }
        }
    }

    /// Parts of files that came a second time.
    fn remove_leftovers(&self, staging: &Path) -> Placed<()> {
        let entries = self.disk().list(staging)?.into_iter();
        let parts = entries.filter(|entry| entry.name.ends_with(".part"));
        for part in parts {
            self.disk().remove(&staging.join(part.name))?;
        }
        Ok(())
    }
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(PART);
    path.with_file_name(name)
}

fn remove_all(directory: &Path) -> Placed<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => Ok(other?),
    }
}

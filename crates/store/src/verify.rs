//! Checks the files of a store as the disk holds them, beside an open store or without one.
//!
//! The files of one version are taken together first: the manifest is copied, the tables are hard
//! links, so that compactions of an open store take nothing away from under the check, however long
//! it lasts. A read-only store of their own then reads every block past all shared caches: RocksDB
//! verifies the checksum of each. What it reads without a checksum of its own (`CURRENT`) or never
//! reads at all (`OPTIONS`) is compared with what it must be.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use keelson_env::{POSITION_KEY, StoreError, Verified, log_end_from_bytes};
use keelson_types::Position;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use rocksdb::{BlockBasedOptions, DB, Options, ReadOptions};

use crate::error::{from_io, from_rocks};
use crate::manifest::{self, Flaw};
use crate::table_file;

/// Tables open at a time; each holds its index and filter in memory while it is.
const TABLES_OPEN: i32 = 16;
/// Read ahead of the check.
const READAHEAD_BYTES: usize = 1024 * 1024;
/// Bytes of keys and values between two calls of the pace.
const PACE_BYTES: u64 = 256 * 1024;
/// A version that loses a table while it is taken is taken again, so often.
const TRIES: usize = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// The files without content that RocksDB wrote and never reads again, by directory of the store:
/// name and bytes of the newest `OPTIONS`.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashMap<PathBuf, (String, Vec<u8>)>>);

impl Known {
    /// Removes what a check left behind that died with its process. To be called before a store is
    /// opened: until its first opening here no check of it runs.
    pub(crate) fn clean(&self, directory: &Path) -> io::Result<()> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(directory);
        if known {
            return Ok(());
        }
        remove(&place_of(directory, "scrub"))?;
        remove(&place_of(directory, "rescue"))
    }

    /// Remembers what opening a store has just written, and removes what earlier openings wrote:
    /// RocksDB keeps one older file, nobody reads it, and it would rot unseen.
    pub(crate) fn opened(&self, directory: &Path) {
        let mut all = options_files(directory);
        let newest = all.pop();
        for older in all {
            if let Err(error) = fs::remove_file(directory.join(&older)) {
                tracing::debug!(%error, older, "an old OPTIONS file stays");
            }
        }
        let read = newest.and_then(|name| Some((name.clone(), read(&directory.join(name)).ok()?)));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Some(read) => known.insert(directory.to_owned(), read),
            None => known.remove(directory),
        };
    }

    pub(crate) fn forget(&self, directory: &Path) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(directory);
    }

    /// Writes the file again if it is not what it was.
    fn mend(&self, directory: &Path) -> Result<Vec<String>, StoreError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(directory).cloned();
        let Some((name, bytes)) = known else { return Ok(Vec::new()) };
        let path = directory.join(&name);
        // A store that was opened anew meanwhile has another one.
        if options_files(directory).last() != Some(&name) {
            return Ok(Vec::new());
        }
        if read(&path).is_ok_and(|found| found == bytes) {
            return Ok(Vec::new());
        }
        let written = fs::write(&path, &bytes).and_then(|()| File::open(&path)?.sync_all());
        written.map_err(|error| from_io(&format!("writing {name}"), &error))?;
        Ok(vec![name])
    }
}

/// The names, the newest last.
fn options_files(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let options = |name: &String| name.starts_with("OPTIONS-") && !name.ends_with(".dbtmp");
    let mut names: Vec<_> = names.filter(options).collect();
    names.sort();
    names
}

/// Reads a file as the disk holds it.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    forget_cache(path)?;
    fs::read(path)
}

fn forget_cache(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// See [`keelson_env::StoreOpener::verify`].
pub(crate) fn verify(
    known: &Known,
    directory: &Path,
    at_least: Position,
    pace: &mut dyn FnMut(u64),
) -> Result<Verified, StoreError> {
    let mended = known.mend(directory)?;
    if !directory.join("CURRENT").exists() && at_least == Position::ZERO {
        return Ok(Verified { bytes: 0, mended });
    }
    let taken = Taken { directory: directory.to_owned(), place: place_of(directory, "scrub") };
    let mut tries = 0;
    let db = loop {
        tries += 1;
        let last = tries == TRIES;
        let opened = taken.take(last).and_then(|()| taken.open());
        match opened {
            Ok(db) => break db,
            // The version changed under our hands, or a table is lost: the next look tells.
            Err(StoreError::Damaged(_)) if !last => thread::sleep(BETWEEN_TRIES),
            Err(error) => return Err(error),
        }
    };
    check_position(&db, at_least)?;
    read_all(&db, pace)?;
    let size = db.property_int_value(rocksdb::properties::TOTAL_SST_FILES_SIZE);
    Ok(Verified { bytes: size.ok().flatten().unwrap_or(0), mended })
}

/// Without `paranoid`, a damaged or missing table is met by its first reader only.
pub(crate) fn options(paranoid: bool) -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.disable_cache();
    let mut options = Options::default();
    options.set_block_based_table_factory(&tables);
    options.set_paranoid_checks(paranoid);
    options.set_max_open_files(TABLES_OPEN);
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    options.set_info_logger(rocksdb::InfoLogger::new_callback_logger(
        rocksdb::LogLevel::Fatal,
        |_, message| tracing::debug!(target: "rocksdb", "{message}"),
    ));
    options
}

fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::Damaged(what.into())
}

/// A manifest that lost its end is read without complaint; but its store is younger than it was.
fn check_position(db: &DB, at_least: Position) -> Result<(), StoreError> {
    let found = db.get_pinned(POSITION_KEY).map_err(|error| from_rocks(&error))?;
    let at = match found {
        Some(bytes) => {
            let end = log_end_from_bytes(&bytes);
            end.ok_or_else(|| damaged("the position does not decode"))?.position
        }
        None => Position::ZERO,
    };
    if at < at_least {
        return Err(damaged(format!("the files hold {at}, not {at_least}")));
    }
    Ok(())
}

pub(crate) fn read_all(db: &DB, pace: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
    let mut read = ReadOptions::default();
    read.fill_cache(false);
    read.set_verify_checksums(true);
    read.set_readahead_size(READAHEAD_BYTES);
    // Blocks that a range tombstone covers are still read by compactions.
    #[expect(deprecated, reason = "it costs nothing here, and nothing replaces it")]
    read.set_ignore_range_deletions(true);
    let mut iterator = db.raw_iterator_opt(read);
    iterator.seek_to_first();
    let mut unpaced = 0;
    while let Some((key, value)) = iterator.item() {
        unpaced += (key.len() + value.len()) as u64;
        if unpaced >= PACE_BYTES {
            pace(std::mem::take(&mut unpaced));
        }
        iterator.next();
    }
    pace(unpaced);
    iterator.status().map_err(|error| from_rocks(&error))
}

/// The files of one version in a directory of their own, removed when dropped.
pub(crate) struct Taken {
    pub(crate) directory: PathBuf,
    pub(crate) place: PathBuf,
}

/// The directory beside a store for this use.
pub(crate) fn place_of(directory: &Path, what: &str) -> PathBuf {
    let mut place = directory.as_os_str().to_owned();
    place.push(format!(".{what}"));
    place.into()
}

impl Taken {
    /// Takes the present version. What is wrong with `CURRENT` may be a change under our hands
    /// unless it is the last look.
    fn take(&self, last: bool) -> Result<(), StoreError> {
        let (manifest, bytes) = read_manifest(&self.directory)?;
        if let Err(flaw) = manifest::check(&bytes) {
            return Err(damaged(format!("{manifest}: {flaw:?}")));
        }
        self.link(&manifest, &bytes, last)
    }

    /// Makes the place: this manifest, and all tables that there are.
    pub(crate) fn link(&self, manifest: &str, bytes: &[u8], last: bool) -> Result<(), StoreError> {
        let failed = |error: io::Error| from_io("taking the files of a version", &error);
        remove(&self.place).map_err(failed)?;
        fs::create_dir_all(&self.place).map_err(failed)?;
        self.name(manifest, bytes)?;
        for entry in fs::read_dir(&self.directory).map_err(failed)?.flatten() {
            let name = entry.file_name();
            if Path::new(&name).extension().is_none_or(|extension| extension != "sst") {
                continue;
            }
            let linked = fs::hard_link(entry.path(), self.place.join(&name))
                .and_then(|()| forget_cache(&self.place.join(&name)));
            match linked {
                // Compacted away since the list was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !last => {}
                other => other.map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Writes the manifest of the place.
    pub(crate) fn name(&self, manifest: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let current = self.place.join("CURRENT");
        let written = fs::write(self.place.join(manifest), bytes)
            .and_then(|()| fs::write(current, format!("{manifest}\n")));
        written.map_err(|error| from_io("writing a manifest", &error))
    }

    /// Opens what was taken, if it is complete: tables are opened one after the other later.
    fn open(&self) -> Result<DB, StoreError> {
        let db = DB::open_for_read_only(&options(true), &self.place, false);
        let db = db.map_err(|error| from_rocks(&error))?;
        for table in db.live_files().map_err(|error| from_rocks(&error))? {
            let name = table.name.trim_start_matches('/');
            match table_file::check(&self.place.join(name)) {
                Ok(true) => {}
                Ok(false) => return Err(damaged(format!("a meta block of {name}"))),
                Err(error) => return Err(damaged(format!("{name} cannot be read: {error}"))),
            }
        }
        Ok(db)
    }
}

/// Name and bytes of the manifest of a store, as the disk holds them.
pub(crate) fn read_manifest(directory: &Path) -> Result<(String, Vec<u8>), StoreError> {
    let manifest = current_manifest(directory)?;
    let bytes = read(&directory.join(&manifest));
    let bytes = bytes.map_err(|_| damaged(format!("{manifest} is missing")))?;
    Ok((manifest, bytes))
}

/// The manifest that `CURRENT` names, in exactly the form in which RocksDB writes it.
fn current_manifest(directory: &Path) -> Result<String, StoreError> {
    let bytes = read(&directory.join("CURRENT"));
    let bytes = bytes.map_err(|_| damaged("CURRENT is missing"))?;
    let name = String::from_utf8(bytes).ok();
    let name = name.as_deref().and_then(|text| text.strip_suffix('\n'));
    let number = name.and_then(|name| name.strip_prefix("MANIFEST-"));
    let sound = number.is_some_and(|number| {
        number.len() >= 6 && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    name.filter(|_| sound).map(str::to_owned).ok_or_else(|| damaged("CURRENT is damaged"))
}

/// Refuses what RocksDB must not be given: a manifest with rot that it does not notice or chokes
/// on. A torn end is what a crash leaves, and RocksDB's business.
pub(crate) fn check_manifest(directory: &Path) -> Result<(), StoreError> {
    if !directory.join("CURRENT").exists() {
        return Ok(());
    }
    let manifest = current_manifest(directory)?;
    let bytes = fs::read(directory.join(&manifest));
    let bytes = bytes.map_err(|_| damaged(format!("{manifest} is missing")))?;
    match manifest::check(&bytes) {
        Ok(()) | Err(Flaw::Torn) => Ok(()),
        Err(Flaw::Damaged(at)) => Err(damaged(format!("{manifest} is damaged at {at}"))),
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.place) {
            tracing::warn!(%error, place = %self.place.display(), "cannot remove checked files");
        }
    }
}

/// Removes a directory with its files, if there is one.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! The log in staging, which goes on behind the checkpoint while its files arrive.
//!
//! It begins as the newest generation of the checkpoint's own log, verified and durable (older ones
//! come later, from the newest to the oldest), and takes what other copies know to
//! be committed: bytes as they lie in their files, each frame chained on the one before. The new
//! copy opens where it ends, like one that was away since then.
//!
//! Crash cases: what was not synced is a torn tail, which is cut when the log is opened again.
//! Anything worse takes it back to the checkpoint, and what is behind is fetched once more.
//! Everything here blocks.

use std::path::Path;
use std::sync::Arc;

use keelson_env::Disk;
use keelson_format::{
    Chunk, CursorState, GENERATION_HEADER_BYTES, SeedFile, SeedManifest, SeedPlace,
};
use keelson_log::{Log, LogConfig, LogError};
use keelson_types::{EpochTable, LogEnd};

use super::place::{PlaceError, Refused as NotTaken};
use crate::open::epochs_of;

/// See the module page.
#[derive(Debug)]
pub(crate) struct StagedLog {
    log: Log,
    state: CursorState,
    table: EpochTable,
    /// Of the checkpoint's own log, what was here when it was opened; older files come later.
    bytes_before: u64,
}

impl StagedLog {
    /// Opens the log in a directory of staging; nothing if the checkpoint has none, or one that
    /// does not reach to where it stands.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        manifest: &SeedManifest,
    ) -> Result<Option<Self>, PlaceError> {
        if manifest.bytes_of(SeedPlace::Log) == 0 {
            return Ok(None);
        }
        if let Some(whole) = Self::recover(disk, directory, manifest)? {
            return Ok(Some(whole));
        }
        rewind(&**disk, directory, manifest)?;
        Self::recover(disk, directory, manifest)
    }

    fn recover(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        manifest: &SeedManifest,
    ) -> Result<Option<Self>, PlaceError> {
        let floor = manifest.at.position;
        let names: Vec<_> = disk.list(directory)?.into_iter().map(|entry| entry.name).collect();
        let here = |file: &&SeedFile| file.place == SeedPlace::Log && names.contains(&file.name);
        let bytes_before = manifest.files.iter().filter(here).map(|file| file.bytes).sum();
        let opened =
            Log::open(disk.clone(), directory, LogConfig::default(), manifest.stream, floor);
        let (log, recovery) = match opened {
            Ok(opened) => opened,
            Err(error @ (LogError::Disk(_) | LogError::NoSpace | LogError::Poisoned(_))) => {
                return Err(error.into());
            }
            Err(error) => {
                tracing::warn!(%error, directory = %directory.display(), "the log of a seed");
                return Ok(None);
            }
        };
        if recovery.damage.is_some() || recovery.state.end.position < floor {
            return Ok(None);
        }
        let table = epochs_of(&manifest.epochs, &recovery);
        Ok(Some(Self { log, state: recovery.state, table, bytes_before }))
    }

    /// Where it ends, durable or not.
    pub(crate) const fn end(&self) -> LogEnd {
        self.state.end
    }

    /// The epochs of what it holds.
    pub(crate) const fn table(&self) -> &EpochTable {
        &self.table
    }

    /// Up to where frames are durable.
    pub(crate) const fn durable(&self) -> LogEnd {
        self.log.durable_end()
    }

    /// Bytes that came behind the checkpoint.
    pub(crate) fn bytes_behind(&self) -> u64 {
        self.log.kept_bytes().saturating_sub(self.bytes_before)
    }

    /// Takes the next bytes; they are durable once it was synced. What is here already is passed
    /// over.
    pub(crate) fn append(&mut self, chunk: Chunk) -> Result<(), NotTaken> {
        if chunk.end <= self.state.position {
            return Ok(());
        }
        let chunk = self.behind_header(chunk);
        let mut state = self.state;
        let inspected = state.verify(&chunk).map_err(|error| NotTaken::Wrong(error.to_string()))?;
        self.log
            .write(std::slice::from_ref(&chunk))
            .map_err(|error| NotTaken::Disk(error.into()))?;
        self.state = state;
        for row in inspected.epochs {
            // They rise: the bytes were verified.
            let _ = self.table.push(row);
        }
        Ok(())
    }

    /// A crash may leave a generation without a frame, whose header comes once more with the first
    /// one.
    fn behind_header(&self, chunk: Chunk) -> Chunk {
        let at = self.state.position;
        let header = GENERATION_HEADER_BYTES;
        let again = chunk.opens_generation()
            && chunk.position.generation == at.generation
            && at.offset == header as u64
            && chunk.bytes.len() > header;
        if again { Chunk::new(at, chunk.bytes.slice(header..)) } else { chunk }
    }

    pub(crate) fn sync(&mut self) -> Result<(), PlaceError> {
        self.log.sync()?;
        Ok(())
    }
}

/// Takes the log back to where the checkpoint ends.
fn rewind(disk: &dyn Disk, directory: &Path, manifest: &SeedManifest) -> Result<(), PlaceError> {
    tracing::warn!(directory = %directory.display(), "the log behind a checkpoint begins anew");
    for entry in disk.list(directory)? {
        let path = directory.join(&entry.name);
        let known = manifest
            .files
            .iter()
            .find(|file| file.place == SeedPlace::Log && file.name == entry.name);
        let Some(known) = known else {
            // Others arrive meanwhile.
            if entry.name.ends_with(".klog") {
                disk.remove(&path)?;
            }
            continue;
        };
        let file = disk.open(&path)?;
        if file.size()? > known.bytes {
            file.set_len(known.bytes)?;
            file.sync()?;
        }
    }
    disk.sync_dir(directory)?;
    Ok(())
}

#[cfg(test)]
mod tests;

//! When each generation was inspected: the clock of a lagged copy.
//!
//! Logs are byte-identical on all copies and file times lie (review S20), so each copy notes its
//! own times in `inspected.idx`: entries of 20 bytes (generation, Unix milliseconds, checksum),
//! appended. Entries are not synced: one that is lost in a crash makes the copy lag longer, never
//! shorter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keelson_env::{Disk, DiskFile};
use keelson_types::Generation;

use crate::LogError;

const NAME: &str = "inspected.idx";
const ENTRY_BYTES: usize = 20;
/// A file with this many times the entries that are needed is written anew.
const SLACK: u64 = 4;
const ENTRIES_MIN: u64 = 1_024;

/// The times of inspection of one log.
#[derive(Debug)]
pub struct InspectedIndex {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    entries: u64,
    times: BTreeMap<Generation, u64>,
}

fn entry(generation: Generation, millis: u64) -> [u8; ENTRY_BYTES] {
    let mut bytes = [0; ENTRY_BYTES];
    bytes[..8].copy_from_slice(&generation.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&millis.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..16]);
    bytes[16..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<(Generation, u64)> {
    let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let (generation, millis) = (Generation(number(0)?), number(8)?);
    (bytes == entry(generation, millis)).then_some((generation, millis))
}

impl InspectedIndex {
    /// Opens, or creates, the index of a log directory. Torn entries are left out.
    ///
    /// # Errors
    /// A failed disk call.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path) -> Result<Self, LogError> {
        let path = directory.join(NAME);
        let exists = disk.exists(&path)?;
        let file = if exists { disk.open(&path) } else { disk.create(&path) };
        let file = file.map_err(LogError::from_disk)?;
        let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(0)];
        let count = file.read_at(0, &mut bytes)?;
        bytes.truncate(count);
        let times = bytes.chunks(ENTRY_BYTES).filter_map(parse).collect();
        let entries = (bytes.len() / ENTRY_BYTES) as u64;
        Ok(Self { disk, path, file, entries, times })
    }

    /// Notes that a generation was inspected completely, at a Unix time in milliseconds. The first
    /// note counts.
    ///
    /// # Errors
    /// [`LogError::NoSpace`] or a failed disk call; the time is remembered in memory all the same.
    pub fn note(&mut self, generation: Generation, unix_millis: u64) -> Result<(), LogError> {
        if self.times.contains_key(&generation) {
            return Ok(());
        }
        self.times.insert(generation, unix_millis);
        let at = self.entries * ENTRY_BYTES as u64;
        self.file.write_at(at, &entry(generation, unix_millis)).map_err(LogError::from_disk)?;
        self.entries += 1;
        Ok(())
    }

    /// When a generation was inspected, if that is known.
    #[must_use]
    pub fn at(&self, generation: Generation) -> Option<u64> {
        self.times.get(&generation).copied()
    }

    /// The last generation that was inspected at or before a Unix time: what a copy that lags until
    /// then may replay.
    #[must_use]
    pub fn last_before(&self, unix_millis: u64) -> Option<Generation> {
        self.times.iter().rev().find(|(_, millis)| **millis <= unix_millis).map(|(g, _)| *g)
    }

    /// Forgets generations from `generation` on, after a cut.
    ///
    /// # Errors
    /// A failed disk call.
    pub fn cut_from(&mut self, generation: Generation) -> Result<(), LogError> {
        self.times.retain(|known, _| *known < generation);
        self.rewrite()
    }

    /// Forgets generations before `generation`, after truncation.
    ///
    /// # Errors
    /// A failed disk call.
    pub fn truncate_before(&mut self, generation: Generation) -> Result<(), LogError> {
        self.times.retain(|known, _| *known >= generation);
        if self.entries > ENTRIES_MIN.max(self.times.len() as u64 * SLACK) {
            self.rewrite()?;
        }
        Ok(())
    }

    fn rewrite(&mut self) -> Result<(), LogError> {
        let bytes: Vec<u8> = self.times.iter().flat_map(|(g, millis)| entry(*g, *millis)).collect();
        let fresh = self.path.with_extension("tmp");
        if self.disk.exists(&fresh)? {
            self.disk.remove(&fresh)?;
        }
        let file = self.disk.create(&fresh).map_err(LogError::from_disk)?;
        file.write_at(0, &bytes).map_err(LogError::from_disk)?;
        file.sync()?;
        self.disk.rename(&fresh, &self.path)?;
        self.file = file;
        self.entries = self.times.len() as u64;
        Ok(())
    }
}

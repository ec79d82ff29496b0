//! Reading what cuts have saved. Salvage is never removed here, and by no automation (G4).

use std::path::Path;

use bytes::Bytes;
use keelson_env::Disk;
use keelson_format::{Chunk, FrameInfo, GENERATION_HEADER_BYTES, GenerationHeader, Item};
use keelson_types::{Epoch, Position};

use crate::LogError;
use crate::files::parse_salvage;

/// The saved tail of one cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Salvage {
    /// Name within its log: that of its file.
    pub name: String,
    /// Epoch in which the log ended that was cut.
    pub epoch: Epoch,
    /// The log was cut here.
    pub at: Position,
    /// Size.
    pub bytes: u64,
    /// When it was cut, in Unix milliseconds, if the disk knows.
    pub cut_unix_ms: Option<u64>,
}

/// Everything saved in a log directory, by name.
///
/// # Errors
/// The directory cannot be read.
pub fn list_salvage(disk: &dyn Disk, directory: &Path) -> Result<Vec<Salvage>, LogError> {
    let mut found = Vec::new();
    for entry in disk.list(directory)?.into_iter().filter(|entry| !entry.is_dir) {
        if let Some((epoch, at)) = parse_salvage(&entry.name) {
            let path = directory.join(&entry.name);
            let (bytes, cut_unix_ms) = (disk.open(&path)?.size()?, disk.written_unix_ms(&path));
            found.push(Salvage { name: entry.name, epoch, at, bytes, cut_unix_ms });
        }
    }
    found.sort_by(|a, b| a.at.cmp(&b.at).then_with(|| a.name.cmp(&b.name)));
    Ok(found)
}

/// Deletes one, durably; by an operator's word only.
///
/// # Errors
/// The file cannot be removed.
pub fn delete_salvage(
    disk: &dyn Disk,
    directory: &Path,
    salvage: &Salvage,
) -> Result<(), LogError> {
    disk.remove(&directory.join(&salvage.name))?;
    Ok(disk.sync_dir(directory)?)
}

/// The frames of a salvage, in the order of the log. Reads the whole file: a fork is kept in memory
/// while it is read.
///
/// # Errors
/// The file cannot be read.
pub fn read_salvage(
    disk: &dyn Disk,
    directory: &Path,
    salvage: &Salvage,
) -> Result<SalvagedFrames, LogError> {
    let file = disk.open(&directory.join(&salvage.name))?;
    let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(0)];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(SalvagedFrames { bytes: bytes.into(), at: salvage.at, consumed: 0 })
}

/// Iterates over the frames of a salvage. What cannot be read any more ends it; a cut behind damage
/// saves the damage too.
#[derive(Debug)]
pub struct SalvagedFrames {
    bytes: Bytes,
    at: Position,
    consumed: usize,
}

impl SalvagedFrames {
    /// Bytes that were not read: none after the last frame of a sound salvage.
    #[must_use]
    pub fn unread_bytes(&self) -> u64 {
        (self.bytes.len() - self.consumed) as u64
    }

    /// A piece of the next file begins with its header, at any place here.
    fn skip_header(&mut self) -> bool {
        let rest = self.bytes.slice(self.consumed..);
        match GenerationHeader::decode(&rest) {
            Ok(header) if header.generation >= self.at.generation => {
                self.at = Position {
                    generation: header.generation,
                    offset: GENERATION_HEADER_BYTES as u64,
                };
                self.consumed += GENERATION_HEADER_BYTES;
                true
            }
            _ => false,
        }
    }
}

impl Iterator for SalvagedFrames {
    type Item = FrameInfo;

    fn next(&mut self) -> Option<FrameInfo> {
        while self.consumed < self.bytes.len() {
            let chunk = Chunk::new(self.at, self.bytes.slice(self.consumed..));
            let first = if self.at.offset == 0 { None } else { chunk.items().next() };
            if let Some(Ok(Item::Frame(frame))) = first {
                self.at = frame.end().position;
                self.consumed += frame.bytes.len();
                return Some(frame);
            }
            if !self.skip_header() {
                return None;
            }
        }
        None
    }
}

//! A file of a seed that arrives: one chunk behind the other, verified as a whole, then durable
//! under its name.

use std::path::PathBuf;
use std::sync::Arc;

use keelson_env::DiskFile;
use keelson_format::{SeedFile, SeedPlace};
use xxhash_rust::xxh3::Xxh3;

use super::{PlaceError, Placed, SeedFiles};
use crate::seed::CHUNK_BYTES;

/// A file that arrives.
pub(crate) struct Incoming {
    pub(crate) place: SeedPlace,
    file: Arc<dyn DiskFile>,
    part: PathBuf,
    path: PathBuf,
    hasher: Xxh3,
    at: u64,
    digest: u128,
    bytes: u64,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("part", &self.part).finish_non_exhaustive()
    }
}

/// Why a file is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is not what the manifest says.
    Wrong(String),
    Disk(PlaceError),
}

impl Incoming {
    /// The beginning of a file in the manifest: what is open, by its name so far, and its own.
    pub(super) fn new(
        file: &SeedFile,
        open: Arc<dyn DiskFile>,
        (part, path): (PathBuf, PathBuf),
    ) -> Self {
        let (place, digest, bytes) = (file.place, file.digest, file.bytes);
        Self { place, file: open, part, path, hasher: Xxh3::new(), at: 0, digest, bytes }
    }

    /// Reads what is there already, in whole chunks, and forgets the rest.
    pub(super) fn take_up(&mut self) -> Placed<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        while self.at + (CHUNK_BYTES as u64) < self.bytes {
            if self.file.read_at(self.at, &mut buffer)? < CHUNK_BYTES {
                break;
            }
            self.hasher.update(&buffer);
            self.at += CHUNK_BYTES as u64;
        }
        self.file.set_len(self.at)?;
        Ok(())
    }

    /// Where the next bytes belong.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, offset: u64, crc: u32, body: &[u8]) -> Result<(), Refused> {
        let name = self.path.display();
        if offset != self.at || self.at + body.len() as u64 > self.bytes {
            return Err(Refused::Wrong(format!("{name}: bytes at {offset}, not {}", self.at)));
        }
        if crc32fast::hash(body) != crc {
            return Err(Refused::Wrong(format!("{name}: the checksum at {offset} does not match")));
        }
        self.file.write_at(offset, body).map_err(|error| Refused::Disk(error.into()))?;
        self.hasher.update(body);
        self.at += body.len() as u64;
        Ok(())
    }

    #[cfg(test)]
    pub(crate) const fn is_complete(&self) -> bool {
        self.at == self.bytes
    }

    /// Verifies the whole file, makes it durable and gives it its name.
    pub(crate) fn finish(self, files: &SeedFiles) -> Result<(), Refused> {
        if self.hasher.digest128() != self.digest {
            let name = self.path.display();
            return Err(Refused::Wrong(format!("{name}: the digest does not match")));
        }
        self.file.sync().map_err(|error| Refused::Disk(error.into()))?;
        files.name(&self.part, &self.path).map_err(Refused::Disk)
    }
}

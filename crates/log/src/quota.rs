//! Quotas: how much a directory may take in, whatever its volume still has.
//!
//! What lies in the directory is counted file by file, whoever wrote it, so that one number holds
//! for logs, stores and strangers. Counting costs a system call per file; it is done when somebody
//! asks, and rarely enough to take a small share of one thread at most. So a quota may be exceeded
//! by what is written meanwhile, and by what needs space to recover; it is kept by refusing work
//! in time, not by failing writes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A count is good for so long at least,
const COUNT_AGAIN: Duration = Duration::from_millis(100);
/// and for so many times as long as it took.
const COUNT_SHARE: u32 = 20;
/// Bytes of a block in the accounts of a file, whatever its volume uses.
const BLOCK_BYTES: u64 = 512;

/// How many bytes the files below a directory may take.
#[derive(Debug)]
pub struct Quota {
    directory: PathBuf,
    bytes: u64,
    counted: Mutex<Option<Counted>>,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    bytes: u64,
    good_until: Instant,
}

impl Quota {
    /// A quota of `bytes` for everything below `directory`.
    #[must_use]
    pub fn new(directory: PathBuf, bytes: u64) -> Self {
        Self { directory, bytes, counted: Mutex::new(None) }
    }

    /// Whether it limits this path.
    pub(crate) fn covers(&self, path: &Path) -> bool {
        path.starts_with(&self.directory)
    }

    /// What it allows in all.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are left of it, at most 100 ms or 20 counts ago.
    pub(crate) fn left(&self) -> u64 {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let good = counted.filter(|counted| now < counted.good_until);
        let used = good.unwrap_or_else(|| {
            let bytes = used_below(&self.directory);
            let pause = COUNT_AGAIN.max(now.elapsed() * COUNT_SHARE);
            *counted.insert(Counted { bytes, good_until: Instant::now() + pause })
        });
        self.bytes.saturating_sub(used.bytes)
    }
}

/// Bytes that the files below a directory take on their volume. What vanishes meanwhile, or cannot
/// be read, counts as nothing.
fn used_below(directory: &Path) -> u64 {
    let mut used = 0_u64;
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => waiting.push(entry.path()),
                Ok(found) => used = used.saturating_add(found.blocks() * BLOCK_BYTES),
                Err(_) => {}
            }
        }
    }
    used
}

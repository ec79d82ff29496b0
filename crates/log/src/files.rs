//! Names in a log directory.
//!
//! `<generation:016x>.klog` is a generation; `spare-<n:016x>.klog` a truncated one kept to be
//! written again; `salvage-<epoch>-<generation>-<offset>.klog` the saved tail of a cut;
//! `damaged-<generation:016x>-<offset:010x>.klog` bytes that a mend replaced. Everything
//! else is left alone.

use std::path::{Path, PathBuf};

use keelson_env::{Disk, DiskResult};
use keelson_types::{Epoch, Generation, Position};

const SUFFIX: &str = ".klog";
const SPARE: &str = "spare-";
const EVIDENCE: &str = "damaged-";

/// The file of a generation.
#[must_use]
pub fn generation_path(directory: &Path, generation: Generation) -> PathBuf {
    directory.join(format!("{:016x}{SUFFIX}", generation.0))
}

pub(crate) fn spare_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{SPARE}{number:016x}{SUFFIX}"))
}

/// The file that saves what is cut behind `at`, in the epoch of the cut bytes. `try_number` sets
/// names apart if the same cut happens again.
pub(crate) fn salvage_path(dir: &Path, epoch: Epoch, at: Position, try_number: u32) -> PathBuf {
    let (generation, offset) = (at.generation, at.offset);
    let again = if try_number == 0 { String::new() } else { format!("-{try_number}") };
    dir.join(format!("salvage-{epoch}-{generation}-{offset}{again}{SUFFIX}"))
}

/// The file that keeps the bytes at `at` which a mend replaced.
pub(crate) fn evidence_path(directory: &Path, at: Position) -> PathBuf {
    directory.join(format!("{EVIDENCE}{:016x}-{:010x}{SUFFIX}", at.generation.0, at.offset))
}

/// All such files, by position.
pub(crate) fn evidence_files(disk: &dyn Disk, directory: &Path) -> DiskResult<Vec<PathBuf>> {
    let entries = disk.list(directory)?.into_iter();
    let kept = entries.filter(|entry| !entry.is_dir && entry.name.starts_with(EVIDENCE));
    Ok(kept.map(|entry| directory.join(entry.name)).collect())
}

/// Epoch and position of the cut from a salvage file's name; none for other names.
pub(crate) fn parse_salvage(name: &str) -> Option<(Epoch, Position)> {
    let mut parts = name.strip_prefix("salvage-")?.strip_suffix(SUFFIX)?.split('-');
    let (recovery, counter) = parts.next()?.split_once('.')?;
    let epoch = Epoch::new(recovery.parse().ok()?, counter.parse().ok()?);
    let generation = u64::from_str_radix(parts.next()?, 16).ok()?;
    let offset = parts.next()?.parse().ok()?;
    let again = parts.next().map(str::parse::<u32>);
    let whole = parts.next().is_none() && !matches!(again, Some(Err(_)));
    whole.then_some((epoch, Position::new(generation, offset)))
}

/// What lies in a log directory.
#[derive(Default, Debug)]
pub(crate) struct Listing {
    /// Generations, ascending.
    pub(crate) generations: Vec<Generation>,
    /// Spare files.
    pub(crate) spares: Vec<PathBuf>,
}

fn hex(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let lower = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if digits.len() == 16 && lower { u64::from_str_radix(digits, 16).ok() } else { None }
}

pub(crate) fn list(disk: &dyn Disk, directory: &Path) -> DiskResult<Listing> {
    let mut listing = Listing::default();
    for entry in disk.list(directory)?.into_iter().filter(|entry| !entry.is_dir) {
        if let Some(number) = hex(&entry.name).filter(|number| *number > 0) {
            listing.generations.push(Generation(number));
        } else if entry.name.strip_prefix(SPARE).and_then(hex).is_some() {
            listing.spares.push(directory.join(&entry.name));
        }
    }
    listing.generations.sort_unstable();
    Ok(listing)
}

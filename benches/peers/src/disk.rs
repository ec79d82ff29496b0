//! How fast the disk makes a rewritten 4 KiB block durable, right before a system is measured.
//!
//! The same disk is twice as fast at another hour: this figure says whether two systems met the
//! same one.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::load::{histogram, millis};
use crate::report::Sample;

const BLOCK_BYTES: usize = 4096;
/// Blocks written before measuring, so that the file does not grow while it is measured.
const BLOCKS: u64 = 1024;

/// fdatasync calls of one writer in `directory`, for `duration`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn measure(directory: &Path, duration: Duration) -> Result<Sample> {
    let path = directory.join("fdatasync");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let block = [0xa5; BLOCK_BYTES];
    let offset = |index: u64| index % BLOCKS * BLOCK_BYTES as u64;
    for index in 0..BLOCKS {
        file.write_all_at(&block, offset(index))?;
    }
    file.sync_all()?;
    let (mut latencies, begun) = (histogram(), Instant::now());
    while begun.elapsed() < duration {
        let before = Instant::now();
        file.write_all_at(&block, offset(latencies.len()))?;
        file.sync_data()?;
        latencies.saturating_record(u64::try_from(before.elapsed().as_micros())?);
    }
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_file(&path).context("remove the file of the measurement")?;
    Ok(Sample::with_latencies(latencies.len() as f64 / seconds, millis(&latencies)))
}

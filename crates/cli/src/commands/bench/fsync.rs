//! How many times per second the disk under a directory makes a rewritten 4 KiB block durable.
//!
//! The blocks are written once before measuring, so that no file grows while it is measured: this
//! is what a log with recycled files asks of the disk. Several writers use a file each.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use uuid::Uuid;

use super::millis;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output;

const BLOCK_BYTES: usize = 4096;

/// Blocks of a file, written in turn: 16 MiB.
const BLOCKS: u64 = 4096;

#[derive(Args, Clone, Debug)]
pub(crate) struct Fsync {
    /// Directory on the disk to measure, as a member's data directory
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Writers that sync at the same time, each its own file
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    writers: u32,
    /// How long to measure
    #[arg(long, default_value = "5s")]
    duration: humantime::Duration,
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Rate {
    writers: u32,
    seconds: f64,
    latencies: Histogram<u64>,
}

impl Fsync {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        if global.only_shows(&format!("write and sync blocks in {}", self.dir.display())) {
            return Ok(());
        }
        let rate = measure(&self.dir, self.writers, self.duration.into())
            .map_err(|error| Failure::file(&self.dir, &error))?;
        output::print_one(global.output, &[("raw fdatasync", rate.sentence())], &rate.data());
        Ok(())
    }
}

impl Rate {
    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    /// Median of one sync.
    pub(crate) fn p50_micros(&self) -> u64 {
        self.latencies.value_at_quantile(0.5)
    }

    pub(crate) fn sentence(&self) -> String {
        let quantile = |q| millis(self.latencies.value_at_quantile(q));
        format!(
            "{:.0}/s with {} writer(s), p50 {}, p99 {}",
            self.per_second(),
            self.writers,
            quantile(0.5),
            quantile(0.99),
        )
    }

    pub(crate) fn data(&self) -> Value {
        json!({
            "writers": self.writers,
            "block_bytes": BLOCK_BYTES,
            "seconds": self.seconds,
            "syncs": self.latencies.len(),
            "syncs_per_s": self.per_second(),
            "latency_micros": {
                "p50": self.latencies.value_at_quantile(0.5),
                "p95": self.latencies.value_at_quantile(0.95),
                "p99": self.latencies.value_at_quantile(0.99),
                "max": self.latencies.max(),
            },
        })
    }
}

/// A file that goes away with its value.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    /// A file with all blocks written.
    fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!("keelson-bench-{}.tmp", Uuid::new_v4()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let scratch = Self { path, file };
        let block = [0x5a; BLOCK_BYTES];
        for index in 0..BLOCKS {
            scratch.file.write_all_at(&block, index * BLOCK_BYTES as u64)?;
        }
        scratch.file.sync_all()?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Measures `dir` for `duration`.
///
/// # Errors
/// The directory cannot be written, or a sync failed.
pub(crate) fn measure(dir: &Path, writers: u32, duration: Duration) -> io::Result<Rate> {
    let files: io::Result<Vec<_>> = (0..writers).map(|_| Scratch::create(dir)).collect();
    let files = files?;
    let started = Instant::now();
    let results: Vec<io::Result<Histogram<u64>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .iter()
            .map(|file| scope.spawn(|| sync_until(&file.file, started + duration)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a writer failed")))
            })
            .collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let mut latencies = histogram();
    for result in results {
        latencies.add(result?).map_err(io::Error::other)?;
    }
    Ok(Rate { writers, seconds, latencies })
}

fn sync_until(file: &File, end: Instant) -> io::Result<Histogram<u64>> {
    let mut latencies = histogram();
    let block = [0xa5; BLOCK_BYTES];
    let mut index = 0;
    loop {
        let before = Instant::now();
        if before >= end {
            return Ok(latencies);
        }
        file.write_all_at(&block, index * BLOCK_BYTES as u64)?;
        file.sync_data()?;
        index = (index + 1) % BLOCKS;
        latencies
            .saturating_record(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

/// Microseconds up to ten minutes, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_measured_and_left_empty() {
        let dir = std::env::temp_dir().join(format!("keelson-fsync-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        let rate = measure(&dir, 2, Duration::from_millis(20)).unwrap();
        assert!(rate.per_second() > 0.0);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        std::fs::remove_dir(&dir).unwrap();
    }
}

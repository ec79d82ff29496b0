//! Compares replay with RocksDB fed the same batches directly:
//! `cargo run --release -p keelson-store --example replay_speed [DIRECTORY]`.
//!
//! Both write the same keys with the log off and end with a flush; the rounds alternate.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs, process};

use bytes::Bytes;
use keelson_env::kv_suite::{applied, frame, put, session};
use keelson_env::{ReplayFrame, StoreOpener};
use keelson_store::{StoreFactory, StoreLimits};
use keelson_types::SessionRecord;
use rocksdb::{DB, DBCompressionType, Options, WriteBatch, WriteOptions};

const TOTAL_BYTES: usize = 256 * 1024 * 1024;
const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let default = || env::temp_dir().join(format!("keelson-replay-speed-{}", process::id()));
    let directory = env::args().nth(1).map_or_else(default, PathBuf::from);
    for (value_bytes, batch) in [(1024, 1), (1024, 100), (100, 1), (100, 100)] {
        let batches = batches(value_bytes, batch);
        let (mut raw, mut ours, mut with_sessions) = (Duration::MAX, Duration::MAX, Duration::MAX);
        for round in 0..ROUNDS {
            let path = |name: &str| directory.join(format!("{name}-{value_bytes}-{batch}-{round}"));
            raw = raw.min(write_raw(&path("raw"), &batches)?);
            ours = ours.min(replay(&path("replay"), &frames(&batches, false))?);
            with_sessions = with_sessions.min(replay(&path("session"), &frames(&batches, true))?);
            fs::remove_dir_all(&directory)?;
        }
        let speed = |took: Duration| TOTAL_BYTES as f64 / took.as_secs_f64() / 1e6;
        println!(
            "{value_bytes} B values in batches of {batch}: RocksDB {:.0} MB/s, replay {:.0} MB/s \
             ({:.0} %), with a session record per put {:.0} MB/s",
            speed(raw),
            speed(ours),
            100.0 * raw.as_secs_f64() / ours.as_secs_f64(),
            speed(with_sessions),
        );
    }
    Ok(())
}

type Pair = (Bytes, Bytes);

/// Batches of pairs with 100-byte keys in random order and half compressible values.
fn batches(value_bytes: usize, batch: usize) -> Vec<Vec<Pair>> {
    let count = TOTAL_BYTES / (100 + value_bytes);
    let mut state = 7_u64;
    let mut draw = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state
    };
    let mut pair = || {
        let key = format!("{:0>84}{:016x}", "user", draw());
        let mut value = vec![b'v'; value_bytes];
        value[..value_bytes / 2].chunks_mut(8).for_each(|chunk| {
            let length = chunk.len();
            chunk.copy_from_slice(&draw().to_le_bytes()[..length]);
        });
        (key.into(), value.into())
    };
    (0..count / batch).map(|_| (0..batch).map(|_| pair()).collect()).collect()
}

fn frames(batches: &[Vec<Pair>], sessions: bool) -> Vec<ReplayFrame> {
    let mut frames = vec![frame(1, (0..64).map(|id| session(id, SessionRecord::Open)).collect())];
    for (index, batch) in (2_u64..).zip(batches) {
        let mut records = Vec::with_capacity(batch.len() * 2);
        for (offset, (key, value)) in batch.iter().enumerate() {
            records.push(put(key.clone(), value.clone()));
            if sessions {
                let number = index * 1_000 + offset as u64;
                records.push(applied(u128::from(number % 64), number, number));
            }
        }
        frames.push(frame(index, records));
    }
    frames
}

fn write_raw(path: &Path, batches: &[Vec<Pair>]) -> Result<Duration, Box<dyn Error>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::Lz4);
    fs::create_dir_all(path)?;
    let db = DB::open(&options, path)?;
    let mut write_options = WriteOptions::default();
    write_options.disable_wal(true);
    let begun = Instant::now();
    for pairs in batches {
        let mut batch = WriteBatch::default();
        pairs.iter().for_each(|(key, value): &Pair| batch.put(key, value));
        db.write_opt(batch, &write_options)?;
    }
    db.flush()?;
    Ok(begun.elapsed())
}

fn replay(path: &Path, frames: &[ReplayFrame]) -> Result<Duration, Box<dyn Error>> {
    let factory = StoreFactory::new(&StoreLimits::default())?;
    let store = factory.open(path)?;
    let begun = Instant::now();
    for frame in frames {
        store.replay(std::slice::from_ref(frame))?;
    }
    store.checkpoint()?;
    Ok(begun.elapsed())
}

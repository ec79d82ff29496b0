//! Shows what a full volume does: `cargo run -p keelson-store --example full_volume DIRECTORY`.
//!
//! DIRECTORY lies on a small volume of its own, for example a tmpfs of 64 MiB. Fills most of it
//! with a ballast file and the rest with a store until it reports that there is no space, also when
//! it is asked again, removes the ballast, and waits until the store goes on by itself. Ends by
//! comparing digests.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use keelson_env::kv_suite::{digest, frame, model_digest, put};
use keelson_env::{ReplayFrame, StoreError, StoreOpener};
use keelson_store::{StoreFactory, StoreLimits};

const FRAME_BYTES: usize = 64 * 1024;
const HEALING_MAX: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(env::args().nth(1).ok_or("give a directory")?);
    let limits = StoreLimits { memtable_bytes: 2 * 1024 * 1024, ..StoreLimits::default() };
    let factory = StoreFactory::new(&limits)?;
    let ballast = directory.join("ballast");
    fs::write(&ballast, vec![1; 48 * 1024 * 1024])?;
    let store = factory.open(&directory.join("store"))?;
    let frames: Vec<ReplayFrame> = (1..=400).map(big_frame).collect();
    let mut next = 0;
    let mut refused = None;
    while let Some(frame) = frames.get(next) {
        match store.replay(std::slice::from_ref(frame)) {
            Ok(()) => next += 1,
            Err(StoreError::NoSpace) if refused.is_none() => {
                println!("frame {next} refused: no space; checkpoint {}", store.checkpointed());
                println!("checkpoint: {:?}; get: {:?}", store.checkpoint(), store.get(b"x"));
                fs::remove_file(&ballast)?;
                refused = Some(Instant::now());
            }
            Err(StoreError::NoSpace) if refused.is_some_and(|at| at.elapsed() < HEALING_MAX) => {
                thread::sleep(Duration::from_millis(100));
            }
            Err(other) => return Err(other.into()),
        }
    }
    println!("went on by itself after {:?}", refused.map(|at| at.elapsed()));
    println!("checkpoint: {:?}", store.checkpoint()?);
    println!("equal to the model: {}", digest(&store) == model_digest(&frames));
    Ok(())
}

fn big_frame(index: u64) -> ReplayFrame {
    let mut state = index;
    let value: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(FRAME_BYTES)
    .collect();
    frame(index * 100, vec![put(format!("key-{index:05}"), value)])
}

//! Measures what open stores cost: `cargo run -p keelson-store --example many_stores [COUNT]
//! [DIRECTORY]`.
//!
//! Opens COUNT (300) empty stores with one write each in one process and prints open time, memory,
//! descriptors, threads, and the processor time that they take while nothing happens.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use keelson_env::kv_suite::{frame, put};
use keelson_env::{KvStore, StoreOpener};
use keelson_store::{StoreFactory, StoreLimits};

const IDLE: Duration = Duration::from_secs(30);
/// Of a processor time unit in `/proc`, fixed on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let count: usize = arguments.next().map_or(Ok(300), |text| text.parse())?;
    let default = || env::temp_dir().join(format!("keelson-many-stores-{}", process::id()));
    let directory = arguments.next().map_or_else(default, PathBuf::from);
    let factory = StoreFactory::new(&StoreLimits::default())?;
    let before = status_kib("VmRSS:")?;
    let begun = Instant::now();
    let stores = open_all(&factory, &directory, count)?;
    report("opened and written", begun.elapsed(), count, before, &factory)?;
    let (used, slept) = (processor_seconds()?, Instant::now());
    thread::sleep(IDLE);
    let share = (processor_seconds()? - used) / slept.elapsed().as_secs_f64();
    println!("idle: {:.2} % of a core over {} s", share * 100.0, IDLE.as_secs());
    let begun = Instant::now();
    for store in &stores {
        store.checkpoint()?;
    }
    report("checkpointed", begun.elapsed(), count, before, &factory)?;
    let begun = Instant::now();
    drop(stores);
    report("closed", begun.elapsed(), count, before, &factory)?;
    let begun = Instant::now();
    let stores =
        (0..count).map(|i| factory.open(&path(&directory, i))).collect::<Result<Vec<_>, _>>()?;
    report("reopened", begun.elapsed(), count, before, &factory)?;
    drop(stores);
    fs::remove_dir_all(&directory)?;
    Ok(())
}

fn path(directory: &std::path::Path, index: usize) -> PathBuf {
    directory.join(format!("store-{index:04}"))
}

fn open_all(
    factory: &StoreFactory,
    directory: &std::path::Path,
    count: usize,
) -> Result<Vec<Arc<dyn KvStore>>, Box<dyn Error>> {
    let mut stores = Vec::with_capacity(count);
    for index in 0..count {
        let store = factory.open(&path(directory, index))?;
        store.replay(&[frame(100, vec![put("key", "value")])])?;
        stores.push(store);
    }
    Ok(stores)
}

fn report(
    what: &str,
    took: Duration,
    count: usize,
    before_kib: u64,
    factory: &StoreFactory,
) -> Result<(), Box<dyn Error>> {
    let rss = status_kib("VmRSS:")?;
    let memory = factory.memory();
    println!(
        "{what}: {count} stores in {:.2} s ({:.2} ms each); RSS {:.1} MiB, {:.0} KiB per store; \
         memtables {:.1} MiB, with cache {:.1} MiB; {} descriptors, {} threads",
        took.as_secs_f64(),
        took.as_secs_f64() * 1_000.0 / count as f64,
        rss as f64 / 1_024.0,
        rss.saturating_sub(before_kib) as f64 / count as f64,
        memory.memtables_bytes as f64 / 1_048_576.0,
        memory.total_bytes as f64 / 1_048_576.0,
        fs::read_dir("/proc/self/fd")?.count(),
        status_kib("Threads:")?,
    );
    Ok(())
}

fn status_kib(name: &str) -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
    Ok(line.split_whitespace().next().ok_or("no number")?.parse()?)
}

fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no command name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

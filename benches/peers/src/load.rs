//! The one load generator: clients in closed loops, the same for every system.
//!
//! A client sends its next request when the last one was answered. Latencies are of single
//! requests, in an HDR histogram with three digits. A failed request counts as an error and is not
//! in the histogram.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use keelson_testkit::eventually;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::task::JoinSet;

use crate::options::Plan;
use crate::target::{Connection, Connections};

/// What each request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    Put,
    Get,
    Batch,
}

/// Keys and values: values are cut out of random bytes at random places, so that they do not
/// compress.
#[derive(Clone)]
struct Records {
    plan: Plan,
    pool: Bytes,
    random: SmallRng,
}

/// What all clients saw together.
pub(crate) struct Seen {
    pub(crate) latencies: Histogram<u64>,
    pub(crate) errors: u64,
    pub(crate) last_error: String,
}

impl Seen {
    fn nothing() -> Self {
        Self { latencies: histogram(), errors: 0, last_error: String::new() }
    }
}

/// Microseconds up to ten minutes, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
}

/// Median and 99th percentile in milliseconds.
pub(crate) fn millis(latencies: &Histogram<u64>) -> (f64, f64) {
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    (at(0.5), at(0.99))
}

/// Runs one client per connection: `warm_up`, then `duration` which is measured.
///
/// # Errors
/// A client panicked.
pub(crate) async fn run(connections: Connections, work: Work, plan: &Plan) -> Result<Seen> {
    let begin = Instant::now() + plan.warm_up;
    let end = begin + plan.duration;
    let records = Records::new(plan);
    let mut running = JoinSet::new();
    for (number, connection) in (0..).zip(connections) {
        running.spawn(client(connection, work, records.of_client(number), begin, end));
    }
    let mut all = Seen::nothing();
    while let Some(seen) = running.join_next().await {
        let seen = seen.context("a client failed")?;
        all.latencies.add(seen.latencies)?;
        all.errors += seen.errors;
        if !seen.last_error.is_empty() {
            all.last_error = seen.last_error;
        }
    }
    Ok(all)
}

async fn client(
    mut connection: Box<dyn Connection>,
    work: Work,
    mut records: Records,
    begin: Instant,
    end: Instant,
) -> Seen {
    let mut seen = Seen::nothing();
    loop {
        let before = Instant::now();
        if before >= end {
            return seen;
        }
        match once(&mut *connection, work, &mut records).await {
            Ok(()) if before < begin => {}
            Ok(()) => {
                let micros = u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX);
                seen.latencies.saturating_record(micros);
            }
            Err(error) => {
                seen.errors += 1;
                seen.last_error = format!("{error:#}");
                // A refusal that comes at once must not become a flood.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn once(connection: &mut dyn Connection, work: Work, records: &mut Records) -> Result<()> {
    match work {
        Work::Put => connection.put(records.any_key(), records.value()).await,
        Work::Get => {
            let key = records.any_key();
            let found = connection.get(key.clone()).await?;
            let bytes = records.plan.value_bytes;
            ensure!(found == Some(bytes), "{key:?} has {found:?} bytes, not {bytes}");
            Ok(())
        }
        Work::Batch => connection.batch(records.any_batch()).await,
    }
}

/// Writes records in batches, the work shared among the connections: all keys once, or as many
/// records as make `bytes` of values.
///
/// # Errors
/// A write failed.
pub(crate) async fn fill(connections: Connections, plan: &Plan, bytes: u64) -> Result<u64> {
    let count = bytes.div_ceil(plan.value_bytes as u64);
    let next = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    let records = Records::new(plan);
    for (number, mut connection) in (0..).zip(connections) {
        let (next, plan) = (next.clone(), *plan);
        let mut records = records.of_client(number);
        running.spawn(async move {
            loop {
                let from = next.fetch_add(plan.batch as u64, Ordering::Relaxed);
                if from >= count {
                    return Ok(());
                }
                let numbers = (from..count.min(from + plan.batch as u64)).map(|n| n % plan.keys);
                let numbers: BTreeSet<_> = numbers.collect();
                let batch = numbers.into_iter().map(|n| (key(n), records.value())).collect();
                connection.batch(batch).await?;
            }
        });
    }
    while let Some(done) = running.join_next().await {
        let done: Result<()> = done.context("a client failed")?;
        done?;
    }
    Ok(count * plan.value_bytes as u64)
}

impl Records {
    fn new(plan: &Plan) -> Self {
        let mut random = SmallRng::from_os_rng();
        let mut pool = vec![0; plan.value_bytes + 1024 * 1024];
        random.fill_bytes(&mut pool);
        Self { plan: *plan, pool: pool.into(), random }
    }

    /// The same bytes, chosen in an order of its own.
    fn of_client(&self, number: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(number), ..self.clone() }
    }

    fn any_key(&mut self) -> Bytes {
        key(self.random.random_range(0..self.plan.keys))
    }

    fn value(&mut self) -> Bytes {
        let bytes = self.plan.value_bytes;
        let start = self.random.random_range(0..=self.pool.len() - bytes);
        self.pool.slice(start..start + bytes)
    }

    /// Different keys in order: two of the peers refuse the same key twice in one write, and one
    /// would run into deadlocks with keys in any order.
    fn any_batch(&mut self) -> Vec<(Bytes, Bytes)> {
        let mut numbers = BTreeSet::new();
        while numbers.len() < self.plan.batch {
            numbers.insert(self.random.random_range(0..self.plan.keys));
        }
        numbers.into_iter().map(|number| (key(number), self.value())).collect()
    }
}

fn key(number: u64) -> Bytes {
    format!("bench/{number:012}").into()
}

/// Clients that put without end, for the gap that a fault makes.
pub(crate) struct Writers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    started: Instant,
    stopped: AtomicBool,
    acknowledged: AtomicU64,
    last_nanos: AtomicU64,
    longest_nanos: AtomicU64,
}

impl Writers {
    /// Starts one client per connection.
    pub(crate) fn start(connections: Connections, plan: &Plan) -> Self {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            stopped: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            last_nanos: AtomicU64::new(0),
            longest_nanos: AtomicU64::new(0),
        });
        let records = Records::new(plan);
        let mut tasks = JoinSet::new();
        for (number, connection) in (0..).zip(connections) {
            tasks.spawn(write(connection, records.of_client(number), shared.clone()));
        }
        Self { shared, tasks }
    }

    /// Waits until `count` more puts were acknowledged.
    ///
    /// # Errors
    /// Not within a minute.
    pub(crate) async fn progress(&self, count: u64) -> Result<()> {
        let now = || self.shared.acknowledged.load(Ordering::SeqCst);
        let goal = now() + count;
        eventually("puts go on", || async {
            ensure!(now() >= goal, "{} of {goal} puts", now());
            Ok(())
        })
        .await
    }

    /// Forgets the gaps so far.
    pub(crate) fn reset_gap(&self) {
        self.shared.last_nanos.store(self.shared.now(), Ordering::SeqCst);
        self.shared.longest_nanos.store(0, Ordering::SeqCst);
    }

    /// Longest time without an acknowledgement to anybody since the last reset.
    pub(crate) fn longest_gap(&self) -> Duration {
        Duration::from_nanos(self.shared.longest_nanos.load(Ordering::SeqCst))
    }

    /// Stops them.
    pub(crate) async fn stop(mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

async fn write(mut connection: Box<dyn Connection>, mut records: Records, shared: Arc<Shared>) {
    while !shared.stopped.load(Ordering::SeqCst) {
        if connection.put(records.any_key(), records.value()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        shared.acknowledged.fetch_add(1, Ordering::SeqCst);
        let now = shared.now();
        let last = shared.last_nanos.swap(now, Ordering::SeqCst);
        shared.longest_nanos.fetch_max(now.saturating_sub(last), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::options::{Arguments, Kind};
    use clap::Parser;

    type Written = Arc<Mutex<Vec<Vec<(Bytes, Bytes)>>>>;

    struct Memory(Written);

    #[async_trait]
    impl Connection for Memory {
        async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
            self.batch(vec![(key, value)]).await
        }

        async fn get(&mut self, _: Bytes) -> Result<Option<usize>> {
            Ok(Some(7))
        }

        async fn batch(&mut self, records: Vec<(Bytes, Bytes)>) -> Result<()> {
            self.0.lock().unwrap().push(records);
            // Lets the other clients run.
            tokio::task::yield_now().await;
            Ok(())
        }
    }

    fn plan() -> Plan {
        let arguments = Arguments::try_parse_from(["keelson-peers", "--quick"]).unwrap();
        assert_eq!(arguments.kinds().len(), Kind::ALL.len());
        let short = Duration::from_millis(200);
        Plan { keys: 250, warm_up: Duration::ZERO, duration: short, ..arguments.plan() }
    }

    fn connections(written: &Written, count: usize) -> Connections {
        let new = |_| Box::new(Memory(written.clone())) as Box<dyn Connection>;
        (0..count).map(new).collect()
    }

    #[tokio::test]
    async fn filling_writes_every_key_and_as_many_bytes_as_asked() {
        let (written, plan) = (Written::default(), plan());
        let bytes = fill(connections(&written, 3), &plan, 1024 * 600).await.unwrap();
        assert_eq!(bytes, 1024 * 600);
        let written = written.lock().unwrap();
        let keys: BTreeSet<_> = written.iter().flatten().map(|(key, _)| key.clone()).collect();
        assert_eq!(keys.len(), 250);
        assert_eq!(written.iter().map(Vec::len).sum::<usize>(), 600);
        assert!(written.iter().flatten().all(|(_, value)| value.len() == plan.value_bytes));
    }

    #[tokio::test]
    async fn batches_have_different_keys_in_order() {
        let (written, plan) = (Written::default(), plan());
        let seen = run(connections(&written, 2), Work::Batch, &plan).await.unwrap();
        assert!(seen.errors == 0 && !seen.latencies.is_empty());
        for batch in &*written.lock().unwrap() {
            assert_eq!(batch.len(), plan.batch);
            assert!(batch.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }

    #[tokio::test]
    async fn a_value_of_the_wrong_size_is_an_error() {
        let seen = run(connections(&Written::default(), 1), Work::Get, &plan()).await.unwrap();
        assert!(seen.errors > 0 && seen.latencies.is_empty());
        assert!(seen.last_error.contains("Some(7) bytes"), "{}", seen.last_error);
    }
}

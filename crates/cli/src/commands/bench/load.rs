//! Clients in closed loops, and what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use keelson_client::{ClientError, ClientOptions, Database, Session, WriteBatch};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::task::JoinSet;

use super::fsync::histogram;
use super::{Load, Work};
use crate::context::Global;
use crate::failure::{Failure, Outcome};

/// What all clients saw together.
pub(crate) struct Result {
    pub(crate) seconds: f64,
    pub(crate) latencies: Histogram<u64>,
    pub(crate) longest_gap: Duration,
    pub(crate) errors: u64,
    pub(crate) last_error: String,
}

/// When somebody got an answer last, and the longest time between two answers.
struct Gaps {
    started: Instant,
    last_nanos: AtomicU64,
    longest_nanos: AtomicU64,
    /// Set when measuring begins.
    measuring: AtomicBool,
    stop: Stop,
}

/// Ends a load before its time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gaps {
    fn answered(&self) {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let last = self.last_nanos.swap(now, Ordering::Relaxed);
        if self.measuring.load(Ordering::Relaxed) {
            self.longest_nanos.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        }
    }
}

/// One client.
struct Client {
    database: Database,
    session: Option<Session>,
    work: Work,
    keys: u64,
    prefix: String,
    /// Random bytes; values are cut out of it at random places, so that they do not compress.
    pool: Bytes,
    value_bytes: usize,
    random: SmallRng,
}

/// What one client saw.
struct Seen {
    latencies: Histogram<u64>,
    errors: u64,
    last_error: String,
}

/// Runs the load and measures it, until its time is over or it is stopped.
pub(crate) async fn run(global: &Global, load: &Load, work: Work, stop: Stop) -> Outcome<Result> {
    let options =
        ClientOptions { channels_per_member: load.connections, ..ClientOptions::default() };
    let client = global.client_with(options)?;
    client.refresh_topology().await?;
    let database = client.database(load.database.clone());
    let value_bytes = usize::try_from(load.value_size.as_u64())
        .map_err(|_| Failure::usage("the value size is too large", "values have at most 8 MiB"))?;
    let mut random = SmallRng::from_os_rng();
    let mut pool = vec![0; value_bytes + 1024 * 1024];
    random.fill_bytes(&mut pool);
    let pool = Bytes::from(pool);
    let session = match load.sessions {
        true => Some(database.session().await?),
        false => None,
    };
    let make = |index: u64| Client {
        database: database.clone(),
        session: session.clone(),
        work,
        keys: load.keys,
        prefix: load.key_prefix.clone(),
        pool: pool.clone(),
        value_bytes,
        random: SmallRng::seed_from_u64(index),
    };
    if work == Work::Get {
        fill(make(u64::MAX), load.keys).await?;
    }
    let clients = (0..u64::from(load.clients)).map(make).collect();
    measure(clients, (load.warm_up.into(), load.duration.into()), stop).await
}

async fn measure(
    clients: Vec<Client>,
    (warm_up, duration): (Duration, Duration),
    stop: Stop,
) -> std::result::Result<Result, Failure> {
    let started = Instant::now();
    let begin = started + warm_up;
    let end = begin + duration;
    let gaps = Arc::new(Gaps {
        started,
        last_nanos: AtomicU64::new(0),
        longest_nanos: AtomicU64::new(0),
        measuring: AtomicBool::new(false),
        stop,
    });
    let mut running = JoinSet::new();
    for client in clients {
        running.spawn(client.run(begin, end, gaps.clone()));
    }
    let mut result = Result {
        seconds: 0.0,
        latencies: histogram(),
        longest_gap: Duration::ZERO,
        errors: 0,
        last_error: String::new(),
    };
    while let Some(seen) = running.join_next().await {
        let seen = seen.map_err(|error| Failure::local(format!("a client failed: {error}")))?;
        result.latencies.add(seen.latencies).map_err(|error| Failure::local(error.to_string()))?;
        result.errors += seen.errors;
        if !seen.last_error.is_empty() {
            result.last_error = seen.last_error;
        }
    }
    result.seconds = begin.elapsed().min(duration).as_secs_f64();
    result.longest_gap = Duration::from_nanos(gaps.longest_nanos.load(Ordering::Relaxed));
    Ok(result)
}

/// Writes all keys once, for reads.
async fn fill(mut client: Client, keys: u64) -> Outcome {
    let mut index = 0;
    while index < keys {
        let mut batch = WriteBatch::new();
        while index < keys && batch.len() < 256 && batch.bytes() < 1024 * 1024 {
            batch.push_put(client.key(index), client.value());
            index += 1;
        }
        client.database.write(batch).await?;
    }
    Ok(())
}

impl Client {
    async fn run(mut self, begin: Instant, end: Instant, gaps: Arc<Gaps>) -> Seen {
        let mut seen = Seen { latencies: histogram(), errors: 0, last_error: String::new() };
        loop {
            let before = Instant::now();
            if before >= end || gaps.stop.is_set() {
                return seen;
            }
            let result = self.once().await;
            let measured = before >= begin;
            if measured {
                gaps.measuring.store(true, Ordering::Relaxed);
            }
            match result {
                Ok(()) => gaps.answered(),
                Err(error) => {
                    seen.errors += 1;
                    seen.last_error = error.to_string();
                    // A refusal that comes at once must not become a flood.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            }
            if measured {
                let micros = u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX);
                seen.latencies.saturating_record(micros);
            }
        }
    }

    async fn once(&mut self) -> std::result::Result<(), ClientError> {
        let index = self.random.random_range(0..self.keys);
        let key = self.key(index);
        match self.work {
            Work::Get => {
                self.database.get(key).await?;
            }
            Work::Put => {
                let value = self.value();
                match &self.session {
                    Some(session) => session.put(key, value).await?,
                    None => self.database.put(key, value).await?,
                };
            }
            Work::Batch(records) => {
                let mut batch = WriteBatch::new();
                for _ in 0..records {
                    let index = self.random.random_range(0..self.keys);
                    batch.push_put(self.key(index), self.value());
                }
                match &self.session {
                    Some(session) => session.write(batch).await?,
                    None => self.database.write(batch).await?,
                };
            }
        }
        Ok(())
    }

    fn key(&self, index: u64) -> Bytes {
        format!("{}{index:012}", self.prefix).into()
    }

    fn value(&mut self) -> Bytes {
        let start = self.random.random_range(0..=self.pool.len() - self.value_bytes);
        self.pool.slice(start..start + self.value_bytes)
    }
}

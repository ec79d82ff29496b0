//! Writers that never stop, and the oracle that says afterwards what must be in the database.
//!
//! Every task writes under keys of its own, each once, through a session. A write is *acknowledged*
//! or its outcome is *unknown*; an unanswered write is unknown, never absent. Afterwards an
//! acknowledged record must be there with exactly its value, an unknown one may be there with
//! exactly its value, and nothing else may be there. A counter per task is overwritten with every
//! write: it must not be older than the last acknowledged write, which finds writes that were
//! applied late or twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use keelson_client::{Database, ScanOptions, Session, WriteBatch};
use tokio::task::JoinSet;

/// How a [`Writer`] writes.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Writes under way at the same time.
    pub tasks: usize,
    /// Bytes of each value, at least 32.
    pub value_bytes: usize,
    /// Before every key.
    pub prefix: String,
    /// Pause of a task between two writes.
    pub pause: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { tasks: 4, value_bytes: 256, prefix: "writer/".into(), pause: Duration::ZERO }
    }
}

struct Shared {
    database: Database,
    options: WriterOptions,
    started: Instant,
    stopped: AtomicBool,
    acknowledged: AtomicU64,
    last_nanos: AtomicU64,
    longest_nanos: AtomicU64,
    /// When the longest gap began, and when gaps were forgotten.
    gap_began_nanos: AtomicU64,
    reset_nanos: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// Tasks that write until they are stopped.
pub struct Writer {
    shared: Arc<Shared>,
    tasks: JoinSet<(usize, TaskRecord)>,
}

/// What one task knows.
#[derive(Debug, Default)]
struct TaskRecord {
    /// Numbers below this were tried.
    tried: u64,
    /// Last acknowledged number plus one.
    acknowledged_below: u64,
    unknown: BTreeSet<u64>,
}

/// What must be in the database.
#[derive(Debug)]
pub struct Oracle {
    tasks: BTreeMap<usize, TaskRecord>,
    options: WriterOptions,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Longest time between two acknowledgements of any tasks, since the last reset.
    pub longest_gap: Duration,
}

/// What was found in the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Acknowledged writes, all found.
    pub acknowledged: u64,
    /// Writes of unknown outcome that were applied.
    pub unknown_applied: u64,
    /// Writes of unknown outcome that were not.
    pub unknown_absent: u64,
}

impl Writer {
    /// Starts writing.
    #[must_use]
    pub fn start(database: Database, options: WriterOptions) -> Self {
        let shared = Arc::new(Shared {
            database,
            options,
            started: Instant::now(),
            stopped: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            last_nanos: AtomicU64::new(0),
            longest_nanos: AtomicU64::new(0),
            gap_began_nanos: AtomicU64::new(0),
            reset_nanos: AtomicU64::new(0),
            failure: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for task in 0..shared.options.tasks {
            tasks.spawn(write_on(shared.clone(), task));
        }
        Self { shared, tasks }
    }

    /// Writes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until `count` more writes were acknowledged.
    ///
    /// # Errors
    /// Not within a minute, or a write was refused for good.
    pub async fn progress(&self, count: u64) -> Result<()> {
        let goal = self.acknowledged() + count;
        crate::eventually(&format!("{count} more writes are acknowledged"), || async {
            let now = self.acknowledged();
            ensure!(now >= goal, "{now} of {goal}{}", self.failure_text());
            Ok(())
        })
        .await
    }

    /// Forgets the gaps so far.
    pub fn reset_gap(&self) {
        let now = self.shared.now();
        self.shared.last_nanos.store(now, Ordering::SeqCst);
        self.shared.longest_nanos.store(0, Ordering::SeqCst);
        self.shared.reset_nanos.store(now, Ordering::SeqCst);
    }

    /// When the longest gap began, since the last reset.
    #[must_use]
    pub fn gap_began(&self) -> Duration {
        let began = self.shared.gap_began_nanos.load(Ordering::SeqCst);
        Duration::from_nanos(began.saturating_sub(self.shared.reset_nanos.load(Ordering::SeqCst)))
    }

    /// Longest time between two acknowledgements since the last reset.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        Duration::from_nanos(self.shared.longest_nanos.load(Ordering::SeqCst))
    }

    /// Stops writing and says what must be there.
    ///
    /// # Errors
    /// A write was refused for good, or a task panicked.
    pub async fn stop(mut self) -> Result<Oracle> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let mut tasks = BTreeMap::new();
        while let Some(ended) = self.tasks.join_next().await {
            let (task, record) = ended?;
            tasks.insert(task, record);
        }
        let failure = self.failure_text();
        ensure!(failure.is_empty(), "a write was refused{failure}");
        Ok(Oracle {
            tasks,
            options: self.shared.options.clone(),
            acknowledged: self.acknowledged(),
            longest_gap: self.longest_gap(),
        })
    }

    fn failure_text(&self) -> String {
        let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map(|text| format!(": {text}")).unwrap_or_default()
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
        let now = self.now();
        let last = self.last_nanos.swap(now, Ordering::SeqCst);
        let gap = now.saturating_sub(last);
        if self.longest_nanos.fetch_max(gap, Ordering::SeqCst) < gap {
            self.gap_began_nanos.store(last, Ordering::SeqCst);
        }
    }

    fn fail(&self, text: String) {
        self.stopped.store(true, Ordering::SeqCst);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(text);
    }
}

async fn write_on(shared: Arc<Shared>, task: usize) -> (usize, TaskRecord) {
    let mut record = TaskRecord::default();
    let session = match shared.database.session().await {
        Ok(session) => session,
        Err(error) => {
            shared.fail(format!("no session: {error}"));
            return (task, record);
        }
    };
    while !shared.stopped.load(Ordering::SeqCst) {
        let number = record.tried;
        record.tried += 1;
        match write_one(&session, &shared.options, task, number).await {
            Ok(()) => {
                record.acknowledged_below = number + 1;
                shared.acknowledge();
            }
            Err(error) if error.is_outcome_unknown() || error.is_retryable() => {
                record.unknown.insert(number);
            }
            Err(error) => {
                record.unknown.insert(number);
                shared.fail(error.to_string());
            }
        }
        if !shared.options.pause.is_zero() {
            tokio::time::sleep(shared.options.pause).await;
        }
    }
    (task, record)
}

async fn write_one(
    session: &Session,
    options: &WriterOptions,
    task: usize,
    number: u64,
) -> Result<(), keelson_client::ClientError> {
    let batch = WriteBatch::new()
        .put(record_key(options, task, number), value(options, task, number))
        .put(counter_key(options, task), number.to_string());
    session.write(batch).await.map(|_| ())
}

fn record_key(options: &WriterOptions, task: usize, number: u64) -> Bytes {
    format!("{}record/{task:04}/{number:012}", options.prefix).into()
}

fn counter_key(options: &WriterOptions, task: usize) -> Bytes {
    format!("{}counter/{task:04}", options.prefix).into()
}

fn value(options: &WriterOptions, task: usize, number: u64) -> Bytes {
    let mut value = format!("{task}/{number}/").into_bytes();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ task as u64;
    while value.len() < options.value_bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        value.extend_from_slice(&state.to_be_bytes());
    }
    value.truncate(options.value_bytes.max(32));
    value.into()
}

impl Oracle {
    /// Compares the database with what must be there.
    ///
    /// # Errors
    /// What is missing, wrong or too much; the database cannot be read.
    pub async fn verify(&self, database: &Database) -> Result<Verified> {
        let mut verified = Verified { acknowledged: 0, unknown_applied: 0, unknown_absent: 0 };
        for (task, record) in &self.tasks {
            let prefix = format!("{}record/{task:04}/", self.options.prefix);
            let found = database.scan(ScanOptions::prefix(prefix)).await?.collect().await?;
            let found: BTreeMap<_, _> = found.into_iter().map(|i| (i.key, i.value)).collect();
            self.check_task(*task, record, found, &mut verified)?;
            self.check_counter(database, *task, record).await?;
        }
        ensure!(
            verified.acknowledged == self.acknowledged,
            "{} writes were acknowledged, but {} are accounted for",
            self.acknowledged,
            verified.acknowledged
        );
        Ok(verified)
    }

    fn check_task(
        &self,
        task: usize,
        record: &TaskRecord,
        mut found: BTreeMap<Bytes, Bytes>,
        verified: &mut Verified,
    ) -> Result<()> {
        for number in 0..record.tried {
            let key = record_key(&self.options, task, number);
            match (found.remove(&key), record.unknown.contains(&number)) {
                (Some(there), _) if there != value(&self.options, task, number) => {
                    bail!("{key:?} has a wrong value")
                }
                (Some(_), true) => verified.unknown_applied += 1,
                (None, true) => verified.unknown_absent += 1,
                (Some(_), false) => verified.acknowledged += 1,
                (None, false) => bail!("LOST: the acknowledged write {key:?} is not there"),
            }
        }
        match found.keys().next() {
            None => Ok(()),
            Some(key) => bail!("{} records that nobody wrote, as {key:?}", found.len()),
        }
    }

    async fn check_counter(
        &self,
        database: &Database,
        task: usize,
        record: &TaskRecord,
    ) -> Result<()> {
        let counter = database.get(counter_key(&self.options, task)).await?;
        let text = counter.as_deref().map(String::from_utf8_lossy);
        let found: Option<u64> = text.and_then(|text| text.parse().ok());
        let behind = found.map_or(0, |number| number + 1);
        ensure!(
            behind >= record.acknowledged_below && behind <= record.tried,
            "counter of task {task} is {found:?}; acknowledged below {}, tried below {}",
            record.acknowledged_below,
            record.tried
        );
        Ok(())
    }
}

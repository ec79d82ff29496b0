//! Clients that read and write a few registers at the same time, and keep their histories.
//!
//! A register is left for a new one when its history is long, or holds a write of unknown outcome:
//! the search for an order doubles with each of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keelson_client::{ClientError, Database, Session, WriteBatch};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::history::{Operation, Recorded};

/// Clients.
const TASKS: u64 = 5;
/// Registers in use at the same time.
const REGISTERS: usize = 3;
/// Operations after which a register is left.
const OPERATIONS_MAX: usize = 120;
/// Pause of a client between two operations.
const PAUSE: Duration = Duration::from_millis(3);

/// A register in use.
#[derive(Debug, Default)]
struct Slot {
    /// Part of its key.
    number: u64,
    recorded: Recorded,
    /// A write came to no known end.
    doubtful: bool,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    /// Of values, so that no two writes are alike.
    next_value: AtomicU64,
    next_register: AtomicU64,
    slots: [Mutex<Arc<Mutex<Slot>>>; REGISTERS],
    left: Mutex<Vec<Arc<Mutex<Slot>>>>,
    failure: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clients of one run.
#[derive(Debug)]
pub(super) struct Registers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Registers {
    pub(super) async fn start(database: &Database, seed: u64) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        for slot in &shared.slots {
            lock(&lock(slot).clone()).number = shared.next_register.fetch_add(1, Ordering::SeqCst);
        }
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let session = database.session().await.context("no session for a register")?;
            let random = StdRng::seed_from_u64(seed.wrapping_add(task));
            tasks.spawn(work(shared.clone(), session, random));
        }
        Ok(Self { shared, tasks })
    }

    /// Stops, and checks every history; gives the numbers of operations and of histories.
    pub(super) async fn stop(mut self) -> Result<(usize, usize)> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        if let Some(failure) = lock(&self.shared.failure).take() {
            anyhow::bail!("an operation on a register was refused: {failure}");
        }
        let mut all = std::mem::take(&mut *lock(&self.shared.left));
        all.extend(self.shared.slots.iter().map(|slot| lock(slot).clone()));
        let mut operations = 0;
        for slot in &all {
            let slot = lock(slot);
            operations += slot.recorded.len();
            ensure!(
                slot.recorded.is_linearizable(),
                "NOT LINEARIZABLE: register {}: {:?}",
                slot.number,
                slot.recorded
            );
        }
        Ok((operations, all.len()))
    }
}

impl Shared {
    /// The register in a place; a new one if the last is used up.
    fn slot(&self, place: usize) -> Arc<Mutex<Slot>> {
        let mut current = lock(&self.slots[place]);
        let used_up = {
            let slot = lock(&current);
            slot.doubtful || slot.recorded.len() >= OPERATIONS_MAX
        };
        if used_up {
            let number = self.next_register.fetch_add(1, Ordering::SeqCst);
            let fresh = Arc::new(Mutex::new(Slot { number, ..Slot::default() }));
            lock(&self.left).push(std::mem::replace(&mut *current, fresh));
        }
        current.clone()
    }
}

async fn work(shared: Arc<Shared>, session: Session, mut random: StdRng) {
    while !shared.stopped.load(Ordering::SeqCst) {
        let slot = shared.slot(random.random_range(0..REGISTERS));
        let outcome = match random.random_bool(0.5) {
            true => write(&shared, &slot, &session).await,
            false => read(&slot, session.database()).await,
        };
        if let Err(error) = outcome
            && !error.is_outcome_unknown()
            && !error.is_retryable()
        {
            lock(&shared.failure).get_or_insert(error.to_string());
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn key(number: u64) -> String {
    format!("register/{number}")
}

async fn write(shared: &Shared, slot: &Mutex<Slot>, session: &Session) -> Result<(), ClientError> {
    let value = shared.next_value.fetch_add(1, Ordering::SeqCst) + 1;
    let operation = Operation::Write(value);
    let (register, number) = {
        let mut slot = lock(slot);
        (slot.number, slot.recorded.asked(operation))
    };
    let written = session.write(WriteBatch::new().put(key(register), value.to_string())).await;
    let mut slot = lock(slot);
    match &written {
        Ok(_) => slot.recorded.answered(number, operation),
        Err(_) => slot.doubtful = true,
    }
    written.map(|_| ())
}

async fn read(slot: &Mutex<Slot>, database: &Database) -> Result<(), ClientError> {
    let (register, number) = {
        let mut slot = lock(slot);
        (slot.number, slot.recorded.asked(Operation::Read(0)))
    };
    let found = database.get(key(register)).await?;
    let text = found.as_deref().map(String::from_utf8_lossy);
    let value = text.map_or(Some(0), |text| text.parse().ok());
    // What nobody wrote is no value of any order, and is found out as such.
    let seen = Operation::Read(value.unwrap_or(u64::MAX));
    lock(slot).recorded.answered(number, seen);
    Ok(())
}

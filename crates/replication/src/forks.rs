//! Forks: read-only views of a copy at an instant, beside its stream.
//!
//! Owns the forks of this member. A fork is a checkpoint of the copy's store (hard links) into
//! which the log is replayed up to the instant; the copy itself goes on meanwhile and keeps its
//! lag. So a fork reaches from where the store stands to what is committed: a lagged copy reaches
//! back by its lag. While it is built, a hold keeps the log that it needs.
//!
//! Crash: what was being built is removed at the next start; a finished fork is its directory with
//! a description, and stays until it is dropped or expires. Bounds: [`FORKS_MAX`] forks on a
//! member, which may keep at most half of the free space from being given back; one is built at a
//! time. One timer for all of them, and none without an expiry.

mod build;
mod instant;
mod place;
mod reach;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keelson_env::{Disk, KvStore, StoreError, StoreOpener};
use keelson_types::{CopyId, DatabaseId, ForkAddress, ForkName, LogEnd, RefusalReason};
use keelson_wire::Refusal;
use tokio::sync::Notify;

use crate::owner::unix_millis;
use crate::store_slot::StoreSlot;

pub(crate) use build::ForkOrder;

/// Forks on one member; each that was read has an open store.
pub(crate) const FORKS_MAX: usize = 8;
/// How long the reads of a fork that is to be dropped may take to end.
const FORK_READERS_END: Duration = Duration::from_secs(5);
/// The system's timers cannot wait longer than some years; then they are looked at again.
const LOOK_AGAIN: Duration = Duration::from_hours(24);

/// What a fork is, as its directory keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Description {
    pub(crate) database: DatabaseId,
    pub(crate) database_name: String,
    pub(crate) copy: CopyId,
    pub(crate) name: ForkName,
    pub(crate) created_unix_ms: u64,
    pub(crate) expires_unix_ms: Option<u64>,
    /// What it may keep from being removed: the whole store, once the copy has rewritten its files.
    pub(crate) bytes_max: u64,
}

/// Where a fork stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ForkState {
    Building,
    Ready {
        at: LogEnd,
        /// When the last frame in it was written; 0 if it has none beyond the checkpoint.
        time_unix_ms: u64,
    },
    Failed(String),
}

/// One fork.
#[derive(Debug)]
pub(crate) struct Fork {
    pub(crate) is: Description,
    state: Mutex<ForkState>,
    /// Held while its store is opened.
    opening: Mutex<()>,
    store: StoreSlot,
    /// It is not being built any more.
    settled: Notify,
    /// What was replayed into it, once it is built here.
    replayed: Mutex<Replayed>,
}

/// Log that was replayed into a fork, and how long that took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fork {
    fn new(is: Description, state: ForkState) -> Arc<Self> {
        let (state, opening) = (Mutex::new(state), Mutex::default());
        let (store, settled, replayed) = Default::default();
        Arc::new(Self { is, state, opening, store, settled, replayed })
    }

    pub(crate) fn replayed(&self) -> Replayed {
        *lock(&self.replayed)
    }

    /// Waits until it is not being built any more.
    pub(crate) async fn settled(&self) {
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            // From here on nothing is missed.
            settled.as_mut().enable();
            if self.state() != ForkState::Building {
                return;
            }
            settled.await;
        }
    }

    pub(crate) fn state(&self) -> ForkState {
        lock(&self.state).clone()
    }

    fn is_expired(&self, now_unix_ms: u64) -> bool {
        self.is.expires_unix_ms.is_some_and(|at| at <= now_unix_ms)
    }
}

type Key = (String, ForkName);

/// The forks of a member.
#[derive(Debug)]
pub(crate) struct Forks {
    /// The databases' directory.
    root: PathBuf,
    disk: Arc<dyn Disk>,
    known: Mutex<BTreeMap<Key, Arc<Fork>>>,
    /// An expiry was added.
    changed: Notify,
}

impl Forks {
    /// Finds the forks of earlier lives below `data`, and removes what was left half built.
    pub(crate) fn open(data: &std::path::Path, disk: Arc<dyn Disk>) -> Self {
        let root = data.join("databases");
        let found = place::scan(&root).into_iter().map(|(is, state)| {
            let key = (is.database_name.clone(), is.name.clone());
            (key, Fork::new(is, state))
        });
        Self { known: Mutex::new(found.collect()), root, disk, changed: Notify::new() }
    }

    /// A fork by the name that a client used, on the member of that name.
    pub(crate) fn find(&self, address: &ForkAddress) -> Result<Arc<Fork>, Refusal> {
        self.named(address.database.as_str(), &address.fork).ok_or_else(|| unknown(address))
    }

    fn named(&self, database: &str, fork: &ForkName) -> Option<Arc<Fork>> {
        let key = (database.to_owned(), fork.clone());
        lock(&self.known).get(&key).filter(|fork| !fork.is_expired(unix_millis())).cloned()
    }

    /// All forks, or those of a database.
    pub(crate) fn list(&self, database: &str) -> Vec<Arc<Fork>> {
        let now = unix_millis();
        let wanted = |fork: &&Arc<Fork>| {
            !fork.is_expired(now) && (database.is_empty() || fork.is.database_name == database)
        };
        lock(&self.known).values().filter(wanted).cloned().collect()
    }

    /// A name that no fork of the database has.
    pub(crate) fn free_name(&self, database: &str) -> ForkName {
        let names = (1..).filter_map(|number| ForkName::new(format!("fork-{number}")).ok());
        let mut free = names.filter(|name| self.named(database, name).is_none());
        free.next().expect("numbers do not end before the forks do")
    }

    /// Takes a fork in that is to be built.
    ///
    /// # Errors
    /// `already_exists`, `fork_budget`.
    fn admit(&self, is: Description) -> Result<Arc<Fork>, Refusal> {
        let mut known = lock(&self.known);
        let key = (is.database_name.clone(), is.name.clone());
        if known.contains_key(&key) {
            let message = format!("{} has a fork {} here already", is.database_name, is.name);
            return Err(Refusal::new(RefusalReason::AlreadyExists, message));
        }
        if known.len() >= FORKS_MAX {
            let message = format!("this member has {FORKS_MAX} forks, as many as it may");
            return Err(Refusal::new(RefusalReason::ForkBudget, message));
        }
        let kept: u64 = known.values().map(|fork| fork.is.bytes_max).sum();
        let free = self.disk.free_bytes(&self.root).map_err(|error| internal(&error))?;
        if kept.saturating_add(is.bytes_max) > free / 2 {
            let message = format!(
                "the fork may come to keep {} bytes, {kept} are kept by others, and forks may keep \
                 half of the {free} bytes that are free",
                is.bytes_max
            );
            return Err(Refusal::new(RefusalReason::ForkBudget, message));
        }
        let fork = Fork::new(is, ForkState::Building);
        known.insert(key, fork.clone());
        self.changed.notify_one();
        Ok(fork)
    }

    /// Removes the files of a fork and forgets it, once the reads under way have ended. Blocking.
    ///
    /// # Errors
    /// `unknown_fork`; `precondition` while it is built or somebody goes on reading it; `internal`
    /// if its files stay.
    pub(crate) fn drop_fork(
        &self,
        opener: &dyn StoreOpener,
        database: &str,
        name: &ForkName,
    ) -> Result<(), Refusal> {
        let key = (database.to_owned(), name.clone());
        let fork = lock(&self.known).get(&key).cloned();
        let fork = fork.ok_or_else(|| {
            let message = format!("{database} has no fork {name} here");
            Refusal::new(RefusalReason::UnknownFork, message)
        })?;
        let refuse = |message| Err(Refusal::new(RefusalReason::Precondition, message));
        let before = fork.state();
        if before == ForkState::Building {
            return refuse(format!("fork {name} is being built; drop it when it is ready"));
        }
        // From here on nobody opens its store; who has begun to does so first.
        *lock(&fork.state) = ForkState::Failed("it is being dropped".into());
        drop(lock(&fork.opening));
        fork.store.retire();
        if !fork.store.wait_closed(opener, FORK_READERS_END) {
            *lock(&fork.state) = before;
            return refuse(format!("fork {name} is being read; try again"));
        }
        // Renamed while nobody can build another one of the name; what is left is no fork.
        let doomed = place::doom(&self.root, &fork.is).map_err(|error| internal(&error))?;
        let removed = place::remove(&doomed).map_err(|error| internal(&error));
        lock(&self.known).remove(&key);
        removed
    }

    /// Drops what expires, for ever.
    pub(crate) async fn expire(self: Arc<Self>, opener: Arc<dyn StoreOpener>) {
        loop {
            let next = {
                let known = lock(&self.known);
                let ready = known.values().filter(|fork| fork.state() != ForkState::Building);
                ready.filter_map(|fork| fork.is.expires_unix_ms).min()
            };
            let wait = next.map(|at| Duration::from_millis(at.saturating_sub(unix_millis())));
            if wait == Some(Duration::ZERO) {
                let (forks, opener) = (self.clone(), opener.clone());
                // A panic is in the log; the next round tries again.
                let _ = tokio::task::spawn_blocking(move || forks.drop_expired(&*opener)).await;
                continue;
            }
            let due = tokio::time::sleep(wait.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN));
            tokio::select! {
                () = due, if wait.is_some() => {}
                () = self.changed.notified() => {}
            }
        }
    }

    fn drop_expired(&self, opener: &dyn StoreOpener) {
        let now = unix_millis();
        let expired: Vec<_> = {
            let known = lock(&self.known);
            let over = known.values().filter(|fork| fork.is_expired(now));
            over.filter(|fork| fork.state() != ForkState::Building).cloned().collect()
        };
        for fork in expired {
            let (database, name) = (&fork.is.database_name, &fork.is.name);
            match self.drop_fork(opener, database, name) {
                Ok(()) => tracing::info!(%database, fork = %name, "a fork expired"),
                // Its readers have a while to end; nobody new finds it.
                Err(error) if error.reason == RefusalReason::Precondition => {}
                Err(error) => {
                    // Its files are looked at again at the next start; it is not shown any more.
                    tracing::warn!(%database, fork = %name, %error, "an expired fork stays");
                    lock(&self.known).remove(&(database.clone(), name.clone()));
                }
            }
        }
    }

    /// The store of a fork that is ready. Blocking.
    pub(crate) fn store(
        &self,
        opener: &dyn StoreOpener,
        fork: &Fork,
    ) -> Result<Arc<dyn KvStore>, StoreError> {
        // Held, so that nobody drops it in between: opening would make an empty store. The state
        // is not, because all who list forks look at it.
        let _opening = lock(&fork.opening);
        if !matches!(fork.state(), ForkState::Ready { .. }) {
            return Err(StoreError::Failed("the fork is being dropped".into()));
        }
        fork.store.open(opener, &place::of(&self.root, &fork.is).join(place::STORE))
    }
}

fn unknown(address: &ForkAddress) -> Refusal {
    Refusal::new(RefusalReason::UnknownFork, format!("there is no fork {address}"))
}

fn internal(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalReason::Internal, error.to_string())
}

/// Why a fork cannot be read, if so.
pub(crate) fn refuse_unless_ready(fork: &Fork) -> Result<(), Refusal> {
    match fork.state() {
        ForkState::Ready { .. } => Ok(()),
        ForkState::Building => {
            let message = format!("fork {} is being built", fork.is.name);
            Err(Refusal::new(RefusalReason::Activating, message))
        }
        ForkState::Failed(why) => {
            let message = format!("fork {} failed: {why}", fork.is.name);
            Err(Refusal::new(RefusalReason::UnknownFork, message))
        }
    }
}

#[cfg(test)]
mod tests;

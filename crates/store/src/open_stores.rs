//! Which stores this process has open, and how they are closed.
//!
//! RocksDB locks the directory of an open store until it is closed completely, which may take as
//! long as a step of a compaction. Whoever lets go of the last handle must not wait for that: it
//! may hold a lock or run on a thread that others wait for. So one thread closes what was let go,
//! and until it has, the directory counts as in use: nobody runs into RocksDB's lock.
//!
//! A crash leaves nothing: the lock ends with the process. At a clean end whoever held the last
//! store or the factory waits for the thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keelson_env::StoreError;
use rocksdb::DB;

/// How long an opening waits for the closing of an earlier handle.
const CLOSING_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Closing,
}

#[derive(Default)]
struct Stages {
    of: Mutex<BTreeMap<PathBuf, Stage>>,
    closed: Condvar,
}

impl Stages {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Stage>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to have a directory open; given back when dropped.
pub(crate) struct Claim {
    stages: Arc<Stages>,
    directory: PathBuf,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.stages.lock().remove(&self.directory);
        self.stages.closed.notify_all();
    }
}

/// See the module page.
pub(crate) struct OpenStores {
    stages: Arc<Stages>,
    closing: Option<Sender<(DB, Claim)>>,
    thread: Option<JoinHandle<()>>,
}

impl OpenStores {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (closing, closed) = mpsc::channel::<(DB, Claim)>();
        let close = move || {
            for (db, claim) in closed {
                drop(db);
                drop(claim);
            }
        };
        let thread = std::thread::Builder::new().name("store-close".to_owned()).spawn(close)?;
        Ok(Self { stages: Arc::default(), closing: Some(closing), thread: Some(thread) })
    }

    /// Claims a directory; waits while an earlier handle is closed.
    ///
    /// # Errors
    /// [`StoreError::InUse`]
    pub(crate) fn claim(&self, directory: &Path) -> Result<Claim, StoreError> {
        let deadline = Instant::now() + CLOSING_MAX;
        let mut stages = self.stages.lock();
        while let Some(stage) = stages.get(directory) {
            let left = deadline.saturating_duration_since(Instant::now());
            if *stage == Stage::Open || left.is_zero() {
                return Err(StoreError::InUse);
            }
            let waited = self.stages.closed.wait_timeout(stages, left);
            stages = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        stages.insert(directory.to_owned(), Stage::Open);
        Ok(Claim { stages: self.stages.clone(), directory: directory.to_owned() })
    }

    pub(crate) fn in_use(&self, directory: &Path) -> bool {
        self.stages.lock().contains_key(directory)
    }
}

impl Drop for OpenStores {
    fn drop(&mut self) {
        drop(self.closing.take());
        if let Some(thread) = self.thread.take() {
            // Closing does not panic; if it did, the hook has said so.
            let _ = thread.join();
        }
    }
}

/// An open database. Dropping it does not wait: the closing thread takes it.
pub(crate) struct OpenDb {
    /// None once it is being closed.
    open: Option<(DB, Claim)>,
    stores: Arc<OpenStores>,
}

impl OpenDb {
    pub(crate) fn new(db: DB, claim: Claim, stores: Arc<OpenStores>) -> Self {
        Self { open: Some((db, claim)), stores }
    }
}

impl std::ops::Deref for OpenDb {
    type Target = DB;

    fn deref(&self) -> &DB {
        &self.open.as_ref().expect("it is open until it is dropped").0
    }
}

impl Drop for OpenDb {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.stores.stages.lock().insert(open.1.directory.clone(), Stage::Closing);
        if let Some(closing) = &self.stores.closing {
            // Without the thread it is closed here.
            drop(closing.send(open));
        }
    }
}

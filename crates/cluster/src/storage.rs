//! Owns what consensus must not forget: votes, log, purge border, snapshot, and which cluster this
//! is.
//!
//! One redb file, one thread that owns it, one bounded queue of jobs. So no call blocks the
//! runtime, and all writes happen in the order in which they were asked for, as the consensus
//! library demands.
//!
//! Durability: every append, vote, truncation, purge and snapshot is one transaction and one sync,
//! over before it is answered. The committed index is only a hint for a faster restart: it travels
//! with the next transaction and costs no sync of its own.
//!
//! Failure behaviour: after a failed write or sync redb refuses all further work, the consensus
//! library shuts its node down, and the control process ends; nothing is retried on a file in
//! doubt. A crash between two transactions leaves the older one. A file of a newer format is
//! refused by name, and so is a missing or emptied one of a member that has joined a cluster: the
//! vote in it is forgotten.

mod log_store;
mod machine;
mod marker;
mod records;
pub(crate) mod recovery;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use keelson_cluster_core::STATE_FORMAT_VERSION;
use keelson_types::{ClusterId, RefusalReason};
use tokio::sync::{mpsc, oneshot};

pub(crate) use log_store::LogStore;
pub(crate) use machine::{Machine, SnapshotBody};
use marker::Marked;
pub(crate) use records::Origin;
use records::Records;

use crate::applied::{Applied, AppliedState};
use crate::raft_types::LogId;

/// Format of the file. Raised when an older build could not read what is written.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Name of the file in the cluster directory.
pub(crate) const FILE_NAME: &str = "consensus.redb";
/// Jobs that may wait for the thread; the library has a handful of them under way.
const QUEUE_JOBS: usize = 64;

/// Why the consensus file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageFault {
    /// The directory cannot be made.
    #[error("creating the directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// What the file said cannot be kept beside it.
    #[error("copying the consensus file to {path}: {source}")]
    Aside {
        /// The copy.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file cannot be opened.
    #[error("opening {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: redb::DatabaseError,
    },
    /// Another process holds the file.
    #[error("{path} is in use by another process: only one server may run on a data directory")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A newer version wrote the file.
    #[error(
        "{path} has format {found}, this version reads up to {known}: start the version that \
         wrote it, or a later one"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// Reading or writing failed.
    #[error("{action} the consensus file")]
    Io {
        /// What was done, as a verb.
        action: &'static str,
        /// The cause.
        #[source]
        source: Box<redb::Error>,
    },
    /// What was read has no meaning.
    #[error("reading {what} in the consensus file")]
    Malformed {
        /// The record.
        what: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The file belongs to another cluster already.
    #[error("this server belongs to cluster {0} already")]
    OtherCluster(ClusterId),
    /// Reading the file broke off inside the library: its pages contradict each other.
    #[error("{path} cannot be read: {panic}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the library said.
        panic: String,
    },
    /// The file that says that the member has joined a cluster cannot be read or written.
    #[error("using {path}")]
    Marker {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The member has joined a cluster, and the file knows nothing of it.
    #[error(
        "{path} is missing, empty or another member's, though this member has joined {cluster}: it \
         does not know any more for whom it voted"
    )]
    Forgotten {
        /// The file.
        path: PathBuf,
        /// The cluster, as far as it is known.
        cluster: String,
    },
    /// The cluster was recovered without this member (S19).
    #[error("the cluster was forced up without this member (recovery generation {generation})")]
    LeftBehind {
        /// The generation that it has now.
        generation: u32,
    },
    /// The thread is gone: the process is stopping, or it panicked.
    #[error("the consensus storage has stopped")]
    Stopped,
}

impl StorageFault {
    /// The reason for whoever asked; [`RefusalReason::Internal`] if there is none of its own.
    #[must_use]
    pub fn reason(&self) -> RefusalReason {
        use redb::{DatabaseError, Error, StorageError};
        let bytes = |error: &std::io::Error| {
            matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
        };
        let damaged = match self {
            Self::OtherCluster(_) => return RefusalReason::ForeignCluster,
            Self::NewerFormat { .. } => return RefusalReason::NewerFormat,
            Self::InUse { .. } => return RefusalReason::SecondHolder,
            Self::Open { source: DatabaseError::Storage(StorageError::Io(error)), .. } => {
                bytes(error)
            }
            Self::Open { source: DatabaseError::Storage(StorageError::Corrupted(_)), .. }
            | Self::Malformed { .. }
            | Self::Forgotten { .. }
            | Self::Unreadable { .. } => true,
            Self::Io { source, .. } => match &**source {
                Error::Corrupted(_) => true,
                Error::Io(error) => bytes(error),
                _ => false,
            },
            _ => false,
        };
        if damaged { RefusalReason::ConsensusDamaged } else { RefusalReason::Internal }
    }
}

type Job = Box<dyn FnOnce(&mut Records) + Send>;

/// A handle to the storage thread. Clones share it; the thread ends with the last one.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    jobs: mpsc::Sender<Job>,
    marker: Arc<Path>,
}

/// What an opened file gives: the parts that the consensus library wants, and the cluster it
/// belongs to.
#[derive(Debug)]
pub(crate) struct Opened {
    /// For everything else.
    pub(crate) storage: Storage,
    /// Votes and log.
    pub(crate) log: LogStore,
    /// Applied state and snapshots.
    pub(crate) machine: Machine,
    /// The applied state, shared.
    pub(crate) applied: Applied,
    /// The cluster this member belongs to, and how it came there.
    pub(crate) origin: Option<Origin>,
    /// Ends when the last handle is dropped; joined by tests that reopen the file.
    #[cfg_attr(not(test), expect(dead_code, reason = "the thread ends by itself"))]
    pub(crate) thread: JoinHandle<()>,
}

/// Opens `<directory>/consensus.redb`, or creates it. Blocks for the time of a repair after a
/// crash; call it before the runtime serves anything.
///
/// # Errors
/// [`StorageFault`] tells what to do.
pub(crate) fn open(directory: &Path) -> Result<Opened, StorageFault> {
    std::fs::create_dir_all(directory)
        .map_err(|source| StorageFault::Directory { path: directory.to_owned(), source })?;
    let marker = marker::path_of(directory);
    let marked = marker::read(&marker)
        .map_err(|source| StorageFault::Marker { path: marker.clone(), source })?;
    refuse_forgotten(&directory.join(FILE_NAME), marked)?;
    // The library panics over some damaged pages.
    let read = catch_unwind(AssertUnwindSafe(|| read(directory.join(FILE_NAME))));
    let (mut records, origin, applied) = read.unwrap_or_else(|panic| {
        let panic = panic.downcast_ref::<String>().cloned();
        let panic = panic.unwrap_or_else(|| "it contradicts itself".to_owned());
        Err(StorageFault::Unreadable { path: directory.join(FILE_NAME), panic })
    })?;
    check_marker(&directory.join(FILE_NAME), &marker, marked, origin)?;
    let applied = Applied::new(applied);
    let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE_JOBS);
    let run = move || {
        while let Some(job) = queue.blocking_recv() {
            job(&mut records);
        }
    };
    let thread = std::thread::Builder::new()
        .name("consensus-log".into())
        .spawn(run)
        .map_err(|source| StorageFault::Directory { path: directory.to_owned(), source })?;
    let storage = Storage { jobs, marker: marker.into() };
    Ok(Opened {
        log: LogStore::new(storage.clone()),
        machine: Machine::new(storage.clone(), applied.clone()),
        storage,
        applied,
        origin,
        thread,
    })
}

fn forgotten(path: &Path, marked: Marked) -> StorageFault {
    let cluster = match marked {
        Marked::Joined(cluster) => format!("cluster {cluster}"),
        Marked::No | Marked::Unreadable => "a cluster".to_owned(),
    };
    StorageFault::Forgotten { path: path.to_owned(), cluster }
}

/// Nothing is made anew where a vote was: the library takes an empty file for a new one.
fn refuse_forgotten(path: &Path, marked: Marked) -> Result<(), StorageFault> {
    let is_there = std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
    if is_there || marked == Marked::No { Ok(()) } else { Err(forgotten(path, marked)) }
}

/// The marker and the file agree, or are made to where a crash came between them.
fn check_marker(
    path: &Path,
    marker: &Path,
    marked: Marked,
    origin: Option<Origin>,
) -> Result<(), StorageFault> {
    match (marked, origin) {
        (Marked::No, None) => Ok(()),
        (Marked::Joined(joined), Some(origin)) if joined == origin.cluster => Ok(()),
        (Marked::No | Marked::Unreadable, Some(origin)) => marker::write(marker, origin.cluster)
            .map_err(|source| StorageFault::Marker { path: marker.to_owned(), source }),
        (marked, _) => Err(forgotten(path, marked)),
    }
}

fn read(path: PathBuf) -> Result<(Records, Option<Origin>, AppliedState), StorageFault> {
    let records = Records::open(path)?;
    let origin = records.origin()?;
    let applied = match records.snapshot()? {
        None => AppliedState::default(),
        Some((meta, body)) => restored(&meta, &body)?,
    };
    Ok((records, origin, applied))
}

fn restored(
    meta: &crate::raft_types::SnapshotMeta,
    body: &[u8],
) -> Result<AppliedState, StorageFault> {
    let body: SnapshotBody = serde_json::from_slice(body)
        .map_err(|source| StorageFault::Malformed { what: "the snapshot", source })?;
    if body.state.format_version > STATE_FORMAT_VERSION {
        return Err(StorageFault::NewerFormat {
            path: FILE_NAME.into(),
            found: body.state.format_version,
            known: STATE_FORMAT_VERSION,
        });
    }
    Ok(AppliedState {
        state: body.state,
        last_applied: meta.last_log_id,
        membership: meta.last_membership.clone(),
        snapshots: 0,
    })
}

impl Storage {
    /// Runs one job on the thread, after all earlier ones. Once sent it runs even if the caller
    /// gives up.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Records) -> Result<T, StorageFault> + Send + 'static,
    ) -> Result<T, StorageFault> {
        let (answer, result) = oneshot::channel();
        let job = Box::new(move |records: &mut Records| {
            // The caller may have given up; the work is done all the same.
            let _ = answer.send(job(records));
        });
        self.jobs.send(job).await.map_err(|_| StorageFault::Stopped)?;
        result.await.map_err(|_| StorageFault::Stopped)?
    }

    /// Remembers durably to which cluster this member belongs, in the file and beside it.
    ///
    /// # Errors
    /// [`StorageFault::OtherCluster`] if it belongs to another one; repeating the same is no error.
    pub(crate) async fn set_origin(&self, origin: Origin) -> Result<(), StorageFault> {
        let marker = self.marker.clone();
        self.run(move |records| {
            records.set_origin(&origin)?;
            marker::write(&marker, origin.cluster)
                .map_err(|source| StorageFault::Marker { path: marker.to_path_buf(), source })
        })
        .await
    }

    /// Forgets the consensus of this life for that of a higher generation, which takes the member
    /// in again when its next life asks. Durable when it returns; nothing is written afterwards.
    ///
    /// # Errors
    /// [`StorageFault`] if it cannot be written; then nothing was forgotten.
    pub(crate) async fn leave_behind(&self, generation: u32) -> Result<(), StorageFault> {
        self.run(move |records| recovery::leave_behind(records, generation)).await
    }

    /// The last entry of the log, or what was purged last.
    ///
    /// # Errors
    /// [`StorageFault`] if it cannot be read.
    pub(crate) async fn last_log_id(&self) -> Result<Option<LogId>, StorageFault> {
        self.run(|records| records.last_or_purged()).await
    }

    /// Where the last life of this server was reached.
    ///
    /// # Errors
    /// [`StorageFault`] if it cannot be read.
    pub(crate) async fn address(&self) -> Result<Option<String>, StorageFault> {
        self.run(|records| records.address()).await
    }

    /// Remembers where this life is reached.
    ///
    /// # Errors
    /// [`StorageFault`] if it cannot be written.
    pub(crate) async fn set_address(&self, address: String) -> Result<(), StorageFault> {
        self.run(move |records| records.set_address(&address)).await
    }

    /// The cluster this member belongs to, as remembered.
    ///
    /// # Errors
    /// [`StorageFault`] if it cannot be read.
    pub(crate) async fn origin(&self) -> Result<Option<Origin>, StorageFault> {
        self.run(|records| records.origin()).await
    }
}

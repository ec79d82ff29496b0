//! Holds the applied state of this member and tells when it changes.
//!
//! One writer, the consensus library's apply worker; readers take a short shared lock and never
//! hold it across an await. The mark is published after the state, so whoever saw mark N finds at
//! least the state of N.

use std::sync::{Arc, PoisonError, RwLock};

use keelson_cluster_core::ClusterState;
use tokio::sync::watch;

use crate::raft_types::{LogId, StoredMembership};

/// How far this member has applied the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct AppliedMark {
    /// The last applied entry.
    pub(crate) log_id: Option<LogId>,
}

impl AppliedMark {
    /// Index of the last applied entry, 0 if there is none.
    #[must_use]
    pub(crate) fn index(&self) -> u64 {
        self.log_id.map_or(0, |id| id.index)
    }
}

/// What a snapshot and a restart must restore.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppliedState {
    /// The replicated state.
    pub(crate) state: ClusterState,
    /// The last applied entry.
    pub(crate) last_applied: Option<LogId>,
    /// The last applied consensus membership.
    pub(crate) membership: StoredMembership,
    /// Snapshots taken over from others since the start: each makes `state` another one, whose
    /// revisions begin anew.
    pub(crate) snapshots: u64,
}

impl AppliedState {
    /// Index of the last applied entry, 0 if there is none.
    pub(crate) fn index(&self) -> u64 {
        self.last_applied.map_or(0, |id| id.index)
    }
}

/// Shared access to the applied state; cheap to clone.
#[derive(Clone, Debug)]
pub struct Applied {
    inner: Arc<RwLock<AppliedState>>,
    mark: Arc<watch::Sender<AppliedMark>>,
}

impl Applied {
    /// Wraps what was restored at the start.
    #[must_use]
    pub(crate) fn new(restored: AppliedState) -> Self {
        let mark = AppliedMark { log_id: restored.last_applied };
        let (mark, _) = watch::channel(mark);
        Self { inner: Arc::new(RwLock::new(restored)), mark: Arc::new(mark) }
    }

    /// Reads the replicated state. `read` must be short: the apply worker waits for it.
    pub fn read<T>(&self, read: impl FnOnce(&ClusterState) -> T) -> T {
        self.read_all(|all| read(&all.state))
    }

    /// Reads state, mark and membership at one instant.
    pub(crate) fn read_all<T>(&self, read: impl FnOnce(&AppliedState) -> T) -> T {
        read(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the state, then tells the watchers. Only the apply worker calls this.
    pub(crate) fn write<T>(&self, write: impl FnOnce(&mut AppliedState) -> T) -> T {
        let (result, log_id) = {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            (write(&mut inner), inner.last_applied)
        };
        self.mark.send_replace(AppliedMark { log_id });
        result
    }

    /// A receiver that sees every newest mark.
    #[must_use]
    pub(crate) fn watch(&self) -> watch::Receiver<AppliedMark> {
        self.mark.subscribe()
    }

    /// Index of the last applied entry, 0 if there is none.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.mark.borrow().index()
    }

    /// Waits until entry `index` is applied here. The caller sets the deadline.
    pub async fn reached(&self, index: u64) {
        let mut watch = self.watch();
        // The sender lives as long as `self`.
        let _ = watch.wait_for(|mark| mark.index() >= index).await;
    }
}

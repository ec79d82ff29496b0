//! Votes and log entries, as the consensus library asks for them.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError};

use super::records::Records;
use super::{Storage, StorageFault};
use crate::raft_types::{Entry, LogId, StorageError, TypeConfig, Vote};

/// Entries in one message to a follower: a heartbeat's deadline must suffice to send and sync them.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// The log and the votes. Clones share the storage thread.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    storage: Storage,
}

fn failed(
    subject: ErrorSubject<u64>,
    verb: ErrorVerb,
) -> impl FnOnce(StorageFault) -> StorageError {
    move |fault| {
        let source = openraft::AnyError::new(&fault);
        StorageIOError::new(subject, verb, source).into()
    }
}

impl LogStore {
    pub(super) const fn new(storage: Storage) -> Self {
        Self { storage }
    }

    /// Gives up the leadership that an earlier life of `node` may have held: this one leads only
    /// after an election. Otherwise a server started on a copy of a leader's directory would lead
    /// beside it, in the same term.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) async fn resign(&self, node: u64) -> Result<(), StorageFault> {
        let resign = move |records: &mut Records| match records.vote()? {
            Some(vote) if vote.committed && vote.leader_id.voted_for() == Some(node) => {
                records.set_vote(&Vote { committed: false, ..vote })
            }
            _ => Ok(()),
        };
        self.storage.run(resign).await
    }

    async fn read(
        &self,
        range: (Bound<u64>, Bound<u64>),
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let read = self.storage.run(move |records| records.entries(range, bytes_max)).await;
        read.map_err(failed(ErrorSubject::Logs, ErrorVerb::Read))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.read(range, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read((Bound::Included(start), Bound::Excluded(end)), MESSAGE_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let state = self.storage.run(|records| {
            let last_purged_log_id = records.purged()?;
            let last_log_id = records.last()?.or(last_purged_log_id);
            Ok(LogState { last_purged_log_id, last_log_id })
        });
        state.await.map_err(failed(ErrorSubject::Logs, ErrorVerb::Read))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.storage.run(move |records| records.set_vote(&vote)).await;
        saved.map_err(failed(ErrorSubject::Vote, ErrorVerb::Write))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote = self.storage.run(|records| records.vote()).await;
        vote.map_err(failed(ErrorSubject::Vote, ErrorVerb::Read))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved = self.storage.run(move |records| {
            records.set_committed(committed);
            Ok(())
        });
        saved.await.map_err(failed(ErrorSubject::Store, ErrorVerb::Write))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed = self.storage.run(|records| Ok(records.committed())).await;
        committed.map_err(failed(ErrorSubject::Store, ErrorVerb::Read))
    }

    /// Returns when the entries are durable: the library waits for that anyway before it goes on.
    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encode = |entry: Entry| {
            let bytes = serde_json::to_vec(&entry).expect("entries have string keys only");
            (entry.log_id.index, bytes)
        };
        let entries: Vec<_> = entries.into_iter().map(encode).collect();
        match self.storage.run(move |records| records.append(&entries)).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(fault) => {
                callback.log_io_completed(Err(std::io::Error::other(fault.to_string())));
                Err(failed(ErrorSubject::Logs, ErrorVerb::Write)(fault))
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let truncated = self.storage.run(move |records| records.truncate(log_id.index)).await;
        truncated.map_err(failed(ErrorSubject::Log(log_id), ErrorVerb::Delete))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let purged = self.storage.run(move |records| records.purge(log_id)).await;
        purged.map_err(failed(ErrorSubject::Log(log_id), ErrorVerb::Delete))
    }
}

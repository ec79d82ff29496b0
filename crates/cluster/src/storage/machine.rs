//! Applies committed entries to the state in memory, and keeps snapshots of it.
//!
//! The state itself is not written per entry: after a restart it is the last snapshot plus the log,
//! which the library applies again up to the committed index it remembers, and further once a
//! leader tells it. Until then this member knows an older state; that is safe, since it serves only
//! under a lease whose revision its applied state has reached.

use std::io::Cursor;

use keelson_cluster_core::{Answer, ClusterState, Outcome, STATE_FORMAT_VERSION};
use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, Snapshot,
    StorageIOError,
};
use serde::{Deserialize, Serialize};

use super::{Storage, StorageFault};
use crate::applied::{Applied, AppliedState};
use crate::raft_types::{
    ClusterNode, Entry, LogId, NodeId, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};

/// What a snapshot holds, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotBody {
    /// The replicated state.
    pub(crate) state: ClusterState,
}

/// The state machine of the consensus library, and its snapshot builder. Clones share the state.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    storage: Storage,
    applied: Applied,
}

fn failed(verb: ErrorVerb) -> impl FnOnce(StorageFault) -> StorageError {
    move |fault| {
        StorageIOError::new(ErrorSubject::Snapshot(None), verb, AnyError::new(&fault)).into()
    }
}

impl Machine {
    pub(super) const fn new(storage: Storage, applied: Applied) -> Self {
        Self { storage, applied }
    }

    async fn keep(&self, meta: SnapshotMeta, body: Vec<u8>) -> Result<Vec<u8>, StorageError> {
        let kept = self.storage.run(move |records| {
            records.set_snapshot(&meta, &body)?;
            Ok(body)
        });
        kept.await.map_err(failed(ErrorVerb::Write))
    }
}

pub(super) fn apply_one(all: &mut AppliedState, entry: Entry) -> Outcome {
    let log_id = entry.log_id;
    all.last_applied = Some(log_id);
    match entry.payload {
        EntryPayload::Blank => Outcome::Ok(Answer::Done),
        EntryPayload::Membership(membership) => {
            all.membership = StoredMembership::new(Some(log_id), membership);
            Outcome::Ok(Answer::Done)
        }
        EntryPayload::Normal(command) => all.state.apply(log_id.index, &command),
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let all = self.applied.read_all(AppliedState::clone);
        let index = all.last_applied.map_or(0, |id| id.index);
        let term = all.last_applied.map_or(0, |id| id.leader_id.term);
        let meta = SnapshotMeta {
            last_log_id: all.last_applied,
            last_membership: all.membership,
            snapshot_id: format!("{term}-{index}"),
        };
        // Megabytes of JSON take milliseconds: not on a core thread of the runtime.
        let encode = move || serde_json::to_vec(&SnapshotBody { state: all.state });
        let encoded = tokio::task::spawn_blocking(encode).await;
        let body = encoded
            .expect("encoding does not panic and is never cancelled")
            .expect("the state has string keys only");
        let body = self.keep(meta.clone(), body).await?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(body)) })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, openraft::StoredMembership<NodeId, ClusterNode>), StorageError>
    {
        Ok(self.applied.read_all(|all| (all.last_applied, all.membership.clone())))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter();
        Ok(self.applied.write(|all| entries.map(|entry| apply_one(all, entry)).collect()))
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let body = snapshot.into_inner();
        let decoded: SnapshotBody = serde_json::from_slice(&body)
            .map_err(|source| StorageFault::Malformed { what: "a snapshot", source })
            .map_err(failed(ErrorVerb::Read))?;
        if decoded.state.format_version > STATE_FORMAT_VERSION {
            let found = decoded.state.format_version;
            let path = super::FILE_NAME.into();
            let fault = StorageFault::NewerFormat { path, found, known: STATE_FORMAT_VERSION };
            return Err(failed(ErrorVerb::Read)(fault));
        }
        self.keep(meta.clone(), body).await?;
        self.applied.write(|all| {
            *all = AppliedState {
                state: decoded.state,
                last_applied: meta.last_log_id,
                membership: meta.last_membership.clone(),
                snapshots: all.snapshots + 1,
            };
        });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let kept = self.storage.run(|records| records.snapshot()).await;
        let kept = kept.map_err(failed(ErrorVerb::Read))?;
        Ok(kept.map(|(meta, body)| Snapshot { meta, snapshot: Box::new(Cursor::new(body)) }))
    }
}

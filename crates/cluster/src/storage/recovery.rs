//! A consensus file after its majority was lost (F126, review S19).
//!
//! [`Stopped`] is the file of a member whose server is stopped. It is read as far as it goes: what
//! an entry says may not have been committed, but somebody may have been told that it was, and one
//! that was not harms nothing under a new generation. [`Stopped::found`] then makes it the file of
//! a consensus that begins: this member is its only voter, its state is a snapshot that covers
//! everything, and its first entry is the recovery. The others are taken in by that member.
//!
//! [`leave_behind`] is the other side: a member of a lower generation keeps nothing but the cluster
//! and the generation, as a server that joined and has heard nothing yet. Its votes were for the
//! lower generation, and it forgets them once per generation, so it votes twice in none.
//!
//! Each is one transaction; what the file said before is copied aside first.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use keelson_cluster_core::{Command, SiteRecovery};
use openraft::{CommittedLeaderId, Membership};

use super::machine::{SnapshotBody, apply_one};
use super::records::{NewConsensus, Records};
use super::{FILE_NAME, Origin, StorageFault, forgotten, marker, refuse_forgotten, restored};
use crate::applied::AppliedState;
use crate::raft_types::{
    ClusterNode, LogId, NodeId, SnapshotMeta, StoredMembership, Vote, node_id,
};

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 1024 * 1024;

/// The consensus file of a member whose server does not run.
#[derive(Debug)]
pub(crate) struct Stopped {
    records: Records,
    origin: Origin,
    /// With all entries of the log, committed or not.
    pub(crate) all: AppliedState,
    vote: Option<Vote>,
}

impl Stopped {
    /// Reads the file in `directory`. Blocks.
    ///
    /// # Errors
    /// [`StorageFault`]: a server runs on it, it is damaged, or this member is in no cluster.
    pub(crate) fn open(directory: &Path) -> Result<Self, StorageFault> {
        let path = directory.join(FILE_NAME);
        let marker = marker::path_of(directory);
        let marked = marker::read(&marker)
            .map_err(|source| StorageFault::Marker { path: marker.clone(), source })?;
        refuse_forgotten(&path, marked)?;
        if !path.is_file() {
            return Err(forgotten(&path, marked));
        }
        let records = Records::open(path.clone())?;
        let origin = records.origin()?.ok_or_else(|| forgotten(&path, marked))?;
        let mut all = match records.snapshot()? {
            None => AppliedState::default(),
            Some((meta, body)) => restored(&meta, &body)?,
        };
        replay(&records, &mut all)?;
        let vote = records.vote()?;
        Ok(Self { records, origin, all, vote })
    }

    /// The last entry.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.all.last_applied
    }

    /// Founds the consensus anew with `node` as its only voter. Durable when it returns, with the
    /// path of the copy of what was there before.
    ///
    /// # Errors
    /// [`StorageFault`]; then nothing changed. The refusal of the recovery, as a sentence.
    pub(crate) fn found(
        mut self,
        node: ClusterNode,
        recovery: SiteRecovery,
        unix_ms: u64,
    ) -> Result<PathBuf, FoundError> {
        let id = node_id(node.member);
        let (term, index) = self.next();
        let last = LogId::new(CommittedLeaderId::new(term, id), index);
        let generation = recovery.generation;
        let command = Box::new(Command::RecoverSite(Box::new(recovery)));
        let command = Command::Stamped { unix_ms, command };
        let outcome = self.all.state.apply(index, &command);
        outcome.into_result().map_err(|refusal| FoundError::Refused(refusal.message))?;
        let membership = alone(id, node);
        let head = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(last), membership),
            snapshot_id: format!("{term}-{index}-recovery-{generation}"),
        };
        let body = serde_json::to_vec(&SnapshotBody { state: self.all.state })
            .expect("the state has string keys only");
        let new = NewConsensus {
            origin: Origin { recovery: generation, ..self.origin },
            vote: Vote::new(term, id),
            snapshot: Some((head, body)),
        };
        Ok(self.records.replace_all(&new)?)
    }

    /// A term above all that this member saw, and the index behind its last entry.
    fn next(&self) -> (u64, u64) {
        let voted = self.vote.map_or(0, |vote| vote.leader_id.term);
        let last = self.all.last_applied;
        let written = last.map_or(0, |last| last.leader_id.term);
        (voted.max(written) + 1, last.map_or(0, |last| last.index) + 1)
    }
}

/// Why a consensus was not founded anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FoundError {
    /// The state refuses the recovery.
    #[error("{0}")]
    Refused(String),
    /// The file.
    #[error(transparent)]
    Storage(#[from] StorageFault),
}

fn alone(id: NodeId, node: ClusterNode) -> Membership<NodeId, ClusterNode> {
    Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, node)]))
}

/// Applies everything that the log holds behind the snapshot.
fn replay(records: &Records, all: &mut AppliedState) -> Result<(), StorageFault> {
    loop {
        let next = all.last_applied.map_or(0, |last| last.index + 1);
        let entries = records.entries((Bound::Included(next), Bound::Unbounded), READ_BYTES)?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            apply_one(all, entry);
        }
    }
}

/// Forgets the consensus of a lower generation, except which cluster it was of.
pub(super) fn leave_behind(records: &mut Records, generation: u32) -> Result<(), StorageFault> {
    let Some(origin) = records.origin()? else { return Ok(()) };
    if origin.recovery >= generation {
        return Ok(());
    }
    let origin = Origin { founded_here: false, recovery: generation, ..origin };
    let new = NewConsensus { origin, vote: Vote::default(), snapshot: None };
    let aside = records.replace_all(&new)?;
    let kept = aside.display();
    tracing::warn!(generation, %kept, "consensus of a lower generation forgotten");
    records.leave_behind(generation);
    Ok(())
}

#[cfg(test)]
mod tests;

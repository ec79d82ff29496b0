//! What all tasks and services of the control plane share: who this member is, and the handles.
//!
//! No lock here is held across an await, and nothing here decides anything.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keelson_cluster_core::Member;
use keelson_net::{CallMeters, TokenBook};
use keelson_types::{
    ClusterId, IncarnationId, MemberId, MemberName, RefusalReason, SiteName, Tick,
};
use keelson_wire::Refusal;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::activations::Activations;
use crate::admin::Rehearsing;
use crate::applied::Applied;
use crate::audit_log::AuditLog;
use crate::data_link::DataLink;
use crate::generation::Generation;
use crate::loyalty::Loyalty;
use crate::manager_task::LeaderInput;
use crate::membership::Neighbours;
use crate::network::ClusterCell;
use crate::peers::Peers;
use crate::raft_types::{ClusterNode, NodeId, Raft};
use crate::storage::Storage;
use crate::timings::Timings;

/// A round of heartbeats to a majority takes no longer, or there is none.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(2);

/// Who this member is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// From `member.json`.
    pub member: MemberId,
    /// Unique in the cluster, and the subject of the member's certificate.
    pub name: MemberName,
    /// Its datacenter.
    pub site: SiteName,
    /// `host:port` at which others reach the control process.
    pub control_address: String,
    /// `host:port` at which clients and others reach the data process; empty for a witness.
    pub data_address: String,
    /// Where the data process listens besides, for other members.
    pub replication_addresses: Vec<String>,
}

/// Shared by everything in the control plane.
pub(crate) struct Context {
    pub(crate) identity: Identity,
    pub(crate) node: NodeId,
    pub(crate) timings: Timings,
    pub(crate) cluster: ClusterCell,
    /// Which consensus of it this member belongs to.
    pub(crate) generation: Arc<Generation>,
    /// When this member votes.
    pub(crate) loyalty: Loyalty,
    pub(crate) raft: Raft,
    pub(crate) applied: Applied,
    pub(crate) storage: Storage,
    pub(crate) peers: Peers,
    /// Who was heard, and who left.
    pub(crate) neighbours: Neighbours,
    pub(crate) link: Arc<dyn DataLink>,
    /// Inbox of the leader's task; it answers "not the leader" while this member does not lead.
    pub(crate) leader: mpsc::Sender<LeaderInput>,
    /// The running life of the data process.
    pub(crate) data: watch::Receiver<Option<IncarnationId>>,
    /// Applied index up to which the running life was told all assignments.
    pub(crate) assigned: watch::Receiver<u64>,
    /// When the lease of the data process ends, in boottime nanoseconds; for status pages.
    pub(crate) lease_until: AtomicU64,
    /// Set when a clean stop begins: no lease is asked for any more.
    pub(crate) stopping: AtomicBool,
    /// This member leads and keeps silent, so that another one is elected.
    pub(crate) silent: watch::Sender<bool>,
    /// Forming or joining a cluster happens once at a time.
    pub(crate) forming: tokio::sync::Mutex<()>,
    /// Maintenances begin one after another: one that is taken back must not look, to the next, as
    /// if it had been there before.
    pub(crate) maintaining: tokio::sync::Mutex<()>,
    /// Members are taken in again by one task at a time.
    pub(crate) readmitting: tokio::sync::Mutex<()>,
    /// The rehearsals that this member carries out as the leader.
    pub(crate) rehearsing: Rehearsing,
    /// The access tokens that count here.
    pub(crate) tokens: TokenBook,
    /// Who did or tried what here.
    pub(crate) audit: AuditLog,
    /// Calls of this process, and decisions that it saw; for metrics.
    pub(crate) calls: CallMeters,
    pub(crate) activations: Activations,
    /// Whether everything that was decided before this life began is applied here. An older list
    /// of tokens would let in who was revoked since.
    pub(crate) caught_up: watch::Sender<bool>,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Context {
    /// Runs `work` until it ends or the control plane stops.
    pub(crate) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// The cluster of this member.
    ///
    /// # Errors
    /// `precondition` while it has none.
    pub(crate) fn cluster(&self) -> Result<ClusterId, Refusal> {
        self.cluster.get().copied().ok_or_else(|| {
            let what = format!(
                "{} is in no cluster yet: initialise one (keelson cluster init) or add it to one \
                 (keelson member add)",
                self.identity.name
            );
            Refusal::new(RefusalReason::Precondition, what)
        })
    }

    pub(crate) fn consensus_node(&self) -> ClusterNode {
        ClusterNode {
            member: self.identity.member,
            name: self.identity.name.to_string(),
            control_address: self.identity.control_address.clone(),
        }
    }

    /// Something that was decided in this life is applied, and so is all before it.
    pub(crate) fn note_caught_up(&self) {
        self.caught_up.send_if_modified(|known| !std::mem::replace(known, true));
    }

    /// The leader as this member knows it.
    pub(crate) fn leader(&self) -> Option<(NodeId, ClusterNode)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader?;
        let node = metrics.membership_config.membership().get_node(&leader)?;
        Some((leader, node.clone()))
    }

    pub(crate) fn is_leader(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        metrics.current_leader == Some(self.node) && metrics.state.is_leader()
    }

    /// The refusal of what only the leader may do, with the address to ask instead.
    pub(crate) fn not_leader(&self) -> Refusal {
        match self.leader() {
            Some((id, node)) if id != self.node => {
                let what = format!("{} leads the cluster; ask it", node.name);
                Refusal::new(RefusalReason::NoLeader, what).with_address(node.control_address)
            }
            _ => Refusal::new(RefusalReason::NoLeader, "no leader is elected at the moment"),
        }
    }

    /// # Errors
    /// [`Self::not_leader`].
    pub(crate) fn require_leader(&self) -> Result<(), Refusal> {
        self.cluster()?;
        if self.is_leader() { Ok(()) } else { Err(self.not_leader()) }
    }

    /// Makes sure that this member still leads, and has applied all that was committed before.
    ///
    /// # Errors
    /// `no_leader`, or the address of another leader.
    pub(crate) async fn confirm_leader(&self) -> Result<(), Refusal> {
        let confirmed = async {
            // It sends to every voter, which would break a silence.
            self.may_record().await;
            self.raft.ensure_linearizable().await
        };
        match tokio::time::timeout(CONFIRM_DEADLINE, confirmed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(self.not_leader()),
        }
    }

    /// This member in its own applied state.
    pub(crate) fn own_member(&self) -> Option<Member> {
        self.applied.read(|state| state.members.get(&self.identity.member).cloned())
    }

    /// Waits until entry `index` is applied here.
    ///
    /// # Errors
    /// `deadline_exceeded`.
    pub(crate) async fn reached(&self, index: u64, deadline: Duration) -> Result<(), Refusal> {
        let reached = tokio::time::timeout(deadline, self.applied.reached(index)).await;
        reached.map_err(|_| {
            let what = format!("entry {index} was not applied here within {deadline:?}");
            Refusal::new(RefusalReason::DeadlineExceeded, what)
        })
    }

    pub(crate) fn set_lease_until(&self, until: Tick) {
        self.lease_until.store(until.0, Ordering::Relaxed);
    }

    pub(crate) fn lease_left(&self) -> Duration {
        Tick(self.lease_until.load(Ordering::Relaxed)).since(crate::clock::now())
    }
}

//! Carries consensus messages to the other members.
//!
//! Every message names cluster, sender and receiver; a wrong receiver refuses it, so that an
//! address that now belongs to another server can never answer for the old one. Send times of
//! accepted messages go to the [`QuorumClock`]. Nothing is retried here: the library repeats what
//! it needs.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keelson_net::Lane;
use keelson_types::{ClusterId, RefusalReason};
use keelson_wire::v1::ConsensusMessage;
use keelson_wire::{Refusal, ids};
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock;
use crate::generation::{Compared, Generation};
use crate::peers::{Peers, call};
use crate::quorum::QuorumClock;
use crate::raft_types::{ClusterNode, NodeId, TypeConfig, Vote};

/// Pause before a member that could not be reached is tried again; the channel has its own
/// back-off.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The cluster of this member, once it has one.
pub(crate) type ClusterCell = Arc<OnceLock<ClusterId>>;

type RpcError<E = RaftError<NodeId>> = RPCError<NodeId, ClusterNode, E>;

/// Makes the connections that the library asks for.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) me: NodeId,
    pub(crate) cluster: ClusterCell,
    pub(crate) generation: Arc<Generation>,
    pub(crate) peers: Peers,
    pub(crate) quorum: Arc<QuorumClock>,
}

/// The way to one member.
#[derive(Debug)]
pub(crate) struct Peer {
    network: Network,
    target: NodeId,
    node: ClusterNode,
}

/// Which of the three messages.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Append,
    Vote,
    Snapshot,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &ClusterNode) -> Peer {
        Peer { network: self.clone(), target, node: node.clone() }
    }
}

impl Peer {
    async fn exchange<Q: Serialize, A: DeserializeOwned, E>(
        &self,
        kind: Kind,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, RpcError<E>>
    where
        E: DeserializeOwned + std::error::Error,
    {
        let body = serde_json::to_vec(request).map_err(|e| NetworkError::new(&e))?;
        let answer = self.send(kind, body, deadline).await.map_err(|e| Unreachable::new(&e))?;
        let answer: Result<A, E> =
            serde_json::from_slice(&answer).map_err(|e| NetworkError::new(&e))?;
        answer.map_err(|error| {
            openraft::error::RemoteError::new_with_node(self.target, self.node.clone(), error)
                .into()
        })
    }

    async fn send(
        &self,
        kind: Kind,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, Refusal> {
        let Some(cluster) = self.network.cluster.get() else {
            return Err(Refusal::new(RefusalReason::NoLeader, "this server is in no cluster yet"));
        };
        let message = ConsensusMessage {
            cluster: ids::bytes(*cluster),
            from: self.network.me,
            to: self.target,
            body: body.into(),
            recovery: self.network.generation.own(),
        };
        let lane = match kind {
            Kind::Append | Kind::Vote => Lane::Control,
            Kind::Snapshot => Lane::Bulk,
        };
        let address = &self.node.control_address;
        let mut client = self.network.peers.cluster(&self.node.name, address, lane);
        let answer = call(deadline, message, |request| async move {
            match kind {
                Kind::Append => client.append_entries(request).await,
                Kind::Vote => client.vote(request).await,
                Kind::Snapshot => client.install_snapshot(request).await,
            }
        })
        .await?;
        match self.network.generation.compare(answer.recovery) {
            Compared::Same => Ok(answer.body.into()),
            Compared::Lower | Compared::Higher => {
                let what = format!("{} is of another recovery generation", self.node.name);
                Err(Refusal::new(RefusalReason::Precondition, what))
            }
        }
    }

    fn accepted(&self, vote: &Vote, sent: keelson_types::Tick) {
        self.network.quorum.record(vote, self.target, sent);
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        let sent = clock::now();
        let answer = self.exchange(Kind::Append, &rpc, option.hard_ttl()).await?;
        match &answer {
            AppendEntriesResponse::Success
            | AppendEntriesResponse::PartialSuccess(_)
            | AppendEntriesResponse::Conflict => self.accepted(&rpc.vote, sent),
            AppendEntriesResponse::HigherVote(_) => {}
        }
        Ok(answer)
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RpcError<RaftError<NodeId, InstallSnapshotError>>>
    {
        let sent = clock::now();
        let answer: InstallSnapshotResponse<NodeId> =
            self.exchange(Kind::Snapshot, &rpc, option.hard_ttl()).await?;
        // Only the last chunk is a message of the leader to whoever takes it; earlier ones are
        // answered without renewing its loyalty.
        if answer.vote == rpc.vote && rpc.done {
            self.accepted(&rpc.vote, sent);
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        self.exchange(Kind::Vote, &rpc, option.hard_ttl()).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_PAUSE))
    }
}

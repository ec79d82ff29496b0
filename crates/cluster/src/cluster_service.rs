//! The `Cluster` service: what control processes ask of each other.
//!
//! Only certificates of members are accepted, and a member speaks only for itself: leases, deaths
//! and lives are taken from the member they concern. Before this member is in a cluster it answers
//! `Identify` and `Join` only. Who is none of the cluster does not come here (`membership`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::{Command, Grant};
use keelson_net::{peer_of, require_member};
use keelson_types::{ClusterId, IncarnationId, MemberId, RefusalReason};
use keelson_wire::v1::cluster_server::Cluster;
use keelson_wire::v1::{
    CertifyDeathRequest, CertifyDeathResponse, ConsensusMessage, DismountManyRequest,
    DismountManyResponse, IdentifyRequest, IdentifyResponse, JoinRequest, JoinResponse,
    MemberFactsRequest, MemberFactsResponse, MountManyRequest, MountManyResponse, ProposeRequest,
    ProposeResponse, ReleaseLeaseRequest, ReleaseLeaseResponse, RenewLeaseRequest,
    RenewLeaseResponse, SealManyRequest, SealManyResponse,
};
use keelson_wire::{PROTOCOL_MAX, PROTOCOL_MIN, Refusal, ids};
use openraft::raft::AppendEntriesResponse;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::generation::Compared;
use crate::manager_task::{LeaderInput, Troubles};
use crate::propose::{lease_refusal, member_may_propose};
use crate::storage::{Origin, StorageFault};

/// How long the own disk may take to say how far the log goes.
const LOG_DEADLINE: Duration = Duration::from_millis(300);

/// The service. Clones share the control plane.
#[derive(Clone)]
pub(crate) struct ClusterApi(pub(crate) Arc<Context>);

fn refuse<T>(reason: RefusalReason, what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(reason, what))
}

fn encode<T: Serialize>(value: &T) -> Result<bytes::Bytes, Refusal> {
    let json = serde_json::to_vec(value);
    json.map(Into::into).map_err(|e| Refusal::new(RefusalReason::Internal, e.to_string()))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let value = serde_json::from_slice(body);
    value.map_err(|e| Refusal::new(RefusalReason::BadArgument, format!("a malformed message: {e}")))
}

pub(crate) fn storage_refusal(fault: &StorageFault) -> Refusal {
    Refusal::new(fault.reason(), fault.to_string())
}

impl ClusterApi {
    /// The member that sent a request, which must be one of this cluster.
    fn sender<T>(&self, request: &Request<T>) -> Result<MemberId, Refusal> {
        let name = require_member(request)?;
        self.0.cluster()?;
        let known =
            self.0.applied.read(|state| state.member_named(name.as_str()).map(|m| m.config.id));
        known.ok_or_else(|| {
            let what = format!("{name} is no member of this cluster");
            Refusal::new(RefusalReason::UnknownMember, what)
        })
    }

    /// As [`Self::sender`], for what a member may say of itself only.
    fn sender_is<T>(&self, request: &Request<T>, member: &[u8]) -> Result<MemberId, Refusal> {
        let sender = self.sender(request)?;
        if ids::member(member)? == sender {
            return Ok(sender);
        }
        refuse(RefusalReason::Forbidden, "a member speaks for itself only")
    }

    /// Checks the envelope of a consensus message and takes its body; nothing if the sender was
    /// left behind by a recovery.
    fn opened<T: DeserializeOwned>(
        &self,
        request: &Request<ConsensusMessage>,
    ) -> Result<Option<T>, Refusal> {
        require_member(request)?;
        let message = request.get_ref();
        let cluster = self.0.cluster()?;
        if ids::cluster(&message.cluster)? != cluster {
            let what = format!("this server belongs to cluster {cluster}");
            return refuse(RefusalReason::ForeignCluster, what);
        }
        if message.to != self.0.node {
            let name = &self.0.identity.name;
            let what = format!("the message is for node {:x}; {name} is not it", message.to);
            return refuse(RefusalReason::BadArgument, what);
        }
        match self.0.generation.compare(message.recovery) {
            Compared::Same => Ok(Some(decode(&message.body)?)),
            Compared::Lower => Ok(None),
            Compared::Higher => {
                let what = "the cluster was forced up without this member, which starts again";
                refuse(RefusalReason::NoLeader, what)
            }
        }
    }

    /// Tells a sender of a lower generation that it was left behind.
    fn left_behind(&self, to: u64) -> Result<Response<ConsensusMessage>, Status> {
        Ok(Response::new(self.message(to, bytes::Bytes::new())?))
    }

    fn message(&self, to: u64, body: bytes::Bytes) -> Result<ConsensusMessage, Refusal> {
        let cluster = ids::bytes(self.0.cluster()?);
        let recovery = self.0.generation.own();
        Ok(ConsensusMessage { cluster, from: self.0.node, to, body, recovery })
    }

    fn sealed<T: Serialize>(
        &self,
        to: u64,
        answer: &T,
    ) -> Result<Response<ConsensusMessage>, Status> {
        Ok(Response::new(self.message(to, encode(answer)?)?))
    }

    async fn join_cluster(&self, request: &Request<JoinRequest>) -> Result<(), Refusal> {
        let sender = require_member(request)?;
        let cluster = ids::cluster(&request.get_ref().cluster)?;
        let _forming = self.0.forming.lock().await;
        if let Some(own) = self.0.cluster.get().filter(|own| **own != cluster) {
            let what = format!("this server belongs to cluster {own} already");
            return refuse(RefusalReason::ForeignCluster, what);
        }
        let recovery = request.get_ref().recovery;
        if self.0.cluster.get().is_some() && self.0.generation.compare(recovery) != Compared::Same {
            let what = "this member is of another recovery generation; it starts again";
            return refuse(RefusalReason::NoLeader, what);
        }
        self.0.belong_to(Origin { cluster, founded_here: false, recovery }).await?;
        tracing::info!(%cluster, %sender, "this server joins a cluster");
        Ok(())
    }

    fn check_facts_reader<T>(request: &Request<T>) -> Result<(), Refusal> {
        peer_of(request).map(|_| ())
    }
}

impl Context {
    /// Remembers the cluster, durably first.
    pub(crate) async fn belong_to(&self, origin: Origin) -> Result<(), Refusal> {
        self.storage.set_origin(origin).await.map_err(|fault| storage_refusal(&fault))?;
        let cluster: ClusterId = *self.cluster.get_or_init(|| origin.cluster);
        debug_assert_eq!(cluster, origin.cluster, "checked under the forming lock");
        self.generation.join(origin.recovery);
        Ok(())
    }

    /// The leader's side of a renewal, for a member that the caller has verified.
    pub(crate) async fn renew_lease(
        &self,
        member: MemberId,
        request: &RenewLeaseRequest,
    ) -> Result<RenewLeaseResponse, Refusal> {
        let incarnation = ids::incarnation(&request.incarnation)?;
        let wedged = request.wedged.iter().map(|id| ids::database(id));
        let wedged = wedged.collect::<Result<Vec<_>, _>>()?;
        let unreached = request.unreached.iter().map(|id| ids::member(id));
        let unreached = unreached.collect::<Result<BTreeSet<_>, _>>()?;
        let (reply, granted) = oneshot::channel();
        let troubles = Troubles { wedged, unreached };
        let input = LeaderInput::Renew { member, incarnation, troubles, reply };
        self.ask_leader_task(input).await?;
        let granted = granted.await.map_err(|_| self.not_leader())?;
        let term = self.raft.server_metrics().borrow().vote.leader_id.term;
        Ok(match granted {
            Ok(Grant { duration, revision, .. }) => RenewLeaseResponse {
                granted: true,
                // Rounded down: a lease may be shorter than granted, never longer.
                duration_millis: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                revision,
                term,
                ..RenewLeaseResponse::default()
            },
            Err(refusal) => RenewLeaseResponse {
                term,
                refusal: refusal.to_string(),
                leader_address: self.leader().map(|(_, n)| n.control_address).unwrap_or_default(),
                ..RenewLeaseResponse::default()
            },
        })
    }

    /// The leader's side of a death certificate or a release, for a member that the caller has
    /// verified.
    pub(crate) async fn end_incarnation(
        &self,
        member: MemberId,
        incarnation: IncarnationId,
        certified: bool,
    ) -> Result<(), Refusal> {
        self.require_leader()?;
        let (reply, taken) = oneshot::channel();
        let input = LeaderInput::Ended { member, incarnation, certified, reply };
        self.ask_leader_task(input).await?;
        let taken = taken.await.map_err(|_| self.not_leader())?;
        taken.map_err(|refused| lease_refusal(&refused))?;
        if !certified {
            let command = Command::ReleaseIncarnation { member, incarnation };
            self.propose_here(command).await?.answer()?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Cluster for ClusterApi {
    async fn append_entries(
        &self,
        request: Request<ConsensusMessage>,
    ) -> Result<Response<ConsensusMessage>, Status> {
        let from = request.get_ref().from;
        let Some(body) = self.opened(&request)? else { return self.left_behind(from) };
        let answer = self.0.raft.append_entries(body).await;
        if !matches!(answer, Err(_) | Ok(AppendEntriesResponse::HigherVote(_))) {
            self.0.heard_leader(&peer_of(&request)?.name);
        }
        self.sealed(from, &answer)
    }

    async fn vote(
        &self,
        request: Request<ConsensusMessage>,
    ) -> Result<Response<ConsensusMessage>, Status> {
        let from = request.get_ref().from;
        let Some(body) = self.opened(&request)? else { return self.left_behind(from) };
        let answer = self.0.vote(body).await?;
        self.sealed(from, &answer)
    }

    async fn install_snapshot(
        &self,
        request: Request<ConsensusMessage>,
    ) -> Result<Response<ConsensusMessage>, Status> {
        let from = request.get_ref().from;
        let Some(body) = self.opened(&request)? else { return self.left_behind(from) };
        let answer = self.0.raft.install_snapshot(body).await;
        self.sealed(from, &answer)
    }

    async fn identify(
        &self,
        request: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyResponse>, Status> {
        peer_of(&request)?;
        let identity = &self.0.identity;
        // Whoever starts on a copy of this directory waits for this answer: it depends on no disk.
        let asked = tokio::time::timeout(LOG_DEADLINE, self.0.storage.last_log_id());
        let (asked, leader) = tokio::join!(asked, self.0.heard_leader_name());
        let known = asked.ok().and_then(Result::ok);
        let last = known.flatten();
        Ok(Response::new(IdentifyResponse {
            recovery: self.0.generation.own(),
            last_term: last.map_or(0, |last| last.leader_id.term),
            last_index: last.map_or(0, |last| last.index),
            leader,
            log_unknown: known.is_none(),
            member: ids::bytes(identity.member),
            name: identity.name.to_string(),
            site: identity.site.to_string(),
            control_address: identity.control_address.clone(),
            data_address: identity.data_address.clone(),
            cluster: self.0.cluster.get().map(|id| ids::bytes(*id)).unwrap_or_default(),
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            replication_addresses: identity.replication_addresses.clone(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        self.join_cluster(&request).await?;
        Ok(Response::new(JoinResponse {}))
    }

    async fn renew_lease(
        &self,
        request: Request<RenewLeaseRequest>,
    ) -> Result<Response<RenewLeaseResponse>, Status> {
        let member = self.sender_is(&request, &request.get_ref().member)?;
        Ok(Response::new(self.0.renew_lease(member, request.get_ref()).await?))
    }

    async fn release_lease(
        &self,
        request: Request<ReleaseLeaseRequest>,
    ) -> Result<Response<ReleaseLeaseResponse>, Status> {
        let member = self.sender_is(&request, &request.get_ref().member)?;
        let incarnation =
            ids::incarnation(&request.get_ref().incarnation).map_err(Refusal::from)?;
        self.0.end_incarnation(member, incarnation, false).await?;
        Ok(Response::new(ReleaseLeaseResponse {}))
    }

    async fn certify_death(
        &self,
        request: Request<CertifyDeathRequest>,
    ) -> Result<Response<CertifyDeathResponse>, Status> {
        let member = self.sender_is(&request, &request.get_ref().member)?;
        let incarnation =
            ids::incarnation(&request.get_ref().incarnation).map_err(Refusal::from)?;
        self.0.end_incarnation(member, incarnation, true).await?;
        Ok(Response::new(CertifyDeathResponse {}))
    }

    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        let sender = self.sender(&request)?;
        self.0.require_leader()?;
        let command: Command = decode(&request.get_ref().command)?;
        if !member_may_propose(sender, &command) {
            let what = "members propose only what concerns themselves";
            return Err(Refusal::new(RefusalReason::Forbidden, what).into());
        }
        let proposed = self.0.propose_here(command).await?;
        Ok(Response::new(ProposeResponse { outcome: encode(&proposed)? }))
    }

    async fn seal_many(
        &self,
        request: Request<SealManyRequest>,
    ) -> Result<Response<SealManyResponse>, Status> {
        self.sender(&request)?;
        Ok(Response::new(self.0.seal_here(request.into_inner()).await))
    }

    async fn mount_many(
        &self,
        request: Request<MountManyRequest>,
    ) -> Result<Response<MountManyResponse>, Status> {
        self.sender(&request)?;
        Ok(Response::new(self.0.mount_here(request.into_inner()).await))
    }

    async fn dismount_many(
        &self,
        request: Request<DismountManyRequest>,
    ) -> Result<Response<DismountManyResponse>, Status> {
        self.sender(&request)?;
        Ok(Response::new(self.0.dismount_here(request.into_inner()).await?))
    }

    async fn member_facts(
        &self,
        request: Request<MemberFactsRequest>,
    ) -> Result<Response<MemberFactsResponse>, Status> {
        Self::check_facts_reader(&request)?;
        Ok(Response::new(self.0.facts_once_told(request.into_inner()).await?))
    }
}

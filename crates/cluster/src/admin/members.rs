//! Forming a cluster, and members coming, changing and going.
//!
//! Each step is idempotent, so that an attempt that was cut short is completed by the same request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::{Command, MemberConfig};
use keelson_net::Lane;
use keelson_types::{ClusterId, MemberId, RefusalReason, SiteName};
use keelson_wire::v1::{
    AddMemberRequest, AddMemberResponse, IdentifyRequest, IdentifyResponse, InitClusterRequest,
    InitClusterResponse, JoinRequest, RemoveMemberRequest, RemoveMemberResponse, SetMemberRequest,
    SetMemberResponse,
};
use keelson_wire::{PROTOCOL_MAX, PROTOCOL_MIN, Refusal, ids};
use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, InitializeError, RaftError};
use uuid::Uuid;

use super::refusal;
use crate::context::Context;
use crate::peers::call;
use crate::raft_types::{ClusterNode, NodeId, node_id};
use crate::storage::Origin;

/// Most voters of a cluster; more members learn.
pub(super) const VOTERS_MAX: usize = 7;
/// Deadline of a question to a server that is to be added.
const JOIN_DEADLINE: Duration = Duration::from_secs(3);
/// How long a new member may take to receive the log.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(30);
/// How long forming a cluster of one may take.
const FORM_DEADLINE: Duration = Duration::from_secs(10);

type WriteError = RaftError<NodeId, ClientWriteError<NodeId, ClusterNode>>;

/// A member and a witness are added by different words, so that neither is taken for the other; a
/// witness without a vote would be of no use.
fn check_kind(
    request: &AddMemberRequest,
    found: &IdentifyResponse,
    voters: usize,
) -> Result<(), Refusal> {
    let name = &request.name;
    let what = match (request.witness, found.data_address.is_empty()) {
        (true, true) if voters >= VOTERS_MAX => {
            format!("{VOTERS_MAX} members vote already: the witness {name} would have no vote")
        }
        (true, true) | (false, false) => return Ok(()),
        (true, false) => format!("{name} is no witness; keelson member add"),
        (false, true) => format!("{name} is a witness; keelson cluster witness add"),
    };
    Err(refusal(RefusalReason::Precondition, what))
}

impl Context {
    pub(super) async fn admin_init_cluster(
        self: &Arc<Self>,
        _: InitClusterRequest,
    ) -> Result<InitClusterResponse, Refusal> {
        let forming = self.forming.lock().await;
        if self.identity.data_address.is_empty() {
            let what =
                format!("{} is a witness; found the cluster with a member", self.identity.name);
            return Err(refusal(RefusalReason::Precondition, what));
        }
        let formed =
            self.applied.read(|state| state.cluster.is_some() && !state.members.is_empty());
        let known = self.cluster.get().copied();
        if let (Some(cluster), true) = (known, formed || !self.may_found().await) {
            let what = format!("{} belongs to cluster {cluster} already", self.identity.name);
            return Err(refusal(RefusalReason::AlreadyExists, what));
        }
        let cluster = known.unwrap_or_else(|| ClusterId::new(Uuid::new_v4()));
        self.belong_to(Origin { cluster, founded_here: true, recovery: 0 }).await?;
        drop(forming);
        let formed = tokio::time::timeout(FORM_DEADLINE, self.form(cluster)).await;
        formed.map_err(|_| {
            let what = format!("the cluster was not formed within {FORM_DEADLINE:?}; ask again");
            refusal(RefusalReason::DeadlineExceeded, what)
        })??;
        tracing::info!(%cluster, "a cluster was formed");
        Ok(InitClusterResponse { cluster: ids::bytes(cluster) })
    }

    /// Whether an interrupted forming may go on: this member, and nobody else, is in the consensus.
    async fn may_found(&self) -> bool {
        let founded = self.storage.origin().await.ok().flatten();
        let membership = self.applied.read_all(|all| all.membership.membership().clone());
        let alone = membership.nodes().all(|(id, _)| *id == self.node);
        founded.is_some_and(|origin| origin.founded_here) && alone
    }

    async fn form(self: &Arc<Self>, cluster: ClusterId) -> Result<(), Refusal> {
        let nodes = BTreeMap::from([(self.node, self.consensus_node())]);
        match self.raft.initialize(nodes).await {
            // Not allowed: it was done by an earlier attempt.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(refusal(RefusalReason::Internal, error.to_string())),
        }
        let mut metrics = self.raft.server_metrics();
        let leads = metrics.wait_for(|metrics| metrics.current_leader == Some(self.node)).await;
        leads.map_err(|_| self.not_leader()).map(|_| ())?;
        self.propose_here(Command::InitCluster { cluster }).await?.answer()?;
        let member = self.own_config(true);
        let (index, _) = self.propose_here(Command::AddMember { member }).await?.answer()?;
        self.reached(index, FORM_DEADLINE).await
    }

    fn own_config(&self, voter: bool) -> MemberConfig {
        let identity = self.identity.clone();
        MemberConfig {
            id: identity.member,
            node: self.node,
            name: identity.name,
            site: identity.site,
            control_address: identity.control_address,
            data_address: identity.data_address,
            replication_addresses: identity.replication_addresses,
            voter,
        }
    }

    pub(super) async fn admin_add_member(
        self: &Arc<Self>,
        request: AddMemberRequest,
    ) -> Result<AddMemberResponse, Refusal> {
        self.require_leader()?;
        let cluster = self.cluster()?;
        let name = super::member_name(&request.name)?;
        let address = &request.control_address;
        let mut client = self.peers.cluster(name.as_str(), address, Lane::Control);
        let mut asked = client.clone();
        let identify = |r| async move { asked.identify(r).await };
        let found = call(JOIN_DEADLINE, IdentifyRequest {}, identify).await?;
        let config = self.check_newcomer(cluster, &request, &found)?;
        let peers = self.applied.read(|state| {
            state.members.values().map(|member| member.config.control_address.clone()).collect()
        });
        let recovery = self.generation.own();
        let join = JoinRequest { cluster: ids::bytes(cluster), peers, recovery };
        call(JOIN_DEADLINE, join, |r| async move { client.join(r).await }).await?;
        self.admit_member(config).await
    }

    /// Whether the server found is the one meant, and free.
    fn check_newcomer(
        &self,
        cluster: ClusterId,
        request: &AddMemberRequest,
        found: &IdentifyResponse,
    ) -> Result<MemberConfig, Refusal> {
        let name = super::member_name(&found.name)?;
        let address = &request.control_address;
        if name.as_str() != request.name {
            let what = format!("the server at {address} is {name}, not {}", request.name);
            return Err(refusal(RefusalReason::SecondHolder, what));
        }
        if !found.cluster.is_empty() && ids::cluster(&found.cluster)? != cluster {
            let what = format!("{name} at {address} belongs to another cluster");
            return Err(refusal(RefusalReason::ForeignCluster, what));
        }
        if found.protocol_max < PROTOCOL_MIN || found.protocol_min > PROTOCOL_MAX {
            let what = format!(
                "{name} speaks protocol {} to {}, this member {PROTOCOL_MIN} to {PROTOCOL_MAX}",
                found.protocol_min, found.protocol_max
            );
            return Err(refusal(RefusalReason::ProtocolMismatch, what));
        }
        let id = ids::member(&found.member)?;
        let (holder, voters) = self.applied.read(|state| {
            let holder = state.member_named(name.as_str()).map(|member| member.config.id);
            let others = state.members.values().filter(|m| m.config.id != id && m.config.voter);
            (holder, others.count())
        });
        if holder.is_some_and(|holder| holder != id) {
            let what = format!(
                "another member has the name {name}; if that one is gone for good, remove it first \
                 (keelson member remove {name} --with-copies)"
            );
            return Err(refusal(RefusalReason::SecondHolder, what));
        }
        check_kind(request, found, voters)?;
        Ok(MemberConfig {
            id,
            node: node_id(id),
            name,
            site: SiteName::new(found.site.clone())
                .map_err(|e| refusal(RefusalReason::BadName, format!("site: {e}")))?,
            control_address: address.clone(),
            data_address: found.data_address.clone(),
            replication_addresses: found.replication_addresses.clone(),
            voter: voters < VOTERS_MAX,
        })
    }

    /// Records the member, sends it the log, then gives it its vote.
    pub(crate) async fn admit_member(
        self: &Arc<Self>,
        config: MemberConfig,
    ) -> Result<AddMemberResponse, Refusal> {
        let known = self.applied.read(|state| state.members.contains_key(&config.id));
        if !known {
            let member = config.clone();
            self.propose_here(Command::AddMember { member }).await?.answer()?;
        }
        let node = ClusterNode {
            member: config.id,
            name: config.name.to_string(),
            control_address: config.control_address.clone(),
        };
        self.may_record().await;
        let learn = self.raft.add_learner(config.node, node, true);
        let learnt = tokio::time::timeout(CATCH_UP_DEADLINE, learn).await.map_err(|_| {
            let what = format!(
                "{} did not receive the log within {CATCH_UP_DEADLINE:?}; ask again",
                config.name
            );
            refusal(RefusalReason::DeadlineExceeded, what)
        })?;
        learnt.map_err(|error| self.write_error(&error))?;
        if config.voter {
            let voters = BTreeSet::from([config.node]);
            self.change_consensus(ChangeMembers::AddVoterIds(voters), true).await?;
        }
        tracing::info!(member = %config.name, voter = config.voter, "a member was added");
        Ok(AddMemberResponse { member: ids::bytes(config.id) })
    }

    pub(super) async fn change_consensus(
        &self,
        change: ChangeMembers<NodeId, ClusterNode>,
        retain: bool,
    ) -> Result<(), Refusal> {
        self.may_record().await;
        let changed = self.raft.change_membership(change, retain).await;
        changed.map(|_| ()).map_err(|error: WriteError| self.write_error(&error))
    }

    /// The member of that name.
    pub(super) fn member_called(&self, name: &str) -> Result<MemberConfig, Refusal> {
        let found = self.applied.read(|state| state.member_named(name).map(|m| m.config.clone()));
        found.ok_or_else(|| refusal(RefusalReason::UnknownMember, format!("no member {name}")))
    }

    pub(super) async fn admin_remove_member(
        self: &Arc<Self>,
        request: RemoveMemberRequest,
    ) -> Result<RemoveMemberResponse, Refusal> {
        self.require_leader()?;
        let config = self.member_called(&request.name)?;
        if request.witness && !config.data_address.is_empty() {
            let what = format!("{} is no witness; keelson member remove", request.name);
            return Err(refusal(RefusalReason::Precondition, what));
        }
        self.check_removable(config.id, &request.name)?;
        if request.what_if {
            self.rehearse(Command::RemoveMember { member: config.id })?;
            return Ok(RemoveMemberResponse {});
        }
        self.propose_here(Command::RemoveMember { member: config.id }).await?.answer()?;
        let nodes = BTreeSet::from([config.node]);
        let votes = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.voter_ids().any(|id| id == config.node)
        };
        if votes {
            self.change_consensus(ChangeMembers::RemoveVoters(nodes), false).await?;
        } else {
            self.change_consensus(ChangeMembers::RemoveNodes(nodes), false).await?;
        }
        self.peers.forget(&config.control_address);
        tracing::info!(member = %config.name, "a member was removed");
        Ok(RemoveMemberResponse {})
    }

    fn check_removable(&self, id: MemberId, name: &str) -> Result<(), Refusal> {
        let (copies, members) = self.applied.read(|state| {
            let holds = state.databases.values().filter(|database| database.copy_on(id).is_some());
            let names: Vec<_> = holds.map(|database| database.name.to_string()).collect();
            (names, state.members.len())
        });
        if !copies.is_empty() {
            let what = format!("{name} holds copies of {}", copies.join(", "));
            return Err(refusal(RefusalReason::InUse, what));
        }
        if members == 1 {
            let what = format!("{name} is the last member");
            return Err(refusal(RefusalReason::Precondition, what));
        }
        Ok(())
    }

    pub(super) async fn admin_set_member(
        self: &Arc<Self>,
        request: SetMemberRequest,
    ) -> Result<SetMemberResponse, Refusal> {
        self.require_leader()?;
        let config = self.member_called(&request.name)?;
        let asked = request.clone();
        let site = request.site.map(SiteName::new).transpose();
        let site = site.map_err(|e| refusal(RefusalReason::BadName, format!("site: {e}")))?;
        let addresses = request.replication_addresses;
        let command = Command::SetMember {
            member: config.id,
            control_address: request.control_address.clone(),
            data_address: request.data_address,
            replication_addresses: request.set_replication_addresses.then_some(addresses),
            site,
            voter: None,
        };
        self.propose_here(command).await?.answer()?;
        let moves = self.set_activation(&config, &asked).await?;
        let moved = request.control_address.filter(|address| *address != config.control_address);
        if let Some(control_address) = moved {
            let node =
                ClusterNode { member: config.id, name: config.name.to_string(), control_address };
            let nodes = BTreeMap::from([(config.node, node)]);
            self.change_consensus(ChangeMembers::SetNodes(nodes), true).await?;
            self.peers.forget(&config.control_address);
        }
        Ok(SetMemberResponse { moves })
    }
}

//! Members that belong to a recovered cluster and are not in its consensus yet (review S19).
//!
//! A consensus that was founded anew begins with one member. The others are in its state: those
//! that survived are taken in by themselves, one after another, those that were lost once their
//! site is started. One of a lower generation is told of the higher one, starts again, and is
//! taken in at a later look.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::MemberConfig;
use keelson_net::Lane;
use keelson_types::RefusalReason;
use keelson_wire::v1::{IdentifyRequest, JoinRequest};
use keelson_wire::{Refusal, ids};

use crate::context::Context;
use crate::peers::call;
use crate::raft_types::NodeId;

/// Deadline of telling a member that it belongs to this cluster.
const JOIN_DEADLINE: Duration = Duration::from_secs(1);

impl Context {
    /// Begins to take in who is left out, unless that is under way: a member that is slow to take
    /// the log holds up nothing else.
    pub(crate) fn begin_readmission(self: &Arc<Self>) {
        if self.left_out().is_empty() {
            return;
        }
        let context = self.clone();
        self.spawn(async move {
            if let Ok(_one_at_a_time) = context.readmitting.try_lock() {
                context.readmit().await;
            }
        });
    }

    /// Takes in the members that answer. Nothing to do unless the cluster was recovered.
    async fn readmit(self: &Arc<Self>) {
        for member in self.left_out() {
            match self.readmit_one(&member).await {
                Ok(()) => tracing::info!(member = %member.name, "a member was taken in again"),
                Err(refusal) => {
                    tracing::debug!(member = %member.name, %refusal, "not taken in yet");
                }
            }
        }
    }

    /// Members of the state that are wanted and that the consensus does not know, or that lack the
    /// vote that they should have.
    fn left_out(&self) -> Vec<MemberConfig> {
        let (nodes, votes) = self.in_consensus();
        self.applied.read(|state| {
            if state.recovery_generation == 0 {
                return Vec::new();
            }
            let wanted = state.members.values().filter(|member| member.stopped.is_none());
            let out = |config: &&MemberConfig| {
                !nodes.contains(&config.node) || config.voter && !votes.contains(&config.node)
            };
            wanted.map(|member| &member.config).filter(out).cloned().collect()
        })
    }

    /// Whom the consensus knows, and who votes in it.
    pub(crate) fn in_consensus(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let nodes = membership.nodes().map(|(id, _)| *id).collect();
        (nodes, membership.voter_ids().collect())
    }

    async fn readmit_one(self: &Arc<Self>, member: &MemberConfig) -> Result<(), Refusal> {
        let (name, address) = (member.name.as_str(), &member.control_address);
        let mut client = self.peers.cluster(name, address, Lane::Control);
        let mut asked = client.clone();
        let identify = |r| async move { asked.identify(r).await };
        let found = call(JOIN_DEADLINE, IdentifyRequest {}, identify).await?;
        if ids::member(&found.member)? != member.id {
            let what = format!("another server answers as {name}");
            return Err(Refusal::new(RefusalReason::ForeignMember, what));
        }
        let recovery = self.generation.own();
        let join =
            JoinRequest { cluster: ids::bytes(self.cluster()?), peers: Vec::new(), recovery };
        call(JOIN_DEADLINE, join, |r| async move { client.join(r).await }).await?;
        if !self.is_leader() {
            return Err(Refusal::new(RefusalReason::NoLeader, "another member leads"));
        }
        self.admit_member(member.clone()).await.map(|_| ())
    }
}

//! What this member knows by itself, for metrics: nobody else is asked, so it can be told while the
//! network is down.

use std::sync::Arc;

use keelson_wire::ids;
use keelson_wire::v1::{
    ClusterStatusResponse, CopyStatusRow, DatabaseInfo, MemberFactsRequest, MemberFactsResponse,
    Operation,
};

use crate::admin::local_status;
use crate::context::Context;
use crate::facts::AllFacts;
use crate::operations;

/// One member's picture of itself and, as far as its state tells, of the cluster.
#[derive(Clone, Debug, Default)]
pub struct MemberPicture {
    /// Of its processes and copies.
    pub facts: MemberFactsResponse,
    /// The copies on this member.
    pub copies: Vec<CopyStatusRow>,
    /// `None` while it is in no cluster.
    pub cluster: Option<ClusterStatusResponse>,
    /// All databases.
    pub databases: Vec<DatabaseInfo>,
    /// All operations that are remembered.
    pub operations: Vec<Operation>,
}

/// Takes pictures of one member; clones are the same camera.
#[derive(Clone)]
pub struct Pictures {
    context: Arc<Context>,
}

impl Pictures {
    pub(crate) fn of(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// The picture of this moment.
    pub async fn take(&self) -> MemberPicture {
        self.context.picture().await
    }
}

impl Context {
    async fn picture(self: &Arc<Self>) -> MemberPicture {
        let (activations, activation_times) = self.activations.told();
        let facts = MemberFactsResponse {
            control_calls: self.calls.counts(),
            control_call_times: self.calls.times(),
            activations,
            activation_times,
            ..self.facts_here(MemberFactsRequest::default()).await
        };
        let Ok(cluster) = self.cluster() else {
            return MemberPicture { facts, ..MemberPicture::default() };
        };
        let here = self.identity.member;
        let known = AllFacts::from([(here, Ok(facts.clone()))]);
        let (copies, members, databases) =
            self.applied.read(|state| local_status(state, here, &known));
        let leader = self.leader();
        let (term, voters) = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow();
            let voters: Vec<_> = metrics.membership_config.voter_ids().collect();
            (metrics.vote.leader_id.term, voters)
        };
        let leads = leader.as_ref().map(|(_, node)| node.name.clone()).unwrap_or_default();
        let members = members.into_iter().map(|(node, mut member)| {
            member.voter = voters.contains(&node);
            member.leader = member.name == leads;
            member
        });
        MemberPicture {
            facts,
            copies,
            cluster: Some(ClusterStatusResponse {
                cluster: ids::bytes(cluster),
                term,
                applied_index: self.applied.index(),
                members: members.collect(),
                databases: u32::try_from(databases.len()).unwrap_or(u32::MAX),
                leader: leads,
                problems: Vec::new(),
            }),
            databases: databases.iter().map(|database| self.describe(database)).collect(),
            operations: operations::all(&self.applied),
        }
    }
}

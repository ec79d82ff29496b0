//! Stopping a site and starting it again (F126).
//!
//! A stopped site serves nothing and does not vote: what is left has a majority of its own, and a
//! site that comes back from a loss changes nothing by that. Its members go on as learners; their
//! copies catch up, and count again once the site is started.
//!
//! Each step is idempotent, so a stop that was cut short is completed by the same request. All of
//! it needs the present majority.

use std::collections::BTreeSet;
use std::sync::Arc;

use keelson_cluster_core::redistribute::leave;
use keelson_cluster_core::{Command, MemberConfig};
use keelson_types::{MemberId, RefusalReason};
use keelson_wire::Refusal;
use keelson_wire::v1::{ChangeSiteRequest, ChangeSiteResponse, MoveRow};
use openraft::ChangeMembers;

use super::members::VOTERS_MAX;
use super::moves::MoveOrder;
use super::refusal;
use crate::context::Context;
use crate::raft_types::NodeId;

impl Context {
    pub(super) async fn admin_change_site(
        self: &Arc<Self>,
        request: ChangeSiteRequest,
    ) -> Result<ChangeSiteResponse, Refusal> {
        self.require_leader()?;
        let members = self.members_in(&request.site)?;
        let moves = match request.stop {
            true => self.stop_site(&members, &request).await?,
            false => {
                self.start_site(&members, &request).await?;
                Vec::new()
            }
        };
        let members = members.iter().map(|member| member.name.to_string()).collect();
        Ok(ChangeSiteResponse { members, moves })
    }

    fn members_in(&self, site: &str) -> Result<Vec<MemberConfig>, Refusal> {
        let members: Vec<_> = self.applied.read(|state| {
            let configs = state.members.values().map(|member| &member.config);
            configs.filter(|config| config.site.as_str() == site).cloned().collect()
        });
        if members.is_empty() {
            let what = format!("no member stands in a site {site:?}; keelson site list");
            return Err(refusal(RefusalReason::BadArgument, what));
        }
        Ok(members)
    }

    async fn stop_site(
        self: &Arc<Self>,
        members: &[MemberConfig],
        request: &ChangeSiteRequest,
    ) -> Result<Vec<MoveRow>, Refusal> {
        let command = stop(members, Some(&request.comment));
        self.rehearse(command.clone())?;
        let leaving: BTreeSet<NodeId> = members.iter().map(|member| member.node).collect();
        self.check_votes_left(&leaving, &request.site).await?;
        let order = self.leaving(members, &request.site)?;
        let moves = self.move_databases(order.what_if(request.what_if)).await?;
        if request.what_if {
            return Ok(moves);
        }
        self.moved(&moves).await?;
        self.propose_here(command).await?.answer()?;
        let votes: BTreeSet<_> = self.votes().intersection(&leaving).copied().collect();
        if !votes.is_empty() {
            self.change_consensus(ChangeMembers::RemoveVoters(votes), true).await?;
        }
        tracing::info!(site = request.site, "a site was stopped");
        Ok(moves)
    }

    /// Moves to copies elsewhere; what has none would end with the site.
    fn leaving(&self, members: &[MemberConfig], site: &str) -> Result<MoveOrder, Refusal> {
        let members = members.iter().map(|member| member.id).collect();
        let (moves, stuck) = self.applied.read(|state| {
            let (moves, stuck) = leave(state, &members);
            let stuck = stuck.iter().filter_map(|id| state.databases.get(id));
            (moves, stuck.map(|database| database.name.to_string()).collect::<Vec<_>>())
        });
        if stuck.is_empty() {
            let databases = moves.iter().map(|wanted| (wanted.database, Some(wanted.to)));
            return Ok(MoveOrder::of(databases.collect(), &format!("site {site} stops")));
        }
        let what = format!(
            "no copy outside of {site} could serve {}; add one, or dismount them first",
            stuck.join(", ")
        );
        Err(refusal(RefusalReason::NoCandidate, what))
    }

    async fn start_site(
        self: &Arc<Self>,
        members: &[MemberConfig],
        request: &ChangeSiteRequest,
    ) -> Result<(), Refusal> {
        let command = stop(members, None);
        if request.what_if {
            return self.rehearse(command);
        }
        self.propose_here(command).await?.answer()?;
        let (known, present) = self.in_consensus();
        let room = VOTERS_MAX.saturating_sub(present.len());
        // Whom a recovery left behind is taken in by the rounds of the leader.
        let back = members.iter().filter(|member| member.voter && known.contains(&member.node));
        let votes = back.map(|member| member.node).filter(|node| !present.contains(node));
        let votes: BTreeSet<_> = votes.take(room).collect();
        if !votes.is_empty() {
            self.change_consensus(ChangeMembers::AddVoterIds(votes), true).await?;
        }
        tracing::info!(site = request.site, "a site was started");
        Ok(())
    }

    fn votes(&self) -> BTreeSet<NodeId> {
        self.in_consensus().1
    }

    /// What is left must be able to go on: a leader, and a majority that answers.
    async fn check_votes_left(
        self: &Arc<Self>,
        leaving: &BTreeSet<NodeId>,
        site: &str,
    ) -> Result<(), Refusal> {
        let name = &self.identity.name;
        if leaving.contains(&self.node) {
            let what = format!(
                "{name} leads the cluster and stands in {site}; keelson member maintenance start \
                 {name} lets another member lead"
            );
            return Err(refusal(RefusalReason::Precondition, what));
        }
        let left: BTreeSet<_> = self.votes().difference(leaving).copied().collect();
        let voters: Vec<MemberId> = self.applied.read(|state| {
            let members = state.members.values().map(|member| &member.config);
            members.filter(|member| left.contains(&member.node)).map(|member| member.id).collect()
        });
        let answers = self.facts_of(voters, &[]).await;
        let up = answers.values().filter(|answer| answer.is_ok()).count();
        if up * 2 > left.len() {
            return Ok(());
        }
        let what = format!("only {up} of {} voters outside of {site} answer", left.len());
        Err(refusal(RefusalReason::Precondition, what))
    }
}

fn stop(members: &[MemberConfig], comment: Option<&str>) -> Command {
    let members = members.iter().map(|member| member.id).collect();
    Command::StopMembers { members, comment: comment.map(str::to_owned) }
}

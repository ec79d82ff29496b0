//! The tests of members and the redundancy of databases, from what members say when asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keelson_cluster_core::health::{
    CopyPicture, DatabasePicture, HealthPicture, MemberPicture, health,
};
use keelson_cluster_core::redundancy::{CopyFacts, Redundancy, redundancy};
use keelson_cluster_core::{ClusterState, CopyKind, Database, Member};
use keelson_types::{CopyStatus, DatabaseId, MemberId, MountIntent, VolumeState};
use keelson_wire::Refusal;
use keelson_wire::v1::{
    HealthRequest, HealthResponse, HealthRow, MemberFactsResponse, RedundancyCopy,
    RedundancyRequest, RedundancyResponse, RedundancyRow,
};

use super::losses::facts_of;
use super::moves::report;
use super::status::failure_of;
use crate::context::Context;
use crate::facts::AllFacts;

impl Context {
    pub(super) async fn admin_health(
        self: &Arc<Self>,
        request: HealthRequest,
    ) -> Result<HealthResponse, Refusal> {
        self.cluster()?;
        let wanted = match request.member.as_str() {
            "" => None,
            name => Some(self.member_called(name)?.name.to_string()),
        };
        let members: Vec<MemberId> =
            self.applied.read(|state| state.members.keys().copied().collect());
        let facts = self.facts_of(members, &[]).await;
        let leader = self.leader().map(|(_, node)| node.name);
        let picture = self.applied.read(|state| picture(state, leader, &facts));
        let tested =
            picture.members.iter().filter(|m| wanted.as_ref().is_none_or(|w| *w == m.name));
        let rows = tested.flat_map(|member| {
            health(&picture, member).into_iter().map(|result| HealthRow {
                member: member.name.clone(),
                test: result.test.to_owned(),
                verifies: result.verifies.to_owned(),
                passed: result.error.is_none(),
                error: result.error.unwrap_or_default(),
            })
        });
        Ok(HealthResponse { rows: rows.collect() })
    }

    pub(super) async fn admin_redundancy(
        self: &Arc<Self>,
        request: RedundancyRequest,
    ) -> Result<RedundancyResponse, Refusal> {
        self.cluster()?;
        let wanted = match request.database.as_str() {
            "" => None,
            name => Some(self.database_called(name)?.id),
        };
        let verdicts = self.redundancies(wanted).await;
        let mut rows: Vec<_> =
            verdicts.iter().map(|verdict| self.redundancy_row(verdict)).collect();
        rows.sort_by(|a, b| a.database.cmp(&b.database));
        Ok(RedundancyResponse { rows })
    }

    /// The verdicts on a database, or on all.
    pub(crate) async fn redundancies(
        self: &Arc<Self>,
        wanted: Option<DatabaseId>,
    ) -> Vec<Redundancy> {
        let holders: BTreeSet<MemberId> = self.applied.read(|state| {
            let databases = state.databases.values();
            let chosen = databases.filter(|d| wanted.is_none_or(|wanted| wanted == d.id));
            chosen.flat_map(|d| d.copies.values().map(|copy| copy.member)).collect()
        });
        let facts = self.facts_of(holders, wanted.as_slice()).await;
        self.applied.read(|state| {
            let databases = state.databases.values();
            let chosen = databases.filter(|d| wanted.is_none_or(|wanted| wanted == d.id));
            chosen.map(|d| redundancy(d.id, &copies(state, d, &facts))).collect()
        })
    }

    fn redundancy_row(&self, verdict: &Redundancy) -> RedundancyRow {
        let name = self.applied.read(|state| {
            state.databases.get(&verdict.database).map(|database| database.name.to_string())
        });
        let copies = verdict.copies.iter().map(|copy| RedundancyCopy {
            member: self.name_of_member(copy.member),
            available: copy.unavailable.is_none(),
            unavailable_reason: copy.unavailable.clone().unwrap_or_default(),
            redundant: copy.not_redundant.is_none(),
            not_redundant_reason: copy.not_redundant.clone().unwrap_or_default(),
        });
        let mut copies: Vec<_> = copies.collect();
        copies.sort_by(|a, b| a.member.cmp(&b.member));
        RedundancyRow {
            database: name.unwrap_or_default(),
            available: verdict.available,
            redundant: verdict.redundant,
            verdict: if verdict.is_green() { "green" } else { "red" }.into(),
            copies,
        }
    }
}

/// What is known of the copies of a database.
fn copies(state: &ClusterState, database: &Database, facts: &AllFacts) -> Vec<CopyFacts> {
    let copies = database.copies.iter();
    copies
        .map(|(id, copy)| {
            let said = facts_of(database, facts, copy.member);
            let told = said.map(report);
            let member = state.members.get(&copy.member);
            let policy = member.map(|member| member.activation.policy).unwrap_or_default();
            let blocked = copy.policy.max(policy) == keelson_types::ActivationPolicy::Blocked;
            CopyFacts {
                member: copy.member,
                status: told.as_ref().map_or(CopyStatus::ServiceDown, |told| told.status),
                health: told.map(|told| told.health).unwrap_or_default(),
                active: database.target == Some(*id),
                lagged: copy.kind == CopyKind::Lagged,
                failure: failure_of(copy, said),
                blocked: blocked
                    || copy.suspension.stops_activation().is_some()
                    || member.is_some_and(|member| member.maintenance.is_some()),
            }
        })
        .collect()
}

fn picture(state: &ClusterState, leader: Option<String>, facts: &AllFacts) -> HealthPicture {
    let name = |id: &MemberId| {
        state.members.get(id).map(|m| m.config.name.to_string()).unwrap_or_default()
    };
    let mut members: Vec<_> = state.members.values().map(|m| member_picture(m, facts)).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let by_database: BTreeMap<DatabaseId, Vec<CopyFacts>> =
        state.databases.values().map(|d| (d.id, copies(state, d, facts))).collect();
    let copy = |database: &Database, copy: &CopyFacts| CopyPicture {
        name: format!("{}@{}", database.name, name(&copy.member)),
        member: name(&copy.member),
        status: copy.status,
        lagged: copy.lagged,
        health: copy.health,
        failure: copy.failure,
    };
    let databases = state.databases.values().map(|database| {
        let verdict = redundancy(database.id, &by_database[&database.id]);
        DatabasePicture {
            name: database.name.to_string(),
            members: database.copies.values().map(|copy| name(&copy.member)).collect(),
            wanted_open: database.intent == MountIntent::Mounted,
            active: database.target_member().map(|id| name(&id)),
            available: verdict.available,
            redundant: verdict.redundant,
        }
    });
    HealthPicture {
        leader,
        members,
        copies: state
            .databases
            .values()
            .flat_map(|database| by_database[&database.id].iter().map(|c| copy(database, c)))
            .collect(),
        databases: databases.collect(),
    }
}

/// Those that an operator has to look after; what copies left is no trouble any more.
fn lost_volumes(facts: &MemberFactsResponse) -> Vec<String> {
    let lost = |state: &str| {
        [VolumeState::Failed, VolumeState::Missing].map(VolumeState::name).contains(&state)
    };
    let lost = facts.volumes.iter().filter(|volume| lost(&volume.state));
    lost.map(|volume| format!("volume {} is {}: {}", volume.path, volume.state, volume.why))
        .collect()
}

fn member_picture(member: &Member, facts: &AllFacts) -> MemberPicture {
    let told = facts.get(&member.config.id);
    let answer = told.and_then(|told| told.as_ref().ok());
    let problem = told.and_then(|told| told.as_ref().err()).map(|refusal| refusal.message.clone());
    MemberPicture {
        name: member.config.name.to_string(),
        answers: answer.is_some(),
        problem: problem.unwrap_or_default(),
        witness: member.config.data_address.is_empty(),
        voter: member.config.voter,
        data_process: answer.is_some_and(|facts| facts.data_process_up),
        lease: answer.is_some_and(|facts| facts.lease_left_millis > 0),
        lost_volumes: answer.map(lost_volumes).unwrap_or_default(),
    }
}

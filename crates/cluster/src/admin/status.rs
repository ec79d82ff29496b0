//! Pictures of the cluster for people and clients: topology from the local applied state,
//! everything else with what the members say at the time of the call.

use std::collections::BTreeSet;
use std::sync::Arc;

use keelson_cluster_core::autoreseed::{ReseedVerdict, standing};
use keelson_cluster_core::{ClusterState, CopyConfig, Database, Member, response, suppression};
use keelson_types::{
    CERTIFICATE_WARNING_DAYS, CopyFault, CopyId, CopyStatus, DatabaseId, DatabaseState, FailureTag,
    MemberId, MountIntent, RefusalReason, SuspendedBy,
};
use keelson_wire::v1::{
    ClusterStatusRequest, ClusterStatusResponse, CopyFacts, CopyStatusRequest, CopyStatusResponse,
    CopyStatusRow, MemberFactsResponse, MemberStatus, TopologyDatabase, TopologyMember,
    TopologyRequest, TopologyResponse,
};
use keelson_wire::{Refusal, ids, v1};

use super::volumes::seen_places;
use crate::admin::copies::suspension;
use crate::clock;
use crate::context::Context;
use crate::facts::{AllFacts, of_copy};
use crate::raft_types::NodeId;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl Context {
    pub(super) async fn admin_topology(
        self: &Arc<Self>,
        _: TopologyRequest,
    ) -> Result<TopologyResponse, Refusal> {
        let cluster = self.cluster()?;
        let (members, databases) = self.applied.read(|state| {
            let members = by_name(state).into_iter().map(topology_member).collect();
            let databases = state.databases.values().map(|d| topology_database(state, d)).collect();
            (members, databases)
        });
        // All of it; `Sight` leaves out what the caller may not know of.
        let limited = false;
        Ok(TopologyResponse { cluster: ids::bytes(cluster), members, databases, limited })
    }

    pub(super) async fn admin_cluster_status(
        self: &Arc<Self>,
        _: ClusterStatusRequest,
    ) -> Result<ClusterStatusResponse, Refusal> {
        let cluster = self.cluster()?;
        let members: Vec<MemberId> =
            self.applied.read(|state| state.members.keys().copied().collect());
        let facts = self.facts_of(members, &[]).await;
        let leader = self.leader();
        let (term, voters) = {
            let metrics = self.raft.server_metrics();
            let metrics = metrics.borrow();
            let voters: Vec<_> = metrics.membership_config.voter_ids().collect();
            (metrics.vote.leader_id.term, voters)
        };
        let applied_index = self.applied.index();
        let leads = leader.as_ref().map(|(id, _)| *id);
        Ok(self.applied.read(|state| {
            let status = |member: &Member| MemberStatus {
                voter: voters.contains(&member.config.node),
                leader: leads == Some(member.config.node),
                ..member_status(state, member, &facts)
            };
            let members: Vec<_> = by_name(state).into_iter().map(status).collect();
            ClusterStatusResponse {
                cluster: ids::bytes(cluster),
                leader: leader.map(|(_, node)| node.name).unwrap_or_default(),
                term,
                applied_index,
                problems: problems(state, &members, &facts, leads.is_some()),
                members,
                databases: u32::try_from(state.databases.len()).unwrap_or(u32::MAX),
            }
        }))
    }

    pub(super) async fn admin_copy_status(
        self: &Arc<Self>,
        request: CopyStatusRequest,
    ) -> Result<CopyStatusResponse, Refusal> {
        self.cluster()?;
        let database = match request.database.as_str() {
            "" => None,
            name => Some(self.database_called(name)?.id),
        };
        let member = match request.member.as_str() {
            "" => None,
            name => Some(self.member_called(name)?.id),
        };
        let wanted = |id: DatabaseId, holder: MemberId| {
            database.is_none_or(|wanted| wanted == id) && member.is_none_or(|m| m == holder)
        };
        // The active is asked too: it knows the newest log.
        let holders: BTreeSet<MemberId> = self.applied.read(|state| {
            let copies = state.databases.values().flat_map(|d| {
                let holders = d.copies.values().map(|c| c.member);
                let mut asked: Vec<_> = holders.filter(|member| wanted(d.id, *member)).collect();
                asked.extend(d.target_member().filter(|_| !asked.is_empty()));
                asked
            });
            copies.collect()
        });
        let facts = self.facts_of(holders, database.as_slice()).await;
        let rows = self.applied.read(|state| {
            let rows = state.databases.values().flat_map(|d| {
                let copies = d.copies.iter().filter(|(_, c)| wanted(d.id, c.member));
                copies.map(|(id, copy)| row(state, d, (*id, copy), &facts)).collect::<Vec<_>>()
            });
            let mut rows: Vec<_> = rows.collect();
            rows.sort_by(|a, b| {
                (&a.database, a.preference, &a.member).cmp(&(&b.database, b.preference, &b.member))
            });
            rows
        });
        Ok(CopyStatusResponse { rows })
    }
}

/// The copies of one member with what it said of them, all members, and all databases.
pub(crate) fn local_status(
    state: &ClusterState,
    here: MemberId,
    facts: &AllFacts,
) -> (Vec<CopyStatusRow>, Vec<(NodeId, MemberStatus)>, Vec<Database>) {
    let of_database = |database: &Database| {
        let copies = database.copies.iter().find(|(_, copy)| copy.member == here);
        copies.map(|(id, copy)| row(state, database, (*id, copy), facts))
    };
    let rows = state.databases.values().filter_map(of_database);
    let member = |member: &Member| (member.config.node, member_status(state, member, facts));
    let members = by_name(state).into_iter().map(member);
    (rows.collect(), members.collect(), state.databases.values().cloned().collect())
}

/// In the order in which people look for them.
fn by_name(state: &ClusterState) -> Vec<&Member> {
    let mut members: Vec<_> = state.members.values().collect();
    members.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    members
}

fn topology_member(member: &Member) -> TopologyMember {
    TopologyMember {
        member: ids::bytes(member.config.id),
        name: member.config.name.to_string(),
        site: member.config.site.to_string(),
        control_address: member.config.control_address.clone(),
        data_address: member.config.data_address.clone(),
    }
}

fn member_name(state: &ClusterState, id: MemberId) -> String {
    let member = state.members.get(&id);
    member.map_or_else(|| id.to_string(), |member| member.config.name.to_string())
}

fn topology_database(state: &ClusterState, database: &Database) -> TopologyDatabase {
    let mut copies: Vec<_> = database.copies.values().collect();
    copies.sort_by_key(|copy| copy.preference);
    let active = database.target_member().filter(|_| database.intent == MountIntent::Mounted);
    TopologyDatabase {
        database: ids::bytes(database.id),
        name: database.name.to_string(),
        epoch: Some(database.epoch.into()),
        active_member: active.map(|id| member_name(state, id)).unwrap_or_default(),
        copy_members: copies.iter().map(|copy| member_name(state, copy.member)).collect(),
        dismounted: database.intent == MountIntent::Dismounted,
    }
}

fn member_status(state: &ClusterState, member: &Member, facts: &AllFacts) -> MemberStatus {
    let id = member.config.id;
    let copies = state.databases.values().filter(|d| d.copy_on(id).is_some()).count();
    let actives = state.assignments(id).count();
    let status = MemberStatus {
        member: ids::bytes(id),
        name: member.config.name.to_string(),
        site: member.config.site.to_string(),
        control_address: member.config.control_address.clone(),
        data_address: member.config.data_address.clone(),
        replication_addresses: member.config.replication_addresses.clone(),
        copies: u32::try_from(copies).unwrap_or(u32::MAX),
        actives: u32::try_from(actives).unwrap_or(u32::MAX),
        activation_policy: member.activation.policy.to_string(),
        max_active: member.activation.max_active,
        max_active_preferred: member.activation.max_active_preferred,
        move_away: member.activation.move_away,
        auto_database_mount_dial: member.activation.dial.to_string(),
        witness: member.config.data_address.is_empty(),
        stopped: member.stopped.as_ref().map(|stopped| v1::Maintenance {
            since_unix_millis: stopped.since_unix_ms,
            comment: stopped.comment.clone(),
        }),
        maintenance: member.maintenance.as_ref().map(|maintenance| v1::Maintenance {
            since_unix_millis: maintenance.since_unix_ms,
            comment: maintenance.comment.clone(),
        }),
        ..MemberStatus::default()
    };
    match facts.get(&id) {
        Some(Ok(facts)) => MemberStatus {
            reachable: true,
            data_process_up: facts.data_process_up,
            lease_left_millis: facts.lease_left_millis,
            resident_bytes: facts.resident_bytes,
            cpu_millis: facts.cpu_millis,
            control_pid: facts.control_pid,
            data_pid: facts.data_pid,
            open_files: facts.open_files,
            control_resident_bytes: facts.control_resident_bytes,
            control_cpu_millis: facts.control_cpu_millis,
            control_open_files: facts.control_open_files,
            certificate_expires_unix_millis: facts.certificate_expires_unix_millis,
            ..status
        },
        _ => status,
    }
}

fn row(
    state: &ClusterState,
    database: &Database,
    (id, copy): (CopyId, &CopyConfig),
    facts: &AllFacts,
) -> CopyStatusRow {
    let answer = facts.get(&copy.member).and_then(|facts| facts.as_ref().ok());
    let of_this = answer.and_then(|facts| of_copy(facts, database.id));
    let active = database.target_member().and_then(|member| facts.get(&member)?.as_ref().ok());
    let newest = active.and_then(|facts| of_copy(facts, database.id));
    let (status, status_reason) = match of_this {
        Some(facts) => (facts.status.clone(), facts.status_reason.clone()),
        None => (CopyStatus::ServiceDown.to_string(), unreachable(facts.get(&copy.member))),
    };
    let status_reason = match status_reason.is_empty() && copy.leaving {
        true => "it is being removed; keelson copy resume takes that back".to_owned(),
        false => status_reason,
    };
    let cut = is_cut_off(state, database, (id, copy), facts);
    let failure = failure_of(copy, of_this).or(cut.then_some(FailureTag::DataNetwork));
    let acts = failure.map(|tag| match database.target == Some(id) {
        true => response(tag).active,
        false if copy.suspension.by == SuspendedBy::Fault => response(tag).lasting,
        false => response(tag).passive,
    });
    CopyStatusRow {
        database: database.name.to_string(),
        member: member_name(state, copy.member),
        active: database.target == Some(id),
        preference: copy.preference,
        participant: database.rule.as_ref().is_some_and(|rule| rule.has(id)),
        reachable: answer.is_some(),
        facts: of_this.cloned(),
        status,
        status_reason,
        retrieved_unix_millis: clock::unix_millis(),
        latest_available_log_unix_millis: newest.map_or(0, |f| f.last_inspected_unix_millis),
        data_pid: answer.map_or(0, |facts| facts.data_pid),
        cut_off: copy.cut_off,
        suspension: suspension(&copy.suspension, &state.settings),
        replay_lag_seconds: copy.lag.replay_lag().as_secs(),
        truncation_lag_seconds: copy.lag.truncation_lag().as_secs(),
        activation_policy: copy.policy.to_string(),
        failure_tag: failure.map(|tag| tag.to_string()).unwrap_or_default(),
        failure_action: acts.map(|action| action.to_string()).unwrap_or_default(),
        autoreseed: autoreseed(state, database, (id, copy), facts),
        rehearsal: super::rehearsals::shown(copy),
    }
}

/// How far the automatic reseed of a copy is, if there is one (F129).
fn autoreseed(
    state: &ClusterState,
    database: &Database,
    (id, copy): (CopyId, &CopyConfig),
    facts: &AllFacts,
) -> Option<v1::AutoReseedInfo> {
    if !copy.is_stopped() && copy.autoreseed.is_none() {
        return None;
    }
    let (places, now) = (seen_places(state, facts), clock::unix_millis());
    let (next_unix_millis, blocked) = match standing(state, database, id, &places, now) {
        ReseedVerdict::Nothing if copy.autoreseed.is_none() => return None,
        ReseedVerdict::Nothing | ReseedVerdict::Act(_) => (0, String::new()),
        ReseedVerdict::Wait(until) => (until, String::new()),
        ReseedVerdict::Blocked(why) => (0, why),
    };
    let progress = copy.autoreseed.unwrap_or_default();
    Some(v1::AutoReseedInfo {
        resumes: progress.resumes,
        seeds: progress.seeds,
        spares: progress.spares,
        stopped: progress.stopped,
        began_unix_millis: progress.began_unix_ms,
        last_unix_millis: progress.last_unix_ms,
        next_unix_millis,
        blocked,
    })
}

/// The class of a copy's failure (F13): what it says now, else for what it was suspended.
pub(super) fn failure_of(copy: &CopyConfig, told: Option<&CopyFacts>) -> Option<FailureTag> {
    let fault = told.and_then(|facts| serde_json::from_slice(&facts.fault_value).ok());
    let fault = fault.map(|fault: CopyFault| fault.tag());
    let stalled = told.and_then(|facts| FailureTag::named(&facts.stalled));
    fault.or(copy.failure).or(stalled)
}

/// Whether the member of an active copy reaches the data process of no other copy, by its own word.
fn is_cut_off(
    state: &ClusterState,
    database: &Database,
    (id, copy): (CopyId, &CopyConfig),
    facts: &AllFacts,
) -> bool {
    let Some(Ok(said)) = facts.get(&copy.member) else { return false };
    let mut others = database.copies.iter().filter(|(other, _)| **other != id);
    let mut reaches_none =
        || others.all(|(_, other)| said.unreached.contains(&member_name(state, other.member)));
    database.target == Some(id) && database.copies.len() > 1 && reaches_none()
}

/// Who does not reach a member's data process.
fn unreached_by(member: &MemberStatus, facts: &AllFacts, members: &[MemberStatus]) -> Vec<String> {
    let says = |other: &&MemberStatus| {
        let said = ids::member(&other.member).ok().and_then(|id| facts.get(&id)?.as_ref().ok());
        said.is_some_and(|said| said.unreached.contains(&member.name))
    };
    members.iter().filter(says).map(|other| other.name.clone()).collect()
}

/// Why nothing is known of a copy.
fn unreachable(said: Option<&Result<MemberFactsResponse, Refusal>>) -> String {
    match said {
        Some(Err(refusal)) => format!("its member does not answer: {}", refusal.message),
        Some(Ok(facts)) if !facts.data_process_up => "its data process does not answer".into(),
        _ => "its member says nothing of it".into(),
    }
}

/// What is wrong, for people; the worst first.
fn problems(
    state: &ClusterState,
    members: &[MemberStatus],
    facts: &AllFacts,
    has_leader: bool,
) -> Vec<String> {
    let mut problems = Vec::new();
    if !has_leader {
        problems.push("no leader is elected: nothing can be changed or moved".to_owned());
    }
    let voters = members.iter().filter(|m| m.voter);
    let (all, up) = (voters.clone().count(), voters.filter(|m| m.reachable).count());
    if up * 2 <= all {
        problems.push(format!("only {up} of {all} voters are reachable: there is no majority"));
    } else if up < all && (up - 1) * 2 <= all {
        problems.push(format!("{up} of {all} voters are reachable: no other may fail"));
    }
    problems.extend(mounts_held(state, members));
    for member in members {
        let name = &member.name;
        if !member.reachable {
            let id = ids::member(&member.member).ok();
            let why = id.and_then(|id| facts.get(&id)).and_then(|facts| facts.as_ref().err());
            problems.push(match why {
                Some(refusal) if refusal.reason == RefusalReason::ForeignMember => format!(
                    "another server, or one that lost its data, answers as {name}; its vote does \
                     not count ({})",
                    refusal.reason.hint()
                ),
                Some(refusal) => format!("{name} is not reachable: {refusal}"),
                None => format!("{name} is not reachable"),
            });
        } else if member.stopped.is_some() {
            problems.push(format!("{name} stands in a stopped site (keelson site start)"));
        } else if !member.data_process_up && !member.data_address.is_empty() {
            problems.push(format!("the data process of {name} does not answer"));
        } else if member.lease_left_millis == 0 && !member.data_address.is_empty() {
            problems.push(format!("{name} holds no lease"));
        } else if let by @ [_, ..] = &unreached_by(member, facts, members)[..] {
            let by = by.join(", ");
            problems.push(format!("the data address of {name} is not reached by {by}"));
        }
        problems.extend(shortages_of(member, facts).iter().map(|what| format!("{name}: {what}")));
        problems.extend(certificate_of(member, clock::unix_millis()));
    }
    for database in state.databases.values() {
        problems.extend(problem_of(database));
        problems.extend(flapping(state, database));
        problems.extend(faults_of(state, database, facts));
    }
    problems
}

/// That a cold start waits for members before anything is mounted.
fn mounts_held(state: &ClusterState, members: &[MemberStatus]) -> Option<String> {
    let alive = members.iter().filter(|member| member.lease_left_millis > 0);
    let alive = alive.filter_map(|member| ids::member(&member.member).ok()).collect();
    if !keelson_cluster_core::mounts_wait(state, &alive) {
        return None;
    }
    let waited_for = |member: &&MemberStatus| {
        let excused = member.stopped.is_some() || member.maintenance.is_some();
        !excused && !member.data_address.is_empty() && member.lease_left_millis == 0
    };
    let names: Vec<_> = members.iter().filter(waited_for).map(|m| m.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "nothing is mounted before {} is back (cold_start_waits_for_all); if it is lost for \
             good and serves nowhere: keelson site stop, or keelson member maintenance start",
            names.join(", ")
        )
    })
}

/// Which volumes are too full, each once. Copies on one volume say the same; those on several
/// volumes say where.
fn shortages_of(member: &MemberStatus, facts: &AllFacts) -> BTreeSet<String> {
    let id = ids::member(&member.member).ok();
    let said = id.and_then(|id| facts.get(&id)?.as_ref().ok());
    let short = said.into_iter().flat_map(|said| &said.copies);
    let short = short.filter(|copy| !copy.shortage.is_empty());
    short
        .map(|copy| match copy.volume.as_str() {
            "" => copy.shortage.clone(),
            volume => format!("{} ({volume})", copy.shortage),
        })
        .collect()
}

/// That the certificate of a member ends soon, or has ended.
fn certificate_of(member: &MemberStatus, now_ms: u64) -> Option<String> {
    let end = Some(member.certificate_expires_unix_millis).filter(|end| *end > 0)?;
    let (name, left) = (&member.name, end.saturating_sub(now_ms) / DAY_MS);
    if end <= now_ms {
        return Some(format!("the certificate of {name} has ended (keelson certs issue)"));
    }
    (left < CERTIFICATE_WARNING_DAYS)
        .then(|| format!("the certificate of {name} ends in {left} days (keelson certs issue)"))
}

fn problem_of(database: &Database) -> Option<String> {
    let name = &database.name;
    if database.intent == MountIntent::Dismounted {
        return None;
    }
    match database.state {
        DatabaseState::Established => {}
        DatabaseState::New | DatabaseState::Sealing | DatabaseState::Activating => {
            return Some(format!("{name} is not mounted (keelson database show {name})"));
        }
    }
    let degraded = database.rule.as_ref().is_some_and(keelson_types::CommitRule::is_degraded);
    degraded.then(|| format!("{name} is degraded: its active copy acknowledges alone"))
}

/// That a database moves too often.
fn flapping(state: &ClusterState, database: &Database) -> Option<String> {
    let found = suppression(&state.settings, database, clock::unix_millis());
    found.until_unix_ms.map(|_| {
        let (name, moves) = (&database.name, found.moves);
        format!("{name} was moved by failures {moves} times of late (keelson decision list {name})")
    })
}

fn faults_of<'a>(
    state: &'a ClusterState,
    database: &'a Database,
    facts: &'a AllFacts,
) -> impl Iterator<Item = String> + 'a {
    database.copies.values().filter_map(move |copy| {
        let answer = facts.get(&copy.member)?.as_ref().ok()?;
        let facts = of_copy(answer, database.id)?;
        let tag = failure_of(copy, Some(facts))?;
        let member = member_name(state, copy.member);
        let fault = match facts.fault.as_str() {
            "" if facts.stalled.is_empty() => return None,
            "" => "its log makes no progress on its disk",
            fault => fault,
        };
        Some(format!("{}@{member}: {fault} ({tag})", database.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_a_problem_in_its_last_two_weeks() {
        let told = |certificate_expires_unix_millis| {
            let name = "m2".to_owned();
            let member =
                MemberStatus { name, certificate_expires_unix_millis, ..Default::default() };
            certificate_of(&member, 5)
        };
        assert_eq!([told(0), told(5 + 14 * DAY_MS)], [None, None]);
        let soon = told(4 + 14 * DAY_MS).unwrap();
        assert_eq!(soon, "the certificate of m2 ends in 13 days (keelson certs issue)");
        assert_eq!(told(5).unwrap(), "the certificate of m2 has ended (keelson certs issue)");
    }

    #[test]
    fn every_full_volume_of_a_member_is_named_once() {
        let copy = |volume: &str, shortage: &str| CopyFacts {
            volume: volume.into(),
            shortage: shortage.into(),
            ..CopyFacts::default()
        };
        let id = MemberId::from_u128(1);
        let member = MemberStatus { member: ids::bytes(id), ..MemberStatus::default() };
        let of = |copies: Vec<CopyFacts>| {
            let said = MemberFactsResponse { copies, ..MemberFactsResponse::default() };
            let told = shortages_of(&member, &AllFacts::from([(id, Ok(said))]));
            told.into_iter().collect::<Vec<_>>()
        };
        let full = "the log volume is full";
        let several = vec![copy("/a", ""), copy("/b", full), copy("/b", full), copy("/c", full)];
        assert_eq!(of(several), [format!("{full} (/b)"), format!("{full} (/c)")]);
        assert_eq!(of(vec![copy("", full), copy("", full)]), [full]);
        assert!(of(vec![copy("", "")]).is_empty());
    }
}

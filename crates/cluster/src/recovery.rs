//! Forcing a cluster up without its majority, at a member whose server is stopped (F126).
//!
//! [`RecoveryPlan`] reads the consensus file of this member, asks all others, and says what would
//! be done or what speaks against it; [`RecoveryPlan::carry_out`] does it. The verdict is a pure
//! function of what was read and answered.
//!
//! What speaks against it: somebody leads; a member that is taken for lost answers; one that is
//! not does not; another one's log goes further than this one's. Only a network that is cut can
//! hide that the lost members live. Then both sides serve until they hear each other: nothing here
//! can know, so an operator says it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_cluster_core::{ClusterState, MemberConfig, SiteRecovery};
use keelson_net::{Connector, Lane};
use keelson_types::{MemberId, MountIntent, RefusalReason, Setting};
use keelson_wire::v1::{IdentifyRequest, IdentifyResponse};
use keelson_wire::{Refusal, ids};

use crate::clock;
use crate::peers::{Peers, call};
use crate::raft_types::ClusterNode;
use crate::storage::StorageFault;
use crate::storage::recovery::{FoundError, Stopped};

/// Deadline of a question to a member; a dead one costs it once, all are asked at a time.
const ASK_DEADLINE: Duration = Duration::from_secs(3);

/// What an operator wants to go on with.
#[derive(Clone, Debug)]
pub struct SiteToRecover {
    /// The site whose members go on.
    pub site: String,
    /// Names of members of it that are lost, too.
    pub lost: BTreeSet<String>,
    /// Names of members of other sites that go on with it, a witness for example.
    pub with: BTreeSet<String>,
    /// Why.
    pub comment: String,
}

/// What a recovery makes of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SurvivorState {
    /// The new consensus begins here.
    Founder,
    /// It is taken in by the founder.
    Survives,
    /// It is stopped until its site is started.
    Lost,
}

/// A member, and what it said.
#[derive(Clone, Debug)]
pub struct Survivor {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// What becomes of it.
    pub state: SurvivorState,
    /// It has a vote and no data.
    pub witness: bool,
    /// Index of the last entry of its consensus log; none if it did not answer.
    pub last_index: Option<u64>,
    answer: Option<Answer>,
    config: MemberConfig,
}

/// What a member said of its consensus.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Answer {
    recovery: u32,
    /// Nothing if its disk did not say.
    last: Option<(u64, u64)>,
    leader: String,
}

impl From<IdentifyResponse> for Answer {
    fn from(found: IdentifyResponse) -> Self {
        let last = (!found.log_unknown).then_some((found.last_term, found.last_index));
        Self { recovery: found.recovery, last, leader: found.leader }
    }
}

/// What would be done.
#[derive(Debug)]
pub struct RecoveryPlan {
    /// Generation of the cluster afterwards.
    pub generation: u32,
    /// All members, the founder first.
    pub members: Vec<Survivor>,
    /// Databases with a copy on a lost member: they open with the word of an operator, or when that
    /// copy is back.
    pub in_doubt: Vec<String>,
    /// Databases that no member which goes on has a copy of.
    pub gone: Vec<String>,
    /// Databases that open by themselves.
    pub whole: Vec<String>,
    /// Lost members that come back alone, with the link cut, will not serve.
    pub protected: bool,
    last: (u64, u64),
    stopped: Stopped,
    recovery: SiteRecovery,
}

/// Why a recovery is not possible.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The consensus file.
    #[error(transparent)]
    Storage(#[from] StorageFault),
    /// Something speaks against it.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

impl RecoveryError {
    /// Reading the consensus file broke off.
    #[must_use]
    pub fn panicked(cause: &dyn std::fmt::Display) -> Self {
        let what = format!("the consensus file cannot be read: {cause}");
        Self::Refused(Refusal::new(RefusalReason::ConsensusDamaged, what))
    }

    /// The reason, for a code and a hint.
    #[must_use]
    pub fn reason(&self) -> RefusalReason {
        match self {
            Self::Storage(fault) => fault.reason(),
            Self::Refused(refusal) => refusal.reason,
        }
    }
}

fn refused<T>(reason: RefusalReason, what: impl Into<String>) -> Result<T, RecoveryError> {
    Err(RecoveryError::Refused(Refusal::new(reason, what)))
}

impl RecoveryPlan {
    /// Reads the consensus file of the member `founder` in `directory` (`<data>/cluster`). Blocks.
    ///
    /// # Errors
    /// The server runs, or the file or the request makes no sense.
    pub fn read(
        directory: &Path,
        founder: MemberId,
        wanted: &SiteToRecover,
    ) -> Result<Self, RecoveryError> {
        let stopped = Stopped::open(directory)?;
        let state = &stopped.all.state;
        if state.members.is_empty() {
            let what = format!(
                "this member was left behind by a recovery and knows no cluster any more: recover \
                 at another one, or put the newest consensus-recovery-N.redb of {} in the place of \
                 consensus.redb and ask again",
                directory.display()
            );
            return refused(RefusalReason::Precondition, what);
        }
        let members = members(state, founder, wanted)?;
        let lost: BTreeSet<_> = lost(&members).map(|member| member.config.id).collect();
        let generation = next_generation(state.recovery_generation, clock::unix_millis());
        let protected = state.settings.is_on(Setting::ColdStartWaitsForAll);
        let (mut in_doubt, mut gone, mut whole) = (Vec::new(), Vec::new(), Vec::new());
        for database in state.databases.values() {
            let copies = database.copies.values();
            let here = copies.clone().filter(|copy| !lost.contains(&copy.member)).count();
            let wanted = database.intent == MountIntent::Mounted;
            let list = match (here, copies.count() - here) {
                (0, _) => &mut gone,
                (_, 0) if !wanted => continue,
                (_, 0) => &mut whole,
                _ => &mut in_doubt,
            };
            list.push(database.name.to_string());
        }
        let last = stopped.last().map_or((0, 0), |last| (last.leader_id.term, last.index));
        let recovery = SiteRecovery { generation, lost, comment: wanted.comment.clone() };
        let plan =
            Self { generation, members, in_doubt, gone, whole, protected, last, stopped, recovery };
        Ok(plan)
    }

    /// Asks every other member what it knows.
    pub async fn ask(&mut self, connector: Connector) {
        let peers = Peers::new(connector);
        let others = self.members.iter_mut().filter(|m| m.state != SurvivorState::Founder);
        let questions = others.map(|member| async {
            let (name, address) = (&member.name, &member.config.control_address);
            let mut client = peers.cluster(name, address, Lane::Control);
            let send = |request| async move { client.identify(request).await };
            let found = call(ASK_DEADLINE, IdentifyRequest {}, send).await;
            // Whoever else answers there says nothing about this member.
            let same = |found: &IdentifyResponse| {
                ids::member(&found.member).is_ok_and(|id| id == member.config.id)
            };
            member.answer = found.ok().filter(same).map(Answer::from);
            member.last_index = member.answer.as_ref().and_then(|answer| Some(answer.last?.1));
        });
        futures::future::join_all(questions).await;
    }

    /// What speaks against it, after [`Self::ask`].
    ///
    /// # Errors
    /// The first thing that does.
    pub fn check(&self) -> Result<(), RecoveryError> {
        check(&self.members, self.generation, self.last).map_err(RecoveryError::Refused)
    }

    /// Founds the consensus anew. Durable when it returns, with the path at which the consensus of
    /// before is kept. Blocks.
    ///
    /// # Errors
    /// The file could not be written; then nothing changed.
    pub fn carry_out(self) -> Result<PathBuf, RecoveryError> {
        let founder = self.members.iter().find(|m| m.state == SurvivorState::Founder);
        let Some(Survivor { config, .. }) = founder else {
            return refused(RefusalReason::Internal, "no member founds the consensus");
        };
        let node = ClusterNode {
            member: config.id,
            name: config.name.to_string(),
            control_address: config.control_address.clone(),
        };
        self.stopped.found(node, self.recovery, clock::unix_millis()).map_err(|error| match error {
            FoundError::Storage(fault) => RecoveryError::Storage(fault),
            FoundError::Refused(what) => {
                RecoveryError::Refused(Refusal::new(RefusalReason::Precondition, what))
            }
        })
    }
}

/// The generation of a recovery at this time. The time makes two recoveries of one cluster differ
/// that know nothing of each other, so that one of them gives way when they meet.
fn next_generation(current: u32, unix_ms: u64) -> u32 {
    let seconds = u32::try_from(unix_ms / 1_000).unwrap_or(u32::MAX);
    seconds.max(current.saturating_add(1))
}

fn lost(members: &[Survivor]) -> impl Iterator<Item = &Survivor> {
    members.iter().filter(|member| member.state == SurvivorState::Lost)
}

/// All members with what becomes of them, the founder first.
fn members(
    state: &ClusterState,
    founder: MemberId,
    wanted: &SiteToRecover,
) -> Result<Vec<Survivor>, RecoveryError> {
    let names: BTreeSet<_> = state.members.values().map(|m| m.config.name.as_str()).collect();
    let unknown = wanted.lost.union(&wanted.with).find(|name| !names.contains(name.as_str()));
    if let Some(name) = unknown {
        return refused(RefusalReason::UnknownMember, format!("no member {name}"));
    }
    let becomes = |config: &MemberConfig| {
        let (name, site) = (config.name.as_str(), config.site.as_str());
        let goes_on = site == wanted.site && !wanted.lost.contains(name);
        match goes_on || wanted.with.contains(name) {
            true if config.id == founder => SurvivorState::Founder,
            true => SurvivorState::Survives,
            false => SurvivorState::Lost,
        }
    };
    let mut members: Vec<_> = state
        .members
        .values()
        .map(|member| Survivor {
            name: member.config.name.to_string(),
            site: member.config.site.to_string(),
            state: becomes(&member.config),
            witness: member.config.data_address.is_empty(),
            last_index: None,
            answer: None,
            config: member.config.clone(),
        })
        .collect();
    members.sort_by_key(|member| (member.state as u8, member.name.clone()));
    if members.first().is_none_or(|member| member.state != SurvivorState::Founder) {
        let what = format!(
            "this member does not stand in site {:?}, or was named as lost: ask one that goes on",
            wanted.site
        );
        return refused(RefusalReason::BadArgument, what);
    }
    let holds = |member: &Survivor| member.state != SurvivorState::Lost && !member.witness;
    if !members.iter().any(holds) {
        return refused(RefusalReason::Precondition, "no member that holds data would be left");
    }
    Ok(members)
}

fn check(members: &[Survivor], generation: u32, last: (u64, u64)) -> Result<(), Refusal> {
    let names = |states: &[SurvivorState], is: &dyn Fn(&Survivor) -> bool| {
        let found = members.iter().filter(|m| states.contains(&m.state) && is(m));
        found.map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let lost = [SurvivorState::Lost];
    let refuse = |reason, what: String| Err(Refusal::new(reason, what));
    let answering = names(&lost, &|member| member.answer.is_some());
    if !answering.is_empty() {
        let what = format!(
            "{answering} answers, so it is not lost: name it with --with, or stop its server first"
        );
        return refuse(RefusalReason::Precondition, what);
    }
    let silent = names(&[SurvivorState::Survives], &|member| member.answer.is_none());
    if !silent.is_empty() {
        let what = format!("{silent} does not answer: start it, or name it with --lost");
        return refuse(RefusalReason::Precondition, what);
    }
    if lost.iter().all(|state| members.iter().all(|member| member.state != *state)) {
        let what = "no member is lost: start this server, and the cluster goes on";
        return refuse(RefusalReason::Precondition, what.into());
    }
    for member in members {
        let Some(answer) = &member.answer else { continue };
        let leads = |other: &&Survivor| {
            other.name == answer.leader
                && (other.name == member.name || other.state == SurvivorState::Lost)
        };
        if let Some(leader) = members.iter().find(leads) {
            let what = format!(
                "{} leads the cluster, or did a moment ago: use keelson site stop, or ask again in \
                 a few seconds",
                leader.name
            );
            return refuse(RefusalReason::Precondition, what);
        }
        if answer.recovery >= generation {
            let what = format!("{} was recovered already; start this server", member.name);
            return refuse(RefusalReason::Precondition, what);
        }
        let Some(theirs) = answer.last else {
            let what = format!("{} does not say how far its consensus log goes", member.name);
            return refuse(RefusalReason::Precondition, what);
        };
        if theirs > last {
            let what = format!(
                "the consensus log of {} goes further (term {}, entry {}) than the one here (term \
                 {}, entry {}): stop that server, start this one, and recover there",
                member.name, theirs.0, theirs.1, last.0, last.1
            );
            return refuse(RefusalReason::Precondition, what);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

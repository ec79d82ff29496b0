//! The checks of a switchover, and the copy that one without a target takes (F30-F36).
//!
//! Decides from the replicated state and from what members said when they were asked. The checks
//! spare a move that would go badly; none of them stands in for the seals and the lossless proof of
//! the activation that follows. Each has its measured value, its bound, and the flag that skips it;
//! what no flag skips would be refused by the activation itself.

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{
    ActivationPolicy, CopyId, CopyStatus, DatabaseState, Epoch, LOG_UNIT_BYTES, LogEnd, MemberId,
    MountIntent, RefusalReason, Weakness,
};
use serde::{Deserialize, Serialize};

use crate::command::Refusal;
use crate::criteria::{COPY_QUEUE_LOGS, CopyHealth, IndexFit, REPLAY_QUEUE_LOGS};
use crate::order::SealReply;
use crate::select::{CopyInput, Exclusion, Mark, Picture, describe, rank};
use crate::state::{ClusterState, Database};

/// Which checks an operator leaves out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// Status of the target copy and space at its member (F31).
    Health,
    /// Queues of the target, and whether it is read as the source of a seed (F33).
    Lag,
    /// The content index of the target (F34).
    ClientExperience,
    /// The preferred maximum of active databases (F35).
    MaxActive,
    /// The active copy is the source of a seed (F32). The seed goes on: its source stays.
    ActiveCopy,
    /// The database moved too often.
    MoveSuppression,
}

impl Skip {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Health,
        Self::Lag,
        Self::ClientExperience,
        Self::MaxActive,
        Self::ActiveCopy,
        Self::MoveSuppression,
    ];

    /// The flag of the command line, without its dashes.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Health => "skip-health-checks",
            Self::Lag => "skip-lag-checks",
            Self::ClientExperience => "skip-client-experience-checks",
            Self::MaxActive => "skip-max-active-checks",
            Self::ActiveCopy => "skip-active-copy-checks",
            Self::MoveSuppression => "skip-move-suppression-checks",
        }
    }
}

/// One check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveCheck {
    /// The database is open and at rest.
    Database,
    /// The copy may become active at all.
    Copy,
    /// Its member holds a lease.
    Lease,
    /// Status of the copy (check 1).
    Status,
    /// Space at its member.
    Space,
    /// The active copy feeds a seed (check 2).
    ActiveFeedsSeed,
    /// Log that the copy has not inspected (check 3).
    CopyQueue,
    /// Log that it has not replayed (check 3).
    ReplayQueue,
    /// It is read as the source of a seed (check 3).
    SeedingSource,
    /// Its content index (check 4).
    ContentIndex,
    /// Policies and blocks of copy and member.
    Policy,
    /// Databases active on its member.
    MaxActive,
    /// The same against the preferred maximum.
    MaxActivePreferred,
    /// Moves of the database in the last time.
    MoveSuppression,
}

impl MoveCheck {
    /// Its name, for people and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Copy => "copy",
            Self::Lease => "lease",
            Self::Status => "status",
            Self::Space => "space",
            Self::ActiveFeedsSeed => "active_feeds_seed",
            Self::CopyQueue => "copy_queue",
            Self::ReplayQueue => "replay_queue",
            Self::SeedingSource => "seeding_source",
            Self::ContentIndex => "content_index",
            Self::Policy => "policy",
            Self::MaxActive => "max_active",
            Self::MaxActivePreferred => "max_active_preferred",
            Self::MoveSuppression => "move_suppression",
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckVerdict {
    /// Well.
    Passed,
    /// Not well, but the flag was given, or the operator's word outweighs it: a warning.
    Overridden,
    /// Not well: the copy is not activated.
    Failed,
}

impl CheckVerdict {
    /// Its name, for people and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Overridden => "overridden",
            Self::Failed => "failed",
        }
    }
}

/// One row of the table that `--what-if` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckRow {
    /// What was looked at.
    pub check: MoveCheck,
    /// What was found.
    pub measured: String,
    /// What passes.
    pub threshold: String,
    /// How it ended.
    pub verdict: CheckVerdict,
    /// The flag that leaves it out.
    pub skip: Option<Skip>,
}

/// What a member said of one copy when it was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyReport {
    /// Its status.
    pub status: CopyStatus,
    /// What its fault is, if it has one.
    pub fault: Option<String>,
    /// End of its log.
    pub end: LogEnd,
    /// Index, queues, space.
    pub health: CopyHealth,
}

/// Everything that the checks of one database depend on.
#[derive(Clone, Copy, Debug)]
pub struct MoveInput<'a> {
    /// The replicated state.
    pub state: &'a ClusterState,
    /// The database.
    pub database: &'a Database,
    /// What members said of its copies.
    pub reports: &'a BTreeMap<CopyId, CopyReport>,
    /// Members whose data process answers and holds a lease.
    pub alive: &'a BTreeSet<MemberId>,
    /// Active databases by member, with what the same request moves already.
    pub actives: &'a BTreeMap<MemberId, u32>,
    /// Checks that are left out.
    pub skip: &'a BTreeSet<Skip>,
    /// Moves of the database within the window of move suppression, and how many are too many.
    pub moves: (usize, usize),
}

/// What a request to move one database comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MovePlan {
    /// The member of the active copy.
    pub from: Option<MemberId>,
    /// Where to, if it can be moved.
    pub to: Option<MemberId>,
    /// The checks of each copy that was considered, in the order of preference.
    pub checked: Vec<(MemberId, Vec<CheckRow>)>,
    /// Why it is not moved.
    pub refusal: Option<Refusal>,
}

impl MovePlan {
    /// Whether something was overridden that did not pass.
    #[must_use]
    pub fn has_warning(&self) -> bool {
        let chosen = self.checked.iter().filter(|(member, _)| Some(*member) == self.to);
        let mut rows = chosen.flat_map(|(_, rows)| rows);
        rows.any(|row| row.verdict == CheckVerdict::Overridden)
    }
}

/// Plans the move of a database to `to`, or to the best of its other copies (F36).
#[must_use]
pub fn plan_move(input: &MoveInput<'_>, to: Option<MemberId>) -> MovePlan {
    let from = input.database.target_member();
    let mut plan = MovePlan { from, to: None, checked: Vec::new(), refusal: None };
    let targets = match to {
        Some(member) => input.database.copy_on(member).into_iter().collect(),
        None => best_first(input),
    };
    if targets.is_empty() {
        plan.refusal = Some(nowhere(input, to));
        return plan;
    }
    for target in targets {
        let Some(config) = input.database.copies.get(&target) else { continue };
        let rows = check(input, target, to.is_some());
        let failed = rows.iter().find(|row| row.verdict == CheckVerdict::Failed).cloned();
        plan.checked.push((config.member, rows));
        match failed {
            None => {
                plan.to = Some(config.member);
                plan.refusal = None;
                return plan;
            }
            Some(row) if plan.refusal.is_none() => {
                plan.refusal = Some(refusal(input, config.member, &row));
            }
            Some(_) => {}
        }
    }
    if to.is_none() && plan.checked.len() > 1 {
        let first = plan.refusal.take().map(|refusal| refusal.message).unwrap_or_default();
        let message = format!("no copy of {} passes the checks; {first}", input.database.name);
        plan.refusal = Some(Refusal::new(RefusalReason::NoCandidate, message));
    }
    plan
}

/// Copies that a move without a target considers, the best first (F18): those that may become
/// active by themselves, but not where the database is.
fn best_first(input: &MoveInput<'_>) -> Vec<CopyId> {
    let copies = inputs(input);
    let replies: Vec<_> = copies.iter().filter_map(|copy| reply(input, copy)).collect();
    let picture = Picture {
        epoch: Epoch::ZERO,
        copies: &copies,
        replies: &replies,
        alive: input.alive,
        requested: None,
        avoid: &BTreeSet::new(),
        weakness: Weakness::None,
    };
    // A failed copy, one that lags in its log, or whose member says nothing is shown with the
    // check that it does not pass.
    let policy = |reason: &Exclusion| match reason {
        Exclusion::ActivationSuspended
        | Exclusion::PolicyBlocked
        | Exclusion::OtherSite
        | Exclusion::Maintenance
        | Exclusion::Leaving
        | Exclusion::Suspended
        | Exclusion::Lagged => true,
        Exclusion::NoAnswer
        | Exclusion::OtherEpoch(_)
        | Exclusion::NoContact
        | Exclusion::Faulty(_)
        | Exclusion::Forgetful
        | Exclusion::MaximumActive(_)
        | Exclusion::NotRequested
        | Exclusion::ReplayedBeyond(_)
        | Exclusion::LacksInstant
        | Exclusion::BeyondDial { .. }
        | Exclusion::ProcessExpected
        | Exclusion::DataCut => false,
    };
    let ranked = rank(&picture).candidates.into_iter();
    let elsewhere = ranked.filter(|candidate| Some(candidate.copy) != input.database.target);
    elsewhere.filter(|c| !c.excluded.iter().any(policy)).map(|c| c.copy).collect()
}

fn inputs(input: &MoveInput<'_>) -> Vec<CopyInput> {
    let copies = input.database.copies.iter();
    let member = |id| input.state.members.get(id);
    copies
        .map(|(id, copy)| {
            describe(input.database, member(&copy.member), (*id, copy), input.actives)
        })
        .collect()
}

/// A report in the form of an answer to a seal; only the order of candidates is made of it.
fn reply(input: &MoveInput<'_>, copy: &CopyInput) -> Option<SealReply> {
    let report = input.reports.get(&copy.copy)?;
    Some(SealReply {
        copy: copy.copy,
        member: copy.member,
        sealed: Epoch::ZERO,
        end: report.end,
        committed: report.end.position,
        replayed: report.end.position,
        fault: None,
        may_have_lost: false,
        ha: true,
        health: report.health,
    })
}

fn nowhere(input: &MoveInput<'_>, to: Option<MemberId>) -> Refusal {
    let name = &input.database.name;
    match to {
        Some(member) => {
            let message = format!("{} holds no copy of {name}", name_of(input, member));
            Refusal::new(RefusalReason::UnknownCopy, message)
        }
        None => {
            let message = format!("{name} has no other copy that may become active by itself");
            Refusal::new(RefusalReason::NoCandidate, message)
        }
    }
}

fn name_of(input: &MoveInput<'_>, member: MemberId) -> String {
    let member = input.state.members.get(&member);
    member.map_or_else(|| "a member".to_owned(), |member| member.config.name.to_string())
}

/// Why a failed check keeps a database where it is.
fn refusal(input: &MoveInput<'_>, member: MemberId, row: &CheckRow) -> Refusal {
    let reason = match row.check {
        MoveCheck::Database if input.database.intent == MountIntent::Dismounted => {
            RefusalReason::Dismounted
        }
        MoveCheck::Database => RefusalReason::Activating,
        MoveCheck::Copy
        | MoveCheck::Lease
        | MoveCheck::Status
        | MoveCheck::Space
        | MoveCheck::Policy => RefusalReason::TargetUnfit,
        MoveCheck::ActiveFeedsSeed | MoveCheck::SeedingSource => RefusalReason::FeedsSeed,
        MoveCheck::CopyQueue | MoveCheck::ReplayQueue => RefusalReason::QueueTooLong,
        MoveCheck::ContentIndex => RefusalReason::ContentIndexUnfit,
        MoveCheck::MaxActive | MoveCheck::MaxActivePreferred => RefusalReason::ActiveLimit,
        MoveCheck::MoveSuppression => RefusalReason::MoveSuppressed,
    };
    let skip = row.skip.map(|skip| format!("; --{} leaves this check out", skip.flag()));
    let message = format!(
        "{}@{}: {} is {}, and {} passes{}",
        input.database.name,
        name_of(input, member),
        row.check.name(),
        row.measured,
        row.threshold,
        skip.unwrap_or_default()
    );
    Refusal::new(reason, message)
}

/// The checks of one copy. `named` says that the operator named it.
fn check(input: &MoveInput<'_>, target: CopyId, named: bool) -> Vec<CheckRow> {
    let mut rows = Rows { skip: input.skip, rows: Vec::new() };
    let Some(copy) = inputs(input).into_iter().find(|copy| copy.copy == target) else {
        return rows.rows;
    };
    let report = input.reports.get(&target);
    let at_rest = input.database.intent == MountIntent::Mounted
        && input.database.state == DatabaseState::Established;
    let state = match input.database.intent {
        MountIntent::Dismounted => "dismounted".to_owned(),
        MountIntent::Mounted => match input.database.state {
            DatabaseState::New => "new".to_owned(),
            DatabaseState::Sealing => "sealing".to_owned(),
            DatabaseState::Activating => "activating".to_owned(),
            DatabaseState::Established => "established".to_owned(),
        },
    };
    rows.hard(MoveCheck::Database, at_rest, state, "established");
    let unfit = [Mark::Lagged, Mark::Leaving, Mark::Stopped];
    let unfit: Vec<_> = unfit.into_iter().filter(|mark| copy.is(*mark)).map(Mark::name).collect();
    let may = if unfit.is_empty() { "an HA copy".to_owned() } else { unfit.join(", ") };
    rows.hard(MoveCheck::Copy, unfit.is_empty(), may, "an HA copy that replicates");
    let alive = input.alive.contains(&copy.member);
    rows.hard(MoveCheck::Lease, alive, if alive { "held" } else { "none" }, "held");
    rows.health(report);
    let feeds = feeds_seed(input);
    let seed = if feeds { "yes" } else { "no" };
    rows.add(MoveCheck::ActiveFeedsSeed, !feeds, seed, "no", Some(Skip::ActiveCopy));
    rows.lag(report);
    let index = report.map(|report| report.health);
    let fit = index.is_some_and(|health| health.index() == IndexFit::Healthy);
    let shown = index.map_or_else(|| "unknown".into(), |h| h.content_index.to_string());
    rows.add(MoveCheck::ContentIndex, fit, shown, "Healthy", Some(Skip::ClientExperience));
    policy_row(input, &copy, named, &mut rows);
    let (room, preferred) = copy.room();
    let below = |max: Option<u32>| max.map_or_else(|| "no limit".into(), |m| format!("below {m}"));
    rows.hard(MoveCheck::MaxActive, room, copy.actives, &below(copy.max_active));
    let most = below(copy.max_active_preferred);
    let skip = Some(Skip::MaxActive);
    rows.add(MoveCheck::MaxActivePreferred, preferred, copy.actives, &most, skip);
    let (moves, max) = input.moves;
    let most = format!("below {max}");
    let skip = Some(Skip::MoveSuppression);
    rows.add(MoveCheck::MoveSuppression, moves < max, moves, &most, skip);
    rows.rows
}

/// Whether the active copy feeds the seed of another one, as far as is known.
fn feeds_seed(input: &MoveInput<'_>) -> bool {
    let active = input.database.target_member();
    let mut seeds = input.database.copies.values().filter_map(|copy| copy.seeding.as_ref());
    seeds.any(|seed| {
        let progress = input.state.operations.get(&seed.operation);
        let source = progress.and_then(|operation| operation.seed.as_ref()?.source);
        source.or(seed.source).is_none_or(|source| Some(source) == active)
    })
}

/// Policies, blocks and maintenance: they speak against a move that goes there by itself, and warn
/// whoever names the copy (F25).
fn policy_row(input: &MoveInput<'_>, copy: &CopyInput, named: bool, rows: &mut Rows<'_>) {
    let site = |id: MemberId| input.state.members.get(&id).map(|member| &member.config.site);
    let here = input.database.target_member().and_then(site) == Some(&copy.site);
    let marks = [Mark::Blocked, Mark::Maintenance, Mark::MoveAway];
    let against = marks.into_iter().filter(|mark| copy.is(*mark));
    let mut against: Vec<_> = against.map(|mark| mark.name().to_owned()).collect();
    let crosses = copy.policy == ActivationPolicy::IntrasiteOnly && !here;
    if copy.policy == ActivationPolicy::Blocked || crosses {
        against.push(copy.policy.to_string());
    }
    let measured = match against.is_empty() {
        true => copy.policy.to_string(),
        false => against.join(", "),
    };
    let verdict = match (against.is_empty(), named) {
        (true, _) => CheckVerdict::Passed,
        (false, true) => CheckVerdict::Overridden,
        (false, false) => CheckVerdict::Failed,
    };
    let threshold = "nothing set against it, or named with --to".to_owned();
    let check = MoveCheck::Policy;
    rows.rows.push(CheckRow { check, measured, threshold, verdict, skip: None });
}

/// Rows under way.
struct Rows<'a> {
    skip: &'a BTreeSet<Skip>,
    rows: Vec<CheckRow>,
}

impl Rows<'_> {
    fn hard(&mut self, check: MoveCheck, passes: bool, measured: impl ToString, threshold: &str) {
        self.add(check, passes, measured, threshold, None);
    }

    fn add(
        &mut self,
        check: MoveCheck,
        passes: bool,
        measured: impl ToString,
        threshold: &str,
        skip: Option<Skip>,
    ) {
        let skipped = skip.is_some_and(|skip| self.skip.contains(&skip));
        let verdict = match (passes, skipped) {
            (true, _) => CheckVerdict::Passed,
            (false, true) => CheckVerdict::Overridden,
            (false, false) => CheckVerdict::Failed,
        };
        let (measured, threshold) = (measured.to_string(), threshold.to_owned());
        self.rows.push(CheckRow { check, measured, threshold, verdict, skip });
    }

    /// Check 1, and space.
    fn health(&mut self, report: Option<&CopyReport>) {
        let fit = report.is_some_and(|report| report.fault.is_none() && is_fit(report.status));
        let shown = match report {
            None => "no answer".to_owned(),
            Some(CopyReport { status, fault: Some(fault), .. }) => format!("{status}: {fault}"),
            Some(report) => report.status.to_string(),
        };
        let wanted = "a status that is not failed";
        self.add(MoveCheck::Status, fit, shown, wanted, Some(Skip::Health));
        let short = report.is_some_and(|report| report.health.short_of_space);
        let space = if short { "a volume is full" } else { "enough" };
        self.add(MoveCheck::Space, !short, space, "enough", Some(Skip::Health));
    }

    /// Check 3.
    fn lag(&mut self, report: Option<&CopyReport>) {
        let health = report.map(|report| report.health).unwrap_or_default();
        let skip = Some(Skip::Lag);
        let logs = |bytes: u64| format!("{} logs", bytes.div_ceil(LOG_UNIT_BYTES));
        let queues = [
            (
                MoveCheck::CopyQueue,
                health.copy_queue_is_short(),
                health.copy_queue_bytes,
                COPY_QUEUE_LOGS,
            ),
            (
                MoveCheck::ReplayQueue,
                health.replay_queue_is_short(),
                health.replay_queue_bytes,
                REPLAY_QUEUE_LOGS,
            ),
        ];
        for (check, short, bytes, bound) in queues {
            self.add(check, short, logs(bytes), &format!("below {bound} logs"), skip);
        }
        let source = report.is_some_and(|report| report.status == CopyStatus::SeedingSource);
        let shown = if source { "yes" } else { "no" };
        self.add(MoveCheck::SeedingSource, !source, shown, "no", skip);
    }
}

/// Whether a copy in this status is one that a switchover takes (F20, F31). What the model calls
/// disconnected is one here only after its source was lost: the seals find out what is missing.
const fn is_fit(status: CopyStatus) -> bool {
    match status {
        CopyStatus::Mounted
        | CopyStatus::Mounting
        | CopyStatus::Held
        | CopyStatus::Healthy
        | CopyStatus::Initializing
        | CopyStatus::Resynchronizing
        | CopyStatus::DisconnectedAndHealthy
        | CopyStatus::DisconnectedAndResynchronizing
        | CopyStatus::SeedingSource => true,
        CopyStatus::Dismounted
        | CopyStatus::Dismounting
        | CopyStatus::Failed
        | CopyStatus::FailedAndSuspended
        | CopyStatus::Suspended
        | CopyStatus::Seeding
        | CopyStatus::RangeRepair
        | CopyStatus::ServiceDown
        | CopyStatus::Unknown => false,
    }
}

#[cfg(test)]
mod tests;

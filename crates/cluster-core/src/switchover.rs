//! The checks of a switchover, and the copy that one without a target takes (F30-F36).
//!
//! Decides from the replicated state and from what members said when they were asked. The checks
//! spare a move that would go badly; none of them stands in for the seals and the lossless proof of
//! the activation that follows. Each has its measured value, its bound, and the flag that skips it;
//! what no flag skips would be refused by the activation itself.

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{
    ActivationPolicy, CopyId, CopyStatus, DatabaseName, DatabaseState, Epoch, LOG_UNIT_BYTES,
    LogEnd, MemberId, MountIntent, RefusalReason, Weakness,
};
use serde::{Deserialize, Serialize};

use crate::command::Refusal;
use crate::criteria::{COPY_QUEUE_LOGS, CopyHealth, IndexFit, REPLAY_QUEUE_LOGS};
use crate::order::SealReply;
use crate::select::{CopyInput, Exclusion, Mark, Picture, describe, rank};
use crate::state::{ClusterState, Database};

mod facts;

pub use facts::MoveFacts;

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
    /// What it was decided from.
    pub facts: Option<Box<MoveFacts>>,
}

impl MovePlan {
    /// Whether something was overridden that did not pass.
    #[must_use]
    pub fn has_warning(&self) -> bool {
        let chosen = self.checked.iter().filter(|(member, _)| Some(*member) == self.to);
        let mut rows = chosen.flat_map(|(_, rows)| rows);
        rows.any(|row| row.verdict == CheckVerdict::Overridden)
    }

    /// The same where a warning is as good as a failed check.
    #[must_use]
    pub fn without_warnings(mut self, name: &DatabaseName) -> Self {
        if self.refusal.is_none() && self.has_warning() {
            let rows = self.checked.iter().flat_map(|(_, rows)| rows);
            let warned: Vec<_> = rows
                .filter(|row| row.verdict == CheckVerdict::Overridden)
                .map(|row| format!("{} is {}", row.check.name(), row.measured))
                .collect();
            let what = format!("{name}: {}", warned.join("; "));
            self.refusal = Some(Refusal::new(RefusalReason::Warning, what));
            self.to = None;
        }
        self
    }
}

/// Plans the move of a database to `to`, or to the best of its other copies (F36).
#[must_use]
pub fn plan_move(input: &MoveInput<'_>, to: Option<MemberId>) -> MovePlan {
    let facts = MoveFacts::of(input);
    let mut plan = facts.plan(to);
    if let (Some(member), true) = (to, plan.checked.is_empty()) {
        let holder = input.state.members.get(&member);
        let holder = holder.map_or("a member", |member| member.config.name.as_str());
        let message = format!("{holder} holds no copy of {}", facts.name);
        plan.refusal = Some(Refusal::new(RefusalReason::UnknownCopy, message));
    }
    plan.facts = Some(Box::new(facts));
    plan
}

/// Copies that a move without a target considers, the best first (F18): those that may become
/// active by themselves, but not where the database is.
fn best_first(facts: &MoveFacts) -> Vec<&CopyInput> {
    let copies = &facts.copies;
    let replies: Vec<_> = copies.iter().filter_map(|copy| reply(facts, copy)).collect();
    let picture = Picture {
        epoch: Epoch::ZERO,
        copies,
        replies: &replies,
        alive: &facts.alive,
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
    let elsewhere = ranked.filter(|candidate| Some(candidate.member) != facts.from);
    let fit = elsewhere.filter(|c| !c.excluded.iter().any(policy));
    fit.filter_map(|c| copies.iter().find(|copy| copy.copy == c.copy)).collect()
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
fn reply(facts: &MoveFacts, copy: &CopyInput) -> Option<SealReply> {
    let report = facts.reports.get(&copy.copy)?;
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

fn nowhere(facts: &MoveFacts) -> Refusal {
    let message = format!("{} has no other copy that may become active by itself", facts.name);
    Refusal::new(RefusalReason::NoCandidate, message)
}

/// Why a failed check keeps a database where it is.
fn refusal(facts: &MoveFacts, copy: &CopyInput, row: &CheckRow) -> Refusal {
    let reason = match row.check {
        MoveCheck::Database if facts.intent == MountIntent::Dismounted => RefusalReason::Dismounted,
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
        facts.name,
        copy.name,
        row.check.name(),
        row.measured,
        row.threshold,
        skip.unwrap_or_default()
    );
    Refusal::new(reason, message)
}

/// The checks of one copy. `named` says that the operator named it.
fn check(facts: &MoveFacts, copy: &CopyInput, named: bool) -> Vec<CheckRow> {
    let mut rows = Rows { skip: &facts.skip, rows: Vec::new() };
    let report = facts.reports.get(&copy.copy);
    let at_rest = facts.intent == MountIntent::Mounted && facts.state == DatabaseState::Established;
    let state = match (facts.intent, facts.state) {
        (MountIntent::Dismounted, _) => "dismounted",
        (MountIntent::Mounted, DatabaseState::New) => "new",
        (MountIntent::Mounted, DatabaseState::Sealing) => "sealing",
        (MountIntent::Mounted, DatabaseState::Activating) => "activating",
        (MountIntent::Mounted, DatabaseState::Established) => "established",
    };
    rows.hard(MoveCheck::Database, at_rest, state, "established");
    let unfit = [Mark::Lagged, Mark::Leaving, Mark::Stopped];
    let unfit: Vec<_> = unfit.into_iter().filter(|mark| copy.is(*mark)).map(Mark::name).collect();
    let may = if unfit.is_empty() { "an HA copy".to_owned() } else { unfit.join(", ") };
    rows.hard(MoveCheck::Copy, unfit.is_empty(), may, "an HA copy that replicates");
    let alive = facts.alive.contains(&copy.member);
    rows.hard(MoveCheck::Lease, alive, if alive { "held" } else { "none" }, "held");
    rows.health(report);
    let feeds = facts.feeds_seed;
    let seed = if feeds { "yes" } else { "no" };
    rows.add(MoveCheck::ActiveFeedsSeed, !feeds, seed, "no", Some(Skip::ActiveCopy));
    rows.lag(report);
    let index = report.map(|report| report.health);
    let fit = index.is_some_and(|health| health.index() == IndexFit::Healthy);
    let shown = index.map_or_else(|| "unknown".into(), |h| h.content_index.to_string());
    rows.add(MoveCheck::ContentIndex, fit, shown, "Healthy", Some(Skip::ClientExperience));
    policy_row(facts, copy, named, &mut rows);
    let (room, preferred) = copy.room();
    let below = |max: Option<u32>| max.map_or_else(|| "no limit".into(), |m| format!("below {m}"));
    rows.hard(MoveCheck::MaxActive, room, copy.actives, &below(copy.max_active));
    let most = below(copy.max_active_preferred);
    let skip = Some(Skip::MaxActive);
    rows.add(MoveCheck::MaxActivePreferred, preferred, copy.actives, &most, skip);
    let (moves, max) = facts.moves;
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
fn policy_row(facts: &MoveFacts, copy: &CopyInput, named: bool, rows: &mut Rows<'_>) {
    let active = facts.copies.iter().find(|one| Some(one.member) == facts.from);
    let here = active.is_some_and(|active| active.site == copy.site);
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

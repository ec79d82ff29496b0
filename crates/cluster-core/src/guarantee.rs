//! Data guarantee: may a bulk writer go on without outrunning the copies (F108-F113)?
//!
//! Two questions. *Health*: are enough copies there and close enough? *Flush*: has what the caller
//! wrote been replayed on enough copies? Three answers, with reasons. A copy whose facts could not
//! be obtained counts as "perhaps": if the answer hangs on it, it is [`Guarantee::Retry`].
//!
//! The constraint is a setting of its own beside the commit constraint: that one decides when a
//! write is acknowledged, this one when a writer of much should wait.

mod constraint;
mod pacing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use keelson_types::{
    CopyId, CopyStatus, Discard, Epoch, HybridTime, LogEnd, MemberId, Position, SiteName,
};

use crate::loss::LossReceipt;

pub use constraint::GuaranteeConstraint;
pub use pacing::{CallerPacing, CallerStep};

/// How far replay may be behind the configured lag: 10 minutes (F112).
pub const REPLAY_BEHIND_MAX: Duration = Duration::from_mins(10);
/// A copy queue must be below this many logs (F112; there is no average over a caller's questions).
pub const COPY_QUEUE_LOGS: u64 = 10;
/// Allowance for clocks that differ (F109).
pub const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// A copy as the check sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuaranteeCopy {
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// The member's site.
    pub site: SiteName,
    /// What its member says; nothing if it could not be asked.
    pub facts: Option<GuaranteeFacts>,
}

/// What a member says of its copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuaranteeFacts {
    /// Status of the copy.
    pub status: CopyStatus,
    /// Logs (MiB) still to be copied and inspected.
    pub copy_queue_logs: u64,
    /// How long ago the oldest log that waits for replay was inspected.
    pub replay_behind: Duration,
    /// The configured replay lag.
    pub replay_lag: Duration,
    /// The store holds everything before this.
    pub replayed: Position,
    /// Time of the newest frame replayed.
    pub replayed_time: HybridTime,
    /// The catalog has indexed what was replayed, and is whole.
    pub catalog_current: bool,
}

/// A database as the check sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuaranteeInputs<'a> {
    /// What is asked for.
    pub constraint: GuaranteeConstraint,
    /// The active copy.
    pub active: &'a GuaranteeCopy,
    /// All passive copies, lagged ones included.
    pub passives: &'a [GuaranteeCopy],
}

/// What the caller wrote last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushTarget {
    /// The time of its last write, by its own clock. A copy holds it for certain once it has
    /// replayed a frame more than [`CLOCK_SKEW`] later, or everything that was committed when it
    /// asked, as in an idle database.
    Time {
        /// When it wrote.
        written: HybridTime,
        /// Everything was committed up to here.
        committed: Position,
    },
    /// The position in its commit token: exact, and needs no later frame.
    Position(Position),
}

/// Why a copy, or the database, does not satisfy a check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GuaranteeReason {
    /// Its member could not be asked.
    NoAnswer,
    /// The status is not a healthy one.
    NotHealthy(CopyStatus),
    /// Replay is more than [`REPLAY_BEHIND_MAX`] behind the lag.
    ReplayBehind(Duration),
    /// The copy queue has this many logs.
    CopyQueue(u64),
    /// The catalog is not current.
    Catalog,
    /// The caller's data is not replayed yet.
    NotReplayed,
    /// The active is not mounted.
    NotMounted,
    /// No passive copy lies in another site than the active.
    NoOtherSite,
}

impl fmt::Display for GuaranteeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer => write!(f, "does not answer"),
            Self::NotHealthy(status) => write!(f, "is {status}"),
            Self::ReplayBehind(behind) => write!(f, "replay is {} s behind", behind.as_secs()),
            Self::CopyQueue(logs) => write!(f, "copy queue is {logs}, below 10 is needed"),
            Self::Catalog => write!(f, "catalog is not current"),
            Self::NotReplayed => write!(f, "has not replayed the data yet"),
            Self::NotMounted => write!(f, "the active copy is not mounted"),
            Self::NoOtherSite => write!(f, "no passive copy lies in another site"),
        }
    }
}

/// A reason and the copy it is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Objection {
    /// The copy; nothing for the database as a whole.
    pub copy: Option<CopyId>,
    /// Why.
    pub reason: GuaranteeReason,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Guarantee {
    /// Something transient kept the answer from being known; ask again.
    Retry(Vec<Objection>),
    /// The condition holds, or the database is not replicated.
    Satisfied,
    /// It does not hold.
    NotSatisfied(Vec<Objection>),
}

/// What was given up for good: the log of the active contains the heir (`heirs` are those that it
/// contains). A receipt whose activation never came to its opening frame gave nothing up. An active
/// that does not answer has no heirs here; then the check cannot pass for want of its answer.
#[must_use]
pub fn given_up<'a>(
    receipts: impl IntoIterator<Item = &'a LossReceipt>,
    heirs: &[Epoch],
) -> Vec<Discard> {
    let discards = receipts.into_iter().map(LossReceipt::discard);
    discards.filter(|discard| heirs.contains(&discard.epoch)).collect()
}

/// Where the timeline that a copy replayed ends for the others, if the rest was given up (review
/// S13): positions behind that compare with nothing.
#[must_use]
pub fn kept_of(given_up: &[Discard], replayed: LogEnd) -> Option<Position> {
    let given_up = given_up.iter().filter(|discard| discard.covers(replayed));
    given_up.map(|discard| discard.kept.position.min(replayed.position)).min()
}

/// Are enough copies there and healthy?
#[must_use]
pub fn health(inputs: &GuaranteeInputs<'_>) -> Guarantee {
    answer(inputs, |_, facts| {
        let mut reasons = Vec::new();
        let mut object = |wrong: bool, reason| {
            if wrong {
                reasons.push(reason)
            }
        };
        let healthy = matches!(facts.status, CopyStatus::Healthy | CopyStatus::SeedingSource);
        object(!healthy, GuaranteeReason::NotHealthy(facts.status));
        let allowed = facts.replay_lag.saturating_add(REPLAY_BEHIND_MAX);
        let behind = facts.replay_behind.saturating_sub(facts.replay_lag);
        object(facts.replay_behind > allowed, GuaranteeReason::ReplayBehind(behind));
        let queue = facts.copy_queue_logs;
        object(queue >= COPY_QUEUE_LOGS, GuaranteeReason::CopyQueue(queue));
        reasons
    })
}

/// Has the caller's data been replayed on enough copies?
#[must_use]
pub fn flush(inputs: &GuaranteeInputs<'_>, target: FlushTarget) -> Guarantee {
    answer(inputs, |_, facts| {
        let arrived = match target {
            FlushTarget::Position(position) => facts.replayed >= position,
            FlushTarget::Time { written, committed } => {
                facts.replayed >= committed || later_than_skew(facts.replayed_time, written)
            }
        };
        if arrived { Vec::new() } else { vec![GuaranteeReason::NotReplayed] }
    })
}

/// `R > C + 5 s`; equality is not enough.
fn later_than_skew(replayed: HybridTime, commit: HybridTime) -> bool {
    let skew_ms = u64::try_from(CLOCK_SKEW.as_millis()).unwrap_or(u64::MAX);
    replayed.unix_millis() > commit.unix_millis().saturating_add(skew_ms)
}

/// What one copy, or the active, has against it.
struct Verdict {
    copy: CopyId,
    site: SiteName,
    objections: Vec<GuaranteeReason>,
}

impl Verdict {
    /// Whether it counts, `None` if that is not known.
    fn counts(&self) -> Option<bool> {
        match self.objections[..] {
            [] => Some(true),
            [GuaranteeReason::NoAnswer] => None,
            _ => Some(false),
        }
    }
}

/// Judges the copies one by one and combines them as the constraint asks.
fn answer(
    inputs: &GuaranteeInputs<'_>,
    check: impl Fn(CopyId, &GuaranteeFacts) -> Vec<GuaranteeReason>,
) -> Guarantee {
    let constraint = inputs.constraint;
    if constraint.asks_nothing() || (inputs.passives.is_empty() && !constraint.asks_catalog()) {
        return Guarantee::Satisfied;
    }
    let active = judge(inputs.active, |_, facts| active_objections(constraint, facts));
    let passives: Vec<_> = inputs
        .passives
        .iter()
        .map(|passive| {
            judge(passive, |copy, facts| {
                let mut reasons = check(copy, facts);
                let stale = constraint.asks_catalog() && !facts.catalog_current;
                reasons.extend(stale.then_some(GuaranteeReason::Catalog));
                reasons
            })
        })
        .collect();
    let enough = |unknown: bool| {
        let counts = |verdict: &Verdict| verdict.counts().unwrap_or(unknown);
        counts(&active) && constraint.enough(&inputs.active.site, &passives, counts)
    };
    if enough(false) {
        return Guarantee::Satisfied;
    }
    let objections = objections(inputs, &active, &passives);
    if enough(true) { Guarantee::Retry(objections) } else { Guarantee::NotSatisfied(objections) }
}

fn judge(
    copy: &GuaranteeCopy,
    check: impl Fn(CopyId, &GuaranteeFacts) -> Vec<GuaranteeReason>,
) -> Verdict {
    let objections = match &copy.facts {
        Some(facts) => check(copy.copy, facts),
        None => vec![GuaranteeReason::NoAnswer],
    };
    Verdict { copy: copy.copy, site: copy.site.clone(), objections }
}

/// The active must be mounted where the constraint says so, and its catalog current likewise.
fn active_objections(
    constraint: GuaranteeConstraint,
    facts: &GuaranteeFacts,
) -> Vec<GuaranteeReason> {
    let mounted = facts.status == CopyStatus::Mounted;
    let unmounted = constraint.asks_mounted() && !mounted;
    let stale = constraint.asks_catalog() && !facts.catalog_current;
    [unmounted.then_some(GuaranteeReason::NotMounted), stale.then_some(GuaranteeReason::Catalog)]
        .into_iter()
        .flatten()
        .collect()
}

fn objections(
    inputs: &GuaranteeInputs<'_>,
    active: &Verdict,
    passives: &[Verdict],
) -> Vec<Objection> {
    let about = |verdict: &Verdict| {
        let copy = Some(verdict.copy);
        verdict.objections.iter().map(move |reason| Objection { copy, reason: *reason }).collect()
    };
    let mut found: Vec<Objection> = about(active);
    let elsewhere = passives.iter().any(|verdict| verdict.site != inputs.active.site);
    if inputs.constraint.asks_other_site() && !elsewhere {
        found.push(Objection { copy: None, reason: GuaranteeReason::NoOtherSite });
    }
    for verdict in passives {
        found.append(&mut about(verdict));
    }
    found
}

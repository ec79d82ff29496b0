//! The status of a copy (F47), derived from plain facts, with the reason and the transitions.
//!
//! Status is never stored: it follows from role, connection, suspension, fault and work in
//! progress. Only [`StatusTracker`] remembers the last one, to tell transitions. Queues do not
//! decide the status: a copy that is far behind and copying is Healthy; who needs a copy that is
//! close looks at the queues beside it.

mod fault;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use keelson_types::{CopyFault, CopyRole, CopyStatus, LogSizes, Queue, Tick, Watermarks};

use keelson_types::{SuspendedBy, Suspension};

pub use fault::{Healing, fault_status, healing};

/// A passive copy that has found no source this long after its start is no longer Initializing but
/// disconnected.
pub const INITIALIZING_MAX: Duration = Duration::from_secs(30);

/// Whether the copy's member says anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    /// Its data process answers.
    #[default]
    Answers,
    /// Its member or its data process does not answer.
    Down,
    /// Nobody could be asked.
    Unknown,
}

/// What an active copy is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ActiveStep {
    /// Closed.
    #[default]
    Closed,
    /// Being opened.
    Opening,
    /// Serving.
    Serving,
    /// Open, without a lease.
    Held,
    /// Being closed.
    Closing,
}

/// Contact of a passive copy with its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Connection {
    /// None since the copy was opened.
    #[default]
    Never,
    /// There is one.
    Up,
    /// There was one.
    Lost,
}

/// Everything that the status of a copy depends on.
#[derive(Clone, Debug)]
pub struct StateFacts<'a> {
    /// Whether its member answers.
    pub reach: Reach,
    /// What consensus says it is.
    pub role: CopyRole,
    /// For an active copy.
    pub active: ActiveStep,
    /// For a passive copy.
    pub connection: Connection,
    /// Log and store were found consistent since the copy was opened or went on (start-up check).
    pub verified: bool,
    /// How long ago it was opened or went on.
    pub running_for: Duration,
    /// It is being compared with the active, or a divergence is being resolved.
    pub resynchronizing: bool,
    /// Its database is being seeded; a copy whose catalog alone is goes on copying.
    pub seeding: bool,
    /// It is read as the source of a seed.
    pub seeding_source: bool,
    /// Ranges of its store are being fetched from another copy.
    pub range_repair: bool,
    /// What is stopped.
    pub suspension: &'a Suspension,
    /// Why it cannot go on.
    pub fault: Option<&'a CopyFault>,
}

/// Why a copy has its status. A value, shown unchanged in status, events and errors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StatusReason {
    /// Its member does not answer, or nobody could be asked.
    Unreachable,
    /// What the active manager ordered, and the lease.
    Role(ActiveStep),
    /// It is seeded.
    Seeding,
    /// It was suspended, with the comment.
    Suspended(SuspendedBy, String),
    /// It failed.
    Fault(CopyFault),
    /// Ranges are repaired.
    RangeRepair,
    /// Its files are being verified, or it looks for its source.
    Starting,
    /// It is compared with the active.
    Comparing,
    /// It has no contact with its source.
    Disconnected,
    /// It feeds a seed.
    FeedsSeed,
    /// All is well.
    Replicating,
}

impl fmt::Display for StatusReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => write!(f, "its member does not answer"),
            Self::Role(step) => write!(f, "active, {step:?}"),
            Self::Seeding => write!(f, "being seeded"),
            Self::Suspended(SuspendedBy::Operator, comment) => write!(f, "suspended: {comment}"),
            Self::Suspended(SuspendedBy::Fault, comment) => write!(f, "stopped: {comment}"),
            Self::Suspended(SuspendedBy::DiscardedTimeline, comment) => {
                write!(f, "holds the discarded timeline: {comment}")
            }
            Self::Fault(fault) => fault.fmt(f),
            Self::RangeRepair => write!(f, "damaged ranges are being repaired"),
            Self::Starting => write!(f, "verifying log and store, looking for the active"),
            Self::Comparing => write!(f, "being compared with the active"),
            Self::Disconnected => write!(f, "no contact with the active"),
            Self::FeedsSeed => write!(f, "source of a seed"),
            Self::Replicating => write!(f, "copying and replaying"),
        }
    }
}

/// The status of a copy and its reason. Bounded and total: every combination of facts has one.
#[must_use]
pub fn derive_status(facts: &StateFacts<'_>) -> (CopyStatus, StatusReason) {
    match facts.reach {
        Reach::Down => return (CopyStatus::ServiceDown, StatusReason::Unreachable),
        Reach::Unknown => return (CopyStatus::Unknown, StatusReason::Unreachable),
        Reach::Answers => {}
    }
    match facts.role {
        CopyRole::Active => active_status(facts),
        CopyRole::Passive => passive_status(facts),
    }
}

/// An active copy keeps its status while it feeds a seed. A fault shows once the copy is closed;
/// until then what clients see is what counts.
fn active_status(facts: &StateFacts<'_>) -> (CopyStatus, StatusReason) {
    let status = match facts.active {
        ActiveStep::Closed => match facts.fault {
            Some(fault) => return failed(fault),
            None => CopyStatus::Dismounted,
        },
        ActiveStep::Opening => CopyStatus::Mounting,
        ActiveStep::Serving => CopyStatus::Mounted,
        ActiveStep::Held => CopyStatus::Held,
        ActiveStep::Closing => CopyStatus::Dismounting,
    };
    (status, StatusReason::Role(facts.active))
}

fn failed(fault: &CopyFault) -> (CopyStatus, StatusReason) {
    (fault_status(fault), StatusReason::Fault(fault.clone()))
}

/// What stops a passive copy, strongest first; then what it is doing.
fn passive_status(facts: &StateFacts<'_>) -> (CopyStatus, StatusReason) {
    if facts.seeding {
        return (CopyStatus::Seeding, StatusReason::Seeding);
    }
    let suspended = facts.suspension.replication.is_some();
    if let Some(fault) = facts.fault {
        let (status, reason) = failed(fault);
        if status == CopyStatus::FailedAndSuspended || !suspended {
            return (status, reason);
        }
    }
    if suspended {
        let by = facts.suspension.by;
        let status = match by {
            SuspendedBy::Fault => CopyStatus::FailedAndSuspended,
            SuspendedBy::Operator | SuspendedBy::DiscardedTimeline => CopyStatus::Suspended,
        };
        return (status, StatusReason::Suspended(by, facts.suspension.comment.clone()));
    }
    running_status(facts)
}

/// A passive copy that nothing stops.
fn running_status(facts: &StateFacts<'_>) -> (CopyStatus, StatusReason) {
    if facts.range_repair {
        return (CopyStatus::RangeRepair, StatusReason::RangeRepair);
    }
    let looking = facts.connection == Connection::Never && facts.running_for < INITIALIZING_MAX;
    if !facts.verified || looking {
        return (CopyStatus::Initializing, StatusReason::Starting);
    }
    match (facts.connection, facts.resynchronizing) {
        (Connection::Up, true) => (CopyStatus::Resynchronizing, StatusReason::Comparing),
        (_, true) => (CopyStatus::DisconnectedAndResynchronizing, StatusReason::Disconnected),
        _ if facts.seeding_source => (CopyStatus::SeedingSource, StatusReason::FeedsSeed),
        (Connection::Up, false) => (CopyStatus::Healthy, StatusReason::Replicating),
        (_, false) => (CopyStatus::DisconnectedAndHealthy, StatusReason::Disconnected),
    }
}

/// Whether the status lets best-copy selection choose the copy (F20).
#[must_use]
pub const fn is_activation_eligible(status: CopyStatus) -> bool {
    matches!(
        status,
        CopyStatus::Healthy
            | CopyStatus::DisconnectedAndHealthy
            | CopyStatus::DisconnectedAndResynchronizing
            | CopyStatus::SeedingSource
    )
}

/// Whether the copy counts as available where healthy copies are counted (F92), lagged or not: it
/// serves, or it copies and replays.
#[must_use]
pub const fn is_available(status: CopyStatus) -> bool {
    matches!(status, CopyStatus::Mounted | CopyStatus::Healthy | CopyStatus::SeedingSource)
}

/// What the active generated and this copy has not inspected; empty on the active (F48, F49).
#[must_use]
pub fn copy_queue(role: CopyRole, marks: &Watermarks, sizes: &LogSizes) -> Queue {
    match role {
        CopyRole::Active => Queue::default(),
        CopyRole::Passive => sizes.between(marks.inspected, marks.generated),
    }
}

/// What this copy inspected and has not replayed (F48, F49).
#[must_use]
pub fn replay_queue(marks: &Watermarks, sizes: &LogSizes) -> Queue {
    sizes.between(marks.replayed, marks.inspected)
}

/// A change of status: one value for the log line, the event and the metric.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    /// Before; nothing for the first status of a life.
    pub from: Option<CopyStatus>,
    /// Now.
    pub to: CopyStatus,
    /// Why.
    pub reason: StatusReason,
    /// When.
    pub at: Tick,
}

/// The last status of a copy, by which transitions are told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatusTracker {
    last: Option<CopyStatus>,
    since: Tick,
}

impl StatusTracker {
    /// Derives the status and tells the transitions to it. A copy leaves Suspended,
    /// FailedAndSuspended, Failed, ServiceDown, Seeding and RangeRepair through Initializing; if
    /// that was over before anyone looked, both steps are told at once.
    pub fn update(&mut self, now: Tick, facts: &StateFacts<'_>) -> Vec<Transition> {
        let (to, reason) = derive_status(facts);
        let mut steps = Vec::new();
        if self.last == Some(to) {
            return steps;
        }
        if self.last.is_some_and(leaves_through_initializing) && is_running(to) {
            steps.push(self.enter(CopyStatus::Initializing, StatusReason::Starting, now));
        }
        if self.last != Some(to) {
            steps.push(self.enter(to, reason, now));
        }
        steps
    }

    fn enter(&mut self, to: CopyStatus, reason: StatusReason, at: Tick) -> Transition {
        self.since = at;
        Transition { from: self.last.replace(to), to, reason, at }
    }

    /// The last status and when it began.
    #[must_use]
    pub fn last(&self) -> Option<(CopyStatus, Tick)> {
        self.last.map(|status| (status, self.since))
    }
}

/// Statuses after which a copy verifies log and store again before it goes on.
const fn leaves_through_initializing(status: CopyStatus) -> bool {
    matches!(
        status,
        CopyStatus::Suspended
            | CopyStatus::FailedAndSuspended
            | CopyStatus::Failed
            | CopyStatus::ServiceDown
            | CopyStatus::Seeding
            | CopyStatus::RangeRepair
    )
}

/// Statuses of a passive copy that nothing stops and nothing repairs.
const fn is_running(status: CopyStatus) -> bool {
    matches!(
        status,
        CopyStatus::Healthy
            | CopyStatus::Initializing
            | CopyStatus::Resynchronizing
            | CopyStatus::DisconnectedAndHealthy
            | CopyStatus::DisconnectedAndResynchronizing
            | CopyStatus::SeedingSource
    )
}

//! Availability and redundancy of databases, and when the loss of redundancy is told (F134).
//!
//! Two verdicts per copy: *available* means that it serves, or could take over at once; *redundant*
//! means that it holds what was written, whether or not it could serve (a lagged copy does, within
//! ten minutes of its lag). Decides from what members said when they were asked.

use std::collections::BTreeMap;

use keelson_types::{CopyStatus, DatabaseId, FailureTag, MemberId};
use serde::{Deserialize, Serialize};

use crate::criteria::{COPY_QUEUE_LOGS, CopyHealth};
use crate::event::EventKind;
use crate::state::ClusterState;

/// What is known of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyFacts {
    /// Its member.
    pub member: MemberId,
    /// Its status; that of a copy whose member does not answer is `ServiceDown`.
    pub status: CopyStatus,
    /// Queues and space.
    pub health: CopyHealth,
    /// It is the active one.
    pub active: bool,
    /// It lags on purpose.
    pub lagged: bool,
    /// Something keeps it from being activated by itself.
    pub blocked: bool,
    /// The class of its failure, if it has one (F13).
    pub failure: Option<FailureTag>,
}

/// The verdicts on one copy; nothing is a pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyVerdict {
    /// Its member.
    pub member: MemberId,
    /// Why it could not take over, if so.
    pub unavailable: Option<String>,
    /// Why it does not hold what was written, if so.
    pub not_redundant: Option<String>,
}

/// The verdicts on one database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redundancy {
    /// The database.
    pub database: DatabaseId,
    /// The verdict on each copy.
    pub copies: Vec<CopyVerdict>,
    /// Copies that are available.
    pub available: u32,
    /// Copies that are redundant.
    pub redundant: u32,
}

impl Redundancy {
    /// Whether the loss of a copy leaves another one.
    #[must_use]
    pub const fn is_green(&self) -> bool {
        self.redundant >= 2
    }
}

/// The verdicts on a database with these copies.
#[must_use]
pub fn redundancy(database: DatabaseId, copies: &[CopyFacts]) -> Redundancy {
    let copies: Vec<_> = copies
        .iter()
        .map(|copy| CopyVerdict {
            member: copy.member,
            unavailable: unavailable(copy),
            not_redundant: not_redundant(copy),
        })
        .collect();
    let count = |passes: fn(&CopyVerdict) -> bool| {
        u32::try_from(copies.iter().filter(|copy| passes(copy)).count()).unwrap_or(u32::MAX)
    };
    let (available, redundant) =
        (count(|copy| copy.unavailable.is_none()), count(|copy| copy.not_redundant.is_none()));
    Redundancy { database, copies, available, redundant }
}

fn unavailable(copy: &CopyFacts) -> Option<String> {
    let status = copy.status;
    match status {
        CopyStatus::Mounted => return None,
        CopyStatus::Healthy | CopyStatus::DisconnectedAndHealthy | CopyStatus::SeedingSource => {}
        CopyStatus::Mounting
        | CopyStatus::Dismounted
        | CopyStatus::Dismounting
        | CopyStatus::Held
        | CopyStatus::Initializing
        | CopyStatus::Resynchronizing
        | CopyStatus::DisconnectedAndResynchronizing
        | CopyStatus::Failed
        | CopyStatus::FailedAndSuspended
        | CopyStatus::Suspended
        | CopyStatus::Seeding
        | CopyStatus::RangeRepair
        | CopyStatus::ServiceDown
        | CopyStatus::Unknown => return Some(format!("its status is {status}")),
    }
    let health = copy.health;
    let reasons = [
        (copy.lagged, "it lags on purpose"),
        (copy.blocked, "its activation is blocked"),
        (!health.copy_queue_is_short(), "its copy queue is long"),
        (!health.replay_queue_is_short(), "its replay queue is long"),
        (health.short_of_space, "its member is short of space"),
    ];
    reasons.iter().find(|(holds, _)| *holds).map(|(_, why)| (*why).to_owned())
}

fn not_redundant(copy: &CopyFacts) -> Option<String> {
    let status = copy.status;
    match status {
        CopyStatus::Mounted
        | CopyStatus::Mounting
        | CopyStatus::Held
        | CopyStatus::Healthy
        | CopyStatus::DisconnectedAndHealthy
        | CopyStatus::SeedingSource
        | CopyStatus::RangeRepair => {}
        // The active copy of a closed database holds what was written.
        CopyStatus::Dismounted | CopyStatus::Dismounting if copy.active => {}
        CopyStatus::Dismounted
        | CopyStatus::Dismounting
        | CopyStatus::Initializing
        | CopyStatus::Resynchronizing
        | CopyStatus::DisconnectedAndResynchronizing
        | CopyStatus::Failed
        | CopyStatus::FailedAndSuspended
        | CopyStatus::Suspended
        | CopyStatus::Seeding
        | CopyStatus::ServiceDown
        | CopyStatus::Unknown => return Some(format!("its status is {status}")),
    }
    let behind = !copy.health.copy_queue_is_short();
    behind.then(|| format!("{COPY_QUEUE_LOGS} logs or more are missing"))
}

/// What was told last of the redundancy of a database.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alert {
    /// That it is lost.
    Red,
    /// That it is back.
    Green,
}

/// When redundancy is told: red once it was lost for a while, green as soon as it is back after
/// red. Owned by the leader; a new one goes on from what the replicated state says was told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RedundancyWatch {
    /// Since when each database lacks copies, in milliseconds of the caller's clock.
    red_since: BTreeMap<DatabaseId, u64>,
}

impl RedundancyWatch {
    /// Takes the verdict on one database. A database that has one copy by its configuration is
    /// never told of.
    pub fn look(
        &mut self,
        state: &ClusterState,
        verdict: &Redundancy,
        (now_ms, after_ms): (u64, u64),
    ) -> Option<EventKind> {
        let id = verdict.database;
        let told = state.databases.get(&id).and_then(|database| database.redundancy_told);
        let copies = verdict.redundant;
        if verdict.is_green() || verdict.copies.len() < 2 {
            self.red_since.remove(&id);
            let back = told == Some(Alert::Red) && verdict.is_green();
            return back.then_some(EventKind::RedundancyGreen { copies });
        }
        let since = *self.red_since.entry(id).or_insert(now_ms);
        let due = now_ms.saturating_sub(since) >= after_ms && told != Some(Alert::Red);
        due.then(|| EventKind::RedundancyRed { copies, why: why(state, verdict) })
    }
}

impl Alert {
    /// What an event tells, if it is of this kind.
    pub(crate) const fn of(kind: &EventKind) -> Option<Self> {
        match kind {
            EventKind::RedundancyRed { .. } => Some(Self::Red),
            EventKind::RedundancyGreen { .. } => Some(Self::Green),
            _ => None,
        }
    }
}

fn why(state: &ClusterState, verdict: &Redundancy) -> String {
    let name = |id: &MemberId| {
        let member = state.members.get(id);
        member.map_or_else(|| id.to_string(), |member| member.config.name.to_string())
    };
    let lost = verdict.copies.iter().filter_map(|copy| {
        let why = copy.not_redundant.as_ref()?;
        Some(format!("{}: {why}", name(&copy.member)))
    });
    lost.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::testing::{DB, Log, create, member};
    use keelson_types::LOG_UNIT_BYTES;

    fn copy(n: u128, status: CopyStatus) -> CopyFacts {
        let (health, active) = (CopyHealth::default(), status == CopyStatus::Mounted);
        let (lagged, blocked, failure) = (false, false, None);
        CopyFacts { member: member(n), status, health, active, lagged, blocked, failure }
    }

    /// F134: the two verdicts are apart.
    #[test]
    fn a_copy_may_be_redundant_and_not_available() {
        use CopyStatus::{Failed, Healthy, Mounted, Resynchronizing, ServiceDown, Suspended};
        let lagged = CopyFacts { lagged: true, ..copy(2, Healthy) };
        let blocked = CopyFacts { blocked: true, ..copy(2, Healthy) };
        let mut behind = copy(2, Healthy);
        behind.health.copy_queue_bytes = COPY_QUEUE_LOGS * LOG_UNIT_BYTES;
        let table = [
            (copy(2, Mounted), true, true),
            (copy(2, Healthy), true, true),
            (lagged, false, true),
            (blocked, false, true),
            (behind, false, false),
            (copy(2, Resynchronizing), false, false),
            (copy(2, Failed), false, false),
            (copy(2, Suspended), false, false),
            (copy(2, ServiceDown), false, false),
        ];
        for (facts, available, redundant) in table {
            let verdict = redundancy(DB, &[facts]);
            let copy = &verdict.copies[0];
            let passes = (copy.unavailable.is_none(), copy.not_redundant.is_none());
            assert_eq!(passes, (available, redundant), "{facts:?}");
            assert_eq!((verdict.available == 1, verdict.redundant == 1), (available, redundant));
        }
    }

    /// F134: red after a while, once; green when it is back; nothing for one copy by choice.
    #[test]
    fn the_loss_of_redundancy_is_told_once_and_so_is_its_end() {
        let mut log = Log::with_members(2);
        log.ok(&create(1, &[1, 2]));
        let mut watch = RedundancyWatch::default();
        let mut look = |log: &mut Log, status, now| {
            let verdict = redundancy(DB, &[copy(1, CopyStatus::Mounted), copy(2, status)]);
            let kind = watch.look(&log.state, &verdict, (now, 100))?;
            let (member, database) = (None, Some(DB));
            log.ok(&Command::AppendEvent { member, database, kind: kind.clone() });
            Some(kind)
        };
        let (failed, healthy) = (CopyStatus::Failed, CopyStatus::Healthy);
        assert_eq!(look(&mut log, failed, 0), None);
        assert_eq!(look(&mut log, healthy, 50), None, "it was short");
        assert_eq!(look(&mut log, failed, 60), None);
        let why = "m2: its status is Failed".to_owned();
        let red = EventKind::RedundancyRed { copies: 1, why };
        assert_eq!(look(&mut log, failed, 160), Some(red));
        assert_eq!(look(&mut log, failed, 500), None, "it was told");
        let green = EventKind::RedundancyGreen { copies: 2 };
        assert_eq!(look(&mut log, healthy, 510), Some(green));
        assert_eq!(look(&mut log, healthy, 600), None);
        let alone = redundancy(DB, &[copy(1, CopyStatus::Mounted)]);
        assert_eq!(RedundancyWatch::default().look(&log.state, &alone, (9_999, 0)), None);
    }
}

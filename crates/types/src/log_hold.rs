//! Holds: log that an operation needs, recorded in consensus so that a failover of its source does
//! not lose it (review S16.3).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{OperationId, Position, Tick};

/// What needs the log, in the order in which holds give way when a volume runs full: first what
/// serves no copy's safety (forks, backups), then what can begin again from a newer checkpoint
/// (seeds), last what would turn a repair into a seed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    /// A read-only view at an instant, while it is built.
    Fork,
    /// A backup; without the log the next one is a full one.
    Backup,
    /// A copy being seeded needs the log after its checkpoint.
    Seed,
    /// An incremental resync needs the log from the fork on.
    Resync,
    /// A range repair needs the log up to the position at which its ranges are trusted again.
    RangeRepair,
}

impl fmt::Display for HoldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fork => "fork",
            Self::Backup => "backup",
            Self::Seed => "seed",
            Self::Resync => "resync",
            Self::RangeRepair => "range_repair",
        })
    }
}

/// Log from a position on must stay until the operation ends or the hold expires.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogHold {
    /// The operation, which renews the hold while it lives.
    pub operation: OperationId,
    /// What it does.
    pub kind: HoldKind,
    /// Log from here on stays.
    pub from: Position,
    /// When it was taken, Unix milliseconds of the consensus clock.
    pub taken_unix_ms: u64,
    /// When it ends unless renewed, same clock.
    pub expires_unix_ms: u64,
}

impl LogHold {
    /// Whether the hold still counts when the consensus clock shows `now_unix_ms`.
    #[must_use]
    pub const fn is_live(&self, now_unix_ms: u64) -> bool {
        now_unix_ms < self.expires_unix_ms
    }
}

/// The consensus clock as it was told, carried on by a clock of this machine that nobody sets: by
/// it holds end, whatever the wall clock of a member shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HoldClock {
    told_unix_ms: u64,
    at: Tick,
}

impl HoldClock {
    /// It showed `told_unix_ms` at `at`.
    #[must_use]
    pub const fn new(told_unix_ms: u64, at: Tick) -> Self {
        Self { told_unix_ms, at }
    }

    /// What it shows now, in Unix milliseconds.
    #[must_use]
    pub fn now(&self, now: Tick) -> u64 {
        let since = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.told_unix_ms.saturating_add(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Review S16.3: holds expire.
    #[test]
    fn a_hold_ends_at_its_expiry() {
        let hold = LogHold {
            operation: OperationId::from_u128(1),
            kind: HoldKind::Seed,
            from: Position::new(3, 0),
            taken_unix_ms: 1_000,
            expires_unix_ms: 2_000,
        };
        assert!(hold.is_live(1_999));
        assert!(!hold.is_live(2_000));
    }

    /// Review S16.3: holds give way in a stated order.
    #[test]
    fn kinds_are_ordered_as_they_give_way() {
        let mut kinds = [
            HoldKind::RangeRepair,
            HoldKind::Seed,
            HoldKind::Backup,
            HoldKind::Resync,
            HoldKind::Fork,
        ];
        kinds.sort();
        let names = kinds.map(|kind| kind.to_string());
        assert_eq!(names, ["fork", "backup", "seed", "resync", "range_repair"]);
    }

    #[test]
    fn the_clock_goes_on_from_what_was_told() {
        let at = |seconds| Tick(0).after(std::time::Duration::from_secs(seconds));
        let clock = HoldClock::new(5_000, at(100));
        assert_eq!([100, 103].map(|seconds| clock.now(at(seconds))), [5_000, 8_000]);
        assert_eq!(clock.now(at(90)), 5_000, "it does not go back");
    }
}

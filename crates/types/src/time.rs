//! Time as it enters the pure crates: ticks of one member's clock, and hybrid timestamps in the
//! log.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds of a member's `CLOCK_BOOTTIME` (it runs on while the machine sleeps, review S6).
/// Comparable only on one machine; both processes of a member share it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Tick(pub u64);

impl Tick {
    /// The instant `duration` later, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A hybrid logical timestamp: 48 bits of Unix milliseconds, 16 bits of counter. It never goes back
/// within a log stream, so frames order by it even when a clock is set back.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct HybridTime(pub u64);

impl HybridTime {
    /// A timestamp from Unix milliseconds, counter zero. A time that has no room in 48 bits (the
    /// year 10889) is the last one there is.
    #[must_use]
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(if millis >> 48 == 0 { millis << 16 } else { u64::MAX })
    }

    /// The wall-clock part, in Unix milliseconds.
    #[must_use]
    pub const fn unix_millis(self) -> u64 {
        self.0 >> 16
    }

    /// The timestamp that follows `self` when the wall clock shows `wall_millis`.
    #[must_use]
    pub fn next(self, wall_millis: u64) -> Self {
        Self((self.0 + 1).max(wall_millis << 16))
    }
}

impl fmt::Display for HybridTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:05}", self.unix_millis(), self.0 & 0xffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_time_advances_when_the_wall_clock_goes_back() {
        let first = HybridTime::from_unix_millis(1_000);
        let second = first.next(900);
        assert!(second > first);
        assert_eq!(second.unix_millis(), 1_000);
        assert_eq!(second.next(2_000), HybridTime::from_unix_millis(2_000));
    }

    #[test]
    fn a_time_too_far_away_comes_after_all_others() {
        let last = (1 << 48) - 1;
        assert_eq!(HybridTime::from_unix_millis(last).unix_millis(), last);
        for far in [1 << 48, u64::MAX] {
            assert!(HybridTime::from_unix_millis(far) > HybridTime::from_unix_millis(last));
        }
    }
}

//! How fast a source sends (F66): as fast as the commits of its member allow.
//!
//! The measure is the time that log takes until it is durable, of late, beside what it took before
//! the seed.
//! While it stays within half as much again, the rate grows; beyond that it shrinks by a third.
//! Nobody writes, nobody waits: then nothing is held back.

use std::time::Duration;

const MIB: u64 = 1024 * 1024;
/// Rate at which a throttled source begins.
pub const RATE_FIRST: u64 = 32 * MIB;
/// It never sends slower than this.
pub const RATE_MIN: u64 = 4 * MIB;
/// From here on nothing is held back.
pub const RATE_MAX: u64 = 4096 * MIB;
/// Log that takes no longer is never the seed's fault.
const LATENCY_FINE: Duration = Duration::from_micros(500);

/// The rate of one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Throttle {
    baseline: Option<Duration>,
    rate: u64,
}

impl Throttle {
    /// `before` is how long a sync took before the seed; nothing if none was made.
    #[must_use]
    pub const fn new(before: Option<Duration>) -> Self {
        Self { baseline: before, rate: RATE_FIRST }
    }

    /// Takes how long syncs took since the last call; nothing if there were none.
    pub fn observe(&mut self, latency: Option<Duration>) {
        let Some(latency) = latency else {
            self.rate = (self.rate * 2).min(RATE_MAX);
            return;
        };
        // The first writers that come during a seed are measured against themselves, at its lowest.
        let baseline = self.baseline.get_or_insert(latency);
        let limit = (*baseline * 3 / 2).max(LATENCY_FINE);
        self.rate = if latency > limit {
            (self.rate * 2 / 3).max(RATE_MIN)
        } else {
            (self.rate + self.rate / 8).min(RATE_MAX)
        };
    }

    /// Bytes per second.
    #[must_use]
    pub const fn rate(&self) -> u64 {
        self.rate
    }

    /// How long the next bytes wait for those before them; nothing is held back at the top.
    #[must_use]
    pub fn pause_after(&self, bytes: u64) -> Duration {
        if self.rate >= RATE_MAX {
            return Duration::ZERO;
        }
        Duration::from_micros(bytes.saturating_mul(1_000_000) / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    #[test]
    fn the_rate_follows_the_commits_of_the_source() {
        // (before, during, rises)
        for (before, during, rises) in [
            (ms(4), ms(4), true),
            (ms(4), ms(6), true),
            (ms(4), ms(7), false),
            (ms(1), ms(2), false),
            (None, None, true),
            (None, ms(50), true),
        ] {
            let mut throttle = Throttle::new(before);
            throttle.observe(during);
            assert_eq!(throttle.rate() > RATE_FIRST, rises, "{before:?}, {during:?}");
        }
    }

    #[test]
    fn a_slow_disk_brings_it_down_to_a_floor_and_a_quiet_one_lets_it_go() {
        let mut throttle = Throttle::new(ms(4));
        (0..100).for_each(|_| throttle.observe(ms(100)));
        assert_eq!(throttle.rate(), RATE_MIN);
        assert_eq!(throttle.pause_after(RATE_MIN), Duration::from_secs(1));
        (0..100).for_each(|_| throttle.observe(None));
        assert_eq!(throttle.pause_after(RATE_MIN), Duration::ZERO);
        (0..200).for_each(|_| throttle.observe(ms(5)));
        assert_eq!(throttle.rate(), RATE_MAX);
    }
}

//! Counts of durations in buckets of doubling width, for metrics: a few atomic additions each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keelson_wire::v1::Timings;

/// Buckets with a bound.
const BOUNDS: usize = 18;

/// How often something took how long.
#[derive(Debug)]
pub struct Histogram {
    first_bound_micros: u64,
    /// One more than there are bounds: what took longer than the last.
    counts: [AtomicU64; BOUNDS + 1],
    sum_micros: AtomicU64,
}

impl Default for Histogram {
    /// From 64 microseconds to 8.4 s.
    fn default() -> Self {
        Self::from(Duration::from_micros(64))
    }
}

impl Histogram {
    /// The first of 18 bounds; each next one is twice as large.
    #[must_use]
    pub fn from(first_bound: Duration) -> Self {
        Self {
            first_bound_micros: micros(first_bound).max(1),
            counts: Default::default(),
            sum_micros: AtomicU64::new(0),
        }
    }

    /// Counts one.
    pub fn took(&self, time: Duration) {
        let micros = micros(time);
        let times = micros.div_ceil(self.first_bound_micros).max(1);
        let bucket = times.next_power_of_two().trailing_zeros() as usize;
        self.counts[bucket.min(BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// As a message, of something.
    #[must_use]
    pub fn told(&self, of: &str) -> Timings {
        Timings {
            of: of.into(),
            first_bound_micros: self.first_bound_micros,
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum_micros: self.sum_micros.load(Ordering::Relaxed),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_first_bucket_that_holds_it() {
        let bucket = |micros| {
            let histogram = Histogram::default();
            histogram.took(Duration::from_micros(micros));
            histogram.told("x").counts.iter().position(|count| *count == 1).unwrap()
        };
        assert_eq!([0, 1, 64, 65, 128, 129].map(bucket), [0, 0, 0, 1, 1, 2]);
        assert_eq!([64 << 17, (64 << 17) + 1, u64::MAX].map(bucket), [17, 18, 18]);
    }
}

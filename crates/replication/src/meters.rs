//! What writes and the log of this process cost, counted where it happens and read by status pages.
//!
//! Counting is a few atomic additions per answered write and per sync; nothing is decided by it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keelson_wire::v1::Timings;

/// Bound of the first bucket; each next one is twice as large.
const FIRST_BOUND_MICROS: u64 = 64;

/// Buckets with a bound: up to 8.4 s.
const BOUNDS: usize = 18;

/// Counts of durations in buckets of doubling width.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// One more than there are bounds: what took longer than the last.
    counts: [AtomicU64; BOUNDS + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    pub(crate) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let times = micros.div_ceil(FIRST_BOUND_MICROS).max(1);
        let bucket = times.next_power_of_two().trailing_zeros() as usize;
        self.counts[bucket.min(BOUNDS)].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn told(&self, of: &str) -> Timings {
        Timings {
            of: of.into(),
            first_bound_micros: FIRST_BOUND_MICROS,
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum_micros: self.sum_micros.load(Ordering::Relaxed),
        }
    }
}

/// All counts of this process.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    /// From the arrival of a write until it is in a frame.
    queue: Histogram,
    /// From there until enough copies have it durably.
    commit: Histogram,
    /// From its arrival to its answer.
    request: Histogram,
    log_sync: Histogram,
    log_written_bytes: AtomicU64,
}

impl Meters {
    /// A write is answered with success now.
    pub(crate) fn answered(&self, arrived: Instant, framed: Instant) {
        self.queue.took(framed.saturating_duration_since(arrived));
        self.commit.took(framed.elapsed());
        self.request.took(arrived.elapsed());
    }

    pub(crate) fn synced(&self, time: Duration) {
        self.log_sync.took(time);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.log_written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn log_written_bytes(&self) -> u64 {
        self.log_written_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn timings(&self) -> Vec<Timings> {
        let all = [
            ("queue", &self.queue),
            ("commit", &self.commit),
            ("request", &self.request),
            ("log_sync", &self.log_sync),
        ];
        all.map(|(of, histogram)| histogram.told(of)).into()
    }
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

    #[test]
    fn a_write_is_counted_in_every_stage() {
        let (meters, now) = (Meters::default(), Instant::now());
        meters.answered(now, now);
        let counted = |timings: &Timings| timings.counts.iter().sum::<u64>();
        assert_eq!(meters.timings().iter().map(counted).collect::<Vec<_>>(), [1, 1, 1, 0]);
    }
}

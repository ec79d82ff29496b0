//! What writes and the log of this process cost, counted where it happens and read by status pages.
//!
//! Counting is a few atomic additions per answered write and per sync; nothing is decided by it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keelson_net::Histogram;
use keelson_wire::v1::Timings;

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
    fn a_write_is_counted_in_every_stage() {
        let (meters, now) = (Meters::default(), Instant::now());
        meters.answered(now, now);
        let counted = |timings: &Timings| timings.counts.iter().sum::<u64>();
        assert_eq!(meters.timings().iter().map(counted).collect::<Vec<_>>(), [1, 1, 1, 0]);
    }
}

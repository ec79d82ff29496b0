//! What writes and the log of this process cost, counted where it happens and read by status pages.
//!
//! Counting is a few atomic additions per answered write and per sync; nothing is decided by it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keelson_net::Histogram;
use keelson_wire::v1::Timings;

/// All counts of this process.
#[derive(Debug)]
pub(crate) struct Meters {
    /// From the arrival of a write until it is in a frame.
    queue: Histogram,
    /// From there until enough copies have it durably.
    commit: Histogram,
    /// From its arrival to its answer.
    request: Histogram,
    log_sync: Histogram,
    /// From the stamp of a frame at its active until a passive has it, by the clocks of two
    /// machines.
    log_arrival: Histogram,
    log_written_bytes: AtomicU64,
}

impl Default for Meters {
    fn default() -> Self {
        let (queue, commit, request, log_sync) = Default::default();
        // Frames are stamped in milliseconds, and log that is caught up with is old.
        let log_arrival = Histogram::from(Duration::from_millis(1));
        let log_written_bytes = AtomicU64::new(0);
        Self { queue, commit, request, log_sync, log_arrival, log_written_bytes }
    }
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

    /// A frame of another member came now. A clock that is ahead there makes it 0.
    pub(crate) fn arrived(&self, stamped_unix_millis: u64, now_unix_millis: u64) {
        let age = now_unix_millis.saturating_sub(stamped_unix_millis);
        self.log_arrival.took(Duration::from_millis(age));
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
            ("log_arrival", &self.log_arrival),
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
        meters.arrived(1_000, 1_003);
        meters.arrived(1_000, 900);
        let counted = |timings: &Timings| timings.counts.iter().sum::<u64>();
        assert_eq!(meters.timings().iter().map(counted).collect::<Vec<_>>(), [1, 1, 1, 0, 2]);
        assert_eq!(meters.timings()[4].sum_micros, 3_000);
    }
}

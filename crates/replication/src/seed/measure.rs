//! How long log takes on this member from its arrival in a lane until it is durable, for the
//! throttle of a source: the disk and the processors together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Share of the newest sync in the mean of late.
const SHARE: u64 = 64;

/// Counted by all log lanes of the member.
#[derive(Debug, Default)]
pub(crate) struct SyncTimes {
    count: AtomicU64,
    micros: AtomicU64,
    /// Mean of the last few dozen, in microseconds times [`SHARE`].
    late: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SyncTotals {
    count: u64,
    micros: u64,
}

impl SyncTimes {
    pub(crate) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        // Two lanes at once may lose one of their parts: it is a mean.
        let late = self.late.load(Ordering::Relaxed);
        let next = if late == 0 { micros * SHARE } else { late - late / SHARE + micros };
        self.late.store(next, Ordering::Relaxed);
    }

    /// The mean of late; nothing before the first sync.
    pub(crate) fn of_late(&self) -> Option<Duration> {
        let late = self.late.load(Ordering::Relaxed);
        (late > 0).then(|| Duration::from_micros(late / SHARE))
    }

    pub(crate) fn totals(&self) -> SyncTotals {
        let (count, micros) = (&self.count, &self.micros);
        SyncTotals { count: count.load(Ordering::Relaxed), micros: micros.load(Ordering::Relaxed) }
    }
}

impl SyncTotals {
    /// The mean since `earlier`; nothing if there were none.
    pub(crate) fn mean_since(self, earlier: Self) -> Option<Duration> {
        let count = self.count.saturating_sub(earlier.count);
        let micros = self.micros.saturating_sub(earlier.micros);
        micros.checked_div(count).map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_of_late_and_between_two_looks() {
        let times = SyncTimes::default();
        assert_eq!(
            (times.of_late(), times.totals().mean_since(SyncTotals::default())),
            (None, None)
        );
        let ms = Duration::from_millis;
        (0..1_000).for_each(|_| times.took(ms(2)));
        let before = times.totals();
        assert_eq!(times.of_late(), Some(ms(2)));
        (0..10).for_each(|_| times.took(ms(8)));
        assert_eq!(times.totals().mean_since(before), Some(ms(8)));
        let late = times.of_late().unwrap();
        assert!(late > ms(2) && late < ms(4), "{late:?}");
    }
}

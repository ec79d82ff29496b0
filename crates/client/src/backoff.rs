//! How long to wait before the next try.
//!
//! A wait is a fraction of the time that the trouble has lasted: a switchover of ten milliseconds
//! is looked at every two, so that it is not turned into a pause of a hundred; a cluster that is
//! down for long is asked four times a second. Jitter keeps clients that failed together from
//! coming back together.

use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;

/// Shortest wait.
const MIN: Duration = Duration::from_millis(2);

/// Longest wait.
const MAX: Duration = Duration::from_millis(250);

/// The longest wait is this fraction of the time since the first one.
const FRACTION: u32 = 8;

/// Waits that grow with the time since the first of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    since: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The next wait.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let trouble = self.since.get_or_insert_with(Instant::now).elapsed();
        step(trouble).mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// The wait, before jitter, when the trouble has lasted this long.
fn step(trouble: Duration) -> Duration {
    (trouble / FRACTION).clamp(MIN, MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_start_small_grow_with_the_trouble_and_stay_under_the_cap() {
        let millis = |millis| step(Duration::from_millis(millis)).as_millis();
        assert_eq!([millis(0), millis(10), millis(80), millis(60_000)], [2, 2, 10, 250]);
        let wait = Backoff::new().next_wait();
        assert!(wait >= MIN / 2 && wait <= MIN);
    }
}

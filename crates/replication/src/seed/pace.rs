//! How fast a source sends the files of a seed.

use std::time::Duration;

use keelson_copy_core::seed::throttle::Throttle;
use keelson_types::Setting;
use tokio::time::Instant;

use super::CHUNK_BYTES;
use super::measure::SyncTotals;
use crate::context::PlaneContext;

/// A chunk that is held back comes within so long.
const CHUNK_WITHIN: Duration = Duration::from_secs(5);
const CHUNK_BYTES_MIN: usize = 4 * 1024;
/// How often the throttle looks at the commits of this member.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Holds back what would slow the member's commits down.
pub(super) struct Pace {
    throttle: Option<Throttle>,
    looked: Instant,
    totals: SyncTotals,
    /// Not before this.
    next: Instant,
}

impl Pace {
    pub(super) fn new(context: &PlaneContext, no_throttle: bool) -> Self {
        let now = Instant::now();
        let throttle = (!no_throttle).then(|| Throttle::new(context.syncs.of_late()));
        Self { throttle, looked: now, totals: context.syncs.totals(), next: now }
    }

    pub(super) async fn after(&mut self, context: &PlaneContext, bytes: usize) {
        let bound = context.settings.borrow().number(Setting::SeedRateMax);
        let mut pause = bounded_pause(bytes as u64, bound);
        if let Some(throttle) = &mut self.throttle {
            if self.looked.elapsed() >= LOOK_EVERY {
                let totals = context.syncs.totals();
                throttle.observe(totals.mean_since(self.totals));
                (self.looked, self.totals) = (Instant::now(), totals);
            }
            pause = pause.max(throttle.pause_after(bytes as u64));
        }
        if !pause.is_zero() {
            self.next = self.next.max(Instant::now()) + pause;
            tokio::time::sleep_until(self.next).await;
        }
    }
}

/// How long bytes take at a rate; 0 is no bound.
fn bounded_pause(bytes: u64, bound: u64) -> Duration {
    let micros = bytes.saturating_mul(1_000_000).checked_div(bound);
    micros.map_or(Duration::ZERO, Duration::from_micros)
}

/// Bytes of a chunk at the rate that is set.
pub(super) fn chunk_bytes(context: &PlaneContext) -> usize {
    chunk_bytes_at(context.settings.borrow().number(Setting::SeedRateMax))
}

/// Smaller at a low rate: a target that hears nothing looks for another source.
fn chunk_bytes_at(bound: u64) -> usize {
    let all = bound.saturating_mul(CHUNK_WITHIN.as_secs());
    match bound {
        0 => CHUNK_BYTES,
        _ => usize::try_from(all).unwrap_or(CHUNK_BYTES).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_small_enough_to_be_heard_of() {
        let kib = 1024;
        for (bound, expected) in
            [(0, CHUNK_BYTES), (1, 4 * kib), (20 * kib as u64, 100 * kib), (u64::MAX, CHUNK_BYTES)]
        {
            assert_eq!(chunk_bytes_at(bound), expected, "{bound}");
        }
    }
}

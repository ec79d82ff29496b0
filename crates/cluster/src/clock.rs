//! Reads the clocks. Leases use `CLOCK_BOOTTIME`, which runs on while the machine sleeps (review
//! S6).

use std::time::{Duration, SystemTime};

use keelson_types::Tick;
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`; comparable on this machine only.
#[must_use]
pub fn now() -> Tick {
    let time =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME since 2.6.39");
    let nanos = Duration::from(time).as_nanos();
    Tick(u64::try_from(nanos).expect("584 years of uptime do not pass"))
}

/// Unix milliseconds, for people and event times only.
#[must_use]
pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Sleeps until `at`. The runtime's timer stands still while the machine sleeps; the caller looks
/// at [`now`] again when it wakes.
pub(crate) async fn sleep_until(at: Tick) {
    tokio::time::sleep(at.since(now())).await;
}

/// As [`sleep_until`]; for ever if there is nothing to wait for.
pub(crate) async fn sleep_until_some(at: Option<Tick>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

//! The clock behind replay lag and truncation lag: when was this log inspected, when replayed.
//!
//! Time here is [`LagTime`], a clock of the copy itself, so that wall clocks cannot release a lag:
//!
//! - Within a boot of the machine it follows the monotonic clock, also across restarts of the
//!   process (the boot's identity is stored with the marks). Wall clock jumps have no effect.
//! - Across a reboot only the wall clock knows how long the machine was off. The difference is
//!   credited up to [`REBOOT_CREDIT_MAX`], and as nothing if it is negative. So a clock that jumped
//!   forwards releases log early by at most that much per reboot, and one that jumped backwards
//!   delays it by at most the time that the machine was off.
//! - A machine that was off for longer lags longer by the rest. That is never longer than a lag
//!   after the reboot, when what is inspected now matures too, and no log waits for ever.
//!
//! Log that was inspected after the last save counts as inspected at the restart: later, never
//! earlier.

use std::time::Duration;

use keelson_types::{Position, Tick};

use super::marks::{AgeMarks, LagTime};
use super::{LagSettings, millis};
use crate::byte_codec::{DecodeError, Reader, put_u64};

/// Longest time off that is believed of the wall clock after a reboot.
pub const REBOOT_CREDIT_MAX: Duration = Duration::from_hours(1);

const VERSION: u8 = 1;

/// Identity of one boot of the machine; ticks of two boots do not compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootId(pub u128);

/// What all clocks show at one instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// The boot that the tick belongs to.
    pub boot: BootId,
    /// The monotonic clock.
    pub tick: Tick,
    /// The wall clock, in Unix milliseconds.
    pub unix_ms: u64,
}

/// When log was inspected and when it was replayed, durably. One per copy; copies without lags
/// need none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InspectionClock {
    base: LagTime,
    base_tick: Tick,
    inspected: AgeMarks,
    replayed: AgeMarks,
}

impl InspectionClock {
    /// A clock for log from `start` on (what lies before counts as old), for a copy that never had
    /// one or whose stored clock cannot be read. Follow with [`Self::inspected`]: what is in the
    /// log already counts as inspected now.
    #[must_use]
    pub const fn new(start: Position, now: Tick) -> Self {
        let marks = AgeMarks::new(start);
        Self { base: LagTime(0), base_tick: now, inspected: marks, replayed: AgeMarks::new(start) }
    }

    /// What the lag clock shows.
    #[must_use]
    pub fn time(&self, now: Tick) -> LagTime {
        self.base.after(now.since(self.base_tick))
    }

    /// The log up to `end` is inspected (durable in this copy's log).
    pub fn inspected(&mut self, end: Position, now: Tick) {
        self.inspected.note(end, self.time(now));
    }

    /// The log up to `to` is replayed.
    pub fn replayed(&mut self, to: Position, now: Tick) {
        self.replayed.note(to, self.time(now));
    }

    /// The log was cut at `to`, or ends there after a crash.
    pub fn cut(&mut self, to: Position) {
        self.inspected.cut(to);
        self.replayed.cut(to);
    }

    /// Drops marks that no limit depends on any more. To be called before each save.
    pub fn settle(&mut self, settings: &LagSettings, now: Tick) {
        let (time, replayed) = (self.time(now), self.replayed.end());
        self.inspected.settle(settings.truncation_age(), replayed, time);
        self.replayed.settle(settings.truncation_lag(), replayed, time);
    }

    /// Position before which everything was inspected at least `age` ago.
    #[must_use]
    pub fn inspected_before(&self, age: Duration, now: Tick) -> Position {
        self.inspected.older_than(age, self.time(now))
    }

    /// How long until [`Self::inspected_before`] rises.
    #[must_use]
    pub fn inspected_next(&self, age: Duration, now: Tick) -> Option<Duration> {
        self.inspected.next_after(age, self.time(now))
    }

    /// How long ago the oldest log that waits for replay was inspected: the replay queue in time,
    /// and the lag as it is. Zero if nothing waits.
    #[must_use]
    pub fn waiting_for(&self, replayed: Position, now: Tick) -> Duration {
        self.inspected.age_behind(replayed, self.time(now)).unwrap_or_default()
    }

    /// Position before which log is old enough to be truncated on a copy with lags: inspected at
    /// least replay lag plus truncation lag ago, and replayed at least the truncation lag ago (F88,
    /// F100). The second matters when replay is behind the lag.
    #[must_use]
    pub fn aged_out(&self, settings: &LagSettings, now: Tick) -> Position {
        let time = self.time(now);
        let inspected = self.inspected.older_than(settings.truncation_age(), time);
        inspected.min(self.replayed.older_than(settings.truncation_lag(), time))
    }

    /// The bytes to store. To be saved about once a minute, after a cut, and at a clean stop; the
    /// caller adds a checksum.
    #[must_use]
    pub fn encode(&self, now: &Moment) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&now.boot.0.to_le_bytes());
        put_u64(&mut out, now.tick.0);
        put_u64(&mut out, now.unix_ms);
        put_u64(&mut out, self.time(now.tick).0);
        self.inspected.encode(&mut out);
        self.replayed.encode(&mut out);
        out
    }

    /// The clock of stored bytes, going on from `now` over a log that ends at `log_end`.
    ///
    /// # Errors
    /// [`DecodeError`]; the caller begins with [`Self::new`] then, which delays replay by at most
    /// one lag.
    pub fn decode(bytes: &[u8], log_end: Position, now: &Moment) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned(bytes, VERSION)?;
        let saved = Moment {
            boot: BootId(reader.u128()?),
            tick: Tick(reader.u64()?),
            unix_ms: reader.u64()?,
        };
        let base = LagTime(reader.u64()?).after(time_off(&saved, now));
        let inspected = AgeMarks::decode(&mut reader)?;
        let replayed = AgeMarks::decode(&mut reader)?;
        reader.end()?;
        let mut clock = Self { base, base_tick: now.tick, inspected, replayed };
        clock.cut(log_end);
        clock.inspected(log_end, now.tick);
        Ok(clock)
    }

    #[cfg(test)]
    pub(super) fn marks(&self) -> usize {
        self.inspected.len()
    }
}

/// How much time between a save and now is credited to the lag clock.
fn time_off(saved: &Moment, now: &Moment) -> Duration {
    if saved.boot == now.boot {
        return now.tick.since(saved.tick);
    }
    let wall_ms = now.unix_ms.saturating_sub(saved.unix_ms);
    Duration::from_millis(wall_ms.min(millis(REBOOT_CREDIT_MAX)))
}

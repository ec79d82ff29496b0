//! Replay lag: the clock of a lagged copy, and how far it may replay now (F87, F88).
//!
//! Copies without lags have no clock, no file and no timer. The clock is saved about once a minute
//! while something happens and at a clean stop; what a crash loses of it makes the copy lag longer.

use std::time::Duration;

use keelson_copy_core::Event;
use keelson_copy_core::lag::{InspectionClock, Moment, replay_limit};
use keelson_types::{LagSettings, Position, Tick};
use tokio::time::Instant;

use crate::gate::boottime_now;
use crate::log_lane::LogJob;
use crate::owner::{Owner, unix_millis};

/// How often the clock is saved while log arrives or is replayed.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The lag of one copy.
pub(super) struct Lag {
    pub(super) settings: LagSettings,
    pub(super) clock: InspectionClock,
    wake: Option<Tick>,
    saved: Instant,
}

impl Owner {
    fn moment(&self) -> Moment {
        Moment { boot: self.context.boot, tick: boottime_now(), unix_ms: unix_millis() }
    }

    /// Takes the lags that consensus says.
    pub(super) fn set_lag(&mut self, settings: LagSettings) {
        if !settings.truncates_late() {
            if self.lag.take().is_some() {
                self.event(Event::ReplayLimit(None));
            }
            return;
        }
        match &mut self.lag {
            Some(lag) => lag.settings = settings,
            None => {
                let clock = self.restored_clock();
                self.lag = Some(Lag { settings, clock, wake: None, saved: Instant::now() });
            }
        }
        self.limit_replay();
    }

    /// The saved clock, or one for which everything here was inspected just now.
    fn restored_clock(&mut self) -> InspectionClock {
        let (now, end) = (self.moment(), self.machine.durable().position);
        let saved = self.saved_clock.take();
        let decoded = saved.and_then(|bytes| InspectionClock::decode(&bytes, end, &now).ok());
        decoded.unwrap_or_else(|| {
            let mut clock = InspectionClock::new(self.shared.replayed.load(), now.tick);
            clock.inspected(end, now.tick);
            clock
        })
    }

    pub(super) fn lag_inspected(&mut self, end: Position) {
        let Some(lag) = &mut self.lag else { return };
        lag.clock.inspected(end, boottime_now());
        self.limit_replay();
    }

    pub(super) fn lag_replayed(&mut self, to: Position) {
        if let Some(lag) = &mut self.lag {
            lag.clock.replayed(to, boottime_now());
            self.truncation.due = true;
        }
    }

    pub(super) fn lag_cut(&mut self, to: Position) {
        if let Some(lag) = &mut self.lag {
            lag.clock.cut(to);
        }
    }

    /// Tells the machine how far it may replay, and when to ask again.
    fn limit_replay(&mut self) {
        let Some(lag) = &mut self.lag else { return };
        let (now, end) = (boottime_now(), self.machine.durable().position);
        let limit = replay_limit(&lag.clock, &lag.settings, true, end, now);
        lag.wake = limit.wake;
        let due = lag.saved.elapsed() >= SAVE_EVERY;
        // A copy with a truncation lag only replays without delay.
        let up_to = lag.settings.is_lagged().then_some(limit.up_to);
        self.event(Event::ReplayLimit(up_to));
        if due {
            self.save_clock();
        }
    }

    pub(super) fn save_clock(&mut self) {
        let moment = self.moment();
        let Some(lag) = &mut self.lag else { return };
        lag.clock.settle(&lag.settings, moment.tick);
        lag.saved = Instant::now();
        let bytes = lag.clock.encode(&moment);
        self.log_job(LogJob::SaveClock(bytes));
    }

    pub(super) fn lag_wake(&self) -> Option<Tick> {
        self.lag.as_ref().and_then(|lag| lag.wake)
    }

    pub(super) fn lag_woken(&mut self) {
        if self.lag_wake().is_some_and(|wake| wake <= boottime_now()) {
            self.truncation.due = true;
            self.limit_replay();
        }
    }

    /// How long ago the oldest log that waits for replay was inspected: the lag as it is.
    pub(super) fn actual_lag(&self) -> Option<Duration> {
        let replayed = self.shared.replayed.load();
        self.lag.as_ref().map(|lag| lag.clock.waiting_for(replayed, boottime_now()))
    }
}

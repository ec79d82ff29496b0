//! Replay lag of a node: the real clock and the real limit, looked at with every tick. A restart
//! begins with a new clock, which only makes the copy lag longer.

use keelson_copy_core::Event;
use keelson_copy_core::lag::{InspectionClock, replay_limit};
use keelson_types::{LagSettings, Position, Tick};

use super::{CopyNode, Moment};

/// Settings and clock of a copy with a lag.
pub(crate) struct Lag {
    settings: LagSettings,
    clock: InspectionClock,
}

impl Lag {
    pub(super) fn settings(&self) -> LagSettings {
        self.settings
    }

    /// Log before this is as old as the lags ask for.
    pub(super) fn aged_out(&self, now: Tick) -> Position {
        self.clock.aged_out(&self.settings, now)
    }
}

impl CopyNode {
    pub(crate) fn set_lag(&mut self, moment: &mut Moment<'_>, settings: LagSettings) {
        if settings.is_lagged() {
            let start = self.store.replayed().position;
            let fresh = || Lag { settings, clock: InspectionClock::new(start, moment.now) };
            self.lag.get_or_insert_with(fresh).settings = settings;
            self.limit_replay(moment);
        } else if self.lag.take().is_some() {
            self.step(moment, Event::ReplayLimit(None));
        }
    }

    pub(crate) fn lag_cut(&mut self, to: Position) {
        if let Some(lag) = &mut self.lag {
            lag.clock.cut(to);
        }
    }

    pub(crate) fn limit_replay(&mut self, moment: &mut Moment<'_>) {
        let Some(lag) = &mut self.lag else { return };
        let durable = self.machine.durable().position;
        lag.clock.inspected(durable, moment.now);
        lag.clock.replayed(self.store.replayed().position, moment.now);
        let limit = replay_limit(&lag.clock, &lag.settings, true, durable, moment.now);
        self.step(moment, Event::ReplayLimit(Some(limit.up_to)));
    }
}

//! Replay lag: the clock of a lagged copy, how far it may replay now (F87, F88), and the play-down
//! that sets the lag aside (F90-F92, F97).
//!
//! Copies without lags have no clock, no file and no timer. The clock is saved about once a minute
//! while something happens and at a clean stop; what a crash loses of it makes the copy lag longer.
//! Whether the lag is played down is looked at whenever the member looks at its volumes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keelson_copy_core::Event;
use keelson_copy_core::lag::{
    InspectionClock, LagStatus, Moment, PlayDown, PlayDownEvent, PlayDownInputs, PlayDownMonitor,
    PlayDownSettings, lag_in_force, replay_limit,
};
use keelson_types::{CopyStatus, LagSettings, LagSwitch, MountIntent, News, Position, Tick};
use tokio::time::Instant;

use crate::gate::boottime_now;
use crate::lag_file::Kept;
use crate::log_lane::LogJob;
use crate::owner::{Owner, unix_millis};

/// How often the clock is saved while log arrives or is replayed.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The lag of one copy.
pub(super) struct Lag {
    pub(super) settings: LagSettings,
    pub(super) clock: InspectionClock,
    switch: LagSwitch,
    monitor: PlayDownMonitor,
    /// The monitor as it was saved last.
    kept: Vec<u8>,
    wake: Option<Tick>,
    saved: Instant,
}

impl Lag {
    fn in_force(&self) -> bool {
        self.settings.is_lagged() && lag_in_force(&self.switch, self.monitor.verdict())
    }

    /// The lags that hold now: log that is replayed early may also go early, for that is what makes
    /// room.
    pub(super) fn effective(&self) -> LagSettings {
        match self.in_force() {
            true => self.settings,
            false => self.settings.without_replay_lag(),
        }
    }
}

impl Owner {
    fn moment(&self) -> Moment {
        Moment { boot: self.context.boot, tick: boottime_now(), unix_ms: unix_millis() }
    }

    /// Takes the lags that consensus says.
    pub(super) fn set_lag(&mut self, settings: LagSettings, switch: LagSwitch) {
        self.shared.lagged.store(settings.is_lagged(), Ordering::Relaxed);
        if !settings.truncates_late() {
            if let Some(lag) = &mut self.lag {
                (lag.settings, lag.switch) = (settings, switch);
                // A play-down that is under way ends with the lag, and is told.
                self.check_play_down();
                self.lag = None;
                self.release_replay(None);
            }
            return;
        }
        match &mut self.lag {
            Some(lag) => (lag.settings, lag.switch) = (settings, switch),
            None => {
                let (clock, monitor) = (self.restored_clock(), self.restored_monitor());
                let (kept, saved) = (monitor.encode(), Instant::now());
                let wake = None;
                self.lag = Some(Lag { settings, clock, switch, monitor, kept, wake, saved });
                self.save_clock();
            }
        }
        self.check_play_down();
        self.limit_replay();
    }

    /// The saved clock, or one for which everything here was inspected just now.
    fn restored_clock(&mut self) -> InspectionClock {
        let (now, end) = (self.moment(), self.machine.durable().position);
        let saved = self.saved_lag.clock.take();
        let decoded = saved.and_then(|bytes| InspectionClock::decode(&bytes, end, &now).ok());
        decoded.unwrap_or_else(|| {
            let mut clock = InspectionClock::new(self.shared.replayed.load(), now.tick);
            clock.inspected(end, now.tick);
            clock
        })
    }

    fn restored_monitor(&mut self) -> PlayDownMonitor {
        let saved = self.saved_lag.monitor.take();
        saved.and_then(|bytes| PlayDownMonitor::decode(&bytes).ok()).unwrap_or_default()
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

    /// The member looked at its volumes.
    pub(super) fn looked_at_space(&mut self) {
        self.truncation.due = true;
        self.truncation.unlooked = false;
        self.truncation.short = self.context.is_short_of_log_space(self.shared.database)
            || !self.room().look().takes_log();
        if self.truncation.short {
            self.checkpoint_for_space();
        }
        self.check_play_down();
        self.limit_replay();
    }

    /// Decides whether the lag is played down, and tells each change with its inputs.
    fn check_play_down(&mut self) {
        let Some(mut lag) = self.lag.take() else { return };
        let settings = PlayDownSettings::from(&*self.context.settings.borrow());
        let settings = match &self.assigned {
            Some(assigned) => settings.of_database(&assigned.automations),
            None => settings,
        };
        let volumes = self.context.volumes_of(self.shared.database);
        let inputs = PlayDownInputs {
            now: lag.clock.time(boottime_now()),
            lagged: lag.settings.is_lagged(),
            max_delay: lag.settings.play_down_max_delay(),
            free_bytes: volumes.free_bytes(),
            range_repair: self.machine.view().status == CopyStatus::RangeRepair,
            available_copies: self.available_copies(),
            read_latency: volumes.read_latency(),
        };
        let check = lag.monitor.check(&settings, &inputs);
        if let Some(event) = check.event {
            self.context.tell(Some(self.shared.database), &news(&event));
        }
        let bytes = lag.monitor.encode();
        if bytes != lag.kept {
            lag.kept.clone_from(&bytes);
            self.log_job(LogJob::SaveLag(Kept::Monitor, bytes));
            // Its times are those of the clock.
            lag.saved = Instant::now();
            let clock = lag.clock.encode(&self.moment());
            self.log_job(LogJob::SaveLag(Kept::Clock, clock));
        }
        self.lag = Some(lag);
    }

    /// Healthy copies without lag, the active included: those that take part in the commit rule
    /// that consensus holds. A member without a lease may have an old picture and says nothing, as
    /// for a database that nobody wants open.
    fn available_copies(&self) -> Option<u32> {
        if self.context.lease.expires() <= boottime_now() {
            return None;
        }
        let assigned = self.assigned.as_ref()?;
        if assigned.intent != MountIntent::Mounted {
            return None;
        }
        let rule = assigned.assignment.rule.as_ref()?;
        u32::try_from(rule.participants.len()).ok()
    }

    /// Lets the machine replay up to there, or without a limit.
    ///
    /// Not before the first lease of this life: until then the assignment may be the one from
    /// before the lag was set, and what is replayed too early is lost to the lag for ever.
    pub(super) fn release_replay(&mut self, up_to: Option<Position>) {
        if self.context.lease.was_granted() {
            self.guard.released();
            self.event(Event::ReplayLimit(up_to));
        }
    }

    /// There is a lease again, perhaps the first one.
    pub(super) fn renew_replay_limit(&mut self) {
        if self.lag.is_some() {
            self.limit_replay();
        } else if self.assigned.is_some() {
            self.release_replay(None);
        }
    }

    /// Tells the machine how far it may replay, and when to ask again.
    fn limit_replay(&mut self) {
        let Some(lag) = &mut self.lag else { return };
        let (now, end) = (boottime_now(), self.machine.durable().position);
        let in_force = lag.in_force();
        let limit = replay_limit(&lag.clock, &lag.settings, in_force, end, now);
        lag.wake = limit.wake;
        let due = lag.saved.elapsed() >= SAVE_EVERY;
        // A copy with a truncation lag only replays without delay.
        let up_to = in_force.then_some(limit.up_to);
        self.release_replay(up_to);
        if due {
            self.save_clock();
        }
    }

    /// Keeps clock and monitor once more, whatever their files hold.
    pub(super) fn save_lag(&mut self) {
        self.save_clock();
        if let Some(lag) = &self.lag {
            self.log_job(LogJob::SaveLag(Kept::Monitor, lag.kept.clone()));
        }
    }

    pub(super) fn save_clock(&mut self) {
        let moment = self.moment();
        let Some(lag) = &mut self.lag else { return };
        lag.clock.settle(&lag.settings, moment.tick);
        lag.saved = Instant::now();
        let bytes = lag.clock.encode(&moment);
        self.log_job(LogJob::SaveLag(Kept::Clock, bytes));
    }

    /// Whether replay waits for its time.
    pub(super) fn replays_late(&self) -> bool {
        self.lag.as_ref().is_some_and(Lag::in_force)
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

    /// The lag in one line (F98).
    pub(super) fn lag_status(&self) -> LagStatus {
        let actual = self.actual_lag().unwrap_or_default();
        match &self.lag {
            Some(lag) => LagStatus::new(&lag.settings, &lag.switch, lag.monitor.verdict(), actual),
            None => {
                LagStatus::new(&LagSettings::default(), &LagSwitch::enable(), &PlayDown::No, actual)
            }
        }
    }
}

fn news(event: &PlayDownEvent) -> News {
    let step = match &event.to {
        PlayDown::Yes(_) => "started",
        PlayDown::Deferred { .. } => "deferred",
        PlayDown::No => "ended",
    };
    let causes = match &event.to {
        PlayDown::No => event.from.causes(),
        other => other.causes(),
    };
    let inputs = &event.inputs;
    let micros = |latency: Duration| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    News::PlayDownChanged {
        step: step.into(),
        causes: causes.iter().map(ToString::to_string).collect(),
        free_bytes: inputs.free_bytes,
        available_copies: inputs.available_copies,
        range_repair: inputs.range_repair,
        read_latency_micros: inputs.read_latency.map(micros),
    }
}

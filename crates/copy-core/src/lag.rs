//! Replay lag and truncation lag of a copy: how far it may replay now, and what the status says.
//!
//! Replay lag counts from inspection (F87), truncation lag from replay (F88); both by the copy's
//! own clock, see [`InspectionClock`]. [`PlayDownMonitor`] decides when the lag is set aside by
//! itself; an operator's word to do so is a [`LagSwitch`] in the configuration of the copy.

mod clock;
mod marks;
mod play_down;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use keelson_types::{Position, Tick};

pub use keelson_types::{LAG_MAX, LagSettings, LagSwitch, PLAY_DOWN_MAX_DELAY};

pub use clock::{BootId, InspectionClock, Moment, REBOOT_CREDIT_MAX};
pub use marks::{LagTime, MARKS_MAX};
pub use play_down::{
    PlayDown, PlayDownCause, PlayDownCheck, PlayDownEvent, PlayDownInputs, PlayDownMonitor,
    PlayDownSettings,
};

/// Whole milliseconds of a duration, saturating.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How far a copy may replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayLimit {
    /// Replay up to here, as far as it is committed (the machine sees to that).
    pub up_to: Position,
    /// Ask again then; nothing if only new log changes the limit.
    pub wake: Option<Tick>,
}

/// How far a copy may replay at `now`: everything inspected without a lag in force, else what was
/// inspected at least a replay lag ago. The lag is in force unless an operator or a play-down sets
/// it aside; a deferred play-down leaves it in force. `inspected` is the copy's durable log end.
#[must_use]
pub fn replay_limit(
    clock: &InspectionClock,
    settings: &LagSettings,
    in_force: bool,
    inspected: Position,
    now: Tick,
) -> ReplayLimit {
    if !settings.is_lagged() || !in_force {
        return ReplayLimit { up_to: inspected, wake: None };
    }
    let lag = settings.replay_lag();
    ReplayLimit {
        up_to: clock.inspected_before(lag, now).min(inspected),
        wake: clock.inspected_next(lag, now).map(|wait| now.after(wait)),
    }
}

/// Whether the configured lag is in force.
#[must_use]
pub fn lag_in_force(switch: &LagSwitch, play_down: &PlayDown) -> bool {
    switch.disabled().is_none() && !matches!(play_down, PlayDown::Yes(_))
}

/// The lag of a copy in one line (F98).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LagStatus {
    /// The lag is configured and in force.
    pub enabled: bool,
    /// Why log is being played down, or is about to be.
    pub play_down: Vec<PlayDownCause>,
    /// An operator set the lag aside.
    pub disabled_by_operator: bool,
    /// A play-down waits for a quieter disk.
    pub deferred: bool,
    /// The configured replay lag.
    pub configured: Duration,
    /// The longest deferral of a play-down.
    pub max_delay: Duration,
    /// How long ago the oldest log that waits for replay was inspected.
    pub actual: Duration,
}

impl LagStatus {
    /// The status of a copy whose oldest waiting log was inspected `actual` ago.
    #[must_use]
    pub fn new(
        settings: &LagSettings,
        switch: &LagSwitch,
        play_down: &PlayDown,
        actual: Duration,
    ) -> Self {
        Self {
            enabled: settings.is_lagged() && lag_in_force(switch, play_down),
            play_down: play_down.causes().to_vec(),
            disabled_by_operator: switch.disabled().is_some(),
            deferred: matches!(play_down, PlayDown::Deferred { .. }),
            configured: settings.replay_lag(),
            max_delay: settings.play_down_max_delay(),
            actual,
        }
    }

    /// Share of the configured lag that is reached, 0 to 100.
    #[must_use]
    pub fn percent(&self) -> u8 {
        let configured = self.configured.as_millis();
        if configured == 0 {
            return 0;
        }
        let percent = (self.actual.as_millis() * 100 / configured).min(100);
        u8::try_from(percent).unwrap_or(100)
    }

    fn play_down_reason(&self) -> String {
        if self.disabled_by_operator {
            return "LagDisabled".to_string();
        }
        let names: Vec<_> = self.play_down.iter().map(ToString::to_string).collect();
        if names.is_empty() { "None".to_string() } else { names.join(",") }
    }
}

impl fmt::Display for LagStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Enabled:{}; PlayDownReason:{}; ReplaySuspendReason:{}; Percentage:{}; \
             Configured:{}; MaxDelay:{}; Actual:{}",
            if self.enabled { "True" } else { "False" },
            self.play_down_reason(),
            if self.deferred { "DiskLatency" } else { "None" },
            self.percent(),
            Span(self.configured),
            Span(self.max_delay),
            Span(self.actual),
        )
    }
}

/// A duration as `[d.]hh:mm:ss`, the form of the model system.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
        if days > 0 {
            write!(f, "{days}.")?;
        }
        write!(f, "{hours:02}:{:02}:{:02}", seconds / 60 % 60, seconds % 60)
    }
}

//! Replay lag and truncation lag of a copy: how far it may replay now, and what the status says.
//!
//! Replay lag counts from inspection (F87), truncation lag from replay (F88); both by the copy's
//! own clock, see [`InspectionClock`]. [`PlayDownMonitor`] decides when the lag is set aside by
//! itself, [`LagSwitch`] keeps an operator's word to do so.

mod clock;
mod marks;
mod play_down;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use keelson_types::{Position, SUSPEND_COMMENT_CHARS_MAX, Tick};

use crate::bytes::{DecodeError, Reader, put_text};
use crate::refused::Refused;

pub use clock::{BootId, InspectionClock, Moment, REBOOT_CREDIT_MAX};
pub use marks::{LagTime, MARKS_MAX};
pub use play_down::{
    PlayDown, PlayDownCause, PlayDownCheck, PlayDownEvent, PlayDownInputs, PlayDownMonitor,
    PlayDownSettings,
};

/// Longest replay or truncation lag: 14 days (F151).
pub const LAG_MAX: Duration = Duration::from_hours(14 * 24);

/// Longest deferral of a play-down unless set otherwise: 24 hours (F97).
pub const PLAY_DOWN_MAX_DELAY: Duration = Duration::from_hours(24);

/// Whole milliseconds of a duration, saturating.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The checked lag settings of one copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LagSettings {
    replay_lag: Duration,
    truncation_lag: Duration,
    play_down_max_delay: Duration,
}

impl Default for LagSettings {
    /// No lags, deferral for a day.
    fn default() -> Self {
        Self {
            replay_lag: Duration::ZERO,
            truncation_lag: Duration::ZERO,
            play_down_max_delay: PLAY_DOWN_MAX_DELAY,
        }
    }
}

impl LagSettings {
    /// Settings with these lags, each 0 to 14 days.
    ///
    /// # Errors
    /// `bad_argument` names the value and the bound.
    pub fn new(replay_lag: Duration, truncation_lag: Duration) -> Result<Self, Refused> {
        check_span("replay lag", replay_lag)?;
        check_span("truncation lag", truncation_lag)?;
        Ok(Self { replay_lag, truncation_lag, ..Self::default() })
    }

    /// Settings from seconds as a client wrote them, which may be negative.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_seconds(replay_lag: i64, truncation_lag: i64) -> Result<Self, Refused> {
        let seconds = |name: &str, value: i64| {
            let checked = u64::try_from(value).map(Duration::from_secs);
            checked.map_err(|_| Refused::bad_argument(format!("{name} of {value} s is negative")))
        };
        Self::new(seconds("replay lag", replay_lag)?, seconds("truncation lag", truncation_lag)?)
    }

    /// The same lags with another longest deferral of a play-down, 0 (never defer) to 14 days.
    ///
    /// # Errors
    /// `bad_argument` names the value and the bound.
    pub fn with_play_down_max_delay(self, delay: Duration) -> Result<Self, Refused> {
        check_span("play-down delay", delay)?;
        Ok(Self { play_down_max_delay: delay, ..self })
    }

    /// How long after its inspection log waits for replay.
    #[must_use]
    pub const fn replay_lag(&self) -> Duration {
        self.replay_lag
    }

    /// How long after its replay log is kept.
    #[must_use]
    pub const fn truncation_lag(&self) -> Duration {
        self.truncation_lag
    }

    /// How long a play-down may be deferred because the disk is busy; zero for never.
    #[must_use]
    pub const fn play_down_max_delay(&self) -> Duration {
        self.play_down_max_delay
    }

    /// A copy with a replay lag is a lagged copy and not counted as highly available (F89).
    #[must_use]
    pub const fn is_lagged(&self) -> bool {
        !self.replay_lag.is_zero()
    }

    /// Whether the copy truncates by the three conditions of lagged copies (F100): with any lag.
    #[must_use]
    pub const fn truncates_late(&self) -> bool {
        !(self.replay_lag.is_zero() && self.truncation_lag.is_zero())
    }

    /// Age from inspection at which log may be truncated.
    pub(crate) const fn truncation_age(&self) -> Duration {
        self.replay_lag.saturating_add(self.truncation_lag)
    }
}

fn check_span(name: &str, value: Duration) -> Result<(), Refused> {
    if value > LAG_MAX {
        let text = format!("{name} of {} is over 14 days", Span(value));
        return Err(Refused::bad_argument(text));
    }
    Ok(())
}

/// An operator's word that sets the configured lag aside, which plays the log down (F44).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LagSwitch {
    disabled: Option<String>,
}

impl LagSwitch {
    const VERSION: u8 = 1;

    /// The lag set aside, with the operator's reason of at most 512 characters.
    ///
    /// # Errors
    /// `bad_argument` for a longer reason.
    pub fn disable(reason: &str) -> Result<Self, Refused> {
        let chars = reason.chars().count();
        if chars > SUSPEND_COMMENT_CHARS_MAX {
            let max = SUSPEND_COMMENT_CHARS_MAX;
            let text = format!("the reason has {chars} characters, {max} are allowed");
            return Err(Refused::bad_argument(text));
        }
        Ok(Self { disabled: Some(reason.to_string()) })
    }

    /// The configured lag in force again.
    #[must_use]
    pub const fn enable() -> Self {
        Self { disabled: None }
    }

    /// The operator's reason while the lag is set aside.
    #[must_use]
    pub fn disabled(&self) -> Option<&str> {
        self.disabled.as_deref()
    }

    /// The bytes to store as an extension of the control record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![Self::VERSION, u8::from(self.disabled.is_some())];
        put_text(&mut out, self.disabled.as_deref().unwrap_or_default());
        out
    }

    /// The reverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned(bytes, Self::VERSION)?;
        let disabled = reader.flag()?;
        let reason = reader.text()?;
        reader.end()?;
        Ok(Self { disabled: disabled.then_some(reason) })
    }
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

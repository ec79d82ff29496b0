//! Replay lag and truncation lag as an operator sets them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Refused, SUSPEND_COMMENT_CHARS_MAX};

/// Longest replay or truncation lag: 14 days (F151).
pub const LAG_MAX: Duration = Duration::from_hours(14 * 24);

/// Longest deferral of a play-down unless set otherwise: 24 hours (F97).
pub const PLAY_DOWN_MAX_DELAY: Duration = Duration::from_hours(24);

/// The checked lag settings of one copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
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

    /// The same with log replayed as soon as it may be: the replay lag is set aside.
    #[must_use]
    pub const fn without_replay_lag(self) -> Self {
        Self { replay_lag: Duration::ZERO, ..self }
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
    #[must_use]
    pub const fn truncation_age(&self) -> Duration {
        self.replay_lag.saturating_add(self.truncation_lag)
    }
}

/// An operator's word that sets the configured lag aside, which plays the log down (F44).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LagSwitch {
    disabled: Option<String>,
}

impl LagSwitch {
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
}

fn check_span(name: &str, value: Duration) -> Result<(), Refused> {
    if value > LAG_MAX {
        let text = format!("{name} of {} s is over 14 days", value.as_secs());
        return Err(Refused::bad_argument(text));
    }
    Ok(())
}

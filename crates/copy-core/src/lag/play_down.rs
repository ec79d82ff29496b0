//! When a lagged copy gives its lag up by itself: the play-down of the replay-lag manager.
//!
//! Causes (F90-F92): low space on the copy's volume, damaged ranges that only current log can
//! mend, too few healthy HA copies for too long. A busy disk defers it within bounds (F97). The
//! clock is the copy's lag clock, so that neither a restart nor a wall clock shortens the 24 hours.
//! What the monitor does not know (`None` in the inputs) changes nothing: it starts nothing and
//! ends nothing.

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use super::marks::LagTime;
use crate::byte_codec::{DecodeError, Reader, put_optional};
use keelson_types::{Automation, Automations, ClusterSettings, Setting};

const VERSION: u8 = 1;
/// Thresholds and switches, one set per cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlayDownSettings {
    /// Whether lags are played down at all; without it a damaged lagged copy is seeded (F93).
    pub enabled: bool,
    /// Fewer available copies than this start the clock of `available_for`; 0 = never.
    pub available_copies_min: u32,
    /// How long they must be fewer.
    pub available_for: Duration,
    /// Free space below this starts a play-down; `None` = never.
    pub low_space_bytes: Option<u64>,
    /// Read latency above this defers a play-down.
    pub defer_above: Duration,
    /// Read latency below this lets it go on.
    pub resume_below: Duration,
}

impl From<&ClusterSettings> for PlayDownSettings {
    /// The defaults are the model's figures: on, fewer than 3 copies for more than 24 h, 10,000
    /// MiB, 35 and 25 ms.
    fn from(settings: &ClusterSettings) -> Self {
        let copies = settings.number(Setting::PlayDownCopies);
        Self {
            enabled: settings.is_on(Setting::PlayDown),
            available_copies_min: u32::try_from(copies).unwrap_or(u32::MAX),
            available_for: settings.span(Setting::PlayDownCopiesFor),
            low_space_bytes: Some(settings.number(Setting::PlayDownLowSpace)).filter(|b| *b > 0),
            defer_above: settings.span(Setting::PlayDownDeferAbove),
            resume_below: settings.span(Setting::PlayDownResumeBelow),
        }
    }
}

impl PlayDownSettings {
    /// The same for one database, which may have it off.
    #[must_use]
    pub fn of_database(self, automations: &Automations) -> Self {
        Self { enabled: self.enabled && automations.is_on(Automation::PlayDown), ..self }
    }
}

/// Why log is played down.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PlayDownCause {
    /// Too little free space on the copy's volume (F90).
    LowSpace,
    /// Ranges of the store are damaged (F91).
    RangeRepair,
    /// Too few healthy HA copies for too long (F92).
    FewCopies,
}

impl fmt::Display for PlayDownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LowSpace => "LowSpace",
            Self::RangeRepair => "RangeRepair",
            Self::FewCopies => "FewCopies",
        })
    }
}

/// Whether the lag is played down.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum PlayDown {
    /// The lag holds.
    #[default]
    No,
    /// The lag is set aside until the causes are gone.
    Yes(Vec<PlayDownCause>),
    /// It should be, but the disk is too busy; the lag holds meanwhile.
    Deferred {
        /// Why it should be.
        causes: Vec<PlayDownCause>,
        /// Since when it waits.
        since: LagTime,
        /// It waits no longer than this.
        until: LagTime,
    },
}

impl PlayDown {
    /// Why log is played down or should be; empty if not.
    #[must_use]
    pub fn causes(&self) -> &[PlayDownCause] {
        match self {
            Self::No => &[],
            Self::Yes(causes) | Self::Deferred { causes, .. } => causes,
        }
    }
}

/// What a check depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlayDownInputs {
    /// The copy's lag clock.
    pub now: LagTime,
    /// Whether the copy has a replay lag; without one there is nothing to play down.
    pub lagged: bool,
    /// The copy's longest deferral; zero = never defer.
    pub max_delay: Duration,
    /// Free space of the copy's volume, if known.
    pub free_bytes: Option<u64>,
    /// The copy has damaged ranges.
    pub range_repair: bool,
    /// Healthy copies of the database, the active included, lagged ones not, if known.
    pub available_copies: Option<u32>,
    /// Recent read latency of the copy's disk, if known.
    pub read_latency: Option<Duration>,
}

/// A play-down began, was deferred, went on, or ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlayDownEvent {
    /// Before.
    pub from: PlayDown,
    /// Now.
    pub to: PlayDown,
    /// What it was decided from.
    pub inputs: PlayDownInputs,
}

/// The outcome of a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlayDownCheck {
    /// What holds now.
    pub verdict: PlayDown,
    /// Set when it differs from the last check.
    pub event: Option<PlayDownEvent>,
}

/// What is remembered between two checks of one copy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PlayDownMonitor {
    few_since: Option<LagTime>,
    low_space: bool,
    slow_disk: bool,
    deferred_since: Option<LagTime>,
    verdict: PlayDown,
}

impl PlayDownMonitor {
    /// Looks at the inputs. To be called regularly on lagged copies.
    pub fn check(&mut self, settings: &PlayDownSettings, inputs: &PlayDownInputs) -> PlayDownCheck {
        let verdict = if settings.enabled && inputs.lagged {
            self.judge(settings, inputs)
        } else {
            *self = Self { verdict: std::mem::take(&mut self.verdict), ..Self::default() };
            PlayDown::No
        };
        let from = std::mem::replace(&mut self.verdict, verdict.clone());
        let event =
            (from != verdict).then(|| PlayDownEvent { from, to: verdict.clone(), inputs: *inputs });
        PlayDownCheck { verdict, event }
    }

    /// What the last check said.
    #[must_use]
    pub const fn verdict(&self) -> &PlayDown {
        &self.verdict
    }

    fn judge(&mut self, settings: &PlayDownSettings, inputs: &PlayDownInputs) -> PlayDown {
        self.watch_space(settings, inputs.free_bytes);
        self.watch_latency(settings, inputs.read_latency);
        let few = self.few_copies(settings, inputs);
        let causes: Vec<_> = [
            (self.low_space, PlayDownCause::LowSpace),
            (inputs.range_repair, PlayDownCause::RangeRepair),
            (few, PlayDownCause::FewCopies),
        ]
        .into_iter()
        .filter_map(|(holds, cause)| holds.then_some(cause))
        .collect();
        if causes.is_empty() {
            self.deferred_since = None;
            return PlayDown::No;
        }
        self.defer(inputs, causes)
    }

    /// Low space begins below the threshold and ends a quarter above it, so that the space that a
    /// play-down itself frees does not switch it off and on.
    fn watch_space(&mut self, settings: &PlayDownSettings, free_bytes: Option<u64>) {
        let Some(threshold) = settings.low_space_bytes else {
            self.low_space = false;
            return;
        };
        let Some(free) = free_bytes else { return };
        let clear = threshold.saturating_add(threshold / 4);
        self.low_space = if self.low_space { free < clear } else { free < threshold };
    }

    /// Two thresholds: between them what was holds (13.9 of the reference).
    fn watch_latency(&mut self, settings: &PlayDownSettings, latency: Option<Duration>) {
        let Some(latency) = latency else { return };
        if latency > settings.defer_above {
            self.slow_disk = true;
        } else if latency < settings.resume_below {
            self.slow_disk = false;
        }
    }

    fn few_copies(&mut self, settings: &PlayDownSettings, inputs: &PlayDownInputs) -> bool {
        let Some(available) = inputs.available_copies else {
            // Nobody knows: a play-down that began for this cause goes on, none begins.
            return self.verdict.causes().contains(&PlayDownCause::FewCopies);
        };
        if available >= settings.available_copies_min {
            self.few_since = None;
            return false;
        }
        let since = *self.few_since.get_or_insert(inputs.now);
        inputs.now.since(since) > settings.available_for
    }

    /// A slow disk postpones a play-down, but not when space is short, and not for longer than the
    /// copy's bound, counted once for the whole play-down.
    fn defer(&mut self, inputs: &PlayDownInputs, causes: Vec<PlayDownCause>) -> PlayDown {
        let never = inputs.max_delay.is_zero() || causes.contains(&PlayDownCause::LowSpace);
        if never || !self.slow_disk {
            return PlayDown::Yes(causes);
        }
        let since = *self.deferred_since.get_or_insert(inputs.now);
        let until = since.after(inputs.max_delay);
        if inputs.now >= until {
            return PlayDown::Yes(causes);
        }
        PlayDown::Deferred { causes, since, until }
    }

    /// The bytes to store beside the inspection clock, whose time they use. The verdict is not
    /// stored: the first check after a restart says it anew, with an event.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.low_space), u8::from(self.slow_disk)];
        put_optional(&mut out, self.few_since.map(|time| time.0));
        put_optional(&mut out, self.deferred_since.map(|time| time.0));
        out
    }

    /// The reverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`DecodeError`]; the caller begins with the default then, which starts the 24 hours anew.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned(bytes, VERSION)?;
        let found = Self {
            low_space: reader.flag()?,
            slow_disk: reader.flag()?,
            few_since: reader.optional()?.map(LagTime),
            deferred_since: reader.optional()?.map(LagTime),
            verdict: PlayDown::No,
        };
        reader.end()?;
        Ok(found)
    }
}

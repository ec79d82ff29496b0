//! When a volume will be full, who would be cut off by then, and what that costs.

use std::collections::VecDeque;
use std::time::Duration;

use keelson_types::{CopyId, DatabaseId, MemberId, Tick};

/// Samples kept per volume; the driver takes one a minute.
pub const SPACE_SAMPLES_MAX: usize = 60;

/// Free space of a volume at one instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceSample {
    /// When.
    pub at: Tick,
    /// Free bytes.
    pub free_bytes: u64,
}

/// The newest samples of one volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SpaceHistory {
    samples: VecDeque<SpaceSample>,
}

/// A copy that expanded truncation would cut off if the volume ran short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CutCandidate {
    /// Its database.
    pub database: DatabaseId,
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// What a seed of it sends: size of the store and of the log after its checkpoint.
    pub seed_bytes: u64,
}

/// What lies ahead of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forecast {
    /// When expanded truncation begins; zero if it has, nothing if the volume is not filling.
    pub time_to_floor: Option<Duration>,
    /// When the volume is full; nothing if it is not filling.
    pub time_to_full: Option<Duration>,
    /// Who would be cut off; nobody if the volume is neither filling nor short.
    pub who_would_be_cut: Vec<CutCandidate>,
    /// What their seeds would send.
    pub price_bytes: u64,
}

impl SpaceHistory {
    /// Adds a sample, and drops the oldest beyond [`SPACE_SAMPLES_MAX`]. One that is not later than
    /// the last replaces it.
    pub fn push(&mut self, sample: SpaceSample) {
        if self.samples.back().is_some_and(|last| last.at >= sample.at) {
            self.samples.pop_back();
        }
        if self.samples.len() == SPACE_SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Bytes that the volume loses per second: the slope of the least-squares line through the
    /// samples, so that one removal of log does not turn the forecast around. Nothing with fewer
    /// than two samples or if it does not fill.
    #[must_use]
    pub fn fill_rate(&self) -> Option<u64> {
        let first = self.samples.front()?;
        let count = self.samples.len() as i128;
        let points = || {
            self.samples.iter().map(|sample| {
                let millis = sample.at.since(first.at).as_millis();
                let millis = i128::try_from(millis).unwrap_or(i128::MAX);
                (millis, i128::from(sample.free_bytes))
            })
        };
        let sum_x: i128 = points().map(|(x, _)| x).sum();
        let sum_y: i128 = points().map(|(_, y)| y).sum();
        // Deviations from the means, times the count, so that all of it stays in whole numbers.
        let deviation = |(x, y): (i128, i128)| (x * count - sum_x, y * count - sum_y);
        let covariance: i128 = points().map(deviation).map(|(x, y)| x * (y / count)).sum();
        let variance: i128 = points().map(deviation).map(|(x, _)| x * (x / count)).sum();
        let lost_per_second = (-covariance).checked_mul(1_000)?.checked_div(variance)?;
        u64::try_from(lost_per_second).ok().filter(|rate| *rate > 0)
    }

    /// The forecast for a volume on which expanded truncation begins below `floor_bytes` (0 where
    /// it is off) and would cut `candidates` off.
    #[must_use]
    pub fn forecast(&self, floor_bytes: u64, candidates: &[CutCandidate]) -> Forecast {
        let Some(last) = self.samples.back() else { return Forecast::default() };
        let rate = self.fill_rate();
        let above = last.free_bytes.saturating_sub(floor_bytes);
        let after = |bytes: u64| rate.map(|rate| Duration::from_secs(bytes / rate));
        let short = last.free_bytes < floor_bytes;
        let time_to_floor = if short { Some(Duration::ZERO) } else { after(above) };
        let who: Vec<_> = match time_to_floor {
            Some(_) if floor_bytes > 0 => candidates.to_vec(),
            _ => Vec::new(),
        };
        Forecast {
            time_to_floor,
            time_to_full: after(last.free_bytes),
            price_bytes: who.iter().map(|cut| cut.seed_bytes).fold(0, u64::saturating_add),
            who_would_be_cut: who,
        }
    }
}

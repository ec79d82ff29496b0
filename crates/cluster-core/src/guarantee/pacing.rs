//! What a bulk writer does with an answer: go on, wait, or give its turn up (F113).

use std::time::Duration;

use keelson_types::RefusalReason;

use super::Guarantee;
use crate::command::Refusal;

/// How a bulk writer paces itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallerPacing {
    /// How often it asks while it writes: 1 s to 2 h.
    pub check_period: Duration,
    /// How long a health check that is not satisfied waits before it is asked again.
    pub health_retry: Duration,
    /// How long a writer may be stalled before it gives its turn up and is queued anew.
    pub requeue_after: Duration,
    /// How long it stays queued between two tries.
    pub retry_interval: Duration,
    /// How long all of it may last: 0 to 7 days.
    pub max_wait: Duration,
}

impl Default for CallerPacing {
    /// The model's figures.
    fn default() -> Self {
        Self {
            check_period: Duration::from_secs(5),
            health_retry: Duration::from_secs(30),
            requeue_after: Duration::from_mins(30),
            retry_interval: Duration::from_mins(15),
            max_wait: Duration::from_hours(24),
        }
    }
}

/// What the writer does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallerStep {
    /// Write on, and ask again after this.
    Proceed(Duration),
    /// Stalled: write nothing, and ask again after this.
    Stall(Duration),
    /// Give the turn up, and begin again after this.
    Requeue(Duration),
    /// It has waited too long in all: fail with the reasons of the last answer.
    GiveUp,
}

impl CallerPacing {
    /// Checks the bounds.
    ///
    /// # Errors
    /// `bad_argument` with the value and the bound.
    pub fn validate(&self) -> Result<(), Refusal> {
        let hours = |hours| Duration::from_hours(hours);
        for (name, value, min, max) in [
            ("check period", self.check_period, Duration::from_secs(1), hours(2)),
            ("longest wait", self.max_wait, Duration::ZERO, hours(7 * 24)),
        ] {
            if value < min || value > max {
                let message = format!("{name} of {value:?} is not within {min:?} and {max:?}");
                return Err(Refusal::new(RefusalReason::BadArgument, message));
            }
        }
        Ok(())
    }

    /// What a writer does after a health check, having been stalled for `stalled` in this turn and
    /// for `waited` since it began.
    #[must_use]
    pub fn after_health(
        &self,
        answer: &Guarantee,
        stalled: Duration,
        waited: Duration,
    ) -> CallerStep {
        match answer {
            Guarantee::Satisfied => CallerStep::Proceed(self.check_period),
            Guarantee::Retry(_) | Guarantee::NotSatisfied(_) if waited >= self.max_wait => {
                CallerStep::GiveUp
            }
            Guarantee::Retry(_) | Guarantee::NotSatisfied(_) if stalled >= self.requeue_after => {
                CallerStep::Requeue(self.retry_interval)
            }
            // Something transient: soon it is known.
            Guarantee::Retry(_) => CallerStep::Stall(self.check_period),
            Guarantee::NotSatisfied(_) => CallerStep::Stall(self.health_retry),
        }
    }
}

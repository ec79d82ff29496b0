//! Whether the data process of another member answers at the address that clients use (F13).
//!
//! It counts as not reached once nothing was heard of it for a while, and two questions in a row
//! were not answered: so a process that stood still itself blames nobody for its own pause. One
//! answer ends it.

use std::time::Duration;

use keelson_types::Tick;

/// Questions without an answer that it takes.
const FAILURES_MIN: u32 = 2;

/// What is remembered of one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReachWatch {
    answered: Tick,
    failures: u32,
}

impl ReachWatch {
    /// Of a member that was not asked yet, which is given the whole time.
    #[must_use]
    pub const fn new(now: Tick) -> Self {
        Self { answered: now, failures: 0 }
    }

    /// A question was answered, or its time is over.
    pub fn look(&mut self, now: Tick, answered: bool) {
        *self = match answered {
            true => Self::new(now),
            false => Self { failures: self.failures.saturating_add(1), ..*self },
        };
    }

    /// Whether it has not answered for longer than `after`; never with zero.
    #[must_use]
    pub fn is_unreached(&self, now: Tick, after: Duration) -> bool {
        let long = now.since(self.answered) >= after;
        !after.is_zero() && self.failures >= FAILURES_MIN && long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(3);

    fn at(seconds: u64) -> Tick {
        Tick(0).after(Duration::from_secs(seconds))
    }

    #[test]
    fn who_is_silent_for_long_enough_is_not_reached_until_it_answers() {
        let mut watch = ReachWatch::new(at(10));
        watch.look(at(11), true);
        for (seconds, unreached) in [(12, false), (13, false), (14, true), (20, true)] {
            watch.look(at(seconds), false);
            assert_eq!(watch.is_unreached(at(seconds), AFTER), unreached, "{seconds}");
        }
        assert!(!watch.is_unreached(at(20), Duration::ZERO), "switched off");
        watch.look(at(21), true);
        watch.look(at(22), false);
        assert!(!watch.is_unreached(at(60), AFTER));
    }

    /// After a pause of the own process the question that was under way fails, and the next is
    /// answered.
    #[test]
    fn one_failure_after_a_long_pause_blames_nobody() {
        let mut watch = ReachWatch::new(at(10));
        watch.look(at(90), false);
        assert!(!watch.is_unreached(at(90), AFTER));
        watch.look(at(91), true);
        assert_eq!(watch, ReachWatch::new(at(91)));
    }
}

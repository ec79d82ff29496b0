//! Whether the log of a copy makes progress on its disk: fine, slow, or hung (F13).
//!
//! The driver says since when the log has had work without finishing any of it; that covers a write
//! or sync that does not return, whatever the reason. *Slow* is for people. *Hung* is said of an
//! active copy to the leader, which moves the database if another copy can serve: the process lives
//! and holds its lease, so nothing else would. Both end only after the log was quick for a while,
//! so that a disk at the border is told once.

use std::time::Duration;

use keelson_types::{ClusterSettings, FailureTag, Setting, Tick};

/// How long a log must have been quick until it is fine again.
const CALM: Duration = Duration::from_secs(10);

/// From when on a log is slow, and hung.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoThresholds {
    /// Without progress for longer than this it is slow.
    pub slow: Duration,
    /// Without progress for longer than this it is hung; nothing for never.
    pub hung: Option<Duration>,
}

impl From<&ClusterSettings> for IoThresholds {
    fn from(settings: &ClusterSettings) -> Self {
        let hung = settings.span(Setting::HungIoAfter);
        Self {
            slow: settings.span(Setting::SlowIoAfter),
            hung: Some(hung).filter(|hung| !hung.is_zero()),
        }
    }
}

/// What is told of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoChange {
    /// What it is now; nothing if it is fine again.
    pub now: Option<FailureTag>,
    /// What it was.
    pub before: Option<FailureTag>,
    /// How long it has made no progress.
    pub stalled: Duration,
}

/// The watch over one log. The default is a log that is fine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoWatch {
    /// `SlowIo` or `HungIo`.
    state: Option<FailureTag>,
    /// When it was slow last.
    last_slow: Tick,
    /// It makes no progress at this moment, beyond the threshold for hung.
    hangs: bool,
}

impl IoWatch {
    /// Takes a look. `busy_since` is when the log got the work of which it has finished nothing.
    pub fn look(
        &mut self,
        now: Tick,
        busy_since: Option<Tick>,
        thresholds: &IoThresholds,
    ) -> Option<IoChange> {
        let stalled = busy_since.map_or(Duration::ZERO, |since| now.since(since));
        self.hangs = thresholds.hung.is_some_and(|hung| stalled > hung);
        let slow = self.hangs || stalled > thresholds.slow;
        if slow {
            self.last_slow = now;
        }
        let next = match self.state {
            _ if self.hangs => Some(FailureTag::HungIo),
            None if slow => Some(FailureTag::SlowIo),
            Some(_) if now.since(self.last_slow) >= CALM => None,
            other => other,
        };
        let before = std::mem::replace(&mut self.state, next);
        (next != before).then_some(IoChange { now: next, before, stalled })
    }

    /// What the log is: `SlowIo`, `HungIo`, or nothing.
    #[must_use]
    pub const fn state(&self) -> Option<FailureTag> {
        self.state
    }

    /// Whether it hangs at this moment. A log that went on is told as hung for a while, but is left
    /// by nobody any more.
    #[must_use]
    pub const fn hangs(&self) -> bool {
        self.hangs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick(0).after(Duration::from_secs(seconds))
    }

    const THRESHOLDS: IoThresholds =
        IoThresholds { slow: Duration::from_secs(5), hung: Some(Duration::from_secs(30)) };

    /// F13: slow, hung, and fine again only after a while; each told once.
    #[test]
    fn a_log_is_slow_then_hung_then_fine() {
        let (slow, hung) = (Some(FailureTag::SlowIo), Some(FailureTag::HungIo));
        // When, since when busy, what is told, whether it hangs.
        let table = [
            (100, None, None, false),
            (105, Some(100), None, false),
            (106, Some(100), Some((None, slow)), false),
            (120, Some(100), None, false),
            (131, Some(100), Some((slow, hung)), true),
            (140, Some(100), None, true),
            (141, None, None, false),
            (145, Some(144), None, false),
            (149, None, None, false),
            (150, None, Some((hung, None)), false),
            (200, Some(120), Some((None, hung)), true),
        ];
        let mut watch = IoWatch::default();
        for (now, busy, told, hangs) in table {
            let change = watch.look(at(now), busy.map(at), &THRESHOLDS);
            let change = change.map(|change| (change.before, change.now));
            assert_eq!((change, watch.hangs()), (told, hangs), "at {now}");
        }
    }

    /// With the threshold at 0 no log is hung, however long it stands.
    #[test]
    fn never_is_never() {
        let settings = ClusterSettings::default().with(Setting::HungIoAfter, Some(0));
        let thresholds = IoThresholds::from(&settings.expect("in bounds"));
        let mut watch = IoWatch::default();
        assert!(watch.look(at(9_999), Some(at(1)), &thresholds).is_some());
        assert_eq!((watch.state(), watch.hangs()), (Some(FailureTag::SlowIo), false));
    }
}

//! Starts and mounts that take the process along (review S9.6).
//!
//! A *try* stands in the control file, written before what may kill the process and taken away
//! after it; a copy that begins with too many of them is left alone. It covers the opening of the
//! files and the replay of what an earlier life may have died of: the log that was found at the
//! start, and the log that a mount makes this copy replay. Once all of that is in the store, the
//! tries of earlier lives are forgotten, too. While there is nothing to replay (no lease yet, not
//! known to be committed, suspended) no try stands for longer than [`STOOD`], so that a process
//! that is killed for other reasons does not count against its copies.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keelson_types::Position;
use tokio::time::Instant;

use crate::log_lane::LogJob;
use crate::owner::Owner;

/// How long a try stands without anything to replay: mostly the lease comes earlier, and saves a
/// write of the control file.
const STOOD: Duration = Duration::from_secs(2);

/// See the module page.
#[derive(Debug)]
pub(super) struct Guard {
    /// The store must be here before replay is beyond suspicion.
    suspect: Position,
    /// Replay up to here waits until a try is written.
    held: Option<Position>,
    /// When a try without work is taken away.
    look_at: Instant,
    /// The start, or mount, came to a good end.
    settled: bool,
    /// The copy was told to replay what it may.
    released: bool,
}

/// What is known of a replay when the guard is asked.
#[derive(Debug, Clone, Copy)]
struct Standing {
    /// A try stands in the control file.
    counted: bool,
    /// Where the store is, and where it is going.
    replayed: Position,
    sent: Position,
    /// An epoch is being opened that does not serve yet.
    mounting: bool,
    /// A lag is in force: suspects come one by one, for days.
    late: bool,
}

/// What becomes of a try.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing changes.
    Wait,
    /// This one is taken away; those of earlier lives stay.
    Ended,
    /// All of them are.
    Settled,
}

impl Guard {
    /// For a log that ends here.
    pub(super) fn new(end: Position, now: Instant) -> Self {
        let look_at = now + STOOD;
        Self { suspect: end, held: None, look_at, settled: false, released: false }
    }

    /// The copy is about to be mounted, and to replay so far.
    pub(super) fn mounting(&mut self, required: Position) {
        self.suspect = self.suspect.max(required);
        self.settled = false;
    }

    pub(super) fn released(&mut self) {
        self.released = true;
    }

    /// The log was cut: nothing is replayed beyond.
    pub(super) fn cut(&mut self, to: Position) {
        self.suspect = self.suspect.min(to);
        self.held = self.held.map(|held| held.min(to));
    }

    /// The store goes elsewhere; what is to be replayed is said anew.
    pub(super) fn forget(&mut self) {
        self.held = None;
    }

    fn verdict(&self, now: Instant, at: Standing) -> Verdict {
        if self.held.is_some() || at.replayed < at.sent {
            return Verdict::Wait;
        }
        let whole = at.replayed >= self.suspect || at.late;
        if self.released && whole && !at.mounting && !self.settled {
            return Verdict::Settled;
        }
        match at.counted && now >= self.look_at {
            true => Verdict::Ended,
            false => Verdict::Wait,
        }
    }
}

impl Owner {
    /// Whether replay up to `to` may begin at once; else it does when a try is written.
    pub(super) fn may_replay(&mut self, to: Position) -> bool {
        let counted = self.shared.counted.load(Ordering::Relaxed);
        let free = counted || self.replay_sent >= self.guard.suspect;
        if free && self.guard.held.is_none() {
            return true;
        }
        if self.guard.held.replace(to).is_none() {
            self.log_job(LogJob::CountTry);
        }
        false
    }

    /// The try is durable.
    pub(super) fn try_counted(&mut self) {
        self.shared.counted.store(true, Ordering::Relaxed);
        self.guard.look_at = Instant::now() + STOOD;
        if let Some(to) = self.guard.held.take().filter(|to| *to > self.replay_sent) {
            self.replay_to(to);
        }
    }

    /// Takes tries away that came to their end.
    pub(super) fn settle(&mut self) {
        let at = self.standing_of_replay();
        let (whole, job) = match self.guard.verdict(Instant::now(), at) {
            Verdict::Wait => return,
            Verdict::Ended => (false, LogJob::EndTry),
            Verdict::Settled => (true, LogJob::Settled),
        };
        if whole {
            (self.guard.settled, self.guard.suspect) = (true, Position::ZERO);
        }
        self.shared.counted.store(false, Ordering::Relaxed);
        self.log_job(job);
    }

    /// The copy is closed, and the process goes on or ends well.
    pub(super) fn end_try(&self) {
        if self.shared.counted.swap(false, Ordering::Relaxed) {
            self.log_job(LogJob::EndTry);
        }
    }

    /// When to look at a try that has nothing to do.
    pub(super) fn guard_wake(&self) -> Option<Instant> {
        let at = self.standing_of_replay();
        let idle = self.guard.held.is_none() && at.replayed >= at.sent;
        (at.counted && idle).then_some(self.guard.look_at)
    }

    fn standing_of_replay(&self) -> Standing {
        Standing {
            counted: self.shared.counted.load(Ordering::Relaxed),
            replayed: self.shared.replayed.load(),
            sent: self.replay_sent,
            mounting: self.machine.own_epoch().is_some() && self.writer.is_none(),
            late: self.replays_late(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position::new(1, offset)
    }

    #[test]
    fn a_try_ends_when_what_was_found_is_replayed_and_never_before_the_word_to_replay() {
        let start = Instant::now();
        let standing = Standing {
            counted: true,
            replayed: at(100),
            sent: at(100),
            mounting: false,
            late: false,
        };
        let found =
            |end, released, settled| Guard { released, settled, ..Guard::new(at(end), start) };
        let idle = start + STOOD;
        use Verdict::{Ended, Settled, Wait};
        for (name, guard, now, at, verdict) in [
            ("no word yet", found(100, false, false), start, standing, Wait),
            ("none for long", found(100, false, false), idle, standing, Ended),
            ("all replayed", found(100, true, false), start, standing, Settled),
            (
                "already said",
                found(100, true, true),
                idle,
                Standing { counted: false, ..standing },
                Wait,
            ),
            (
                "under way",
                found(100, true, false),
                idle,
                Standing { sent: at(200), ..standing },
                Wait,
            ),
            ("not known to be committed", found(200, true, false), start, standing, Wait),
            ("for long", found(200, true, false), idle, standing, Ended),
            (
                "lagged",
                found(200, true, false),
                start,
                Standing { late: true, ..standing },
                Settled,
            ),
            (
                "mounting",
                found(100, true, false),
                start,
                Standing { mounting: true, ..standing },
                Wait,
            ),
        ] {
            assert_eq!(guard.verdict(now, at), verdict, "{name}");
        }
    }

    #[test]
    fn a_mount_makes_what_it_needs_suspect_and_a_cut_takes_it_away() {
        let mut guard = Guard { settled: true, ..Guard::new(at(100), Instant::now()) };
        guard.mounting(at(300));
        assert_eq!((guard.suspect, guard.settled), (at(300), false));
        guard.held = Some(at(250));
        guard.cut(at(200));
        assert_eq!((guard.suspect, guard.held), (at(200), Some(at(200))));
    }
}

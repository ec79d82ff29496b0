//! Closing the open generation of a database to which nobody writes any more, so that its log can
//! be truncated, backed up and replayed late by whole files (design §4).
//!
//! One wake-up follows the last write; after that the database costs no timer.

use std::time::Duration;

use tokio::time::Instant;

use crate::log_lane::LogJob;
use crate::owner::{Owner, unix_millis};

/// How long nobody has written when the generation is closed.
pub(super) const CLOSE_AFTER: Duration = Duration::from_secs(15 * 60);

/// When somebody wrote last, until the generation was closed for it.
#[derive(Debug, Default)]
pub(super) struct IdleClose {
    wrote: Option<Instant>,
}

impl IdleClose {
    pub(super) fn wrote(&mut self, now: Instant) {
        self.wrote = Some(now);
    }

    /// When to look; nothing while there is nothing to close.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.wrote.map(|wrote| wrote + CLOSE_AFTER)
    }

    /// Whether the generation is to be closed now; says so once per silence.
    fn take_due(&mut self, now: Instant) -> bool {
        let due = self.wake().is_some_and(|wake| wake <= now);
        if due {
            self.wrote = None;
        }
        due
    }
}

impl Owner {
    /// Opens the next generation, which stays without a frame until somebody writes. Passives get
    /// its header with that frame.
    pub(super) fn close_idle_generation(&mut self, now: Instant) {
        if !self.idle.take_due(now) || self.writer.is_none() {
            return;
        }
        if !self.room().look().takes_log() {
            return self.idle.wrote(now);
        }
        let before = self.cursor.position();
        let Some(header) = self.cursor.close_generation(unix_millis()) else { return };
        self.tail.push(before, header.clone());
        self.frames_in_flight += 1;
        self.log_job(LogJob::Write { chunks: vec![header], end: self.cursor.end() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_noticed_once_and_an_idle_database_has_no_timer() {
        let (mut idle, start) = (IdleClose::default(), Instant::now());
        assert_eq!(idle.wake(), None);
        idle.wrote(start);
        idle.wrote(start + CLOSE_AFTER / 2);
        assert!(!idle.take_due(start + CLOSE_AFTER), "somebody wrote meanwhile");
        assert!(idle.take_due(start + CLOSE_AFTER * 2));
        assert!(!idle.take_due(start + CLOSE_AFTER * 9));
        assert_eq!(idle.wake(), None);
    }
}

//! Sizes and ages of the generations that a copy keeps, for queues, truncation and status.

use std::collections::BTreeMap;

use keelson_log::Log;
use keelson_types::{Generation, LogSizes};

/// Bytes of a generation that is not known here; every database closes them at a size of its own.
const ASSUMED_BYTES: u64 = 16 * 1024 * 1024;

/// See the module page.
#[derive(Debug)]
pub(crate) struct LogIndex {
    pub(crate) sizes: LogSizes,
    /// When each kept generation was begun, Unix milliseconds.
    created: BTreeMap<Generation, u64>,
}

impl Default for LogIndex {
    /// Of no files.
    fn default() -> Self {
        Self { sizes: LogSizes::new(ASSUMED_BYTES), created: BTreeMap::new() }
    }
}

impl LogIndex {
    /// Of these files, if they are others than those known here.
    pub(crate) fn refresh(&mut self, log: &Log, assumed_bytes: u64) {
        let (first, last) = (log.first_generation(), log.last_generation());
        let known = (self.created.keys().next().copied(), self.created.keys().last().copied());
        if known == (first, last) {
            return;
        }
        *self = Self { sizes: LogSizes::new(assumed_bytes), created: BTreeMap::new() };
        for header in log.headers() {
            self.created.insert(header.generation, header.created_at.unix_millis());
            if Some(header.generation) > first {
                let end = header.previous_end;
                self.sizes.set(end.generation, end.offset);
            }
        }
    }

    /// When the oldest log at or behind a generation was begun.
    pub(crate) fn since(&self, generation: Generation) -> Option<u64> {
        self.created.range(generation..).next().map(|(_, millis)| *millis)
    }
}

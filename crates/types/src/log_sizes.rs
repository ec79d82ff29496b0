//! Queue arithmetic over generations of different sizes.
//!
//! Generations are closed early (a new epoch, an idle quarter of an hour) and may exceed their
//! target by one frame, so a distance in the log needs the size of every file between. Sizes that
//! are not known, for example of generations that only the active has, are assumed.

use std::collections::BTreeMap;

use crate::{Generation, LOG_UNIT_BYTES, Position};

/// A stretch of log that waits for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Queue {
    /// Bytes, exact as far as the sizes are known.
    pub bytes: u64,
    /// Closed generations that hold some of them; the open one does not count (review C9).
    pub generations: u64,
}

impl Queue {
    /// The queue in logs: begun MiB of log, the unit of every threshold.
    #[must_use]
    pub const fn logs(self) -> u64 {
        self.bytes.div_ceil(LOG_UNIT_BYTES)
    }
}

/// The sizes of closed generations, as far as they are known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSizes {
    closed: BTreeMap<Generation, u64>,
    assumed_bytes: u64,
}

impl LogSizes {
    /// No sizes known; every generation counts as `assumed_bytes`, the size at which the database
    /// closes them.
    #[must_use]
    pub const fn new(assumed_bytes: u64) -> Self {
        Self { closed: BTreeMap::new(), assumed_bytes }
    }

    /// Notes the size of a closed generation.
    pub fn set(&mut self, generation: Generation, bytes: u64) {
        self.closed.insert(generation, bytes);
    }

    /// Forgets the generations before this one, which were removed.
    pub fn forget_before(&mut self, generation: Generation) {
        self.closed = self.closed.split_off(&generation);
    }

    /// Bytes of a closed generation, known or assumed.
    #[must_use]
    pub fn bytes_of(&self, generation: Generation) -> u64 {
        self.closed.get(&generation).copied().unwrap_or(self.assumed_bytes)
    }

    /// What lies between two positions; nothing if `to` is not beyond `from`, as for a stale
    /// `generated` after a failover. Bounded by the number of known generations.
    #[must_use]
    pub fn between(&self, from: Position, to: Position) -> Queue {
        // Generation 0 holds nothing: an empty log begins with generation 1.
        let from = from.max(Position::new(1, 0));
        if to <= from {
            return Queue::default();
        }
        if to.generation == from.generation {
            return Queue { bytes: to.offset - from.offset, generations: 0 };
        }
        let head = self.bytes_of(from.generation).saturating_sub(from.offset);
        let whole = self.whole_bytes(from.generation.next(), to.generation);
        let known_end = self.closed.get(&from.generation);
        let at_border = u64::from(known_end.is_some_and(|bytes| from.offset >= *bytes));
        Queue {
            bytes: head.saturating_add(whole).saturating_add(to.offset),
            generations: to.generation.0 - from.generation.0 - at_border,
        }
    }

    /// Bytes of the generations from `first` up to, not including, `end`.
    fn whole_bytes(&self, first: Generation, end: Generation) -> u64 {
        let known = || self.closed.range(first..end).map(|(_, bytes)| *bytes);
        let known_count = known().count() as u64;
        let unknown = (end.0 - first.0).saturating_sub(known_count);
        known().fold(unknown.saturating_mul(self.assumed_bytes), u64::saturating_add)
    }

    /// Start of the generation that lies at least `bytes` before `position`: from there on, that
    /// much log is kept in whole files. Never before the lowest known generation, for older files
    /// do not exist.
    #[must_use]
    pub fn back(&self, position: Position, bytes: u64) -> Position {
        let mut kept = position.offset;
        let mut first = position.generation;
        for (generation, size) in self.closed.range(..position.generation).rev() {
            if kept >= bytes {
                break;
            }
            kept = kept.saturating_add(*size);
            first = *generation;
        }
        Position { generation: first, offset: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> LogSizes {
        let mut sizes = LogSizes::new(1_000);
        for (generation, bytes) in [(3, 700), (4, 50), (5, 1_020)] {
            sizes.set(Generation(generation), bytes);
        }
        sizes
    }

    #[track_caller]
    fn check(from: (u64, u64), to: (u64, u64), bytes: u64, generations: u64) {
        let queue = sizes().between(Position::new(from.0, from.1), Position::new(to.0, to.1));
        assert_eq!(queue, Queue { bytes, generations }, "{from:?} to {to:?}");
    }

    /// F48, F49, review C9: bytes are exact, generations are the closed ones beyond.
    #[test]
    fn queues_cross_generations_of_different_sizes() {
        check((4, 10), (4, 10), 0, 0);
        check((4, 10), (4, 45), 35, 0);
        check((3, 600), (6, 8), 100 + 50 + 1_020 + 8, 3);
        check((3, 700), (4, 20), 20, 0);
        check((5, 0), (9, 1), 1_020 + 3 * 1_000 + 1, 4);
        check((0, 0), (2, 0), 1_000, 1);
    }

    /// Review C9: `generated` may be stale and lower than `inspected`; a queue is never negative.
    #[test]
    fn a_stale_end_gives_an_empty_queue() {
        check((6, 8), (3, 600), 0, 0);
    }

    /// Review S12: one log is a begun MiB, whatever the size of the files.
    #[test]
    fn logs_are_begun_mebibytes() {
        for (bytes, logs) in [(0, 0), (1, 1), (LOG_UNIT_BYTES, 1), (LOG_UNIT_BYTES + 1, 2)] {
            assert_eq!(Queue { bytes, generations: 0 }.logs(), logs);
        }
    }

    #[test]
    fn stepping_back_keeps_whole_files_and_stops_at_the_oldest() {
        let sizes = sizes();
        let at = Position::new(6, 100);
        for (bytes, generation) in [(0, 6), (100, 6), (101, 5), (1_121, 4), (1_171, 3), (9_999, 3)]
        {
            assert_eq!(sizes.back(at, bytes), Position::new(generation, 0), "{bytes} bytes");
        }
    }

    #[test]
    fn forgotten_generations_count_as_assumed_again() {
        let mut sizes = sizes();
        sizes.forget_before(Generation(5));
        assert_eq!(sizes.bytes_of(Generation(4)), 1_000);
        assert_eq!(sizes.bytes_of(Generation(5)), 1_020);
    }
}

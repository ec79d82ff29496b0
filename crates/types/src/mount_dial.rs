//! Mount dials: how much may be missing from a copy that becomes active by itself (F22, F23), and
//! the ceiling that makes it known.
//!
//! An active that acknowledges alone (constraint `none`, or a degraded rule) keeps a *ceiling* in
//! consensus: it commits nothing behind it before a higher one is recorded. So whoever survives it
//! knows how much can be missing at most. Everything here errs on the side of too much: what cannot
//! be worked out is unknown, and an unknown loss is within no dial (G3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Epoch, LogEnd, Position, Watermarks};

/// How far a ceiling lies before the end of the log, in bytes: what a copy that holds everything
/// seems to miss at most, and how seldom the ceiling is raised.
pub const CEILING_AHEAD_BYTES: u64 = 2 * 1024 * 1024;

/// Up to how many missing logs of 1 MiB a copy is activated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountDial {
    /// None.
    #[default]
    Lossless,
    /// Six.
    GoodAvailability,
    /// Twelve.
    BestAvailability,
    /// Any number, known or not. Only an operator's word, never a setting.
    BestEffort,
}

impl MountDial {
    /// All of them, the strictest first.
    pub const ALL: [Self; 4] =
        [Self::Lossless, Self::GoodAvailability, Self::BestAvailability, Self::BestEffort];

    /// The most logs that may be missing; nothing for any number.
    #[must_use]
    pub const fn logs_max(self) -> Option<u64> {
        match self {
            Self::Lossless => Some(0),
            Self::GoodAvailability => Some(6),
            Self::BestAvailability => Some(12),
            Self::BestEffort => None,
        }
    }

    /// Whether a loss of so many logs is within the dial; an unknown one is not.
    #[must_use]
    pub fn allows(self, missing_logs: Option<u64>) -> bool {
        match (self.logs_max(), missing_logs) {
            (None, _) => true,
            (Some(max), Some(missing)) => missing <= max,
            (Some(_), None) => false,
        }
    }
}

impl fmt::Display for MountDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lossless => "lossless",
            Self::GoodAvailability => "good_availability",
            Self::BestAvailability => "best_availability",
            Self::BestEffort => "best_effort",
        })
    }
}

impl FromStr for MountDial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut dials = Self::ALL.into_iter();
        dials.find(|dial| dial.to_string() == text).ok_or_else(|| {
            let names = Self::ALL.map(|dial| dial.to_string()).join(", ");
            format!("{text:?} is no mount dial; there are {names}")
        })
    }
}

/// A promise of the active of one epoch: nothing is committed further than `ahead_bytes` behind
/// `border`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ceiling {
    /// A border between frames: of the epoch itself, or the end of the log that it goes on with.
    pub border: LogEnd,
    /// Offset at which the generation before that of `border` ends, if the active knows it.
    pub previous_end: Option<u64>,
    /// How far beyond it.
    pub ahead_bytes: u64,
}

impl Ceiling {
    /// The ceiling with which an epoch begins whose log goes on behind `end`.
    #[must_use]
    pub const fn first(end: LogEnd) -> Self {
        Self { border: end, previous_end: None, ahead_bytes: CEILING_AHEAD_BYTES }
    }

    /// The highest position that it allows. An epoch begins a generation of its own.
    fn limit(&self, epoch: Epoch) -> Position {
        match self.border.epoch == epoch {
            true => Position {
                offset: self.border.position.offset.saturating_add(self.ahead_bytes),
                ..self.border.position
            },
            false => Position {
                generation: self.border.position.generation.next(),
                offset: self.ahead_bytes,
            },
        }
    }

    /// Whether the active of `epoch` may commit up to here. Positions of another generation are not
    /// allowed, since bytes cannot be counted across its end.
    #[must_use]
    pub fn allows(&self, epoch: Epoch, position: Position) -> bool {
        let limit = self.limit(epoch);
        let passed = self.border.epoch == epoch && position <= self.border.position;
        passed || position.generation == limit.generation && position.offset <= limit.offset
    }

    /// Bytes that `epoch` can have committed behind `held`, at most; nothing if that cannot be
    /// told. The log of the epoch goes on behind `begins`. `held` is the end of the log of a copy.
    #[must_use]
    pub fn missing(&self, epoch: Epoch, begins: LogEnd, held: LogEnd) -> Option<u64> {
        if held.epoch > epoch {
            // It was bound later, and took over whatever this one had committed.
            return Some(0);
        }
        if held.epoch == epoch {
            return self.missing_in_epoch(epoch, held.position);
        }
        if held.epoch != begins.epoch {
            return None;
        }
        // One writer wrote that epoch: the copy holds a beginning of what this one goes on with.
        let before = bytes(held.position.min(begins.position), begins.position, None)?;
        let after = match self.border.epoch == epoch {
            false => 0,
            true => self.since_opening(begins.position)?,
        };
        before.checked_add(after)?.checked_add(self.ahead_bytes)
    }

    fn missing_in_epoch(&self, epoch: Epoch, held: Position) -> Option<u64> {
        let limit = self.limit(epoch);
        if held >= limit {
            return Some(0);
        }
        if held.generation == limit.generation {
            return Some(limit.offset - held.offset);
        }
        match self.border.epoch == epoch {
            true => {
                bytes(held, self.border.position, self.previous_end)?.checked_add(self.ahead_bytes)
            }
            false => None,
        }
    }

    /// Bytes from the opening of the epoch to the border.
    fn since_opening(&self, begins: Position) -> Option<u64> {
        let first = Position { generation: begins.generation.next(), offset: 0 };
        bytes(first, self.border.position, self.previous_end)
    }
}

/// Bytes of log between two positions of one timeline: in one generation, or in two of which the
/// first ends at a known offset.
fn bytes(from: Position, to: Position, first_ends: Option<u64>) -> Option<u64> {
    if from >= to {
        return Some(0);
    }
    if from.generation == to.generation {
        return Some(to.offset - from.offset);
    }
    // Generation 0 holds nothing: an empty log begins with generation 1.
    if from == Position::ZERO && to.generation.0 == 1 {
        return Some(to.offset);
    }
    let rest = first_ends?.checked_sub(from.offset)?;
    rest.checked_add(to.offset).filter(|_| from.generation.next() == to.generation)
}

/// A loss in logs: begun MiB.
#[must_use]
pub fn missing_logs(bytes: Option<u64>) -> Option<u64> {
    bytes.map(Watermarks::bytes_to_logs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn end(epoch: u64, generation: u64, offset: u64) -> LogEnd {
        LogEnd { epoch: Epoch::new(0, epoch), position: Position::new(generation, offset) }
    }

    /// 1.10, F23: lossless 0, good availability up to 6, best availability up to 12, best effort
    /// any number; the comparison is "at most" (13.17); an unknown loss is within none of the
    /// three.
    #[test]
    fn dials_allow_what_the_reference_says() {
        use MountDial as D;
        for (dial, missing, allowed) in [
            (D::Lossless, Some(0), true),
            (D::Lossless, Some(1), false),
            (D::GoodAvailability, Some(6), true),
            (D::GoodAvailability, Some(7), false),
            (D::BestAvailability, Some(12), true),
            (D::BestAvailability, Some(13), false),
            (D::BestEffort, Some(u64::MAX), true),
            (D::Lossless, None, false),
            (D::GoodAvailability, None, false),
            (D::BestAvailability, None, false),
            (D::BestEffort, None, true),
        ] {
            assert_eq!(dial.allows(missing), allowed, "{dial} {missing:?}");
        }
        for dial in MountDial::ALL {
            assert_eq!(dial.to_string().parse(), Ok(dial));
        }
        assert!("none".parse::<MountDial>().is_err());
        assert_eq!(missing_logs(Some(1)), Some(1), "a begun log counts");
    }

    /// In its own epoch: everything up to the border was allowed before; beyond it so many bytes of
    /// the same generation.
    #[test]
    fn a_ceiling_allows_bytes_of_one_generation() {
        let first = Ceiling::first(end(1, 3, 700));
        for (position, allowed) in [
            (Position::new(3, 700), false),
            (Position::new(4, 64), true),
            (Position::new(4, 2 * MIB), true),
            (Position::new(4, 2 * MIB + 1), false),
            (Position::new(5, 64), false),
        ] {
            assert_eq!(first.allows(Epoch::new(0, 2), position), allowed, "{position}");
        }
        let raised = Ceiling { border: end(2, 4, 900), ..first };
        for (position, allowed) in [
            (Position::new(3, 700), true),
            (Position::new(4, 900), true),
            (Position::new(4, 900 + 2 * MIB), true),
            (Position::new(4, 901 + 2 * MIB), false),
            (Position::new(5, 0), false),
        ] {
            assert_eq!(raised.allows(Epoch::new(0, 2), position), allowed, "{position}");
        }
    }

    /// What is missing is never more than the ceiling and what is known of the log before it; a
    /// gap whose size nobody knows, or a log of another history, is unknown.
    #[test]
    fn what_is_missing_is_counted_or_unknown() {
        let (epoch, begins) = (Epoch::new(0, 5), end(4, 7, 1_000));
        let first = Ceiling { ahead_bytes: 100, ..Ceiling::first(begins) };
        let same = Ceiling { border: end(5, 8, 500), ..first };
        let rolled = Ceiling { border: end(5, 9, 60), previous_end: Some(800), ..first };
        let blind = Ceiling { previous_end: None, ..rolled };
        for (what, ceiling, held, missing) in [
            ("a later epoch took it over", first, end(6, 1, 1), Some(0)),
            ("all it went on with, nothing of it", first, end(4, 7, 1_000), Some(100)),
            ("less than it went on with", first, end(4, 7, 900), Some(200)),
            ("a fork of what it went on with", first, end(4, 9, 50), Some(100)),
            ("the beginning of another generation", first, end(4, 6, 50), None),
            ("another history", first, end(3, 7, 1_000), None),
            ("some of it", first, end(5, 8, 40), Some(60)),
            ("more than may be committed", first, end(5, 8, 140), Some(0)),
            ("at the border", same, end(5, 8, 500), Some(100)),
            ("before the border", same, end(5, 8, 100), Some(500)),
            ("behind the border", same, end(5, 8, 560), Some(40)),
            ("beyond the limit", same, end(5, 8, 601), Some(0)),
            ("before the epoch", same, end(4, 7, 1_000), Some(600)),
            ("in the generation before", rolled, end(5, 8, 700), Some(260)),
            ("at the end of that", rolled, end(5, 8, 800), Some(160)),
            ("beyond what that can hold", rolled, end(5, 8, 900), None),
            ("whose end is not known", blind, end(5, 8, 700), None),
            ("two generations before", rolled, end(4, 7, 1_000), Some(960)),
            ("the same, and unknown", blind, end(4, 7, 1_000), None),
        ] {
            assert_eq!(ceiling.missing(epoch, begins, held), missing, "{what}");
        }
        let new = Ceiling { border: end(1, 1, 300), previous_end: None, ahead_bytes: 100 };
        let empty = new.missing(Epoch::new(0, 1), LogEnd::ZERO, LogEnd::ZERO);
        assert_eq!(empty, Some(400), "an empty log of a new database");
    }
}

//! Log that was given up on somebody's word, as a value that receipts and copies share.

use serde::{Deserialize, Serialize};

use crate::{Epoch, EpochTable, LogEnd, Position};

/// Every frame of an epoch below `epoch` whose end comes behind `kept`, by epoch first. (A timeline
/// of a higher epoch may be given up while an older one goes on beyond it in position.)
///
/// It speaks of logs that contain `epoch`: an activation that never came to its opening frame gave
/// nothing up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Discard {
    /// The epoch that goes on behind `kept`.
    pub epoch: Epoch,
    /// End of the log that is kept.
    pub kept: LogEnd,
}

impl Discard {
    /// Whether the frame that ends here is given up.
    #[must_use]
    pub fn covers(&self, end: LogEnd) -> bool {
        end.epoch < self.epoch && end > self.kept
    }

    /// Whether every frame of `epoch` that ends behind `from` is given up.
    fn covers_behind(&self, epoch: Epoch, from: Position) -> bool {
        epoch < self.epoch && LogEnd { epoch, position: from } >= self.kept
    }
}

/// Whether all that a log of `table` holds between two positions was given up, each part of it by
/// one of `discards` or another.
#[must_use]
pub fn all_given_up(
    table: &EpochTable,
    (from, to): (Position, Position),
    discards: &[Discard],
) -> bool {
    let starts = table.rows().iter().map(|row| row.previous_end);
    let inside = starts.filter(|start| *start > from && *start < to);
    // Each part begins where the log or an epoch does; the epoch is that of its first frame.
    std::iter::once(from).filter(|from| *from < to).chain(inside).all(|start| {
        let rows = table.rows().iter().rev();
        let row = rows.into_iter().find(|row| row.previous_end <= start);
        let epoch = row.map_or(Epoch::ZERO, |row| row.epoch);
        discards.iter().any(|discard| discard.covers_behind(epoch, start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EpochStart;

    fn at(offset: u64) -> Position {
        Position::new(1, offset)
    }

    fn end(counter: u64, offset: u64) -> LogEnd {
        LogEnd { epoch: Epoch::new(0, counter), position: at(offset) }
    }

    fn discard(counter: u64, kept: LogEnd) -> Discard {
        Discard { epoch: Epoch::new(0, counter), kept }
    }

    /// Epoch 1 from the start, epoch 2 behind 300.
    fn table() -> EpochTable {
        let row = |counter, offset| EpochStart {
            epoch: Epoch::new(0, counter),
            previous_end: at(offset),
            chain: 0,
        };
        EpochTable::from_rows(vec![row(1, 0), row(2, 300)]).expect("rising")
    }

    #[test]
    fn what_is_given_up_is_compared_by_epoch_first_r3() {
        for (kept, frame, given_up) in [
            (end(4, 50), end(4, 50), false),
            (end(4, 50), end(4, 51), true),
            (end(4, 50), end(7, 51), false),
            (end(4, 50), end(6, 30), true),
            (end(6, 50), end(4, 90), false),
        ] {
            assert_eq!(discard(7, kept).covers(frame), given_up, "{frame:?} behind {kept:?}");
        }
    }

    #[test]
    fn every_part_of_a_fork_must_be_given_up() {
        for (from, to, discards, given_up) in [
            (300, 300, vec![], true),
            (200, 300, vec![], false),
            // One epoch: from the kept end on, not before it.
            (200, 300, vec![discard(3, end(1, 200))], true),
            (199, 300, vec![discard(3, end(1, 200))], false),
            (200, 300, vec![discard(1, end(1, 200))], false),
            // A part of each of two epochs.
            (200, 400, vec![discard(3, end(1, 200))], true),
            (200, 400, vec![discard(2, end(1, 200))], false),
            (200, 400, vec![discard(2, end(1, 200)), discard(5, end(2, 300))], true),
            // Epoch 2 was left while an older timeline went on beyond it in position.
            (300, 400, vec![discard(5, end(1, 900))], true),
            (200, 400, vec![discard(5, end(1, 900))], false),
        ] {
            let found = all_given_up(&table(), (at(from), at(to)), &discards);
            assert_eq!(found, given_up, "{from} to {to} by {discards:?}");
        }
    }
}

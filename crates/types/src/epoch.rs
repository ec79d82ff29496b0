//! Epochs and the table of epoch starts, by which two logs find their last common position.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{LogEnd, Position};

/// Number of an activation: recovery generation first, counter second (review S19). Allocated by
/// consensus, never reused; `ZERO` means "before the first activation".
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Epoch {
    /// Raised by every forced recovery of a site; a lower one is refused by everyone.
    pub recovery: u32,
    /// Raised by every attempt to activate a copy.
    pub counter: u64,
}

impl Epoch {
    /// Before the first activation.
    pub const ZERO: Self = Self { recovery: 0, counter: 0 };

    /// An epoch from its two numbers.
    #[must_use]
    pub const fn new(recovery: u32, counter: u64) -> Self {
        Self { recovery, counter }
    }

    /// The next attempt in the recovery generation `recovery` (not lower than the current one).
    #[must_use]
    pub fn next(self, recovery: u32) -> Self {
        Self { recovery: self.recovery.max(recovery), counter: self.counter + 1 }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.recovery, self.counter)
    }
}

/// Where an epoch starts in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: Epoch,
    /// Where the log of the previous epoch ends (before the new generation is opened).
    pub previous_end: Position,
    /// Chain value behind the last frame before this epoch.
    pub chain: u32,
}

/// A table whose rows do not rise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochTableError {
    /// The last row.
    pub last: EpochStart,
    /// The row that does not follow it.
    pub refused: EpochStart,
}

impl fmt::Display for EpochTableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "epoch {} starting behind {} does not follow epoch {} starting behind {}",
            self.refused.epoch, self.refused.previous_end, self.last.epoch, self.last.previous_end
        )
    }
}

impl std::error::Error for EpochTableError {}

/// The epochs of one log in rising order. It outlives the generations it speaks of (review S16.5):
/// a copy keeps it in its control file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EpochTable(Vec<EpochStart>);

impl EpochTable {
    /// An empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// A table from rows in rising order.
    ///
    /// # Errors
    /// The first row that does not follow its predecessor.
    pub fn from_rows(rows: Vec<EpochStart>) -> Result<Self, EpochTableError> {
        let mut table = Self::new();
        rows.into_iter().try_for_each(|row| table.push(row)).map(|()| table)
    }

    /// The rows, oldest first.
    #[must_use]
    pub fn rows(&self) -> &[EpochStart] {
        &self.0
    }

    /// Whether a log of this table contains the opening frame of `epoch`.
    #[must_use]
    pub fn contains(&self, epoch: Epoch) -> bool {
        self.0.iter().any(|row| row.epoch == epoch)
    }

    /// The same, or it is older than all that this table remembers (a control file keeps the newest
    /// rows only).
    #[must_use]
    pub fn may_contain(&self, epoch: Epoch) -> bool {
        self.contains(epoch) || self.0.first().is_some_and(|oldest| epoch < oldest.epoch)
    }

    /// The newest row.
    #[must_use]
    pub fn last(&self) -> Option<&EpochStart> {
        self.0.last()
    }

    /// The newest epoch, `Epoch::ZERO` if there is none.
    #[must_use]
    pub fn last_epoch(&self) -> Epoch {
        self.last().map_or(Epoch::ZERO, |row| row.epoch)
    }

    /// Adds the next epoch.
    ///
    /// # Errors
    /// The row, if epoch or position do not rise.
    pub fn push(&mut self, row: EpochStart) -> Result<(), EpochTableError> {
        match self.last() {
            Some(last) if row.epoch <= last.epoch || row.previous_end < last.previous_end => {
                Err(EpochTableError { last: *last, refused: row })
            }
            _ => {
                self.0.push(row);
                Ok(())
            }
        }
    }

    /// Forgets the epochs that start at or behind `end`, after the log was cut there.
    pub fn cut(&mut self, end: Position) {
        self.0.retain(|row| row.previous_end < end || row.previous_end == Position::ZERO);
        if end == Position::ZERO {
            self.0.clear();
        }
    }

    /// The epoch to which the frame *before* `position` belongs.
    #[must_use]
    pub fn epoch_at(&self, position: Position) -> Epoch {
        let row = self.0.iter().rev().find(|row| row.previous_end < position);
        row.map_or(Epoch::ZERO, |row| row.epoch)
    }

    /// Where `epoch` ends in a log of this table that ends at `end`.
    #[must_use]
    pub fn end_of(&self, epoch: Epoch, end: Position) -> Position {
        self.0.iter().find(|row| row.epoch > epoch).map_or(end, |row| row.previous_end)
    }

    /// The last position that a log of this table ending at `end` shares with one of table `other`
    /// ending at `other_end`: the newest epoch that started in both at the same place and with the
    /// same chain, up to where the shorter of the two leaves it. `Position::ZERO` if they share
    /// nothing.
    #[must_use]
    pub fn common(&self, end: Position, other: &Self, other_end: Position) -> LogEnd {
        let shared = self.0.iter().rev().find(|row| other.0.contains(row));
        shared.map_or(LogEnd::ZERO, |row| LogEnd {
            epoch: row.epoch,
            position: self.end_of(row.epoch, end).min(other.end_of(row.epoch, other_end)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(counter: u64, generation: u64, offset: u64) -> EpochStart {
        EpochStart {
            epoch: Epoch::new(0, counter),
            previous_end: Position::new(generation, offset),
            chain: u32::try_from(counter).expect("small"),
        }
    }

    fn table(rows: &[EpochStart]) -> EpochTable {
        EpochTable::from_rows(rows.to_vec()).expect("rising rows")
    }

    #[test]
    fn what_a_table_cannot_remember_it_may_contain() {
        let mut table = table(&[row(3, 0, 0), row(5, 2, 700), row(7, 3, 100)]);
        table.cut(Position::new(3, 0));
        let (yes, no) = (true, false);
        for (counter, contains, may) in
            [(2, no, yes), (3, yes, yes), (4, no, no), (5, yes, yes), (7, no, no)]
        {
            let epoch = Epoch::new(0, counter);
            assert_eq!((table.contains(epoch), table.may_contain(epoch)), (contains, may));
        }
    }

    #[test]
    fn common_end_of_a_prefix_is_its_end() {
        let full = table(&[row(1, 0, 0), row(3, 2, 700)]);
        let behind = table(&[row(1, 0, 0)]);
        let common = full.common(Position::new(4, 9), &behind, Position::new(2, 300));
        assert_eq!(common, LogEnd { epoch: Epoch::new(0, 1), position: Position::new(2, 300) });
    }

    #[test]
    fn common_end_of_a_fork_is_where_the_other_epoch_began() {
        let active = table(&[row(1, 0, 0), row(3, 2, 700)]);
        let forked = table(&[row(1, 0, 0), row(2, 2, 900)]);
        let common = active.common(Position::new(9, 0), &forked, Position::new(12, 0));
        assert_eq!(common.position, Position::new(2, 700));
    }

    #[test]
    fn same_epoch_with_another_chain_shares_nothing_of_it() {
        let one = table(&[row(1, 0, 0), EpochStart { chain: 7, ..row(2, 1, 10) }]);
        let two = table(&[row(1, 0, 0), EpochStart { chain: 8, ..row(2, 1, 10) }]);
        let common = one.common(Position::new(5, 0), &two, Position::new(5, 0));
        assert_eq!(common.position, Position::new(1, 10));
    }

    #[test]
    fn cut_forgets_epochs_that_began_at_or_behind_the_cut() {
        let mut rows = table(&[row(1, 0, 0), row(2, 2, 700), row(3, 4, 100)]);
        rows.cut(Position::new(4, 100));
        assert_eq!(rows.last_epoch(), Epoch::new(0, 2));
        rows.cut(Position::ZERO);
        assert_eq!(rows.rows(), &[]);
    }

    #[test]
    fn a_table_refuses_rows_that_do_not_rise() {
        let mut rows = table(&[row(2, 2, 0)]);
        assert!(rows.push(row(2, 3, 0)).is_err());
        assert!(rows.push(row(3, 1, 0)).is_err());
    }

    #[test]
    fn epoch_at_names_the_epoch_of_the_frame_before() {
        let rows = table(&[row(1, 0, 0), row(2, 2, 700)]);
        assert_eq!(rows.epoch_at(Position::new(2, 700)), Epoch::new(0, 1));
        assert_eq!(rows.epoch_at(Position::new(3, 600)), Epoch::new(0, 2));
        assert_eq!(rows.epoch_at(Position::ZERO), Epoch::ZERO);
    }
}

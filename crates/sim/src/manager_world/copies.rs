//! Copies as numbers: the log of a copy is how many bytes it holds of each epoch.
//!
//! Each epoch has one writer and a generation of its own, so two logs that hold the same number of
//! bytes of the same epochs are the same log.

use keelson_cluster_core::CopyHealth;
use keelson_types::{CopyId, Epoch, FailureTag, LogEnd, Position};

/// Bytes of an opening frame.
pub(super) const OPENING: u64 = 64;

/// Bytes of each epoch, the oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Log(Vec<(Epoch, u64)>);

impl Log {
    pub(super) fn end(&self) -> LogEnd {
        match self.0.last() {
            None => LogEnd::ZERO,
            Some((epoch, bytes)) => {
                LogEnd { epoch: *epoch, position: Position::new(self.0.len() as u64, *bytes) }
            }
        }
    }

    /// Bytes held of an epoch.
    pub(super) fn of(&self, epoch: Epoch) -> u64 {
        let found = self.0.iter().find(|(known, _)| *known == epoch);
        found.map_or(0, |(_, bytes)| *bytes)
    }

    /// Where so many bytes of an epoch end, if it holds them.
    pub(super) fn position(&self, epoch: Epoch, bytes: u64) -> Option<Position> {
        let place = self.0.iter().position(|(known, held)| *known == epoch && *held >= bytes)?;
        Some(Position::new(place as u64 + 1, bytes))
    }

    /// The beginning of it that ends there, if it holds that.
    pub(super) fn cut_at(&self, end: LogEnd) -> Option<Self> {
        if end == LogEnd::ZERO {
            return Some(Self::default());
        }
        let count = usize::try_from(end.position.generation.0).ok()?;
        let (epoch, held) = self.0.get(count.checked_sub(1)?)?;
        if *epoch != end.epoch || *held < end.position.offset {
            return None;
        }
        let mut cut = self.0[..count].to_vec();
        cut[count - 1].1 = end.position.offset;
        Some(Self(cut))
    }

    /// Whether `other` goes on where this one ends, or is the same.
    pub(super) fn is_beginning_of(&self, other: &Self) -> bool {
        other.cut_at(self.end()).is_some_and(|cut| cut == *self)
    }

    pub(super) fn open(&mut self, epoch: Epoch) {
        self.0.push((epoch, OPENING));
    }

    pub(super) fn write(&mut self, bytes: u64) {
        if let Some((_, held)) = self.0.last_mut() {
            *held += bytes;
        }
    }

    /// Bytes of the generation before the last one.
    pub(super) fn previous_end(&self) -> Option<u64> {
        let before = self.0.len().checked_sub(2)?;
        self.0.get(before).map(|(_, bytes)| *bytes)
    }
}

/// What a member has on disk of a database.
#[derive(Clone, Debug)]
pub(super) struct CopyFile {
    pub(super) copy: CopyId,
    pub(super) log: Log,
    /// Lower epochs are refused.
    pub(super) sealed: Epoch,
    /// What of the log it knows to be committed.
    pub(super) committed: Position,
    pub(super) failure: Option<FailureTag>,
    pub(super) health: CopyHealth,
}

impl CopyFile {
    pub(super) fn new(copy: CopyId) -> Self {
        Self {
            copy,
            log: Log::default(),
            sealed: Epoch::ZERO,
            committed: Position::ZERO,
            failure: None,
            health: CopyHealth::default(),
        }
    }
}

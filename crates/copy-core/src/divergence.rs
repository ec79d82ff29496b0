//! Decides how a copy gets back onto the common log: the ladder of divergence.
//!
//! Each rung costs more than the one before, and the first that is enough is taken:
//! nothing to undo → cut the fork → reopen the store at its checkpoint and replay → fetch what the
//! fork touched → seed. What is cut is kept as salvage (G4). The function is asked again after each
//! rung that changes what it looks at: a reopened store may come back above its checkpoint, which
//! is a lower bound.
//!
//! While a mark of a range fetch stands, `replayed` and `checkpointed` are what
//! [`Mark::store_position`](crate::range_fetch::Mark::store_position) makes of them.

use std::fmt;

use keelson_types::{LogEnd, Position, Watermarks};

use crate::range_fetch::FetchCost;

/// What is known of the keys that a fork touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Touched {
    /// Nobody has looked yet. Looking costs a read of the fork, so it is asked for only if needed.
    #[default]
    Unknown,
    /// About so much to fetch.
    Counted(FetchCost),
    /// More than a mark can hold.
    TooLarge,
}

/// Where a copy and the log that it shall follow stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// End of the own log.
    pub own_end: LogEnd,
    /// The last position that both logs share, from their epoch tables.
    pub common: LogEnd,
    /// The own log is complete from here on: the previous end that its oldest file names,
    /// `Position::ZERO` if nothing was ever removed.
    pub own_log_from: Position,
    /// The same of the log to be followed, at whoever holds most of it.
    pub donor_log_from: Position,
    /// The log to be followed opens a generation at `common`, as every epoch does.
    pub donor_opens_here: bool,
    /// What the store holds.
    pub replayed: Position,
    /// What of it survives a crash, at least.
    pub checkpointed: Position,
    /// What this copy knows to be committed.
    pub committed: Position,
    /// A loss receipt of the followed epoch, or an operator's word, covers that committed frames of
    /// this copy are discarded.
    pub discard_allowed: bool,
    /// The fork's keys.
    pub touched: Touched,
    /// Size of the store, in bytes: what a seed moves.
    pub store_bytes: u64,
    /// A resync that moves more than this share of the store, in percent, is left to a seed.
    pub resync_percent_max: u8,
    /// Size of a generation, in bytes, to turn positions into bytes.
    pub generation_bytes: u64,
}

/// One rung of the ladder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rung {
    /// The own log is a part of the other one.
    Nothing,
    /// The own log is cut here; the store never saw the rest.
    CutFork {
        /// The common position.
        to: Position,
    },
    /// The store is dropped and opened again without what lies only in its memory, then the log is
    /// cut and replayed.
    ReopenAtCheckpoint {
        /// Where the store should come back, or a little later: then ask again.
        at: Position,
        /// The common position.
        cut: Position,
    },
    /// The keys that the log changed here are counted; ask again with [`Touched`].
    CountFork {
        /// The common position.
        from: Position,
        /// End of the own log: the whole fork, not only what was replayed (review S14.2).
        to: Position,
    },
    /// What the fork touched is fetched ([`crate::range_fetch`]), then the log is cut.
    Resync {
        /// The common position.
        fork: LogEnd,
        /// The estimate.
        estimated: FetchCost,
    },
    /// The copy is built anew.
    Seed {
        /// Why nothing less will do.
        why: SeedReason,
    },
    /// Nothing is undone before somebody takes the responsibility.
    Wait {
        /// Committed frames from here on would be discarded.
        from: Position,
        /// Up to here.
        to: Position,
    },
}

/// Why a copy is seeded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeedReason {
    /// Nobody holds the log that follows the common position.
    LogGone,
    /// The own log lacks a part between checkpoint and common position.
    OwnLogIncomplete,
    /// The own log lacks a part of the fork, so nobody knows what it touched.
    ForkIncomplete,
    /// The store holds effects of log that this copy does not have.
    StoreBeyondLog,
    /// The fork touched more keys than a mark can hold.
    TouchedTooLarge,
    /// A resync would cost as much.
    NoCheaper,
}

impl fmt::Display for SeedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LogGone => "nobody holds the log behind the common position",
            Self::OwnLogIncomplete => "own log before the common position is missing",
            Self::ForkIncomplete => "a part of the fork's log is missing",
            Self::StoreBeyondLog => "the store is ahead of its own log",
            Self::TouchedTooLarge => "the fork touched too many keys",
            Self::NoCheaper => "a resync would move as much as a seed",
        })
    }
}

/// What a rung costs, in bytes: shown before it is taken, and comparable with what it cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RungCost {
    /// Log that is cut off and kept as salvage: the size of the fork.
    pub salvage_bytes: u64,
    /// Log that is replayed to come back to the common position.
    pub replay_bytes: u64,
    /// Fetched from a donor's store.
    pub fetch: FetchCost,
    /// Moved by a seed.
    pub seed_bytes: u64,
}

/// A rung and its cost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What to do.
    pub rung: Rung,
    /// What it costs.
    pub cost: RungCost,
}

/// The first rung that is enough.
#[must_use]
pub fn climb(standing: &Standing) -> Verdict {
    let rung = rung(standing);
    let cost = cost(standing, &rung);
    Verdict { rung, cost }
}

fn rung(s: &Standing) -> Rung {
    let (end, common) = (s.own_end.position, s.common.position);
    let lost = s.committed.min(end);
    if common < lost && !s.discard_allowed {
        return Rung::Wait { from: common, to: lost };
    }
    if let Some(why) = beyond_help(s) {
        return Rung::Seed { why };
    }
    if end <= common {
        Rung::Nothing
    } else if s.replayed <= common {
        Rung::CutFork { to: common }
    } else if s.checkpointed <= common {
        reopen(s)
    } else {
        resync(s)
    }
}

/// What no rung but the last can mend.
fn beyond_help(s: &Standing) -> Option<SeedReason> {
    if s.replayed > s.own_end.position {
        Some(SeedReason::StoreBeyondLog)
    } else if s.donor_log_from > s.common.position {
        Some(SeedReason::LogGone)
    } else if leaves_nothing(s) && !s.donor_opens_here {
        Some(SeedReason::OwnLogIncomplete)
    } else {
        None
    }
}

/// Whether cutting the fork would leave a log without a file, which can go on only where a
/// generation begins (simulator seed 1476).
fn leaves_nothing(s: &Standing) -> bool {
    let (end, common) = (s.own_end.position, s.common.position);
    end > common && common > Position::ZERO && s.own_log_from == common
}

fn reopen(s: &Standing) -> Rung {
    if s.own_log_from > s.checkpointed {
        return Rung::Seed { why: SeedReason::OwnLogIncomplete };
    }
    Rung::ReopenAtCheckpoint { at: s.checkpointed, cut: s.common.position }
}

fn resync(s: &Standing) -> Rung {
    let (from, to) = (s.common.position, s.own_end.position);
    if s.own_log_from > from {
        return Rung::Seed { why: SeedReason::ForkIncomplete };
    }
    match s.touched {
        Touched::Unknown => Rung::CountFork { from, to },
        Touched::TooLarge => Rung::Seed { why: SeedReason::TouchedTooLarge },
        Touched::Counted(estimated) => {
            let share = u128::from(s.store_bytes) * u128::from(s.resync_percent_max) / 100;
            if u128::from(estimated.bytes) > share {
                Rung::Seed { why: SeedReason::NoCheaper }
            } else {
                Rung::Resync { fork: s.common, estimated }
            }
        }
    }
}

fn cost(s: &Standing, rung: &Rung) -> RungCost {
    let log = |from, to| Watermarks::distance_bytes(from, to, s.generation_bytes);
    let salvage_bytes = log(s.common.position, s.own_end.position);
    match rung {
        Rung::Nothing | Rung::CountFork { .. } | Rung::Wait { .. } => RungCost::default(),
        Rung::CutFork { .. } => RungCost { salvage_bytes, ..RungCost::default() },
        Rung::ReopenAtCheckpoint { at, cut } => {
            RungCost { salvage_bytes, replay_bytes: log(*at, *cut), ..RungCost::default() }
        }
        Rung::Resync { estimated, .. } => {
            RungCost { salvage_bytes, fetch: *estimated, ..RungCost::default() }
        }
        Rung::Seed { .. } => {
            RungCost { salvage_bytes, seed_bytes: s.store_bytes, ..RungCost::default() }
        }
    }
}

#[cfg(test)]
mod tests;

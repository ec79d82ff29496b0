//! Which log a copy may remove, and who holds the rest (F99-F102).
//!
//! The active decides for all: log goes when every copy is through with it, and it sends the point
//! as a [`TruncationOrder`] with its epoch. Passives follow it as far as their own recovery allows;
//! copies with a lag also wait for the lag and for the active itself. "Replayed" means
//! *checkpointed* throughout: what a store holds in memory only is lost with the process, and the
//! log is what brings it back. Expanded truncation, which breaks these rules when space runs out,
//! is decided in [`crate::expanded_truncation`].
//!
//! Every condition is a limit with a holder; the lowest limit wins, and all limits that keep a
//! closed generation are told as [`Blocker`]s. Whole generations only; the open one always stays.

#[cfg(test)]
mod tests;

use std::fmt;

use keelson_types::{CopyId, Epoch, HoldKind, LogHold, MemberId, OperationId, Position};

use crate::lag::LagSettings;

/// The log that is to be truncated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnLog {
    /// Its copy.
    pub copy: CopyId,
    /// The copy's member.
    pub member: MemberId,
    /// Log before this is gone already.
    pub truncated: Position,
    /// The store holds everything before this durably; recovery begins here.
    pub checkpointed: Position,
    /// End of the durable log.
    pub end: Position,
}

/// What the active knows of another copy. Positions that were never reported hold everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OtherCopy {
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// It has a replay lag.
    pub lagged: bool,
    /// Its log is durable up to here, as last reported.
    pub inspected: Option<Position>,
    /// Its store is durable up to here, as last reported.
    pub checkpointed: Option<Position>,
    /// Since when its replication is suspended, in Unix milliseconds.
    pub suspended_since_unix_ms: Option<u64>,
    /// No log is kept for it: it was marked as cut off (what its seed needs is a hold), or it is
    /// leaving. One that is seeded without that may be resumed as it was, and keeps its log.
    pub needs_no_log: bool,
}

/// A point that the active has decided for all copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TruncationOrder {
    /// Epoch of the active; a copy that promised a higher one refuses the order (review S16.2).
    pub epoch: Epoch,
    /// No other copy needs log before this.
    pub up_to: Position,
    /// The active's own log begins here.
    pub truncated: Position,
    /// The active's log volume is short: copies should be checkpointed, so that more may go.
    pub short_of_space: bool,
}

impl TruncationOrder {
    /// The order of an active whose log now begins at `truncated` for the point it just decided.
    #[must_use]
    pub const fn new(epoch: Epoch, decided: &Truncation, truncated: Position) -> Self {
        Self { epoch, up_to: decided.up_to, truncated, short_of_space: false }
    }
}

/// What the copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TruncationRole<'a> {
    /// It decides.
    Active {
        /// The opening frame of its epoch is committed.
        established: bool,
        /// All other copies.
        others: &'a [OtherCopy],
        /// Circular logging is on: log need not be backed up.
        circular_logging: bool,
        /// Log before this is in a backup of any copy of the database.
        backed_up: Option<Position>,
    },
    /// It follows.
    Passive {
        /// The newest order.
        order: Option<TruncationOrder>,
        /// The highest epoch the copy promised.
        sealed: Epoch,
    },
}

/// Everything that a truncation depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TruncationInputs<'a> {
    /// The log.
    pub own: OwnLog,
    /// Active or passive.
    pub role: TruncationRole<'a>,
    /// The copy's lags; they count on a passive only.
    pub lags: LagSettings,
    /// Log before this is as old as both lags ask for: [`crate::lag::InspectionClock::aged_out`].
    pub aged_out: Position,
    /// Holds of the database, from consensus.
    pub holds: &'a [LogHold],
    /// The consensus clock, by which holds expire, in Unix milliseconds.
    pub now_unix_ms: u64,
}

/// Who keeps log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Holder {
    /// A copy and its member.
    Copy(CopyId, MemberId),
    /// An operation with a hold.
    Operation(OperationId),
    /// The database as a whole: its backups, or the order of its active.
    Database,
}

/// Why log is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BlockReason {
    /// Circular logging is off and no backup covers it.
    NotBackedUp,
    /// The copy's store does not hold it durably yet; replay alone does not count.
    NotCheckpointed,
    /// The lagged copy has not received it yet.
    NotInspected,
    /// The copy is suspended: the active truncates nothing.
    Suspended,
    /// The copy has not reported a position yet.
    PositionUnknown,
    /// It is younger than replay lag and truncation lag together.
    Lag,
    /// The active still has it; a copy with a lag truncates after it.
    OnActive,
    /// The active has not released it yet, or its order is from an epoch given up.
    NotOrdered,
    /// The epoch is not established yet.
    NotEstablished,
    /// An operation holds it.
    Hold(HoldKind),
}

impl fmt::Display for BlockReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBackedUp => write!(f, "not backed up, and circular logging is off"),
            Self::NotCheckpointed => write!(f, "not yet checkpointed"),
            Self::NotInspected => write!(f, "not yet inspected"),
            Self::Suspended => write!(f, "replication suspended"),
            Self::PositionUnknown => write!(f, "has not reported its position"),
            Self::Lag => write!(f, "younger than its lags"),
            Self::OnActive => write!(f, "not yet truncated on the active"),
            Self::NotOrdered => write!(f, "not yet released by the active"),
            Self::NotEstablished => write!(f, "the epoch is not established"),
            Self::Hold(kind) => write!(f, "held by a {kind}"),
        }
    }
}

/// One that keeps log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Blocker {
    /// Log from here on is kept.
    pub from: Position,
    /// By whom.
    pub who: Holder,
    /// Why.
    pub why: BlockReason,
    /// Since when, in Unix milliseconds, where that is known: suspensions and holds. For the others
    /// it is the time of the log at `from`.
    pub since_unix_ms: Option<u64>,
}

/// What may go, and who keeps the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truncation {
    /// Start of the first generation that stays; never before `truncated`.
    pub up_to: Position,
    /// Who keeps closed generations, lowest position first: the first one decides.
    pub blockers: Vec<Blocker>,
}

/// Which log the copy may remove. Bounded by the number of copies and holds.
#[must_use]
pub fn truncation_point(inputs: &TruncationInputs<'_>) -> Truncation {
    let mut limits = Limits::new(inputs.own);
    limits.own(inputs.own.checkpointed, BlockReason::NotCheckpointed);
    match inputs.role {
        TruncationRole::Active { established, others, circular_logging, backed_up } => {
            if !established {
                limits.own(inputs.own.truncated, BlockReason::NotEstablished);
            }
            if !circular_logging {
                let from = backed_up.unwrap_or(Position::ZERO);
                limits.add(from, Holder::Database, BlockReason::NotBackedUp, None);
            }
            for other in others.iter().filter(|other| !other.needs_no_log) {
                limits.other(other);
            }
        }
        TruncationRole::Passive { order, sealed } => {
            let valid = order.filter(|order| order.epoch >= sealed);
            limits.ordered(valid, inputs.lags.truncates_late(), inputs.own.truncated);
            if inputs.lags.truncates_late() {
                limits.own(inputs.aged_out, BlockReason::Lag);
            }
        }
    }
    for hold in inputs.holds.iter().filter(|hold| hold.is_live(inputs.now_unix_ms)) {
        limits.hold(hold);
    }
    limits.result()
}

/// The limits found so far.
struct Limits {
    log: OwnLog,
    found: Vec<Blocker>,
}

impl Limits {
    const fn new(log: OwnLog) -> Self {
        Self { log, found: Vec::new() }
    }

    fn add(&mut self, from: Position, who: Holder, why: BlockReason, since_unix_ms: Option<u64>) {
        self.found.push(Blocker { from, who, why, since_unix_ms });
    }

    fn own(&mut self, from: Position, why: BlockReason) {
        self.add(from, Holder::Copy(self.log.copy, self.log.member), why, None);
    }

    /// Conditions 3 and 4 for one other copy, and the freeze while it is suspended.
    fn other(&mut self, other: &OtherCopy) {
        let who = Holder::Copy(other.copy, other.member);
        let (needed, why) = if other.lagged {
            (other.inspected, BlockReason::NotInspected)
        } else {
            (other.checkpointed, BlockReason::NotCheckpointed)
        };
        match needed {
            Some(from) => self.add(from, who, why, None),
            None => self.add(self.log.truncated, who, BlockReason::PositionUnknown, None),
        }
        if let Some(since) = other.suspended_since_unix_ms {
            self.add(self.log.truncated, who, BlockReason::Suspended, Some(since));
        }
    }

    /// A passive follows the active's order; with a lag it follows what the active really did.
    fn ordered(&mut self, order: Option<TruncationOrder>, late: bool, truncated: Position) {
        let (from, why) = match order {
            None => (truncated, BlockReason::NotOrdered),
            Some(order) if late => (order.truncated, BlockReason::OnActive),
            Some(order) => (order.up_to, BlockReason::NotOrdered),
        };
        self.add(from, Holder::Database, why, None);
    }

    fn hold(&mut self, hold: &LogHold) {
        let who = Holder::Operation(hold.operation);
        self.add(hold.from, who, BlockReason::Hold(hold.kind), Some(hold.taken_unix_ms));
    }

    /// The lowest limit decides; a limit in the open generation keeps nothing that could go.
    fn result(mut self) -> Truncation {
        let open = self.log.end.generation;
        self.found.retain(|blocker| blocker.from.generation < open);
        self.found.sort();
        let first = self.found.first().map_or(open, |blocker| blocker.from.generation);
        let up_to = Position { generation: first, offset: 0 }.max(self.log.truncated);
        Truncation { up_to, blockers: self.found }
    }
}

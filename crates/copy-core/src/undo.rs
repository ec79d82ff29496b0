//! Getting a copy back onto the log that an active offers: the ladder of
//! [`divergence`](crate::divergence), step by step.
//!
//! The machine asks the ladder at every offer and again after each rung that changed what it looks
//! at. While a rung is taken nothing is accepted, cut or replayed. A copy whose store is marked
//! (see [`range_fetch`](crate::range_fetch)) takes and acknowledges log like any other, because its
//! log is whole, but it is no candidate (review S14).

use keelson_types::{CopyFault, Discard, Epoch, Position, all_given_up};

use crate::divergence::{Rung, SeedReason, Standing, Touched, climb};
use crate::event::{Action, Assignment, OpenOffer};
use crate::machine::{CopyMachine, Role};
use crate::outcome::OpenRefusal;
use crate::passive::PassiveStep;

/// A resync that moves more than this share of the store, in percent, is left to a seed.
const RESYNC_PERCENT_MAX: u8 = 50;
/// Stores up to this size are resynced whatever the share: a seed costs more than its bytes.
const SMALL_STORE_BYTES: u64 = 64 * 1024 * 1024;

/// What the ladder looks at beside the machine's own state. Told before each offer and before the
/// answer to each rung.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ground {
    /// What of the store survives a crash, at least.
    pub checkpointed: Position,
    /// The own log is complete from here on.
    pub own_log_from: Position,
    /// Size of the store, in bytes.
    pub store_bytes: u64,
    /// Size of a generation, in bytes.
    pub generation_bytes: u64,
}

/// A mark stands beside the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marking {
    /// A fork is undone; else ranges are repaired.
    pub resync: bool,
    /// Replay stops here for now.
    pub replay_limit: Option<Position>,
}

impl CopyMachine {
    /// Asks the ladder for the offer that is being looked at, and takes the rung.
    pub(crate) fn climb(&mut self, touched: Touched, out: &mut Vec<Action>) {
        let Role::Passive(passive) = &self.role else { return };
        let PassiveStep::Undoing(offer) = &passive.step else { return };
        let (offer, rises) = (offer.clone(), passive.rises);
        let standing = self.standing(&offer, touched);
        let verdict = climb(&standing);
        if let Some(why) = refused(&verdict.rung, &standing, offer.epoch) {
            let gone = is_only_behind(&verdict.rung, &standing);
            out.push(Action::Climbed(verdict));
            return self.cannot_follow(why, gone, &offer, out);
        }
        // From here on a late seal of a lower epoch is refused, however long it takes.
        self.sealed = self.sealed.max(offer.epoch);
        match verdict.rung {
            Rung::Nothing => return self.accept_offer(rises, out),
            Rung::CutFork { to } => self.cut_fork(to, out),
            Rung::ReopenAtCheckpoint { .. } => {
                self.store_away = true;
                out.push(Action::ReopenStore);
            }
            Rung::CountFork { from, to } => return out.push(Action::CountFork { from, to }),
            Rung::Resync { fork, estimated } => {
                out.push(Action::BeginResync { epoch: offer.epoch, fork, estimated });
            }
            Rung::Seed { .. } | Rung::Wait { .. } => {}
        }
        out.push(Action::Climbed(verdict));
    }

    fn standing(&self, offer: &OpenOffer, touched: Touched) -> Standing {
        let common = self.table.common(self.end.position, &offer.table, offer.end);
        // A receipt speaks of logs that contain its epoch.
        let told = |discard: &&Discard| offer.table.contains(discard.epoch);
        let discards = self.assignment.iter().flat_map(|assignment| &assignment.discards);
        let discards: Vec<_> = discards.filter(told).copied().collect();
        let lost = self.committed.min(self.end.position);
        let ground = &self.ground;
        Standing {
            own_end: self.end,
            common,
            own_log_from: ground.own_log_from,
            donor_log_from: offer.log_from,
            donor_opens_here: {
                let mut rows = offer.table.rows().iter();
                rows.any(|row| row.previous_end == common.position)
            },
            // What was asked for may be in the store by now.
            replayed: self.replayed.max(self.replay_asked),
            checkpointed: ground.checkpointed,
            committed: self.committed,
            discard_allowed: all_given_up(&self.table, (common.position, lost), &discards),
            touched,
            store_bytes: ground.store_bytes.max(SMALL_STORE_BYTES),
            resync_percent_max: RESYNC_PERCENT_MAX,
            generation_bytes: ground.generation_bytes.max(1),
        }
    }

    /// Waits for an operator. A copy that is only behind, and misses log, has a fault of its own
    /// (F107); one that has left the log of its active has not, even if log is gone besides: what
    /// it holds may become the truth again, and then nothing is missing.
    fn cannot_follow(&mut self, why: String, gone: bool, offer: &OpenOffer, out: &mut Vec<Action>) {
        let (fault, refusal) = match gone {
            true => (CopyFault::MissingLog(why), OpenRefusal::Failed),
            false => (CopyFault::Diverged(why), OpenRefusal::Diverged),
        };
        self.role = Role::Idle;
        self.off_the_log = !gone;
        self.fault = Some(fault);
        let (member, epoch) = (offer.member, offer.epoch);
        out.push(Action::SendRefused { member, epoch, refusal });
    }

    /// What stood against following the log is looked at again when consensus says something new of
    /// the epochs, or of what was given up: an offer may come before the receipt that goes with it.
    pub(crate) fn forgive_divergence(&mut self, told: Option<Assignment>) {
        let Some(now) = &self.assignment else { return };
        let news = told.is_none_or(|told| {
            told.discards != now.discards || told.epoch != now.epoch || told.active != now.active
        });
        if news && std::mem::take(&mut self.off_the_log) {
            self.fault.take_if(|fault| matches!(fault, CopyFault::Diverged(_)));
        }
    }

    /// What is cut off was never committed, or was given up.
    fn cut_fork(&mut self, to: Position, out: &mut Vec<Action>) {
        self.committed = self.committed.min(to);
        self.replay_asked = self.replay_asked.min(to);
        if let Role::Passive(passive) = &mut self.role {
            passive.step = PassiveStep::Cutting;
        }
        self.cut(to, out);
    }

    /// The store was opened again and stands here.
    pub(crate) fn store_reopened(&mut self, replayed: Position, out: &mut Vec<Action>) {
        self.store_away = false;
        self.store_set_to(replayed);
        self.climb(Touched::Unknown, out);
    }

    fn store_set_to(&mut self, position: Position) {
        self.replayed = position;
        self.replay_asked = position;
    }

    /// The mark of a resync is durable: the store goes back to the fork, and the log is cut there
    /// if its source is still the one that it is cut for.
    pub(crate) fn resync_begun(&mut self, fork: Position, out: &mut Vec<Action>) {
        self.store_away = true;
        self.store_set_to(fork);
        self.committed = self.committed.min(fork);
        if self.is_undoing() {
            self.cut_fork(fork, out);
        }
    }

    /// The keys of a fork do not fit into a mark.
    pub(crate) fn resync_refused(&mut self, out: &mut Vec<Action>) {
        self.climb(Touched::TooLarge, out);
    }

    /// Reopening is over, or the store's position is durably at the fork.
    pub(crate) fn store_rewound(&mut self, to: Position) {
        self.store_away = false;
        self.store_set_to(to);
    }

    /// Whether the store is being opened again or set back, so that what it reports is old.
    #[must_use]
    pub fn is_store_away(&self) -> bool {
        self.store_away
    }

    /// The epoch whose log this copy writes, or takes as a matched passive: what it has committed
    /// belongs to that timeline.
    #[must_use]
    pub fn follows(&self) -> Option<Epoch> {
        match &self.role {
            Role::Active(active) => Some(active.epoch),
            Role::Passive(passive) if passive.step == PassiveStep::Matched => Some(passive.epoch),
            Role::Passive(_) | Role::Activating(_) | Role::Idle => None,
        }
    }

    /// Whether a rung is being taken.
    pub(crate) fn is_undoing(&self) -> bool {
        matches!(&self.role, Role::Passive(p) if matches!(p.step, PassiveStep::Undoing(_)))
    }

    /// Why the copy is not activated, though it may be a source of log.
    pub(crate) fn unfit(&self) -> Option<CopyFault> {
        let rebuilt = || self.rebuilding.map(crate::seal::being_rebuilt);
        self.fault.clone().or_else(rebuilt).or_else(|| self.untrusted())
    }

    pub(crate) fn untrusted(&self) -> Option<CopyFault> {
        let why = |marking: Marking| match marking.resync {
            true => "the keys of a fork are being fetched",
            false => "damaged ranges are being fetched",
        };
        self.marking.map(|marking| CopyFault::Untrusted(why(marking).into()))
    }
}

/// Whether the own log is a part of the other one, but for what nobody holds any more.
fn is_only_behind(rung: &Rung, standing: &Standing) -> bool {
    *rung == Rung::Seed { why: SeedReason::LogGone }
        && standing.own_end.position <= standing.common.position
}

/// Why nothing but a seed or somebody's word helps.
fn refused(rung: &Rung, standing: &Standing, epoch: Epoch) -> Option<String> {
    let logs = format!(
        "log ends at {}, shares only {} with epoch {epoch}",
        standing.own_end, standing.common
    );
    match rung {
        Rung::Seed { why } => Some(format!("{logs}; it needs a seed: {why}")),
        Rung::Wait { to, .. } => Some(format!(
            "{logs}, and {to} is committed; nobody has said that this may be given up"
        )),
        _ => None,
    }
}

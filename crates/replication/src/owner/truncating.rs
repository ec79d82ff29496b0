//! Truncation: the active decides which log nobody needs and says so; every copy removes its own
//! (F99-F102). What may go is decided by `copy_core::truncate`; here are its inputs.
//!
//! The decision is taken when one of its inputs moved by a generation, never by a timer.

use std::collections::{BTreeMap, BTreeSet};

use keelson_copy_core::expanded_truncation::came_back;
use keelson_copy_core::truncate::{
    Blocker, OtherCopy, OwnLog, Truncation, TruncationInputs, TruncationOrder, TruncationRole,
    truncation_point,
};
use keelson_types::{CopyId, Generation, LogHold, MemberId, Position, Tick};
use keelson_wire::v1;

use crate::gate::boottime_now;
use crate::log_lane::LogJob;
use crate::owner::Owner;
use crate::owner::expanding::Told;
use crate::owner::lagging::Lag;
use crate::store_lane::StoreJob;

/// What consensus says of another copy, as far as truncation needs it.
#[derive(Clone, Debug)]
pub(crate) struct OtherFacts {
    pub(crate) copy: CopyId,
    pub(crate) member: MemberId,
    pub(crate) lagged: bool,
    pub(crate) leaving: bool,
    /// Only a seed helps it.
    pub(crate) cut_off: bool,
    pub(crate) suspended_since_unix_ms: Option<u64>,
}

/// Positions that another copy reported to this active.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reported {
    pub(crate) inspected: Position,
    pub(crate) replayed: Position,
    pub(crate) checkpointed: Position,
}

#[derive(Debug, Default)]
pub(super) struct Truncating {
    /// An input changed.
    pub(super) due: bool,
    /// Where the own log begins.
    pub(super) first: Position,
    /// The newest order of an active, at a passive.
    order: Option<TruncationOrder>,
    /// What was decided last, for status.
    pub(super) decided: Option<Truncation>,
    /// What was told of expanded truncation.
    pub(super) told: Told,
    /// Log went since the member last looked at its volume.
    pub(super) unlooked: bool,
    /// The volume was short at a look that no order has told of yet.
    pub(super) short: bool,
    /// What the last order said, and where the own log began.
    ordered: Option<(Position, Position)>,
    /// Copies whose mark was asked to go.
    cleared: BTreeSet<CopyId>,
    /// Since when this copy serves.
    pub(super) serving_since: Option<Tick>,
    under_way: bool,
}

impl Truncating {
    pub(super) fn of_log_from(first: Position) -> Self {
        Self { first, due: true, ..Self::default() }
    }
}

impl Owner {
    /// Decides anew if something changed, and removes what may go.
    pub(super) fn truncate(&mut self) {
        if !std::mem::take(&mut self.truncation.due) || self.truncation.under_way {
            return;
        }
        let Some(mut decided) = self.decide_truncation() else { return };
        self.expand_truncation(&mut decided);
        let before = decided.up_to.generation;
        self.truncation.decided = Some(decided);
        if before > self.truncation.first.generation {
            self.truncation.under_way = true;
            self.log_job(LogJob::Truncate(before));
        } else {
            self.order_truncation();
        }
    }

    fn decide_truncation(&self) -> Option<Truncation> {
        let assigned = self.assigned.clone()?;
        let own = OwnLog {
            copy: self.shared.copy,
            member: self.context.member,
            truncated: self.truncation.first,
            checkpointed: self.shared.checkpointed.load().min(self.shared.replayed.load()),
            end: self.machine.durable().position,
        };
        let others: Vec<_> = assigned.others.iter().map(|other| self.other_copy(other)).collect();
        let role = match &self.writer {
            Some(_) => TruncationRole::Active {
                established: true,
                others: &others,
                circular_logging: assigned.circular_logging,
                backed_up: assigned.backed_up,
            },
            None => TruncationRole::Passive {
                order: self.truncation.order,
                sealed: self.machine.sealed(),
            },
        };
        let now = boottime_now();
        let aged_out =
            self.lag.as_ref().map_or(own.end, |lag| lag.clock.aged_out(&lag.effective(), now));
        let lags = self.lag.as_ref().map_or(assigned.lag, Lag::effective);
        let mut holds = assigned.holds.clone();
        let local = self.shared.holds.lock();
        holds.extend_from_slice(&local.unwrap_or_else(std::sync::PoisonError::into_inner));
        let inputs = TruncationInputs {
            own,
            role,
            lags,
            aged_out,
            holds: &holds,
            now_unix_ms: assigned.hold_clock.now(now),
        };
        Some(truncation_point(&inputs))
    }

    fn other_copy(&self, facts: &OtherFacts) -> OtherCopy {
        let reported = self.reported.get(&facts.copy);
        OtherCopy {
            copy: facts.copy,
            member: facts.member,
            lagged: facts.lagged,
            inspected: reported.map(|reported| reported.inspected),
            checkpointed: reported.map(|reported| reported.checkpointed),
            suspended_since_unix_ms: facts.suspended_since_unix_ms,
            needs_no_log: facts.leaving || facts.cut_off,
        }
    }

    /// Takes what another copy reports; a decision is due when its checkpoint reached another
    /// generation, or, for a lagged one, its log did.
    pub(super) fn reported(&mut self, copy: CopyId, now: Reported) {
        self.clear_mark_of(copy, &now);
        let before = self.reported.insert(copy, now).unwrap_or_default();
        let generations = |r: Reported| (r.inspected.generation, r.checkpointed.generation);
        self.truncation.due |= generations(before) != generations(now);
    }

    /// Takes the mark from a copy that came back in time, once for each mark.
    fn clear_mark_of(&mut self, copy: CopyId, now: &Reported) {
        let Some(assigned) = &self.assigned else { return };
        let marked = assigned.others.iter().any(|other| other.copy == copy && other.cut_off);
        if !marked {
            self.truncation.cleared.remove(&copy);
            return;
        }
        let newest = self.machine.durable().position;
        let back = came_back(now.inspected, self.truncation.first, newest);
        if back && self.writer.is_some() && self.truncation.cleared.insert(copy) {
            self.context.report_not_cut_off(&self.shared, assigned.assignment.epoch, copy);
        }
    }

    /// The copy serves from now on.
    pub(super) fn serves(&mut self) {
        self.truncation.due = true;
        self.truncation.serving_since = Some(boottime_now());
        self.truncation.ordered = None;
        self.truncation.cleared.clear();
    }

    /// Who keeps log here, as decided last, and since when: what has no time of its own holds since
    /// the oldest log that it keeps.
    pub(super) fn blockers(&self) -> Vec<Blocker> {
        let index = self.shared.index();
        let decided = self.truncation.decided.iter().flat_map(|decided| &decided.blockers);
        let dated = decided.map(|blocker| Blocker {
            since_unix_ms: blocker.since_unix_ms.or_else(|| index.since(blocker.from.generation)),
            ..*blocker
        });
        dated.collect()
    }

    /// What consensus holds log for.
    pub(super) fn holds(&self) -> Vec<LogHold> {
        self.assigned.as_ref().map(|assigned| assigned.holds.clone()).unwrap_or_default()
    }

    /// Whether one of the other copies was cut off.
    pub(super) fn has_cut_off(&self) -> bool {
        let others = self.assigned.iter().flat_map(|assigned| &assigned.others);
        others.into_iter().any(|other| other.cut_off)
    }

    /// The own store is durable further than before.
    pub(super) fn checkpointed(&mut self) {
        self.truncation.due = true;
        self.acknowledge_again();
    }

    /// Makes what was replayed durable if log would go for it: space for it is short.
    pub(super) fn checkpoint_for_space(&self) {
        if let Some(files) = &self.files
            && self.shared.may_checkpoint_for_space()
        {
            files.store.push(StoreJob::Checkpoint);
        }
    }

    /// An active's order.
    pub(super) fn truncation_ordered(&mut self, order: TruncationOrder) {
        if order.short_of_space {
            self.checkpoint_for_space();
        }
        self.truncation.order = Some(order);
        self.truncation.due = true;
    }

    pub(super) fn truncated(&mut self, first: Generation) {
        self.truncation.under_way = false;
        self.truncation.first = Position { generation: first, offset: 0 };
        self.truncation.due = true;
        self.truncation.unlooked = true;
        if self.context.is_short_of_log_space(self.shared.database) {
            self.context.rooms.ask();
        }
        self.order_truncation();
    }

    /// Tells the passives which log nobody needs, if that is new or space is short; only an
    /// established active does.
    pub(super) fn order_truncation(&mut self) {
        let Some(decided) = &self.truncation.decided else { return };
        let order = (decided.up_to, self.truncation.first);
        let log_is_kept =
            self.truncation.first.generation < self.machine.durable().position.generation;
        let presses = self.truncation.short && log_is_kept;
        if self.truncation.ordered.replace(order) == Some(order) && !presses {
            return;
        }
        let peers: Vec<_> = self.peers.values().map(|peer| peer.member).collect();
        peers.into_iter().for_each(|member| self.order_truncation_of(member));
        self.truncation.short = false;
    }

    pub(super) fn order_truncation_of(&self, member: MemberId) {
        let (Some(decided), Some(epoch), Some(_)) =
            (&self.truncation.decided, self.machine.own_epoch(), &self.writer)
        else {
            return;
        };
        let order = v1::ShipTruncate {
            database: self.database_bytes(),
            epoch: Some(epoch.into()),
            up_to: Some(decided.up_to.into()),
            truncated: Some(self.truncation.first.into()),
            short_of_space: self.truncation.short,
        };
        self.send_source(member, v1::source_message::Message::Truncate(order));
    }
}

/// An empty map for a new owner.
pub(super) fn nothing_reported() -> BTreeMap<CopyId, Reported> {
    BTreeMap::new()
}

//! The activations under way, with what the manager must find among them without looking at all:
//! which occupy a member, which time wakes, which wait for a place.
//!
//! Invariants: the indexes follow from the activations as they were put; an activation that is
//! taken out keeps its places until it is put back or [`Jobs::end`]ed. A queued activation that
//! found a member full is looked at again when a place there becomes free, and not before.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use keelson_types::{DatabaseId, MemberId, Tick};

use crate::activation::{Activation, Phase};

/// What is indexed of one activation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    members: BTreeSet<MemberId>,
    wake: Option<Tick>,
    binds: bool,
    queued: bool,
}

/// All activations under way. See the module documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct Jobs {
    all: BTreeMap<DatabaseId, Activation>,
    places: BTreeMap<DatabaseId, Place>,
    on: BTreeMap<MemberId, BTreeSet<DatabaseId>>,
    wakes: BTreeSet<(Tick, DatabaseId)>,
    binding: BTreeSet<DatabaseId>,
    /// Queued ones that were not found blocked.
    fresh: BTreeSet<DatabaseId>,
    /// Queued ones by the member that was found full.
    blocked: BTreeMap<MemberId, BTreeSet<DatabaseId>>,
    blocked_by: BTreeMap<DatabaseId, MemberId>,
    /// Members at which a place became free since queued ones were let in.
    freed: BTreeSet<MemberId>,
}

impl Jobs {
    pub(super) fn get(&self, id: &DatabaseId) -> Option<&Activation> {
        self.all.get(id)
    }

    pub(super) fn contains(&self, id: &DatabaseId) -> bool {
        self.all.contains_key(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&DatabaseId, &Activation)> {
        self.all.iter()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = DatabaseId> + '_ {
        self.all.keys().copied()
    }

    /// Takes an activation out, to put it back or end it.
    pub(super) fn take(&mut self, id: &DatabaseId) -> Option<Activation> {
        self.all.remove(id)
    }

    /// Puts an activation in, or back.
    pub(super) fn put(&mut self, now: Tick, id: DatabaseId, job: Activation) {
        let place = Place {
            members: job.taking_part(),
            wake: job.wake(now),
            binds: matches!(job.phase, Phase::Binding { .. }),
            queued: matches!(job.phase, Phase::Queued { .. }),
        };
        self.all.insert(id, job);
        self.index(id, place);
    }

    /// Gives up the places of an activation that is over.
    pub(super) fn end(&mut self, id: DatabaseId) {
        self.all.remove(&id);
        self.index(id, Place::default());
        self.places.remove(&id);
    }

    /// Names the proposal that an activation waits for.
    pub(super) fn set_tag(&mut self, id: &DatabaseId, tag: u64) {
        if let Some(job) = self.all.get_mut(id) {
            job.tag = Some(tag);
        }
    }

    fn index(&mut self, id: DatabaseId, place: Place) {
        let before = self.places.insert(id, place.clone()).unwrap_or_default();
        for member in before.members.difference(&place.members) {
            if let Some(there) = self.on.get_mut(member) {
                there.remove(&id);
            }
            self.freed.insert(*member);
        }
        for member in place.members.difference(&before.members) {
            self.on.entry(*member).or_default().insert(id);
        }
        if before.wake != place.wake {
            if let Some(at) = before.wake {
                self.wakes.remove(&(at, id));
            }
            self.wakes.extend(place.wake.map(|at| (at, id)));
        }
        mark(&mut self.binding, id, place.binds);
        mark(&mut self.fresh, id, place.queued);
        // Whoever was looked at is in nobody's way until it is found blocked again.
        if let Some(member) = self.blocked_by.remove(&id)
            && let Some(there) = self.blocked.get_mut(&member)
        {
            there.remove(&id);
        }
    }

    /// Activations that occupy a member.
    pub(super) fn on(&self, member: MemberId) -> impl Iterator<Item = DatabaseId> + '_ {
        self.on.get(&member).into_iter().flatten().copied()
    }

    /// How many activations occupy a member.
    pub(super) fn load(&self, member: MemberId) -> usize {
        self.on.get(&member).map_or(0, BTreeSet::len)
    }

    /// Those whose target is chosen and perhaps not recorded yet.
    pub(super) fn binding(&self) -> impl Iterator<Item = (DatabaseId, &Activation)> {
        self.binding.iter().filter_map(|id| Some((*id, self.all.get(id)?)))
    }

    /// Those whose time has come.
    pub(super) fn due(&self, now: Tick) -> impl Iterator<Item = DatabaseId> + '_ {
        self.wakes.iter().take_while(move |(at, _)| *at <= now).map(|(_, id)| *id)
    }

    /// When the next one must be looked at by itself.
    pub(super) fn next_wake(&self) -> Option<Tick> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// The first one after `after` that waits for a place and was not found blocked.
    pub(super) fn next_fresh(&self, after: Option<DatabaseId>) -> Option<DatabaseId> {
        next(&self.fresh, after)
    }

    /// A queued activation found this member full.
    pub(super) fn block(&mut self, id: DatabaseId, full: MemberId) {
        self.fresh.remove(&id);
        self.blocked_by.insert(id, full);
        self.blocked.entry(full).or_default().insert(id);
    }

    /// Takes the members at which places became free.
    pub(super) fn take_freed(&mut self) -> BTreeSet<MemberId> {
        std::mem::take(&mut self.freed)
    }

    /// Members at which places became free since they were taken.
    pub(super) const fn freed(&self) -> &BTreeSet<MemberId> {
        &self.freed
    }

    /// The first one after `after` that found `member` full.
    pub(super) fn next_blocked(
        &self,
        member: MemberId,
        after: Option<DatabaseId>,
    ) -> Option<DatabaseId> {
        next(self.blocked.get(&member)?, after)
    }
}

fn next(set: &BTreeSet<DatabaseId>, after: Option<DatabaseId>) -> Option<DatabaseId> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    set.range((from, Bound::Unbounded)).next().copied()
}

fn mark(set: &mut BTreeSet<DatabaseId>, id: DatabaseId, holds: bool) {
    match holds {
        true => drop(set.insert(id)),
        false => drop(set.remove(&id)),
    }
}

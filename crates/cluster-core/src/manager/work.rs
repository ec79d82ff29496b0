//! Which databases a step looks at.
//!
//! What the manager does with a database depends on its entry in the state, on its activation, and
//! on a few things that concern many: members, contacts, settings, the grace of a cold start,
//! limits. A step looks at those databases alone of which something changed, so that its cost does
//! not grow with the number of databases that are simply served.
//!
//! Invariant: looking at any other database would change nothing. [`Manager::look_at_everything`]
//! makes the next step the plain one; tests and the simulator compare the two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keelson_types::{ClusterSettings, DatabaseId, MemberId, Tick};

use super::Manager;
use crate::activation::Contacts;
use crate::member::Member;
use crate::state::ClusterState;

/// What the next step looks at, and what the last one saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Work {
    pub(super) databases: BTreeSet<DatabaseId>,
    /// Members of which something changed that is not in the state yet.
    pub(super) members: BTreeSet<MemberId>,
    pub(super) everything: bool,
    /// Leases were granted or ended.
    pub(super) contacts_stale: bool,
    contacts: Arc<Contacts>,
    databases_seen: u64,
    members_seen: u64,
    settings: ClusterSettings,
    cold: bool,
    known: BTreeMap<MemberId, Member>,
    limited: Limited,
}

/// Active databases of members that have a hard maximum, at the beginning and at the end of a step.
type Limited = (BTreeMap<MemberId, u32>, BTreeMap<MemberId, u32>);

impl Work {
    /// That of a new leader, who knows nothing.
    pub(super) fn all() -> Self {
        Self { everything: true, ..Self::default() }
    }
}

impl Manager {
    /// Makes the next step look at every database: a test compares it with what the step does
    /// otherwise. Changes no decision.
    pub fn look_at_everything(&mut self) {
        self.work.everything = true;
    }

    /// Adds to the work what changed since the last step.
    pub(super) fn gather(
        &mut self,
        now: Tick,
        state: &ClusterState,
        actives: &BTreeMap<MemberId, u32>,
    ) -> Arc<Contacts> {
        let (cold, revision) = (self.is_cold(), state.databases.revision());
        let work = &mut self.work;
        // A lower revision is another state.
        let same = work.cold == cold && revision >= work.databases_seen;
        let everything =
            std::mem::take(&mut work.everything) || !same || work.settings != state.settings;
        work.cold = cold;
        let since = std::mem::replace(&mut work.databases_seen, revision);
        if everything {
            work.settings = state.settings.clone();
            work.databases.extend(state.databases.keys());
            work.databases.extend(self.dismounts.keys());
            work.databases.extend(self.jobs.ids());
        }
        work.databases.extend(state.databases.changed_since(since));
        work.databases.extend(self.jobs.due(now));
        let start = limited(state, actives);
        if start != work.limited.0 || start != work.limited.1 {
            work.limited.0 = start;
            work.databases.extend(self.jobs.ids());
        }
        if everything || work.contacts_stale || work.members_seen != state.members.revision() {
            self.look_at_members(state);
        }
        let work = &mut self.work;
        for member in std::mem::take(&mut work.members) {
            work.databases.extend(state.databases.targets_on(member));
        }
        work.contacts.clone()
    }

    /// Whoever changed, or whose contact did, concerns the databases that are active there, and
    /// everything that is under way.
    fn look_at_members(&mut self, state: &ClusterState) {
        let contacts = self.contacts(state);
        let work = &mut self.work;
        (work.contacts_stale, work.members_seen) = (false, state.members.revision());
        let plain = |member: &Member| Member { assignment_revision: 0, ..member.clone() };
        let known: BTreeMap<_, _> = state.members.iter().map(|(id, m)| (*id, plain(m))).collect();
        let mut changed = false;
        for id in known.keys().chain(work.known.keys()) {
            let same = known.get(id) == work.known.get(id)
                && contacts.alive.contains(id) == work.contacts.alive.contains(id)
                && contacts.over.contains(id) == work.contacts.over.contains(id);
            if !same {
                work.members.insert(*id);
                changed = true;
            }
        }
        if changed {
            work.databases.extend(state.databases.unsettled());
            work.databases.extend(self.jobs.ids());
            (work.known, work.contacts) = (known, Arc::new(contacts));
        }
    }

    /// Ends a step: what was bound in it counts for those that were looked at before.
    pub(super) fn note_limits(&mut self, state: &ClusterState, actives: &BTreeMap<MemberId, u32>) {
        self.work.limited.1 = limited(state, actives);
    }
}

fn limited(state: &ClusterState, actives: &BTreeMap<MemberId, u32>) -> BTreeMap<MemberId, u32> {
    let members = state.members.iter().filter(|(_, m)| m.activation.max_active.is_some());
    members.map(|(id, _)| (*id, actives.get(id).copied().unwrap_or(0))).collect()
}

//! Databases whose active is on a member that is cut off by data alone: its control process
//! answers, its lease is renewed, and neither clients nor copies reach its data process (F13).
//!
//! Decides who is cut off, from what members say of each other, and which databases leave them.
//! Nothing is given up for it: a database is moved only where the proof can do without the log of
//! the copy that is left, which is then treated as that of a dead member. What the reports say is a
//! reason to try; no rule of the protocol rests on them.

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{DatabaseId, DatabaseState, FailureTag, MemberId, MountIntent, Tick};

use super::Manager;
use super::batch::Batch;
use super::plan::Round;
use crate::activation::{Activation, Contacts, Phase};
use crate::decision::ActivationReason;
use crate::proof::lossless;
use crate::state::{ClusterState, Database};
use crate::suppression::suppression;

/// So many must say of a member that they do not reach it: of two, nobody knows who is cut off.
const WITNESSES_MIN: usize = 2;

const REASON: ActivationReason = ActivationReason::Failed { tag: FailureTag::DataNetwork };

impl Manager {
    pub(super) fn unreached(
        &mut self,
        now: Tick,
        state: &ClusterState,
        (member, members): (MemberId, BTreeSet<MemberId>),
        batch: &mut Batch,
    ) {
        if members.is_empty() {
            self.unreached.remove(&member);
            return;
        }
        self.unreached.insert(member, members);
        let contacts = self.contacts(state);
        let cut = self.cut_off(state, &contacts);
        if self.is_cold() || !cut.contains(&member) {
            return;
        }
        let here = state.databases.values().filter(|d| d.target_member() == Some(member));
        let leaving = here.filter(|database| self.leaves(state, database, &contacts, &cut));
        let leaving: Vec<_> = leaving.map(|database| database.id).collect();
        leaving.into_iter().for_each(|id| self.leave(now, state, id, batch));
    }

    /// Members that most of the others with data do not reach.
    fn cut_off(&self, state: &ClusterState, contacts: &Contacts) -> BTreeSet<MemberId> {
        let holds = |id: &MemberId| {
            let member = state.members.get(id);
            contacts.alive.contains(id) && member.is_some_and(|m| !m.config.data_address.is_empty())
        };
        let holders = state.members.keys().filter(|id| holds(id)).count();
        let mut said: BTreeMap<MemberId, usize> = BTreeMap::new();
        for (_, members) in self.unreached.iter().filter(|(id, _)| holds(id)) {
            members.iter().filter(|id| holds(id)).for_each(|id| *said.entry(*id).or_default() += 1);
        }
        let most = |(_, said): &(MemberId, usize)| *said >= WITNESSES_MIN && 2 * *said >= holders;
        said.into_iter().filter(most).map(|(id, _)| id).collect()
    }

    /// Whether an open database can leave its active now: no other copy is reached, one that nobody
    /// cut off can serve, and the rest of the copies has all that was acknowledged.
    fn leaves(
        &self,
        state: &ClusterState,
        database: &Database,
        contacts: &Contacts,
        cut: &BTreeSet<MemberId>,
    ) -> bool {
        let open = database.intent == MountIntent::Mounted
            && database.state == DatabaseState::Established
            && !self.jobs.contains(&database.id);
        let (Some(target), Some(at)) = (database.target, database.target_member()) else {
            return false;
        };
        let Some(unreached) = self.unreached.get(&at).filter(|_| open) else { return false };
        let others = || database.copies.iter().filter(|(id, _)| **id != target);
        let alone = others().all(|(_, copy)| copy.leaving || unreached.contains(&copy.member));
        let usable = |member: &MemberId| contacts.alive.contains(member) && !cut.contains(member);
        let counts = |id| database.rule.as_ref().is_none_or(|rule| rule.has(id));
        let serving =
            others().filter(|(id, c)| counts(**id) && c.may_count() && usable(&c.member)).count();
        // With `degrade_after` = never one copy alone would not serve either.
        let least = if database.settings.degrade_after_ms.is_none() { 2 } else { 1 };
        let reached = others().filter(|(_, copy)| usable(&copy.member)).map(|(id, _)| *id);
        let proof = lossless(&database.unestablished, &reached.collect(), self.weakness);
        let calm = suppression(&state.settings, database, state.clock_unix_ms);
        alone && serving >= least && proof.is_lossless() && calm.until_unix_ms.is_none()
    }

    fn leave(&mut self, now: Tick, state: &ClusterState, id: DatabaseId, batch: &mut Batch) {
        let Some(database) = state.databases.get(&id) else { return };
        let allocating = Phase::Allocating { expected: database.epoch };
        // If the proof needs its log after all, the copy that was left is as good as before.
        batch.allocate(database, REASON);
        self.jobs.put(now, id, Activation::new(now, REASON, allocating));
        self.work.databases.insert(id);
    }

    /// Members whose copies count as not reached in the activation of a database that left one for
    /// this reason. The epochs since the last established one tell it, so a new leader goes on in
    /// the same way; whoever else is cut off is what this leader was told.
    pub(super) fn left_by_data(
        &self,
        round: &Round<'_>,
        database: &Database,
    ) -> BTreeSet<MemberId> {
        let Some(established) = database.unestablished.first() else { return BTreeSet::new() };
        let newest = database.history.iter().rev();
        let mut since = newest.take_while(|row| row.epoch > established.epoch);
        if !since.any(|row| row.reason == REASON) {
            return BTreeSet::new();
        }
        let mut cut = self.cut_off(round.state, &round.contacts);
        let left = database.copies.get(&established.rule.active);
        cut.extend(left.map(|copy| copy.member));
        cut
    }
}

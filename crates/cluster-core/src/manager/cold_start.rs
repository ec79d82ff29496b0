//! A start of the whole cluster: who is waited for before databases move or open (F16).
//!
//! A new leader does not know whether everything just started. Until an incumbent renews its lease
//! it assumes so, for [`startup_grace`](super::ManagerConfig::startup_grace): members that are not
//! here yet may only be slow.
//!
//! With the switch `cold_start_waits_for_all` no time ends it, and nothing is mounted meanwhile: a
//! site that comes back from a loss, cannot reach the others, and was forced out of the cluster by
//! them must not serve. Every member that holds data has to be here, unless it is stopped or under
//! maintenance. What tells a cold start from another change of leader is a bit of each life,
//! recorded in the state: it was here while databases could be mounted. A life that has it vouches
//! for the rest. A new one gets it from a leader that is not in a cold start, and from nobody else.

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{IncarnationId, MemberId, Setting, Tick};

use super::batch::Batch;
use super::{ColdStart, Contact, Manager};
use crate::command::Command;
use crate::member::Member;
use crate::state::ClusterState;

/// Whether a cold start waits for this member.
fn is_waited_for(member: &Member) -> bool {
    let holds_data = !member.config.data_address.is_empty();
    holds_data && member.stopped.is_none() && member.maintenance.is_none()
}

fn waits_for_all(state: &ClusterState) -> bool {
    state.settings.is_on(Setting::ColdStartWaitsForAll)
}

/// Whether a cold start waits for all: none of the members that are `alive` vouches for a mount.
#[must_use]
pub fn mounts_wait(state: &ClusterState, alive: &BTreeSet<MemberId>) -> bool {
    let vouches = |id: &MemberId| {
        let member = state.members.get(id);
        member.is_some_and(|m| m.incarnation.is_some() && m.mount_permission == m.incarnation)
    };
    waits_for_all(state) && !alive.is_empty() && !alive.iter().any(vouches)
}

impl Manager {
    pub(super) fn cold(&self) -> Option<&ColdStart> {
        self.leading.as_ref().and_then(|leading| leading.cold.as_ref())
    }

    pub(super) fn is_cold(&self) -> bool {
        self.cold().is_some()
    }

    /// Whether no database may be opened.
    pub(super) fn mounts_are_held(&self, state: &ClusterState) -> bool {
        self.is_cold() && waits_for_all(state)
    }

    /// Whether everybody is here: who had a process when the leadership began, or, with the switch,
    /// who holds data.
    pub(super) fn is_complete(&self, state: &ClusterState, cold: &ColdStart) -> bool {
        let is_here = |id: &MemberId| matches!(self.contacts.get(id), Some(Contact::Alive(_)));
        if waits_for_all(state) {
            let mut waited_for = state.members.iter().filter(|(_, m)| is_waited_for(m));
            return waited_for.all(|(id, _)| is_here(id));
        }
        let mut known = cold.incumbents.keys().filter(|id| state.members.contains_key(id));
        known.all(is_here)
    }

    /// Whether a life that renewed its lease shows that not everything just started.
    fn vouches(
        &self,
        state: &ClusterState,
        cold: &ColdStart,
        (member, life): (MemberId, IncarnationId),
    ) -> bool {
        if waits_for_all(state) {
            let permitted = state.members.get(&member).and_then(|m| m.mount_permission);
            return permitted == Some(life);
        }
        cold.incumbents.get(&member) == Some(&life)
    }

    /// Ends the cold start if everybody is here, or `renewed` vouches for it.
    pub(super) fn warm_up(
        &mut self,
        state: &ClusterState,
        renewed: Option<(MemberId, IncarnationId)>,
    ) {
        let Some(cold) = self.cold() else { return };
        let vouched = renewed.is_some_and(|life| self.vouches(state, cold, life));
        if vouched || self.is_complete(state, cold) {
            self.end_cold_start();
        }
    }

    /// Ends the cold start when its time is over, or who was waited for need not come any more.
    pub(super) fn leave_cold(&mut self, now: Tick, state: &ClusterState) {
        let Some(cold) = self.cold() else { return };
        let over = !waits_for_all(state) && cold.until <= now;
        let complete = waits_for_all(state) && self.is_complete(state, cold);
        if over || complete {
            self.end_cold_start();
        }
    }

    fn end_cold_start(&mut self) {
        self.leading.iter_mut().for_each(|leading| leading.cold = None);
    }

    /// Notes the lives that are here now, once each.
    pub(super) fn permit_mounts(&mut self, state: &ClusterState, batch: &mut Batch) {
        if self.is_cold() || !waits_for_all(state) {
            return;
        }
        let mut lives = BTreeMap::new();
        for (id, member) in &state.members {
            let Some(Contact::Alive(life)) = self.contacts.get(id) else { continue };
            let new = member.mount_permission != Some(*life) && member.incarnation == Some(*life);
            if new && self.permitted.insert((*id, *life)) {
                lives.insert(*id, *life);
            }
        }
        if !lives.is_empty() {
            batch.commands.push(Command::PermitMounts { lives });
        }
    }
}

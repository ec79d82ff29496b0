//! The active manager of the leader: decides which copy of each database is active.
//!
//! A pure machine. It owns the activations under way; everything that must survive a leader change
//! is in the replicated state, and a new leader finds its way from there. One path serves failover,
//! switchover, mount and restart: allocate an epoch, seal, prove, bind a target, mount, establish
//! (R5).
//!
//! Invariants: nothing is bound without a passed proof and without every earlier active being
//! fenced (sealed in its bound life, or its lease over, or every grant from before the allocation
//! run out, R9); a target that failed is retried only in a new epoch; each activation is bounded in
//! time by a deadline or by a back-off that is announced with [`ManagerAction::Wake`].
//!
//! Failure behaviour: lost messages end in a deadline; a lost leadership forgets all activations; a
//! command with unknown outcome is never assumed: progress is read from the applied state only.

mod api;
mod batch;
mod cold_start;
mod data_network;
mod handed_over;
mod jobs;
mod operations;
mod patience;
mod plan;
mod reports;
mod work;

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{DatabaseId, Epoch, IncarnationId, MemberId, OperationId, Tick, Weakness};

use crate::activation::Contacts;
use crate::state::ClusterState;
use batch::Batch;
use jobs::Jobs;
use operations::PendingOperation;
use work::Work;

pub use api::{ManagerAction, ManagerConfig, ManagerEvent};
pub use cold_start::mounts_wait;

/// What the leader knows of a member's lease in this term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Contact {
    /// This life holds one.
    Alive(IncarnationId),
    /// Nobody holds one.
    Over,
}

/// A leadership.
#[derive(Clone, Debug)]
struct Leading {
    term: u64,
    /// Set until an incumbent renews its lease, everybody is here, or the grace is over: perhaps
    /// everything starts cold, and members that are not here yet are only slow.
    cold: Option<ColdStart>,
}

/// A start of the whole cluster, as long as nothing disproves it.
#[derive(Clone, Debug)]
struct ColdStart {
    until: Tick,
    /// Lives recorded when the leadership began.
    incumbents: BTreeMap<MemberId, IncarnationId>,
}

/// An ordered dismount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Dismounting {
    epoch: Epoch,
    progress: DismountProgress,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DismountProgress {
    Wanted,
    Ordered,
    Done,
}

/// The active manager. See the module documentation.
#[derive(Clone, Debug)]
pub struct Manager {
    config: ManagerConfig,
    weakness: Weakness,
    leading: Option<Leading>,
    contacts: BTreeMap<MemberId, Contact>,
    /// Lives certified in this term whose certificate is not in the state yet.
    certified: BTreeSet<(MemberId, IncarnationId)>,
    jobs: Jobs,
    dismounts: BTreeMap<DatabaseId, Dismounting>,
    /// Whom members do not reach by data, by their newest reports; nobody who reaches all is here.
    unreached: BTreeMap<MemberId, BTreeSet<MemberId>>,
    operations: BTreeMap<OperationId, PendingOperation>,
    /// Proposals without an outcome, and the databases that wait for them.
    pending: BTreeMap<u64, Vec<DatabaseId>>,
    next_tag: u64,
    armed: Option<Tick>,
    work: Work,
    /// Lives that were noted in this term as here while databases may be mounted.
    permitted: BTreeSet<(MemberId, IncarnationId)>,
}

impl Manager {
    /// A manager of a member that does not lead. `weakness` is `None` in production.
    #[must_use]
    pub fn new(config: ManagerConfig, weakness: Weakness) -> Self {
        Self {
            config,
            weakness,
            leading: None,
            contacts: BTreeMap::new(),
            certified: BTreeSet::new(),
            jobs: Jobs::default(),
            dismounts: BTreeMap::new(),
            unreached: BTreeMap::new(),
            operations: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_tag: 1,
            armed: None,
            work: Work::all(),
            permitted: BTreeSet::new(),
        }
    }

    /// Takes one event in the light of the applied `state` and appends to `out` what to do, in
    /// order. While this member does not lead, only `BecameLeader` has an effect. The state that
    /// the driver shows to its lease table must be at least as new as the one shown here. While it
    /// leads it is shown one state that only goes forward: what did not change is not looked at.
    pub fn step(
        &mut self,
        now: Tick,
        state: &ClusterState,
        event: ManagerEvent,
        out: &mut Vec<ManagerAction>,
    ) {
        let mut batch = Batch::default();
        match event {
            ManagerEvent::BecameLeader { term } => self.became_leader(now, state, term),
            ManagerEvent::LostLeadership => self.forget(),
            other if self.leading.is_some() => self.report(now, state, other, &mut batch),
            _ => {}
        }
        if self.leading.is_some() {
            self.plan(now, state, &mut batch);
            self.settle_operations(state, &mut batch);
            self.flush(now, batch, out);
        }
    }

    /// The term in which this manager leads.
    #[must_use]
    pub fn leading_term(&self) -> Option<u64> {
        self.leading.as_ref().map(|leading| leading.term)
    }

    /// Activations under way and what each waits for, for status pages.
    pub fn activations(
        &self,
    ) -> impl Iterator<Item = (DatabaseId, u32, crate::ActivationStep)> + '_ {
        self.jobs.iter().map(|(id, job)| (*id, job.attempt, job.phase.step()))
    }

    fn forget(&mut self) {
        let next_tag = self.next_tag;
        *self = Self { next_tag, ..Self::new(self.config.clone(), self.weakness) };
    }

    fn became_leader(&mut self, now: Tick, state: &ClusterState, term: u64) {
        self.forget();
        let lives = state.members.iter();
        let incumbents = lives.filter_map(|(id, m)| m.incarnation.map(|life| (*id, life)));
        let until = now.after(self.config.startup_grace);
        let cold = ColdStart { until, incumbents: incumbents.collect() };
        // In a new cluster there is nobody to wait for.
        let cold = Some(cold).filter(|cold| !self.is_complete(state, cold));
        self.leading = Some(Leading { term, cold });
        self.adopt_operations(state);
    }

    /// Who can be a target, and who certainly holds no lease.
    fn contacts(&self, state: &ClusterState) -> Contacts {
        let mut contacts = Contacts::default();
        for (id, member) in &state.members {
            let certified = |life| self.certified.contains(&(*id, life));
            let ended = |life: Option<IncarnationId>| life.is_none_or(certified);
            match self.contacts.get(id) {
                _ if ended(member.incarnation) && ended(member.previous) => {
                    contacts.over.insert(*id);
                }
                Some(Contact::Over) => {
                    contacts.over.insert(*id);
                }
                // Its lease is not renewed any more, and no epoch is bound to it.
                Some(Contact::Alive(_)) if member.stopped.is_some() => {}
                Some(Contact::Alive(life)) if member.incarnation == Some(*life) => {
                    contacts.alive.insert(*id);
                }
                Some(Contact::Alive(_)) | None => {}
            }
        }
        contacts
    }

    /// A pause that doubles with each failure.
    fn backoff(&self, failures: u32) -> std::time::Duration {
        let factor = 1_u32 << failures.saturating_sub(1).min(16);
        (self.config.backoff_first * factor).min(self.config.backoff_max)
    }
}

#[cfg(test)]
mod tests;

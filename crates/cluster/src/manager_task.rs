//! Runs the active manager and the lease table while this member leads.
//!
//! One task owns both machines; everybody else sends [`LeaderInput`]s. It decides nothing: it tells
//! the machines what happened, in the light of the applied state, and carries out what they ask for
//! (`actions`). Nothing here survives a change of leadership, and nothing has to.
//!
//! Order of the waiting points: leadership first, so that no lease is granted for a term that is
//! over; then inputs, renewals among them; then the applied state; then time.

mod actions;
mod plans;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keelson_cluster_core::{
    Grant, LeaseRefusal, LeaseTable, Manager, ManagerAction, ManagerEvent, RenewRequest,
};
use keelson_net::TracePlace;
use keelson_types::{DatabaseId, IncarnationId, MemberId, Tick, Weakness};
use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::context::Context;
use crate::quorum::QuorumClock;
use crate::raft_types::Vote;

/// Inputs that may wait; renewals of a hundred members and answers of a storm of failovers.
pub(crate) const INBOX: usize = 4096;

/// What a data process says of itself with each renewal (F13).
#[derive(Clone, Debug, Default)]
pub(crate) struct Troubles {
    /// Its databases that make no progress.
    pub(crate) wedged: Vec<DatabaseId>,
    /// Members whose data process does not answer it.
    pub(crate) unreached: BTreeSet<MemberId>,
}

/// What the leader's task is told.
#[derive(Debug)]
pub(crate) enum LeaderInput {
    /// A member asks for its lease.
    Renew {
        /// The member.
        member: MemberId,
        /// The life that asks.
        incarnation: IncarnationId,
        /// What its data process says of itself.
        troubles: Troubles,
        /// The answer.
        reply: oneshot::Sender<Result<Grant, LeaseRefusal>>,
    },
    /// A member wants to record a new life of its data process.
    MayStart {
        /// The member.
        member: MemberId,
        /// The new life.
        incarnation: IncarnationId,
        /// The answer.
        reply: oneshot::Sender<Result<(), LeaseRefusal>>,
    },
    /// A life ended: its member reaped it, or it stopped in order.
    Ended {
        /// The member.
        member: MemberId,
        /// The life.
        incarnation: IncarnationId,
        /// True for a death certificate, false for a release.
        certified: bool,
        /// The answer.
        reply: oneshot::Sender<Result<(), LeaseRefusal>>,
    },
    /// An operator asks for something, in a call at this place of a trace.
    Requested(ManagerEvent, TracePlace),
    /// Anything else for the manager.
    Event(ManagerEvent),
}

/// A leadership of this member.
#[derive(Clone, Copy, Debug)]
struct Leadership {
    vote: Vote,
    /// Whether the first entry of the term is applied, and the manager told.
    announced: bool,
}

/// The owner of manager and lease table.
pub(crate) struct LeaderTask {
    context: Arc<Context>,
    quorum: Arc<QuorumClock>,
    inputs: mpsc::Receiver<LeaderInput>,
    manager: Manager,
    table: LeaseTable,
    leadership: Option<Leadership>,
    /// Lives granted a lease in this leadership, and told to the manager.
    alive: BTreeMap<MemberId, IncarnationId>,
    /// Members whose last renewal named others that they do not reach.
    blaming: BTreeSet<MemberId>,
    wake: Option<Tick>,
    executor: actions::Executor,
    plans: plans::Plans,
}

impl LeaderTask {
    pub(crate) fn new(
        context: Arc<Context>,
        quorum: Arc<QuorumClock>,
        inputs: mpsc::Receiver<LeaderInput>,
    ) -> Self {
        let manager = Manager::new(context.timings.manager(), Weakness::None);
        let table = LeaseTable::new(context.timings.lease, Weakness::None);
        let executor = actions::Executor::new(context.clone());
        let (leadership, alive, wake) = (None, BTreeMap::new(), None);
        Self {
            context,
            quorum,
            inputs,
            manager,
            table,
            leadership,
            alive,
            blaming: BTreeSet::new(),
            wake,
            executor,
            plans: plans::Plans::default(),
        }
    }

    /// Runs until the control plane stops.
    pub(crate) async fn run(mut self) {
        let mut server = self.context.raft.server_metrics();
        let mut applied = self.context.applied.watch();
        loop {
            let next = self.next_wake();
            tokio::select! {
                biased;
                changed = server.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    server.mark_unchanged();
                    self.look_at_leadership();
                }
                Some(input) = self.inputs.recv() => {
                    self.look_at_leadership();
                    self.take(input);
                }
                Ok(()) = applied.changed() => {
                    applied.mark_unchanged();
                    self.look_at_leadership();
                    self.step(ManagerEvent::Applied);
                }
                () = clock::sleep_until_some(next) => self.on_time(),
            }
            self.report_expired();
        }
    }

    fn next_wake(&self) -> Option<Tick> {
        self.leadership?;
        let expiry = self.table.next_expiry(clock::now());
        [self.wake, expiry].into_iter().flatten().min()
    }

    fn on_time(&mut self) {
        if self.wake.is_some_and(|at| at <= clock::now()) {
            self.wake = None;
            self.step(ManagerEvent::Timer);
        }
    }

    /// Compares what the library says with what the machines were told.
    fn look_at_leadership(&mut self) {
        let vote = {
            let metrics = self.context.raft.server_metrics();
            let metrics = metrics.borrow();
            let leads = metrics.state.is_leader() && metrics.vote.is_committed();
            (leads && metrics.current_leader == Some(self.context.node)).then_some(metrics.vote)
        };
        if self.leadership.map(|leadership| leadership.vote) != vote {
            self.change_leadership(vote);
        }
        self.announce();
    }

    fn change_leadership(&mut self, vote: Option<Vote>) {
        if self.leadership.take().is_some() {
            tracing::info!("this member no longer leads the cluster");
            self.table.lost_leadership();
            self.alive.clear();
            self.blaming.clear();
            self.step(ManagerEvent::LostLeadership);
            self.wake = None;
        }
        if let Some(vote) = vote {
            tracing::info!(term = vote.leader_id.term, "this member leads the cluster");
            let lease = self.context.timings.lease.lease;
            self.table.became_leader(clock::now(), lease);
            self.leadership = Some(Leadership { vote, announced: false });
        }
    }

    /// Tells the manager once the first entry of the term is applied here.
    fn announce(&mut self) {
        let Some(leadership) = self.leadership.filter(|l| !l.announced) else { return };
        if self.applied_own_term(&leadership.vote) {
            self.leadership = Some(Leadership { announced: true, ..leadership });
            self.context.note_caught_up();
            self.step(ManagerEvent::BecameLeader { term: leadership.vote.leader_id.term });
        }
    }

    fn applied_own_term(&self, vote: &Vote) -> bool {
        let last = self.context.applied.read_all(|all| all.last_applied);
        last.is_some_and(|last| last.leader_id == vote.leader_id)
    }

    fn take(&mut self, input: LeaderInput) {
        match input {
            LeaderInput::Renew { member, incarnation, troubles, reply } => {
                let granted = self.renew(member, incarnation);
                let told = granted.is_ok();
                // The asker may have given up; the lease is then simply not used.
                let _ = reply.send(granted);
                if told {
                    self.renewed(member, incarnation, troubles);
                }
            }
            LeaderInput::MayStart { member, incarnation, reply } => {
                let _ = reply.send(self.may_start(member, incarnation));
            }
            LeaderInput::Ended { member, incarnation, certified, reply } => {
                let _ = reply.send(self.ended(member, incarnation, certified));
            }
            LeaderInput::Requested(event, place) => {
                self.plans.asked(&event, place);
                self.step(event);
            }
            LeaderInput::Event(event) => self.step(event),
        }
    }

    fn renew(
        &mut self,
        member: MemberId,
        incarnation: IncarnationId,
    ) -> Result<Grant, LeaseRefusal> {
        let Some(leadership) = self.leadership else { return Err(LeaseRefusal::NotLeader) };
        let now = clock::now();
        let metrics = self.context.raft.server_metrics();
        let configs = metrics.borrow().membership_config.membership().get_joint_config().clone();
        let me = (self.context.node, now);
        let last_quorum_ack = self.quorum.newest(&leadership.vote, &configs, me);
        let last_quorum_ack = last_quorum_ack.filter(|sent| self.context.loyalty.may_grant(*sent));
        let applied_own_term = leadership.announced;
        let (table, applied) = (&mut self.table, &self.context.applied);
        applied.read(|state| {
            let member = state.members.get(&member).ok_or(LeaseRefusal::NotRecorded)?;
            let request = RenewRequest { member, incarnation, last_quorum_ack, applied_own_term };
            table.renew(now, &request)
        })
    }

    fn renewed(&mut self, member: MemberId, incarnation: IncarnationId, troubles: Troubles) {
        if self.alive.insert(member, incarnation) != Some(incarnation) {
            self.step(ManagerEvent::MemberAlive { member, incarnation });
        }
        let Troubles { wedged, unreached: members } = troubles;
        let silent = !members.is_empty();
        // Told for as long as it lasts, and once when it is over.
        if silent || self.blaming.contains(&member) {
            let _ = if silent { self.blaming.insert(member) } else { self.blaming.remove(&member) };
            self.step(ManagerEvent::Unreached { member, members });
        }
        if wedged.is_empty() {
            return;
        }
        let epochs: Vec<_> = self.context.applied.read(|state| {
            let assigned = state.assignments(member);
            let assigned = assigned.filter(|a| a.incarnation == incarnation);
            assigned
                .filter(|a| wedged.contains(&a.database))
                .map(|a| (a.database, a.epoch))
                .collect()
        });
        for (database, epoch) in epochs {
            self.step(ManagerEvent::Wedged { database, epoch });
        }
    }

    fn may_start(&self, member: MemberId, incarnation: IncarnationId) -> Result<(), LeaseRefusal> {
        if self.leadership.is_none() {
            return Err(LeaseRefusal::NotLeader);
        }
        self.context.applied.read(|state| {
            let member = state.members.get(&member).ok_or(LeaseRefusal::NotRecorded)?;
            self.table.may_start(clock::now(), member, incarnation)
        })
    }

    fn ended(
        &mut self,
        member: MemberId,
        incarnation: IncarnationId,
        certified: bool,
    ) -> Result<(), LeaseRefusal> {
        if !self.leadership.is_some_and(|leadership| leadership.announced) {
            return Err(LeaseRefusal::NotLeader);
        }
        if self.alive.get(&member) == Some(&incarnation) {
            self.alive.remove(&member);
        }
        if certified {
            self.table.certify(member, incarnation);
            self.step(ManagerEvent::DeathCertified { member, incarnation });
        } else {
            self.table.release(member, incarnation);
        }
        Ok(())
    }

    fn report_expired(&mut self) {
        if self.leadership.is_none() {
            return;
        }
        let now = clock::now();
        let (table, applied) = (&mut self.table, &self.context.applied);
        for member in applied.read(|state| table.expired(now, state)) {
            self.alive.remove(&member);
            self.step(ManagerEvent::LeaseExpired { member });
        }
    }

    /// Tells the manager, then does what it wants.
    fn step(&mut self, event: ManagerEvent) {
        let mut wanted = Vec::new();
        self.plans.heard(&event);
        let (manager, applied) = (&mut self.manager, &self.context.applied);
        applied.read(|state| {
            self.plans.applied(state);
            manager.step(clock::now(), state, event, &mut wanted);
            wanted.iter().for_each(|action| self.plans.wanted(state, action));
        });
        let mut rest = Vec::with_capacity(wanted.len());
        for action in wanted {
            match action {
                ManagerAction::Wake { at } => self.wake = Some(at),
                other => rest.push(other),
            }
        }
        if !rest.is_empty() {
            self.executor.carry_out(rest, &self.plans);
        }
    }
}

//! What operators ask for: moves, mounts, dismounts.

use keelson_types::{
    DatabaseId, DatabaseState, MemberId, MountDial, MountIntent, OperationId, RefusalReason, Tick,
};

use super::batch::{Batch, Owner};
use super::{DismountProgress, Manager};
use crate::activation::{Activation, Phase};
use crate::command::{Command, Refusal};
use crate::decision::ActivationReason;
use crate::loss::AcceptedLoss;
use crate::operation::{MoveOptions, OperationKind};
use crate::point_in_time::ActivateAt;
use crate::state::{ClusterState, CopyKind, Database};

/// What an operator waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Goal {
    Move { to: MemberId, options: MoveOptions },
    Mount { accept_loss: Option<AcceptedLoss> },
    At(ActivateAt),
    Dismount,
}

/// An operation under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PendingOperation {
    database: DatabaseId,
    goal: Goal,
    pub(super) proposal: Proposal,
}

/// Whether the operator's wish for an open or closed database is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proposal {
    /// It must be looked at.
    Wanted,
    /// It was proposed with this tag.
    Made(u64),
    /// The state said so already.
    NotNeeded,
}

fn refusal(reason: RefusalReason, message: impl Into<String>) -> Refusal {
    Refusal::new(reason, message)
}

impl Manager {
    /// Takes over what was asked of the predecessor. Moves are not begun anew: whoever asked sees
    /// how far the predecessor got.
    pub(super) fn adopt_operations(&mut self, state: &ClusterState) {
        for operation in state.operations.values().filter(|operation| !operation.is_finished()) {
            let (database, goal) = match &operation.kind {
                OperationKind::Switchover { database, to, options, .. } => {
                    (*database, Goal::Move { to: *to, options: *options })
                }
                OperationKind::Mount { database, accept_loss } => {
                    (*database, Goal::Mount { accept_loss: *accept_loss })
                }
                OperationKind::ActivateAt { database, order } => (*database, Goal::At(*order)),
                OperationKind::Dismount { database } => (*database, Goal::Dismount),
                OperationKind::Seed { .. }
                | OperationKind::ScheduledMove(_)
                | OperationKind::Rehearsal { .. }
                | OperationKind::Other(_) => continue,
            };
            let pending = PendingOperation { database, goal, proposal: Proposal::Wanted };
            self.operations.insert(operation.id, pending);
        }
    }

    pub(super) fn move_requested(
        &mut self,
        now: Tick,
        state: &ClusterState,
        (operation, id): (OperationId, DatabaseId),
        (to, options): (MemberId, MoveOptions),
        batch: &mut Batch,
    ) {
        if self.operations.contains_key(&operation) {
            return;
        }
        let database = match self.check_move(state, id, to) {
            Ok(database) => database,
            Err(refusal) => return batch.finished.push((operation, Err(refusal))),
        };
        let pending = PendingOperation {
            database: id,
            goal: Goal::Move { to, options },
            proposal: Proposal::NotNeeded,
        };
        self.operations.insert(operation, pending);
        self.work.databases.insert(id);
        if database.target_member() != Some(to) {
            let reason = ActivationReason::Switchover { to };
            let phase = Phase::Allocating { expected: database.epoch };
            let mut job = Activation::new(now, reason.clone(), phase);
            job.operation = Some(operation);
            job.requested = database.copy_on(to);
            job.undo_to = database.target;
            batch.allocate(database, reason);
            self.jobs.put(now, id, job);
        }
    }

    /// The checks of a switchover that need no question to another member.
    fn check_move<'a>(
        &self,
        state: &'a ClusterState,
        id: DatabaseId,
        to: MemberId,
    ) -> Result<&'a Database, Refusal> {
        let database = state.databases.get(&id);
        let database = database
            .ok_or_else(|| refusal(RefusalReason::UnknownDatabase, format!("no database {id}")))?;
        let name = &database.name;
        if database.intent == MountIntent::Dismounted {
            return Err(refusal(RefusalReason::Dismounted, format!("{name} is dismounted")));
        }
        if self.jobs.contains(&id) || database.state != DatabaseState::Established {
            let message = format!("{name} is being activated already");
            return Err(refusal(RefusalReason::Activating, message));
        }
        let member = state.members.get(&to);
        let member = member
            .ok_or_else(|| refusal(RefusalReason::UnknownMember, format!("no member {to}")))?;
        let at = &member.config.name;
        let copy = database.copy_on(to).and_then(|copy| database.copies.get(&copy));
        let Some(config) = copy else {
            let message = format!("{at} holds no copy of {name}");
            return Err(refusal(RefusalReason::UnknownCopy, message));
        };
        if config.kind == CopyKind::Lagged || config.leaving {
            let message = format!("the copy on {at} is lagged or leaving");
            return Err(refusal(RefusalReason::TargetUnfit, message));
        }
        if config.is_stopped() {
            let comment = &config.suspension.comment;
            let message = format!("the copy on {at} is suspended ({comment}); resume it first");
            return Err(refusal(RefusalReason::TargetUnfit, message));
        }
        if !self.contacts(state).alive.contains(&to) {
            let message = format!("{at} holds no lease");
            return Err(refusal(RefusalReason::TargetUnfit, message));
        }
        let actives = self.actives(state).get(&to).copied().unwrap_or(0);
        let most = member.activation.max_active.filter(|max| actives >= *max);
        if let (Some(most), true) = (most, database.target_member() != Some(to)) {
            let message = format!("{actives} databases are active on {at}, and {most} may be");
            return Err(refusal(RefusalReason::ActiveLimit, message));
        }
        Ok(database)
    }

    pub(super) fn mount_requested(
        &mut self,
        now: Tick,
        (operation, id): (OperationId, DatabaseId),
        accept_loss: Option<AcceptedLoss>,
    ) {
        let goal = Goal::Mount { accept_loss };
        let pending = PendingOperation { database: id, goal, proposal: Proposal::Wanted };
        self.operations.entry(operation).or_insert(pending);
        self.work.databases.insert(id);
        self.wake_up(now, id);
    }

    /// The operation by which an operator accepts loss for a database, until it ends.
    pub(super) fn accepted_loss(&self, id: DatabaseId) -> Option<(OperationId, AcceptedLoss)> {
        let mut operations = self.operations.iter().filter(|(_, o)| o.database == id);
        operations.find_map(|(operation, pending)| match pending.goal {
            Goal::Mount { accept_loss } => Some((*operation, accept_loss?)),
            Goal::Move { to, options } if options.accept_loss => {
                Some((*operation, AcceptedLoss { on: Some(to) }))
            }
            Goal::Move { .. } | Goal::At(_) | Goal::Dismount => None,
        })
    }

    /// The mount dial of the switchover under way; none if the dials of members count.
    pub(super) fn dial_of_move(&self, id: DatabaseId) -> Option<MountDial> {
        let mut operations = self.operations.values().filter(|o| o.database == id);
        operations.find_map(|pending| match pending.goal {
            Goal::Move { options, .. } => Some(options.dial),
            Goal::Mount { .. } | Goal::At(_) | Goal::Dismount => None,
        })?
    }

    /// The operation by which an operator makes an instant of a copy the truth, until it ends.
    pub(super) fn instant_wanted(&self, id: DatabaseId) -> Option<(OperationId, ActivateAt)> {
        let mut operations = self.operations.iter().filter(|(_, o)| o.database == id);
        operations.find_map(|(operation, pending)| match pending.goal {
            Goal::At(order) => Some((*operation, order)),
            Goal::Move { .. } | Goal::Mount { .. } | Goal::Dismount => None,
        })
    }

    pub(super) fn instant_requested(
        &mut self,
        now: Tick,
        state: &ClusterState,
        (operation, id): (OperationId, DatabaseId),
        order: ActivateAt,
        batch: &mut Batch,
    ) {
        if self.operations.contains_key(&operation) {
            return;
        }
        let database = match self.check_instant(state, id, &order) {
            Ok(database) => database,
            Err(refusal) => return batch.finished.push((operation, Err(refusal))),
        };
        let goal = Goal::At(order);
        let pending = PendingOperation { database: id, goal, proposal: Proposal::Wanted };
        self.operations.insert(operation, pending);
        self.work.databases.insert(id);
        match self.jobs.get(&id) {
            Some(_) => self.wake_up(now, id),
            // A closed database gets its epoch when it is wanted open.
            None if database.intent == MountIntent::Dismounted => {}
            None => {
                let reason = ActivationReason::PointInTime { on: order.on };
                let phase = Phase::Allocating { expected: database.epoch };
                let mut job = Activation::new(now, reason.clone(), phase);
                job.operation = Some(operation);
                batch.allocate(database, reason);
                self.jobs.put(now, id, job);
            }
        }
    }

    /// An activation that waits looks again at once.
    fn wake_up(&mut self, now: Tick, id: DatabaseId) {
        self.change(now, id, |job| {
            if let Phase::Waiting { until, .. } | Phase::BackingOff { until } = &mut job.phase {
                *until = now;
            }
        });
    }

    /// Forgets an operation; its database is looked at without its word.
    pub(super) fn end_operation(&mut self, id: OperationId) {
        let ended = self.operations.remove(&id);
        self.work.databases.extend(ended.map(|operation| operation.database));
    }

    /// The checks of an activation at an instant that need no question to another member.
    fn check_instant<'a>(
        &self,
        state: &'a ClusterState,
        id: DatabaseId,
        order: &ActivateAt,
    ) -> Result<&'a Database, Refusal> {
        let database = state.databases.get(&id);
        let database = database
            .ok_or_else(|| refusal(RefusalReason::UnknownDatabase, format!("no database {id}")))?;
        let name = &database.name;
        let waits = |job: &Activation| {
            matches!(job.phase, Phase::Waiting { .. } | Phase::BackingOff { .. })
        };
        let busy = self.jobs.get(&id).is_some_and(|job| !waits(job));
        if busy || self.instant_wanted(id).is_some() {
            let message = format!("{name} is being activated already");
            return Err(refusal(RefusalReason::Activating, message));
        }
        let Some(copy) = database.copy_on(order.on) else {
            let message = format!("the member holds no copy of {name}");
            return Err(refusal(RefusalReason::UnknownCopy, message));
        };
        if database.target == Some(copy) {
            let message = format!("the active copy of {name} has replayed what would be discarded");
            return Err(refusal(RefusalReason::Precondition, message));
        }
        if !self.contacts(state).alive.contains(&order.on) {
            let message = format!("the member of the copy of {name} holds no lease");
            return Err(refusal(RefusalReason::TargetUnfit, message));
        }
        Ok(database)
    }

    pub(super) fn dismount_requested(&mut self, operation: OperationId, id: DatabaseId) {
        let pending =
            PendingOperation { database: id, goal: Goal::Dismount, proposal: Proposal::Wanted };
        self.operations.entry(operation).or_insert(pending);
    }

    /// Ends the operations whose goal is reached, or cannot be.
    pub(super) fn settle_operations(&mut self, state: &ClusterState, batch: &mut Batch) {
        self.propose_intents(state, batch);
        let asked = |id: &OperationId| {
            batch.single.iter().any(|(owner, _)| *owner == Owner::Operation(*id))
        };
        let settled: Vec<_> = self
            .operations
            .iter()
            .filter(|(id, _)| !asked(id))
            .filter_map(|(id, operation)| Some((*id, self.settle(state, *id, operation)?)))
            .collect();
        for (id, result) in settled {
            self.end_operation(id);
            batch.finished.push((id, result));
        }
    }

    /// Proposes what operators want open or closed, once per operation.
    fn propose_intents(&mut self, state: &ClusterState, batch: &mut Batch) {
        for (id, operation) in &mut self.operations {
            let intent = match operation.goal {
                Goal::Move { .. } => continue,
                Goal::Mount { .. } | Goal::At(_) => MountIntent::Mounted,
                Goal::Dismount => MountIntent::Dismounted,
            };
            let database = operation.database;
            let Some(recorded) = state.databases.get(&database) else { continue };
            if operation.proposal != Proposal::Wanted {
                continue;
            }
            operation.proposal = Proposal::NotNeeded;
            if recorded.intent != intent {
                let command = Command::SetMountIntent { database, intent };
                batch.single.push((Owner::Operation(*id), command));
            }
        }
    }

    fn settle(
        &self,
        state: &ClusterState,
        asked: OperationId,
        operation: &PendingOperation,
    ) -> Option<Result<(), Refusal>> {
        let id = operation.database;
        let Some(database) = state.databases.get(&id) else {
            let message = format!("no database {id}");
            return Some(Err(refusal(RefusalReason::UnknownDatabase, message)));
        };
        if let Proposal::Made(tag) = operation.proposal
            && self.pending.contains_key(&tag)
        {
            return None;
        }
        let phase = self.jobs.get(&id).map(|job| &job.phase);
        match operation.goal {
            Goal::Dismount if database.intent == MountIntent::Mounted => {
                let message = format!("{} was mounted meanwhile", database.name);
                Some(Err(refusal(RefusalReason::Precondition, message)))
            }
            Goal::Dismount => {
                let dismount = self.dismounts.get(&id).map(|dismount| dismount.progress);
                let closed = database.target.is_none() || dismount == Some(DismountProgress::Done);
                let over = database.target_member();
                let over = over.is_some_and(|m| self.contacts(state).over.contains(&m));
                (closed || over).then_some(Ok(()))
            }
            Goal::Move { .. } | Goal::Mount { .. } | Goal::At(_)
                if database.intent == MountIntent::Dismounted =>
            {
                let message = format!("{} was dismounted meanwhile", database.name);
                Some(Err(refusal(RefusalReason::Dismounted, message)))
            }
            // The order itself ends if its copy cannot be activated.
            Goal::At(_) if matches!(phase, Some(Phase::Waiting { .. })) => None,
            Goal::Move { .. } | Goal::Mount { .. } | Goal::At(_) => match phase {
                Some(Phase::Waiting { .. }) => Some(Err(nobody(database, operation.goal))),
                Some(_) => None,
                None if database.state == DatabaseState::Established => {
                    Some(reached(state, database, asked, operation.goal))
                }
                None => None,
            },
        }
    }
}

fn reached(
    state: &ClusterState,
    database: &Database,
    asked: OperationId,
    goal: Goal,
) -> Result<(), Refusal> {
    let active = database.target_member();
    let gave_up = |order| database.receipts.iter().any(|receipt| receipt.operation == order);
    match goal {
        // Nobody began it: the leader that was asked is gone.
        Goal::At(order) if active == Some(order.on) && !gave_up(Some(asked)) => {
            let message = format!("{} was not taken back to {}", database.name, order.kept);
            Err(refusal(RefusalReason::Precondition, message))
        }
        Goal::Move { to, .. } | Goal::At(ActivateAt { on: to, .. }) if active != Some(to) => {
            let member = active.and_then(|id| state.members.get(&id));
            let at = member.map_or("another member", |member| member.config.name.as_str());
            let message = format!("{} is active on {at} instead", database.name);
            Err(refusal(RefusalReason::TargetUnfit, message))
        }
        Goal::Move { .. } | Goal::Mount { .. } | Goal::At(_) | Goal::Dismount => Ok(()),
    }
}

/// Why no copy was opened.
fn nobody(database: &Database, goal: Goal) -> Refusal {
    let name = &database.name;
    if let Goal::Mount { accept_loss: Some(_) } = goal {
        let message = format!("no copy of {name} that may be opened answers");
        return refusal(RefusalReason::TargetUnfit, message);
    }
    let message = format!("no copy of {name} can be activated now");
    refusal(RefusalReason::NoLosslessCopy, message)
}

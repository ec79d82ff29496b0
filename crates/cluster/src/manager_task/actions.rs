//! Carries out what the active manager asks for. Every action that has an answer sends it back to
//! the leader's task as an event; an action that cannot be carried out answers too.
//!
//! Proposals reach the library in the order of the actions. Orders for one member travel in one
//! message per kind. All waiting happens in tasks that end by a deadline.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_cluster_core::{
    Command, CopyKind, ManagerAction, ManagerEvent, MountFailure, MountOrder, OperationState,
    Outcome, Refusal, SealItem,
};
use keelson_types::{DatabaseId, Epoch, MemberId, OperationId, RefusalReason};
use keelson_wire::{ids, v1};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::LeaderInput;
use super::plans::{Plans, Step};
use crate::context::Context;
use crate::orders;
use crate::propose::stamped;

/// Time on top of a mount's deadline for the way there and back.
const MOUNT_MARGIN: std::time::Duration = std::time::Duration::from_millis(500);

/// Actions of one step, sorted by what carries them.
#[derive(Default)]
struct Sorted {
    proposals: Vec<(u64, Command)>,
    seals: BTreeMap<MemberId, Vec<SealItem>>,
    mounts: BTreeMap<MemberId, Vec<MountOrder>>,
    dismounts: BTreeMap<MemberId, Vec<(DatabaseId, Epoch)>>,
    finished: Vec<(OperationId, Result<(), Refusal>)>,
}

/// Proposals that may wait for the proposer; one step makes a handful of batches.
const PROPOSALS_MAX: usize = 1024;

/// Carries out actions for the leader's task.
pub(super) struct Executor {
    context: Arc<Context>,
    proposals: mpsc::Sender<(u64, Command)>,
}

impl Executor {
    pub(super) fn new(context: Arc<Context>) -> Self {
        let (proposals, queue) = mpsc::channel(PROPOSALS_MAX);
        context.spawn(propose_in_order(context.clone(), queue));
        Self { context, proposals }
    }

    fn propose(&self, tag: u64, command: Command) {
        if let Err(error) = self.proposals.try_send((tag, command)) {
            let outcome =
                Outcome::Refused(Refusal::new(RefusalReason::Overloaded, error.to_string()));
            let context = self.context.clone();
            self.context.spawn(async move {
                tell(&context, ManagerEvent::CommandDone { tag, outcome }).await;
            });
        }
    }

    pub(super) fn carry_out(&self, actions: Vec<ManagerAction>, plans: &Plans) {
        let context = &self.context;
        let sorted = Sorted::new(actions);
        for (tag, command) in sorted.proposals {
            self.propose(tag, command);
        }
        for (member, items) in sorted.seals {
            let of = items.iter().map(|item| item.database);
            let span = context.applied.read(|state| plans.orders(Step::Seal, state, member, of));
            context.spawn(seal(context.clone(), member, items).instrument(span));
        }
        for (member, mounts) in sorted.mounts {
            let of = mounts.iter().map(|order| order.database);
            let span = context.applied.read(|state| plans.orders(Step::Mount, state, member, of));
            context.spawn(mount(context.clone(), member, mounts).instrument(span));
        }
        for (member, dismounts) in sorted.dismounts {
            context.spawn(dismount(context.clone(), member, dismounts));
        }
        for (operation, result) in sorted.finished {
            context.spawn(finish(context.clone(), operation, result));
        }
    }
}

impl Sorted {
    fn new(actions: Vec<ManagerAction>) -> Self {
        let mut sorted = Sorted::default();
        for action in actions {
            match action {
                ManagerAction::Propose { tag, command } => sorted.proposals.push((tag, command)),
                ManagerAction::SealMany { member, items } => {
                    sorted.seals.entry(member).or_default().extend(items);
                }
                ManagerAction::Mount { member, order } => {
                    sorted.mounts.entry(member).or_default().push(order);
                }
                ManagerAction::Dismount { member, database, epoch } => {
                    sorted.dismounts.entry(member).or_default().push((database, epoch));
                }
                ManagerAction::FinishOperation { operation, result } => {
                    sorted.finished.push((operation, result));
                }
                // The task keeps its own alarm.
                ManagerAction::Wake { .. } => {}
            }
        }
        sorted
    }
}

async fn tell(context: &Context, event: ManagerEvent) {
    // Fails only while the control plane stops.
    let _ = context.leader.send(LeaderInput::Event(event)).await;
}

async fn propose_in_order(context: Arc<Context>, mut queue: mpsc::Receiver<(u64, Command)>) {
    let refused = |what: String| Outcome::Refused(Refusal::new(RefusalReason::NoLeader, what));
    while let Some((tag, command)) = queue.recv().await {
        context.may_record().await;
        // Sent in order, awaited apart: so the log has them in this order, in few syncs.
        let sent = context.raft.client_write_ff(stamped(command)).await;
        let waiter = context.clone();
        context.spawn(async move {
            let outcome = match sent {
                Err(fatal) => refused(fatal.to_string()),
                Ok(answer) => match answer.await {
                    Ok(Ok(response)) => response.data,
                    Ok(Err(error)) => refused(error.to_string()),
                    Err(_) => refused("consensus has stopped".into()),
                },
            };
            tell(&waiter, ManagerEvent::CommandDone { tag, outcome }).await;
        });
    }
}

async fn seal(context: Arc<Context>, member: MemberId, items: Vec<SealItem>) {
    let request = v1::SealManyRequest { orders: items.iter().map(orders::seal_order).collect() };
    let deadline = context.timings.seal_deadline;
    let response = match context.seal_on(member, request, deadline).await {
        Ok(response) => response,
        Err(refusal) => {
            tracing::debug!(%member, %refusal, "seals not answered");
            return tell(&context, ManagerEvent::SealFailed { member }).await;
        }
    };
    let is_ha = |copy| {
        context.applied.read(|state| {
            let mut copies = state.databases.values().filter_map(|d| d.copies.get(&copy));
            copies.next().is_none_or(|config| config.kind == CopyKind::Ha)
        })
    };
    let answers = response.replies.iter().filter_map(|reply| {
        orders::seal_answer(member, reply, is_ha)
            .inspect_err(|error| tracing::warn!(%member, %error, "a malformed answer to a seal"))
            .ok()
    });
    let answers = answers.collect();
    tell(&context, ManagerEvent::SealReplies { member, answers }).await;
}

async fn mount(context: Arc<Context>, member: MemberId, mounts: Vec<MountOrder>) {
    let request = v1::MountManyRequest { orders: mounts.iter().map(orders::mount_order).collect() };
    let deadline = context.timings.mount_deadline + MOUNT_MARGIN;
    let results = match context.mount_on(member, request, deadline).await {
        Err(refusal) => {
            tracing::debug!(%member, %refusal, "mounts not answered");
            let failure = match refusal.reason {
                RefusalReason::DeadlineExceeded => MountFailure::Timeout,
                _ => MountFailure::Unreachable,
            };
            mounts.iter().map(|m| (m.database, m.epoch, Err(failure.clone()))).collect::<Vec<_>>()
        }
        Ok(response) => {
            let result = |order: &MountOrder| {
                let id = ids::bytes(order.database);
                let mut outcomes = response.outcomes.iter();
                let outcome = outcomes
                    .find(|o| o.database == id && o.epoch.map(Epoch::from) == Some(order.epoch));
                let result = outcome.map_or(Err(MountFailure::Timeout), orders::mount_result);
                (order.database, order.epoch, result)
            };
            mounts.iter().map(result).collect()
        }
    };
    for (database, epoch, result) in results {
        tell(&context, ManagerEvent::MountResult { database, epoch, result }).await;
    }
}

async fn dismount(context: Arc<Context>, member: MemberId, dismounts: Vec<(DatabaseId, Epoch)>) {
    let order = |(database, epoch): &(DatabaseId, Epoch)| v1::DismountOrder {
        database: ids::bytes(*database),
        epoch: Some((*epoch).into()),
    };
    let request = v1::DismountManyRequest { orders: dismounts.iter().map(order).collect() };
    let deadline = context.timings.mount_deadline;
    if let Err(refusal) = context.dismount_on(member, request, deadline).await {
        // The state no longer assigns the pair, so its lease ends; the operation waits for the
        // manager.
        tracing::warn!(%member, %refusal, "a dismount was not answered");
        return;
    }
    for (database, epoch) in dismounts {
        tell(&context, ManagerEvent::Dismounted { database, epoch }).await;
    }
}

async fn finish(context: Arc<Context>, id: OperationId, result: Result<(), Refusal>) {
    let message = result.as_ref().err().map(|refusal| refusal.message.clone()).unwrap_or_default();
    let state = match result {
        Ok(()) => OperationState::Succeeded,
        Err(refusal) => OperationState::Failed(refusal),
    };
    let command = Command::UpdateOperation { id, state, progress_percent: 100, message };
    // If this member leads no longer, the next leader adopts the operation and ends it.
    let unfinished = |state: &keelson_cluster_core::ClusterState| {
        state.operations.get(&id).is_some_and(|o| !o.is_finished())
    };
    let _ = context.propose_until_known(command, unfinished).await;
}

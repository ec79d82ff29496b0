//! The `Operations` service, and how an operation begins.
//!
//! Ids are chosen by clients: the same id and kind again is the same operation, and begins nothing.
//! What runs belongs to the leader's manager; a new leader takes over what is recorded as running.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use keelson_cluster_core::{
    Answer, ClusterState, Command, ManagerEvent, Moved, OperationKind, OperationState, Whereabouts,
};
use keelson_net::{TracePlace, peer_of};
use keelson_types::{
    CopyId, CopyStatus, DatabaseId, MemberId, OperationId, RefusalReason, SeedProgress,
};
use keelson_wire::v1::operations_server::Operations;
use keelson_wire::v1::{
    GetOperationRequest, ListOperationsRequest, ListOperationsResponse, MoveResult, Operation,
    SeedFigures,
};
use keelson_wire::{Refusal, ids};
use tonic::{Request, Response, Status};

use crate::admin::Asking;
use crate::applied::Applied;
use crate::context::Context;
use crate::manager_task::LeaderInput;

/// The service. Clones share the control plane.
#[derive(Clone)]
pub(crate) struct OperationsApi(pub(crate) Arc<Context>);

impl Context {
    /// Records an operation and, if this request is its first, tells the manager; says whether it
    /// is. The caller has made sure that this member leads.
    pub(crate) async fn begin_operation(
        self: &Arc<Self>,
        id: OperationId,
        kind: OperationKind,
    ) -> Result<bool, Refusal> {
        let command = Command::PutOperation { id, kind: kind.clone() };
        let (index, answer) = self.propose_here(command).await?.answer()?;
        let first = match answer {
            Answer::Operation(operation) => operation.started_at_index == index,
            _ => false,
        };
        if !first {
            return Ok(false);
        }
        let event = match kind {
            OperationKind::Switchover { database, to, options, .. } => {
                ManagerEvent::MoveRequested { operation: id, database, to, options }
            }
            OperationKind::Mount { database, accept_loss } => {
                ManagerEvent::MountRequested { operation: id, database, accept_loss }
            }
            OperationKind::ActivateAt { database, order } => {
                ManagerEvent::InstantRequested { operation: id, database, order }
            }
            OperationKind::Dismount { database } => {
                ManagerEvent::DismountRequested { operation: id, database }
            }
            OperationKind::Seed { .. }
            | OperationKind::ScheduledMove(_)
            | OperationKind::Rehearsal { .. }
            | OperationKind::Other(_) => return Ok(true),
        };
        self.ask_leader_task(LeaderInput::Requested(event, TracePlace::here())).await?;
        Ok(true)
    }

    fn operation(&self, id: OperationId) -> Result<Operation, Refusal> {
        let found = self.applied.read(|state| state.operations.get(&id).map(|o| shown(state, o)));
        found.ok_or_else(|| {
            Refusal::new(RefusalReason::UnknownOperation, format!("no operation {id}"))
        })
    }
}

impl Context {
    /// The same for who asks any member: one that is behind the leader knows less than the asker
    /// was told, so only a leader that is confirmed as such says that there is no such operation.
    async fn find_operation(&self, id: OperationId) -> Result<Operation, Refusal> {
        if let Ok(found) = self.operation(id) {
            return Ok(found);
        }
        self.require_leader()?;
        self.confirm_leader().await?;
        self.operation(id)
    }

    async fn cancel_operation(self: &Arc<Self>, id: OperationId) -> Result<Operation, Refusal> {
        self.require_leader()?;
        let operation = self.operation(id)?;
        if operation.state != "running" {
            return Ok(operation);
        }
        if !self.cancel_waiting(id).await? {
            self.cancel_seed(id).await?;
        }
        self.operation(id)
    }
}

fn database_name(state: &ClusterState, id: DatabaseId) -> String {
    state.databases.get(&id).map_or_else(|| id.to_string(), |database| database.name.to_string())
}

/// A copy by its name; it has another id once a seed of it succeeded.
fn copy_name(state: &ClusterState, database: DatabaseId, copy: CopyId) -> String {
    let name = database_name(state, database);
    let config = state.databases.get(&database).and_then(|d| d.copies.get(&copy));
    config.map_or_else(|| name.clone(), |c| format!("{name}@{}", member_name(state, c.member)))
}

fn member_name(state: &ClusterState, id: MemberId) -> String {
    state.members.get(&id).map_or_else(|| id.to_string(), |m| m.config.name.to_string())
}

/// All operations that are remembered, oldest first.
pub(crate) fn all(applied: &Applied) -> Vec<Operation> {
    applied.read(|state| {
        let mut known: Vec<_> = state.operations.values().collect();
        known.sort_by_key(|operation| operation.started_at_index);
        known.into_iter().map(|operation| shown(state, operation)).collect()
    })
}

/// An operation as clients see it.
fn shown(state: &ClusterState, operation: &keelson_cluster_core::Operation) -> Operation {
    let (kind, subject) = match &operation.kind {
        OperationKind::Switchover { database, to, .. } => {
            let to = member_name(state, *to);
            ("switchover", format!("{} to {to}", database_name(state, *database)))
        }
        OperationKind::ScheduledMove(order) => {
            let to = order.to.map(|to| format!(" to {}", member_name(state, to)));
            let name = database_name(state, order.database);
            ("scheduled_switchover", format!("{name}{}", to.unwrap_or_default()))
        }
        OperationKind::Mount { database, .. } => ("mount", database_name(state, *database)),
        OperationKind::ActivateAt { database, order } => {
            let (name, on) = (database_name(state, *database), member_name(state, order.on));
            ("activate_at", format!("{name}@{on} at {}", order.kept))
        }
        OperationKind::Dismount { database } => ("dismount", database_name(state, *database)),
        OperationKind::Seed { database, copy } => ("seed", copy_name(state, *database, *copy)),
        OperationKind::Rehearsal { database, copy } => {
            ("rehearsal", copy_name(state, *database, *copy))
        }
        OperationKind::Other(name) => (name.as_str(), String::new()),
    };
    let database = operation.database().and_then(|id| state.databases.get(&id));
    let comment = match &operation.kind {
        OperationKind::Switchover { comment, .. } => comment.clone(),
        OperationKind::ScheduledMove(order) => order.comment.clone(),
        _ => String::new(),
    };
    let (word, code) = match &operation.state {
        OperationState::Running => ("running", String::new()),
        OperationState::Succeeded => ("succeeded", String::new()),
        OperationState::Failed(refusal) if refusal.reason == RefusalReason::Cancelled => {
            ("cancelled", refusal.reason.code().0.to_owned())
        }
        OperationState::Failed(refusal) => ("failed", refusal.reason.code().0.to_owned()),
    };
    Operation {
        operation: ids::bytes(operation.id),
        kind: kind.to_owned(),
        subject,
        state: word.to_owned(),
        phase: operation.phase(database).to_owned(),
        message: operation.message.clone(),
        code,
        started_unix_millis: operation.started_unix_ms,
        ended_unix_millis: if operation.is_finished() { operation.updated_unix_ms } else { 0 },
        done: u64::from(operation.progress_percent),
        total: 100,
        comment,
        seed: operation.seed.as_ref().map(|seed| figures(state, seed)),
        moved: operation.moved.as_ref().map(|moved| move_result(state, moved)),
    }
}

/// The result of a switchover (F37); its end is empty until then.
fn move_result(state: &ClusterState, moved: &Moved) -> MoveResult {
    let at = |at: Option<Whereabouts>| match at {
        None => (String::new(), String::new()),
        Some(Whereabouts { active, mounted }) => {
            let status = if mounted { CopyStatus::Mounted } else { CopyStatus::Dismounted };
            let member = active.map(|id| member_name(state, id)).unwrap_or_default();
            (member, status.to_string())
        }
    };
    let (active_at_start, mount_status_at_start) = at(Some(moved.start));
    let (active_at_end, mount_status_at_end) = at(moved.end);
    MoveResult {
        active_at_start,
        active_at_end,
        mount_status_at_start,
        mount_status_at_end,
        // The most that can be missing; nobody may know how much that is.
        logs_lost: moved.receipt.as_ref().map_or(Some(0), |receipt| receipt.missing_logs),
        recovery_point: moved.receipt.as_ref().map(|receipt| receipt.kept.into()),
    }
}

fn figures(state: &ClusterState, seed: &SeedProgress) -> SeedFigures {
    SeedFigures {
        source: seed.source.map(|id| member_name(state, id)).unwrap_or_default(),
        files_done: seed.files_done,
        files: seed.files,
        bytes_done: seed.bytes_done,
        bytes: seed.bytes,
        bytes_received: seed.bytes_received,
        bytes_per_second: seed.bytes_per_second,
        seconds_left: seed.seconds_left(),
        network: seed.network.clone(),
        compressed: seed.compressed,
        scope: seed.scope.name().into(),
        log_source: seed.log_source.map(|id| member_name(state, id)).unwrap_or_default(),
        log_bytes: seed.log_bytes,
    }
}

/// Why an operation that runs cannot be cancelled.
pub(crate) fn not_cancelled(kind: &str) -> Refusal {
    let what = format!(
        "a {kind} cannot be taken back once begun; it ends by itself, and another switchover or \
         dismount can follow it"
    );
    Refusal::new(RefusalReason::Precondition, what)
}

type Watched = Pin<Box<dyn Stream<Item = Result<Operation, Status>> + Send>>;

/// Every change of an operation, the present one first, until it has ended.
fn watch(context: Arc<Context>, id: OperationId, first: Operation) -> Watched {
    let applied = context.applied.watch();
    let changes = stream::unfold(Some((context, applied, first.clone())), move |at| async move {
        let (context, mut applied, last) = at?;
        if last.state != "running" {
            return None;
        }
        loop {
            let next = match context.operation(id) {
                Ok(next) => next,
                Err(refusal) => return Some((Err(refusal.into()), None)),
            };
            if next != last {
                return Some((Ok(next.clone()), Some((context, applied, next))));
            }
            tokio::select! {
                () = context.stop.cancelled() => return None,
                changed = applied.changed() => changed.ok()?,
            }
        }
    });
    stream::once(std::future::ready(Ok(first))).chain(changes).boxed()
}

#[tonic::async_trait]
impl Operations for OperationsApi {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        peer_of(&request)?;
        let id = ids::operation(&request.get_ref().operation)?;
        Ok(Response::new(self.0.find_operation(id).await?))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        peer_of(&request)?;
        self.0.cluster()?;
        Ok(Response::new(ListOperationsResponse { operations: all(&self.0.applied) }))
    }

    type WatchOperationStream = Watched;

    async fn watch_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Watched>, Status> {
        peer_of(&request)?;
        let id = ids::operation(&request.get_ref().operation)?;
        let first = self.0.find_operation(id).await?;
        Ok(Response::new(watch(self.0.clone(), id, first)))
    }

    /// An activation that has begun ends by itself within its deadlines; cancelling it half way
    /// would leave the database closed. A seed can be cancelled at any time: the copy stays as it
    /// was; so can a move that waits for its time, and a rehearsal. An operation that has ended can
    /// be "cancelled" to no effect.
    async fn cancel_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let asking = Asking::of(&request, Some("cancel_operation"))?;
        let id = ids::operation(&request.get_ref().operation)?;
        let context = self.0.clone();
        let work = async move { context.cancel_operation(id).await };
        Ok(Response::new(self.0.see_through(asking, work).await?))
    }
}

//! Rehearsals of switchovers: checked like the move, carried out by the member of the target, and
//! recorded with the copy.
//!
//! Thin: who may rehearse, how a pause is estimated and what is kept decides
//! `cluster_core::rehearsal`. The leader watches the target's answers; when it stops doing so
//! (deadline, cancelled, no leader any more) the target ends by itself and drops its fork. A
//! rehearsal that a leader left behind is ended by the next one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use keelson_cluster_core::rehearsal::{
    self, Advance, PauseInput, Rehearsal, check_rehearsal, orphan_ends, orphaned,
};
use keelson_cluster_core::{Command, CopyConfig, OperationKind, OperationState, Skip};
use keelson_types::{
    CopyId, DatabaseId, LogEnd, MemberId, OperationId, RefusalReason, RehearsalStep,
};
use keelson_wire::v1::{
    MoveRow, RehearsalFigures, RehearsalInfo, RehearseRequest, RehearseResponse,
};
use keelson_wire::{Refusal, ids, refusal_of};
use tonic::{Request, Streaming};

use super::databases::operation_id;
use super::moves::MoveOrder;
use super::refusal;
use crate::context::Context;
use crate::propose;

/// How much later than the target the leader gives up.
const GRACE: Duration = Duration::from_secs(5);

/// Pause before a result is recorded again.
const AGAIN: Duration = Duration::from_millis(100);

/// The rehearsals that this member carries out as the leader.
#[derive(Debug, Default)]
pub(crate) struct Rehearsing(Mutex<BTreeSet<OperationId>>);

impl Rehearsing {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<OperationId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A rehearsal that this leader carries out.
#[derive(Clone, Copy)]
struct Running {
    id: OperationId,
    database: DatabaseId,
    copy: CopyId,
    on: MemberId,
    deadline: Duration,
    skip_index: bool,
    /// What it took to record the operation.
    consensus_write: Duration,
}

impl Context {
    /// Checks a move and begins its rehearsal; refused like the move, or for what no flag skips.
    pub(super) async fn rehearse_move(
        self: &Arc<Self>,
        order: MoveOrder,
        deadline: Duration,
    ) -> Result<MoveRow, Refusal> {
        let deadline = rehearsal::deadline(deadline);
        let deadline = deadline.map_err(|refused| refusal(refused.reason, refused.message))?;
        let [(id, to)] = order.databases[..] else {
            let what = "one database is rehearsed at a time";
            return Err(refusal(RefusalReason::BadArgument, what));
        };
        if let Some(begun) = self.rehearsal_begun(&order, id)? {
            return Ok(begun);
        }
        if let Some(to) = to {
            // Clearer than the row of the check that it does not pass.
            self.may_rehearse(id, to)?;
        }
        let Some((_, plan)) = self.settled_plans(&order).await.into_iter().next() else {
            return Err(refusal(
                RefusalReason::UnknownDatabase,
                "the database is not there any more",
            ));
        };
        let mut row = self.row(id, &plan);
        let (None, Some(on)) = (&plan.refusal, plan.to) else { return Ok(row) };
        let copy = self.may_rehearse(id, on)?;
        row.result = "would_rehearse".into();
        if order.what_if {
            return Ok(row);
        }
        let operation = order.operation.map_or_else(|| operation_id(&[]), Ok)?;
        let began = Instant::now();
        // Before it is recorded: it must not be taken for one that nobody carries out.
        self.rehearsing.lock().insert(operation);
        let kind = OperationKind::Rehearsal { database: id, copy };
        let first = match self.begin_operation(operation, kind).await {
            Ok(first) => first,
            Err(refusal) => {
                self.rehearsing.lock().remove(&operation);
                return Err(refusal);
            }
        };
        if first {
            let skip_index = order.skip.contains(&Skip::ClientExperience);
            let (database, consensus_write) = (id, began.elapsed());
            let running = Running {
                id: operation,
                database,
                copy,
                on,
                deadline,
                skip_index,
                consensus_write,
            };
            let context = self.clone();
            self.spawn(async move { context.carry_rehearsal_out(running).await });
        }
        row.operation = ids::bytes(operation);
        row.result = "rehearsing".into();
        Ok(row)
    }

    /// The same request again.
    fn rehearsal_begun(
        &self,
        order: &MoveOrder,
        wanted: DatabaseId,
    ) -> Result<Option<MoveRow>, Refusal> {
        let Some(id) = order.operation else { return Ok(None) };
        let known = self.applied.read(|state| state.operations.get(&id).map(|o| o.kind.clone()));
        match known {
            None => Ok(None),
            Some(OperationKind::Rehearsal { database, copy }) if database == wanted => {
                let on = self.applied.read(|state| {
                    let copies = state.databases.get(&database).map(|d| &d.copies);
                    copies.and_then(|copies| Some(copies.get(&copy)?.member))
                });
                Ok(Some(MoveRow {
                    database: self.name_of_database(database),
                    to: on.map(|on| self.name_of_member(on)).unwrap_or_default(),
                    result: "rehearsing".into(),
                    operation: ids::bytes(id),
                    ..MoveRow::default()
                }))
            }
            Some(_) => {
                let what = format!("operation {id} is another request");
                Err(refusal(RefusalReason::AlreadyExists, what))
            }
        }
    }

    fn may_rehearse(&self, database: DatabaseId, on: MemberId) -> Result<CopyId, Refusal> {
        self.applied.read(|state| {
            let gone = || refusal(RefusalReason::UnknownDatabase, "no such database any more");
            let database = state.databases.get(&database).ok_or_else(gone)?;
            check_rehearsal(state, database, on).map_err(propose::refusal)
        })
    }

    /// Runs until the result is recorded, or nobody wants it any more.
    async fn carry_rehearsal_out(self: &Arc<Self>, running: Running) {
        let began = Instant::now();
        let worked = tokio::select! {
            worked = tokio::time::timeout(running.deadline + GRACE, self.ask_target(running)) => {
                worked.unwrap_or_else(|_| {
                    let what = format!("no answer within {:?}", running.deadline + GRACE);
                    Err(refusal(RefusalReason::DeadlineExceeded, what))
                })
            }
            () = self.rehearsal_ended(running.id) => {
                self.rehearsing.lock().remove(&running.id);
                return;
            }
        };
        let took = began.elapsed();
        let result = match worked {
            Ok((figures, round_trip)) => passed(&running, &figures, (took, round_trip)),
            Err(refusal) => Rehearsal::failed(
                keelson_cluster_core::Refusal::new(refusal.reason, refusal.message),
                took,
            ),
        };
        let (operation, result) = (running.id, Box::new(result));
        let command = Command::EndRehearsal { operation, result };
        let runs = |state: &keelson_cluster_core::ClusterState| {
            state.operations.get(&operation).is_some_and(|known| !known.is_finished())
        };
        // Whoever leads by then: this member asks it, or ends it as an orphan itself.
        while self.is_leader() && self.applied.read(runs) {
            match self.propose_here(command.clone()).await {
                Ok(_) => break,
                Err(refusal) => {
                    tracing::info!(%refusal, "the end of a rehearsal is recorded again")
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
        self.rehearsing.lock().remove(&operation);
    }

    /// Ends with the operation, by whomever, or when it is forgotten.
    async fn rehearsal_ended(&self, id: OperationId) {
        let runs = || {
            self.applied
                .read(|state| state.operations.get(&id).is_some_and(|known| !known.is_finished()))
        };
        let mut applied = self.applied.watch();
        while runs() {
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    /// Has the target do it, and shows its steps in the operation.
    async fn ask_target(
        self: &Arc<Self>,
        running: Running,
    ) -> Result<(RehearsalFigures, Duration), Refusal> {
        let asked = Instant::now();
        // Only for the time that it takes.
        let said = self.facts_of([running.on], &[running.database]).await;
        let round_trip = asked.elapsed();
        if let Some(Err(refusal)) = said.get(&running.on) {
            return Err(refusal.clone());
        }
        let database = self.applied.read(|state| {
            state.databases.get(&running.database).map(|database| database.name.to_string())
        });
        let (member, address) = self.data_side(running.on)?;
        let mut client = self.peers.replication(&member, &address);
        let mut request = Request::new(RehearseRequest {
            database: database.unwrap_or_default(),
            copy: ids::bytes(running.copy),
            operation: ids::bytes(running.id),
            deadline_millis: u64::try_from(running.deadline.as_millis()).unwrap_or(u64::MAX),
            skip_content_index: running.skip_index,
        });
        request.set_timeout(running.deadline + GRACE);
        let failed = |status: tonic::Status| refusal_of(&status);
        let answers = client.rehearse(request).await.map_err(failed)?.into_inner();
        let figures = self.follow_target(running.id, answers).await?;
        Ok((figures, round_trip))
    }

    async fn follow_target(
        self: &Arc<Self>,
        id: OperationId,
        mut answers: Streaming<RehearseResponse>,
    ) -> Result<RehearsalFigures, Refusal> {
        while let Some(answer) = answers.message().await.map_err(|status| refusal_of(&status))? {
            if let Some(figures) = answer.figures {
                return Ok(figures);
            }
            let Some(step) = RehearsalStep::named(&answer.step) else { continue };
            let command = Command::UpdateOperation {
                id,
                state: OperationState::Running,
                progress_percent: step.percent(),
                message: String::new(),
            };
            if let Err(refusal) = self.propose_here(command).await {
                tracing::debug!(%refusal, "a step of a rehearsal was not recorded");
            }
        }
        Err(refusal(RefusalReason::Internal, "the target ended without a result"))
    }

    /// Ends what an earlier leader left behind; this member leads.
    pub(crate) async fn end_orphaned_rehearsals(self: &Arc<Self>) {
        let own = self.rehearsing.lock().clone();
        for (operation, ..) in self.applied.read(|state| orphaned(state, &own)) {
            let result = Box::new(Rehearsal::failed(orphan_ends(), Duration::ZERO));
            let command = Command::EndRehearsal { operation, result };
            if let Err(refusal) = self.propose_here(command).await {
                tracing::info!(%refusal, "the end of a rehearsal was not recorded");
            }
        }
    }
}

/// The result of one that passed, with its pause.
fn passed(
    running: &Running,
    figures: &RehearsalFigures,
    (took, round_trip): (Duration, Duration),
) -> Rehearsal {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let pause = rehearsal::pause(&PauseInput {
        copy_queue_bytes: figures.copy_queue_bytes,
        replay_queue_bytes: figures.replay_queue_bytes,
        copied: Advance {
            bytes: figures.copied_bytes,
            micros: figures.copied_micros,
            busy: figures.copy_was_behind,
        },
        replayed: Advance::of_work(figures.replayed_bytes, figures.replayed_micros),
        consensus_write_micros: micros(running.consensus_write),
        log_sync_micros: figures.log_sync_micros,
        round_trip_micros: micros(round_trip),
    });
    Rehearsal {
        unix_ms: 0,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        failure: None,
        at: figures.at.map_or(LogEnd::ZERO, Into::into),
        keys: figures.sampled_keys + figures.log_keys,
        pause_ms: pause.millis(),
    }
}

/// The last rehearsal of a move to a copy, for people.
pub(super) fn shown(copy: &CopyConfig) -> Option<RehearsalInfo> {
    let kept = copy.rehearsal.as_deref()?;
    let failure = kept.failure.as_ref();
    Some(RehearsalInfo {
        unix_millis: kept.unix_ms,
        took_millis: kept.took_ms,
        code: failure.map(|failure| failure.reason.code().0.to_owned()).unwrap_or_default(),
        message: failure.map(|failure| failure.message.clone()).unwrap_or_default(),
        at: Some(kept.at.into()),
        keys: kept.keys,
        pause_millis: kept.pause_ms,
    })
}

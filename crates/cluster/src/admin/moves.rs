//! Moving databases on purpose: one, all of a member, or home to the member that they prefer.
//!
//! Thin: collects what members say, has [`plan_move`] check it, and begins an operation for each
//! database that passes. A check that may pass in a moment (an index that is being opened, a queue
//! that runs dry) is looked at again for a while before it refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::schedule::{self, ScheduledMove, check_appointment};
use keelson_cluster_core::{
    ClusterState, Command, CopyHealth, CopyReport, Database, Member, MoveInput, MoveOptions,
    MovePlan, OperationKind, OperationState, Skip, plan_move, suppression,
};
use keelson_types::{
    CopyId, CopyStatus, DatabaseId, MemberId, OperationId, RefusalReason, Refused,
    SUSPEND_COMMENT_CHARS_MAX,
};
use keelson_wire::v1::{CopyFacts, MoveCheckRow, MoveRequest, MoveResponse, MoveRow};
use keelson_wire::{Refusal, ids};

use super::databases::operation_id;
use super::losses::{alive, facts_of};
use super::refusal;
use crate::clock;
use crate::context::Context;
use crate::facts::AllFacts;
use crate::orders::content_index;

/// How long checks that fail may take to pass.
const SETTLE: Duration = Duration::from_secs(3);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(150);
/// Databases whose copies are asked about at once, and whose checks an answer shows.
const CHECKED_AT_ONCE: usize = 256;

/// A request, read.
pub(super) struct MoveOrder {
    /// Each database, and where to if it was named.
    pub(super) databases: Vec<(DatabaseId, Option<MemberId>)>,
    pub(super) skip: BTreeSet<Skip>,
    options: MoveOptions,
    pub(super) comment: String,
    all_or_none: bool,
    pub(super) terminate_on_warning: bool,
    pub(super) what_if: bool,
    /// Checks that fail are not looked at again.
    at_once: bool,
    /// A person asked for it: refusals are kept as decisions.
    asked: bool,
    pub(super) operation: Option<OperationId>,
}

impl MoveOrder {
    /// All databases of a member, wherever each goes best.
    pub(super) fn away(context: &Context, member: MemberId, comment: &str) -> Self {
        let databases = context.applied.read(|state| {
            // A member that is gone is left by failovers, not by moves.
            let gone = state.members.get(&member).is_none_or(Member::is_gone);
            let assigned = state.assignments(member).filter(|_| !gone);
            assigned.map(|assigned| (assigned.database, None)).collect()
        });
        Self::of(databases, comment)
    }

    /// These databases, checked, without loss.
    pub(super) fn of(databases: Vec<(DatabaseId, Option<MemberId>)>, comment: &str) -> Self {
        Self {
            databases,
            skip: BTreeSet::new(),
            options: MoveOptions::default(),
            comment: comment.to_owned(),
            all_or_none: false,
            terminate_on_warning: false,
            what_if: false,
            at_once: false,
            asked: false,
            operation: None,
        }
    }

    pub(super) fn what_if(self, what_if: bool) -> Self {
        Self { what_if, ..self }
    }

    /// Nothing that was set against a move is outweighed.
    pub(super) fn careful(self) -> Self {
        Self { terminate_on_warning: true, ..self }
    }

    pub(super) fn at_once(self) -> Self {
        Self { at_once: true, ..self }
    }

    pub(super) fn all_or_none(self) -> Self {
        Self { all_or_none: true, ..self }
    }

    pub(super) fn skipping(self, names: &[String]) -> Result<Self, Refusal> {
        Ok(Self { skip: skips(names)?, ..self })
    }
}

/// The checks of these names.
fn skips(names: &[String]) -> Result<BTreeSet<Skip>, Refusal> {
    let mut skip = BTreeSet::new();
    for name in names {
        let found = match name.as_str() {
            "all" => {
                skip.extend(Skip::ALL);
                continue;
            }
            "health" => Skip::Health,
            "lag" => Skip::Lag,
            "client_experience" => Skip::ClientExperience,
            "max_active" => Skip::MaxActive,
            "active_copy" => Skip::ActiveCopy,
            "move_suppression" => Skip::MoveSuppression,
            _ => {
                let what = format!("there are no checks called {name:?}");
                return Err(refusal(RefusalReason::BadArgument, what));
            }
        };
        skip.insert(found);
    }
    Ok(skip)
}

/// The mount dial of a move (F22); with `none` that of the target's member counts.
fn options(dial: &str) -> Result<MoveOptions, Refusal> {
    match dial {
        "" => Ok(MoveOptions::default()),
        "none" => Ok(MoveOptions::of_dial(None)),
        name => {
            let dial = name.parse().map_err(|what| refusal(RefusalReason::BadArgument, what))?;
            Ok(MoveOptions::of_dial(Some(dial)))
        }
    }
}

impl Context {
    pub(crate) async fn admin_move_databases(
        self: &Arc<Self>,
        request: MoveRequest,
    ) -> Result<MoveResponse, Refusal> {
        self.require_leader()?;
        let (at, names) = (request.at_unix_millis, request.skip.clone());
        let (rehearse, deadline) = (request.rehearse, request.deadline_millis);
        let order = self.read_move(request)?;
        let moves = match at {
            0 if rehearse => {
                vec![self.rehearse_move(order, Duration::from_millis(deadline)).await?]
            }
            _ if rehearse => {
                let what = "a rehearsal begins now; leave the time out";
                return Err(refusal(RefusalReason::BadArgument, what));
            }
            0 => self.move_databases(order).await?,
            at => vec![self.schedule_move(order, names, at).await?],
        };
        Ok(MoveResponse { moves })
    }

    /// Records a move for later, once the checks were looked at: what is refused now may pass then,
    /// so they are shown and decide nothing.
    async fn schedule_move(
        self: &Arc<Self>,
        order: MoveOrder,
        skip: Vec<String>,
        at_unix_ms: u64,
    ) -> Result<MoveRow, Refusal> {
        let refused = |refused: Refused| Refusal::new(refused.reason, refused.message);
        check_appointment(at_unix_ms, clock::unix_millis()).map_err(refused)?;
        let [(database, to)] = order.databases[..] else {
            let what = "one database is moved at a time of its own";
            return Err(refusal(RefusalReason::BadArgument, what));
        };
        let mut row = match self.plan_moves(&order).await.first() {
            Some((_, plan)) => self.row(database, plan),
            None => MoveRow::default(),
        };
        if order.what_if {
            return Ok(row);
        }
        let MoveOrder { options, terminate_on_warning, comment, operation, .. } = order;
        let id = operation.map_or_else(|| operation_id(&[]), Ok)?;
        let scheduled = ScheduledMove {
            database,
            to,
            at_unix_ms,
            skip,
            options,
            terminate_on_warning,
            comment,
        };
        self.begin_operation(id, OperationKind::ScheduledMove(Box::new(scheduled))).await?;
        row.operation = ids::bytes(id);
        (row.result, row.code) = ("scheduled".into(), String::new());
        Ok(row)
    }

    /// Begins a move whose time has come. Nothing if that is to be tried again.
    pub(crate) async fn begin_scheduled(
        self: &Arc<Self>,
        id: OperationId,
        scheduled: ScheduledMove,
    ) -> Option<Result<String, keelson_cluster_core::Refusal>> {
        let failed =
            |reason, message| Some(Err(keelson_cluster_core::Refusal::new(reason, message)));
        let skip = match skips(&scheduled.skip) {
            Ok(skip) => skip,
            Err(refusal) => return failed(refusal.reason, refusal.message),
        };
        let child = schedule::carried_out_by(id);
        let order = MoveOrder {
            skip,
            options: scheduled.options,
            terminate_on_warning: scheduled.terminate_on_warning,
            operation: Some(child),
            ..MoveOrder::of(vec![(scheduled.database, scheduled.to)], &scheduled.comment)
        };
        let row = match self.move_databases(order).await {
            Ok(rows) => rows.into_iter().next().unwrap_or_default(),
            Err(refusal) => {
                // There may be another leader, which tries it too.
                tracing::info!(%refusal, "a scheduled move is tried again");
                return None;
            }
        };
        match row.result.as_str() {
            "refused" | "deferred" => {
                let reason = RefusalReason::from_code(&row.code).unwrap_or(RefusalReason::Internal);
                failed(reason, row.message)
            }
            "" => {
                failed(RefusalReason::UnknownDatabase, "the database is not there any more".into())
            }
            _ => Some(Ok(format!("to {} by operation {child}", row.to))),
        }
    }

    /// Takes a move back that waits for its time, or ends a rehearsal, whose target then drops its
    /// fork; false if the operation is neither.
    pub(crate) async fn cancel_waiting(self: &Arc<Self>, id: OperationId) -> Result<bool, Refusal> {
        let waits = self.applied.read(|state| {
            let known = state.operations.get(&id);
            known.is_some_and(|known| {
                use OperationKind as K;
                matches!(known.kind, K::ScheduledMove(_) | K::Rehearsal { .. })
            })
        });
        if !waits {
            return Ok(false);
        }
        let message = "cancelled by an operator before its end";
        let cancelled = keelson_cluster_core::Refusal::new(RefusalReason::Cancelled, message);
        let (state, message) = (OperationState::Failed(cancelled), message.to_owned());
        let command = Command::UpdateOperation { id, state, progress_percent: 0, message };
        let (index, _) = self.propose_here(command).await?.answer()?;
        self.reached(index, super::databases::LEAVE_DEADLINE).await?;
        Ok(true)
    }

    fn read_move(&self, request: MoveRequest) -> Result<MoveOrder, Refusal> {
        let member = |name: &str| match name {
            "" => Ok(None),
            name => self.member_called(name).map(|member| Some(member.id)),
        };
        let to = member(&request.to)?;
        let (server, home) = (member(&request.server)?, member(&request.bring_home)?);
        let named = [!request.database.is_empty(), server.is_some(), home.is_some()];
        if named.iter().filter(|named| **named).count() != 1 {
            let what = "name one of: a database, a server, a server to bring databases home to";
            return Err(refusal(RefusalReason::BadArgument, what));
        }
        if request.comment.chars().count() > SUSPEND_COMMENT_CHARS_MAX {
            let what = format!("a comment has at most {SUSPEND_COMMENT_CHARS_MAX} characters");
            return Err(refusal(RefusalReason::BadArgument, what));
        }
        let databases = match (server, home) {
            (Some(server), _) => self.applied.read(|state| {
                state.assignments(server).map(|assigned| (assigned.database, to)).collect()
            }),
            (None, Some(home)) => self.applied.read(|state| at_home(state, home)),
            (None, None) => vec![(self.database_called(&request.database)?.id, to)],
        };
        let (skip, options) = (skips(&request.skip)?, options(&request.mount_dial)?);
        Ok(MoveOrder {
            databases,
            skip,
            options,
            comment: request.comment,
            all_or_none: request.all_or_none,
            terminate_on_warning: request.terminate_on_warning,
            what_if: request.what_if,
            at_once: request.at_once,
            asked: true,
            operation: match request.operation.is_empty() {
                true => None,
                false => Some(operation_id(&request.operation)?),
            },
        })
    }

    /// Plans, and begins what passes unless it is only asked for.
    pub(super) async fn move_databases(
        self: &Arc<Self>,
        order: MoveOrder,
    ) -> Result<Vec<MoveRow>, Refusal> {
        if let Some(begun) = self.begun_before(&order)? {
            return Ok(vec![begun]);
        }
        let plans = self.settled_plans(&order).await;
        let refused = plans.iter().any(|(_, plan)| plan.refusal.is_some());
        if order.asked && !order.what_if {
            self.keep_refusals(&order, &plans).await;
        }
        let begin = !(order.what_if || order.all_or_none && refused);
        let mut rows = Vec::with_capacity(plans.len());
        for (database, plan) in plans {
            let mut row = self.row(database, &plan);
            if rows.len() >= CHECKED_AT_ONCE {
                row.checks.clear();
            }
            if begin && plan.refusal.is_none() {
                let begun = self.begin_move(&order, (database, &plan), &mut row).await;
                match begun {
                    Ok(()) => {}
                    Err(refusal) if order.operation.is_some() => return Err(refusal),
                    // The others are not held up by it.
                    Err(refusal) => {
                        row.result = "refused".into();
                        row.code = refusal.reason.code().0.into();
                        row.message = refusal.message;
                    }
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// The plan of each database; checks that may pass in a moment are looked at again.
    pub(super) async fn settled_plans(
        self: &Arc<Self>,
        order: &MoveOrder,
    ) -> Vec<(DatabaseId, MovePlan)> {
        let mut plans = self.plan_moves(order).await;
        let settled = tokio::time::Instant::now() + SETTLE;
        while !order.what_if
            && !order.at_once
            && plans.iter().any(|(_, plan)| may_settle(plan))
            && tokio::time::Instant::now() < settled
        {
            tokio::time::sleep(LOOK_AGAIN).await;
            plans = self.plan_moves(order).await;
        }
        plans
    }

    /// The same request again: it was begun, and nothing is checked anew.
    fn begun_before(&self, order: &MoveOrder) -> Result<Option<MoveRow>, Refusal> {
        let Some(id) = order.operation else { return Ok(None) };
        let known = self.applied.read(|state| state.operations.get(&id).cloned());
        let Some(known) = known else { return Ok(None) };
        let asked = order.databases.first().copied();
        match (known.kind, asked) {
            (OperationKind::Switchover { database, to, .. }, Some((wanted, at)))
                if database == wanted && at.is_none_or(|at| at == to) =>
            {
                Ok(Some(MoveRow {
                    database: self.name_of_database(database),
                    to: self.name_of_member(to),
                    result: "moving".into(),
                    operation: ids::bytes(id),
                    ..MoveRow::default()
                }))
            }
            _ => {
                let what = format!("operation {id} is another request");
                Err(refusal(RefusalReason::AlreadyExists, what))
            }
        }
    }

    async fn begin_move(
        self: &Arc<Self>,
        order: &MoveOrder,
        (database, plan): (DatabaseId, &MovePlan),
        row: &mut MoveRow,
    ) -> Result<(), Refusal> {
        let Some(to) = plan.to else { return Ok(()) };
        let stays = plan.from == Some(to);
        if stays && order.operation.is_none() {
            return Ok(());
        }
        let id = match order.operation {
            Some(operation) => operation,
            None => operation_id(&[])?,
        };
        let (options, comment) = (order.options, order.comment.clone());
        let kind = OperationKind::Switchover { database, to, comment, options };
        self.begin_operation(id, kind).await?;
        row.operation = ids::bytes(id);
        if !stays {
            row.result = "moving".into();
        }
        Ok(())
    }

    /// The plan of each database, with what the ones before it take.
    async fn plan_moves(self: &Arc<Self>, order: &MoveOrder) -> Vec<(DatabaseId, MovePlan)> {
        let mut actives = self.applied.read(ClusterState::active_counts);
        let mut plans = Vec::with_capacity(order.databases.len());
        for some in order.databases.chunks(CHECKED_AT_ONCE) {
            self.plan_some(order, some, &mut actives, &mut plans).await;
        }
        plans
    }

    async fn plan_some(
        self: &Arc<Self>,
        order: &MoveOrder,
        some: &[(DatabaseId, Option<MemberId>)],
        actives: &mut BTreeMap<MemberId, u32>,
        plans: &mut Vec<(DatabaseId, MovePlan)>,
    ) {
        let wanted: Vec<_> = some.iter().map(|(id, _)| *id).collect();
        let holders: BTreeSet<MemberId> = self.applied.read(|state| {
            let databases = wanted.iter().filter_map(|id| state.databases.get(id));
            databases.flat_map(|d| d.copies.values().map(|copy| copy.member)).collect()
        });
        let facts = self.facts_of(holders, &wanted).await;
        let alive = alive(&facts);
        self.applied.read(|state| {
            for (id, to) in some {
                let Some(database) = state.databases.get(id) else { continue };
                let reports = reports(database, &facts);
                let input = MoveInput {
                    state,
                    database,
                    reports: &reports,
                    alive: &alive,
                    actives,
                    skip: &order.skip,
                    moves: moves(state, *id),
                };
                let plan = plan(&input, *to, order.terminate_on_warning);
                if let (Some(from), Some(to)) = (plan.from, plan.to) {
                    actives.entry(from).and_modify(|count| *count = count.saturating_sub(1));
                    *actives.entry(to).or_default() += 1;
                }
                plans.push((*id, plan));
            }
        });
    }

    pub(super) fn name_of_database(&self, id: DatabaseId) -> String {
        let name = self.applied.read(|state| state.databases.get(&id).map(|d| d.name.to_string()));
        name.unwrap_or_else(|| id.to_string())
    }

    pub(super) fn row(&self, database: DatabaseId, plan: &MovePlan) -> MoveRow {
        let member = |id: Option<MemberId>| id.map(|id| self.name_of_member(id));
        let checks = plan.checked.iter().flat_map(|(at, rows)| {
            let name = self.name_of_member(*at);
            rows.iter().map(move |row| MoveCheckRow {
                member: name.clone(),
                check: row.check.name().to_owned(),
                measured: row.measured.clone(),
                threshold: row.threshold.clone(),
                verdict: row.verdict.name().to_owned(),
                skip: row.skip.map(|skip| format!("--{}", skip.flag())).unwrap_or_default(),
            })
        });
        let result = match (&plan.refusal, plan.to == plan.from) {
            (Some(_), _) => "refused",
            (None, true) => "stays",
            (None, false) => "would_move",
        };
        let code = plan.refusal.as_ref().map(|refusal| refusal.reason.code().0.to_owned());
        MoveRow {
            database: self.name_of_database(database),
            from: member(plan.from).unwrap_or_default(),
            to: member(plan.to).unwrap_or_default(),
            result: result.into(),
            code: code.unwrap_or_default(),
            message: plan.refusal.as_ref().map(|r| r.message.clone()).unwrap_or_default(),
            operation: bytes::Bytes::new(),
            warning: plan.has_warning(),
            checks: checks.collect(),
        }
    }
}

/// A database that is where it is asked to be stays there, unchecked.
fn plan(input: &MoveInput<'_>, to: Option<MemberId>, terminate_on_warning: bool) -> MovePlan {
    let from = input.database.target_member();
    let opened = input.database.intent == keelson_types::MountIntent::Mounted;
    if to.is_some() && to == from && opened {
        return MovePlan { from, to, checked: Vec::new(), refusal: None, facts: None };
    }
    let plan = plan_move(input, to);
    match terminate_on_warning {
        true => plan.without_warnings(&input.database.name),
        false => plan,
    }
}

/// Whether a refusal may be over in a moment.
fn may_settle(plan: &MovePlan) -> bool {
    plan.refusal.as_ref().is_some_and(|refusal| {
        matches!(
            refusal.reason,
            RefusalReason::QueueTooLong
                | RefusalReason::ContentIndexUnfit
                | RefusalReason::Activating
                | RefusalReason::TargetUnfit
                | RefusalReason::NoCandidate
        )
    })
}

/// Databases whose copy on `home` is the first choice, and which are active elsewhere (F36).
fn at_home(state: &ClusterState, home: MemberId) -> Vec<(DatabaseId, Option<MemberId>)> {
    let prefers = |database: &&Database| {
        let copy = database.copy_on(home).and_then(|copy| database.copies.get(&copy));
        copy.is_some_and(|copy| copy.preference == 1) && database.target_member() != Some(home)
    };
    let databases = state.databases.values().filter(prefers);
    let open = databases.filter(|d| d.intent == keelson_types::MountIntent::Mounted);
    open.map(|database| (database.id, Some(home))).collect()
}

/// Failovers of a database within the window, and how many are too many (F35).
fn moves(state: &ClusterState, database: DatabaseId) -> (usize, usize) {
    let now = clock::unix_millis();
    let database = state.databases.get(&database);
    let found = database.map(|database| suppression(&state.settings, database, now));
    found.map_or((0, usize::MAX), |found| (found.moves, found.most.unwrap_or(usize::MAX)))
}

/// What members said of the copies of a database.
fn reports(database: &Database, facts: &AllFacts) -> BTreeMap<CopyId, CopyReport> {
    let copies = database.copies.iter();
    copies
        .filter_map(|(id, copy)| Some((*id, report(facts_of(database, facts, copy.member)?))))
        .collect()
}

pub(super) fn report(facts: &CopyFacts) -> CopyReport {
    let index = facts.content_index.as_ref().map(|index| content_index(&index.state));
    CopyReport {
        status: status_named(&facts.status),
        fault: Some(facts.fault.clone()).filter(|fault| !fault.is_empty()),
        end: facts.log_end.map(Into::into).unwrap_or(keelson_types::LogEnd::ZERO),
        health: CopyHealth {
            content_index: index.unwrap_or_default(),
            copy_queue_bytes: facts.copy_queue_bytes,
            replay_queue_bytes: facts.replay_queue_bytes,
            short_of_space: !facts.shortage.is_empty(),
            read_latency_micros: facts.read_latency_micros,
        },
    }
}

/// The status of a copy by its name.
pub(super) fn status_named(name: &str) -> CopyStatus {
    let mut states = CopyStatus::ALL.into_iter();
    states.find(|status| status.to_string() == name).unwrap_or(CopyStatus::Unknown)
}

//! The activations under way as spans: switchovers, failovers, mounts.
//!
//! A plan begins with the request for its epoch and ends when its target serves. An attempt that
//! failed ends where the next one begins. What an operator asked for belongs to the trace of the
//! call. Nothing is kept while no traces are exported, and no decision looks at it.

use std::collections::BTreeMap;

use keelson_cluster_core::{
    ActivateItem, AllocateItem, ClusterState, Command, ManagerAction, ManagerEvent,
};
use keelson_net::{SPANS, TracePlace};
use keelson_types::{DatabaseId, DatabaseState, Epoch, MemberId, OperationId};
use tracing::field::{Empty, display};
use tracing::{Span, info_span};

use crate::activations::kind_of;

/// The plans of a leadership.
#[derive(Debug, Default)]
pub(super) struct Plans {
    open: BTreeMap<DatabaseId, Plan>,
    /// What operators asked for and no epoch was requested for yet.
    asked: BTreeMap<DatabaseId, (OperationId, TracePlace)>,
}

#[derive(Debug)]
struct Plan {
    span: Span,
    /// The epoch, once it has a target.
    epoch: Option<Epoch>,
}

impl Plans {
    /// An operator asks for something, in a call at this place.
    pub(super) fn asked(&mut self, event: &ManagerEvent, place: TracePlace) {
        use ManagerEvent as E;
        if !tracing::span_enabled!(target: SPANS, tracing::Level::INFO) {
            return;
        }
        if let E::MoveRequested { database, operation, .. }
        | E::MountRequested { database, operation, .. }
        | E::InstantRequested { database, operation, .. } = event
        {
            self.asked.insert(*database, (*operation, place));
        }
    }

    /// Something happened that the manager is about to hear of.
    pub(super) fn heard(&mut self, event: &ManagerEvent) {
        match event {
            ManagerEvent::MountResult { database, result: Err(failure), .. } => {
                if let Some(plan) = self.open.get(database) {
                    plan.span.record("keelson.failure", tracing::field::debug(failure));
                }
            }
            ManagerEvent::LostLeadership => {
                self.end_all("leadership_lost", |_, _| true);
                self.asked.clear();
            }
            _ => {}
        }
    }

    /// The state may say by now that targets serve.
    pub(super) fn applied(&mut self, state: &ClusterState) {
        if self.open.is_empty() {
            return;
        }
        self.end_all("serves", |id, plan| {
            let database = state.databases.get(&id).filter(|d| Some(d.epoch) == plan.epoch);
            database.is_some_and(|database| database.state == DatabaseState::Established)
        });
        self.end_all("removed", |id, _| !state.databases.contains_key(&id));
    }

    /// The manager wants this done.
    pub(super) fn wanted(&mut self, state: &ClusterState, action: &ManagerAction) {
        match action {
            ManagerAction::Propose { command, .. } => self.proposed(state, command),
            ManagerAction::Dismount { database, .. } => self.end(*database, "dismounted"),
            ManagerAction::FinishOperation { operation, .. } => {
                self.asked.retain(|_, (asked, _)| asked != operation);
            }
            _ => {}
        }
    }

    fn proposed(&mut self, state: &ClusterState, command: &Command) {
        match command {
            Command::AllocateEpochs(items) => items.iter().for_each(|item| self.begin(state, item)),
            Command::Activate(items) => items.iter().for_each(|item| self.decided(state, item)),
            _ => {}
        }
    }

    fn begin(&mut self, state: &ClusterState, item: &AllocateItem) {
        let asked = self.asked.remove(&item.database);
        let (kind, reason) = kind_of(&item.reason);
        let name = state.databases.get(&item.database).map(|database| database.name.to_string());
        let span = info_span!(
            target: SPANS, parent: None, "activation",
            otel.name = kind, otel.status_code = Empty,
            keelson.database = name.unwrap_or_default(), keelson.reason = reason,
            keelson.operation = Empty, keelson.epoch = Empty, keelson.target = Empty,
            keelson.with_loss = Empty, keelson.failure = Empty, keelson.outcome = Empty,
        );
        if span.is_disabled() {
            return;
        }
        if let Some((operation, place)) = asked {
            place.adopts(&span);
            span.record("keelson.operation", display(operation));
        }
        self.end(item.database, "another_attempt");
        self.open.insert(item.database, Plan { span, epoch: None });
    }

    fn decided(&mut self, state: &ClusterState, item: &ActivateItem) {
        let Some(Plan { span, epoch }) = self.open.get_mut(&item.database) else { return };
        *epoch = Some(item.epoch);
        let database = state.databases.get(&item.database);
        let target = database.and_then(|database| database.copies.get(&item.target));
        if let Some(target) = target {
            span.record("keelson.target", member_name(state, target.member));
        }
        span.record("keelson.epoch", display(item.epoch));
        span.record("keelson.with_loss", item.decision.loss.is_some());
    }

    fn end_all(&mut self, outcome: &str, ends: impl Fn(DatabaseId, &Plan) -> bool) {
        let ended = self.open.iter().filter(|(database, plan)| ends(**database, plan));
        let ended: Vec<_> = ended.map(|(database, _)| *database).collect();
        ended.into_iter().for_each(|database| self.end(database, outcome));
    }

    fn end(&mut self, database: DatabaseId, outcome: &str) {
        let Some(Plan { span, .. }) = self.open.remove(&database) else { return };
        span.record("keelson.outcome", outcome);
        if matches!(outcome, "another_attempt" | "leadership_lost") {
            span.record("otel.status_code", "ERROR");
        }
    }

    /// The span of orders to a member. One message carries those of many databases, and belongs to
    /// the plan of the first.
    pub(super) fn orders(
        &self,
        step: Step,
        state: &ClusterState,
        member: MemberId,
        databases: impl ExactSizeIterator<Item = DatabaseId>,
    ) -> Span {
        if self.open.is_empty() {
            return Span::none();
        }
        let count = databases.len();
        let Some(plan) = databases.filter_map(|id| self.open.get(&id)).next() else {
            return Span::none();
        };
        let member = member_name(state, member);
        match step {
            Step::Seal => info_span!(
                target: SPANS, parent: &plan.span, "activation.seal",
                keelson.member = member, keelson.databases = count
            ),
            Step::Mount => info_span!(
                target: SPANS, parent: &plan.span, "activation.mount",
                keelson.member = member, keelson.databases = count
            ),
        }
    }
}

/// What is ordered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A promise to refuse lower epochs, and the end of the log.
    Seal,
    /// To become the active.
    Mount,
}

fn member_name(state: &ClusterState, member: MemberId) -> String {
    state.members.get(&member).map(|m| m.config.name.to_string()).unwrap_or_default()
}

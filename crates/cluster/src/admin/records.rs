//! Events, decisions and the audit of this member, newest last.

use std::sync::Arc;

use keelson_cluster_core::{ClusterState, Event, EventKind};
use keelson_types::RefusalReason;
use keelson_wire::Refusal;
use keelson_wire::v1::{
    EventInfo, ListAuditRequest, ListAuditResponse, ListDecisionsRequest, ListDecisionsResponse,
    ListEventsRequest, ListEventsResponse,
};

use super::databases::label;
use crate::context::Context;

/// Most records of one answer; each decision has up to 8 KiB and an answer 4 MiB.
const RECORDS_MAX: usize = 400;
/// Records of an answer unless asked otherwise.
const RECORDS_DEFAULT: usize = 100;

fn limit(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(RECORDS_MAX) {
        0 => RECORDS_DEFAULT,
        asked => asked.min(RECORDS_MAX),
    }
}

fn event(state: &ClusterState, event: &Event) -> EventInfo {
    let member = event.member.map(|id| match state.members.get(&id) {
        Some(member) => member.config.name.to_string(),
        None => id.to_string(),
    });
    let database = event.database.map(|id| match state.databases.get(&id) {
        Some(database) => database.name.to_string(),
        None => id.to_string(),
    });
    let subject = match (database, member) {
        (Some(database), Some(member)) => format!("{database}@{member}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => String::new(),
    };
    let (kind, message) = match &event.kind {
        EventKind::Reported(news) => (label(news), details(news)),
        kind => (label(kind), details(kind)),
    };
    let (index, unix_millis) = (event.index, event.unix_ms);
    EventInfo { index, unix_millis, kind, subject, message }
}

/// What an event says beyond its kind, as JSON; empty if nothing.
fn details<T: serde::Serialize>(kind: &T) -> String {
    match serde_json::to_value(kind) {
        Ok(serde_json::Value::Object(fields)) => match fields.into_iter().next() {
            Some((_, serde_json::Value::String(text))) => text,
            Some((_, value)) => value.to_string(),
            None => String::new(),
        },
        _ => String::new(),
    }
}

impl Context {
    pub(super) async fn admin_list_events(
        self: &Arc<Self>,
        request: ListEventsRequest,
    ) -> Result<ListEventsResponse, Refusal> {
        self.cluster()?;
        let limit = limit(request.limit);
        let events = self.applied.read(|state| {
            let skip = state.events.len().saturating_sub(limit);
            state.events.iter().skip(skip).map(|e| event(state, e)).collect()
        });
        Ok(ListEventsResponse { events })
    }

    /// Answered also by a member without a cluster: the file is its own.
    pub(super) async fn admin_list_audit(
        self: &Arc<Self>,
        request: ListAuditRequest,
    ) -> Result<ListAuditResponse, Refusal> {
        let lines = self.audit.newest(limit(request.limit), request.access_only).await.map_err(
            |error| {
                let what = format!("the audit of {} cannot be read: {error}", self.identity.name);
                Refusal::new(RefusalReason::Internal, what)
            },
        )?;
        Ok(ListAuditResponse { lines })
    }

    pub(super) async fn admin_list_decisions(
        self: &Arc<Self>,
        request: ListDecisionsRequest,
    ) -> Result<ListDecisionsResponse, Refusal> {
        self.cluster()?;
        let wanted = match request.database.as_str() {
            "" => None,
            name => Some(self.database_called(name)?.id),
        };
        let limit = limit(request.limit);
        let mut newest: Vec<_> = self.applied.read(|state| {
            let decisions = state.decisions.iter().rev();
            let matching =
                decisions.filter(|entry| wanted.is_none_or(|id| entry.record.database == id));
            matching.take(limit).cloned().collect()
        });
        newest.reverse();
        let json = newest.iter().map(serde_json::to_string);
        let decisions = json.collect::<Result<_, _>>().expect("records have string keys only");
        Ok(ListDecisionsResponse { decisions })
    }
}

//! Every field of a copy's status, for programs (F49).

use keelson_wire::v1::{AutoReseedInfo, CopyFacts, CopyStatusRow, DivergenceFacts, Watermarks};
use serde_json::{Map, Value, json};

use crate::commands::rehearsal;
use crate::text;

/// Who keeps log, the first one decides.
pub(in crate::commands) fn held_by(facts: &CopyFacts) -> Value {
    let holders = facts.log_held_by.iter().map(|holder| {
        json!({
            "from": text::position(holder.from.as_ref()),
            "holder": holder.holder,
            "reason": holder.reason,
            "since": text::time(holder.since_unix_millis),
        })
    });
    holders.collect()
}

/// One object with all fields.
pub(super) fn status_data(row: &CopyStatusRow) -> Value {
    let facts = row.facts.clone().unwrap_or_default();
    let groups = [standing(row, &facts), lag(row, &facts), log(&facts, row), content_index(&facts)];
    let fields = groups.into_iter().filter_map(|group| match group {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    Value::Object(fields.flatten().collect::<Map<_, _>>())
}

/// Who the copy is and how it is.
fn standing(row: &CopyStatusRow, facts: &CopyFacts) -> Value {
    json!({
        "database": row.database,
        "member": row.member,
        "copy": text::id(&facts.copy),
        "active": row.active,
        "status": row.status,
        "status_reason": row.status_reason,
        "last_status_transition_time": text::time(facts.status_since_unix_millis),
        "status_retrieved_time": text::time(row.retrieved_unix_millis),
        "instance_start_time": text::time(facts.opened_unix_millis),
        "data_pid": row.data_pid,
        "reachable": row.reachable,
        "activation_preference": row.preference,
        "activation_policy": row.activation_policy,
        "participant": row.participant,
        "serving": facts.serving,
        "degraded": facts.degraded,
        "commit_rule": facts.commit_rule,
        "fault": facts.fault,
        "failure_tag": row.failure_tag,
        "failure_action": row.failure_action,
        "log_stalled": facts.stalled,
        "autoreseed": row.autoreseed.as_ref().map(autoreseed),
        "rehearsal": rehearsal::data(row.rehearsal.as_ref()),
        "shortage": facts.shortage,
        "log_free_bytes": facts.log_free_bytes,
        "log_seconds_to_full": facts.log_seconds_to_full,
        "log_seconds_to_floor": facts.log_seconds_to_floor,
        "data_free_bytes": facts.data_free_bytes,
        "disk_read_latency_micros": facts.read_latency_micros,
        "log_bytes": facts.log_bytes,
        "store_bytes": facts.store_bytes,
        "volume": facts.volume,
        "divergence": facts.divergence.as_ref().map(divergence),
        "seeding_source_for_database": facts.feeds_seed,
        "scrub": facts.scrub.as_ref().map(super::scrub::data_of),
    })
}

/// What is tried with a copy that stays failed.
fn autoreseed(info: &AutoReseedInfo) -> Value {
    json!({
        "resumes": info.resumes,
        "seeds": info.seeds,
        "spares": info.spares,
        "stopped": info.stopped,
        "began": text::time(info.began_unix_millis),
        "last_step": text::time(info.last_unix_millis),
        "next_step": text::time(info.next_unix_millis),
        "blocked": info.blocked,
    })
}

/// The state of the content index, for people.
pub(super) fn content_index_state(facts: &CopyFacts) -> String {
    match &facts.content_index {
        Some(index) if !index.state.is_empty() => index.state.clone(),
        _ => "Unknown".into(),
    }
}

fn content_index(facts: &CopyFacts) -> Value {
    let index = facts.content_index.clone().unwrap_or_default();
    json!({
        "content_index_state": content_index_state(facts),
        "content_index_reason": index.reason,
        "content_index_reflects": text::position(index.reflects.as_ref()),
        "content_index_backlog_bytes": index.backlog_bytes,
        "content_index_crawl_percent": index.crawl_percent,
        "content_index_seeding_percent": index.seeding_percent,
        "content_index_seeding_source": index.seeding_source,
        "seeding_source_for_catalog": index.feeds_seed,
        "content_index_records": index.records,
        "content_index_bytes": index.bytes,
    })
}

/// What is stopped, and how late it replays.
fn lag(row: &CopyStatusRow, facts: &CopyFacts) -> Value {
    json!({
        "cut_off": row.cut_off,
        "replay_lag_seconds": row.replay_lag_seconds,
        "truncation_lag_seconds": row.truncation_lag_seconds,
        "activation_suspended": row.suspension.as_ref().is_some_and(|s| s.activation),
        "activation_block": row.suspension.as_ref().is_some_and(|s| s.activation_block),
        "replication_suspended": row.suspension.as_ref().is_some_and(|s| s.replication),
        "actual_lag_millis": facts.actual_lag_millis,
        "replay_lag_status": facts.lag_status,
        "lag_in_force": facts.lag_in_force,
        "play_down_causes": facts.play_down_causes,
        "suspend_comment": row.suspension.as_ref().map(|s| &s.comment),
        "suspended_by": row.suspension.as_ref().map(|s| &s.by),
        "suspended_since": row.suspension.as_ref().map(|s| text::time(s.since_unix_millis)),
        "discarded_epochs": row.suspension.as_ref().map_or_else(Vec::new, |s| {
            s.discarded_epochs.iter().map(|epoch| text::epoch(Some(epoch))).collect::<Vec<_>>()
        }),
        "discarded_kept_until": row
            .suspension
            .as_ref()
            .map(|s| text::time(s.kept_until_unix_millis)),
        "suspended_until": row.suspension.as_ref().map(|s| text::time(s.until_unix_millis)),
    })
}

/// Positions, times and queues of its log.
fn log(facts: &CopyFacts, row: &CopyStatusRow) -> Value {
    let Watermarks { truncated, checkpointed, replayed, inspected, generated, committed } =
        facts.watermarks.unwrap_or_default();
    json!({
        "replay_up_to": text::position(facts.replay_up_to.as_ref()),
        "required_logs_present": facts.required_logs_present,
        "generated_is_stale": facts.generated_is_stale,
        "log_held_by": held_by(facts),
        "epoch": text::epoch(facts.epoch.as_ref()),
        "sealed": text::epoch(facts.sealed.as_ref()),
        "copy_queue_logs": text::logs(facts.copy_queue_bytes),
        "copy_queue_bytes": facts.copy_queue_bytes,
        "copy_queue_generations": facts.copy_queue_generations,
        "replay_queue_generations": facts.replay_queue_generations,
        "replay_queue_logs": text::logs(facts.replay_queue_bytes),
        "replay_queue_bytes": facts.replay_queue_bytes,
        "latest_available_log_time": text::time(row.latest_available_log_unix_millis),
        "last_inspected_log_time": text::time(facts.last_inspected_unix_millis),
        "last_replayed_log_time": text::time(facts.last_replayed_unix_millis),
        "truncated": text::position(truncated.as_ref()),
        "checkpointed": text::position(checkpointed.as_ref()),
        "replayed": text::position(replayed.as_ref()),
        "inspected": text::position(inspected.as_ref()),
        "generated": text::position(generated.as_ref()),
        "committed": text::position(committed.as_ref()),
    })
}

/// How the copy got, or gets, back onto its active's log: what was foreseen and what it took.
fn divergence(facts: &DivergenceFacts) -> Value {
    json!({
        "rung": facts.rung,
        "phase": facts.phase,
        "percent": facts.percent,
        "failure": facts.failure,
        "salvage_bytes": facts.salvage_bytes,
        "replay_bytes": facts.replay_bytes,
        "estimated_keys": facts.estimated_keys,
        "estimated_bytes": facts.estimated_bytes,
        "fetched_keys": facts.fetched_keys,
        "fetched_bytes": facts.fetched_bytes,
        "rounds": facts.rounds,
        "whole_at": text::position(facts.whole_at.as_ref()),
        "began": text::time(facts.began_unix_millis),
        "ended": text::time(facts.ended_unix_millis),
    })
}

//! Facts of this member's copies, for status pages and checks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keelson_copy_core::truncate::{Blocker, Holder};
use keelson_net::{ProcessUsage, SpanCounts};
use keelson_types::CopyStatus;
use keelson_wire::{ids, v1};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::context::{CopyHandle, PlaneContext, Registry};
use crate::gate::boottime_now;
use crate::message::{Message, OwnerView};
use crate::orders;
use crate::space::Volume;

/// A copy that does not answer in time is reported as failed to answer.
const DEADLINE: Duration = Duration::from_millis(700);

/// Gathers and reports facts.
pub(crate) async fn answer(
    context: Arc<PlaneContext>,
    registry: Arc<Registry>,
    request: u64,
    wanted: v1::MemberFactsRequest,
) {
    let chosen = |copy: &CopyHandle| {
        let id = copy.shared.database.into_bytes();
        wanted.databases.is_empty() || wanted.databases.iter().any(|want| want[..] == id[..])
    };
    let copies: Vec<_> = registry.all().into_iter().filter(chosen).collect();
    let facts = futures::future::join_all(copies.iter().map(|copy| facts_of(&context, copy))).await;
    // Of all copies, whichever are asked for.
    let databases = registry.all().iter().map(|copy| copy.shared.database).collect();
    let usage = ProcessUsage::now();
    let (spans_exported, spans_dropped) = SpanCounts::of_process().told();
    let lease_left = context.lease.expires().since(boottime_now());
    let response = v1::MemberFactsResponse {
        member: ids::bytes(context.member),
        incarnation: ids::bytes(context.incarnation),
        data_process_up: true,
        copies: facts,
        resident_bytes: usage.resident_bytes,
        cpu_millis: usage.cpu_millis,
        control_pid: 0,
        data_pid: std::process::id(),
        lease_left_millis: u64::try_from(lease_left.as_millis()).unwrap_or(u64::MAX),
        open_files: usage.open_files,
        log_paths: context.log_paths.facts(|member| context.name_of(member)),
        unreached: context
            .reach
            .unreached(&context)
            .into_iter()
            .map(|member| context.name_of(member))
            .collect(),
        timings: context.meters.timings(),
        log_written_bytes: context.meters.log_written_bytes(),
        calls: context.calls.counts(),
        call_times: context.calls.times(),
        traffic: context.traffic.facts(|member| context.name_of(member)),
        spans_exported,
        spans_dropped,
        volumes: context.places.volumes.facts(&databases),
        places: places(&context),
        ..v1::MemberFactsResponse::default()
    };
    context.report(request, v1::data_to_control::Message::Facts(response));
}

/// The directories of the member itself. It has them without copies, too; volumes are apart.
fn places(context: &PlaneContext) -> Vec<v1::PlaceFacts> {
    let looked = context.space.volumes(&context.places.data);
    let place = |(name, volume): (&str, &Volume)| v1::PlaceFacts {
        name: name.into(),
        free_bytes: volume.free_bytes,
        total_bytes: volume.total_bytes,
        seconds_to_full: volume.history.forecast(0, &[]).time_to_full.map(|left| left.as_secs()),
        read_latency_micros: volume.read_latency.map(|latency| latency.as_micros() as u64),
    };
    [("log", &looked.log), ("data", &looked.data)].map(place).into()
}

async fn facts_of(context: &PlaneContext, copy: &CopyHandle) -> v1::CopyFacts {
    let (reply, view) = oneshot::channel();
    let asked = async {
        copy.mailbox.send(Message::View(reply)).await.ok()?;
        view.await.ok()
    };
    let view = timeout(DEADLINE, asked).await.ok().flatten();
    let database = ids::bytes(copy.shared.database);
    let id = ids::bytes(copy.shared.copy);
    match view {
        Some(view) => facts(context, copy, &view, database, id),
        None => v1::CopyFacts {
            database,
            copy: id,
            status: CopyStatus::Initializing.to_string(),
            fault: "the copy did not answer in time (it may be opening)".into(),
            log_free_bytes: free(&context.volumes_of(copy.shared.database).log),
            data_free_bytes: free(&context.volumes_of(copy.shared.database).data),
            volume: volume(context, copy),
            ..v1::CopyFacts::default()
        },
    }
}

/// As of the last look, of which the first is at the start; a disk that does not say has none.
fn free(volume: &Volume) -> u64 {
    volume.free_bytes.unwrap_or(0)
}

fn facts(
    context: &PlaneContext,
    copy: &CopyHandle,
    view: &OwnerView,
    database: bytes::Bytes,
    id: bytes::Bytes,
) -> v1::CopyFacts {
    let core = &view.view;
    let serving = copy.shared.gate.is_open();
    let lag = &view.lag_status;
    let forecast = &view.forecast;
    let seconds = |left: Option<Duration>| left.map(|left| left.as_secs());
    let cut = forecast.who_would_be_cut.first();
    let volumes = &view.volumes;
    v1::CopyFacts {
        database,
        copy: id,
        epoch: Some(core.epoch.into()),
        status: core.status.to_string(),
        status_reason: core.reason.to_string(),
        status_since_unix_millis: view.status_since_unix_millis,
        opened_unix_millis: view.opened_unix_millis,
        watermarks: Some(view.marks.into()),
        copy_queue_bytes: view.copy_queue.bytes,
        copy_queue_generations: view.copy_queue.generations,
        replay_queue_bytes: view.replay_queue.bytes,
        replay_queue_generations: view.replay_queue.generations,
        last_inspected_unix_millis: view.last_inspected_unix_millis,
        last_replayed_unix_millis: view.last_replayed_unix_millis,
        fault: core.fault.as_ref().map(ToString::to_string).unwrap_or_default(),
        log_bytes: view.log_bytes,
        store_bytes: view.store_bytes,
        sealed: Some(core.sealed.into()),
        serving,
        commit_rule: core.rule.as_ref().map(describe).unwrap_or_default(),
        degraded: core.degraded,
        log_held_by: view.blockers.iter().map(|blocker| holder(context, blocker)).collect(),
        shortage: context.room_of(copy.shared.database).look().to_string(),
        scrub: Some(copy.shared.scrub.facts()),
        content_index: Some(v1::ContentIndexFacts {
            feeds_seed: copy.shared.feeding.catalog.load(Ordering::Relaxed) > 0,
            ..copy.shared.catalog.facts(view.marks.replayed)
        }),
        feeds_seed: copy.shared.feeding.database.load(Ordering::Relaxed) > 0,
        divergence: view.undoing.as_ref().map(Into::into),
        actual_lag_millis: view.actual_lag.map_or(0, |lag| lag.as_millis() as u64),
        lag_status: lag.to_string(),
        lag_in_force: lag.enabled,
        play_down_causes: lag.play_down.iter().map(ToString::to_string).collect(),
        replay_up_to: Some(core.replay_up_to.into()),
        generated_is_stale: core.generated_is_stale,
        required_logs_present: view.marks.truncated <= view.marks.checkpointed,
        log_free_bytes: free(&volumes.log),
        data_free_bytes: free(&volumes.data),
        read_latency_micros: volumes.read_latency().map(|latency| latency.as_micros() as u64),
        log_seconds_to_full: seconds(forecast.time_to_full),
        log_seconds_to_floor: seconds(forecast.time_to_floor),
        would_be_cut: cut.map(|cut| context.name_of(cut.member)).unwrap_or_default(),
        seed_bytes: forecast.price_bytes,
        log_end: Some(core.end.into()),
        heirs: core.heirs.iter().map(|epoch| (*epoch).into()).collect(),
        may_have_lost: core.may_have_lost,
        fault_value: orders::fault_json(core.fault.as_ref()),
        stalled: copy.shared.stalled().map(|tag| tag.to_string()).unwrap_or_default(),
        volume: volume(context, copy),
        written_log_bytes: copy.shared.written_bytes.load(Ordering::Relaxed),
        replayed_log_bytes: copy.shared.replayed_bytes.load(Ordering::Relaxed),
    }
}

/// The directory of its volume; empty at a member with one.
fn volume(context: &PlaneContext, copy: &CopyHandle) -> String {
    let home = context.places.volumes.home(copy.shared.database);
    home.map(|home| home.display().to_string()).unwrap_or_default()
}

fn holder(context: &PlaneContext, blocker: &Blocker) -> v1::LogHolder {
    let holder = match blocker.who {
        Holder::Copy(_, member) => format!("copy on {}", context.name_of(member)),
        Holder::Operation(operation) => format!("operation {operation}"),
        Holder::Database => "the database".into(),
    };
    v1::LogHolder {
        from: Some(blocker.from.into()),
        holder,
        reason: blocker.why.to_string(),
        since_unix_millis: blocker.since_unix_ms.unwrap_or(0),
    }
}

fn describe(rule: &keelson_types::CommitRule) -> String {
    format!("{} of {} copies (version {})", rule.constraint, rule.participants.len(), rule.version)
}

//! The copies of this member: states, positions, queues, lag, sizes, seeds, scrubs, content index.

use keelson_types::LOG_UNIT_BYTES;
use keelson_wire::v1::{CopyFacts, CopyStatusRow, Operation};

use super::{flag, seconds};
use crate::Snapshot;
use crate::exposition::{Exposition, Kind, count_of};

pub(super) fn write(snapshot: &Snapshot, out: &mut Exposition) {
    let copies = &snapshot.copies;
    states(copies, out);
    positions(copies, out);
    progress(copies, out);
    figures(copies, out);
    queues(copies, out);
    content_indexes(copies, out);
    seeds(snapshot, out);
}

fn states(copies: &[CopyStatusRow], out: &mut Exposition) {
    let help = "Always 1; the status of the copy.";
    let mut family = out.family("keelson_copy_status_info", Kind::Gauge, help);
    for copy in copies {
        family.sample(&[("database", &copy.database), ("status", &copy.status)], 1.0);
    }
    let mut each = |name, help, value: &dyn Fn(&CopyStatusRow) -> f64| {
        let mut family = out.family(name, Kind::Gauge, help);
        for copy in copies {
            family.sample(&[("database", &copy.database)], value(copy));
        }
    };
    each("keelson_copy_active", "Whether it is the active copy.", &|c| flag(c.active));
    let help = "Whether it counts in the commit rule.";
    each("keelson_copy_participant", help, &|c| flag(c.participant));
    let help = "Rank among the copies when one is to be activated; 1 is first.";
    each("keelson_copy_preference", help, &|c| c.preference.into());
    each("keelson_copy_suspended", "Whether its copying or replay is stopped.", &|c| {
        flag(c.suspension.as_ref().is_some_and(|suspension| suspension.replication))
    });
    let help = "Whether it may not be activated.";
    each("keelson_copy_activation_blocked", help, &|c| {
        flag(c.suspension.as_ref().is_some_and(|suspension| suspension.activation))
    });
    let help = "Whether only a seed helps it.";
    each("keelson_copy_cut_off", help, &|c| flag(c.cut_off));
    let help = "Replay lag that was asked for.";
    each("keelson_copy_replay_lag_seconds", help, &|c| count_of(c.replay_lag_seconds));
}

/// Copies whose facts are known.
fn known(copies: &[CopyStatusRow]) -> impl Iterator<Item = (&str, &CopyFacts)> {
    copies.iter().filter_map(|copy| Some((copy.database.as_str(), copy.facts.as_ref()?)))
}

fn positions(copies: &[CopyStatusRow], out: &mut Exposition) {
    let help = "Generation of the log up to which the copy is through, by mark.";
    let mut family = out.family("keelson_copy_position_generation", Kind::Gauge, help);
    for (database, facts) in known(copies) {
        let Some(marks) = &facts.watermarks else { continue };
        for (mark, position) in [
            ("truncated", marks.truncated),
            ("checkpointed", marks.checkpointed),
            ("replayed", marks.replayed),
            ("inspected", marks.inspected),
            ("generated", marks.generated),
            ("committed", marks.committed),
        ] {
            let generation = position.map_or(0, |position| position.generation);
            family.sample(&[("database", database), ("mark", mark)], count_of(generation));
        }
    }
}

/// Rates are taken from these: generations are too coarse for it.
fn progress(copies: &[CopyStatusRow], out: &mut Exposition) {
    let help = "Log that came to the copy since its process began: inspected (durable in its own \
        log soon after, or generated there, if it is active), replayed (in its store).";
    let mut family = out.family("keelson_copy_log_bytes_total", Kind::Counter, help);
    for (database, facts) in known(copies) {
        for (mark, bytes) in
            [("inspected", facts.written_log_bytes), ("replayed", facts.replayed_log_bytes)]
        {
            family.sample(&[("database", database), ("mark", mark)], count_of(bytes));
        }
    }
}

fn queues(copies: &[CopyStatusRow], out: &mut Exposition) {
    let queues = |facts: &CopyFacts| {
        [("copy", facts.copy_queue_bytes), ("replay", facts.replay_queue_bytes)]
    };
    let help = "Log that the active has and this copy has not, and that it has not replayed.";
    let mut family = out.family("keelson_copy_queue_bytes", Kind::Gauge, help);
    for (database, facts) in known(copies) {
        for (queue, bytes) in queues(facts) {
            family.sample(&[("database", database), ("queue", queue)], count_of(bytes));
        }
    }
    let help = "The same in logs of 1 MiB, begun ones included.";
    let mut family = out.family("keelson_copy_queue_logs", Kind::Gauge, help);
    for (database, facts) in known(copies) {
        for (queue, bytes) in queues(facts) {
            let logs = count_of(bytes.div_ceil(LOG_UNIT_BYTES));
            family.sample(&[("database", database), ("queue", queue)], logs);
        }
    }
}

fn figures(copies: &[CopyStatusRow], out: &mut Exposition) {
    let mut each = |name, help, value: &dyn Fn(&CopyFacts) -> f64| {
        let mut family = out.family(name, Kind::Gauge, help);
        for (database, facts) in known(copies) {
            family.sample(&[("database", database)], value(facts));
        }
    };
    each("keelson_copy_serving", "Whether it answers clients.", &|f| flag(f.serving));
    let help = "Whether it has a fault (keelson copy status tells which).";
    each("keelson_copy_faulty", help, &|f| flag(!f.fault.is_empty()));
    let help = "Unix time since which it has its status.";
    each("keelson_copy_status_since_timestamp_seconds", help, &|f| {
        seconds(f.status_since_unix_millis)
    });
    let help = "Unix time of the newest log that it has inspected.";
    each("keelson_copy_last_inspected_timestamp_seconds", help, &|f| {
        seconds(f.last_inspected_unix_millis)
    });
    let help = "Unix time of the newest log that it has replayed.";
    each("keelson_copy_last_replayed_timestamp_seconds", help, &|f| {
        seconds(f.last_replayed_unix_millis)
    });
    let help = "How long the oldest log waits for replay, on a copy with a replay lag.";
    each("keelson_copy_actual_lag_seconds", help, &|f| seconds(f.actual_lag_millis));
    each("keelson_copy_log_bytes", "Size of its log files.", &|f| count_of(f.log_bytes));
    each("keelson_copy_store_bytes", "Size of its store.", &|f| count_of(f.store_bytes));
    let help = "Unix time at which its last scrub ended; 0 if there was none.";
    each("keelson_copy_scrub_ended_timestamp_seconds", help, &|f| {
        f.scrub.as_ref().map_or(0.0, |scrub| seconds(scrub.ended_unix_millis))
    });
    let help = "Damage that its last scrub found and could not mend there and then.";
    each("keelson_copy_scrub_unmended", help, &|f| {
        let left = f.scrub.as_ref().map(|scrub| scrub.found.saturating_sub(scrub.mended));
        left.unwrap_or(0).into()
    });
}

fn content_indexes(copies: &[CopyStatusRow], out: &mut Exposition) {
    let index = |facts: &CopyFacts| facts.content_index.clone().unwrap_or_default();
    let help = "Always 1; the state of the content index of the copy.";
    let mut family = out.family("keelson_catalog_state_info", Kind::Gauge, help);
    for (database, facts) in known(copies) {
        let state = index(facts).state;
        family.sample(&[("database", database), ("state", &state)], 1.0);
    }
    let help = "Log that was replayed and is not in the content index yet.";
    let mut family = out.family("keelson_catalog_backlog_bytes", Kind::Gauge, help);
    for (database, facts) in known(copies) {
        family.sample(&[("database", database)], count_of(index(facts).backlog_bytes));
    }
    let help = "Records in the content index.";
    let mut family = out.family("keelson_catalog_records", Kind::Gauge, help);
    for (database, facts) in known(copies) {
        family.sample(&[("database", database)], count_of(index(facts).records));
    }
}

/// Seeds under way in the whole cluster: the state of any member tells of all.
fn seeds(snapshot: &Snapshot, out: &mut Exposition) {
    let running: Vec<_> = snapshot
        .operations
        .iter()
        .filter(|operation| operation.seed.is_some() && operation.state == "running")
        .collect();
    let mut each = |name, help, value: &dyn Fn(&Operation) -> u64| {
        let mut family = out.family(name, Kind::Gauge, help);
        for seed in &running {
            family.sample(&[("copy", &seed.subject)], count_of(value(seed)));
        }
    };
    let help = "Bytes that seeds under way have in place.";
    each("keelson_seed_done_bytes", help, &|seed| seed.done);
    each("keelson_seed_expected_bytes", "Bytes that they bring in all.", &|seed| seed.total);
}

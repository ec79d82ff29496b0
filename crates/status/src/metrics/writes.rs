//! What writes cost at this member, by stage, and what its log does.

use keelson_wire::v1::Timings;

use crate::Snapshot;
use crate::exposition::{Exposition, Family, Kind, count_of};

pub(super) fn write(snapshot: &Snapshot, out: &mut Exposition) {
    let facts = &snapshot.facts;
    let help = "Time of acknowledged writes at the active, by stage: queue (until it is in a \
        frame), commit (until enough copies have it durably), request (all of it).";
    let mut family = out.family("keelson_write_stage_seconds", Kind::Histogram, help);
    let of_log = ["log_sync", "log_arrival"];
    for timings in facts.timings.iter().filter(|timings| !of_log.contains(&&*timings.of)) {
        histogram(&mut family, &[("stage", &timings.of)], timings);
    }
    let mut alone = |name, help, of: &str| {
        let mut family = out.family(name, Kind::Histogram, help);
        for timings in facts.timings.iter().filter(|timings| timings.of == of) {
            histogram(&mut family, &[], timings);
        }
    };
    let help = "Time of syncs of the log, on active and passive copies.";
    alone("keelson_log_sync_seconds", help, "log_sync");
    let help = "Age of log when it comes to a passive copy here, by the clocks of both members; \
        log that is caught up with is old.";
    alone("keelson_log_arrival_seconds", help, "log_arrival");
    let help = "Bytes of log that were written, on active and passive copies.";
    let written = count_of(facts.log_written_bytes);
    out.family("keelson_log_written_bytes_total", Kind::Counter, help).sample(&[], written);
}

/// Bucket `i` holds what took up to `2^i` times the first bound; the last one everything longer.
pub(super) fn histogram(family: &mut Family<'_>, labels: &[(&str, &str)], timings: &Timings) {
    let mut bound = count_of(timings.first_bound_micros) / 1e6;
    let Some((over, counts)) = timings.counts.split_last() else { return };
    let mut buckets = Vec::with_capacity(counts.len());
    for count in counts {
        buckets.push((bound, *count));
        bound *= 2.0;
    }
    family.histogram(labels, &buckets, *over, count_of(timings.sum_micros) / 1e6);
}

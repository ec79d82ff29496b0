//! The member itself: version, processes, lease, certificate, volumes.

use keelson_wire::v1::{CopyFacts, PlaceFacts};

use super::{flag, seconds};
use crate::Snapshot;
use crate::exposition::{Exposition, Kind, count_of};

pub(super) fn write(snapshot: &Snapshot, out: &mut Exposition) {
    let facts = &snapshot.facts;
    let labels = [
        ("member", snapshot.member.as_str()),
        ("site", snapshot.site.as_str()),
        ("version", snapshot.version.as_str()),
    ];
    out.family("keelson_member_info", Kind::Gauge, "Always 1; who answers.").sample(&labels, 1.0);
    let up = flag(facts.data_process_up);
    out.gauge("keelson_member_data_process_up", "Whether the data process answers.", up);
    let lease = seconds(facts.lease_left_millis);
    out.gauge("keelson_member_lease_left_seconds", "Time until its lease ends.", lease);
    let expires = count_of(snapshot.certificate_expires_unix_seconds);
    let help = "Unix time at which the certificate of the member ends.";
    out.gauge("keelson_tls_certificate_expires_timestamp_seconds", help, expires);
    processes(snapshot, out);
    audit(snapshot, out);
    spans(snapshot, out);
    volumes(snapshot, out);
}

fn processes(snapshot: &Snapshot, out: &mut Exposition) {
    let facts = &snapshot.facts;
    let mut both = |name, kind, help, control: f64, data: f64| {
        let mut family = out.family(name, kind, help);
        family.sample(&[("process", "control")], control);
        family.sample(&[("process", "data")], data);
    };
    let (control, data) = (facts.control_resident_bytes, facts.resident_bytes);
    let name = "keelson_process_resident_bytes";
    both(name, Kind::Gauge, "Resident memory.", count_of(control), count_of(data));
    let (control, data) = (seconds(facts.control_cpu_millis), seconds(facts.cpu_millis));
    let name = "keelson_process_cpu_seconds_total";
    both(name, Kind::Counter, "Processor time since the process began.", control, data);
    let (control, data) = (facts.control_open_files, facts.open_files);
    let name = "keelson_process_open_files";
    both(name, Kind::Gauge, "Open files and connections.", control.into(), data.into());
}

fn audit(snapshot: &Snapshot, out: &mut Exposition) {
    let facts = &snapshot.facts;
    let help = "Lines of the audit of this member, by whether they reached the disk.";
    let mut family = out.family("keelson_audit_lines_total", Kind::Counter, help);
    family.sample(&[("outcome", "written")], count_of(facts.audit_lines));
    family.sample(&[("outcome", "dropped")], count_of(facts.audit_dropped_lines));
}

fn spans(snapshot: &Snapshot, out: &mut Exposition) {
    let facts = &snapshot.facts;
    let help = "Spans of traces since the process began, by whether a collector took them.";
    let mut family = out.family("keelson_spans_total", Kind::Counter, help);
    for (process, exported, dropped) in [
        ("control", facts.control_spans_exported, facts.control_spans_dropped),
        ("data", facts.spans_exported, facts.spans_dropped),
    ] {
        for (outcome, count) in [("exported", exported), ("dropped", dropped)] {
            family.sample(&[("process", process), ("outcome", outcome)], count_of(count));
        }
    }
}

/// Room of the directories of a member and of its volumes. A member without copies has them, too.
fn volumes(snapshot: &Snapshot, out: &mut Exposition) {
    let facts = &snapshot.facts;
    let places = facts.places.iter().map(|it| (it.name.as_str(), it.free_bytes, it.total_bytes));
    // Nothing is written to the others, whatever room they have.
    let used = facts.volumes.iter().filter(|it| ["healthy", "spare"].contains(&it.state.as_str()));
    let volumes = used.map(|it| (it.path.as_str(), it.free_bytes, it.total_bytes));
    let rooms: Vec<_> = places.chain(volumes).collect();
    let help = "Room that is left; of the directories of logs and stores, and of each volume.";
    let mut family = out.family("keelson_volume_free_bytes", Kind::Gauge, help);
    for (name, free, _) in rooms.iter().copied() {
        if let Some(free) = free {
            family.sample(&[("volume", name)], count_of(free));
        }
    }
    let help = "What it has in all, or its quota if that is less.";
    let mut family = out.family("keelson_volume_size_bytes", Kind::Gauge, help);
    for (name, _, total) in rooms.iter().copied() {
        if let Some(total) = total {
            family.sample(&[("volume", name)], count_of(total));
        }
    }
    if !facts.volumes.is_empty() {
        let help = "State of each volume of a member that has several.";
        let mut family = out.family("keelson_volume_state_info", Kind::Gauge, help);
        for volume in &facts.volumes {
            family.sample(&[("volume", &volume.path), ("state", &volume.state)], 1.0);
        }
    }
    forecasts(&facts.copies, &facts.places, out);
}

/// Of the volumes of copies and of the directories, the worst counts.
fn forecasts(copies: &[CopyFacts], places: &[PlaceFacts], out: &mut Exposition) {
    let of_copies = copies.iter().filter_map(|copy| copy.log_seconds_to_full);
    let logs = places.iter().filter(|place| place.name == "log");
    let left = of_copies.chain(logs.filter_map(|place| place.seconds_to_full)).min();
    if let Some(left) = left {
        let help = "Forecast: when the volume of the logs is full; absent if it does not fill.";
        out.gauge("keelson_volume_log_full_in_seconds", help, count_of(left));
    }
    let of_copies = copies.iter().filter_map(|copy| copy.read_latency_micros);
    let latency = of_copies.chain(places.iter().filter_map(|it| it.read_latency_micros)).max();
    if let Some(latency) = latency {
        let help = "How long a read of the slowest volume takes, as last measured.";
        out.gauge("keelson_volume_read_latency_seconds", help, count_of(latency) / 1e6);
    }
}

//! Calls of clients and members, what goes over the network, and moves of active copies.

use keelson_wire::v1::{ActivationCount, CallCount, PeerTraffic, Timings};

use super::writes::histogram;
use crate::Snapshot;
use crate::exposition::{Exposition, Kind, count_of};

pub(super) fn write(snapshot: &Snapshot, out: &mut Exposition) {
    let facts = &snapshot.facts;
    let calls = [("control", &facts.control_calls), ("data", &facts.calls)];
    let times = [("control", &facts.control_call_times), ("data", &facts.call_times)];
    requests(&calls, &times, out);
    network(&facts.traffic, out);
    activations(&facts.activations, &facts.activation_times, out);
}

type OfProcess<'a, T> = [(&'a str, &'a Vec<T>); 2];

fn requests(
    calls: &OfProcess<'_, CallCount>,
    times: &OfProcess<'_, Timings>,
    out: &mut Exposition,
) {
    let help = "Calls by the outcome of their answer, in the words of gRPC; ok of a stream says \
        that it began.";
    let mut family = out.family("keelson_requests_total", Kind::Counter, help);
    for (process, counts) in calls {
        for count in *counts {
            let (call, outcome) = (count.call.as_str(), count.outcome.as_str());
            let labels = [("process", *process), ("call", call), ("outcome", outcome)];
            family.sample(&labels, count_of(count.count));
        }
    }
    let help = "Time until a call was answered, or its stream began.";
    let mut family = out.family("keelson_request_seconds", Kind::Histogram, help);
    for (process, times) in times {
        for timings in *times {
            histogram(&mut family, &[("process", process), ("call", &timings.of)], timings);
        }
    }
}

/// What goes, and which way.
const FLOWS: [(&str, &str); 4] =
    [("log", "sent"), ("log", "received"), ("seed", "sent"), ("seed", "received")];

fn network(peers: &[PeerTraffic], out: &mut Exposition) {
    let mut each = |name, help, bytes: fn(&PeerTraffic) -> [u64; 4]| {
        let mut family = out.family(name, Kind::Counter, help);
        for peer in peers {
            for ((what, direction), bytes) in FLOWS.into_iter().zip(bytes(peer)) {
                let peer = ("peer", peer.member.as_str());
                let labels = [peer, ("what", what), ("direction", direction)];
                family.sample(&labels, count_of(bytes));
            }
        }
    };
    let help = "Bytes of log and seeds on the wire, to and from each other member.";
    each("keelson_network_bytes_total", help, |peer| {
        [
            peer.log_sent_bytes,
            peer.log_received_bytes,
            peer.seed_sent_bytes,
            peer.seed_received_bytes,
        ]
    });
    let help = "The same before it was compressed.";
    each("keelson_network_raw_bytes_total", help, |peer| {
        [
            peer.log_sent_raw_bytes,
            peer.log_received_raw_bytes,
            peer.seed_sent_raw_bytes,
            peer.seed_received_raw_bytes,
        ]
    });
    let help = "Log sessions to each other member, by what happened; each that begins after the \
        first is a reconnect.";
    let mut family = out.family("keelson_log_sessions_total", Kind::Counter, help);
    for peer in peers {
        for (event, count) in [("begun", peer.sessions_begun), ("broken", peer.sessions_broken)] {
            family.sample(&[("peer", &peer.member), ("event", event)], count_of(count));
        }
    }
}

fn activations(counts: &[ActivationCount], times: &[Timings], out: &mut Exposition) {
    let help = "Decisions about active copies that this member saw, by kind (switchover, failover, \
        mount, point_in_time), reason and outcome (lossless, with_loss, closed, refused).";
    let mut family = out.family("keelson_activations_total", Kind::Counter, help);
    for count in counts {
        let labels = [
            ("kind", count.kind.as_str()),
            ("reason", count.reason.as_str()),
            ("outcome", count.outcome.as_str()),
        ];
        family.sample(&labels, count_of(count.count));
    }
    let lossy: Vec<_> = counts.iter().filter(|count| count.outcome == "with_loss").collect();
    let mut each = |name, help, value: fn(&ActivationCount) -> u64| {
        let mut family = out.family(name, Kind::Counter, help);
        for count in &lossy {
            let labels = [("kind", count.kind.as_str()), ("reason", count.reason.as_str())];
            family.sample(&labels, count_of(value(count)));
        }
    };
    let help = "Logs of 1 MiB that they can have lost at most, where that is known.";
    each("keelson_activation_lost_logs_total", help, |count| count.lost_logs);
    let help = "Those of them of which nobody knows how much they lost.";
    each("keelson_activation_unknown_losses_total", help, |count| count.unknown_losses);
    let help = "Time from the beginning of an activation until its copy serves.";
    let mut family = out.family("keelson_activation_seconds", Kind::Histogram, help);
    for timings in times {
        histogram(&mut family, &[("kind", &timings.of)], timings);
    }
}

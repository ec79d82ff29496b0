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

fn network(peers: &[PeerTraffic], out: &mut Exposition) {
    let help = "Bytes of log and seeds on the wire, to and from each other member.";
    let mut family = out.family("keelson_network_bytes_total", Kind::Counter, help);
    for peer in peers {
        for (what, direction, bytes) in [
            ("log", "sent", peer.log_sent_bytes),
            ("log", "received", peer.log_received_bytes),
            ("seed", "sent", peer.seed_sent_bytes),
            ("seed", "received", peer.seed_received_bytes),
        ] {
            let labels = [("peer", peer.member.as_str()), ("what", what), ("direction", direction)];
            family.sample(&labels, count_of(bytes));
        }
    }
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
    let help = "Time from the beginning of an activation until its copy serves.";
    let mut family = out.family("keelson_activation_seconds", Kind::Histogram, help);
    for timings in times {
        histogram(&mut family, &[("kind", &timings.of)], timings);
    }
}

//! What went to the other members and came from them, on the wire and before it was compressed,
//! for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use keelson_types::MemberId;
use keelson_wire::v1;

/// Bytes that went one way.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    wire: AtomicU64,
    raw: AtomicU64,
}

impl Flow {
    /// Counts a body as it is on the wire, with what its message says it was packed from.
    pub(crate) fn carried(&self, body: &[u8], packed_from: u32) {
        add(&self.wire, body.len());
        let raw = if packed_from == 0 { body.len() } else { packed_from as usize };
        add(&self.raw, raw);
    }
}

/// Counts of one other member, since this process began.
#[derive(Debug, Default)]
pub(crate) struct PeerCounts {
    pub(crate) log_sent: Flow,
    pub(crate) log_received: Flow,
    pub(crate) seed_sent: Flow,
    pub(crate) seed_received: Flow,
    pub(crate) sessions_begun: AtomicU64,
    pub(crate) sessions_broken: AtomicU64,
}

/// Counts of all other members; of those that left, too.
#[derive(Debug, Default)]
pub(crate) struct Traffic(Mutex<BTreeMap<MemberId, Arc<PeerCounts>>>);

impl Traffic {
    /// The counts of a member, to be kept by whoever counts often.
    pub(crate) fn with(&self, member: MemberId) -> Arc<PeerCounts> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.entry(member).or_default().clone()
    }

    /// For metrics; `name` tells the names of members.
    pub(crate) fn facts(&self, name: impl Fn(MemberId) -> String) -> Vec<v1::PeerTraffic> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |(member, counts): (&MemberId, &Arc<PeerCounts>)| {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            v1::PeerTraffic {
                member: name(*member),
                log_sent_bytes: read(&counts.log_sent.wire),
                log_received_bytes: read(&counts.log_received.wire),
                seed_sent_bytes: read(&counts.seed_sent.wire),
                seed_received_bytes: read(&counts.seed_received.wire),
                log_sent_raw_bytes: read(&counts.log_sent.raw),
                log_received_raw_bytes: read(&counts.log_received.raw),
                seed_sent_raw_bytes: read(&counts.seed_sent.raw),
                seed_received_raw_bytes: read(&counts.seed_received.raw),
                sessions_begun: read(&counts.sessions_begun),
                sessions_broken: read(&counts.sessions_broken),
            }
        };
        peers.iter().map(told).collect()
    }
}

/// Adds to one of the counts.
pub(crate) fn add(count: &AtomicU64, more: usize) {
    count.fetch_add(more as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_counts_of_its_own() {
        let (traffic, one, two) =
            (Traffic::default(), MemberId::from_u128(1), MemberId::from_u128(2));
        traffic.with(one).log_sent.carried(&[1; 5], 0);
        traffic.with(one).log_sent.carried(&[1; 7], 20);
        traffic.with(two).seed_received.carried(&[1; 9], 0);
        let facts = traffic.facts(|member| member.to_string());
        let told =
            |member: MemberId| facts.iter().find(|it| it.member == member.to_string()).unwrap();
        assert_eq!((told(one).log_sent_bytes, told(one).seed_received_bytes), (12, 0));
        assert_eq!((told(one).log_sent_raw_bytes, told(two).seed_received_raw_bytes), (25, 9));
        assert_eq!((told(two).log_sent_bytes, told(two).seed_received_bytes), (0, 9));
    }
}

//! What went to the other members and came from them, as bytes on the wire, for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use keelson_types::MemberId;
use keelson_wire::v1;

/// Counts of one other member, since this process began.
#[derive(Debug, Default)]
pub(crate) struct PeerCounts {
    pub(crate) log_sent: AtomicU64,
    pub(crate) log_received: AtomicU64,
    pub(crate) seed_sent: AtomicU64,
    pub(crate) seed_received: AtomicU64,
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
                log_sent_bytes: read(&counts.log_sent),
                log_received_bytes: read(&counts.log_received),
                seed_sent_bytes: read(&counts.seed_sent),
                seed_received_bytes: read(&counts.seed_received),
                sessions_begun: read(&counts.sessions_begun),
                sessions_broken: read(&counts.sessions_broken),
            }
        };
        peers.iter().map(told).collect()
    }
}

/// Adds to one of the counts.
pub(crate) fn add(count: &AtomicU64, bytes: usize) {
    count.fetch_add(bytes as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_counts_of_its_own() {
        let (traffic, one, two) =
            (Traffic::default(), MemberId::from_u128(1), MemberId::from_u128(2));
        add(&traffic.with(one).log_sent, 5);
        add(&traffic.with(one).log_sent, 7);
        add(&traffic.with(two).seed_received, 9);
        let facts = traffic.facts(|member| member.to_string());
        let told =
            |member: MemberId| facts.iter().find(|it| it.member == member.to_string()).unwrap();
        assert_eq!((told(one).log_sent_bytes, told(one).seed_received_bytes), (12, 0));
        assert_eq!((told(two).log_sent_bytes, told(two).seed_received_bytes), (0, 9));
    }
}

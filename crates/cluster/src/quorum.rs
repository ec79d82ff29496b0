//! Knows when this leader last sent a heartbeat that a majority acknowledged (review R7).
//!
//! The library has a metric for it, but tells only how long ago that was when the metric was made,
//! on a clock that stops while the machine sleeps. A lease needs a bound that never errs to the
//! long side. So the network notes, for every member and on `CLOCK_BOOTTIME`, when the newest
//! message that it answered in this leadership was *sent*.
//!
//! Invariant: an entry is written only for an answer of that member which accepted the vote of the
//! message, so the member had granted no higher vote at the noted time or later until it answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use keelson_types::Tick;

use crate::raft_types::{NodeId, Vote};

#[derive(Debug, Default)]
struct Acks {
    vote: Option<Vote>,
    sent: BTreeMap<NodeId, Tick>,
}

/// Send times of acknowledged messages, per member, of the newest leadership of this member.
#[derive(Debug, Default)]
pub(crate) struct QuorumClock {
    acks: Mutex<Acks>,
}

impl QuorumClock {
    /// Notes that `node` accepted a message of the leadership `vote`, sent at `sent`.
    pub(crate) fn record(&self, vote: &Vote, node: NodeId, sent: Tick) {
        let mut acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        if acks.vote.is_some_and(|known| known > *vote) {
            return;
        }
        if acks.vote != Some(*vote) {
            *acks = Acks { vote: Some(*vote), sent: BTreeMap::new() };
        }
        let newest = acks.sent.entry(node).or_insert(sent);
        *newest = sent.max(*newest);
    }

    /// This member voted for somebody else: what it sent as the leader of before counts no more,
    /// whoever acknowledges it.
    pub(crate) fn outvote(&self, vote: &Vote) {
        let mut acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        if acks.vote.is_none_or(|known| known < *vote) {
            *acks = Acks { vote: Some(*vote), sent: BTreeMap::new() };
        }
    }

    /// When the newest message was sent that a majority of each of `configs` acknowledged in the
    /// leadership `vote`; this member acknowledges its own at once, so a lone voter gets `now`.
    pub(crate) fn newest(
        &self,
        vote: &Vote,
        configs: &[BTreeSet<NodeId>],
        (me, now): (NodeId, Tick),
    ) -> Option<Tick> {
        let acks = self.acks.lock().unwrap_or_else(PoisonError::into_inner);
        let current = acks.vote == Some(*vote);
        let of = |node: &NodeId| match *node == me {
            true => Some(now),
            false => acks.sent.get(node).filter(|_| current).copied(),
        };
        let of_config = |config: &BTreeSet<NodeId>| {
            let mut times: Vec<Tick> = config.iter().filter_map(of).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            times.get(config.len() / 2).copied()
        };
        // All configurations of a joint one must agree; none at all is no cluster.
        let times: Option<Vec<Tick>> = configs.iter().map(of_config).collect();
        times?.into_iter().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = 1;

    fn config(nodes: &[NodeId]) -> BTreeSet<NodeId> {
        nodes.iter().copied().collect()
    }

    fn check(acks: &[(NodeId, u64)], configs: &[&[NodeId]], expected: Option<u64>) {
        let clock = QuorumClock::default();
        let vote = Vote::new_committed(3, ME);
        acks.iter().for_each(|(node, sent)| clock.record(&vote, *node, Tick(*sent)));
        let configs: Vec<_> = configs.iter().map(|nodes| config(nodes)).collect();
        let newest = clock.newest(&vote, &configs, (ME, Tick(100)));
        assert_eq!(newest, expected.map(Tick), "{acks:?} {configs:?}");
    }

    #[test]
    fn the_majority_s_newest_send_time_counts() {
        check(&[], &[&[1]], Some(100));
        check(&[], &[&[1, 2]], None);
        check(&[(2, 40)], &[&[1, 2]], Some(40));
        check(&[(2, 40), (3, 70)], &[&[1, 2, 3]], Some(70));
        check(&[(2, 40), (3, 70), (4, 90)], &[&[1, 2, 3, 4]], Some(70));
        check(&[(2, 40), (3, 70), (4, 90)], &[&[1, 2, 3, 4, 5]], Some(70));
        check(&[(2, 90), (3, 80)], &[&[2, 3, 4]], Some(80));
        check(&[(2, 90)], &[&[1, 2, 3], &[3, 4]], None);
        check(&[(2, 90), (3, 20), (4, 50)], &[&[1, 2, 3], &[3, 4]], Some(20));
        check(&[], &[], None);
    }

    #[test]
    fn who_voted_for_another_has_no_quorum_any_more() {
        let clock = QuorumClock::default();
        let own = Vote::new_committed(3, ME);
        let newest = || clock.newest(&own, &[config(&[1, 2, 3])], (ME, Tick(100)));
        clock.record(&own, 2, Tick(40));
        clock.outvote(&Vote::new(2, 3));
        assert_eq!(newest(), Some(Tick(40)), "a lower vote is none");
        clock.outvote(&Vote::new(4, 3));
        clock.record(&own, 3, Tick(50));
        assert_eq!(newest(), None, "a late answer changes nothing");
    }

    #[test]
    fn answers_to_an_earlier_leadership_do_not_count_for_a_later_one() {
        let clock = QuorumClock::default();
        let (old, new) = (Vote::new_committed(3, ME), Vote::new_committed(5, ME));
        let newest = |vote: &Vote| clock.newest(vote, &[config(&[1, 2])], (ME, Tick(100)));
        clock.record(&old, 2, Tick(10));
        assert_eq!((newest(&old), newest(&new)), (Some(Tick(10)), None));
        clock.record(&new, 2, Tick(20));
        clock.record(&old, 2, Tick(30));
        assert_eq!((newest(&old), newest(&new)), (None, Some(Tick(20))));
        clock.record(&new, 2, Tick(15));
        assert_eq!(newest(&new), Some(Tick(20)), "answers may overtake each other");
    }
}

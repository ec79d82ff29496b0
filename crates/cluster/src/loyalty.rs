//! When this member may vote, so that a new leader knows how long its predecessor has been silent.
//!
//! A leader grants leases only within (send time of its last quorum-acknowledged heartbeat + lease)
//! (R7). That quorum and the one that elects a successor have a voter in common. If every voter is
//! *loyal*, that is, votes for nobody within `loyalty` of the last message of a leader that it
//! acknowledged, the heartbeat was sent that long before the election at least, and the successor
//! waits for what is left of the lease instead of a whole one ([`LeaseConfig::loyalty`]).
//!
//! The consensus library is loyal while it runs as a follower: it refuses votes within
//! `election_timeout_max` of the leader's last message. It does not cover two cases, which are
//! covered here. A process that has just started does not know whom it heard before: it neither
//! votes nor stands within the first `loyalty` of its life. A leader acknowledges its own
//! heartbeats without hearing them: it does not vote within `loyalty` of the newest one that a
//! quorum acknowledged. While its vote is looked at no lease is granted, and once it voted nothing
//! that was sent before counts any more.
//!
//! [`LeaseConfig::loyalty`]: keelson_cluster_core::LeaseConfig

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keelson_types::{RefusalReason, Tick};
use keelson_wire::Refusal;
use openraft::raft::{VoteRequest, VoteResponse};

use crate::clock;
use crate::context::Context;
use crate::quorum::QuorumClock;
use crate::raft_types::NodeId;

/// What the votes of this member depend on.
#[derive(Debug)]
pub(crate) struct Loyalty {
    began: Tick,
    span: Duration,
    quorum: Arc<QuorumClock>,
    /// Votes that are looked at.
    voting: AtomicU32,
}

/// While it lives no lease is granted.
struct Voting<'a>(&'a Loyalty);

impl Drop for Voting<'_> {
    fn drop(&mut self) {
        self.0.voting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Loyalty {
    pub(crate) fn new(span: Duration, quorum: Arc<QuorumClock>) -> Self {
        Self { began: clock::now(), span, quorum, voting: AtomicU32::new(0) }
    }

    fn begin(&self) -> Voting<'_> {
        self.voting.fetch_add(1, Ordering::SeqCst);
        Voting(self)
    }

    /// Whether a vote is looked at. To be asked after what a lease rests on was read: whoever votes
    /// looks at that afterwards.
    pub(crate) fn is_voting(&self) -> bool {
        self.voting.load(Ordering::SeqCst) > 0
    }

    /// Whether this process is too young to know whom it heard last.
    fn is_new(&self, now: Tick) -> bool {
        now.since(self.began) < self.span
    }

    /// Whether a leader heard from its quorum too short a time ago.
    fn is_loyal(&self, now: Tick, last_quorum_ack: Option<Tick>) -> bool {
        last_quorum_ack.is_some_and(|sent| now.since(sent) < self.span)
    }
}

impl Context {
    /// When this leader last sent what a quorum acknowledged; nothing if it does not lead.
    fn own_quorum_ack(&self, now: Tick) -> Option<Tick> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let vote = Some(metrics.vote).filter(|vote| vote.committed && metrics.state.is_leader())?;
        let configs = metrics.membership_config.membership().get_joint_config();
        self.loyalty.quorum.newest(&vote, configs, (self.node, now))
    }

    /// Passes the request of a candidate on, unless it comes too early.
    ///
    /// # Errors
    /// `no_leader`: the candidate is to ask again.
    pub(crate) async fn vote(
        &self,
        request: VoteRequest<NodeId>,
    ) -> Result<Result<VoteResponse<NodeId>, openraft::error::RaftError<NodeId>>, Refusal> {
        let _voting = self.loyalty.begin();
        let now = clock::now();
        if self.loyalty.is_new(now) || self.loyalty.is_loyal(now, self.own_quorum_ack(now)) {
            let what = "this member does not vote yet: it may have heard a leader";
            return Err(Refusal::new(RefusalReason::NoLeader, what));
        }
        let wanted = request.vote;
        let answer = self.raft.vote(request).await;
        if answer.as_ref().is_ok_and(|answer| answer.vote_granted) {
            self.loyalty.quorum.outvote(&wanted);
        }
        Ok(answer)
    }
}

/// Lets this member stand for election once it may.
pub(crate) async fn stand_later(context: Arc<Context>) {
    tokio::time::sleep(context.loyalty.span).await;
    context.raft.runtime_config().elect(true);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_millis(500);

    #[test]
    fn a_new_process_and_a_leader_with_a_quorum_do_not_vote() {
        let loyalty = Loyalty::new(SPAN, Arc::default());
        let after = |ms| loyalty.began.after(Duration::from_millis(ms));
        assert!(loyalty.is_new(after(499)) && !loyalty.is_new(after(500)));
        assert!(!loyalty.is_loyal(after(1_000), None), "no leader, or one without a quorum");
        assert!(loyalty.is_loyal(after(1_000), Some(after(501))));
        assert!(!loyalty.is_loyal(after(1_000), Some(after(500))));
    }

    #[test]
    fn no_lease_is_granted_while_a_vote_is_looked_at() {
        let loyalty = Loyalty::new(SPAN, Arc::default());
        assert!(!loyalty.is_voting());
        let (first, second) = (loyalty.begin(), loyalty.begin());
        drop(first);
        assert!(loyalty.is_voting());
        drop(second);
        assert!(!loyalty.is_voting());
    }
}

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
//! votes nor stands within the first `loyalty` of its life. Whoever leads, or did until a moment
//! ago, acknowledged its own heartbeats without hearing them: it votes for nobody within `loyalty`
//! of the newest one on which it granted a lease. If it is elected itself, its lease table knows
//! what it granted. While a vote is looked at no lease is granted, and once it voted nothing that
//! was sent before counts any more.
//!
//! [`LeaseConfig::loyalty`]: keelson_cluster_core::LeaseConfig

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use keelson_types::{RefusalReason, Tick};
use keelson_wire::Refusal;
use openraft::error::RaftError;
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
    /// When the newest heartbeat was sent on which this process granted a lease; 0 for none.
    granted_on: AtomicU64,
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
        let (granted_on, voting) = (AtomicU64::new(0), AtomicU32::new(0));
        Self { began: clock::now(), span, quorum, granted_on, voting }
    }

    /// Whether a lease may be granted on a heartbeat that was sent then. Remembers it first: either
    /// whoever votes meanwhile sees it, or this sees the vote.
    pub(crate) fn may_grant(&self, sent: Tick) -> bool {
        self.granted_on.fetch_max(sent.0, Ordering::SeqCst);
        self.voting.load(Ordering::SeqCst) == 0
    }

    fn begin(&self) -> Voting<'_> {
        self.voting.fetch_add(1, Ordering::SeqCst);
        Voting(self)
    }

    /// Whether this process must not vote at `now`.
    fn is_loyal(&self, now: Tick) -> bool {
        let granted_on = Tick(self.granted_on.load(Ordering::SeqCst));
        let granted = granted_on > Tick(0) && now.since(granted_on) < self.span;
        granted || now.since(self.began) < self.span
    }
}

impl Context {
    /// Passes the request of a candidate on, unless it comes too early.
    ///
    /// # Errors
    /// `no_leader`: the candidate is to ask again.
    pub(crate) async fn vote(
        &self,
        request: VoteRequest<NodeId>,
    ) -> Result<Result<VoteResponse<NodeId>, RaftError<NodeId>>, Refusal> {
        let _voting = self.loyalty.begin();
        if self.loyalty.is_loyal(clock::now()) {
            let what = "this member does not vote yet: it may have heard a leader, or led";
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
    fn a_new_process_and_one_that_granted_a_lease_do_not_vote() {
        let loyalty = Loyalty::new(SPAN, Arc::default());
        let after = |ms| loyalty.began.after(Duration::from_millis(ms));
        assert!(loyalty.is_loyal(after(499)) && !loyalty.is_loyal(after(500)));
        assert!(loyalty.may_grant(after(1_000)));
        assert!(loyalty.may_grant(after(900)), "an older heartbeat");
        assert!(loyalty.is_loyal(after(1_499)), "whether it leads or not");
        assert!(!loyalty.is_loyal(after(1_500)));
    }

    #[test]
    fn no_lease_is_granted_while_a_vote_is_looked_at() {
        let loyalty = Loyalty::new(SPAN, Arc::default());
        let sent = loyalty.began.after(SPAN);
        let (first, second) = (loyalty.begin(), loyalty.begin());
        drop(first);
        assert!(!loyalty.may_grant(sent));
        drop(second);
        assert!(loyalty.may_grant(sent));
    }
}

//! What the control process last said to a copy, kept where the copy's owner finds it.
//!
//! Orders and leases must not wait behind writes: whoever follows the control process puts them
//! here and never waits, whatever the owner does. A newer order takes the place of an older one of
//! its kind, so nothing grows. An owner that starts anew begins with the latest of them.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keelson_types::{CommitRule, Epoch, MemberId};
use tokio::sync::{Notify, oneshot};

use crate::message::Assigned;

/// The orders for one copy.
#[derive(Debug, Default)]
pub(crate) struct Directions {
    latest: Mutex<Latest>,
    told: Notify,
}

#[derive(Debug, Default)]
struct Latest {
    assigned: Option<Assigned>,
    dead: BTreeSet<MemberId>,
    unread: Option<Box<Unread>>,
}

/// What the owner has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    pub(crate) dead: Option<BTreeSet<MemberId>>,
    pub(crate) assigned: Option<Assigned>,
    pub(crate) rule: Option<RuleOutcome>,
    pub(crate) lease: Option<LeaseNews>,
    /// Answered when the files are closed.
    pub(crate) stop: Option<oneshot::Sender<()>>,
}

/// How a proposal of a commit rule ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RuleOutcome {
    /// Of the active that proposed.
    pub(crate) epoch: Epoch,
    /// Of the proposal.
    pub(crate) version: u64,
    /// What is recorded now.
    pub(crate) recorded: CommitRule,
}

/// Whether the lease covers the copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LeaseNews {
    Lost,
    Back,
}

impl Directions {
    /// For a copy that begins while these members are dead.
    pub(crate) fn new(dead: BTreeSet<MemberId>) -> Self {
        Self { latest: Mutex::new(Latest { dead, ..Latest::default() }), told: Notify::new() }
    }

    pub(crate) fn assigned(&self, assigned: Assigned) {
        self.tell(|latest| {
            latest.unread().assigned = Some(assigned.clone());
            latest.assigned = Some(assigned);
        });
    }

    pub(crate) fn members_dead(&self, dead: BTreeSet<MemberId>) {
        self.tell(|latest| {
            latest.unread().dead = Some(dead.clone());
            latest.dead = dead;
        });
    }

    /// A late answer to an earlier proposal says nothing beside one to a later proposal.
    pub(crate) fn rule(&self, outcome: RuleOutcome) {
        self.tell(|latest| {
            let rule = &mut latest.unread().rule;
            let number = |of: &RuleOutcome| (of.epoch, of.version);
            if rule.as_ref().is_none_or(|known| number(known) <= number(&outcome)) {
                *rule = Some(outcome);
            }
        });
    }

    pub(crate) fn lease(&self, lease: LeaseNews) {
        self.tell(|latest| latest.unread().lease = Some(lease));
    }

    pub(crate) fn stop(&self, reply: oneshot::Sender<()>) {
        self.tell(|latest| latest.unread().stop = Some(reply));
    }

    /// Ends when something was said since the last [`Self::take`], perhaps earlier.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    /// Takes what was not taken yet.
    pub(crate) fn take(&self) -> Option<Box<Unread>> {
        self.lock().unread.take()
    }

    /// For an owner that starts: the latest of everything, besides what nobody took.
    pub(crate) fn take_all(&self) -> Unread {
        let mut latest = self.lock();
        let unread = latest.unread.take().map(|unread| *unread).unwrap_or_default();
        let (dead, assigned) = (Some(latest.dead.clone()), latest.assigned.clone());
        Unread { dead, assigned, ..unread }
    }

    /// How often an operator resumed the copy, as last heard.
    pub(crate) fn resumes(&self) -> Option<u64> {
        self.lock().assigned.as_ref().map(|assigned| assigned.resumes)
    }

    /// How many other copies the database has, as last heard.
    pub(crate) fn others(&self) -> Option<usize> {
        self.lock().assigned.as_ref().map(|assigned| assigned.others.len())
    }

    fn tell(&self, say: impl FnOnce(&mut Latest)) {
        say(&mut self.lock());
        self.told.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latest {
    fn unread(&mut self) -> &mut Unread {
        self.unread.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_types::{CommitConstraint, CopyId};

    fn outcome(epoch: u64, version: u64) -> RuleOutcome {
        let recorded = CommitRule {
            version,
            active: CopyId::from_u128(1),
            constraint: CommitConstraint::None,
            participants: Vec::new(),
        };
        RuleOutcome { epoch: Epoch::new(0, epoch), version, recorded }
    }

    #[test]
    fn newer_orders_replace_older_ones_of_their_kind_and_are_taken_once() {
        let (directions, dead) = (Directions::default(), BTreeSet::from([MemberId::from_u128(7)]));
        for _ in 0..100_000 {
            directions.lease(LeaseNews::Back);
        }
        directions.lease(LeaseNews::Lost);
        directions.members_dead(BTreeSet::new());
        directions.members_dead(dead.clone());
        let unread = directions.take().unwrap();
        assert_eq!((unread.lease, unread.dead), (Some(LeaseNews::Lost), Some(dead.clone())));
        assert!(directions.take().is_none());
        assert_eq!(
            directions.take_all().dead,
            Some(dead),
            "an owner that starts anew hears it again"
        );
    }

    #[test]
    fn a_late_answer_to_an_earlier_proposal_does_not_hide_a_later_one() {
        let cases = [((2, 5), (2, 6), (2, 6)), ((2, 6), (2, 5), (2, 6)), ((3, 1), (2, 9), (3, 1))];
        for (first, then, stays) in cases {
            let directions = Directions::default();
            for (epoch, version) in [first, then] {
                directions.rule(outcome(epoch, version));
            }
            let rule = directions.take().unwrap().rule.unwrap();
            assert_eq!((rule.epoch.counter, rule.version), stays, "{first:?}, {then:?}");
        }
    }

    #[tokio::test]
    async fn what_was_said_before_anybody_listened_wakes() {
        let directions = Directions::new(BTreeSet::new());
        let (reply, mut stopped) = oneshot::channel();
        directions.stop(reply);
        directions.told().await;
        assert!(directions.take().unwrap().stop.unwrap().send(()).is_ok());
        assert!(stopped.try_recv().is_ok());
    }
}

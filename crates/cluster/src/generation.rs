//! The recovery generation of this member's consensus, and what others say of theirs (review S19).
//!
//! A cluster that was forced up without its majority is founded anew under a higher generation.
//! Everybody of a lower one, the lost majority included, belongs to what the operator gave up:
//! its votes, leases and entries count for nothing any more. So every consensus message carries the
//! generation. Whoever hears of a higher one from another member of its cluster ends its life,
//! with its data process, forgets the consensus of the lower one, and begins as a server that waits
//! to be taken in again. Its copies stay as they are.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;

/// Own generation, and the highest one that was heard.
#[derive(Debug)]
pub(crate) struct Generation {
    own: AtomicU32,
    heard: watch::Sender<u32>,
}

/// How another member's generation compares with the own one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Compared {
    /// Both belong to the same consensus.
    Same,
    /// The other one was left behind by a recovery.
    Lower,
    /// This member was.
    Higher,
}

impl Generation {
    pub(crate) fn new(own: u32) -> Self {
        Self { own: AtomicU32::new(own), heard: watch::Sender::new(own) }
    }

    pub(crate) fn own(&self) -> u32 {
        self.own.load(Ordering::Relaxed)
    }

    /// A server that was in no cluster joins one of this generation.
    pub(crate) fn join(&self, generation: u32) {
        self.own.store(generation, Ordering::Relaxed);
        self.heard.send_modify(|heard| *heard = (*heard).max(generation));
    }

    /// Compares, and remembers what is higher.
    pub(crate) fn compare(&self, theirs: u32) -> Compared {
        let own = self.own();
        if theirs > own {
            self.heard.send_if_modified(|heard| {
                let higher = theirs > *heard;
                *heard = (*heard).max(theirs);
                higher
            });
        }
        match theirs.cmp(&own) {
            std::cmp::Ordering::Less => Compared::Lower,
            std::cmp::Ordering::Equal => Compared::Same,
            std::cmp::Ordering::Greater => Compared::Higher,
        }
    }

    /// Waits until a higher generation than the own one is heard of.
    pub(crate) async fn left_behind(&self) -> u32 {
        let mut heard = self.heard.subscribe();
        // The sender lives as long as `self`.
        match heard.wait_for(|heard| *heard > self.own()).await {
            Ok(heard) => *heard,
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_higher_generation_leaves_a_member_behind() {
        let generation = Generation::new(1);
        assert_eq!(generation.compare(1), Compared::Same);
        assert_eq!(generation.compare(0), Compared::Lower);
        let waits = tokio::time::timeout(std::time::Duration::ZERO, generation.left_behind());
        assert!(waits.await.is_err());
        assert_eq!(generation.compare(3), Compared::Higher);
        assert_eq!(generation.compare(2), Compared::Higher);
        assert_eq!(generation.left_behind().await, 3);
    }

    #[tokio::test]
    async fn a_server_that_joins_has_the_generation_of_its_cluster() {
        let generation = Generation::new(0);
        generation.join(2);
        assert_eq!((generation.own(), generation.compare(2)), (2, Compared::Same));
        let waits = tokio::time::timeout(std::time::Duration::ZERO, generation.left_behind());
        assert!(waits.await.is_err());
    }
}

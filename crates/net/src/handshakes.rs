//! Handshakes under way: bounded in number, and never in the way of somebody new.
//!
//! Whoever connects and says nothing would hold a place until its time is up. So there is always
//! room: when all places are taken, the oldest handshake of the address that has most of them is
//! given up. An honest one takes milliseconds and is hardly ever the oldest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// All of one listener. Clones are the same.
#[derive(Clone)]
pub(crate) struct Handshakes {
    most: usize,
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Default)]
struct UnderWay {
    next: u64,
    /// Oldest first. What is dropped here is given up.
    by_age: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
}

/// The place of one; given back when it is dropped.
pub(crate) struct Turn {
    of: Handshakes,
    number: u64,
    given_up: oneshot::Receiver<()>,
}

impl Handshakes {
    /// At most so many at the same time.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, under_way: Arc::default() }
    }

    /// Takes a place, from somebody else if there is none.
    pub(crate) fn enter(&self, address: IpAddr) -> Turn {
        let mut under_way = self.lock();
        if under_way.by_age.len() >= self.most {
            under_way.give_one_up();
        }
        let number = under_way.next;
        under_way.next += 1;
        let (holds, given_up) = oneshot::channel();
        under_way.by_age.insert(number, (address, holds));
        Turn { of: self.clone(), number, given_up }
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    fn give_one_up(&mut self) {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (address, _) in self.by_age.values() {
            *counts.entry(*address).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        let Some((address, _)) = most else { return };
        let oldest = self.by_age.iter().find(|(_, (of, _))| *of == address);
        if let Some(number) = oldest.map(|(number, _)| *number) {
            self.by_age.remove(&number);
        }
    }
}

impl Turn {
    /// Ends when the place went to somebody else.
    pub(crate) async fn given_up(&mut self) {
        // Nothing is ever sent.
        let _ = (&mut self.given_up).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.of.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(turn: &mut Turn) -> bool {
        turn.given_up.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_oldest_of_the_greediest_address_makes_room() {
        let handshakes = Handshakes::new(4);
        let (member, crowd) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut first = handshakes.enter(member);
        let mut many: Vec<_> = (0..5).map(|_| handshakes.enter(crowd)).collect();
        assert!(!lost(&mut first));
        let lost: Vec<_> = many.iter_mut().map(lost).collect();
        assert_eq!(lost, [true, true, false, false, false]);
        drop((first, many));
        assert!(handshakes.lock().by_age.is_empty(), "nothing is kept of those that ended");
    }
}

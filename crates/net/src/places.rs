//! How much of something each may have at the same time, so that one host, or one client, does not
//! take the places of all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// How many places each has. Clones share them.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    most: usize,
    counts: Arc<Mutex<BTreeMap<K, usize>>>,
}

/// How many connections each address has.
pub(crate) type Addresses = Shares<IpAddr>;

/// One place, or several; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Ord>(Shares<K>, K, usize);

impl<K> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self { most: self.most, counts: self.counts.clone() }
    }
}

impl<K: Ord + Clone> Shares<K> {
    /// Each may have at most so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// Takes a place, if `of` has one left.
    pub(crate) fn enter(&self, of: K) -> Option<Place<K>> {
        self.take(&of, 1).then(|| Place(self.clone(), of, 1))
    }

    fn take(&self, of: &K, places: usize) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = counts.get(of).copied().unwrap_or_default();
        let fits = taken.saturating_add(places) <= self.most;
        if fits {
            counts.insert(of.clone(), taken + places);
        }
        fits
    }
}

impl<K: Ord + Clone> Place<K> {
    /// Takes more of them, if there are as many left.
    pub(crate) fn grow(&mut self, places: usize) -> bool {
        let fits = self.0.take(&self.1, places);
        if fits {
            self.2 += places;
        }
        fits
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= self.2;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_grew_is_given_back_whole() {
        let shares = Shares::new(10);
        let mut place = shares.enter("ann").unwrap();
        assert!(place.grow(8) && !place.grow(2) && place.grow(1));
        assert!(shares.enter("ann").is_none() && shares.enter("bob").is_some());
        drop(place);
        assert!(shares.counts.lock().unwrap().is_empty());
    }

    #[test]
    fn one_address_takes_no_more_than_its_places() {
        let addresses = Addresses::new(24);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let places: Vec<_> = (0..24).map(|_| addresses.enter(one).unwrap()).collect();
        assert!(addresses.enter(one).is_none() && addresses.enter(other).is_some());
        drop(places);
        assert!(addresses.enter(one).is_some());
        assert!(addresses.counts.lock().unwrap().is_empty(), "nothing is kept of those that left");
    }
}

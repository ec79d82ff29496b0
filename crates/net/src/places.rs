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

/// One place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Ord>(Shares<K>, K);

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
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(of.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), of))
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
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

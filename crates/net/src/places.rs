//! How many connections each address may have, so that one host does not take the places of all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections each address has.
#[derive(Clone)]
pub(crate) struct Addresses {
    most: usize,
    counts: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// One of them; given back when it is dropped.
pub(crate) struct Place(Addresses, IpAddr);

impl Addresses {
    /// Each address may have at most so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// Takes a place, if the address has one left.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), address))
    }
}

impl Drop for Place {
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

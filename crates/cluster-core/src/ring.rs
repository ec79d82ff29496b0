//! A bounded list of records: the newest `N` stay, older ones are dropped and counted.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The newest `N` items of a sequence, oldest first. Never fails and never grows beyond `N`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ring<T, const N: usize> {
    pushed: u64,
    items: VecDeque<T>,
}

impl<T, const N: usize> Default for Ring<T, N> {
    fn default() -> Self {
        Self { pushed: 0, items: VecDeque::new() }
    }
}

impl<T, const N: usize> Ring<T, N> {
    /// Adds the newest item and drops the oldest one if there are more than `N`.
    pub fn push(&mut self, item: T) {
        self.pushed += 1;
        self.items.push_back(item);
        while self.items.len() > N {
            self.items.pop_front();
        }
    }

    /// The items kept, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.items.iter()
    }

    /// The items kept, oldest first, for completing them.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> + ExactSizeIterator {
        self.items.iter_mut()
    }

    /// The newest item.
    #[must_use]
    pub fn last(&self) -> Option<&T> {
        self.items.back()
    }

    /// The newest item, for completing it.
    pub fn last_mut(&mut self) -> Option<&mut T> {
        self.items.back_mut()
    }

    /// How many items are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many items were ever pushed; the number of the newest one. Watchers of a ring compare it
    /// with the last number they saw.
    #[must_use]
    pub const fn pushed(&self) -> u64 {
        self.pushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_keeps_the_newest_and_counts_all() {
        let mut ring = Ring::<u32, 3>::default();
        (0..5).for_each(|item| ring.push(item));
        assert_eq!(ring.iter().copied().collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!((ring.len(), ring.pushed(), ring.last()), (3, 5, Some(&4)));
    }
}

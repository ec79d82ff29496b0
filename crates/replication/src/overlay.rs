//! What is in flight: effects of writes that are not in the store yet, over which conditions are
//! evaluated.
//!
//! Writes are grouped into *batches*, numbered from 1; a batch becomes one frame. An entry stays
//! until its batch is replayed *and* no store read that began earlier is still under way, so that a
//! slow read can never bring an older value back.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

/// The value of a key as far as writes in flight decide it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InFlight {
    /// Nothing in flight touches the key: ask the store.
    Untouched,
    /// Set to this by this batch.
    Put(Bytes, u64),
    /// Removed by this batch.
    Deleted(u64),
}

#[derive(Debug, Default)]
pub(crate) struct Overlay {
    keys: BTreeMap<Bytes, (Option<Bytes>, u64)>,
    /// Range deletes in order of their batches: from, to (none: to the end), batch.
    ranges: Vec<(Bytes, Option<Bytes>, u64)>,
}

impl Overlay {
    pub(crate) fn put(&mut self, key: Bytes, value: Bytes, batch: u64) {
        self.keys.insert(key, (Some(value), batch));
    }

    pub(crate) fn delete(&mut self, key: Bytes, batch: u64) {
        self.keys.insert(key, (None, batch));
    }

    pub(crate) fn delete_range(&mut self, from: Bytes, to: Option<Bytes>, batch: u64) {
        let inside: Vec<_> = self.keys_in(&from, to.as_ref()).map(|(key, _)| key).collect();
        for key in inside {
            self.keys.insert(key, (None, batch));
        }
        self.ranges.push((from, to, batch));
    }

    pub(crate) fn get(&self, key: &[u8]) -> InFlight {
        let covers = |(from, to, _): &&(Bytes, Option<Bytes>, u64)| {
            from.as_ref() <= key && to.as_ref().is_none_or(|to| key < to.as_ref())
        };
        let range = self.ranges.iter().rev().find(covers).map(|range| range.2);
        match (self.keys.get(key), range) {
            (Some((_, batch)), Some(range)) if range > *batch => InFlight::Deleted(range),
            (Some((Some(value), batch)), _) => InFlight::Put(value.clone(), *batch),
            (Some((None, batch)), _) => InFlight::Deleted(*batch),
            (None, Some(range)) => InFlight::Deleted(range),
            (None, None) => InFlight::Untouched,
        }
    }

    /// Keys in `from..to` that are touched one by one, with whether they exist.
    pub(crate) fn keys_in<'a>(
        &'a self,
        from: &Bytes,
        to: Option<&Bytes>,
    ) -> impl Iterator<Item = (Bytes, bool)> + 'a {
        let upper = to.map_or(Bound::Unbounded, |to| Bound::Excluded(to.clone()));
        let empty = to.is_some_and(|to| to <= from);
        let range = (!empty).then(|| self.keys.range((Bound::Included(from.clone()), upper)));
        range.into_iter().flatten().map(|(key, (value, _))| (key.clone(), value.is_some()))
    }

    /// Forgets batches up to this one: the store has them.
    pub(crate) fn forget(&mut self, batch: u64) {
        if self.is_empty() {
            return;
        }
        self.keys.retain(|_, (_, of)| *of > batch);
        self.ranges.retain(|(_, _, of)| *of > batch);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    #[test]
    fn the_last_write_decides_and_ranges_hide_older_keys() {
        let mut overlay = Overlay::default();
        overlay.put(bytes("b"), bytes("1"), 1);
        overlay.delete_range(bytes("a"), Some(bytes("c")), 2);
        assert_eq!(overlay.get(b"b"), InFlight::Deleted(2));
        assert_eq!(overlay.get(b"a"), InFlight::Deleted(2));
        assert_eq!(overlay.get(b"c"), InFlight::Untouched);
        overlay.put(bytes("b"), bytes("2"), 2);
        assert_eq!(overlay.get(b"b"), InFlight::Put(bytes("2"), 2));
    }

    #[test]
    fn forgetting_a_batch_keeps_later_ones() {
        let mut overlay = Overlay::default();
        overlay.put(bytes("a"), bytes("1"), 1);
        overlay.delete(bytes("b"), 2);
        overlay.forget(1);
        assert_eq!(overlay.get(b"a"), InFlight::Untouched);
        assert_eq!(overlay.get(b"b"), InFlight::Deleted(2));
        overlay.forget(2);
        assert!(overlay.is_empty());
    }

    #[test]
    fn keys_in_an_empty_range_are_none() {
        let mut overlay = Overlay::default();
        overlay.put(bytes("b"), bytes("1"), 1);
        assert_eq!(overlay.keys_in(&bytes("c"), Some(&bytes("a"))).count(), 0);
        assert_eq!(overlay.keys_in(&bytes("a"), None).count(), 1);
    }
}

//! Names the part of a store that is fetched: sets of spans, and the touched set of a fork.

use std::collections::BTreeMap;
use std::sync::Arc;

use keelson_types::{Record, Span, StoreKey};

use super::mark::MARK_BYTES_MAX;

/// A quarter of a mark stays free for what is added to it later.
const TOUCHED_BYTES_MAX: u64 = MARK_BYTES_MAX as u64 * 3 / 4;

/// What a span takes in a mark beside its keys, at most.
const SPAN_BYTES: u64 = 12;

/// A set of keys: ascending spans that neither overlap nor touch. Clones share the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spans(Arc<[Span]>);

impl FromIterator<Span> for Spans {
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut sorted: Vec<_> = spans.into_iter().collect();
        sorted.sort_unstable_by(|a, b| a.from().cmp(b.from()));
        let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
        for span in sorted {
            match merged.last_mut().and_then(|last| Some((last.joined(&span)?, last))) {
                Some((joined, last)) => *last = joined,
                None => merged.push(span),
            }
        }
        Self(merged.into())
    }
}

impl Spans {
    /// The spans, ascending.
    #[must_use]
    pub fn list(&self) -> &[Span] {
        &self.0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Both together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.0.iter().chain(other.0.iter()).cloned().collect()
    }

    /// One span over all of them: far more than the set, but short to write down.
    #[must_use]
    pub fn hull(&self) -> Self {
        let ends = self.0.first().zip(self.0.last());
        ends.and_then(|(first, last)| Span::new(first.from().clone(), last.to().cloned()))
            .into_iter()
            .collect()
    }

    /// Whether the key lies in one of them.
    #[must_use]
    pub fn covers(&self, key: &StoreKey) -> bool {
        let behind = self.0.partition_point(|span| span.from() <= key);
        behind.checked_sub(1).is_some_and(|index| self.0[index].covers(key))
    }

    /// At most `limit` spans at or behind `key`, the first one cut off there.
    #[must_use]
    pub fn behind(&self, key: &StoreKey, limit: usize) -> Vec<Span> {
        let passed = self.0.partition_point(|span| span.ends_before(key));
        self.0[passed..].iter().take(limit).filter_map(|span| span.behind(key)).collect()
    }
}

/// How much a fetch costs: what was read at the donor and sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FetchCost {
    /// Keys present at the donor.
    pub keys: u64,
    /// Their bytes, with the values.
    pub bytes: u64,
}

impl FetchCost {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            keys: self.keys.saturating_add(other.keys),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// Everything that a piece of log may have changed: the *whole* fork is added, not only what was
/// replayed of it (review S14.2).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TouchedSet {
    /// Bytes of the longest value that the fork gave the key.
    keys: BTreeMap<StoreKey, u64>,
    ranges: Vec<Span>,
    range_bytes: u64,
    /// About what its mark takes.
    mark_bytes: u64,
}

impl TouchedSet {
    /// Adds the effects of a record.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::Put { key, value } => {
                self.add_key(StoreKey::User(key.clone()), value.len() as u64);
            }
            Record::Delete { key } => self.add_key(StoreKey::User(key.clone()), 0),
            Record::DeleteRange { from, to } => {
                let from = StoreKey::User(from.clone());
                // An empty end is no bound: stores delete to the end.
                let to = Some(StoreKey::User(to.clone())).filter(|_| !to.is_empty());
                let ends = from.len_bytes() + to.as_ref().map_or(0, StoreKey::len_bytes);
                self.mark_bytes += ends + SPAN_BYTES;
                self.ranges.extend(Span::new(from, to));
            }
            Record::Session { session, .. } => self.add_key(StoreKey::Session(*session), 0),
            Record::Schema { .. } => self.add_key(StoreKey::Schema, 0),
            Record::Opening { .. }
            | Record::DigestMarker { .. }
            | Record::RestorePoint { .. }
            | Record::NoOp => {}
        }
    }

    fn add_key(&mut self, key: StoreKey, value: u64) {
        let length = key.len_bytes();
        // A deleted key costs what it last held in the fork; the donor may still have it.
        let known = self.keys.entry(key).or_insert_with(|| {
            self.mark_bytes += 2 * length + SPAN_BYTES;
            0
        });
        *known = value.max(*known);
    }

    /// Whether a mark cannot hold it. Who scans a fork stops there: the copy is seeded.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.mark_bytes > TOUCHED_BYTES_MAX
    }

    /// Adds what the store believes that a deleted range holds; the log does not tell.
    pub fn add_range_estimate(&mut self, bytes: u64) {
        self.range_bytes = self.range_bytes.saturating_add(bytes);
    }

    /// The deleted ranges, for such estimates.
    #[must_use]
    pub fn ranges(&self) -> &[Span] {
        &self.ranges
    }

    /// What fetching it costs, about: the keys with the sizes that the fork gave their values, and
    /// the estimates for ranges.
    #[must_use]
    pub fn cost(&self) -> FetchCost {
        let bytes = self.keys.iter().map(|(key, value)| key.len_bytes() + value);
        let bytes = bytes.fold(self.range_bytes, u64::saturating_add);
        FetchCost { keys: self.keys.len() as u64, bytes }
    }

    /// The keys and ranges to fetch.
    #[must_use]
    pub fn spans(&self) -> Spans {
        let keys = self.keys.keys().cloned().map(Span::key);
        keys.chain(self.ranges.iter().cloned()).collect()
    }
}

//! Collects the best matches in an order that does not depend on how a copy's files came about:
//! equal scores are ordered by key, and nothing by place in a file.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use tantivy::collector::{Collector, SegmentCollector};
use tantivy::columnar::BytesColumn;
use tantivy::{DocId, Score, SegmentOrdinal, SegmentReader};

use crate::query::Order;
use crate::schema::KEY;

/// One match.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Match {
    pub(crate) key: Vec<u8>,
    pub(crate) score: Score,
}

/// The first `limit` matches, and how many there are.
pub(crate) struct Ranked {
    pub(crate) limit: usize,
    pub(crate) order: Order,
}

/// The better, the smaller. Within a segment `key` is a number in the order of the keys.
#[derive(Clone, Copy, Debug)]
struct Rank {
    score: Score,
    key: u64,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.key.cmp(&other.key))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Rank {}

pub(crate) struct SegmentRanked {
    keys: Option<BytesColumn>,
    limit: usize,
    /// The worst on top.
    best: BinaryHeap<Rank>,
    count: u64,
}

impl SegmentCollector for SegmentRanked {
    type Fruit = (Vec<Match>, u64);

    fn collect(&mut self, doc: DocId, score: Score) {
        self.count += 1;
        let full = self.best.len() >= self.limit;
        if full && self.best.peek().is_none_or(|worst| score < worst.score) {
            return;
        }
        let key = self.keys.as_ref().and_then(|keys| keys.term_ords(doc).next());
        let rank = Rank { score, key: key.unwrap_or(u64::MAX) };
        if !full {
            self.best.push(rank);
        } else if let Some(mut worst) = self.best.peek_mut()
            && rank < *worst
        {
            *worst = rank;
        }
    }

    fn harvest(self) -> Self::Fruit {
        let matches = self.best.into_iter().filter_map(|Rank { score, key }| {
            let mut bytes = Vec::new();
            let found = self.keys.as_ref()?.ord_to_bytes(key, &mut bytes).ok()?;
            found.then_some(Match { key: bytes, score })
        });
        (matches.collect(), self.count)
    }
}

impl Collector for Ranked {
    type Fruit = (Vec<Match>, u64);
    type Child = SegmentRanked;

    fn for_segment(
        &self,
        _: SegmentOrdinal,
        segment: &SegmentReader,
    ) -> tantivy::Result<SegmentRanked> {
        let keys = segment.fast_fields().bytes(KEY)?;
        Ok(SegmentRanked { keys, limit: self.limit, best: BinaryHeap::new(), count: 0 })
    }

    fn requires_scoring(&self) -> bool {
        self.order == Order::Relevance
    }

    fn merge_fruits(&self, segments: Vec<(Vec<Match>, u64)>) -> tantivy::Result<Self::Fruit> {
        let count = segments.iter().map(|(_, count)| count).sum();
        let mut all: Vec<Match> = segments.into_iter().flat_map(|(matches, _)| matches).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.key.cmp(&b.key)));
        all.truncate(self.limit);
        Ok((all, count))
    }
}

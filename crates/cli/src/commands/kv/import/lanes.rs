//! Deals records out to lanes, and lanes into batches.
//!
//! All records of one key go through one lane, in their order, so that the last of them is what
//! stays. Which lane, and where a batch ends, depends on the records alone: a second run over the
//! same source makes the same batches with the same numbers.

use bytes::Bytes;

use super::batch::Batch;
use super::source::fnv;

/// Batches under way together.
pub(super) const LANES: usize = 8;

/// One unfinished batch per lane.
#[derive(Default)]
pub(super) struct Lanes {
    open: [Batch; LANES],
}

impl Lanes {
    /// Adds a record; gives a batch that is full by it, and its lane.
    pub(super) fn add(&mut self, key: Bytes, value: Bytes) -> Option<(usize, Batch)> {
        let lane = lane_of(&key);
        let batch = &mut self.open[lane];
        batch.add(key, value);
        batch.is_full().then(|| {
            let next = Batch { index: batch.index + 1, ..Batch::default() };
            (lane, std::mem::replace(batch, next))
        })
    }

    /// What is left at the end of the source.
    pub(super) fn rest(self) -> impl Iterator<Item = (usize, Batch)> {
        let lanes = self.open.into_iter().enumerate();
        lanes.filter(|(_, batch)| !batch.records.is_empty())
    }
}

fn lane_of(key: &[u8]) -> usize {
    // Similar keys have hashes that differ in few bits; the product spreads them.
    (fnv(key).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % LANES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn dealt() -> Vec<(usize, Batch)> {
        let mut lanes = Lanes::default();
        let mut all = Vec::new();
        for number in 0..50_000_u32 {
            let key = format!("key {}", number % 700);
            all.extend(lanes.add(key.into(), number.to_string().into()));
        }
        all.extend(lanes.rest());
        all
    }

    #[test]
    fn the_records_of_a_key_stay_in_order_in_one_lane() {
        let mut last = BTreeMap::new();
        let mut records = 0;
        for (lane, batch) in dealt() {
            for (key, value) in batch.records {
                let value: u32 = std::str::from_utf8(&value).unwrap().parse().unwrap();
                if let Some((before, earlier)) = last.insert(key, (lane, value)) {
                    assert!(before == lane && earlier < value, "{earlier} in {before}");
                }
                records += 1;
            }
        }
        assert_eq!((last.len(), records), (700, 50_000));
        let used = last.values().fold([0; LANES], |mut used, (lane, _)| {
            used[*lane] += 1;
            used
        });
        assert!(used.iter().all(|keys| *keys > 700 / LANES / 2), "{used:?}");
    }

    #[test]
    fn a_second_run_makes_the_same_batches() {
        let (first, second) = (dealt(), dealt());
        assert_eq!(first.len(), second.len());
        let mut next = [0; LANES];
        for ((lane, one), (other, two)) in first.iter().zip(&second) {
            assert_eq!((lane, one.index, &one.records), (other, two.index, &two.records));
            assert_eq!(one.index, next[*lane], "batches of a lane are numbered from 0");
            next[*lane] += 1;
        }
    }
}

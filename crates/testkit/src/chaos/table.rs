//! The usual and the worst gap per kind of fault.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Kind;

#[derive(Debug, Default)]
pub(super) struct Table {
    gaps: BTreeMap<Kind, Vec<Duration>>,
    /// What the cluster did not do; it has no gap.
    refused: BTreeMap<Kind, u32>,
}

impl Table {
    pub(super) fn add(&mut self, kind: Kind, gap: Duration) {
        self.gaps.entry(kind).or_default().push(gap);
    }

    pub(super) fn add_refused(&mut self, kind: Kind) {
        *self.refused.entry(kind).or_default() += 1;
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["median gap", "p95", "worst"];
        let [median, p95, worst] = columns;
        writeln!(f, "{:<18} {:>6} {median:>12} {p95:>12} {worst:>12}", "fault", "times")?;
        for (kind, gaps) in &self.gaps {
            let mut gaps = gaps.clone();
            gaps.sort();
            let [median, p95, worst] = [0.5, 0.95, 1.0].map(|share| quantile(&gaps, share));
            let kind = kind.to_string();
            writeln!(f, "{kind:<18} {:>6} {median:>9} ms {p95:>9} ms {worst:>9} ms", gaps.len())?;
        }
        for (kind, times) in &self.refused {
            writeln!(f, "refused, and not measured: {kind}, {times} times")?;
        }
        Ok(())
    }
}

/// Milliseconds that `share` of the sorted gaps do not exceed (nearest rank).
fn quantile(sorted: &[Duration], share: f64) -> u128 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(0, Duration::as_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_median_the_95th_percentile_and_the_worst() {
        let mut table = Table::default();
        for gap in (1..=20).rev() {
            table.add(Kind::KillData, Duration::from_millis(gap));
        }
        let text = table.to_string();
        let row = text.lines().nth(1).unwrap();
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(words, ["kill-data", "20", "10", "ms", "19", "ms", "20", "ms"]);
        assert_eq!(text.lines().count(), 2);
        table.add_refused(Kind::Switchover);
        let text = table.to_string();
        assert!(text.ends_with("refused, and not measured: switchover, 1 times\n"), "{text}");
    }
}

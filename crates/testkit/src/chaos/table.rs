//! The worst and the usual gap per kind of fault.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Kind;

#[derive(Debug, Default)]
pub(super) struct Table {
    gaps: BTreeMap<Kind, Vec<Duration>>,
}

impl Table {
    pub(super) fn add(&mut self, kind: Kind, gap: Duration) {
        self.gaps.entry(kind).or_default().push(gap);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<32} {:>6} {:>12} {:>12}", "fault", "times", "median gap", "worst gap")?;
        for (kind, gaps) in &self.gaps {
            let mut gaps = gaps.clone();
            gaps.sort();
            let millis = |gap: Option<&Duration>| gap.map_or(0, Duration::as_millis);
            let (median, worst) = (millis(gaps.get(gaps.len() / 2)), millis(gaps.last()));
            let kind = kind.to_string();
            writeln!(f, "{kind:<32} {:>6} {median:>9} ms {worst:>9} ms", gaps.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_median_and_the_worst() {
        let mut table = Table::default();
        for gap in [30, 10, 20] {
            table.add(Kind::KillData, Duration::from_millis(gap));
        }
        let text = table.to_string();
        let row = text.lines().nth(1).unwrap();
        assert!(row.contains(" 3 ") && row.contains("20 ms") && row.ends_with("30 ms"), "{row}");
    }
}

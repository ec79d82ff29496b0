//! What was measured, as medians, as ratios to Keelson, and as a page. Pure.
//!
//! A rate is better when it is higher, a gap when it is shorter; a ratio says how many times better
//! Keelson is, whichever way round that is. What is only a bound is marked as one.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::options::Kind;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Row {
    Puts1,
    Puts16,
    Puts64,
    Gets64,
    Batches,
    CatchUp,
    Seed,
    Switchover,
    MemberKilled,
    ProcessKilled,
    /// The disk alone, right before.
    Disk,
}

impl Row {
    pub(crate) const ALL: [Self; 11] = [
        Self::Puts1,
        Self::Puts16,
        Self::Puts64,
        Self::Gets64,
        Self::Batches,
        Self::CatchUp,
        Self::Seed,
        Self::Switchover,
        Self::MemberKilled,
        Self::ProcessKilled,
        Self::Disk,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Puts1 => "puts_1",
            Self::Puts16 => "puts_16",
            Self::Puts64 => "puts_64",
            Self::Gets64 => "gets_64",
            Self::Batches => "batches_8",
            Self::CatchUp => "catch_up",
            Self::Seed => "seed",
            Self::Switchover => "switchover_gap",
            Self::MemberKilled => "member_killed_gap",
            Self::ProcessKilled => "process_killed_gap",
            Self::Disk => "fdatasync",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Puts1 => "puts, 1 client",
            Self::Puts16 => "puts, 16 clients",
            Self::Puts64 => "puts, 64 clients",
            Self::Gets64 => "gets, 64 clients",
            Self::Batches => "records in batches of 100, 8 clients",
            Self::CatchUp => "catch-up of a copy that was away",
            Self::Seed => "a whole copy made anew",
            Self::Switchover => "gap of a planned switchover",
            Self::MemberKilled => "gap after kill -9 of the active member",
            Self::ProcessKilled => "gap after kill -9 of its data process",
            Self::Disk => "fdatasync of 4 KiB, 1 writer, no system",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::CatchUp | Self::Seed => "MB/s",
            _ if self.is_gap() => "ms",
            _ => "/s",
        }
    }

    fn is_gap(self) -> bool {
        matches!(self, Self::Switchover | Self::MemberKilled | Self::ProcessKilled)
    }
}

/// One measurement.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Sample {
    /// In the unit of its row.
    value: f64,
    /// Median and 99th percentile of single requests, in milliseconds.
    latencies: Option<(f64, f64)>,
}

impl Sample {
    pub(crate) fn new(value: f64) -> Self {
        Self { value, latencies: None }
    }

    pub(crate) fn with_latencies(value: f64, latencies: (f64, f64)) -> Self {
        Self { value, latencies: Some(latencies) }
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<(Row, Kind), Vec<Sample>>,
    /// What each system says that it is.
    pub(crate) versions: BTreeMap<Kind, String>,
    /// What did not go as it should.
    pub(crate) notes: Vec<String>,
}

impl Results {
    pub(crate) fn add(&mut self, row: Row, kind: Kind, sample: Sample) {
        self.samples.entry((row, kind)).or_default().push(sample);
    }

    /// Median over all rounds.
    fn median(&self, row: Row, kind: Kind) -> Option<f64> {
        quantile(&self.values(row, kind), 0.5)
    }

    fn values(&self, row: Row, kind: Kind) -> Vec<f64> {
        let samples = self.samples.get(&(row, kind)).map_or(&[][..], Vec::as_slice);
        samples.iter().map(|sample| sample.value).collect()
    }

    fn latencies(&self, row: Row, kind: Kind) -> Option<(f64, f64)> {
        let samples = self.samples.get(&(row, kind))?;
        let (p50, p99): (Vec<_>, Vec<_>) = samples.iter().filter_map(|s| s.latencies).unzip();
        Some((quantile(&p50, 0.5)?, quantile(&p99, 0.5)?))
    }

    /// How many times better `ours` is than `peer`.
    fn ratio(&self, row: Row, ours: Kind, peer: Kind) -> Option<f64> {
        let (ours, peer) = (self.median(row, ours)?, self.median(row, peer)?);
        let (better, worse) = if row.is_gap() { (peer, ours) } else { (ours, peer) };
        (worse > 0.0).then(|| better / worse)
    }

    fn ratio_cell(&self, row: Row, ours: Kind, peer: Kind) -> Option<String> {
        let ratio = self.ratio(row, ours, peer).filter(|_| row != Row::Disk)?;
        Some(format!("{}{ratio:.2}", bound(row, peer)))
    }

    fn kinds(&self) -> Vec<Kind> {
        let measured = |kind: &Kind| self.samples.keys().any(|(_, other)| other == kind);
        Kind::ALL.into_iter().filter(measured).collect()
    }

    /// Three tables in Markdown: values, latencies, and how many times better Keelson is.
    pub(crate) fn tables(&self) -> String {
        let kinds = self.kinds();
        let titles: Vec<_> = kinds.iter().map(|kind| kind.title().to_owned()).collect();
        let values = table("", &titles, |row| {
            kinds.iter().map(|kind| self.value_cell(row, *kind)).collect()
        });
        let latencies = table("p50 / p99, ms", &titles, |row| {
            kinds.iter().map(|kind| self.latency_cell(row, *kind)).collect()
        });
        let mut text = format!("{values}\n{latencies}");
        let pairs = pairs(&kinds);
        if !pairs.is_empty() {
            let title =
                |(ours, peer): &(Kind, Kind)| format!("{} : {}", ours.title(), peer.title());
            let titles: Vec<_> = pairs.iter().map(title).collect();
            let ratios = table("times better", &titles, |row| {
                pairs.iter().map(|(ours, peer)| self.ratio_cell(row, *ours, *peer)).collect()
            });
            text.push_str(&format!("\n{ratios}"));
        }
        text
    }

    fn value_cell(&self, row: Row, kind: Kind) -> Option<String> {
        let median = self.median(row, kind)?;
        let unit = row.unit();
        let space = if unit.starts_with('/') { "" } else { " " };
        let value = format!("{}{}{space}{unit}", bound(row, kind), number(median));
        if !row.is_gap() {
            return Some(value);
        }
        let values = self.values(row, kind);
        let p95 = quantile(&values, 0.95)?;
        Some(format!("{value}, p95 {} of {}", number(p95), values.len()))
    }

    fn latency_cell(&self, row: Row, kind: Kind) -> Option<String> {
        let (p50, p99) = self.latencies(row, kind)?;
        Some(format!("{p50:.2} / {p99:.2}"))
    }

    /// Every sample, and the ratios.
    pub(crate) fn json(&self) -> Value {
        let mut rows = Vec::new();
        for row in Row::ALL {
            for kind in self.kinds() {
                let Some(samples) = self.samples.get(&(row, kind)) else { continue };
                let samples: Vec<_> = samples.iter().map(sample_json).collect();
                let ratio = self.ratio(row, Kind::Keelson, kind);
                rows.push(json!({
                    "row": row.name(),
                    "unit": row.unit(),
                    "system": kind.name(),
                    "median": self.median(row, kind),
                    "is_lower_bound": !bound(row, kind).is_empty(),
                    "keelson_times_better": ratio.filter(|_| !kind.is_keelson()),
                    "samples": samples,
                }));
            }
        }
        let versions = self.versions.iter().map(|(kind, text)| (kind.name(), text));
        json!({
            "versions": versions.collect::<BTreeMap<_, _>>(),
            "notes": self.notes,
            "results": rows,
        })
    }
}

fn sample_json(sample: &Sample) -> Value {
    let (p50, p99) = sample.latencies.unzip();
    json!({ "value": sample.value, "p50_ms": p50, "p99_ms": p99 })
}

/// Marks the gap, and with it our ratio, of whom somebody else told at once that its member was
/// gone: with a way to find out, it would be longer.
fn bound(row: Row, kind: Kind) -> &'static str {
    match (row, kind) {
        (Row::MemberKilled, Kind::Postgres) => "≥ ",
        _ => "",
    }
}

/// Each of ours beside each peer.
fn pairs(kinds: &[Kind]) -> Vec<(Kind, Kind)> {
    let ours = kinds.iter().filter(|kind| kind.is_keelson());
    let peers = || kinds.iter().filter(|kind| !kind.is_keelson());
    ours.flat_map(|ours| peers().map(|peer| (*ours, *peer))).collect()
}

/// A Markdown table of the rows in which any cell is known.
fn table(corner: &str, titles: &[String], cells: impl Fn(Row) -> Vec<Option<String>>) -> String {
    let mut text = format!("| {corner} | {} |\n| --- |", titles.join(" | "));
    text.push_str(&" ---: |".repeat(titles.len()));
    text.push('\n');
    for row in Row::ALL {
        let cells = cells(row);
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let cells: Vec<_> = cells.into_iter().map(|cell| cell.unwrap_or("–".into())).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {} |", row.title(), cells.join(" | "));
    }
    text
}

/// The value below which a share of all values lies: of an even number the lower middle one.
fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Three digits, or all before the point, in groups of three.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;

//! The space of one member over all its volumes. A member is as short of space as its fullest
//! volume: what one copy says counts for the volume that it lies on, and for no other.

use std::collections::BTreeSet;

use keelson_wire::v1::{CopyFacts, CopyStatusRow, VolumeFacts};
use maud::{Markup, html};

use super::layout::{facts, table};
use crate::show::{Tone, apart, database_link, size, span, tag};

/// What the copies of one member say together.
#[derive(PartialEq, Debug)]
pub(super) struct Space {
    log_free: u64,
    data_free: u64,
    log_bytes: u64,
    store_bytes: u64,
    seconds_to_full: Option<u64>,
    seconds_to_floor: Option<u64>,
    read_latency_micros: Option<u64>,
    /// Each once, with its volume where there are several.
    shortages: BTreeSet<String>,
    volumes: usize,
}

impl Space {
    /// `None` if no copy says anything.
    pub(super) fn of(copies: &[&CopyFacts]) -> Option<Self> {
        let all = || copies.iter().copied();
        let volumes: BTreeSet<&str> = all().map(|copy| copy.volume.as_str()).collect();
        let short = all().filter(|copy| !copy.shortage.is_empty());
        let shortages = short.map(|copy| match copy.volume.as_str() {
            "" => copy.shortage.clone(),
            volume => format!("{} ({volume})", copy.shortage),
        });
        Some(Self {
            log_free: all().map(|copy| copy.log_free_bytes).min()?,
            data_free: all().map(|copy| copy.data_free_bytes).min()?,
            log_bytes: all().map(|copy| copy.log_bytes).sum(),
            store_bytes: all().map(|copy| copy.store_bytes).sum(),
            seconds_to_full: all().filter_map(|copy| copy.log_seconds_to_full).min(),
            seconds_to_floor: all().filter_map(|copy| copy.log_seconds_to_floor).min(),
            read_latency_micros: all().filter_map(|copy| copy.read_latency_micros).max(),
            shortages: shortages.collect(),
            volumes: volumes.len(),
        })
    }

    fn least(&self) -> &'static str {
        if self.volumes > 1 { " (the least of several volumes)" } else { "" }
    }

    /// In a few lines, for a card.
    pub(super) fn lines(&self) -> Markup {
        html! {
            p.dim {
                "log " (size(self.log_free)) " free, data " (size(self.data_free)) " free"
                (self.least())
            }
            @if let Some(seconds) = self.seconds_to_full {
                p { (tag(Tone::Warn, &format!("log volume full in {}", span(seconds)))) }
            }
            @for shortage in &self.shortages { p { (tag(Tone::Bad, shortage)) } }
        }
    }

    fn rows(&self) -> [(&'static str, Markup); 8] {
        let latency = self.read_latency_micros;
        let shortage = html! {
            @if self.shortages.is_empty() { (tag(Tone::Good, "none")) }
            @for shortage in &self.shortages { (tag(Tone::Bad, shortage)) " " }
        };
        [
            ("Free for log", html! { (size(self.log_free)) (self.least()) }),
            ("Free for data", html! { (size(self.data_free)) (self.least()) }),
            ("Logs here", html! { (size(self.log_bytes)) }),
            ("Stores here", html! { (size(self.store_bytes)) }),
            ("Log volume full in", forecast(self.seconds_to_full)),
            ("Truncation expands in", forecast(self.seconds_to_floor)),
            (
                "Slowest reads",
                html! { @if let Some(micros) = latency { (micros) " µs" } @else { "–" } },
            ),
            ("Shortage", shortage),
        ]
    }
}

fn forecast(seconds: Option<u64>) -> Markup {
    match seconds {
        None => html! { "not foreseeable" },
        Some(seconds) if seconds < 6 * 3_600 => tag(Tone::Warn, &span(seconds)),
        Some(seconds) => html! { (span(seconds)) },
    }
}

/// The space of a member, and its volumes if it has several.
pub(super) fn section(copies: &[CopyStatusRow], volumes: &[VolumeFacts]) -> Markup {
    let said: Vec<&CopyFacts> = copies.iter().filter_map(|row| row.facts.as_ref()).collect();
    let rows: Vec<_> = volumes.iter().map(|volume| row(copies, volume)).collect();
    let head = ["Volume", "State", "Free", "Log full in", "Copies"];
    html! {
        @if let Some(space) = Space::of(&said) {
            section.card aria-labelledby="space" { h2 #space { "Space" } (facts(&space.rows())) }
        }
        @if !rows.is_empty() {
            section aria-labelledby="volumes" {
                h2 #volumes { "Volumes" }
                (table("volume-table", "Volumes of this member", &head, &rows))
            }
        }
    }
}

/// How a volume is, in a word.
fn state_of(volume: &VolumeFacts) -> Tone {
    match volume.state.as_str() {
        "healthy" => Tone::Good,
        "spare" => Tone::Off,
        "suspect" | "retired" => Tone::Warn,
        _ => Tone::Bad,
    }
}

/// The volumes of a member that are not as they should be, in a line each, for a card.
pub(super) fn doubtful<'a>(volumes: impl Iterator<Item = &'a VolumeFacts>) -> Markup {
    let all = volumes.map(|volume| (state_of(volume), volume));
    html! {
        @for (tone, volume) in all.filter(|(tone, _)| !matches!(tone, Tone::Good | Tone::Off)) {
            p { (tag(tone, &format!("volume {} is {}", volume.path, volume.state))) }
        }
    }
}

fn row(copies: &[CopyStatusRow], volume: &VolumeFacts) -> Vec<Markup> {
    let said =
        |row: &&CopyStatusRow| row.facts.as_ref().is_some_and(|facts| facts.volume == volume.path);
    let on_it: Vec<&CopyStatusRow> = copies.iter().filter(said).collect();
    let facts: Vec<&CopyFacts> = on_it.iter().filter_map(|row| row.facts.as_ref()).collect();
    let shortages: BTreeSet<&str> =
        facts.iter().map(|facts| facts.shortage.as_str()).filter(|what| !what.is_empty()).collect();
    let unsaid = volume.copies.saturating_sub(u32::try_from(on_it.len()).unwrap_or(u32::MAX));
    vec![
        html! { (volume.path) },
        html! {
            (tag(state_of(volume), &apart(&volume.state)))
            @if !volume.why.is_empty() { " " (volume.why) }
            @if !volume.replaced_by.is_empty() { div.dim { "copies go to " (volume.replaced_by) } }
        },
        html! {
            @match volume.free_bytes {
                Some(free) => { (size(free)) }
                None => { "not known" }
            }
            @if let Some(total) = volume.total_bytes { span.dim { " of " (size(total)) } }
            @for shortage in shortages { div { (tag(Tone::Bad, shortage)) } }
        },
        forecast(facts.iter().filter_map(|facts| facts.log_seconds_to_full).min()),
        html! {
            @for (at, row) in on_it.iter().enumerate() {
                @if at > 0 { ", " }
                (database_link(&row.database))
            }
            @if on_it.is_empty() && unsaid == 0 { "none" }
            @if unsaid > 0 { " " (unsaid) " that say nothing now" }
        },
    ]
}

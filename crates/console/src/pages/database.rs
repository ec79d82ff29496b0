//! One database: its copies, who holds its log back, its redundancy, and what can be done.

use keelson_status::decision::Names;
use keelson_wire::v1::{CopyFacts, CopyStatusRow, DatabaseInfo, LogHolder, RedundancyRow};
use maud::{Markup, html};

use super::layout::{Frame, Mode, facts, table};
use super::overview::details;
use crate::show::{Tone, ago, apart, copy_state, member_link, moment, size, span, tag};
use crate::web::path_part;

/// What the page is made of.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct DatabaseView {
    /// Its settings and epochs.
    pub info: DatabaseInfo,
    /// Its copies.
    pub copies: Vec<CopyStatusRow>,
    /// Whether it has enough copies.
    pub redundancy: Option<RedundancyRow>,
    /// Its newest decision records as JSON, oldest first.
    pub decisions: Vec<String>,
    /// What the ids in them stand for.
    pub names: Names,
}

/// The page of a database.
#[must_use]
pub fn database(frame: &Frame, view: &DatabaseView) -> String {
    let name = &view.info.name;
    let main = html! {
        h1 { (name) }
        (summary(view))
        (actions(view))
        (copies(frame, view))
        (held(frame, view))
        (redundancy(view))
        (epochs(view))
        section aria-labelledby="decisions" {
            h2 #decisions { "Newest decisions" }
            (super::decisions::listed("newest-decisions", &view.decisions, &view.names))
        }
    };
    frame.page(name, "/", Mode::Live, &main)
}

fn summary(view: &DatabaseView) -> Markup {
    let info = &view.info;
    let mounted = info.mount_intent.eq_ignore_ascii_case("mounted");
    let state = match (mounted, info.degraded, info.active_member.is_empty()) {
        (false, _, _) => tag(Tone::Off, "Dismounted"),
        (true, _, true) => tag(Tone::Bad, "Not active anywhere"),
        (true, true, false) => tag(Tone::Warn, "Acknowledges alone"),
        (true, false, false) => tag(Tone::Good, "Mounted"),
    };
    let epoch = info.epoch.map(|epoch| keelson_types::Epoch::from(epoch).to_string());
    let rows = [
        ("State", html! { (state) @if !info.blocked.is_empty() { " " (info.blocked) } }),
        ("Active on", html! { b { (info.active_member) } }),
        ("Epoch", html! { (epoch.unwrap_or_default()) }),
        ("Commit constraint", html! { (apart(&info.commit_constraint)) }),
        ("Content index", html! { @if info.content_index { "yes" } @else { "none" } }),
        ("Automatic reseed", html! { @if info.autoreseed { "on" } @else { "off" } }),
        (
            "Switched off",
            html! {
                @if info.automations_off.is_empty() { "nothing else" }
                @else { (apart(&info.automations_off.join(", "))) }
            },
        ),
    ];
    html! { section.card aria-label="Summary" { (facts(&rows)) (suppressed(info)) } }
}

fn suppressed(info: &DatabaseInfo) -> Markup {
    html! {
        @if info.moves_suppressed_until_unix_millis > 0 {
            p {
                (tag(Tone::Warn, "moved too often")) " " (info.recent_moves)
                " moves of late; moves on purpose again at "
                (moment(info.moves_suppressed_until_unix_millis))
            }
        }
    }
}

fn actions(view: &DatabaseView) -> Markup {
    let path = format!("/databases/{}", path_part(&view.info.name));
    let mounted = view.info.mount_intent.eq_ignore_ascii_case("mounted");
    let others: Vec<_> = view.copies.iter().filter(|row| !row.active).collect();
    html! {
        section.actions aria-label="Actions" {
            @if mounted && !others.is_empty() {
                form.inline method="get" action=(format!("{path}/switchover")) {
                    label for="to" { "Switch over to" }
                    select #to name="to" {
                        option value="" { "the best copy" }
                        @for row in &others { option value=(row.member) { (row.member) } }
                    }
                    button.primary { "Check…" }
                }
            }
            @if mounted {
                form.inline method="get" action=(format!("{path}/dismount")) {
                    button.grave { "Dismount…" }
                }
            } @else {
                form.inline method="get" action=(format!("{path}/mount")) {
                    button.primary { "Mount…" }
                }
            }
        }
    }
}

fn copies(frame: &Frame, view: &DatabaseView) -> Markup {
    let head = ["Copy on", "State", "Queues and lag", "Log and space", "Actions"];
    let rows: Vec<_> = view.copies.iter().map(|row| copy(frame, row)).collect();
    html! {
        section aria-labelledby="copies" {
            h2 #copies { "Copies" }
            (table("copy-table", "Copies in order of preference", &head, &rows))
        }
    }
}

fn copy(frame: &Frame, row: &CopyStatusRow) -> Vec<Markup> {
    let facts = row.facts.clone().unwrap_or_default();
    vec![
        html! {
            (member_link(&row.member))
            div.dim { "preference " (row.preference) }
        },
        html! {
            (copy_state(row))
            @if row.participant && !row.active { " " span.role { "counts for writes" } }
            @if !row.status_reason.is_empty() { div.dim { (row.status_reason) } }
            @if facts.status_since_unix_millis > 0 {
                div.dim { "since " (ago(facts.status_since_unix_millis, frame.now_ms)) }
            }
            (reseed(frame, row))
        },
        details(row, &facts),
        space(&facts),
        buttons(row),
    ]
}

fn reseed(frame: &Frame, row: &CopyStatusRow) -> Markup {
    let Some(reseed) = &row.autoreseed else { return html! {} };
    html! {
        div.dim {
            "automatic reseed: " (reseed.resumes) " resumes, " (reseed.seeds) " seeds"
            @if reseed.stopped { ", " (tag(Tone::Bad, "given up")) }
            @if reseed.next_unix_millis > frame.now_ms {
                ", next step in " (span((reseed.next_unix_millis - frame.now_ms) / 1000))
            }
            @if !reseed.blocked.is_empty() { "; " (reseed.blocked) }
        }
    }
}

fn space(facts: &CopyFacts) -> Markup {
    html! {
        div.dim { "log " (size(facts.log_bytes)) ", store " (size(facts.store_bytes)) }
        @if let Some(seconds) = facts.log_seconds_to_full {
            div { (tag(Tone::Warn, &format!("full in {}", span(seconds)))) }
        }
        @if let Some(seconds) = facts.log_seconds_to_floor {
            div.dim { "truncation expands in " (span(seconds)) }
        }
        @if !facts.would_be_cut.is_empty() {
            div.dim {
                "then " (facts.would_be_cut) " would be cut off and need a seed of "
                (size(facts.seed_bytes))
            }
        }
        @if !facts.shortage.is_empty() { div { (tag(Tone::Bad, &facts.shortage)) } }
    }
}

fn buttons(row: &CopyStatusRow) -> Markup {
    let path = format!("/copies/{}/{}", path_part(&row.database), path_part(&row.member));
    let suspended = row.suspension.is_some();
    let button = |verb: &str, text: &str| {
        let label = format!("{text} {}@{}", row.database, row.member);
        html! { a.button href=(format!("{path}/{verb}")) aria-label=(label) { (text) "…" } }
    };
    html! {
        div.buttons {
            @if suspended { (button("resume", "Resume")) (button("seed", "Seed")) }
            @else if !row.active { (button("suspend", "Suspend")) }
            (button("scrub", "Scrub"))
        }
    }
}

/// Who holds back the log of each copy; the first one decides.
fn held(frame: &Frame, view: &DatabaseView) -> Markup {
    let holders = view.copies.iter().flat_map(|row| {
        let holders = row.facts.iter().flat_map(|facts| &facts.log_held_by);
        holders.enumerate().map(move |(at, holder)| (row, at == 0, holder))
    });
    let rows: Vec<_> = holders.map(|(row, first, one)| holder(frame, row, first, one)).collect();
    let head = ["Copy on", "Held by", "Why", "Since", "From"];
    let caption = "Who keeps log from being truncated; the first one decides";
    html! {
        section aria-labelledby="held" {
            h2 #held { "Who holds back the log" }
            (table("held-table", caption, &head, &rows))
        }
    }
}

fn holder(frame: &Frame, row: &CopyStatusRow, first: bool, one: &LogHolder) -> Vec<Markup> {
    let from = one.from.map(|from| keelson_types::Position::from(from).to_string());
    vec![
        html! { (row.member) },
        html! { (one.holder) @if first { " " span.role { "decides" } } },
        html! { (one.reason) },
        ago(one.since_unix_millis, frame.now_ms),
        html! { (from.unwrap_or_default()) },
    ]
}

fn redundancy(view: &DatabaseView) -> Markup {
    let Some(row) = &view.redundancy else { return html! {} };
    let verdict = tag(Tone::of(row.verdict == "green"), &row.verdict);
    let rows = row.copies.iter().map(|copy| {
        let judged = |good: bool, why: &str| {
            let word = if good { "yes" } else { "no" };
            html! { (tag(Tone::of(good), word)) @if !why.is_empty() { " " (why) } }
        };
        vec![
            html! { (copy.member) },
            judged(copy.available, &copy.unavailable_reason),
            judged(copy.redundant, &copy.not_redundant_reason),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let head = ["Copy on", "Could serve", "Holds what was written"];
    html! {
        section aria-labelledby="redundancy" {
            h2 #redundancy { "Redundancy " (verdict) }
            p {
                (row.available) " copies could serve, " (row.redundant)
                " hold what was written."
            }
            (table("redundancy-table", "Each copy", &head, &rows))
        }
    }
}

fn epochs(view: &DatabaseView) -> Markup {
    let newest = view.info.epochs.iter().rev().take(10);
    let rows = newest.map(|one| {
        let epoch = one.epoch.map(|epoch| keelson_types::Epoch::from(epoch).to_string());
        vec![
            html! { (epoch.unwrap_or_default()) },
            html! { (one.member) },
            html! { (apart(&one.reason)) },
            html! { @if one.established { "yes" } @else { "no" } },
        ]
    });
    let rows: Vec<_> = rows.collect();
    let head = ["Epoch", "On", "Why", "Established"];
    html! {
        section aria-labelledby="epochs" {
            h2 #epochs { "Activations" }
            (table("epoch-table", "Newest activations first", &head, &rows))
        }
    }
}

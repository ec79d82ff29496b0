//! Long work and how far it is.

use keelson_wire::v1::{MoveResult, Operation, SeedFigures};
use maud::{Markup, html};

use super::layout::{Frame, Mode, facts, table};
use crate::show::{Tone, ago, id, moment, percent, size, span, tag};

/// All operations that are remembered, the newest first.
#[must_use]
pub fn operations(frame: &Frame, all: &[Operation]) -> String {
    let mut newest: Vec<_> = all.iter().collect();
    newest.sort_by_key(|one| std::cmp::Reverse(one.started_unix_millis));
    let rows: Vec<_> = newest.into_iter().map(|one| row(frame, one)).collect();
    let head = ["Operation", "State", "Progress", "Began", "Comment", "Message"];
    let main = html! {
        h1 { "Operations" }
        (table("all", "Operations, the newest first", &head, &rows))
    };
    frame.page("Operations", "/operations", Mode::Live, &main)
}

fn name(operation: &Operation) -> String {
    format!("{} {}", operation.kind.replace('_', " "), operation.subject)
}

fn row(frame: &Frame, one: &Operation) -> Vec<Markup> {
    vec![
        html! { a href=(format!("/operations/{}", id(&one.operation))) { (name(one)) } },
        tag(Tone::of_operation(&one.state), &one.state),
        progress(one),
        ago(one.started_unix_millis, frame.now_ms),
        html! { (one.comment) },
        html! { (one.message) @if !one.code.is_empty() { " " code { (one.code) } } },
    ]
}

/// How far it is: done and total, as bytes where they are.
fn done(one: &Operation) -> (u64, u64) {
    match &one.seed {
        Some(figures) if figures.bytes > 0 => (figures.bytes_done, figures.bytes),
        _ => (one.done, one.total),
    }
}

fn progress(one: &Operation) -> Markup {
    let (done, total) = done(one);
    html! {
        @if total > 0 && one.state == "running" {
            progress max=(total) value=(done) aria-label=(format!("progress of {}", name(one))) {}
            " " (percent(done, total)) " % "
        }
        @if one.state == "running" { (one.phase.replace('_', " ")) }
    }
}

/// One operation in a few lines.
pub(super) fn bar(one: &Operation) -> Markup {
    html! {
        h3 { a href=(format!("/operations/{}", id(&one.operation))) { (name(one)) } }
        p { (tag(Tone::of_operation(&one.state), &one.state)) " " (progress(one)) }
        @if let Some(figures) = &one.seed { p.dim { (rate(figures)) } }
    }
}

fn rate(figures: &SeedFigures) -> Markup {
    html! {
        (size(figures.bytes_done)) " of " (size(figures.bytes)) ", "
        (size(figures.bytes_per_second)) "/s"
        @if let Some(seconds) = figures.seconds_left { ", " (span(seconds)) " left" }
    }
}

/// One operation with everything that is known of it.
#[must_use]
pub fn operation(frame: &Frame, one: &Operation) -> String {
    let title = name(one);
    let is_running = matches!(one.state.as_str(), "running" | "scheduled");
    let mut rows = vec![
        ("State", tag(Tone::of_operation(&one.state), &one.state)),
        ("Progress", progress(one)),
        ("Message", html! { (one.message) }),
        ("Code", html! { @if !one.code.is_empty() { code { (one.code) } } @else { "–" } }),
        ("Comment", html! { (one.comment) }),
        ("Began", html! { (moment(one.started_unix_millis)) }),
        ("Ended", html! { (moment(one.ended_unix_millis)) }),
        ("Operation", html! { code { (id(&one.operation)) } }),
    ];
    if let Some(figures) = &one.seed {
        rows.extend(seed(figures));
    }
    if let Some(result) = &one.moved {
        rows.extend(moved(result));
    }
    let main = html! {
        h1 { (title) }
        section.card { (facts(&rows)) }
        @if is_running {
            form.inline method="get" action=(format!("/operations/{}/cancel", id(&one.operation))) {
                button.grave { "Cancel…" }
            }
        }
    };
    let mode = if is_running { Mode::Live } else { Mode::Still };
    frame.page(&title, "/operations", mode, &main)
}

fn seed(figures: &SeedFigures) -> Vec<(&'static str, Markup)> {
    vec![
        ("Source", html! { (figures.source) }),
        ("Files", html! { (figures.files_done) " of " (figures.files) }),
        ("Bytes", rate(figures)),
        ("Received", html! { (size(figures.bytes_received)) }),
        (
            "Log behind it",
            html! {
                (size(figures.log_bytes))
                @if !figures.log_source.is_empty() { ", from " (figures.log_source) }
            },
        ),
        (
            "Network",
            html! {
                @if figures.network.is_empty() { "unnamed" } @else { (figures.network) }
                @if figures.compressed { ", compressed" }
            },
        ),
    ]
}

fn moved(result: &MoveResult) -> Vec<(&'static str, Markup)> {
    let lost = match (result.logs_lost, &result.recovery_point) {
        (Some(0), _) => tag(Tone::Good, "nothing"),
        (Some(logs), _) => tag(Tone::Bad, &format!("{logs} logs")),
        (None, _) => tag(Tone::Bad, "something, and nobody knows how much"),
    };
    vec![
        ("Active", html! { (result.active_at_start) " → " (result.active_at_end) }),
        (
            "Mount status",
            html! { (result.mount_status_at_start) " → " (result.mount_status_at_end) },
        ),
        ("Lost", lost),
    ]
}

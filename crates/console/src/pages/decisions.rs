//! Events and decision records, and why a decision fell.

use keelson_status::decision::{Names, line};
use keelson_wire::v1::{Criterion, DecisionCandidate, EventInfo, ExplainDecisionResponse};
use maud::{Markup, html};
use serde_json::Value;

use super::layout::{Frame, Mode, table};
use crate::show::{Tone, apart, moment, quiet, tag, when};

/// The newest events first.
#[must_use]
pub fn events(frame: &Frame, events: &[EventInfo]) -> String {
    let rows = events.iter().rev().map(|event| {
        vec![
            when(event.unix_millis),
            html! { (apart(&event.kind)) },
            html! { (event.subject) },
            details(event),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let main = html! {
        h1 { "Events" }
        (table("events", "The newest events first", &["Time", "Event", "Of", "Details"], &rows))
        p { a href="/events?limit=400" { "Show more" } }
    };
    frame.page("Events", "/events", Mode::Live, &main)
}

/// What an event says beyond its kind. What somebody asked for comes first with who and the end of
/// it; the request itself is long.
fn details(event: &EventInfo) -> Markup {
    let message: Value = serde_json::from_str(&event.message).unwrap_or_default();
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    if event.kind != "asked" {
        return html! { span.message { (plain(&message, &event.message)) } };
    }
    let outcome = text("outcome");
    html! {
        b { (text("by")) } " " (apart(&text("call"))) " "
        (quiet(if outcome == "done" { Tone::Good } else { Tone::Warn }, &outcome))
        details id=(format!("asked-{}", event.index)) {
            summary { "Request" }
            code { (text("request")) }
        }
    }
}

/// JSON as people write such things: without braces, without ids in full, without what is empty.
fn plain(value: &Value, otherwise: &str) -> String {
    match value {
        Value::Object(fields) => match (fields.get("recovery"), fields.get("counter")) {
            (Some(recovery), Some(counter)) if fields.len() == 2 => format!("{recovery}.{counter}"),
            _ => {
                let parts = fields.iter().map(|(name, value)| (name, plain(value, "")));
                let said = parts.filter(|(_, text)| !text.is_empty());
                said.map(|(name, text)| format!("{} {text}", apart(name)))
                    .collect::<Vec<_>>()
                    .join(", ")
            }
        },
        Value::Array(items) => {
            items.iter().map(|item| plain(item, "")).collect::<Vec<_>>().join(" ")
        }
        Value::String(text) if uuid::Uuid::parse_str(text).is_ok() => {
            text.chars().take(8).collect()
        }
        Value::String(text) => text.clone(),
        Value::Null => otherwise.to_owned(),
        other => other.to_string(),
    }
}

/// The newest decisions first.
#[must_use]
pub fn decisions(frame: &Frame, records: &[String], names: &Names) -> String {
    let main = html! {
        h1 { "Decisions" }
        p.dim {
            "What the active manager decided, and why. Each can be decided again from its record."
        }
        (listed("decisions", records, names))
    };
    frame.page("Decisions", "/decisions", Mode::Live, &main)
}

/// A table of records.
pub(super) fn listed(id: &str, records: &[String], names: &Names) -> Markup {
    let rows = records.iter().rev().map(|record| {
        let record: Value = serde_json::from_str(record).unwrap_or_default();
        let line = line(names, &record);
        let tone = match line.verdict {
            "lossless" => Tone::Good,
            "closed" => Tone::Warn,
            _ => Tone::Bad,
        };
        vec![
            html! { a href=(format!("/decisions/{}", line.index)) { (line.index) } },
            when(line.unix_ms),
            html! { (line.database) },
            html! { (line.epoch) },
            html! { (line.reason) },
            html! { (line.chosen) },
            tag(tone, line.verdict),
            html! { (line.why) },
        ]
    });
    let rows: Vec<_> = rows.collect();
    let head = ["Decision", "Time", "Database", "Epoch", "Reason", "Chosen", "Verdict", "Why"];
    table(id, "The newest decisions first", &head, &rows)
}

/// One decision: every candidate with every criterion, decided again.
#[must_use]
pub fn decision(frame: &Frame, index: u64, answer: &ExplainDecisionResponse) -> String {
    let title = format!("Decision {index}");
    let record: Value = serde_json::from_str(&answer.decision).unwrap_or_default();
    let main = html! {
        h1 { (title) }
        p.dim {
            (moment(record["unix_ms"].as_u64().unwrap_or(0)))
            ", epoch " (record["record"]["epoch"]["recovery"].to_string())
            "." (record["record"]["epoch"]["counter"].to_string())
            ", attempt " (record["record"]["attempt"].to_string())
        }
        (conclusion(answer))
        (criteria(answer))
        details #record {
            summary { "The record" }
            pre { (serde_json::to_string_pretty(&record).unwrap_or_default()) }
        }
    };
    frame.page(&title, "/decisions", Mode::Still, &main)
}

fn conclusion(answer: &ExplainDecisionResponse) -> Markup {
    let again = match (answer.incomplete, answer.agrees) {
        (true, _) => {
            "Inputs were left out of the record, so it cannot be decided again.".to_owned()
        }
        (_, true) => "Decided again from its inputs it is the same.".to_owned(),
        (_, false) => format!("Decided again it differs: {}.", answer.differences.join(", ")),
    };
    html! {
        section.card aria-label="Conclusion" {
            p {
                @if !answer.outcome.is_empty() {
                    (answer.outcome)
                } @else if answer.chosen.is_empty() {
                    (tag(Tone::Warn, "no copy is activated"))
                } @else {
                    (tag(Tone::Good, &format!("the copy on {} is activated", answer.chosen)))
                }
            }
            @if answer.outcome.is_empty() {
                p {
                    @if answer.verdict == "lossless" { "Nothing acknowledged can be missing." }
                    @else { (answer.verdict) }
                }
            }
            @for fence in &answer.fences {
                p.dim {
                    (fence.member) ", active before, "
                    @if fence.holds { "cannot serve: " } @else { "could still serve: " }
                    (fence.evidence)
                }
            }
            p { (again) }
        }
    }
}

fn verdict(one: &DecisionCandidate) -> Markup {
    match (one.chosen, one.excluded) {
        (true, _) => tag(Tone::Good, "chosen"),
        (false, true) => tag(Tone::Bad, "excluded"),
        (false, false) => tag(Tone::Off, "eligible"),
    }
}

fn criteria(answer: &ExplainDecisionResponse) -> Markup {
    let of_first = answer.candidates.first().map(|one| one.criteria.as_slice());
    let names: Vec<_> = of_first.unwrap_or_default().iter().map(|one| &one.name).collect();
    let head: Vec<_> = std::iter::once("Criterion")
        .chain(answer.candidates.iter().map(|one| one.member.as_str()))
        .collect();
    let mut rows = vec![
        row("verdict", answer, verdict),
        row("answer age", answer, |one| match one.answer_age_millis {
            Some(millis) => html! { (millis) " ms" },
            None => html! { "no answer" },
        }),
    ];
    rows.extend(names.into_iter().enumerate().map(|(at, name)| {
        row(name, answer, |one| one.criteria.get(at).map_or_else(|| html! {}, met))
    }));
    table("criteria", "Each candidate with each criterion", &head, &rows)
}

fn row(
    name: &str,
    answer: &ExplainDecisionResponse,
    of: impl Fn(&DecisionCandidate) -> Markup,
) -> Vec<Markup> {
    let name = html! { (apart(name)) };
    std::iter::once(name).chain(answer.candidates.iter().map(of)).collect()
}

fn met(one: &Criterion) -> Markup {
    html! {
        (tag(Tone::of(one.met), if one.met { "yes" } else { "no" }))
        @if !one.measured.is_empty() { " " span.dim { (one.measured) } }
    }
}

//! What an action would do, with the checks that it passed or not, before it is done.

use keelson_wire::v1::{MoveCheckRow, MoveRow, SeedCheckRow};
use maud::{Markup, html};

use super::layout::{Frame, Mode, table};
use crate::action::{Action, MOVE_CHECKS, MoveSkips};
use crate::show::{Tone, apart, tag};

/// What the service says that an action would do.
#[derive(Clone, PartialEq, Debug)]
pub enum Plan {
    /// It was not asked: the action checks when it is done.
    Unchecked,
    /// Databases that would move, with every check.
    Moves(Vec<MoveRow>),
    /// The checks of a seed.
    Seed(Vec<SeedCheckRow>),
}

impl Plan {
    /// Why it would be refused, if it would.
    fn refusal(&self) -> Option<(&str, &str)> {
        match self {
            Self::Unchecked => None,
            Self::Moves(moves) => {
                let refused = moves.iter().all(|row| row.result == "refused");
                let first = moves.first().filter(|_| refused)?;
                Some((&first.message, &first.code))
            }
            Self::Seed(checks) => {
                let failed = checks.iter().find(|check| !check.passed)?;
                Some((&failed.found, &failed.code))
            }
        }
    }
}

/// The page of an action.
#[must_use]
pub fn confirm(frame: &Frame, action: &Action, plan: &Plan) -> String {
    let refusal = plan.refusal();
    let class = if action.is_grave() { "grave" } else { "primary" };
    let main = html! {
        h1 { (action.title()) }
        p { (action.meaning()) }
        (shown(plan))
        @if let Some((message, code)) = refusal {
            p.alert role="status" {
                span aria-hidden="true" { "✗ " } strong { "It would be refused: " } (message) " "
                code { (code) }
            }
        }
        form.card.stack method="post" action=(action.path()) {
            (frame.csrf())
            (fields(action))
            div.buttons {
                @if refusal.is_none() || may_skip(action) {
                    button class=(class) { (action.button()) }
                }
                @if may_skip(action) {
                    button formmethod="get" formaction=(action.path()) name="again" value="1" {
                        "Check again"
                    }
                }
                a.button href=(action.page()) { "Back" }
            }
        }
    };
    frame.page(&action.title(), "/", Mode::Still, &main)
}

fn may_skip(action: &Action) -> bool {
    matches!(action, Action::Switchover { .. } | Action::BeginMaintenance { .. })
}

fn shown(plan: &Plan) -> Markup {
    match plan {
        Plan::Unchecked => html! {},
        Plan::Moves(moves) if moves.is_empty() => html! { p { "No database has to move." } },
        Plan::Moves(moves) => html! {
            section aria-label="What would move" {
                ul.plain { @for row in moves { li { (would(row)) } } }
            }
            (checks(moves))
        },
        Plan::Seed(checks) => {
            let rows = checks.iter().map(|check| {
                let verdict = if check.passed { "passed" } else { "failed" };
                vec![
                    html! { (apart(&check.name)) },
                    tag(Tone::of(check.passed), verdict),
                    html! { (check.found) },
                ]
            });
            let rows: Vec<_> = rows.collect();
            table("checks", "Checks of the seed", &["Check", "Verdict", "Found"], &rows)
        }
    }
}

fn would(row: &MoveRow) -> Markup {
    let MoveRow { database, from, to, message, .. } = row;
    match row.result.as_str() {
        "refused" => html! {
            (tag(Tone::Bad, "stays")) " " b { (database) } " would be left on " (from) ": "
            (message)
        },
        "stays" => html! { (tag(Tone::Off, "stays")) " " b { (database) } " stays on " (from) },
        _ => html! {
            (tag(Tone::Good, "moves")) " " b { (database) } " would move from " (from) " to "
            b { (to) }
            @if row.warning { " " (tag(Tone::Warn, "with a warning")) }
        },
    }
}

fn checks(moves: &[MoveRow]) -> Markup {
    let all = moves.iter().flat_map(|row| row.checks.iter().map(move |check| (row, check)));
    let rows: Vec<_> = all.map(|(row, check)| check_row(row, check)).collect();
    let head = ["Copy", "Check", "Verdict", "Measured", "Threshold"];
    table("checks", "Every check of every copy", &head, &rows)
}

fn check_row(row: &MoveRow, check: &MoveCheckRow) -> Vec<Markup> {
    let tone = match check.verdict.as_str() {
        "passed" => Tone::Good,
        "overridden" => Tone::Warn,
        _ => Tone::Bad,
    };
    vec![
        html! { (row.database) "@" (check.member) },
        html! { (apart(&check.check)) },
        tag(tone, &check.verdict),
        html! { (check.measured) },
        html! { (check.threshold) },
    ]
}

fn fields(action: &Action) -> Markup {
    match action {
        Action::Switchover { to, skips, comment, .. } => html! {
            input type="hidden" name="to" value=(to);
            (self::skips(skips))
            (self::comment(comment))
        },
        Action::BeginMaintenance { skips, comment, .. } => html! {
            (self::skips(skips))
            (self::comment(comment))
        },
        Action::Suspend { activation_only, comment, .. } => html! {
            (checkbox(
                "activation_only",
                *activation_only,
                "Only its automatic activation; copying and replay go on",
            ))
            (self::comment(comment))
        },
        Action::Seed { source, catalog_only, .. } => html! {
            label for="source" { "Source (a member; empty for the best)" }
            input #source name="source" value=(source) autocomplete="off" spellcheck="false";
            (checkbox("catalog_only", *catalog_only, "Only the content index"))
        },
        Action::Redistribute { by_site } => checkbox("by_site", *by_site, "Balance sites, too"),
        _ => html! {},
    }
}

fn comment(text: &str) -> Markup {
    html! {
        label for="comment" { "Why (kept with the change)" }
        input #comment name="comment" value=(text) maxlength="512" autocomplete="off";
    }
}

fn checkbox(name: &str, set: bool, text: &str) -> Markup {
    html! {
        label.check for=(name) {
            input id=(name) type="checkbox" name=(name) checked[set];
            span { (text) }
        }
    }
}

fn skips(skips: &MoveSkips) -> Markup {
    let any = !skips.names().is_empty();
    html! {
        details #skips open[any] {
            summary { "Leave checks out" }
            @for (name, text) in MOVE_CHECKS {
                @let words = format!("{}: {text}", apart(name));
                (checkbox(&format!("skip_{name}"), skips.has(name), &words))
            }
        }
    }
}

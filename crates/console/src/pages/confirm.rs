//! What an action would do, with the checks that it passed or not, before it is done.

use keelson_wire::v1::{MountCandidate, MoveCheckRow, MoveRow, PreviewMountResponse, SeedCheckRow};
use maud::{Markup, html};

use super::expected::Expected;
use super::layout::{Frame, Mode, table};
use crate::action::{Action, MOVE_CHECKS, MoveSkips};
use crate::show::{Tone, apart, quiet, tag};

/// What the service says that an action would do.
#[derive(Clone, PartialEq, Debug)]
pub enum Plan {
    /// It has no what-if: what it would do, from what is shown now.
    Expected(Expected),
    /// It was asked, and would do it now.
    Agreed,
    /// Which copy would be opened.
    Mount(Box<PreviewMountResponse>),
    /// Databases that would move, with every check.
    Moves(Vec<MoveRow>),
    /// The checks of a seed.
    Seed(Vec<SeedCheckRow>),
}

impl Plan {
    /// Why it would be refused, if it would.
    fn refusal(&self) -> Option<(&str, &str)> {
        match self {
            Self::Agreed => None,
            Self::Expected(expected) => {
                expected.refusal.as_ref().map(|(message, code)| (message.as_str(), *code))
            }
            Self::Mount(preview) => unmountable(preview).map(|why| (why, "target_unfit")),
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
        (would_do(plan))
        @if let Some((message, code)) = refusal {
            p.alert role="status" {
                span aria-hidden="true" { "✗ " } strong { "It would be refused: " } (message) " "
                code { (code) }
            }
        }
        form.card.stack method="post" action=(action.path()) {
            (fields(action))
            div.buttons {
                // The word goes with this button only: asking again is a GET, whose fields are
                // in the address.
                @if refusal.is_none() || may_skip(action) {
                    button class=(class) name=(crate::web::CSRF_FIELD) value=(frame.csrf_word()) {
                        (action.button())
                    }
                }
                @if may_skip(action) {
                    button formmethod="get" formaction=(action.path()) name="again" value="1" {
                        "Check again"
                    }
                }
                a.button href=(action.page()) { "Back" }
            }
        }
        (checks(plan))
    };
    frame.page(&action.title(), "/", Mode::Still, &main)
}

fn may_skip(action: &Action) -> bool {
    matches!(action, Action::Switchover { .. } | Action::BeginMaintenance { .. })
}

/// One check of a plan.
struct Check {
    of: String,
    name: String,
    tone: Tone,
    verdict: String,
    measured: String,
    threshold: String,
}

impl Check {
    fn of_move(row: &MoveRow, check: &MoveCheckRow) -> Self {
        let tone = match check.verdict.as_str() {
            "passed" => Tone::Good,
            "overridden" => Tone::Warn,
            _ => Tone::Bad,
        };
        Self {
            of: format!("{}@{}", row.database, check.member),
            name: apart(&check.check),
            tone,
            verdict: check.verdict.clone(),
            measured: check.measured.clone(),
            threshold: check.threshold.clone(),
        }
    }

    fn of_mount(candidate: &MountCandidate) -> Self {
        let fit = candidate.excluded.is_empty();
        let verdict = if fit { "can be opened" } else { "cannot be opened" };
        Self {
            of: candidate.member.clone(),
            name: "Copy".into(),
            tone: Tone::of(fit),
            verdict: verdict.into(),
            measured: candidate.excluded.join(", "),
            threshold: String::new(),
        }
    }

    fn of_seed(check: &SeedCheckRow) -> Self {
        Self {
            of: String::new(),
            name: apart(&check.name),
            tone: Tone::of(check.passed),
            verdict: if check.passed { "passed" } else { "failed" }.into(),
            measured: check.found.clone(),
            threshold: String::new(),
        }
    }

    fn row(&self) -> Vec<Markup> {
        vec![
            html! { (self.name) },
            tag(self.tone, &self.verdict),
            html! { (self.measured) },
            html! { (self.threshold) },
            html! { (self.of) },
        ]
    }
}

impl Plan {
    fn checks(&self) -> Vec<Check> {
        match self {
            Self::Expected(_) | Self::Agreed => Vec::new(),
            Self::Mount(preview) => preview.candidates.iter().map(Check::of_mount).collect(),
            Self::Moves(moves) => {
                let of = |row: &MoveRow| {
                    let checks = row.checks.iter().map(|check| Check::of_move(row, check));
                    checks.collect::<Vec<_>>()
                };
                moves.iter().flat_map(of).collect()
            }
            Self::Seed(checks) => checks.iter().map(Check::of_seed).collect(),
        }
    }
}

/// What would be done, and what speaks against it.
fn would_do(plan: &Plan) -> Markup {
    let checks = plan.checks();
    let doubtful: Vec<_> =
        checks.iter().filter(|one| one.tone != Tone::Good).map(Check::row).collect();
    let passed = checks.len() - doubtful.len();
    html! {
        @if let Plan::Moves(moves) = plan {
            @if moves.is_empty() { p { "No database has to move." } }
            ul.plain aria-label="What would move" { @for row in moves { li { (would(row)) } } }
        }
        @if *plan == Plan::Agreed { p { (quiet(Tone::Good, "The leader would do it now")) } }
        @if let Plan::Expected(expected) = plan { (expected.shown()) }
        @if let Plan::Mount(preview) = plan { p { (would_mount(preview)) } }
        @if !checks.is_empty() {
            @let count = format!("{passed} of {} checks passed", checks.len());
            p { (quiet(Tone::of(doubtful.is_empty()), &count)) }
        }
        @if !doubtful.is_empty() {
            (table("doubts", "Checks that did not pass", &HEAD, &doubtful))
        }
    }
}

/// Why the database would stay closed, if it would: nothing is given up from here.
fn unmountable(preview: &PreviewMountResponse) -> Option<&'static str> {
    match preview {
        PreviewMountResponse { mounted: true, .. } => None,
        PreviewMountResponse { target, .. } if target.is_empty() => {
            Some("no copy that may be opened answers")
        }
        PreviewMountResponse { loss: Some(_), .. } => Some(
            "what was acknowledged may be missing on the copies that answer; keelson database \
             mount --accept-loss --what-if shows what",
        ),
        PreviewMountResponse { .. } => None,
    }
}

fn would_mount(preview: &PreviewMountResponse) -> Markup {
    html! {
        @if preview.mounted { "It is mounted already." }
        @else if unmountable(preview).is_none() {
            "It would be opened on " b { (preview.target) } " without loss."
        } @else { "It would stay closed." }
    }
}

const HEAD: [&str; 5] = ["Check", "Verdict", "Measured", "Threshold", "Copy"];

/// Every check, with its values and bounds.
fn checks(plan: &Plan) -> Markup {
    let rows: Vec<_> = plan.checks().iter().map(Check::row).collect();
    html! {
        @if !rows.is_empty() {
            section aria-labelledby="every-check" {
                h2 #every-check { "Every check" }
                (table("checks", "Every check of every copy", &HEAD, &rows))
            }
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

//! One member: its space, its policies, its copies, the tests of its health.

use keelson_wire::v1::{CopyStatusRow, HealthRow, MemberStatus, VolumeFacts};
use maud::{Markup, html};

use super::layout::{Frame, Mode, facts, table};
use super::overview::{details, state_of};
use super::space;
use crate::show::{
    Tone, ago, apart, certificate, copy_state, database_link, moment, quiet, size, tag,
};
use crate::web::path_part;

/// What the page is made of.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MemberView {
    /// Its state and policies.
    pub status: MemberStatus,
    /// Its copies.
    pub copies: Vec<CopyStatusRow>,
    /// Its volumes, if it has several.
    pub volumes: Vec<VolumeFacts>,
    /// The tests of its health.
    pub health: Vec<HealthRow>,
}

/// The page of a member.
#[must_use]
pub fn member(frame: &Frame, view: &MemberView) -> String {
    let name = &view.status.name;
    let main = html! {
        h1 { (name) " " small { "site " (view.status.site) } }
        (summary(frame, &view.status))
        @if !view.status.witness { (actions(&view.status)) }
        (space::section(&view.copies, &view.volumes))
        (health(view))
        @if !view.status.witness { (copies(view)) }
        (processes(&view.status))
    };
    frame.page(name, "/", Mode::Live, &main)
}

fn limit(limit: Option<u32>) -> String {
    limit.map_or_else(|| "no limit".into(), |limit| limit.to_string())
}

fn summary(frame: &Frame, status: &MemberStatus) -> Markup {
    let (tone, state) = state_of(status);
    let mut rows = vec![
        ("State", html! { (tag(tone, state)) @if status.leader { " " span.role { "leads" } } }),
        ("Votes", html! { @if status.voter { "yes" } @else { "no" } }),
    ];
    if !status.witness {
        rows.extend([
            ("Lease", html! { (status.lease_left_millis) " ms left" }),
            ("Copies", html! { (status.actives) " active of " (status.copies) }),
            ("Activation policy", html! { (apart(&status.activation_policy)) }),
            ("Most active", html! { (limit(status.max_active)) }),
            ("Most active preferred", html! { (limit(status.max_active_preferred)) }),
            ("Moves away", html! { @if status.move_away { "yes" } @else { "no" } }),
        ]);
    }
    let end = status.certificate_expires_unix_millis;
    if let Some((tone, words)) = certificate(end, frame.now_ms) {
        let date = html! { " " span.dim { "(" (moment(end)) ")" } };
        let help = html! { " issue a new one: " code { "keelson certs issue" } };
        let renew = html! { @if tone != Tone::Good { (help) } };
        rows.push(("Certificate", html! { (quiet(tone, &words)) (date) (renew) }));
    }
    let standing = [("Maintenance", &status.maintenance), ("Site stopped", &status.stopped)];
    for (name, one) in standing {
        if let Some(one) = one {
            let since = ago(one.since_unix_millis, frame.now_ms);
            rows.push((
                name,
                html! { (since) @if !one.comment.is_empty() { " “" (one.comment) "”" } },
            ));
        }
    }
    html! { section.card aria-label="Summary" { (facts(&rows)) } }
}

fn actions(status: &MemberStatus) -> Markup {
    let path = format!("/members/{}", path_part(&status.name));
    html! {
        section.actions aria-label="Actions" {
            @if status.maintenance.is_some() {
                form.inline method="get" action=(format!("{path}/end-maintenance")) {
                    button.primary { "End maintenance…" }
                }
            } @else {
                form.inline method="get" action=(format!("{path}/maintenance")) {
                    button.grave { "Begin maintenance…" }
                }
            }
        }
    }
}

fn health(view: &MemberView) -> Markup {
    let failed = view.health.iter().filter(|row| !row.passed).count();
    let rows = view.health.iter().map(|row| {
        let result = if row.passed { "passed" } else { "failed" };
        vec![
            html! { (apart(&row.test)) },
            html! {
                (tag(Tone::of(row.passed), result))
                @if !row.error.is_empty() { " " (row.error) }
            },
            html! { (row.verifies) },
        ]
    });
    let rows: Vec<_> = rows.collect();
    let head = ["Test", "Result", "Verifies"];
    let verdict = match failed {
        0 => "all passed".to_owned(),
        failed => format!("{failed} failed"),
    };
    html! {
        section aria-labelledby="health" {
            h2 #health { "Health " (tag(Tone::of(failed == 0), &verdict)) }
            details #health-tests open[failed > 0] {
                summary { (view.health.len()) " tests" }
                (table("health-table", "Tests of this member", &head, &rows))
            }
        }
    }
}

fn copies(view: &MemberView) -> Markup {
    let rows = view.copies.iter().map(|row| {
        let facts = row.facts.clone().unwrap_or_default();
        vec![
            database_link(&row.database),
            copy_state(row),
            details(row, &facts),
            html! { (apart(&row.activation_policy)) },
        ]
    });
    let rows: Vec<_> = rows.collect();
    let head = ["Database", "State", "Queues and lag", "Activation"];
    html! {
        section aria-labelledby="copies" {
            h2 #copies { "Copies" }
            (table("copy-table", "Copies on this member", &head, &rows))
        }
    }
}

fn processes(status: &MemberStatus) -> Markup {
    let seconds = |millis: u64| format!("{}.{} s", millis / 1000, millis % 1000 / 100);
    let rows = [
        vec![
            html! { "control" },
            html! { (status.control_pid) },
            html! { (size(status.control_resident_bytes)) },
            html! { (seconds(status.control_cpu_millis)) },
            html! { (status.control_open_files) },
            html! { (status.control_address) },
        ],
        vec![
            html! { "data" },
            html! { (status.data_pid) },
            html! { (size(status.resident_bytes)) },
            html! { (seconds(status.cpu_millis)) },
            html! { (status.open_files) },
            html! { (status.data_address) },
        ],
    ];
    let shown = if status.witness { &rows[..1] } else { &rows[..] };
    let head = ["Process", "Id", "Memory", "Processor time", "Open files", "Address"];
    html! {
        section aria-labelledby="processes" {
            h2 #processes { "Processes" }
            (table("process-table", "Processes of this member", &head, shown))
        }
    }
}

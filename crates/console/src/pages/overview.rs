//! The first page: what is wrong, the members, and every copy of every database in one grid.

use std::collections::BTreeMap;

use keelson_wire::v1::{
    ClusterStatusResponse, CopyFacts, CopyStatusRow, MemberStatus, Operation, RedundancyRow,
    VolumeRow,
};
use maud::{Markup, html};

use super::layout::{Frame, Mode};
use super::operations::bar;
use super::space::{self, Space};
use crate::show::{
    Tone, apart, certificate, copy_state, database_link, logs, member_link, quiet, span, tag,
};

/// What the page is made of.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Overview {
    /// Members, leader, problems.
    pub cluster: ClusterStatusResponse,
    /// All copies.
    pub copies: Vec<CopyStatusRow>,
    /// The volumes of members that have several.
    pub volumes: Vec<VolumeRow>,
    /// Whether databases have enough copies.
    pub redundancy: Vec<RedundancyRow>,
    /// All operations that are remembered.
    pub operations: Vec<Operation>,
}

/// The first page.
#[must_use]
pub fn overview(frame: &Frame, view: &Overview) -> String {
    let running: Vec<_> = view.operations.iter().filter(|one| is_running(one)).collect();
    let main = html! {
        h1 { "Overview" }
        (problems(view))
        (members(frame, view))
        @if !running.is_empty() {
            section aria-labelledby="running" {
                h2 #running { "Running operations" }
                ul.cards { @for one in running { li.card { (bar(one)) } } }
            }
        }
        (grid(view))
    };
    frame.page("Overview", "/", Mode::Live, &main)
}

fn is_running(operation: &Operation) -> bool {
    matches!(operation.state.as_str(), "running" | "scheduled")
}

fn problems(view: &Overview) -> Markup {
    let red = view.redundancy.iter().filter(|row| row.verdict == "red");
    let red = red.map(|row| {
        let (name, count) = (&row.database, row.redundant);
        format!("{name} has {count} copies that hold what was written (keelson redundancy {name})")
    });
    let all: Vec<String> = view.cluster.problems.iter().cloned().chain(red).collect();
    html! {
        section aria-label="State of the cluster" {
            @if all.is_empty() {
                p.wellbeing.good-edge {
                    (tag(Tone::Good, "All is well")) " "
                    (view.cluster.members.len()) " members, "
                    (view.cluster.databases) " databases, led by " b { (view.cluster.leader) }
                }
            } @else {
                div.wellbeing.bad-edge role="status" {
                    h2 { (tag(Tone::Bad, &format!("{} to look at", all.len()))) }
                    ul { @for problem in &all { li { (problem) } } }
                }
            }
        }
    }
}

fn members(frame: &Frame, view: &Overview) -> Markup {
    html! {
        section aria-labelledby="members" {
            h2 #members { "Members" }
            ul.cards {
                @for member in &view.cluster.members { li.card { (card(frame, view, member)) } }
            }
        }
    }
}

/// How a member is, in a word.
pub(super) fn state_of(member: &MemberStatus) -> (Tone, &'static str) {
    match member {
        member if !member.reachable => (Tone::Bad, "Not reachable"),
        member if member.stopped.is_some() => (Tone::Warn, "Site stopped"),
        member if member.maintenance.is_some() => (Tone::Warn, "Maintenance"),
        member if member.witness => (Tone::Good, "Witness"),
        member if !member.data_process_up => (Tone::Bad, "Data process down"),
        member if member.lease_left_millis == 0 => (Tone::Bad, "No lease"),
        _ => (Tone::Good, "Up"),
    }
}

fn card(frame: &Frame, view: &Overview, member: &MemberStatus) -> Markup {
    let (tone, state) = state_of(member);
    let copies = view.copies.iter().filter(|row| row.member == member.name);
    let said: Vec<&CopyFacts> = copies.filter_map(|row| row.facts.as_ref()).collect();
    let volumes = view.volumes.iter().filter(|row| row.member == member.name);
    let certificate = certificate(member.certificate_expires_unix_millis, frame.now_ms);
    html! {
        h3 { (member_link(&member.name)) " " small { (member.site) } }
        p { (tag(tone, state)) @if member.leader { " " span.role { "leads" } } }
        @if !member.witness {
            p.dim { (member.actives) " active of " (member.copies) " copies" }
            @if let Some(space) = Space::of(&said) { (space.lines()) }
            (space::doubtful(volumes.filter_map(|row| row.volume.as_ref())))
        }
        @if let Some((tone, words)) = certificate.filter(|(tone, _)| *tone != Tone::Good) {
            p { (tag(tone, &format!("certificate {words}"))) }
        }
    }
}

fn grid(view: &Overview) -> Markup {
    let holders: Vec<&MemberStatus> =
        view.cluster.members.iter().filter(|member| !member.witness).collect();
    let mut databases: BTreeMap<&str, BTreeMap<&str, &CopyStatusRow>> = BTreeMap::new();
    for row in &view.copies {
        databases.entry(&row.database).or_default().insert(&row.member, row);
    }
    html! {
        section aria-labelledby="databases" {
            h2 #databases { "Databases" }
            div.scroll #grid tabindex="0" role="region" aria-labelledby="databases" {
                table.grid {
                    caption.hidden { "Each copy of each database, by member" }
                    thead {
                        tr {
                            th scope="col" { "Database" }
                            @for member in &holders { th scope="col" { (member.name) } }
                        }
                    }
                    tbody {
                        @for (name, copies) in &databases {
                            tr {
                                th scope="row" { (heading(view, name)) }
                                @for member in &holders {
                                    (cell(&member.name, copies.get(member.name.as_str())))
                                }
                            }
                        }
                    }
                }
                @if databases.is_empty() {
                    p.empty { "There are no databases yet: " code { "keelson database create" } }
                }
            }
            (redistribute())
        }
    }
}

fn heading(view: &Overview, name: &str) -> Markup {
    let redundancy = view.redundancy.iter().find(|row| row.database == name);
    html! {
        (database_link(name))
        @if let Some(row) = redundancy {
            br;
            (quiet(Tone::of(row.verdict == "green"), &format!("{} redundant", row.redundant)))
        }
    }
}

fn cell(member: &str, row: Option<&&CopyStatusRow>) -> Markup {
    let Some(row) = row else {
        return html! { td.none data-name=(member) { span aria-label="no copy" { "·" } } };
    };
    let facts = row.facts.clone().unwrap_or_default();
    html! {
        td.active[row.active] data-name=(member) {
            div { (copy_state(row)) }
            (details(row, &facts))
        }
    }
}

/// Queues, lag, content index and seed of a copy.
pub(super) fn details(row: &CopyStatusRow, facts: &CopyFacts) -> Markup {
    let index = facts.content_index.clone().unwrap_or_default();
    html! {
        @if !row.active && row.reachable {
            div.dim {
                "copy " b { (logs(facts.copy_queue_bytes)) } ", replay "
                b { (logs(facts.replay_queue_bytes)) } " logs"
            }
        }
        @if row.replay_lag_seconds > 0 {
            div.dim {
                "lags " (span(facts.actual_lag_millis / 1000)) " of "
                (span(row.replay_lag_seconds))
            }
        }
        @if !index.state.is_empty() && index.state != "Disabled" {
            div.dim {
                "index " (quiet(Tone::of_index(&index.state), &apart(&index.state)))
                @if index.state == "Crawling" { " " (index.crawl_percent) " %" }
                @if let Some(percent) = index.seeding_percent { " " (percent) " %" }
            }
        }
        @if let Some(suspension) = &row.suspension {
            @if !suspension.comment.is_empty() { div.dim { "“" (suspension.comment) "”" } }
        }
        @if row.cut_off { div { (tag(Tone::Bad, "needs a seed")) } }
        @if !facts.fault.is_empty() { div.fault { (facts.fault) } }
        @if facts.degraded { div { (tag(Tone::Warn, "acknowledges alone")) } }
    }
}

fn redistribute() -> Markup {
    html! {
        form.inline method="get" action="/redistribute" {
            button { "Redistribute active databases…" }
        }
    }
}

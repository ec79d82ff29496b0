//! `keelson cluster`: make a cluster, look at it, set its switches and thresholds.

mod form;
mod settings;
mod witness;

use clap::Subcommand;
use keelson_wire::v1::{ClusterStatusResponse, MemberStatus};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, Format, column, wide};
use crate::text;
use crate::watch::Watch;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a cluster of one out of the first endpoint of the client configuration
    Init,
    /// Make a cluster of running servers, or add those that are missing; may be repeated
    Form(form::Form),
    /// Show members, leader and problems
    Status(Watch),
    /// Switches and thresholds of the whole cluster
    #[command(subcommand)]
    Settings(settings::Command),
    /// Votes without data: what makes a majority of two members
    #[command(subcommand)]
    Witness(witness::Command),
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Init => init(global).await,
            Self::Form(form) => form.run(global).await,
            Self::Status(watch) => status(global, &watch).await,
            Self::Settings(command) => command.run(global).await,
            Self::Witness(command) => command.run(global).await,
        }
    }
}

async fn init(global: &Global) -> Outcome {
    if global.only_shows("make a cluster of one out of the first endpoint") {
        return Ok(());
    }
    let cluster = text::id(&global.client()?.admin().init_cluster().await?.cluster);
    let sentence = format!("made cluster {cluster}; add members with keelson member add");
    output::print_done(global.output, &sentence, &json!({ "cluster": cluster }));
    Ok(())
}

async fn status(global: &Global, watch: &Watch) -> Outcome {
    let admin = global.client()?.admin();
    let read = async |format| Ok(shown(format, &admin.cluster_status().await?).into());
    watch.show(global.output, read).await
}

fn shown(format: Format, status: &ClusterStatusResponse) -> String {
    let list = output::list(format, COLUMNS, rows(status), &data(status));
    if format.is_data() {
        return list;
    }
    let leader = if status.leader.is_empty() { "none" } else { &status.leader };
    let problems = match &status.problems[..] {
        [] => String::new(),
        problems => format!("\nproblems:\n  {}\n", problems.join("\n  ")),
    };
    format!(
        "cluster {}   leader {leader}   term {}   applied {}   databases {}\n\n{list}{problems}",
        text::id(&status.cluster),
        status.term,
        status.applied_index,
        status.databases,
    )
}

/// Columns of a list of members; `member list` shows the same.
pub(crate) const COLUMNS: &[output::Column] = &[
    column("member"),
    column("site"),
    column("role"),
    column("reachable"),
    column("data process"),
    column("copies"),
    column("actives"),
    column("lease left"),
    column("memory"),
    column("activation"),
    wide("certificate left"),
    wide("cpu"),
    wide("control address"),
    wide("data address"),
    wide("control pid"),
    wide("data pid"),
    wide("id"),
];

/// Rows of a list of members.
pub(crate) fn rows(status: &ClusterStatusResponse) -> Vec<Vec<String>> {
    let now = text::unix_millis();
    let row = |member: &MemberStatus| {
        let role = match (member.leader, member.witness, member.voter) {
            (true, true, _) => "witness, leads",
            (true, false, _) => "leader",
            (false, true, _) => "witness",
            (false, false, true) => "voter",
            (false, false, false) => "learner",
        };
        let process = match (member.witness, member.data_process_up) {
            (true, _) => "none",
            (false, true) => "up",
            (false, false) => "down",
        };
        vec![
            member.name.clone(),
            member.site.clone(),
            role.into(),
            yes(member.reachable),
            process.into(),
            member.copies.to_string(),
            member.actives.to_string(),
            format!("{} ms", member.lease_left_millis),
            text::size(member.resident_bytes + member.control_resident_bytes),
            activation(member),
            certificate_days(member, now).map(|days| format!("{days} d")).unwrap_or_default(),
            format!("{} ms", member.cpu_millis + member.control_cpu_millis),
            member.control_address.clone(),
            member.data_address.clone(),
            member.control_pid.to_string(),
            member.data_pid.to_string(),
            text::id(&member.member),
        ]
    };
    status.members.iter().map(row).collect()
}

/// Whole days until the certificate of a member ends, 0 once it has; none if it does not say.
fn certificate_days(member: &MemberStatus, now: u64) -> Option<u64> {
    let end = Some(member.certificate_expires_unix_millis).filter(|end| *end > 0)?;
    Some(end.saturating_sub(now) / text::DAY_MILLIS)
}

/// Which activations a member takes, in a few words.
fn activation(member: &MemberStatus) -> String {
    let mut words = Vec::new();
    if member.activation_policy != "unrestricted" {
        words.push(member.activation_policy.clone());
    }
    words.extend(member.max_active.map(|max| format!("at most {max}")));
    words.extend(member.max_active_preferred.map(|max| format!("rather at most {max}")));
    if member.auto_database_mount_dial != "lossless" {
        words.push(member.auto_database_mount_dial.clone());
    }
    if member.move_away {
        words.push("moved away".into());
    }
    if member.maintenance.is_some() {
        words.push("maintenance".into());
    }
    words.join(", ")
}

fn yes(value: bool) -> String {
    if value { "yes".into() } else { "no".into() }
}

/// Members as JSON.
pub(crate) fn members(status: &ClusterStatusResponse) -> Value {
    let now = text::unix_millis();
    let member = |member: &MemberStatus| {
        json!({
            "member": member.name,
            "id": text::id(&member.member),
            "site": member.site,
            "control_address": member.control_address,
            "data_address": member.data_address,
            "replication_addresses": member.replication_addresses,
            "voter": member.voter,
            "witness": member.witness,
            "leader": member.leader,
            "reachable": member.reachable,
            "data_process_up": member.data_process_up,
            "lease_left_millis": member.lease_left_millis,
            "copies": member.copies,
            "actives": member.actives,
            "activation_policy": member.activation_policy,
            "max_active": member.max_active,
            "max_active_preferred": member.max_active_preferred,
            "move_away": member.move_away,
            "auto_database_mount_dial": member.auto_database_mount_dial,
            "maintenance": member.maintenance.as_ref().map(|maintenance| json!({
                "since_unix_millis": maintenance.since_unix_millis,
                "comment": maintenance.comment,
            })),
            "resident_bytes": member.resident_bytes,
            "cpu_millis": member.cpu_millis,
            "open_files": member.open_files,
            "control_resident_bytes": member.control_resident_bytes,
            "control_cpu_millis": member.control_cpu_millis,
            "control_open_files": member.control_open_files,
            "certificate_expires_unix_millis": member.certificate_expires_unix_millis,
            "certificate_days_left": certificate_days(member, now),
            "control_pid": member.control_pid,
            "data_pid": member.data_pid,
        })
    };
    status.members.iter().map(member).collect()
}

fn data(status: &ClusterStatusResponse) -> Value {
    json!({
        "cluster": text::id(&status.cluster),
        "leader": status.leader,
        "term": status.term,
        "applied_index": status.applied_index,
        "databases": status.databases,
        "problems": status.problems,
        "members": members(status),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_a_certificate_are_counted_down_and_unknown_ones_are_not_shown() {
        let days = |certificate_expires_unix_millis, now| {
            let member = MemberStatus { certificate_expires_unix_millis, ..Default::default() };
            certificate_days(&member, now)
        };
        let day = text::DAY_MILLIS;
        assert_eq!([days(0, 1), days(1, 2)], [None, Some(0)]);
        assert_eq!([days(3 * day, 1), days(3 * day, 0)], [Some(2), Some(3)]);
        let member = MemberStatus { certificate_expires_unix_millis: 1, ..Default::default() };
        let status = ClusterStatusResponse { members: vec![member], ..Default::default() };
        assert_eq!(rows(&status)[0].len(), COLUMNS.len());
        assert_eq!(members(&status)[0]["certificate_days_left"], 0);
    }
}

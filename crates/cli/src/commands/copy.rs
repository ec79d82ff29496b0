//! `keelson copy`: copies of databases on members, and how far each of them is.

mod activate;
mod changes;
mod fields;
mod fork;
mod instant;
mod repair;
mod salvage;
pub(crate) mod seed;

use clap::{Args, Subcommand};
use keelson_client::Topology;
use keelson_wire::v1::{AddCopyRequest, CopyFacts, CopyStatusRow, ScrubFacts};
use serde_json::json;

use crate::commands::{rehearsal, scrub};
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Column, Format, column, wide};
use crate::text;
use crate::watch::Watch;
pub(super) use fields::held_by;
use fields::status_data;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Add a copy; it takes the log of the database, or is seeded if that begins too late
    Add(Add),
    /// Take a copy out of the cluster; its files stay
    Remove {
        /// Name of the database
        database: String,
        /// Member of the copy
        #[arg(long = "on", value_name = "MEMBER")]
        member: String,
    },
    /// List the copies, without asking their members
    List {
        /// Only this database
        database: Option<String>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Show state and queues of copies, asked from all members now
    Status(Status),
    /// Change preference and lags of a copy
    Set(changes::Set),
    /// Stop copying and replay of a passive copy, or only its automatic activation
    Suspend(changes::Suspend),
    /// Make a suspended copy anew from another copy
    Seed(seed::Seed),
    /// Open a read-only view of a copy at an instant
    Fork(fork::Fork),
    /// Make an instant of a copy the truth: open the database there, give up what lies behind
    Activate(activate::Activate),
    /// Let a suspended copy go on; gives the fault of a failed one another try
    Resume(changes::Resume),
    /// Let a passive copy fetch keys anew from another copy, as if they were damaged
    Repair(repair::Repair),
    /// List, show and export log that was cut off a copy and kept
    #[command(subcommand)]
    Salvage(salvage::Command),
    /// Read a copy through now, log and store, and mend what is damaged
    Scrub(Scrub),
}

#[derive(Args, Debug)]
pub(crate) struct Scrub {
    /// The copy, as DATABASE@MEMBER
    copy: changes::CopyName,
    /// Do not wait until it is over
    #[arg(long)]
    no_wait: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Add {
    /// Name of the database
    database: String,
    /// Member that gets the copy
    #[arg(long = "on", value_name = "MEMBER")]
    member: String,
    /// Activation preference, 1 is the first choice; default: the last
    #[arg(long)]
    preference: Option<u32>,
    /// How long log waits for replay after it arrived, 0 to 14 days; makes a lagged copy
    #[arg(
        long,
        value_name = "TIME",
        value_parser = changes::seconds,
        default_value = "0",
        allow_hyphen_values = true
    )]
    replay_lag: i64,
    /// How long log is kept after replay, 0 to 14 days
    #[arg(
        long,
        value_name = "TIME",
        value_parser = changes::seconds,
        default_value = "0",
        allow_hyphen_values = true
    )]
    truncation_lag: i64,
    /// Seed only from the copy on this member; no seed is needed while the log reaches back to its
    /// start
    #[arg(long, value_name = "MEMBER", default_value = "")]
    source: String,
    /// Do not seed now: the copy stays suspended until it is seeded
    #[arg(long)]
    seeding_postponed: bool,
    /// Change the configuration only; no member need be there. The copy stays suspended
    #[arg(long)]
    configuration_only: bool,
    /// Do not wait for the seed
    #[arg(long)]
    background: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    /// Only this database, or this copy of it (DB@member)
    #[arg(default_value = "")]
    database: String,
    /// Only copies on this member
    #[arg(long, default_value = "")]
    member: String,
    #[command(flatten)]
    watch: Watch,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Add(add) => add.run(global).await,
            Self::Remove { database, member } => remove(global, &database, &member).await,
            Self::List { database, watch } => list(global, database.as_deref(), &watch).await,
            Self::Status(status) => status.run(global).await,
            Self::Set(set) => set.run(global).await,
            Self::Suspend(suspend) => suspend.run(global).await,
            Self::Seed(seed) => seed.run(global).await,
            Self::Fork(fork) => fork.run(global).await,
            Self::Activate(activate) => activate.run(global).await,
            Self::Resume(resume) => resume.run(global).await,
            Self::Scrub(Scrub { copy, no_wait }) => {
                scrub::run(global, &copy.database, &copy.member, !no_wait).await
            }
            Self::Repair(repair) => repair.run(global).await,
            Self::Salvage(salvage) => salvage.run(global).await,
        }
    }
}

impl Add {
    async fn run(self, global: &Global) -> Outcome {
        let copy = format!("{}@{}", self.database, self.member);
        let client = global.connect().await?;
        let background = self.background;
        let request = AddCopyRequest {
            database: self.database.clone(),
            member: self.member.clone(),
            preference: self.preference,
            seeding_postponed: self.seeding_postponed,
            configuration_only: self.configuration_only,
            replay_lag_seconds: self.replay_lag,
            truncation_lag_seconds: self.truncation_lag,
            source: self.source,
            ..AddCopyRequest::default()
        };
        let waits = self.seeding_postponed || self.configuration_only;
        if global.what_if {
            let request = AddCopyRequest { what_if: true, ..request };
            let found = client.admin().add_copy_with(request).await?;
            if !global.output.is_data() {
                seed::show_checks(global, &found.checks);
            }
            seed::refuse_failed(&found.checks)?;
            let how = match (waits, found.seeds) {
                (true, _) => "; it would wait for a seed",
                (false, true) => " and seed it: the log does not reach back to its start",
                (false, false) => "; it would take the log from its start",
            };
            let plan = format!("add copy {copy}{how}");
            let checks: Vec<_> = found.checks.iter().map(seed::check_data).collect();
            let data = json!({ "would": plan, "checks": checks });
            output::print_done(global.output, &format!("would {plan}"), &data);
            return Ok(());
        }
        let added = client.admin().add_copy_with(request).await?;
        if !added.operation.is_empty() && !background {
            seed::wait(&client, &added.operation).await?;
        }
        let data = json!({
            "database": self.database,
            "member": self.member,
            "copy": text::id(&added.copy),
            "seed_operation": seed::id_or_null(&added.operation),
        });
        let sentence = match (waits, added.operation.is_empty(), background) {
            (true, ..) => format!("added copy {copy}; it waits: keelson copy seed {copy}"),
            (false, true, _) => format!("added copy {copy}"),
            (false, false, false) => format!("added and seeded copy {copy}"),
            (false, false, true) => {
                let operation = text::id(&added.operation);
                format!("added copy {copy}; it is seeded: keelson operation watch {operation}")
            }
        };
        output::print_done(global.output, &sentence, &data);
        Ok(())
    }
}

async fn remove(global: &Global, database: &str, member: &str) -> Outcome {
    let copy = format!("{database}@{member}");
    let plan = format!("remove copy {copy}");
    let admin = global.connect().await?.admin();
    let files = admin.remove_copy(database, member, true).await?.files;
    if global.only_shows(&format!("{plan}; its files, if any, would stay: {files}")) {
        return Ok(());
    }
    global.confirm(&plan)?;
    admin.remove_copy(database, member, false).await?;
    let data = json!({ "database": database, "member": member, "files": files });
    let sentence = format!("removed copy {copy}; its files, if any, stay: {files}");
    output::print_done(global.output, &sentence, &data);
    Ok(())
}

async fn list(global: &Global, only: Option<&str>, watch: &Watch) -> Outcome {
    let client = global.client()?;
    let read = async |format| {
        client.refresh_topology().await?;
        Ok(listed(format, &client.topology(), only)?.into())
    };
    watch.show(global.output, read).await
}

fn listed(format: Format, topology: &Topology, only: Option<&str>) -> Outcome<String> {
    if let Some(name) = only.filter(|name| !topology.databases.contains_key(*name)) {
        let reason = keelson_types::RefusalReason::UnknownDatabase;
        return Err(Failure::new(reason, format!("there is no database {name}")));
    }
    let chosen =
        topology.databases.iter().filter(|(name, _)| only.is_none_or(|only| only == *name));
    let copies: Vec<_> = chosen
        .flat_map(|(name, route)| {
            route.copies.iter().zip(1..).map(move |(member, preference)| {
                (name, member, preference, route.active.as_ref() == Some(member))
            })
        })
        .collect();
    let columns = [column("copy"), column("role"), column("preference")];
    let rows = copies.iter().map(|(database, member, preference, active)| {
        let role = if *active { "active" } else { "passive" };
        vec![format!("{database}@{member}"), role.into(), preference.to_string()]
    });
    let data = copies.iter().map(|(database, member, preference, active)| {
        json!({
            "database": database,
            "member": member,
            "active": active,
            "activation_preference": preference,
        })
    });
    Ok(output::list(format, &columns, rows.collect(), &data.collect()))
}

const STATUS_COLUMNS: &[Column] = &[
    column("copy"),
    column("status"),
    column("copy queue"),
    column("replay queue"),
    column("last inspected log time"),
    column("content index state"),
    wide("role"),
    wide("preference"),
    wide("epoch"),
    wide("generated"),
    wide("inspected"),
    wide("replayed"),
    wide("committed"),
    wide("log"),
    wide("store"),
    wide("volume"),
    wide("commit rule"),
    wide("lag"),
    wide("suspended"),
    wide("reason"),
    wide("fault"),
    wide("failure"),
    wide("autoreseed"),
    wide("last scrub"),
    wide("rehearsed"),
];

impl Status {
    async fn run(self, global: &Global) -> Outcome {
        let admin = global.client()?.admin();
        // DB@m, as everywhere else, says the same as --member.
        let (database, member) = match self.database.split_once('@') {
            Some((database, member)) if self.member.is_empty() => (database, member),
            _ => (self.database.as_str(), self.member.as_str()),
        };
        let read = async |format| {
            let rows = admin.copy_status(database, member).await?;
            let table = rows.iter().map(status_row).collect();
            let data = rows.iter().map(status_data).collect();
            Ok(output::list(format, STATUS_COLUMNS, table, &data).into())
        };
        self.watch.show(global.output, read).await
    }
}

fn status_row(row: &CopyStatusRow) -> Vec<String> {
    let facts = row.facts.clone().unwrap_or_default();
    let marks = facts.watermarks.unwrap_or_default();
    vec![
        format!("{}@{}", row.database, row.member),
        row.status.clone(),
        text::logs(facts.copy_queue_bytes).to_string(),
        text::logs(facts.replay_queue_bytes).to_string(),
        text::time(facts.last_inspected_unix_millis),
        fields::content_index_state(&facts),
        if row.active { "active".into() } else { "passive".into() },
        row.preference.to_string(),
        text::epoch(facts.epoch.as_ref()),
        text::position(marks.generated.as_ref()),
        text::position(marks.inspected.as_ref()),
        text::position(marks.replayed.as_ref()),
        text::position(marks.committed.as_ref()),
        text::size(facts.log_bytes),
        text::size(facts.store_bytes),
        facts.volume.clone(),
        facts.commit_rule.clone(),
        lag_text(row, &facts),
        suspended_text(row),
        row.status_reason.clone(),
        if facts.fault.is_empty() { facts.shortage } else { facts.fault },
        failure_text(row),
        reseed_text(row),
        scrub_text(facts.scrub.as_ref()),
        rehearsal::sentence(row.rehearsal.as_ref()),
    ]
}

/// The lag in one line, for copies that have one.
fn lag_text(row: &CopyStatusRow, facts: &CopyFacts) -> String {
    if row.replay_lag_seconds == 0 { String::new() } else { facts.lag_status.clone() }
}

fn suspended_text(row: &CopyStatusRow) -> String {
    let Some(suspension) = &row.suspension else { return String::new() };
    let what = if suspension.replication { "replication" } else { "activation" };
    format!("{what}: {}", suspension.comment)
}

/// The class of a failure and what is done about it.
fn failure_text(row: &CopyStatusRow) -> String {
    match row.failure_tag.as_str() {
        "" => String::new(),
        tag => format!("{tag}: {}", row.failure_action),
    }
}

/// What was tried with a copy that stays failed, and what comes next.
fn reseed_text(row: &CopyStatusRow) -> String {
    let Some(info) = &row.autoreseed else { return String::new() };
    let next = match (info.blocked.as_str(), info.next_unix_millis) {
        ("", 0) => "next step due".to_owned(),
        ("", at) => format!("next step {}", text::time(at)),
        (why, _) => why.to_owned(),
    };
    let stopped = if info.stopped { ", everything was tried" } else { "" };
    let spares = match info.spares {
        0 => String::new(),
        spares => format!(", {spares} on spares"),
    };
    let (resumes, seeds) = (info.resumes, info.seeds);
    format!("{resumes} resumes, {seeds} seeds{spares}{stopped}: {next}")
}

fn scrub_text(facts: Option<&ScrubFacts>) -> String {
    match facts {
        Some(facts) if facts.running => {
            let percent = facts.done_bytes * 100 / facts.total_bytes.max(1);
            format!("{percent} % read")
        }
        Some(facts) => format!("{} {}", text::time(facts.ended_unix_millis), facts.result),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_wire::v1::{Position, Watermarks};

    fn row(reachable: bool) -> CopyStatusRow {
        let end = Position { generation: 3, offset: 700 };
        let facts = CopyFacts {
            status: "Healthy".into(),
            copy_queue_bytes: 1,
            watermarks: Some(Watermarks { generated: Some(end), ..Watermarks::default() }),
            ..CopyFacts::default()
        };
        CopyStatusRow {
            database: "DB1".into(),
            member: "m2".into(),
            reachable,
            facts: reachable.then_some(facts),
            status: if reachable { "Healthy" } else { "ServiceDown" }.into(),
            ..CopyStatusRow::default()
        }
    }

    #[test]
    fn the_promised_fields_are_there() {
        let data = status_data(&row(true));
        for field in [
            "database",
            "member",
            "active",
            "status",
            "copy_queue_logs",
            "replay_queue_logs",
            "replay_lag_status",
            "content_index_state",
            "generated",
            "inspected",
            "replayed",
        ] {
            assert!(data.get(field).is_some(), "{field} is missing");
        }
        assert_eq!(data["generated"], "3:700");
        assert_eq!(data["copy_queue_logs"], 1, "a begun log counts");
    }

    #[test]
    fn a_silent_member_is_shown_as_down() {
        assert_eq!(status_row(&row(false))[1], "ServiceDown");
        assert_eq!(status_data(&row(false))["status"], "ServiceDown");
    }

    #[test]
    fn rows_have_one_cell_per_column() {
        assert_eq!(status_row(&row(true)).len(), STATUS_COLUMNS.len());
    }
}

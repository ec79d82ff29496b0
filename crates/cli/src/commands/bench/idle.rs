//! What databases cost that nobody uses: memory and processor time of the members while many of
//! them lie idle.
//!
//! The databases are created, each is written to and read once, and all copies are waited for. So
//! what is measured has started, been established on every member, and served. Figures are the
//! members' own, control and data process apart, and count everything that the members do, other
//! databases included.

use std::collections::BTreeSet;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use futures::stream::{self, StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use keelson_client::{Client, Database, succeeded};
use keelson_types::RefusalReason;
use keelson_wire::v1::{CopyStatusRow, DatabaseSettings, MemberStatus};

use super::usage::Usage;
use crate::commands::operation;
use crate::context::Global;
use crate::failure::{Failure, Outcome};

/// Calls under way together.
const AT_ONCE: usize = 16;

/// How often it is looked whether all copies are there.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// All copies must be established within this time after the last one was created.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Args, Clone, Debug)]
pub(crate) struct Idle {
    /// Number of databases to create
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    databases: u32,
    /// Copies of each, on as many members
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    copies: u32,
    /// How long they lie idle
    #[arg(long, default_value = "30s")]
    duration: humantime::Duration,
    /// Names of the databases begin with this; none of them may exist
    #[arg(long, default_value = "idle-")]
    name_prefix: String,
    /// Keep the databases; otherwise they are removed (the files stay, as after every removal)
    #[arg(long)]
    keep: bool,
}

/// What was measured.
pub(super) struct Measured {
    pub(super) databases: u32,
    pub(super) copies: u32,
    pub(super) idle: Duration,
    /// Until the last of them was created, established on every member, and had served.
    pub(super) create: Duration,
    pub(super) establish: Duration,
    pub(super) serve: Duration,
    pub(super) members: Vec<Usage>,
}

/// Names of the databases that this run created, or began to create.
#[derive(Default)]
struct Ours(Mutex<BTreeSet<String>>);

impl Ours {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn names(&self) -> Vec<String> {
        self.with(|names| names.iter().cloned().collect())
    }
}

impl Idle {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let plan = format!(
            "create {} databases with {} copies each, let them lie idle for {}, and remove them",
            self.databases, self.copies, self.duration
        );
        if global.only_shows(&plan) {
            return Ok(());
        }
        let client = global.connect().await?;
        self.check_names(&client)?;
        let ours = Ours::default();
        // Whatever happens in between, what was created goes.
        let measured = tokio::select! {
            measured = self.measure(global, &client, &ours) => measured,
            _ = tokio::signal::ctrl_c() => Err(Failure::local("interrupted")),
        };
        if !self.keep {
            remove(global, &client, ours.names()).await?;
        }
        measured?.print(global);
        Ok(())
    }

    /// Databases of somebody else must not be taken for those of this run.
    fn check_names(&self, client: &Client) -> Outcome {
        let topology = client.topology();
        let known = topology.databases.keys().find(|name| name.starts_with(&self.name_prefix));
        let Some(known) = known else { return Ok(()) };
        let message = format!("there is a database {known} already");
        Err(Failure {
            hint: "remove it, or choose another --name-prefix".into(),
            ..Failure::new(RefusalReason::AlreadyExists, message)
        })
    }

    async fn measure(&self, global: &Global, client: &Client, ours: &Ours) -> Outcome<Measured> {
        let members = self.members(client).await?;
        let started = Instant::now();
        self.create(global, client, &members, ours).await?;
        let create = started.elapsed();
        self.wait_until_established(global, client, &members).await?;
        let establish = started.elapsed() - create;
        let names = ours.names();
        each(global, "serving", names, |name| serve(client.database(name))).await?;
        // What was written is replayed and indexed on every copy before the idle time begins.
        self.wait_until_established(global, client, &members).await?;
        let serve = started.elapsed() - create - establish;
        let before = status(client).await?;
        let begin = Instant::now();
        wait(global, self.duration.into()).await;
        let after = status(client).await?;
        let idle = begin.elapsed();
        let pair = |after: &MemberStatus| {
            let before = before.iter().find(|before| before.member == after.member)?;
            Some(Usage::between(before, after, idle))
        };
        let members = after.iter().filter_map(pair).collect();
        let Self { databases, copies, .. } = *self;
        Ok(Measured { databases, copies, idle, create, establish, serve, members })
    }

    /// Names of the members that can hold copies.
    async fn members(&self, client: &Client) -> Outcome<Vec<String>> {
        let members = status(client).await?.into_iter().filter(|member| member.data_process_up);
        let names: Vec<_> = members.map(|member| member.name).collect();
        if names.len() < self.copies as usize {
            let message = format!("{} copies need as many members that run", self.copies);
            let hint = format!("--copies {} is possible now", names.len());
            return Err(Failure::usage(message, hint));
        }
        Ok(names)
    }

    async fn create(
        &self,
        global: &Global,
        client: &Client,
        members: &[String],
        ours: &Ours,
    ) -> Outcome {
        let admin = &client.admin();
        each(global, "creating", 0..self.databases as usize, |number| async move {
            let name = format!("{}{number:05}", self.name_prefix);
            // Each database begins at the next member, so that the actives are spread.
            let order = members.iter().cycle().skip(number % members.len());
            let on = order.take(self.copies as usize).cloned().collect();
            ours.with(|names| names.insert(name.clone()));
            let made = admin.create_database(&name, on, DatabaseSettings::default()).await;
            if let Err(error) = &made
                && error.reason == RefusalReason::AlreadyExists
            {
                ours.with(|names| names.remove(&name));
            }
            made?;
            Ok(())
        })
        .await
    }

    async fn wait_until_established(
        &self,
        global: &Global,
        client: &Client,
        members: &[String],
    ) -> Outcome {
        let wanted = u64::from(self.databases) * u64::from(self.copies);
        let bar = bar(global, "establishing", wanted);
        let deadline = Instant::now() + PATIENCE;
        loop {
            // One member at a time, to keep the answers small.
            let mut there = 0;
            for member in members {
                let rows = client.admin().copy_status("", member).await?;
                let ours = rows.iter().filter(|row| row.database.starts_with(&self.name_prefix));
                there += ours.filter(|row| is_established(row)).count() as u64;
            }
            bar.set_position(there);
            if there >= wanted {
                bar.finish_and_clear();
                return Ok(());
            }
            if Instant::now() >= deadline {
                let message = format!("{there} of {wanted} copies are established");
                return Err(Failure::new(RefusalReason::DeadlineExceeded, message));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

fn is_established(row: &CopyStatusRow) -> bool {
    let Some(facts) = &row.facts else { return false };
    let status = if row.active { "Mounted" } else { "Healthy" };
    // An index that is not there yet is work under way.
    let index = facts.content_index.as_ref();
    let indexed = index.is_none_or(|index| index.backlog_bytes == 0 && index.state != "Crawling");
    facts.status == status
        && (facts.copy_queue_bytes, facts.replay_queue_bytes) == (0, 0)
        && indexed
}

async fn serve(database: Database) -> Outcome {
    database.put("bench/idle", "a record").await?;
    match database.get("bench/idle").await? {
        Some(_) => Ok(()),
        None => Err(Failure::local(format!("{} lost what was written", database.name()))),
    }
}

/// Closes and removes databases; those that do not exist are passed over.
async fn remove(global: &Global, client: &Client, names: Vec<String>) -> Outcome {
    each(global, "removing", names, |name| async move {
        let absent = |failure: &Failure| failure.code == RefusalReason::UnknownDatabase.code().0;
        match remove_one(client, &name).await {
            Err(failure) if !absent(&failure) => Err(failure.during(&format!("removing {name}"))),
            _ => Ok(()),
        }
    })
    .await
}

async fn remove_one(client: &Client, name: &str) -> Outcome {
    let started = client.admin().dismount_database(name).await?;
    succeeded(client.operations().watch(started, operation::WAIT_MAX, |_| ()).await?)?;
    client.admin().remove_database(name).await?;
    Ok(())
}

async fn status(client: &Client) -> Outcome<Vec<MemberStatus>> {
    Ok(client.admin().cluster_status().await?.members)
}

/// Does the same for many things, several at once; ends with the first failure.
async fn each<T, W, F>(
    global: &Global,
    what: &str,
    things: impl IntoIterator<Item = T>,
    work: W,
) -> Outcome
where
    W: Fn(T) -> F,
    F: Future<Output = Outcome>,
{
    let things: Vec<_> = things.into_iter().collect();
    let bar = &bar(global, what, things.len() as u64);
    let calls = things.into_iter().map(|thing| {
        let done = work(thing);
        async move {
            done.await?;
            bar.inc(1);
            Ok(())
        }
    });
    let all = stream::iter(calls).buffer_unordered(AT_ONCE).try_collect::<()>().await;
    bar.finish_and_clear();
    all
}

async fn wait(global: &Global, duration: Duration) {
    let step = Duration::from_secs(1);
    let bar = bar(global, "idle", duration.as_secs());
    let end = tokio::time::Instant::now() + duration;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep_until(end.min(tokio::time::Instant::now() + step)).await;
        bar.inc(1);
    }
    bar.finish_and_clear();
}

fn bar(global: &Global, what: &str, length: u64) -> ProgressBar {
    let bar = match io::stderr().is_terminal() && !global.output.is_data() {
        true => ProgressBar::new(length),
        false => ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
    };
    if let Ok(style) = ProgressStyle::with_template("{msg:12} {bar:30} {pos}/{len}  {eta}") {
        bar.set_style(style);
    }
    bar.with_message(what.to_owned())
}

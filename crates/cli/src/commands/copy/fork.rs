//! `keelson copy fork`: read-only views of a copy at an instant.

use std::time::Duration;

use clap::{Args, Subcommand};
use keelson_client::Client;
use keelson_types::{ForkAddress, RefusalReason};
use keelson_wire::v1::{CreateForkRequest, DropForkRequest, ForkInfo};
use serde_json::{Value, json};

use super::changes::CopyName;
use super::instant::{self, At};
use crate::commands::operation::WAIT_MAX;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, column, wide};
use crate::text;

/// How often a fork that is being built is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Fork {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    create: Option<Create>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the forks
    List {
        /// Only of this database
        #[arg(default_value = "")]
        database: String,
    },
    /// Drop a fork and its files
    Drop {
        /// The fork, as DATABASE@MEMBER~NAME
        fork: ForkAddress,
    },
}

#[derive(Args, Debug)]
struct Create {
    /// The copy, as DATABASE@MEMBER; one with a replay lag reaches back by its lag
    copy: CopyName,
    /// The instant: a time (2026-11-22T14:00:00Z), an age (90m), or a position (3:700)
    #[arg(long, value_name = "TIME|POSITION")]
    at: At,
    /// Name of the fork; one is made up by default
    #[arg(long, default_value = "")]
    name: String,
    /// Drop it by itself after this time
    #[arg(long, value_name = "TIME", value_parser = super::changes::lasting)]
    expires: Option<Duration>,
}

impl Fork {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match (self.command, self.create) {
            (Some(Command::List { database }), _) => list(global, &database).await,
            (Some(Command::Drop { fork }), _) => drop_fork(global, &fork).await,
            (None, Some(create)) => create.run(global).await,
            (None, None) => Err(Failure::usage("no copy", "name one as DATABASE@MEMBER")),
        }
    }
}

impl Create {
    async fn run(self, global: &Global) -> Outcome {
        let copy = &self.copy;
        let at = self.at.instant();
        if global.only_shows(&format!("fork {copy} at {}", instant::shown(&at))) {
            return Ok(());
        }
        let client = global.connect().await?;
        let message = CreateForkRequest {
            database: copy.database.clone(),
            member: copy.member.clone(),
            name: self.name,
            at: Some(at),
            expires_seconds: self.expires.map_or(0, |time| time.as_secs()),
        };
        let begun = client.admin().create_fork(message).await?;
        let fork = wait_until_built(&client, &begun).await?;
        let sentence = format!(
            "{} shows {copy} at {}; read it with: keelson kv scan {}",
            name_of(&fork),
            text::log_end(fork.at.as_ref()),
            name_of(&fork)
        );
        output::print_done(global.output, &sentence, &data(&fork));
        Ok(())
    }
}

fn name_of(fork: &ForkInfo) -> String {
    format!("{}@{}~{}", fork.database, fork.member, fork.name)
}

async fn wait_until_built(client: &Client, begun: &ForkInfo) -> Outcome<ForkInfo> {
    let name = name_of(begun);
    let built = async {
        loop {
            let forks = client.admin().list_forks(&begun.database).await?.forks;
            let found = forks.into_iter().find(|fork| name_of(fork) == name);
            match found {
                Some(fork) if fork.state == "ready" => return Ok(fork),
                Some(fork) if fork.state == "failed" => {
                    let message = format!("{name} failed: {}", fork.problem);
                    return Err(Failure::new(RefusalReason::CopyFailed, message));
                }
                Some(_) => tokio::time::sleep(LOOK_INTERVAL).await,
                None => {
                    let message = format!("{name} is gone; did its member restart?");
                    return Err(Failure::new(RefusalReason::UnknownFork, message));
                }
            }
        }
    };
    tokio::time::timeout(WAIT_MAX, built).await.map_err(|_| {
        let message = format!("{name} is still being built; see keelson copy fork list");
        Failure::new(RefusalReason::DeadlineExceeded, message)
    })?
}

async fn list(global: &Global, database: &str) -> Outcome {
    let answer = global.connect().await?.admin().list_forks(database).await?;
    let columns = [
        column("fork"),
        column("state"),
        column("at"),
        column("written"),
        column("expires"),
        wide("created"),
        wide("keeps at most"),
        wide("problem"),
    ];
    let rows = answer.forks.iter().map(|fork| {
        vec![
            name_of(fork),
            fork.state.clone(),
            text::log_end(fork.at.as_ref()),
            text::time(fork.at_unix_millis),
            text::time(fork.expires_unix_millis),
            text::time(fork.created_unix_millis),
            text::size(fork.bytes_max),
            fork.problem.clone(),
        ]
    });
    let forks = answer.forks.iter().map(data).collect();
    output::print_list(global.output, &columns, rows.collect(), &forks);
    if !answer.silent_members.is_empty() {
        eprintln!("no answer from {}", answer.silent_members.join(", "));
    }
    Ok(())
}

async fn drop_fork(global: &Global, fork: &ForkAddress) -> Outcome {
    let plan = format!("drop fork {fork} and its files");
    if global.only_shows(&plan) {
        return Ok(());
    }
    global.confirm(&plan)?;
    let message = DropForkRequest {
        database: fork.database.to_string(),
        member: fork.member.to_string(),
        name: fork.fork.to_string(),
    };
    global.connect().await?.admin().drop_fork(message).await?;
    let data = json!({ "fork": fork.to_string() });
    output::print_done(global.output, &format!("dropped {fork}"), &data);
    Ok(())
}

fn data(fork: &ForkInfo) -> Value {
    json!({
        "fork": name_of(fork),
        "database": fork.database,
        "member": fork.member,
        "name": fork.name,
        "state": fork.state,
        "problem": fork.problem,
        "at": text::log_end(fork.at.as_ref()),
        "written": text::time(fork.at_unix_millis),
        "created": text::time(fork.created_unix_millis),
        "expires": text::time(fork.expires_unix_millis),
        "bytes_max": fork.bytes_max,
    })
}

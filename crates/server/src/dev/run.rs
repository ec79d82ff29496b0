//! Runs a `dev` cluster until Ctrl-C or SIGTERM.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use keelson_wire::v1::CopyStatusRow;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::admin::DevAdmin;
use super::{DevCluster, DevMember, DevOptions, prepare};
use crate::files::Lock;

/// Time that a member has to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Copies of a database, unless asked otherwise, on as many members.
const COPIES: u32 = 3;

/// Starts the cluster, prints how to use it, and waits for the end. Blocks; needs no runtime around
/// it.
///
/// # Errors
/// The directory cannot be used, a member does not start, or the cluster cannot be formed. Members
/// that were started are stopped before it returns.
pub fn run_dev(options: DevOptions) -> anyhow::Result<()> {
    let copies = options.copies.unwrap_or_else(|| options.members.min(COPIES));
    if copies == 0 || copies > options.members {
        bail!("{copies} copies of a database need as many members; there are {}", options.members);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cluster = prepare(&options.dir, options.members, None)?;
        let mut running = Running::start(&cluster)?;
        let outcome = running.run(&cluster, &options, copies).await;
        running.stop().await;
        outcome
    })
}

struct Member {
    name: String,
    config: String,
    child: Option<Child>,
}

/// The members started here.
struct Running {
    members: Vec<Member>,
}

impl Running {
    fn start(cluster: &DevCluster) -> anyhow::Result<Self> {
        let mut running = Self { members: Vec::new() };
        for member in &cluster.members {
            let child = if runs_already(member) {
                say(&format!("{} runs already; it is left alone, now and at the end", member.name));
                None
            } else {
                Some(start(member)?)
            };
            let config = member.config.display().to_string();
            running.members.push(Member { name: member.name.clone(), config, child });
        }
        Ok(running)
    }

    async fn run(
        &mut self,
        cluster: &DevCluster,
        options: &DevOptions,
        copies: u32,
    ) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut formed = false;
        let forming = form(cluster, options, copies);
        tokio::pin!(forming);
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                (name, config, status) = ended(&mut self.members) => {
                    if !formed {
                        bail!("{name} did not start ({status}); see its log beside {config}");
                    }
                    say(&format!("{name} ended ({status}). Start it again with:"));
                    say(&format!("  keelson server --config {config}"));
                }
                outcome = &mut forming, if !formed => {
                    formed = true;
                    greet(cluster, &outcome?);
                }
            }
        }
    }

    /// Asks every member that still runs to stop, and kills those that do not.
    async fn stop(&mut self) {
        for member in &self.members {
            signal_child(member, Signal::SIGTERM);
        }
        for member in &mut self.members {
            let Some(child) = &mut member.child else { continue };
            if timeout(STOP_PATIENCE, child.wait()).await.is_err() {
                say(&format!(
                    "{} did not stop within {} s; killed",
                    member.name,
                    STOP_PATIENCE.as_secs()
                ));
                // It may have ended just now.
                let _ = child.kill().await;
            }
        }
    }
}

fn signal_child(member: &Member, what: Signal) {
    let pid = member.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid {
        // It may have ended just now.
        let _ = kill(Pid::from_raw(pid), what);
    }
}

/// Whether a server holds the member's data directory, started by hand or left over.
fn runs_already(member: &DevMember) -> bool {
    let data = member.dir.join("data");
    data.exists() && Lock::take(&data.join("control.lock"), Duration::ZERO).is_err()
}

/// Prints a line; that nobody reads it is no reason to end the cluster.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn start(member: &DevMember) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find the own program")?;
    let log = member.dir.join("keelson.log");
    // What is written before logging runs, and panics, go to the same file.
    let errors = std::fs::OpenOptions::new().create(true).append(true).open(&log);
    let errors = errors.with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(program);
    command
        .args(["server", "--config"])
        .arg(&member.config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .process_group(0);
    let child = tokio::process::Command::from(command).spawn();
    child.with_context(|| format!("cannot start {}", member.name))
}

/// The next member that ends. Never, once all have.
async fn ended(members: &mut [Member]) -> (String, String, String) {
    let waiting: Vec<_> = members
        .iter_mut()
        .filter(|member| member.child.is_some())
        .map(|member| {
            Box::pin(async move {
                let child = member.child.as_mut().expect("filtered above");
                let status = match child.wait().await {
                    Ok(status) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                member.child = None;
                (member.name.clone(), member.config.clone(), status)
            })
        })
        .collect();
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(waiting).await.0
}

/// Forms the cluster and creates the databases; a cluster of a former run has them.
async fn form(
    cluster: &DevCluster,
    options: &DevOptions,
    copies: u32,
) -> anyhow::Result<Vec<CopyStatusRow>> {
    let admin = DevAdmin::new(cluster)?;
    if !cluster.existed {
        say(&format!("starting {} members in {}", cluster.members.len(), cluster.dir.display()));
        admin.init().await?;
        for member in &cluster.members[1..] {
            admin.add_member(&member.name, &member.control_address).await?;
        }
        for number in 0..options.databases {
            let members = spread(&cluster.members, number, copies);
            admin.create_database(&format!("DB{}", number + 1), &members).await?;
        }
    } else {
        say(&format!("starting the members found in {}", cluster.dir.display()));
    }
    admin.wait_until_mounted().await
}

/// The members of the database's copies, in order of preference: each database begins at the next
/// one.
fn spread(members: &[DevMember], database: u32, copies: u32) -> Vec<String> {
    let from = database as usize % members.len();
    let order = members.iter().cycle().skip(from);
    order.take(copies as usize).map(|member| member.name.clone()).collect()
}

fn greet(cluster: &DevCluster, copies: &[CopyStatusRow]) {
    for member in &cluster.members {
        let DevMember { name, control_address, data_address, .. } = member;
        say(&format!("  {name}: control {control_address}, data {data_address}"));
    }
    say("\nThe cluster runs. In another terminal:");
    say(&format!("  export KEELSON_CLIENT={}", cluster.client_toml.display()));
    say("  keelson cluster status");
    say("  keelson copy status");
    for suggestion in suggestions(copies) {
        say(&format!("  {suggestion}"));
    }
    let console = cluster.members.iter().find_map(|member| member.console_address.as_ref());
    if let Some(address) = console {
        say("\nThe web console; it asks for a token, and the browser for an exception:");
        say(&format!("  https://{address}/"));
        say("  keelson token issue operator me --expires 12h");
    }
    say(&format!(
        "\nCtrl-C stops it; keelson dev --dir {} starts it again.",
        cluster.dir.display()
    ));
}

/// Commands that work on the databases as they are now.
fn suggestions(copies: &[CopyStatusRow]) -> Vec<String> {
    let Some(first) = copies.first() else { return Vec::new() };
    let name = &first.database;
    let mut commands =
        vec![format!("keelson kv put {name} greeting hello && keelson kv get {name} greeting")];
    let passive = copies.iter().find(|copy| copy.database == *name && !copy.active);
    commands.extend(passive.map(|copy| format!("keelson switchover {name} --to {}", copy.member)));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_name_a_database_and_a_member_that_are_there() {
        let copy = |database: &str, member: &str, active| CopyStatusRow {
            database: database.into(),
            member: member.into(),
            active,
            ..CopyStatusRow::default()
        };
        let put = "keelson kv put A greeting hello && keelson kv get A greeting";
        assert!(suggestions(&[]).is_empty());
        assert_eq!(suggestions(&[copy("A", "m1", true), copy("B", "m2", false)]), [put]);
        let moved = [copy("A", "m1", true), copy("A", "m3", false), copy("A", "m2", false)];
        assert_eq!(suggestions(&moved), [put, "keelson switchover A --to m3"]);
    }

    #[test]
    fn databases_begin_at_different_members() {
        let member = |name: &str| DevMember {
            name: name.into(),
            dir: "d".into(),
            config: "c".into(),
            control_address: String::new(),
            data_address: String::new(),
            console_address: None,
        };
        let members = ["m1", "m2", "m3"].map(member);
        assert_eq!(spread(&members, 0, 3), ["m1", "m2", "m3"]);
        assert_eq!(spread(&members, 1, 2), ["m2", "m3"]);
        assert_eq!(spread(&members, 5, 3), ["m3", "m1", "m2"]);
    }

    #[test]
    fn more_copies_than_members_are_refused() {
        let dir = "/nonexistent".into();
        let options = DevOptions { members: 2, databases: 1, copies: Some(3), dir };
        assert!(run_dev(options).unwrap_err().to_string().contains("as many members"));
    }
}

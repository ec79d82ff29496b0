//! The test of `deploy/`: brings a cluster up in containers, looks at what was promised of it,
//! fails a member, and removes everything.
//!
//! Needs a Docker engine. Without one it says so and passes, since nothing was proved wrong.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Stack, engine, image, output};
use crate::workspace::{Workspace, find_program, timed};

const MEMBERS: [&str; 4] = ["m1", "m2", "m3", "m4"];

/// Networks of its own, so that it can run beside the cluster that people use.
const SETTINGS: &[(&str, &str)] = &[
    ("KEELSON_CLIENT_NET", "172.29.81"),
    ("KEELSON_CONSOLE_PORTS", "751"),
    ("KEELSON_REPLICATION_NET", "172.29.82"),
    ("KEELSON_MEMORY", "768m"),
];

/// How long anything may take to become true.
const PATIENCE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(200);

/// Runs the test; with `keep` the containers stay.
pub(super) fn run(workspace: &Workspace, keep: bool) -> Result<()> {
    if let Err(error) = engine() {
        println!("compose test: ############################################################");
        println!("compose test: SKIPPED, NOTHING WAS TESTED: no Docker engine answers here");
        println!("compose test: {error:#}");
        println!("compose test: ############################################################");
        return Ok(());
    }
    let stack = Stack {
        settings: SETTINGS.to_vec(),
        ..Stack::new(workspace, "keelson-test", "keelson:test".into())?
    };
    image::make(workspace, &stack.image, "dev")?;
    stack.down(true)?;
    let (outcome, seconds) = timed(|| Proof { stack: &stack }.all());
    if outcome.is_err() {
        for service in MEMBERS.iter().chain(&["identities", "forming"]) {
            let logs = stack.compose(&["logs", "--tail", "30", service]).output();
            println!("{}", logs.map_or_else(|e| e.to_string(), |o| text(&o.stdout)));
        }
    }
    if !keep {
        stack.down(true)?;
        if outcome.is_ok() {
            nothing_left(&stack)?;
        }
    }
    outcome?;
    println!("compose test: passed in {seconds} s");
    Ok(())
}

/// A new folder of this process.
fn tempfile() -> Result<std::path::PathBuf> {
    let name = format!("keelson-compose-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Proof<'a> {
    stack: &'a Stack,
}

type Step<'a> = (&'static str, fn(&Proof<'a>) -> Result<()>);

impl Proof<'_> {
    fn all(&self) -> Result<()> {
        let steps: [Step<'_>; 8] = [
            ("one command makes a cluster", Self::formed),
            ("members run without rights and see no key but their own", Self::confined),
            ("networks are apart", Self::networks),
            ("metrics are told to holders of a certificate", Self::metrics),
            ("writes span the sites", Self::writes),
            ("a member that dies is replaced and comes back", Self::failover),
            ("a member stops cleanly", Self::clean_stop),
            ("the same command again changes nothing", Self::again),
        ];
        for (what, step) in steps {
            let (outcome, seconds) = timed(|| step(self));
            outcome.with_context(|| format!("not so: {what}"))?;
            println!("compose test: {what} ({seconds} s)");
        }
        Ok(())
    }

    fn formed(&self) -> Result<()> {
        self.stack.up()?;
        let status = self.json(&["cluster", "status"])?;
        let members = status["members"].as_array().context("no members")?;
        let sites: Vec<_> = members.iter().map(|member| member["site"].as_str()).collect();
        let two = [Some("north"), Some("north"), Some("south"), Some("south")];
        ensure!(sites == two, "{status}");
        for member in MEMBERS {
            self.healthy(member)?;
        }
        Ok(())
    }

    fn confined(&self) -> Result<()> {
        for member in MEMBERS {
            let id = self.stack.container(member)?;
            let user = docker(&["exec", &id, "id", "-u"])?;
            ensure!(user == "10001", "{member} runs as {user}");
            let keys = docker(&["exec", &id, "sh", "-c", "ls /etc/keelson/identity/*.key"])?;
            ensure!(keys == format!("/etc/keelson/identity/{member}.key"), "{member} sees {keys}");
            let write = docker(&["exec", &id, "touch", "/usr/local/bin/x"]);
            ensure!(write.is_err(), "{member} may write into its image");
        }
        Ok(())
    }

    fn networks(&self) -> Result<()> {
        let m1 = self.stack.container("m1")?;
        let seen = docker(&["exec", &m1, "getent", "hosts", "m2"])?;
        ensure!(seen.starts_with("172.29.82.12 "), "m1 sees {seen}");
        let seen =
            self.compose(&["run", "--rm", "--entrypoint", "getent", "client", "hosts", "m2"])?;
        ensure!(seen.contains("172.29.81.12 "), "a client sees {seen}");
        // Remote ends in the kernel's table: little-endian addresses in hexadecimal digits.
        let table = docker(&["exec", &m1, "cat", "/proc/net/tcp"])?;
        let to = |net: &str| table.lines().filter(|line| line.contains(net)).count();
        let (replication, client) = (to(" 0C521DAC:1CE"), to(" 0C511DAC:1CE"));
        ensure!(replication > 0 && client == 0, "m1 to m2: {replication} and {client} by client");
        Ok(())
    }

    fn metrics(&self) -> Result<()> {
        if find_program("curl").is_none() {
            println!("compose test: curl is missing, so nobody asked for metrics");
            return Ok(());
        }
        let folder = tempfile()?;
        let from = format!("{}:/identities/metrics/.", self.stack.container("identities")?);
        let to = folder.display().to_string();
        docker(&["cp", &from, &to])?;
        let file = |name: &str| folder.join(name).display().to_string();
        let (ca, cert, key) = (file("ca.pem"), file("metrics.pem"), file("metrics.key"));
        let ask = |more: &[&str]| {
            let to = ["--connect-to", "m2:7402:172.29.81.12:7402", "https://m2:7402/metrics"];
            let quiet = ["--silent", "--show-error", "--fail", "--cacert", &ca];
            output(Command::new("curl").args(quiet).args(more).args(to))
        };
        let text = ask(&["--cert", &cert, "--key", &key]);
        let refused = ask(&[]);
        std::fs::remove_dir_all(&folder)?;
        let told = text?;
        ensure!(told.contains("keelson_member_info{member=\"m2\",site=\"north\""), "{told}");
        ensure!(refused.is_err(), "metrics are told to anybody");
        Ok(())
    }

    fn writes(&self) -> Result<()> {
        let create = ["database", "create", "DB1", "--on", "m1,m3,m2,m4"];
        self.client(&[&create[..], &["--commit-constraint", "second_datacenter"]].concat())?;
        self.eventually("DB1 takes writes", || self.client(&["kv", "put", "DB1", "before", "1"]))?;
        ensure!(self.client(&["kv", "get", "DB1", "before"])? == "1");
        Ok(())
    }

    fn failover(&self) -> Result<()> {
        self.eventually("all copies follow", || {
            let rows = self.json(&["copy", "status", "DB1"])?;
            let rows = rows.as_array().context("no rows")?;
            let fine = |row: &&Value| row["status"] == "Healthy" || row["status"] == "Mounted";
            ensure!(rows.iter().filter(fine).count() == 4, "{rows:?}");
            Ok(())
        })?;
        let old = self.active()?;
        let id = self.stack.container(&old)?;
        docker(&["kill", &id])?;
        let start = Instant::now();
        self.eventually("DB1 takes writes", || self.client(&["kv", "put", "DB1", "after", "2"]))?;
        println!("compose test: {old} killed, written again after {:?}", start.elapsed());
        ensure!(self.active()? != old, "{old} is still active");
        ensure!(self.client(&["kv", "get", "DB1", "before"])? == "1");
        docker(&["start", &id])?;
        self.healthy(&old)?;
        self.eventually("its copy follows", || {
            let rows = self.json(&["copy", "status", "DB1", "--member", &old])?;
            ensure!(rows[0]["status"] == "Healthy", "{rows}");
            Ok(())
        })
    }

    fn clean_stop(&self) -> Result<()> {
        let id = self.stack.container("m2")?;
        docker(&["stop", "--time", "45", &id])?;
        let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", &id])?;
        ensure!(code == "0", "m2 ended with {code}");
        docker(&["start", &id])?;
        self.healthy("m2")
    }

    fn again(&self) -> Result<()> {
        let cluster = |status: Value| status["cluster"].clone();
        let before = cluster(self.json(&["cluster", "status"])?);
        let containers = MEMBERS.map(|member| self.stack.container(member).ok());
        self.stack.up()?;
        ensure!(cluster(self.json(&["cluster", "status"])?) == before, "another cluster");
        let after = MEMBERS.map(|member| self.stack.container(member).ok());
        ensure!(containers == after, "containers were made anew");
        ensure!(self.client(&["kv", "get", "DB1", "after"])? == "2");
        Ok(())
    }

    fn active(&self) -> Result<String> {
        self.eventually("a copy is active", || {
            let rows = self.json(&["copy", "status", "DB1"])?;
            let active = rows.as_array().into_iter().flatten().find(|row| row["active"] == true);
            let member = active.and_then(|row| row["member"].as_str());
            member.map(str::to_owned).with_context(|| format!("none in {rows}"))
        })
    }

    fn healthy(&self, member: &str) -> Result<()> {
        self.eventually(&format!("{member} is healthy"), || {
            let id = self.stack.container(member)?;
            let state = docker(&["inspect", "--format", "{{.State.Health.Status}}", &id])?;
            ensure!(state == "healthy", "it is {state}");
            Ok(())
        })
    }

    fn compose(&self, args: &[&str]) -> Result<String> {
        output(&mut self.stack.compose(args))
    }

    /// A command of `keelson` on the client network.
    fn client(&self, args: &[&str]) -> Result<String> {
        self.compose(&[&["run", "--rm", "client"], args].concat())
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let printed = self.client(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("no JSON: {printed}"))
    }

    fn eventually<T>(&self, what: &str, probe: impl Fn() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match probe() {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error)
                        .with_context(|| format!("after {PATIENCE:?} not yet: {what}"));
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

/// Runs `docker` and gives what it printed.
fn docker(args: &[&str]) -> Result<String> {
    output(Command::new("docker").args(args))
}

fn nothing_left(stack: &Stack) -> Result<()> {
    let filter = format!("label=com.docker.compose.project={}", stack.project);
    for kind in ["container", "volume", "network"] {
        let all: &[&str] = if kind == "container" { &["--all"] } else { &[] };
        let list = [&[kind, "ls", "--quiet", "--filter", &filter], all].concat();
        let left = docker(&list)?;
        if !left.is_empty() {
            bail!("{kind}s are left: {left}");
        }
    }
    Ok(())
}

//! The test of `deploy/`: brings a cluster up in containers, looks at what was promised of it,
//! fails a member, and removes everything.
//!
//! Needs a Docker engine. Without one it says so and passes, since nothing was proved wrong; in CI
//! also where an image cannot be made.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::prometheus::Prometheus;
use super::{Stack, docker, engine, image, visit};
use crate::workspace::{Workspace, timed};

/// Containers that belong to the cluster; the last one is the witness.
const MEMBERS: [&str; 5] = ["m1", "m2", "m3", "m4", "w1"];

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
        skipped("no Docker engine answers here", &error);
        return Ok(());
    }
    let prepared = prepare(workspace);
    let stack = match prepared {
        Ok(stack) => stack,
        // A machine for tests may have an engine and nothing to make an image of.
        Err(error) if workspace.ci => {
            skipped("no image can be made here", &error);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let (outcome, seconds) = timed(|| Proof { workspace, stack: &stack }.all());
    if outcome.is_err() {
        for service in MEMBERS.iter().chain(&["identities", "forming"]) {
            let logs = stack.compose(&["logs", "--tail", "30", service]).output();
            println!("{}", logs.map_or_else(|e| e.to_string(), |o| text(&o.stdout)));
        }
    }
    if !keep {
        stack.down(true)?;
        if outcome.is_ok() {
            stack.nothing_left()?;
            println!("compose test: the teardown leaves nothing");
        }
    }
    outcome?;
    println!("compose test: passed in {seconds} s");
    Ok(())
}

fn prepare(workspace: &Workspace) -> Result<Stack> {
    let stack = Stack::new(workspace, "keelson-test", "keelson:test".into(), SETTINGS)?;
    image::make(workspace, &stack.image, "dev")?;
    stack.down(true)?;
    Ok(stack)
}

/// So that nobody overlooks it.
fn skipped(why: &str, error: &anyhow::Error) {
    println!("compose test: ############################################################");
    println!("compose test: SKIPPED, NOTHING WAS TESTED: {why}");
    println!("compose test: {error:#}");
    println!("compose test: ############################################################");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Proof<'a> {
    workspace: &'a Workspace,
    stack: &'a Stack,
}

type Step<'a> = (&'static str, fn(&Proof<'a>) -> Result<()>);

impl Proof<'_> {
    fn all(&self) -> Result<()> {
        let steps: [Step<'_>; 11] = [
            ("one command makes a cluster", Self::formed),
            ("members run without rights and see no key but their own", Self::confined),
            ("networks are apart", Self::networks),
            ("writes span the sites", Self::writes),
            ("every member tells its metrics to holders of a certificate", Self::metrics),
            ("Prometheus reaches every member and evaluates the rules", Self::monitoring),
            ("the console opens over TLS to holders of a token", Self::console),
            ("a member that dies is replaced and comes back", Self::failover),
            ("a site that dies is replaced and comes back", Self::site_loss),
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
        let wanted = ["north", "north", "south", "south", "west"].map(Some);
        ensure!(sites == wanted, "{status}");
        let data: Vec<_> = members.iter().map(|m| m["witness"] == false).collect();
        ensure!(data == [true, true, true, true, false], "{status}");
        ensure!(members.iter().all(|member| member["voter"] == true), "{status}");
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
        let Some(visitor) = visit::Visitor::new(self.stack, "metrics")? else { return Ok(()) };
        for (number, member) in MEMBERS.iter().enumerate() {
            let at = format!("172.29.81.{}", 11 + number);
            let told = visitor.metrics(member, &at, true)?;
            ensure!(told.contains(&format!("keelson_member_info{{member=\"{member}\",")), "{told}");
            let copy = "keelson_copy_status_info{database=\"DB1\",";
            ensure!(told.contains(copy) == (*member != "w1"), "{member} tells {told}");
            ensure!(visitor.metrics(member, &at, false).is_err(), "{member} tells anybody");
        }
        Ok(())
    }

    fn monitoring(&self) -> Result<()> {
        let Some(prometheus) = Prometheus::start(self.workspace, self.stack)? else {
            return Ok(());
        };
        let reached = self.eventually("Prometheus reaches all members", || {
            let count = prometheus.reaches()?;
            ensure!(count == MEMBERS.len() as u64, "it reaches {count}");
            Ok(())
        });
        let evaluated = reached
            .and_then(|()| self.eventually("its rules are evaluated", || prometheus.evaluates()));
        if evaluated.is_err() {
            println!("{}", prometheus.logs());
        }
        let removed = prometheus.remove();
        evaluated.and(removed)
    }

    fn console(&self) -> Result<()> {
        let Some(visitor) = visit::Visitor::new(self.stack, "admin")? else { return Ok(()) };
        let secret = self.client(&["token", "issue", "operator", "visitor"])?;
        for port in ["7511", "7512", "7513", "7514"] {
            let site = format!("https://localhost:{port}");
            ensure!(visitor.log_in(&site, "keelson_0")? == "401", "{site} lets anybody in");
            let page = visitor.page(&site)?;
            ensure!(!page.contains("DB1"), "{site} shows databases to anybody: {page}");
            ensure!(visitor.log_in(&site, &secret)? == "303", "{site} refuses a token");
            let page = visitor.page(&site)?;
            for word in ["DB1", "m4", "w1", "Mounted"] {
                ensure!(page.contains(word), "{site} lacks {word}: {page}");
            }
        }
        self.client(&["token", "revoke", "visitor", "--yes"]).map(drop)
    }

    fn writes(&self) -> Result<()> {
        let create = ["database", "create", "DB1", "--on", "m1,m3,m2,m4"];
        self.client(&[&create[..], &["--commit-constraint", "second_datacenter"]].concat())?;
        self.eventually("DB1 takes writes", || self.client(&["kv", "put", "DB1", "before", "1"]))?;
        ensure!(self.client(&["kv", "get", "DB1", "before"])? == "1");
        Ok(())
    }

    fn failover(&self) -> Result<()> {
        self.all_follow()?;
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
        self.all_follow()
    }

    /// The other site and the witness are a majority, and hold everything that was acknowledged.
    fn site_loss(&self) -> Result<()> {
        let lost = match self.active()?.as_str() {
            "m1" | "m2" => ["m1", "m2"],
            _ => ["m3", "m4"],
        };
        self.client(&["kv", "put", "DB1", "last", "3"])?;
        let ids = lost.map(|member| self.stack.container(member));
        let ids: Vec<_> = ids.into_iter().collect::<Result<_>>()?;
        docker(&["kill", &ids[0], &ids[1]])?;
        let start = Instant::now();
        self.eventually("DB1 takes writes", || self.client(&["kv", "put", "DB1", "alone", "4"]))?;
        println!("compose test: {lost:?} killed, written again after {:?}", start.elapsed());
        ensure!(self.client(&["kv", "get", "DB1", "last"])? == "3");
        docker(&["start", &ids[0], &ids[1]])?;
        lost.iter().try_for_each(|member| self.healthy(member))?;
        self.all_follow()
    }

    fn all_follow(&self) -> Result<()> {
        self.eventually("all copies follow", || {
            let rows = self.json(&["copy", "status", "DB1"])?;
            let rows = rows.as_array().context("no rows")?;
            let fine = |row: &&Value| row["status"] == "Healthy" || row["status"] == "Mounted";
            ensure!(rows.iter().filter(fine).count() == 4, "{rows:?}");
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
        super::output(&mut self.stack.compose(args))
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

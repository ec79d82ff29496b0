//! Redis: a master and a replica, both with an append-only file that is synced for every write.
//!
//! When one of two copies is gone, no write can be on two. So a second replica joins before the
//! faults, and with it the sentinels, which are servers of their own.
//!
//! A replica with an append-only file that starts again has forgotten how far it had followed, and
//! takes a whole copy: there is no catch-up.

mod client;
mod sentinel;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use keelson_testkit::{eventually, eventually_for, free_port};
use nix::sys::signal::Signal;

use crate::place::Place;
use crate::process::{Server, find_program, says};
use crate::target::{Abilities, Connections, Fault, Purpose, Target};
use client::{Client, at, connect};
use sentinel::{Sentinel, master_port};

pub(crate) const SETTINGS: &str = "a master and a replica; appendonly yes, appendfsync always, \
    save \"\" (no snapshots), repl-diskless-sync-delay 0; no TLS, a connection per client; SET or \
    MSET of 100, and WAIT 1 in the same packet: the master has synced, a replica has received, \
    which is less than the others promise; reads of the master; a whole copy: the replica is \
    killed and its files removed, and it starts again; for the gaps a second replica, since WAIT 1 \
    needs two that live, and three sentinels: quorum 2, down-after-milliseconds 1000 (that is \
    etcd's election timeout; the default is 30 s), failover-timeout 10 s; a client whose put \
    fails or takes 200 ms asks a sentinel for the master; a switchover is SENTINEL FAILOVER";

const SENTINELS: usize = 3;
/// How long a write waits for a replica.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// The same while the master changes: the old one still takes writes when its replicas have left.
const WAIT_MAX_AT_FAULTS: Duration = Duration::from_millis(200);
const ANSWER_MAX: Duration = Duration::from_secs(5);
const COPY_MAX: Duration = Duration::from_secs(300);

pub(crate) struct Redis {
    sentinels: Vec<Sentinel>,
    nodes: Vec<Node>,
    master: usize,
    program: PathBuf,
    directory: PathBuf,
    version: String,
}

struct Node {
    home: PathBuf,
    port: u16,
    client: redis::Client,
    server: Option<Server>,
}

impl Redis {
    pub(crate) async fn start(place: &Place) -> Result<Self> {
        let program = find_program("redis-server", "redis-server")?;
        let version = says(&program, "--version")?;
        let directory = place.fresh("redis")?;
        let (sentinels, nodes) = (Vec::new(), Vec::new());
        let mut new = Self { sentinels, nodes, master: 0, program, directory, version };
        for _ in ["master", "replica"] {
            new.add_node()?;
        }
        new.wait_until_whole().await?;
        Ok(new)
    }

    /// The first node becomes the master, all others its replicas.
    fn add_node(&mut self) -> Result<()> {
        let number = self.nodes.len();
        let (home, port) = (self.directory.join(format!("r{}", number + 1)), free_port()?);
        std::fs::create_dir(&home)?;
        self.nodes.push(Node { home, port, client: at(port)?, server: None });
        self.serve(number)
    }

    fn serve(&mut self, number: usize) -> Result<()> {
        let master = (number != self.master).then(|| self.nodes[self.master].port);
        self.nodes[number].serve(&self.program, master)
    }

    /// Waits until all follow one master and have all, durably.
    async fn wait_until_whole(&mut self) -> Result<()> {
        let whole = eventually_for(COPY_MAX, "all follow one master", || self.whole_under());
        self.master = whole.await?;
        Ok(())
    }

    /// The master that all follow. It is found anew each time: where a disk stalls for a second,
    /// the sentinels may change their minds meanwhile.
    async fn whole_under(&self) -> Result<usize> {
        let number = self.agreed_master().await?;
        let (master, replicas) = (&self.nodes[number], self.nodes.len() - 1);
        for node in self.nodes.iter().filter(|node| node.port != master.port) {
            // A former master gets this order from a sentinel only after 8 s. Nothing happens to
            // who follows already.
            node.follow(master.port).await?;
            is_synced(&node.info().await?)?;
        }
        let online = master.info().await?.matches("state=online").count();
        ensure!(online == replicas, "{online} of {replicas} replicas");
        for sentinel in &self.sentinels {
            sentinel.sees(master.port, replicas, SENTINELS - 1).await?;
        }
        Ok(number)
    }

    /// The running node that all sentinels call the master; without them, the first one.
    async fn agreed_master(&self) -> Result<usize> {
        let Some(first) = self.sentinels.first() else { return Ok(self.master) };
        let port = master_port(first.client()).await?;
        for sentinel in &self.sentinels {
            ensure!(master_port(sentinel.client()).await? == port, "they do not agree");
        }
        let runs = |node: &Node| node.port == port && node.server.is_some();
        self.nodes.iter().position(runs).context("it does not run")
    }
}

impl Node {
    fn serve(&mut self, program: &Path, master: Option<u16>) -> Result<()> {
        let mut command = Command::new(program);
        command.current_dir(&self.home).arg("--dir").arg(&self.home);
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--daemonize", "no", "--repl-diskless-sync-delay", "0"]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
        if let Some(master) = master {
            command.args(["--replicaof", "127.0.0.1", &master.to_string()]);
        }
        let log = self.home.with_extension("log");
        self.server = Some(Server::start(command, &log, Signal::SIGKILL)?);
        Ok(())
    }

    async fn info(&self) -> Result<String> {
        let mut connection = connect(&self.client, ANSWER_MAX).await?;
        Ok(redis::cmd("INFO").query_async(&mut connection).await?)
    }

    async fn follow(&self, master: u16) -> Result<()> {
        let mut connection = connect(&self.client, ANSWER_MAX).await?;
        let mut command = redis::cmd("REPLICAOF");
        Ok(command.arg("127.0.0.1").arg(master).query_async(&mut connection).await?)
    }

    /// Bytes of the copy that the append-only file begins with.
    fn base_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(self.home.join("appendonlydir"))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().contains(".base.") {
                bytes += entry.metadata()?.len();
            }
        }
        Ok(bytes)
    }
}

/// Whether a replica that says `info` has received all and has it in an append-only file, which it
/// writes anew after it has received a whole copy.
fn is_synced(info: &str) -> Result<()> {
    for wanted in [
        "master_link_status:up",
        "aof_rewrite_in_progress:0",
        "aof_rewrite_scheduled:0",
        "aof_last_bgrewrite_status:ok",
    ] {
        ensure!(info.lines().any(|line| line.trim_end() == wanted), "not {wanted}");
    }
    Ok(())
}

#[async_trait(?Send)]
impl Target for Redis {
    fn version(&self) -> String {
        self.version.clone()
    }

    async fn connect(&self, clients: usize, purpose: Purpose) -> Result<Connections> {
        let (sentinels, limit) = match purpose {
            Purpose::Load => (&[][..], WAIT_MAX),
            Purpose::Fault => (&self.sentinels[..], WAIT_MAX_AT_FAULTS),
        };
        let sentinels: Vec<_> = sentinels.iter().map(|one| one.client().clone()).collect();
        let master = &self.nodes[self.master].client;
        let mut connections = Connections::new();
        for _ in 0..clients {
            let client = Client::open(master, sentinels.clone(), limit).await?;
            connections.push(Box::new(client));
        }
        Ok(connections)
    }

    fn abilities(&self) -> Abilities {
        Abilities { catches_up: false, has_data_process: false }
    }

    async fn expect_faults(&mut self) -> Result<()> {
        self.add_node()?;
        let master = self.nodes[self.master].port;
        for number in 1..=SENTINELS {
            let name = format!("sentinel{number}");
            self.sentinels.push(Sentinel::start(&self.program, &self.directory, &name, master)?);
        }
        self.wait_until_whole().await
    }

    async fn switch_over(&mut self) -> Result<()> {
        let sentinel = self.sentinels.first().context("there are no sentinels")?;
        let old = master_port(sentinel.client()).await?;
        sentinel.fail_over().await?;
        eventually("the sentinel names another master", || async {
            ensure!(master_port(sentinel.client()).await? != old, "not yet");
            Ok(())
        })
        .await
    }

    async fn kill(&mut self, _: Fault) -> Result<()> {
        let master = self.agreed_master().await?;
        self.nodes[master].server = None;
        Ok(())
    }

    async fn recover(&mut self) -> Result<()> {
        let agreed = eventually("the sentinels agree on a master", || self.agreed_master());
        self.master = agreed.await?;
        for number in 0..self.nodes.len() {
            if self.nodes[number].server.is_none() {
                self.serve(number)?;
            }
        }
        self.wait_until_whole().await
    }

    async fn stop_passive(&mut self) -> Result<()> {
        bail!("a replica of Redis that starts again takes a whole copy")
    }

    async fn catch_up(&mut self) -> Result<()> {
        bail!("a replica of Redis that starts again takes a whole copy")
    }

    async fn seed(&mut self) -> Result<(u64, f64)> {
        let replica = (0..self.nodes.len()).find(|number| *number != self.master);
        let number = replica.context("there is no replica")?;
        let node = &mut self.nodes[number];
        node.server = None;
        std::fs::remove_dir_all(&node.home)?;
        std::fs::create_dir(&node.home)?;
        let begun = Instant::now();
        self.serve(number)?;
        self.wait_until_whole().await?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok((self.nodes[number].base_bytes()?, seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_synced_once_its_append_only_file_is_written() {
        let synced = "master_link_status:up\r\naof_rewrite_in_progress:0\r\n\
            aof_rewrite_scheduled:0\r\naof_last_bgrewrite_status:ok\r\n";
        assert!(is_synced(synced).is_ok());
        for (word, other) in [("up", "down"), ("progress:0", "progress:1"), ("ok", "err")] {
            assert!(is_synced(&synced.replace(word, other)).is_err(), "{other}");
        }
    }
}

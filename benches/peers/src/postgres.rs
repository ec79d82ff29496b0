//! PostgreSQL: a primary and two streaming standbys, one of them synchronous.
//!
//! It moves the active role only with a tool around it. Here we do what such a tool does once it
//! has made up its mind, so that a gap holds no time of finding out: a lower bound.
//!
//! All nodes have the same settings: each names all as synchronous and all as its primary, so that
//! whoever is promoted finds a standby to wait for, and standbys find whoever is promoted.

mod host;
mod session;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use keelson_testkit::{eventually, eventually_for, free_port};
use nix::sys::signal::Signal;
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use crate::place::Place;
use crate::process::Server;
use crate::target::{Abilities, Connections, Fault, Purpose, Target};
use host::Host;
use session::{Session, TABLE, connect};

pub(crate) const SETTINGS: &str = "a primary and two standbys; fsync on, synchronous_commit on, \
    synchronous_standby_names 'FIRST 1 (n1, n2, n3)': a commit waits for the sync of the primary \
    and of the first standby; shared_buffers 512 MB, max_wal_size 4 GB, wal_keep_size 2 GB, \
    wal_retrieve_retry_interval 100 ms, all else as initdb leaves it; no TLS, a connection per \
    client over TCP; table (key bytea primary key, value bytea), prepared INSERT ... ON CONFLICT \
    DO UPDATE, batches as one such statement over unnest; reads of the primary; a whole copy is \
    pg_basebackup with WAL, synced; nothing watches it: after a kill the standby that has more WAL \
    is promoted at once, and a switchover is CHECKPOINT, fast shutdown, pg_promote; standbys and \
    clients name all nodes and follow whichever takes writes";

const NODES: usize = 3;
const USER: &str = "keelson";
const CONNECT_MAX: Duration = Duration::from_secs(1);
const PREPARE_MAX: Duration = Duration::from_secs(60);
const CATCH_UP_MAX: Duration = Duration::from_secs(600);

pub(crate) struct Postgres {
    // Before the directory is left.
    nodes: Vec<Node>,
    host: Host,
    primary: usize,
    version: String,
}

struct Node {
    /// Of its directory, and as a standby.
    name: String,
    port: u16,
    server: Option<Server>,
}

impl Postgres {
    pub(crate) async fn start(place: &Place) -> Result<Self> {
        let host = Host::prepare(place)?;
        let version = host.version()?;
        let mut nodes = Vec::new();
        for number in 1..=NODES {
            nodes.push(Node { name: format!("n{number}"), port: free_port()?, server: None });
        }
        let user = format!("--username={USER}");
        let arguments = ["-D", "n1", &user, "--auth=trust", "--encoding=UTF8", "--locale=C"];
        host.succeed("initdb", &arguments)?;
        let mut new = Self { nodes, host, primary: 0, version };
        new.serve(0)?;
        eventually("the primary answers", || async { connect(&new.anyone()).await })
            .await
            .with_context(|| format!("it says: {}", new.host.last_lines("n1")))?;
        for number in new.standbys() {
            new.serve_copy(number)?;
        }
        new.wait_until_whole().await?;
        connect(&new.anyone()).await?.batch_execute(TABLE).await?;
        Ok(new)
    }

    /// The standbys, in the order of `synchronous_standby_names`: commits wait for the first.
    fn standbys(&self) -> [usize; 2] {
        match self.primary {
            0 => [1, 2],
            1 => [0, 2],
            _ => [0, 1],
        }
    }

    fn config(nodes: &[Node]) -> Config {
        let mut config = Config::new();
        config.user(USER).dbname("postgres").connect_timeout(CONNECT_MAX);
        for node in nodes {
            config.host("127.0.0.1").port(node.port);
        }
        config
    }

    /// Whichever node takes writes.
    fn anyone(&self) -> Config {
        let mut config = Self::config(&self.nodes);
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config
    }

    fn serve(&mut self, number: usize) -> Result<()> {
        let hosts = ["127.0.0.1"; NODES].join(",");
        let ports: Vec<_> = self.nodes.iter().map(|node| node.port.to_string()).collect();
        let node = &mut self.nodes[number];
        let follows = format!(
            "host={hosts} port={} user={USER} application_name={} target_session_attrs=read-write",
            ports.join(","),
            node.name
        );
        node.server = Some(self.host.serve(&node.name, node.port, &follows)?);
        Ok(())
    }

    /// A copy of the primary in the directory `name`, synced.
    fn copy_to(&self, name: &str) -> Result<()> {
        let from = format!("host=127.0.0.1 port={} user={USER}", self.nodes[self.primary].port);
        let arguments =
            ["-D", name, "-d", &from, "--wal-method=stream", "--checkpoint=fast", "--no-password"];
        self.host.succeed("pg_basebackup", &arguments)
    }

    /// Starts a standby with a new copy of the primary.
    fn serve_copy(&mut self, number: usize) -> Result<()> {
        let name = &self.nodes[number].name;
        self.copy_to(name)?;
        self.host.make_standby(name)?;
        self.serve(number)
    }

    /// Waits until the primary knows as many standbys of which `condition` is true.
    async fn wait_for_standbys(&self, count: i64, condition: &str, limit: Duration) -> Result<()> {
        let query = format!("SELECT count(*) FROM pg_stat_replication WHERE {condition}");
        let primary = connect(&self.anyone()).await?;
        eventually_for(limit, "the standbys are there", || async {
            let found: i64 = primary.query_one(&query, &[]).await?.try_get(0)?;
            ensure!(found == count, "{found} of {count}");
            Ok(())
        })
        .await
    }

    async fn wait_until_whole(&self) -> Result<()> {
        let follow = "state = 'streaming' AND sync_state IN ('sync', 'potential')";
        self.wait_for_standbys(2, follow, PREPARE_MAX).await
    }

    /// Promotes the standby that has more of the log: it has every commit that was acknowledged,
    /// and the other one can follow it.
    async fn promote(&mut self) -> Result<()> {
        let [first, second] = self.standbys();
        let (in_first, in_second) = tokio::try_join!(self.received(first), self.received(second))?;
        let best = if in_first >= in_second { first } else { second };
        let client = connect(&Self::config(&self.nodes[best..=best])).await?;
        let promoted: bool = client.query_one("SELECT pg_promote()", &[]).await?.try_get(0)?;
        ensure!(promoted, "{} was not promoted", self.nodes[best].name);
        self.primary = best;
        Ok(())
    }

    /// How far a standby's log reaches, once no more can come: what a receiver has got, it syncs
    /// when it ends.
    async fn received(&self, number: usize) -> Result<i64> {
        let client = connect(&Self::config(&self.nodes[number..=number])).await?;
        let streams = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        eventually("the standby notices that its primary is gone", || async {
            let count: i64 = client.query_one(streams, &[]).await?.try_get(0)?;
            ensure!(count == 0, "not yet");
            Ok(())
        })
        .await?;
        let end = "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')::bigint";
        Ok(client.query_one(end, &[]).await?.try_get(0)?)
    }
}

#[async_trait(?Send)]
impl Target for Postgres {
    fn version(&self) -> String {
        self.version.clone()
    }

    async fn connect(&self, clients: usize, _: Purpose) -> Result<Connections> {
        let mut connections = Connections::new();
        for _ in 0..clients {
            connections.push(Box::new(Session::open(self.anyone()).await?));
        }
        Ok(connections)
    }

    fn abilities(&self) -> Abilities {
        Abilities { catches_up: true, has_data_process: false }
    }

    async fn switch_over(&mut self) -> Result<()> {
        let old = self.primary;
        // So that little is left to write while nobody takes puts.
        connect(&self.anyone()).await?.batch_execute("CHECKPOINT").await?;
        let mut server = self.nodes[old].server.take().context("the primary does not run")?;
        // It ends once its standbys have all.
        server.stop(Signal::SIGINT, PREPARE_MAX)?;
        self.promote().await?;
        self.host.make_standby(&self.nodes[old].name)?;
        self.serve(old)
    }

    async fn kill(&mut self, _: Fault) -> Result<()> {
        let node = &mut self.nodes[self.primary];
        let mut server = node.server.take().context("the primary does not run")?;
        server.kill_with_children();
        self.promote().await
    }

    async fn recover(&mut self) -> Result<()> {
        for number in self.standbys() {
            if self.nodes[number].server.is_none() {
                // It may have log that nobody else has, and so cannot follow as it is.
                self.host.remove_shared_memory(&self.nodes[number].name)?;
                self.host.remove(&self.nodes[number].name)?;
                self.serve_copy(number)?;
            }
        }
        self.wait_until_whole().await
    }

    async fn stop_passive(&mut self) -> Result<()> {
        let [_, passive] = self.standbys();
        self.nodes[passive].server = None;
        Ok(())
    }

    async fn catch_up(&mut self) -> Result<()> {
        let [_, passive] = self.standbys();
        self.serve(passive)?;
        let equal = format!(
            "application_name = '{}' AND flush_lsn >= pg_current_wal_lsn()",
            self.nodes[passive].name
        );
        self.wait_for_standbys(1, &equal, CATCH_UP_MAX).await
    }

    async fn seed(&mut self) -> Result<(u64, f64)> {
        let begun = Instant::now();
        self.copy_to("seeded")?;
        let seconds = begun.elapsed().as_secs_f64();
        let bytes = self.host.size_of("seeded")?;
        self.host.remove("seeded")?;
        Ok((bytes, seconds))
    }
}

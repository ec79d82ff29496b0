//! Redis: a master and a replica, both with an append-only file that is synced for every write.
//!
//! Without its sentinels, which are servers of their own, it has no failover. A replica that was
//! killed takes a whole copy, so there is no catch-up either.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use keelson_testkit::{eventually, free_port};
use nix::sys::signal::Signal;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use crate::place::Place;
use crate::process::{Server, find_program, says};
use crate::target::{Abilities, Connection, Connections, Fault, Purpose, Target};

pub(crate) const SETTINGS: &str = "a master and a replica; appendonly yes, appendfsync always, \
    save \"\" (no snapshots); no TLS, a connection per client; SET or MSET of 100, and WAIT 1 \
    in the same packet: the master has synced, the replica has received, which is less than the \
    others promise; reads of the master";

/// How long a write waits for the replica, in milliseconds.
const WAIT_MAX_MILLIS: u32 = 10_000;
const ANSWER_MAX: Duration = Duration::from_secs(15);

pub(crate) struct Redis {
    _replica: Server,
    _master: Server,
    client: redis::Client,
    version: String,
}

impl Redis {
    pub(crate) async fn start(place: &Place) -> Result<Self> {
        let program = find_program("redis-server", "redis-server")?;
        let directory = place.fresh("redis")?;
        let (port, replica_port) = (free_port()?, free_port()?);
        let master = serve(&program, &directory, "master", port, None)?;
        let replica = serve(&program, &directory, "replica", replica_port, Some(port))?;
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
        let version = says(&program, "--version")?;
        let new = Self { _replica: replica, _master: master, client, version };
        eventually("the replica follows", || async {
            let mut connection = new.connection().await?;
            let info: String =
                redis::cmd("INFO").arg("replication").query_async(&mut connection).await?;
            ensure!(info.contains("state=online"), "not yet");
            Ok(())
        })
        .await?;
        Ok(new)
    }

    async fn connection(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_MAX));
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

fn serve(
    program: &Path,
    directory: &Path,
    name: &str,
    port: u16,
    master: Option<u16>,
) -> Result<Server> {
    let home: PathBuf = directory.join(name);
    std::fs::create_dir(&home)?;
    let mut command = Command::new(program);
    command.current_dir(&home).arg("--dir").arg(&home);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);
    if let Some(master) = master {
        command.args(["--replicaof", "127.0.0.1", &master.to_string()]);
    }
    Server::start(command, &directory.join(format!("{name}.log")), Signal::SIGKILL)
}

#[async_trait(?Send)]
impl Target for Redis {
    fn version(&self) -> String {
        self.version.clone()
    }

    async fn connect(&self, clients: usize, _: Purpose) -> Result<Connections> {
        let mut connections = Connections::new();
        for _ in 0..clients {
            connections.push(Box::new(Client(self.connection().await?)));
        }
        Ok(connections)
    }

    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    async fn switch_over(&mut self) -> Result<()> {
        bail!("Redis moves the active role only with sentinels")
    }

    async fn kill(&mut self, _: Fault) -> Result<()> {
        bail!("Redis fails over only with sentinels")
    }

    async fn recover(&mut self) -> Result<()> {
        Ok(())
    }

    async fn stop_passive(&mut self) -> Result<()> {
        bail!("a replica of Redis that was killed takes a whole copy")
    }

    async fn catch_up(&mut self) -> Result<()> {
        bail!("a replica of Redis that was killed takes a whole copy")
    }

    async fn seed(&mut self) -> Result<(u64, f64)> {
        bail!("Redis makes no copy of files")
    }
}

struct Client(MultiplexedConnection);

impl Client {
    /// Writes, and waits for the replica.
    async fn write(&mut self, write: redis::Cmd) -> Result<()> {
        let mut pipe = redis::pipe();
        pipe.add_command(write).ignore().cmd("WAIT").arg(1).arg(WAIT_MAX_MILLIS);
        let (replicas,): (u32,) = pipe.query_async(&mut self.0).await?;
        ensure!(replicas == 1, "the replica did not answer within {WAIT_MAX_MILLIS} ms");
        Ok(())
    }
}

#[async_trait]
impl Connection for Client {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        let mut set = redis::cmd("SET");
        set.arg(&key[..]).arg(&value[..]);
        self.write(set).await
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>> {
        let value: Option<Vec<u8>> =
            redis::cmd("GET").arg(&key[..]).query_async(&mut self.0).await?;
        Ok(value.map(|value| value.len()))
    }

    async fn batch(&mut self, records: Vec<(Bytes, Bytes)>) -> Result<()> {
        let mut set = redis::cmd("MSET");
        for (key, value) in &records {
            set.arg(&key[..]).arg(&value[..]);
        }
        self.write(set).await
    }
}

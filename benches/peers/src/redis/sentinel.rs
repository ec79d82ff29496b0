//! The sentinels of Redis: they watch the master, agree that it is gone, and promote a replica.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keelson_testkit::free_port;
use nix::sys::signal::Signal;
use redis::{FromRedisValue, RedisError};

use super::client::{at, connect};
use crate::process::Server;

/// What the sentinels call the master and its replicas.
const GROUP: &str = "peers";
const ANSWER_MAX: Duration = Duration::from_secs(1);

pub(super) struct Sentinel {
    _server: Server,
    client: redis::Client,
}

impl Sentinel {
    /// Starts one; it rewrites its configuration file as it learns.
    pub(super) fn start(program: &Path, directory: &Path, name: &str, master: u16) -> Result<Self> {
        let port = free_port()?;
        let file = directory.join(format!("{name}.conf"));
        let text = format!(
            "port {port}\nbind 127.0.0.1\n\
             sentinel monitor {GROUP} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {GROUP} 1000\n\
             sentinel failover-timeout {GROUP} 10000\n"
        );
        std::fs::write(&file, text)?;
        let mut command = Command::new(program);
        command.arg(&file).arg("--sentinel").current_dir(directory);
        let log = directory.join(format!("{name}.log"));
        let server = Server::start(command, &log, Signal::SIGKILL)?;
        Ok(Self { _server: server, client: at(port)? })
    }

    pub(super) fn client(&self) -> &redis::Client {
        &self.client
    }

    /// Tells it to promote a replica; it has only begun when this returns.
    pub(super) async fn fail_over(&self) -> Result<()> {
        ask(&self.client, "FAILOVER").await
    }

    /// Checks that it sees the master at `port`, all replicas and all other sentinels, none down.
    pub(super) async fn sees(&self, port: u16, replicas: usize, others: usize) -> Result<()> {
        let master: Facts = ask(&self.client, "MASTER").await?;
        for (name, wanted) in [
            ("port", port.to_string()),
            ("flags", "master".into()),
            ("num-slaves", replicas.to_string()),
            ("num-other-sentinels", others.to_string()),
        ] {
            ensure!(master.get(name) == Some(&wanted), "{name} is {:?}", master.get(name));
        }
        let all: Vec<Facts> = ask(&self.client, "REPLICAS").await?;
        let fit = |facts: &&Facts| facts.get("flags").is_some_and(|flags| flags == "slave");
        ensure!(all.iter().filter(fit).count() == replicas, "a replica is down: {all:?}");
        Ok(())
    }
}

type Facts = HashMap<String, String>;

/// Where a sentinel says that the master is.
pub(super) async fn master_port(sentinel: &redis::Client) -> Result<u16> {
    let address: Option<(String, u16)> = ask(sentinel, "GET-MASTER-ADDR-BY-NAME").await?;
    Ok(address.context("the sentinel knows no master")?.1)
}

async fn ask<A: FromRedisValue>(sentinel: &redis::Client, what: &str) -> Result<A> {
    let mut connection = connect(sentinel, ANSWER_MAX).await?;
    let answer: Result<A, RedisError> =
        redis::cmd("SENTINEL").arg(what).arg(GROUP).query_async(&mut connection).await;
    answer.with_context(|| format!("SENTINEL {what}"))
}

//! One client of Redis: a write counts once a replica has it, too.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use super::sentinel;
use crate::target::Connection;

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Between questions for the master.
const RETRY: Duration = Duration::from_millis(10);

/// A client that asks the sentinels, one after the other, for the master when a write fails.
pub(super) struct Client {
    connection: MultiplexedConnection,
    sentinels: Vec<redis::Client>,
    asked: usize,
    /// How long a write waits for a replica.
    limit: Duration,
}

/// Who answers at a port of this machine.
pub(super) fn at(port: u16) -> Result<redis::Client> {
    Ok(redis::Client::open(format!("redis://127.0.0.1:{port}/"))?)
}

pub(super) async fn connect(
    server: &redis::Client,
    answer_max: Duration,
) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(answer_max));
    Ok(server.get_multiplexed_async_connection_with_config(&config).await?)
}

impl Client {
    pub(super) async fn open(
        master: &redis::Client,
        sentinels: Vec<redis::Client>,
        limit: Duration,
    ) -> Result<Self> {
        let connection = connect(master, 2 * limit).await?;
        Ok(Self { connection, sentinels, asked: 0, limit })
    }

    /// Writes, and waits for a replica.
    async fn write(&mut self, write: redis::Cmd) -> Result<()> {
        let written = self.write_here(write).await;
        if written.is_err() && !self.sentinels.is_empty() {
            tokio::time::sleep(RETRY).await;
            // Who cannot be found now is looked for after the next write, which fails, too.
            let _ = self.find_master().await;
        }
        written
    }

    async fn write_here(&mut self, write: redis::Cmd) -> Result<()> {
        let limit = u64::try_from(self.limit.as_millis())?;
        let mut pipe = redis::pipe();
        pipe.add_command(write).ignore().cmd("WAIT").arg(1).arg(limit);
        let (replicas,): (u32,) = pipe.query_async(&mut self.connection).await?;
        ensure!(replicas >= 1, "no replica answered within {limit} ms");
        Ok(())
    }

    async fn find_master(&mut self) -> Result<()> {
        self.asked = (self.asked + 1) % self.sentinels.len();
        let sentinel = self.sentinels.get(self.asked).context("there is no sentinel")?;
        let master = at(sentinel::master_port(sentinel).await?)?;
        self.connection = connect(&master, 2 * self.limit).await?;
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
            redis::cmd("GET").arg(&key[..]).query_async(&mut self.connection).await?;
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

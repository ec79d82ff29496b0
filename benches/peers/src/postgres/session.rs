//! One client of PostgreSQL: prepared statements on one connection.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::{Client, Config, NoTls, Statement};

use crate::target::Connection;

pub(super) const TABLE: &str = "CREATE TABLE kv (key bytea PRIMARY KEY, value bytea NOT NULL)";
const PUT: &str = "INSERT INTO kv (key, value) VALUES ($1, $2) \
    ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value";
const BATCH: &str = "INSERT INTO kv (key, value) SELECT * FROM unnest($1::bytea[], $2::bytea[]) \
    ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value";
const GET: &str = "SELECT value FROM kv WHERE key = $1";

/// Between attempts to find the primary: each makes a process on every node.
const RETRY: Duration = Duration::from_millis(10);

/// A client that finds the primary anew when its connection is lost.
pub(super) struct Session {
    config: Config,
    client: Client,
    put: Statement,
    get: Statement,
    batch: Statement,
}

pub(super) async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

impl Session {
    pub(super) async fn open(config: Config) -> Result<Self> {
        let client = connect(&config).await?;
        let put = client.prepare(PUT).await?;
        let get = client.prepare(GET).await?;
        let batch = client.prepare(BATCH).await?;
        Ok(Self { config, client, put, get, batch })
    }
}

#[async_trait]
impl Connection for Session {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        if self.client.is_closed() {
            tokio::time::sleep(RETRY).await;
            *self = Self::open(self.config.clone()).await?;
        }
        self.client.execute(&self.put, &[&&*key, &&*value]).await?;
        Ok(())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>> {
        let row = self.client.query_opt(&self.get, &[&&*key]).await?;
        row.map(|row| Ok(row.try_get::<_, &[u8]>(0)?.len())).transpose()
    }

    async fn batch(&mut self, records: Vec<(Bytes, Bytes)>) -> Result<()> {
        let (keys, values): (Vec<&[u8]>, Vec<&[u8]>) =
            records.iter().map(|(key, value)| (&**key, &**value)).unzip();
        self.client.execute(&self.batch, &[&keys, &values]).await?;
        Ok(())
    }
}

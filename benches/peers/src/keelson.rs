//! Keelson: three members of two processes each, one database with a copy on every member.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use keelson_client::{Database, WriteBatch, v1};
use keelson_testkit::{Cluster, ClusterOptions, eventually, eventually_for};

use crate::place::Place;
use crate::process::says;
use crate::target::{Abilities, Connection, Connections, Fault, Purpose, Target};

pub(crate) const SETTINGS: &str = "three members, a copy on each, default settings: a write is \
    acknowledged when it is synced on the active and on one other member; content index on; mutual \
    TLS on every connection, that of the clients too (two connections for all clients); reads of \
    the active copy, linearizable";

pub(crate) const SETTINGS_PLAIN: &str = "the same, with content_index off";

const DATABASE: &str = "DB1";
/// How long a planned move may take.
const MOVE_MAX: Duration = Duration::from_secs(30);
/// How long a copy may take to catch up.
const CATCH_UP_MAX: Duration = Duration::from_secs(600);

pub(crate) struct Keelson {
    cluster: Cluster,
    place: std::path::PathBuf,
    version: String,
    /// The member that was killed.
    down: Option<String>,
}

impl Keelson {
    pub(crate) async fn start(place: &Place, content_index: bool) -> Result<Self> {
        let options = ClusterOptions { log_level: "warn".into(), ..ClusterOptions::default() };
        let cluster = Cluster::start_with(options).await?;
        let version = says(cluster.binary(), "--version")?;
        let settings = v1::DatabaseSettings {
            content_index: Some(content_index),
            ..v1::DatabaseSettings::default()
        };
        cluster.client().admin().create_database(DATABASE, cluster.names(), settings).await?;
        let database = cluster.client().database(DATABASE);
        eventually("the database answers", || async { Ok(database.get("nothing").await?) }).await?;
        cluster.wait_until_counting(DATABASE).await?;
        Ok(Self { cluster, place: place.path().to_owned(), version, down: None })
    }

    async fn rows(&self) -> Result<Vec<v1::CopyStatusRow>> {
        Ok(self.cluster.client().admin().copy_status(DATABASE, "").await?)
    }

    /// Whoever plans a switchover waits until the target can be searched.
    async fn wait_until_indexed(&self, member: &str) -> Result<()> {
        eventually_for(CATCH_UP_MAX, "the target's content index is whole", || async {
            let rows = self.rows().await?;
            let row = rows.iter().find(|row| row.member == member).context("no such copy")?;
            let facts = row.facts.as_ref().context("the copy says nothing")?;
            let state = facts.content_index.as_ref().map_or("Disabled", |index| &index.state);
            ensure!(matches!(state, "Healthy" | "Disabled"), "it is {state}");
            Ok(())
        })
        .await
    }

    async fn passive(&self) -> Result<String> {
        let active = self.cluster.active_of(DATABASE).await?;
        let other = self.cluster.names().into_iter().rev().find(|name| *name != active);
        other.context("there is one member only")
    }
}

#[async_trait(?Send)]
impl Target for Keelson {
    fn version(&self) -> String {
        self.version.clone()
    }

    async fn connect(&self, clients: usize, _: Purpose) -> Result<Connections> {
        let database = self.cluster.client().database(DATABASE);
        let new = |_| Box::new(Client(database.clone())) as Box<dyn Connection>;
        Ok((0..clients).map(new).collect())
    }

    fn abilities(&self) -> Abilities {
        Abilities { catches_up: true, has_data_process: true }
    }

    async fn switch_over(&mut self) -> Result<()> {
        self.cluster.wait_until_counting(DATABASE).await?;
        let to = self.passive().await?;
        self.wait_until_indexed(&to).await?;
        let client = self.cluster.client();
        let operation = client.admin().switchover(DATABASE, &to, "peers").await?;
        client.operations().wait(operation, MOVE_MAX).await?;
        Ok(())
    }

    async fn kill(&mut self, fault: Fault) -> Result<()> {
        let active = self.cluster.active_of(DATABASE).await?;
        let member = self.cluster.member(&active);
        match fault {
            Fault::Process => member.kill_data_process(),
            Fault::Member => {
                member.kill()?;
                self.down = Some(active);
                Ok(())
            }
        }
    }

    async fn recover(&mut self) -> Result<()> {
        if let Some(name) = self.down.take() {
            self.cluster.member(&name).start()?;
        }
        self.cluster.wait_until_whole().await?;
        self.cluster.wait_until_counting(DATABASE).await
    }

    async fn stop_passive(&mut self) -> Result<()> {
        let name = self.passive().await?;
        self.cluster.member(&name).kill()?;
        self.down = Some(name);
        Ok(())
    }

    async fn catch_up(&mut self) -> Result<()> {
        let name = self.down.take().context("no member is down")?;
        self.cluster.member(&name).start()?;
        eventually_for(CATCH_UP_MAX, "the copy has all log", || async {
            let rows = self.rows().await?;
            let end = |row: &v1::CopyStatusRow| row.facts.as_ref().and_then(|facts| facts.log_end);
            let active = rows.iter().find(|row| row.active).and_then(end);
            let copy = rows.iter().find(|row| row.member == name && row.reachable);
            ensure!(active.is_some() && copy.and_then(end) == active, "it is behind");
            Ok(())
        })
        .await
    }

    async fn seed(&mut self) -> Result<(u64, f64)> {
        let (member, begun) = (self.passive().await?, Instant::now());
        let dir = self.place.display().to_string();
        let words = ["--yes", "bench", "seed", "--database", DATABASE, "--member", &member];
        let words = words.into_iter().chain(["--dir", &dir]);
        let data = self.cluster.cli().json(words).await?;
        let seed = &data["seed"];
        let bytes = seed["bytes"].as_u64().context("the seed has no bytes")?;
        let seconds = seed["seconds"].as_f64().unwrap_or_else(|| begun.elapsed().as_secs_f64());
        self.cluster.wait_until_counting(DATABASE).await?;
        Ok((bytes, seconds))
    }
}

struct Client(Database);

#[async_trait]
impl Connection for Client {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        self.0.put(key, value).await?;
        Ok(())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>> {
        Ok(self.0.get(key).await?.map(|value| value.len()))
    }

    async fn batch(&mut self, records: Vec<(Bytes, Bytes)>) -> Result<()> {
        let mut batch = WriteBatch::new();
        for (key, value) in records {
            batch.push_put(key, value);
        }
        self.0.write(batch).await?;
        Ok(())
    }
}

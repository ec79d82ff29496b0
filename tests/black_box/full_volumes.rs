//! G7: volumes that fill up, of logs and of stores, at the active and at a passive. What is full
//! is a quota, and a stranger's file fills it; when the file goes, everything goes on by itself.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, Writer, WriterOptions, eventually};
use keelson_types::RefusalReason;
use serde_json::Value;

use crate::bad_input::check;
use crate::moves::another;
use crate::space::events;

/// Both volumes have so much, of which 64 MiB are the reserve.
const SETTINGS: &str = "log_dir = \"logs\"\ndata_quota = \"160 MiB\"\nlog_quota = \"160 MiB\"";
/// Leaves less than the reserve.
const BALLAST_BYTES: usize = 110 * 1024 * 1024;

/// What is full.
#[derive(Clone, Copy)]
struct Volume {
    directory: &'static str,
    says: &'static str,
}

const LOG: Volume = Volume { directory: "logs", says: "the log volume is full" };
const STORE: Volume = Volume { directory: "data", says: "the store volume is full" };

async fn limited() -> Result<Cluster> {
    let options = ClusterOptions { settings: SETTINGS.into(), ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    Ok(cluster)
}

/// Fills a volume of a member; gives the file to be removed.
fn fill(cluster: &Cluster, member: &str, volume: Volume) -> Result<PathBuf> {
    let ballast = cluster.path().join(member).join(volume.directory).join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST_BYTES])?;
    Ok(ballast)
}

async fn row(cluster: &Cluster, member: &str) -> Result<Value> {
    let rows = cluster.cli().json(["copy", "status", "DB1", "--member", member]).await?;
    Ok(rows[0].clone())
}

async fn says(cluster: &Cluster, member: &str, text: &str) -> Result<()> {
    eventually(&format!("{member} says {text:?}"), || async {
        let row = row(cluster, member).await?;
        ensure!(row["shortage"] == text, "{row}");
        Ok(())
    })
    .await
}

/// Copies are equal, nothing is short, every copy counts.
async fn sound(cluster: &Cluster) -> Result<()> {
    cluster.wait_until_counting("DB1").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

async fn active_full(volume: Volume) -> Result<()> {
    let cluster = limited().await?;
    let database = cluster.client().database("DB1");
    let active = cluster.active_of("DB1").await?;
    database.put("before", "kept").await?;
    let ballast = fill(&cluster, &active, volume)?;
    let mut acknowledged = 0;
    let refused = eventually("a write is refused", || {
        acknowledged += 1;
        let (database, key) = (&database, format!("k{acknowledged:06}"));
        async move {
            match database.put(key, "v").await {
                Ok(_) => anyhow::bail!("it was taken"),
                Err(error) => Ok(error),
            }
        }
    })
    .await?;
    assert_eq!(refused.reason, RefusalReason::DiskFull, "{refused}");
    ensure!(refused.message.contains(volume.says), "{refused}");
    let output = cluster.cli().run(["kv", "put", "DB1", "x", "y"]).await?;
    check(&output, 4, "disk_full");
    says(&cluster, &active, volume.says).await?;
    let problems = cluster.cli().json(["cluster", "status"]).await?["problems"].to_string();
    ensure!(problems.contains(&format!("{active}: {}", volume.says)), "{problems}");
    // It stays the active, and reads are answered.
    assert_eq!(database.get("before").await?.as_deref(), Some(&b"kept"[..]));
    assert_eq!(cluster.active_of("DB1").await?, active);
    std::fs::remove_file(&ballast)?;
    eventually("writes resume by themselves", || async {
        Ok(database.put("after", "space is back").await?)
    })
    .await?;
    for number in 1..acknowledged {
        let found = database.get(format!("k{number:06}")).await?;
        ensure!(found.is_some(), "the acknowledged write {number} is lost");
    }
    assert_eq!(cluster.active_of("DB1").await?, active, "no epoch ended");
    eventually("the shortage and its end are events", || async {
        let told = events(&cluster, "volume_shortage").await?;
        let of_step =
            |step: &str| told.iter().filter(|event| event.to_string().contains(step)).count();
        ensure!(of_step("began") == 1 && of_step("ended") == 1, "{told:?}");
        Ok(())
    })
    .await?;
    sound(&cluster).await
}

async fn passive_full(volume: Volume, queue: &str) -> Result<()> {
    let cluster = limited().await?;
    let passive = another(&cluster, &cluster.active_of("DB1").await?);
    let options = WriterOptions { value_bytes: 1_024, ..WriterOptions::default() };
    let writer = Writer::start(cluster.client().database("DB1"), options);
    writer.progress(200).await?;
    let ballast = fill(&cluster, &passive, volume)?;
    says(&cluster, &passive, volume.says).await?;
    writer.progress(500).await?;
    eventually("what it has no room for waits", || async {
        let row = row(&cluster, &passive).await?;
        ensure!(row[queue].as_u64() > Some(0), "{row}");
        Ok(())
    })
    .await?;
    // The copy did not fail: it is there for seals and for whoever needs its log.
    assert_eq!(row(&cluster, &passive).await?["fault"], "");
    let oracle = writer.stop().await?;
    std::fs::remove_file(&ballast)?;
    says(&cluster, &passive, "").await?;
    sound(&cluster).await?;
    // All of it is on the copy that was full.
    cluster.cli().succeed(["switchover", "DB1", "--to", &passive]).await?;
    oracle.verify(&cluster.client().database("DB1")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_without_room_for_log_refuses_writes_and_goes_on_by_itself() -> Result<()> {
    active_full(LOG).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_without_room_for_its_store_refuses_writes_and_goes_on_by_itself() -> Result<()> {
    active_full(STORE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passive_without_room_for_log_waits_and_catches_up() -> Result<()> {
    passive_full(LOG, "copy_queue_bytes").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passive_without_room_for_its_store_replays_later() -> Result<()> {
    passive_full(STORE, "replay_queue_bytes").await
}

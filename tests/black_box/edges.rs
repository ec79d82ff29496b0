//! What once went wrong at the edges: long keys, copies that come back, many digests, watches whose
//! database goes away.

use std::time::Duration;

use anyhow::{Result, ensure};
use keelson_client::WriteBatch;
use keelson_testkit::eventually;

use crate::data::cluster;

/// A range of few but long keys is more than a message between members may carry, if it becomes
/// single deletes.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_long_keys_is_removed_on_every_copy() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let key = |number: usize| format!("{number:04}{}", "k".repeat(60 * 1024));
    for first in (0..400).step_by(100) {
        let mut batch = WriteBatch::new();
        (first..first + 100).for_each(|number| batch.push_put(key(number), "v"));
        database.write(batch).await?;
    }
    database.delete_range("0", "1").await?;
    database.put("z", "left").await?;
    assert_eq!(database.get(key(7)).await?, None);
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_without_an_end_is_removed_and_watched_as_such() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let mut batch = WriteBatch::new();
    (0..1_500).for_each(|number| batch.push_put(format!("k{number:05}"), "v"));
    database.write(batch).await?;
    database.delete_range("k00001", "").await?;
    assert_eq!(database.get("k01499").await?, None);
    ensure!(database.get("k00000").await?.is_some(), "the range began too early");
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_copy_can_be_added_again_on_the_same_member() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    database.put("before", "v").await?;
    for round in 0..2 {
        let gone = cluster.names().into_iter().next_back().unwrap_or_default();
        cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
        cluster.cli().succeed(["copy", "remove", "DB1", "--on", &gone, "--yes"]).await?;
        database.put(format!("without {round}"), "v").await?;
        cluster.cli().succeed(["copy", "add", "DB1", "--on", &gone]).await?;
        cluster.wait_until_caught_up("DB1").await?;
        cluster.equal_digest("DB1", 3).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_can_be_taken_as_often_as_one_likes() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    database.put("k", "v").await?;
    for _ in 0..40 {
        cluster.equal_digest("DB1", 3).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_when_its_database_is_removed() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    database.put("k", "v").await?;
    let mut watch = database.watch("", "");
    let first = watch.next();
    let (first, put) = tokio::join!(first, database.put("k", "w"));
    ensure!(put.is_ok() && first?.is_some(), "the watch never began");
    cluster.cli().succeed(["database", "dismount", "DB1", "--yes"]).await?;
    cluster.cli().succeed(["database", "remove", "DB1", "--yes"]).await?;
    let ended = tokio::time::timeout(Duration::from_secs(20), watch.next()).await?;
    ensure!(ended.is_err(), "the watch of a removed database goes on: {ended:?}");
    eventually("the name is free", || async {
        cluster.cli().succeed(["database", "create", "DB1", "--on", "m1,m2"]).await?;
        Ok(())
    })
    .await
}

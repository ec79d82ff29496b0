//! The active role moves while clients read, write and watch.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keelson_client::Change;
use keelson_testkit::{Cluster, Writer, WriterOptions, eventually};

use crate::data::cluster;

/// Any member but this one.
pub(crate) fn another(cluster: &Cluster, member: &str) -> String {
    cluster.names().into_iter().find(|name| name != member).expect("there are several")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_under_a_writer_loses_nothing_and_is_short() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let writer = Writer::start(database.clone(), WriterOptions::default());
    writer.progress(200).await?;
    for _ in 0..3 {
        let from = cluster.active_of("DB1").await?;
        let to = another(&cluster, &from);
        writer.reset_gap();
        cluster.cli().succeed(["switchover", "DB1", "--to", &to]).await?;
        assert_eq!(cluster.active_of("DB1").await?, to);
        writer.progress(200).await?;
        let gap = writer.longest_gap();
        // The aim is 20 ms on a quiet machine; this one runs other tests as well.
        ensure!(gap < Duration::from_secs(3), "nothing was written for {gap:?}");
    }
    let oracle = writer.stop().await?;
    oracle.verify(&database).await?;
    cluster.equal_digest("DB1", 3).await?;
    cluster.assert_clean_logs(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_follows_the_database_without_gaps() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let start = database.put("before", "1").await?.token;
    let mut watch = database.watch(start, "w/");
    let write = async {
        for number in 0..300 {
            database.put(format!("w/{number:04}"), "x").await?;
            if number % 100 == 50 {
                let from = cluster.active_of("DB1").await?;
                let to = another(&cluster, &from);
                cluster.cli().succeed(["switchover", "DB1", "--to", &to]).await?;
            }
        }
        anyhow::Ok(())
    };
    let read = async {
        let mut seen = Vec::new();
        while seen.len() < 300 {
            let event = watch.next().await?.context("the watch ended")?;
            ensure!(!event.truncated && !event.discarded, "the watch lost its place");
            seen.extend(event.changes);
        }
        Ok(seen)
    };
    let ((), seen) = tokio::try_join!(write, read)?;
    for (number, change) in seen.iter().enumerate() {
        let Change::Put(put) = change else { panic!("{change:?}") };
        assert_eq!(put.key, format!("w/{number:04}"), "nothing is missed and nothing comes twice");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_database_moves_back_and_its_copies_stay_equal() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let first = cluster.active_of("DB1").await?;
    let second = another(&cluster, &first);
    for to in [&second, &first, &second, &first] {
        cluster.cli().succeed(["switchover", "DB1", "--to", to]).await?;
        database.put(format!("written on {to}"), "x").await?;
    }
    let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
    assert_eq!(shown["active_member"], first.as_str());
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    let decisions = cluster.cli().json(["decision", "list", "DB1"]).await?;
    ensure!(decisions.as_array().is_some_and(|list| list.len() >= 4), "no records: {decisions}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dismounted_database_answers_nothing_until_it_is_mounted() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    database.put("k", "v").await?;
    let unconfirmed = cluster.cli().run(["database", "dismount", "DB1"]).await?;
    assert_eq!(unconfirmed.code, Some(2), "{unconfirmed:?}");
    cluster.cli().succeed(["database", "dismount", "DB1", "--yes"]).await?;
    let refused = database.get("k").await.unwrap_err();
    ensure!(refused.is_retryable(), "{refused}");
    cluster.cli().succeed(["database", "mount", "DB1"]).await?;
    eventually("the database answers again", || async {
        ensure!(database.get("k").await?.as_deref() == Some(&b"v"[..]), "the value is gone");
        Ok(())
    })
    .await
}

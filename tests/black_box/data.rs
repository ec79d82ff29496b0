//! Reading and writing through the client.

use anyhow::{Result, ensure};
use bytes::Bytes;
use keelson_client::{Change, Read, ScanOptions, WriteBatch};
use keelson_testkit::{Cluster, eventually};
use keelson_types::RefusalReason;

/// A cluster with DB1 on all three members.
pub(crate) async fn cluster() -> Result<Cluster> {
    let cluster = Cluster::start(3).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    Ok(cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_read_and_what_was_deleted_is_gone() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    for key in ["a", "b", "c", "d"] {
        database.put(key, format!("value of {key}")).await?;
    }
    assert_eq!(database.get("b").await?.as_deref(), Some(&b"value of b"[..]));
    database.delete("b").await?;
    assert_eq!(database.get("b").await?, None);
    database.delete_range("c", "d").await?;
    let left = database.scan(ScanOptions::default()).await?.collect().await?;
    assert_eq!(left.iter().map(|item| &item.key[..]).collect::<Vec<_>>(), [b"a", b"d"]);
    cluster.assert_clean_logs(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_are_ordered_bounded_and_see_one_snapshot() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let mut batch = WriteBatch::new();
    for number in 0..2_000 {
        batch.push_put(format!("k{number:05}"), vec![b'x'; 2_000]);
    }
    database.write(batch).await?;
    let mut scan = database.scan(ScanOptions::prefix("k")).await?;
    let first = scan.next().await?.expect("there are items");
    database.delete_range("k", "l").await?;
    let rest = scan.collect().await?;
    assert_eq!((&first.key[..], rest.len()), (&b"k00000"[..], 1_999));
    assert!(rest.windows(2).all(|pair| pair[0].key < pair[1].key));
    let options = ScanOptions { limit: 5, keys_only: true, ..ScanOptions::default() };
    database.put("z", "1").await?;
    let items = database.scan(options).await?.collect().await?;
    assert_eq!((items.len(), items[0].value.len()), (1, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_hold_or_nothing_is_applied() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    database.write(WriteBatch::new().if_absent("k").put("k", "1")).await?;
    let refused =
        database.write(WriteBatch::new().if_absent("k").put("k", "2").put("l", "2")).await;
    assert_eq!(refused.unwrap_err().reason, RefusalReason::ConditionFailed);
    assert_eq!(database.get("l").await?, None);
    database.write(WriteBatch::new().if_equals("k", "1").put("k", "3")).await?;
    assert_eq!(database.get("k").await?.as_deref(), Some(&b"3"[..]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_conditional_writers_count_without_loss() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    database.put("counter", "0").await?;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let database = database.clone();
        tasks.spawn(async move {
            for _ in 0..20 {
                increment(&database).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    assert_eq!(database.get("counter").await?.as_deref(), Some(&b"160"[..]));
    Ok(())
}

async fn increment(database: &keelson_client::Database) -> Result<()> {
    loop {
        let old = database.get("counter").await?.unwrap_or_default();
        let new = std::str::from_utf8(&old)?.parse::<u64>()? + 1;
        let batch = WriteBatch::new().if_equals("counter", old).put("counter", new.to_string());
        match database.write(batch).await {
            Ok(_) => return Ok(()),
            Err(error) if error.reason == RefusalReason::ConditionFailed => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_tells_where_a_write_is_and_what_a_read_must_see() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let token = database.put("k", "v").await?.token;
    let read = database.get_with("k", Read::AtLeast(token.clone())).await?;
    assert_eq!(read.as_deref(), Some(&b"v"[..]));
    eventually("the write is durable on all copies", || async {
        let answer = database.durability(token.clone()).await?;
        let durable = answer.copies.iter().filter(|copy| copy.durable).count();
        ensure!(answer.committed && !answer.discarded && durable == 3, "durable on {durable}");
        Ok(())
    })
    .await?;
    let refused = database.durability("no token").await.unwrap_err();
    assert_eq!(refused.reason, RefusalReason::BadArgument);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_every_change_once_and_in_order() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let start = database.put("before", "1").await?.token;
    let mut watch = database.watch(start, "w/");
    for number in 0..50 {
        database.put(format!("w/{number:03}"), number.to_string()).await?;
        database.put(format!("other/{number}"), "x").await?;
    }
    database.delete("w/000").await?;
    let mut seen = Vec::new();
    while seen.len() < 51 {
        let event = watch.next().await?.expect("the log is there");
        seen.extend(event.changes);
    }
    for (number, change) in seen.iter().take(50).enumerate() {
        let Change::Put(put) = change else { panic!("{change:?}") };
        assert_eq!(put.key, format!("w/{number:03}"));
    }
    assert_eq!(seen[50], Change::Delete(Bytes::from_static(b"w/000")));
    Ok(())
}

//! Points in time: read-only views of a copy at an instant.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::data::cluster;

/// A field of a copy's status.
async fn status(cluster: &Cluster, member: &str, field: &str) -> Result<Value> {
    let rows = cluster.cli().json(["copy", "status", "DB1", "--member", member]).await?;
    Ok(rows[0][field].clone())
}

/// Where the active's log ends now, once m3 has all of it.
pub(crate) async fn position(cluster: &Cluster) -> Result<String> {
    let end = status(cluster, "m1", "inspected").await?;
    eventually("m3 has the log", || async {
        let there = status(cluster, "m3", "inspected").await?;
        ensure!(there == end, "m3 is at {there}, not {end}");
        Ok(())
    })
    .await?;
    Ok(end.as_str().context("a position")?.to_owned())
}

async fn put(cluster: &Cluster, keys: std::ops::Range<u32>) -> Result<()> {
    let database = cluster.client().database("DB1");
    for key in keys {
        database.put(format!("key{key:04}"), format!("value {key}")).await?;
    }
    Ok(())
}

/// How many keys a database or fork shows.
async fn count(cluster: &Cluster, name: &str) -> Result<usize> {
    let items = cluster.cli().json(["kv", "scan", name]).await?;
    Ok(items.as_array().context("a list")?.len())
}

/// DB1 with a copy on m3 that lags, and 10 keys in its log that its store does not have.
pub(crate) async fn lagging() -> Result<Cluster> {
    let cluster = cluster().await?;
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--replay-lag", "1h"]).await?;
    eventually("m3 lags", || async {
        ensure!(status(&cluster, "m3", "participant").await? == false, "it counts");
        Ok(())
    })
    .await?;
    put(&cluster, 0..10).await?;
    Ok(cluster)
}

fn now() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// Several forks at once, by position and by time; stream and lag go on; forks survive the member.
#[tokio::test(flavor = "multi_thread")]
async fn a_lagged_copy_shows_any_instant_of_its_lag() -> Result<()> {
    let mut cluster = lagging().await?;
    let ten = position(&cluster).await?;
    put(&cluster, 10..15).await?;
    let before = now()?;
    eventually("the clock moves", || async {
        ensure!(now()? > before, "not yet");
        Ok(())
    })
    .await?;
    let fifteen =
        humantime::format_rfc3339_millis(UNIX_EPOCH + std::time::Duration::from_millis(before));
    cluster.client().database("DB1").delete("key0003").await?;
    put(&cluster, 15..20).await?;
    position(&cluster).await?;
    let replayed = status(&cluster, "m3", "replayed").await?;

    let fork = ["copy", "fork", "DB1@m3", "--at"];
    let one = cluster.cli().json(fork.iter().chain(&[ten.as_str(), "--name", "ten"])).await?;
    assert_eq!((&one["fork"], &one["state"]), (&"DB1@m3~ten".into(), &"ready".into()));
    cluster
        .cli()
        .succeed(fork.iter().chain(&[fifteen.to_string().as_str(), "--name", "fifteen"]))
        .await?;
    cluster.cli().succeed(fork.iter().chain(&["0s", "--name", "all"])).await?;
    assert_eq!(count(&cluster, "DB1@m3~ten").await?, 10);
    assert_eq!(count(&cluster, "DB1@m3~fifteen").await?, 15);
    assert_eq!(count(&cluster, "DB1@m3~all").await?, 19);
    let database = cluster.client().database("DB1@m3~ten");
    assert_eq!(database.get("key0003").await?.as_deref(), Some(&b"value 3"[..]));
    assert_eq!(database.get("key0012").await?, None);

    put(&cluster, 20..25).await?;
    position(&cluster).await?;
    assert_eq!(status(&cluster, "m3", "replayed").await?, replayed, "the lag is kept");
    assert_eq!(count(&cluster, "DB1@m3~all").await?, 19, "a fork does not move");

    cluster.member("m3").kill()?;
    cluster.member("m3").start()?;
    cluster.wait_until_whole().await?;
    eventually("the forks are there again", || async {
        ensure!(count(&cluster, "DB1@m3~ten").await? == 10, "another instant");
        Ok(())
    })
    .await?;
    let dropped = ["copy", "fork", "drop", "DB1@m3~ten"];
    assert_eq!(cluster.cli().run(dropped).await?.code, Some(2), "it asks first");
    cluster.cli().succeed(dropped.iter().chain(&["--yes"])).await?;
    let list = cluster.cli().json(["copy", "fork", "list", "DB1"]).await?;
    let names = list.as_array().context("a list")?.iter().map(|fork| fork["name"].clone());
    assert_eq!(names.collect::<Vec<_>>(), ["all", "fifteen"]);
    cluster.assert_clean_logs(crate::crashes::EXPECTED_ERRORS)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_goes_by_itself_when_its_time_is_over() -> Result<()> {
    let cluster = lagging().await?;
    let at = position(&cluster).await?;
    let fork = ["copy", "fork", "DB1@m3", "--name", "short", "--expires", "1s", "--at", &at];
    cluster.cli().succeed(fork).await?;
    let directory = cluster.path().join("m3/data/databases");
    eventually("nothing is left of it", || async {
        let list = cluster.cli().json(["copy", "fork", "list"]).await?;
        ensure!(list.as_array().is_some_and(Vec::is_empty), "{list}");
        for database in std::fs::read_dir(&directory)?.flatten() {
            let forks = database.path().join("forks");
            let left = std::fs::read_dir(forks).into_iter().flatten().count();
            ensure!(left == 0, "{left} files are left");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_forks_are_refused_with_codes() -> Result<()> {
    let cluster = lagging().await?;
    let at = position(&cluster).await?;
    let code = |arguments: Vec<String>| {
        let cli = cluster.cli().clone();
        async move {
            let output = cli.run(&arguments).await?;
            let code = output.error_code().map(str::to_owned);
            code.with_context(|| format!("{arguments:?} was not refused: {output:?}"))
        }
    };
    let fork = |rest: &[&str]| {
        let all = ["copy", "fork"].iter().chain(rest);
        all.map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let out = "instant_out_of_reach";
    assert_eq!(code(fork(&["DB1@m2", "--at", "1:200"])).await?, out, "its store is beyond");
    assert_eq!(code(fork(&["DB1@m3", "--at", "ff:1"])).await?, out, "not written yet");
    assert_eq!(code(fork(&["DB1@m3", "--at", "1000d"])).await?, out, "before its lag");
    assert_eq!(code(fork(&["DB1@m3", "--at", "2999-01-01T00:00:00Z"])).await?, out, "to come");
    assert_eq!(code(fork(&["DB9@m3", "--at", &at])).await?, "unknown_database");
    assert_eq!(code(fork(&["DB1@m9", "--at", &at])).await?, "unknown_member");
    assert_eq!(code(fork(&["DB1@m3", "--at", &at, "--name", "a~b"])).await?, "bad_name");
    cluster.cli().succeed(fork(&["DB1@m3", "--at", &at, "--name", "f"])).await?;
    assert_eq!(code(fork(&["DB1@m3", "--at", &at, "--name", "f"])).await?, "already_exists");
    let kv = |rest: &[&str]| {
        let all = ["kv"].iter().chain(rest);
        all.map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(code(kv(&["put", "DB1@m3~f", "k", "v"])).await?, "read_only");
    assert_eq!(code(kv(&["get", "DB1@m3~g", "k"])).await?, "unknown_fork");
    let drop = fork(&["drop", "DB1@m3~g", "--yes"]);
    assert_eq!(code(drop).await?, "unknown_fork");
    Ok(())
}

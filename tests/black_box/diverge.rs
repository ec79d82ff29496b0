//! Copies whose stores are set right from another copy: range repair, resync after a fork.

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, eventually};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::bad_input::check;
use crate::data::cluster;
use crate::space::events;

async fn status(cluster: &Cluster, member: &str) -> Result<Value> {
    let rows = cluster.cli().json(["copy", "status", "DB1", "--member", member]).await?;
    Ok(rows[0].clone())
}

/// Waits until no mark stands and the copy counts again; returns what its last fetch was.
pub(crate) async fn whole(cluster: &Cluster, member: &str) -> Result<Value> {
    eventually(&format!("DB1@{member} is whole"), || async {
        let row = status(cluster, member).await?;
        ensure!(row["status"] == "Healthy" && row["participant"] == true, "{row}");
        let over = row["divergence"]["phase"] == "" && row["divergence"]["fetched_keys"] != 0;
        ensure!(over, "{row}");
        Ok(row["divergence"].clone())
    })
    .await
}

/// S15: keys are fetched from another copy while clients write; a copy that dies meanwhile goes on
/// from its mark.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_anew_from_another_copy() -> Result<()> {
    let mut cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    let database = cluster.client().database("DB1");
    for number in 0..400 {
        database.put(format!("k{number:03}"), vec![7; 2_000]).await?;
    }
    cluster.wait_until_caught_up("DB1").await?;
    let active = cluster.cli().run(["copy", "repair", "DB1@m1", "--yes"]).await?;
    check(&active, 3, "precondition");
    let empty = ["copy", "repair", "DB1@m2", "--from", "b", "--to", "a", "--yes"];
    check(&cluster.cli().run(empty).await?, 3, "bad_argument");
    let unknown = cluster.cli().run(["copy", "repair", "DB1@m9", "--yes"]).await?;
    check(&unknown, 3, "unknown_member");

    let part = ["copy", "repair", "DB1@m2", "--from", "k100", "--to", "k200", "--yes"];
    cluster.cli().succeed(part).await?;
    let fetched = whole(&cluster, "m2").await?;
    assert_eq!((&fetched["fetched_keys"], &fetched["rung"]), (&100.into(), &"range repair".into()));
    cluster.equal_digest("DB1", 3).await?;

    cluster.cli().succeed(["copy", "repair", "DB1@m3", "--yes"]).await?;
    cluster.member("m3").kill()?;
    for number in 400..450 {
        database.put(format!("k{number:03}"), "late").await?;
    }
    cluster.member("m3").start()?;
    cluster.wait_until_whole().await?;
    eventually("DB1@m3 is healthy", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["status"] == "Healthy" && row["participant"] == true, "{row}");
        Ok(())
    })
    .await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    let kept = cluster.cli().json(["copy", "salvage", "list", "DB1@m3"]).await?;
    assert_eq!(kept, serde_json::json!([]), "nothing was cut");
    Ok(())
}

/// S14: a copy whose keys are being fetched shows no instant, answers nobody, and is not activated,
/// also where nobody else is there; it goes on once its donor is back, and is whole then.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_not_whole_is_neither_forked_nor_activated() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    cluster.create_database("DB1", &["m1", "m3"]).await?;
    cluster.wait_until_counting("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    let database = cluster.client().database("DB1");
    for number in 0..50 {
        database.put(format!("k{number:03}"), vec![7; 2_000]).await?;
    }
    cluster.wait_until_counting("DB1").await?;
    // The only donor hangs, and so does the active: nobody can give m3 its keys.
    let donor = cluster.member("m1").data_pid().context("no data process")?;
    kill(donor, Signal::SIGSTOP)?;
    cluster.cli().succeed(["copy", "repair", "DB1@m3", "--yes"]).await?;
    eventually("m3 is being repaired", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["status"] == "RangeRepair", "{row}");
        Ok(())
    })
    .await?;
    let forked = cluster.cli().run(["copy", "fork", "DB1@m3", "--at", "0s"]).await?;
    assert_eq!(forked.error_code(), Some("copy_failed"), "{forked:?}");
    eventually("the database waits for a whole copy", || async {
        ensure!(!events(&cluster, "activation_waiting").await?.is_empty(), "not yet");
        Ok(())
    })
    .await?;
    let row = status(&cluster, "m3").await?;
    ensure!(row["serving"] == false && row["status"] == "RangeRepair", "{row}");
    let moved = cluster.cli().run(["switchover", "DB1", "--to", "m3"]).await?;
    ensure!(moved.code != Some(0), "{moved:?}");
    kill(donor, Signal::SIGCONT)?;
    eventually("the whole copy serves again", || async {
        ensure!(database.get("k003").await?.is_some_and(|value| value.len() == 2_000));
        Ok(())
    })
    .await?;
    assert_eq!(cluster.active_of("DB1").await?, "m1");
    let fetched = whole(&cluster, "m3").await?;
    ensure!(fetched["fetched_keys"].as_u64() >= Some(50), "{fetched}");
    cluster.equal_digest("DB1", 2).await?;
    cluster.cli().succeed(["copy", "fork", "DB1@m3", "--at", "0s", "--name", "after"]).await?;
    assert_eq!(
        cluster.client().database("DB1@m3~after").get("k003").await?.map(|v| v.len()),
        Some(2_000)
    );
    Ok(())
}

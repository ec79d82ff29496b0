//! Copies whose stores are set right from another copy: range repair, resync after a fork.

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::bad_input::check;
use crate::data::cluster;

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

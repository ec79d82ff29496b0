//! What operators do to passive copies, and what the copies then do.

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::bad_input::check;
use crate::data::cluster;

/// A copy as `copy status -o json` shows it.
async fn status(cluster: &Cluster, member: &str) -> Result<Value> {
    let rows = cluster.cli().json(["copy", "status", "DB1", "--member", member]).await?;
    Ok(rows[0].clone())
}

async fn until_status(cluster: &Cluster, member: &str, wanted: &str) -> Result<Value> {
    eventually(&format!("DB1@{member} is {wanted}"), || async {
        let row = status(cluster, member).await?;
        ensure!(row["status"] == wanted, "{row}");
        Ok(row)
    })
    .await
}

/// F43, F44: suspended with a comment, kept over restarts, left out of the commit rule, resumed.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_copy_stays_so_over_a_restart_and_catches_up_when_resumed() -> Result<()> {
    let mut cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    let database = cluster.client().database("DB1");
    database.put("before", "v").await?;
    cluster.wait_until_caught_up("DB1").await?;
    let active = cluster.cli().run(["copy", "suspend", "DB1@m1"]).await?;
    check(&active, 3, "precondition");
    let long = "x".repeat(513);
    let refused = cluster.cli().run(["copy", "suspend", "DB1@m3", "--comment", &long]).await?;
    check(&refused, 3, "bad_argument");
    cluster.cli().succeed(["copy", "suspend", "DB1@m3", "--comment", "new disk"]).await?;
    let row = until_status(&cluster, "m3", "Suspended").await?;
    assert_eq!((&row["suspend_comment"], &row["participant"]), (&"new disk".into(), &false.into()));
    cluster.member("m3").kill()?;
    cluster.member("m3").start()?;
    cluster.wait_until_whole().await?;
    until_status(&cluster, "m3", "Suspended").await?;
    for number in 0..50 {
        database.put(format!("k{number}"), "v").await?;
    }
    let row = status(&cluster, "m3").await?;
    ensure!(row["inspected"] != status(&cluster, "m1").await?["inspected"], "it took log: {row}");
    let refused = cluster.cli().run(["switchover", "DB1", "--to", "m3"]).await?;
    check(&refused, 3, "target_unfit");
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// F44: only activation is blocked; copying goes on. The block ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_of_activation_ends_by_itself() -> Result<()> {
    let cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    let args = ["copy", "suspend", "DB1@m2", "--activation-only", "--for", "2s"];
    cluster.cli().succeed(args).await?;
    assert_eq!(status(&cluster, "m2").await?["activation_suspended"], true);
    let refused = cluster.cli().run(["switchover", "DB1", "--to", "m2"]).await?;
    check(&refused, 3, "target_unfit");
    cluster.client().database("DB1").put("k", "v").await?;
    cluster.wait_until_caught_up("DB1").await?;
    eventually("the time of the suspension is over", || async {
        ensure!(status(&cluster, "m2").await?["activation_suspended"] == false, "still blocked");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m2"]).await?;
    Ok(())
}

/// F151: lags are 0 to 14 days, and the last HA copies stay HA copies.
#[tokio::test(flavor = "multi_thread")]
async fn lags_out_of_bounds_are_refused() -> Result<()> {
    let cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    for lag in ["15days", "-5", "1209601"] {
        let refused = cluster.cli().run(["copy", "set", "DB1@m3", "--replay-lag", lag]).await?;
        check(&refused, 3, "bad_argument");
    }
    let refused = cluster.cli().run(["copy", "set", "DB1@m1", "--replay-lag", "1h"]).await?;
    check(&refused, 3, "precondition");
    let unknown = cluster.cli().run(["copy", "set", "DB1@m9", "--preference", "1"]).await?;
    check(&unknown, 3, "unknown_member");
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--preference", "1"]).await?;
    assert_eq!(status(&cluster, "m3").await?["activation_preference"], 1);
    Ok(())
}

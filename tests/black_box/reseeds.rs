//! Copies that stay failed are made anew by themselves, within limits (F128-F130).

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::copies::{status, until_status};
use crate::space::{cluster_without_m3, events, set, until_m3_misses_log};

/// A cluster whose copy on m3 has missed log that is gone, with an automation that does not wait.
async fn cluster_with_a_copy_that_misses_log() -> Result<Cluster> {
    let cluster = cluster_without_m3("1").await?;
    until_m3_misses_log(&cluster).await?;
    // A seed holds log, which expanded truncation would take.
    set(&cluster, "expanded_truncation_copies", "0").await?;
    set(&cluster, "autoreseed_check_period", "1s").await?;
    set(&cluster, "autoreseed_after", "0s").await?;
    Ok(cluster)
}

fn steps(told: &[Value]) -> Vec<String> {
    told.iter().map(|event| event["message"].to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_misses_log_is_seeded_by_itself() -> Result<()> {
    let mut cluster = cluster_with_a_copy_that_misses_log().await?;
    let before = status(&cluster, "m3").await?["copy"].clone();
    let switch = ["database", "set", "DB1", "--autoreseed", "false"];
    cluster.cli().succeed(switch).await?;
    cluster.member("m3").start()?;
    let row = eventually("it is failed, and automation says why it does nothing", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["status"] == "FailedAndSuspended", "{row}");
        let why = row["autoreseed"]["blocked"].as_str().unwrap_or_default();
        ensure!(why.contains("off for the database"), "{row}");
        Ok(row)
    })
    .await?;
    assert_eq!(
        (&row["failure_tag"], &row["failure_action"]),
        (&"missing_log".into(), &"reseed".into())
    );
    eventually("that is an event", || async {
        let told = steps(&events(&cluster, "auto_reseed").await?);
        ensure!(told.iter().any(|step| step.contains("blocked")), "{told:?}");
        Ok(())
    })
    .await?;
    eventually("and a decision, which can be explained", || async {
        let decisions = cluster.cli().json(["decision", "list", "DB1"]).await?;
        let mut decisions = decisions.as_array().into_iter().flatten();
        let reseed = decisions.find(|one| one.to_string().contains("\"reseed\":"));
        let id = reseed.context("none is kept")?["index"].to_string();
        let explained = cluster.cli().json(["decision", "explain", &id]).await?;
        ensure!(explained["agrees"] == true, "{explained}");
        let change = ["decision", "explain", &id, "--what-if", "on=true"];
        let otherwise = cluster.cli().json(change).await?;
        ensure!(otherwise["agrees"] == false, "{otherwise}");
        Ok(())
    })
    .await?;
    let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
    assert_eq!(shown["autoreseed"], false);

    let on = ["database", "set", "DB1", "--autoreseed", "true"];
    cluster.cli().succeed(on).await?;
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    ensure!(status(&cluster, "m3").await?["copy"] != before, "a seed makes another copy");
    eventually("the way of it are events, and nothing is left", || async {
        let told = steps(&events(&cluster, "auto_reseed").await?);
        let said = |word: &str| told.iter().any(|step| step.contains(word));
        ensure!(said("seeding") && said("done") && !said("resumed"), "{told:?}");
        let row = status(&cluster, "m3").await?;
        ensure!(row["autoreseed"].is_null() && row["failure_tag"] == "", "{row}");
        Ok(())
    })
    .await
}

/// F130: switched off for all, or the member under maintenance: nothing is done, and it says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_and_a_maintenance_keep_copies_from_being_seeded() -> Result<()> {
    let mut cluster = cluster_with_a_copy_that_misses_log().await?;
    set(&cluster, "autoreseed", "false").await?;
    cluster.member("m3").start()?;
    eventually("the cluster has it switched off", || async {
        let row = status(&cluster, "m3").await?;
        let why = row["autoreseed"]["blocked"].as_str().unwrap_or_default();
        ensure!(why.contains("off in this cluster"), "{row}");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["member", "maintenance", "start", "m3"]).await?;
    set(&cluster, "autoreseed", "true").await?;
    eventually("a member under maintenance is left alone", || async {
        let row = status(&cluster, "m3").await?;
        let why = row["autoreseed"]["blocked"].as_str().unwrap_or_default();
        ensure!(why.contains("under maintenance"), "{row}");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["member", "maintenance", "stop", "m3"]).await?;
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

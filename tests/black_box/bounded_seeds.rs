//! Seeds that have too little room: refused before a byte is sent, and ended before they take what
//! the member's other copies need. What is full is a quota; a stranger's file fills it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, eventually};
use serde_json::Value;

use crate::bad_input::check;
use crate::copies::until_status;
use crate::seed_kills::staged;
use crate::seeds::{begin, fill, nothing_is_left, operation, rate, until_ended, until_phase};

/// Seeds leave 128 MiB of each free; writes are refused below 64 MiB.
const SETTINGS: &str = "log_dir = \"logs\"\ndata_quota = \"256 MiB\"\nlog_quota = \"256 MiB\"";
/// Leaves less than a seed must leave, and more than writes need.
const BALLAST_BYTES: usize = 120 * 1024 * 1024;

/// DB1 on all three members, active on m1, with about 24 MiB of content.
async fn limited() -> Result<Cluster> {
    let options = ClusterOptions { settings: SETTINGS.into(), ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    let args = ["database", "create", "DB1", "--on", "m1,m2,m3", "--generation-size", "1MiB"];
    cluster.cli().succeed(args).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    fill(&cluster, 0, 48).await?;
    cluster.wait_until_counting("DB1").await?;
    let often = ["cluster", "settings", "set", "space_check_period", "1s"];
    cluster.cli().succeed(often).await?;
    Ok(cluster)
}

/// Fills a volume of m3; gives the file to be removed.
fn ballast(cluster: &Cluster, volume: &str) -> Result<PathBuf> {
    let path = cluster.path().join("m3").join(volume).join("ballast");
    std::fs::write(&path, vec![1; BALLAST_BYTES])?;
    Ok(path)
}

/// What the check of space says, once it passes or does not.
async fn until_space(cluster: &Cluster, passed: bool) -> Result<Value> {
    eventually(&format!("the check of space passes: {passed}"), || async {
        let checks = cluster.cli().json(["copy", "seed", "DB1@m3", "--what-if"]).await?;
        let mut checks = checks.as_array().into_iter().flatten();
        let space = checks.find(|row| row["check"] == "space").context("no such check")?;
        ensure!(space["passed"] == passed, "{space}");
        Ok(space.clone())
    })
    .await
}

/// F59: by the check of the cluster, which goes by the last look at the volume; and by the target
/// itself, which looks when it knows what comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_space_is_refused_before_a_byte_is_sent() -> Result<()> {
    let cluster = limited().await?;
    let cli = cluster.cli();
    cli.succeed(["copy", "suspend", "DB1@m3", "--comment", "new disk"]).await?;
    let seed = ["copy", "seed", "DB1@m3", "--yes"];
    for (volume, says) in [("data", "data volume"), ("logs", "log volume")] {
        until_space(&cluster, true).await?;
        let ballast = ballast(&cluster, volume)?;
        let space = until_space(&cluster, false).await?;
        assert_eq!(space["code"], "no_space_for_seed", "{space}");
        ensure!(space["found"].as_str().is_some_and(|found| found.contains(says)), "{space}");
        check(&cli.run(seed).await?, 3, "no_space_for_seed");
        std::fs::remove_file(ballast)?;
    }
    until_space(&cluster, true).await?;
    let seldom = ["cluster", "settings", "set", "space_check_period", "1h"];
    cli.succeed(seldom).await?;
    let _ballast = ballast(&cluster, "data")?;
    let begun = cli.json(["copy", "seed", "DB1@m3", "--background", "--yes"]).await?;
    let ended = until_ended(&cluster, begun["operation"].as_str().context("not begun")?).await?;
    assert_eq!((&ended["state"], &ended["code"]), (&"failed".into(), &"no_space_for_seed".into()));
    assert_eq!(ended["seed"]["bytes_received"], 0, "{ended}");
    nothing_is_left(&cluster).await
}

/// G7: a volume that fills up during a seed ends the seed and nothing else: what it staged is given
/// back, the old copy is as it was, and with room again the seed succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_ends_before_the_volume_is_full() -> Result<()> {
    let cluster = limited().await?;
    rate(&cluster, "1048576").await?;
    let id = begin(&cluster, &[]).await?;
    until_phase(&cluster, &id, "transferring").await?;
    let home = cluster.path().join("m3/data/databases");
    eventually("something is staged", || async {
        let bytes = staged(&home, false);
        ensure!(bytes > 1024 * 1024, "{bytes}");
        Ok(())
    })
    .await?;
    let ballast = ballast(&cluster, "data")?;
    let ended = until_ended(&cluster, &id).await?;
    assert_eq!((&ended["state"], &ended["code"]), (&"failed".into(), &"no_space_for_seed".into()));
    ensure!(ended["seed"]["bytes_received"].as_u64() > Some(0), "{ended}");
    nothing_is_left(&cluster).await?;
    cluster.client().database("DB1").put("meanwhile", "taken").await?;
    until_status(&cluster, "m3", "Suspended").await?;
    std::fs::remove_file(ballast)?;
    rate(&cluster, "0").await?;
    until_space(&cluster, true).await?;
    let again = cluster.cli().json(["copy", "seed", "DB1@m3", "--yes"]).await?;
    let shown = operation(&cluster, again["operation"].as_str().unwrap_or_default()).await?;
    assert_eq!(shown["state"], "succeeded", "{shown}");
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    nothing_is_left(&cluster).await
}

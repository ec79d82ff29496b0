//! Who pays when space is short, and who does not: each rule of expanded truncation on real
//! members.
//!
//! Volumes are made short by their threshold or by ballast; generations are of 1 MiB.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, eventually};
use nix::fcntl::posix_fallocate;
use serde_json::Value;

use crate::bad_input::check;
use crate::copies::{generation, status, until_status};
use crate::seeds::{
    begin, fill, nothing_is_left, on_three, operation, rate, until_ended, until_phase,
};
use crate::space::{ABOVE_ALL, cluster_without_m3, events, set, until_m3_misses_log};

const MIB: i64 = 1024 * 1024;

/// Reserves bytes of a member's log volume; a quota counts blocks.
fn ballast(cluster: &Cluster, member: &str, bytes: i64) -> Result<PathBuf> {
    let path = cluster.path().join(member).join("logs").join("ballast");
    let file = std::fs::File::create(&path)?;
    posix_fallocate(&file, 0, bytes)?;
    Ok(path)
}

async fn truncated(cluster: &Cluster, member: &str) -> Result<u64> {
    Ok(generation(&status(cluster, member).await?, "truncated"))
}

/// F106: a passive whose own volume is short keeps the newest log and gives up what is older,
/// without asking; the active keeps all of it, and nobody is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_passive_that_is_short_alone_costs_nobody_his_log() -> Result<()> {
    let settings = "log_dir = \"logs\"\nlog_quota = \"320 MiB\"".into();
    let options = ClusterOptions { settings, ..ClusterOptions::default() };
    let mut cluster = Cluster::start_with(options).await?;
    let args = ["database", "create", "DB1", "--on", "m1,m2,m3", "--generation-size", "1MiB"];
    cluster.cli().succeed(args).await?;
    for (name, value) in [
        ("space_check_period", "1s"),
        ("expanded_truncation_copies", "1"),
        ("expanded_truncation_logs", "2"),
        ("expanded_truncation_low_space", "128MiB"),
    ] {
        set(&cluster, name, value).await?;
    }
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.member("m3").kill()?;
    fill(&cluster, 0, 24).await?;
    // Log of the newest epoch is what the commit rule counts on: it stays (review S16.4).
    for target in ["m2", "m1"] {
        cluster.cli().succeed(["switchover", "DB1", "--to", target]).await?;
    }
    cluster.client().database("DB1").put("newest", "epoch").await?;
    let path = ballast(&cluster, "m2", 220 * MIB)?;
    eventually("m2 gives up log that the active keeps", || async {
        ensure!(truncated(&cluster, "m2").await? >= 6, "{}", status(&cluster, "m2").await?);
        Ok(())
    })
    .await?;
    ensure!(truncated(&cluster, "m1").await? <= 1, "{}", status(&cluster, "m1").await?);
    ensure!(events(&cluster, "copy_cut_off").await?.is_empty(), "somebody was cut off");
    std::fs::remove_file(path)?;
    cluster.member("m3").start()?;
    cluster.wait_until_counting("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// F99 over F105: with circular logging off not even expanded truncation takes log that no backup
/// holds; it says that it is stuck. Once there is a backup, the log goes.
#[tokio::test(flavor = "multi_thread")]
async fn log_that_is_not_backed_up_stays_however_short_space_is() -> Result<()> {
    let cluster = cluster_without_m3("0").await?;
    cluster.cli().succeed(["database", "set", "DB1", "--circular-logging", "false"]).await?;
    set(&cluster, "expanded_truncation_copies", "1").await?;
    eventually("expanded truncation says that it is stuck", || async {
        ensure!(!events(&cluster, "expanded_truncation_stuck").await?.is_empty(), "not told");
        Ok(())
    })
    .await?;
    for member in ["m1", "m2"] {
        ensure!(truncated(&cluster, member).await? <= 1, "log is gone on {member}");
    }
    ensure!(events(&cluster, "copy_cut_off").await?.is_empty(), "cut off for nothing");
    let row = status(&cluster, "m1").await?;
    let at = row["committed"].as_str().context("no position")?;
    cluster.cli().succeed(["database", "backed-up", "DB1", at]).await?;
    until_m3_misses_log(&cluster).await
}

/// F105: a lagged copy may be the one that is furthest behind; what it has not received is what it
/// loses, not what it has not replayed.
#[tokio::test(flavor = "multi_thread")]
async fn a_lagged_copy_may_be_the_straggler_but_not_for_its_lag() -> Result<()> {
    let mut cluster = cluster_without_m3("0").await?;
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--replay-lag", "1h"]).await?;
    cluster.member("m3").start()?;
    eventually("m3 has all log and replays none of it", || async {
        let (m1, m3) = (status(&cluster, "m1").await?, status(&cluster, "m3").await?);
        ensure!(m3["inspected"] == m1["committed"] && m3["lag_in_force"] == true, "{m3}");
        Ok(())
    })
    .await?;
    set(&cluster, "expanded_truncation_copies", "1").await?;
    eventually("log goes that the lagged copy holds itself", || async {
        ensure!(truncated(&cluster, "m1").await? >= 6, "{}", status(&cluster, "m1").await?);
        Ok(())
    })
    .await?;
    ensure!(events(&cluster, "copy_cut_off").await?.is_empty(), "cut off although it has the log");
    cluster.member("m3").kill()?;
    let before = truncated(&cluster, "m1").await?;
    fill(&cluster, 100, 24).await?;
    eventually("log goes that the lagged copy never got", || async {
        let row = status(&cluster, "m1").await?;
        ensure!(generation(&row, "truncated") >= before + 6, "{row}");
        Ok(())
    })
    .await?;
    cluster.member("m3").start()?;
    let row = until_status(&cluster, "m3", "FailedAndSuspended").await?;
    ensure!(row["status_reason"].as_str().is_some_and(|r| r.contains("missing")), "{row}");
    Ok(())
}

/// The order in which things are given up (design §7): the hold of a seed goes after the copy. The
/// seed ends and says so; it never leaves a copy that misses log, and the next one is whole.
#[tokio::test(flavor = "multi_thread")]
async fn the_hold_of_a_seed_gives_way_and_the_copy_is_whole_in_the_end() -> Result<()> {
    let cluster = on_three().await?;
    cluster.cli().succeed(["database", "set", "DB1", "--circular-logging", "true"]).await?;
    rate(&cluster, "1MiB").await?;
    let seed = begin(&cluster, &[]).await?;
    until_phase(&cluster, &seed, "transferring").await?;
    fill(&cluster, 100, 12).await?;
    eventually("the seed is named as a holder of log", || async {
        ensure!(held_by_a_seed(&cluster).await?, "{}", status(&cluster, "m1").await?);
        Ok(())
    })
    .await?;
    for (name, value) in [
        ("space_check_period", "1s"),
        ("expanded_truncation_logs", "2"),
        ("expanded_truncation_low_space", ABOVE_ALL),
        ("expanded_truncation_copies", "1"),
    ] {
        set(&cluster, name, value).await?;
    }
    fill(&cluster, 200, 12).await?;
    eventually("the hold gave way", || async {
        ensure!(!held_by_a_seed(&cluster).await?, "{}", status(&cluster, "m1").await?);
        Ok(())
    })
    .await?;
    set(&cluster, "expanded_truncation_copies", "0").await?;
    rate(&cluster, "1GiB").await?;
    let ended = until_ended(&cluster, &seed).await?;
    ensure!(ended["code"] == "truncated", "{ended}");
    cluster.cli().succeed(["copy", "seed", "DB1@m3", "--yes"]).await?;
    cluster.wait_until_counting("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// Review S16.3: of the log that the target of a seed holds nothing is kept for it any longer, not
/// even for a copy that was cut off, and the hold outlives a switchover.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_moves_with_the_log_of_a_seed_and_over_a_switchover() -> Result<()> {
    let mut cluster = cluster_without_m3("1").await?;
    fill(&cluster, 100, 40).await?;
    until_m3_misses_log(&cluster).await?;
    set(&cluster, "expanded_truncation_copies", "0").await?;
    cluster.member("m3").start()?;
    until_status(&cluster, "m3", "FailedAndSuspended").await?;
    // Slow enough for a busy machine; the log is not held back.
    rate(&cluster, "128KiB").await?;
    let seed = begin(&cluster, &[]).await?;
    until_phase(&cluster, &seed, "transferring").await?;
    for (active, from) in [("m1", 200), ("m2", 300)] {
        // The source of the files may not be moved to otherwise.
        let args = ["switchover", "DB1", "--to", active, "--skip-lag-checks"];
        cluster.cli().succeed(args).await?;
        let begun = generation(&status(&cluster, active).await?, "committed");
        fill(&cluster, from, 10).await?;
        eventually("log goes that the target has, while its files still come", || async {
            let shown = operation(&cluster, &seed).await?;
            ensure!(shown["state"] == "running" && shown["phase"] == "transferring", "{shown}");
            let row = status(&cluster, active).await?;
            ensure!(generation(&row, "truncated") > begun + 1, "{row}");
            Ok(())
        })
        .await?;
    }
    rate(&cluster, "0").await?;
    let ended = until_ended(&cluster, &seed).await?;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    cluster.wait_until_counting("DB1").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    nothing_is_left(&cluster).await
}

async fn held_by_a_seed(cluster: &Cluster) -> Result<bool> {
    let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
    let rows = shown["log_held_by"].as_array().cloned().unwrap_or_default();
    let by_seed = |row: &Value| row["reason"].as_str().is_some_and(|r| r.contains("seed"));
    Ok(rows.iter().any(by_seed))
}

/// F109: a writer asks for its own last write by its commit token, or by its clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_by_token_asks_for_that_write_alone() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    cluster.create_database("DB2", &["m1", "m2", "m3"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    let put = |key: &'static str| {
        let cli = cluster.cli();
        async move {
            let written = cli.json(["kv", "put", "DB1", key, "v"]).await?;
            anyhow::Ok(written["token_base64"].as_str().unwrap_or_default().to_owned())
        }
    };
    let first = put("a").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["copy", "suspend", "DB1@m3"]).await?;
    until_status(&cluster, "m3", "Suspended").await?;
    let second = put("b").await?;
    let flush = |token: String| {
        let cli = cluster.cli();
        let args = ["guarantee", "flush", "DB1", "--constraint", "all_copies", "--token"];
        async move { cli.run(args.map(str::to_owned).into_iter().chain([token])).await }
    };
    let output = flush(first).await?;
    ensure!(output.code == Some(0), "the first write is on all copies: {output:?}");
    check(&flush(second.clone()).await?, 1, "guarantee_not_satisfied");
    check(&flush("not base64!".into()).await?, 3, "bad_argument");
    let before = |time: &'static str| {
        let args = ["guarantee", "flush", "DB1", "--constraint", "all_copies", "--written-before"];
        cluster.cli().run(args.into_iter().chain([time]))
    };
    check(&before("1s").await?, 1, "guarantee_not_satisfied");
    check(&before("2300-01-01T00:00:00Z").await?, 1, "guarantee_not_satisfied");
    check(&before("yesterday").await?, 2, "usage");
    let other = ["guarantee", "flush", "DB2", "--token", &second];
    check(&cluster.cli().run(other).await?, 3, "bad_argument");
    Ok(())
}

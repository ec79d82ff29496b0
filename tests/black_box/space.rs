//! Lags that are played down, log that goes against the ordinary rules, and the settings behind
//! both.
//!
//! A volume is made short of space by its threshold: raised above what is free, and back.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::bad_input::check;
use crate::copies::{generation, status, until_status};
use crate::data::cluster;
use crate::failures::{COUNTERS, cluster_on_bad_disks};

/// More than any volume has.
pub(crate) const ABOVE_ALL: &str = "1PiB";

pub(crate) async fn set(cluster: &Cluster, name: &str, value: &str) -> Result<()> {
    cluster.cli().succeed(["cluster", "settings", "set", name, value]).await?;
    Ok(())
}

/// The messages of all events of a kind.
pub(crate) async fn events(cluster: &Cluster, kind: &str) -> Result<Vec<Value>> {
    let events = cluster.cli().json(["event", "list", "--limit", "500"]).await?;
    let events = events.as_array().cloned().unwrap_or_default();
    Ok(events.into_iter().filter(|event| event["kind"] == kind).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_checked_recorded_and_told() -> Result<()> {
    let cluster = cluster().await?;
    let settings = ["cluster", "settings"];
    for (name, value, code) in [
        ("colour", "1", "unknown_setting"),
        ("play_down_copies", "-1", "bad_argument"),
        ("play_down_copies", "17", "bad_argument"),
        ("play_down_low_space", "-5GiB", "bad_argument"),
        ("play_down_copies_for", "15days", "bad_argument"),
        ("space_check_period", "0s", "bad_argument"),
        ("play_down_resume_below", "36ms", "bad_argument"),
        ("play_down", "maybe", "bad_argument"),
    ] {
        let refused = cluster.cli().run(["cluster", "settings", "set", name, value]).await?;
        check(&refused, 3, code);
    }
    check(
        &cluster.cli().run(["cluster", "settings", "reset", "colour"]).await?,
        3,
        "unknown_setting",
    );
    check(
        &cluster.cli().run(["cluster", "settings", "show", "colour"]).await?,
        3,
        "unknown_setting",
    );
    let shown = |name: &'static str| {
        let cli = cluster.cli();
        async move { cli.json([settings[0], settings[1], "show", name]).await }
    };
    let args = ["cluster", "settings", "set", "play_down_copies", "2", "--what-if"];
    cluster.cli().succeed(args).await?;
    assert_eq!(shown("play_down_copies").await?["value"], 3, "only asked");
    set(&cluster, "play_down_copies", "2").await?;
    let row = shown("play_down_copies").await?;
    assert_eq!((&row["value"], &row["changed"]), (&2.into(), &true.into()), "{row}");
    ensure!(!events(&cluster, "setting_changed").await?.is_empty(), "no event");
    cluster.cli().succeed(["cluster", "settings", "reset", "play_down_copies"]).await?;
    assert_eq!(shown("play_down_copies").await?["value"], 3);
    let all = cluster.cli().json(["cluster", "settings", "list"]).await?;
    ensure!(all.as_array().is_some_and(|rows| rows.len() > 8), "{all}");
    Ok(())
}

/// F47: a closed database, a dead member and a lost active show in the status, with reasons.
#[tokio::test(flavor = "multi_thread")]
async fn copies_say_what_they_are_and_why() -> Result<()> {
    let mut cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    cluster.client().database("DB1").put("k", "v").await?;
    cluster.wait_until_caught_up("DB1").await?;
    let row = status(&cluster, "m2").await?;
    for field in [
        "status_reason",
        "last_status_transition_time",
        "instance_start_time",
        "status_retrieved_time",
        "replay_queue_generations",
        "replay_lag_status",
        "replay_up_to",
        "latest_available_log_time",
        "required_logs_present",
        "log_free_bytes",
    ] {
        ensure!(!row[field].is_null() && row[field] != "", "{field}: {row}");
    }
    assert_eq!(row["status_reason"], "copying and replaying");
    cluster.cli().succeed(["database", "dismount", "DB1", "--yes"]).await?;
    until_status(&cluster, "m1", "Dismounted").await?;
    cluster.cli().succeed(["database", "mount", "DB1"]).await?;
    until_status(&cluster, "m2", "Healthy").await?;
    cluster.member("m3").kill()?;
    let row = until_status(&cluster, "m3", "ServiceDown").await?;
    ensure!(row["status_reason"].as_str().is_some_and(|why| why.contains("not answer")), "{row}");
    // Without the active and without a majority nobody takes its place.
    cluster.member("m1").kill()?;
    let row = until_status(&cluster, "m2", "DisconnectedAndHealthy").await?;
    assert_eq!(row["generated_is_stale"], true);
    Ok(())
}

/// A cluster whose copy on m3 lags by an hour and has log that waits, and the end of that log.
async fn lagged_cluster() -> Result<(Cluster, Value)> {
    let cluster = cluster().await?;
    let end = lag_on_m3(&cluster).await?;
    Ok((cluster, end))
}

async fn lag_on_m3(cluster: &Cluster) -> Result<Value> {
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    set(cluster, "space_check_period", "1s").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--replay-lag", "1h"]).await?;
    let row = eventually("the lag is in force", || async {
        let row = status(cluster, "m3").await?;
        ensure!(row["lag_in_force"] == true && row["participant"] == false, "{row}");
        Ok(row)
    })
    .await?;
    ensure!(row["replay_lag_status"].as_str().is_some_and(|l| l.contains("01:00:00")), "{row}");
    cluster.client().database("DB1").put("late", "v").await?;
    let end = status(cluster, "m1").await?["inspected"].clone();
    eventually("the log waits", || async {
        let row = status(cluster, "m3").await?;
        ensure!(row["inspected"] == end && row["replayed"] != end, "{row}");
        Ok(())
    })
    .await?;
    Ok(end)
}

async fn until_played_down(cluster: &Cluster, end: &Value, cause: &str) -> Result<()> {
    eventually(&format!("the lag is played down for {cause}"), || async {
        let row = status(cluster, "m3").await?;
        let causes = row["play_down_causes"].to_string();
        ensure!(row["lag_in_force"] == false && causes.contains(cause), "{row}");
        ensure!(row["replayed"] == *end, "{row}");
        Ok(())
    })
    .await
}

async fn until_in_force(cluster: &Cluster) -> Result<()> {
    eventually("the lag is in force again", || async {
        let row = status(cluster, "m3").await?;
        ensure!(row["lag_in_force"] == true, "{row}");
        Ok(())
    })
    .await
}

/// F90: low space plays the log down and space ends it; start and end are events with inputs.
#[tokio::test(flavor = "multi_thread")]
async fn a_lagged_copy_plays_down_on_low_space() -> Result<()> {
    let (cluster, end) = lagged_cluster().await?;
    set(&cluster, "play_down_low_space", ABOVE_ALL).await?;
    until_played_down(&cluster, &end, "LowSpace").await?;
    set(&cluster, "play_down_low_space", "0").await?;
    until_in_force(&cluster).await?;
    eventually("both are events", || async {
        let told = events(&cluster, "play_down_changed").await?;
        let said = |step: &str| {
            told.iter().any(|event| {
                let message = event["message"].as_str().unwrap_or_default();
                message.contains(step) && message.contains("free_bytes")
            })
        };
        ensure!(said("started") && said("ended"), "{told:?}");
        Ok(())
    })
    .await
}

/// F92: too few healthy copies without lag for too long; a switch turns it off.
#[tokio::test(flavor = "multi_thread")]
async fn a_lagged_copy_plays_down_when_too_few_others_are_there() -> Result<()> {
    let (cluster, end) = lagged_cluster().await?;
    set(&cluster, "play_down_copies_for", "2s").await?;
    until_played_down(&cluster, &end, "FewCopies").await?;
    set(&cluster, "play_down_copies", "2").await?;
    until_in_force(&cluster).await?;
    set(&cluster, "play_down_copies", "3").await?;
    until_played_down(&cluster, &end, "FewCopies").await?;
    set(&cluster, "play_down", "false").await?;
    until_in_force(&cluster).await?;
    set(&cluster, "play_down", "true").await?;
    until_played_down(&cluster, &end, "FewCopies").await?;
    let switch = ["database", "set", "DB1", "--play-down", "false"];
    cluster.cli().succeed(switch).await?;
    until_in_force(&cluster).await?;
    let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
    assert_eq!(shown["automations_off"], serde_json::json!(["play_down"]));
    Ok(())
}

/// What the kernel says of reads: each look finds ten more, which took so long each.
struct Reads {
    counters: PathBuf,
    reads: AtomicU64,
    millis: AtomicU64,
}

impl Reads {
    fn go_on(&self, each_millis: u64) -> Result<()> {
        let reads = self.reads.fetch_add(10, Relaxed);
        let millis = self.millis.fetch_add(10 * each_millis, Relaxed);
        let next = self.counters.with_extension("next");
        std::fs::write(&next, format!("{reads} 0 0 {millis} 0 0 0 0 0 0 0"))?;
        Ok(std::fs::rename(&next, &self.counters)?)
    }

    /// Reads take so long until the copy on m3 says this of its lag.
    async fn until(&self, cluster: &Cluster, each_millis: u64, says: &str) -> Result<Value> {
        eventually(&format!("reads of {each_millis} ms: {says}"), || async {
            self.go_on(each_millis)?;
            let row = status(cluster, "m3").await?;
            ensure!(row["replay_lag_status"].as_str().is_some_and(|l| l.contains(says)), "{row}");
            Ok(row)
        })
        .await
    }
}

/// F97: a busy disk defers a play-down, and one that is a little better does not let it go on yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_disk_defers_a_play_down() -> Result<()> {
    let (cluster, directory) = cluster_on_bad_disks().await?;
    let counters = directory.path().join(COUNTERS);
    let reads = Reads { counters, reads: AtomicU64::new(0), millis: AtomicU64::new(0) };
    let end = lag_on_m3(&cluster).await?;
    reads.go_on(50)?;
    set(&cluster, "play_down_copies_for", "2s").await?;
    let row = reads.until(&cluster, 50, "DiskLatency").await?;
    ensure!(row["lag_in_force"] == true && row["replayed"] != end, "{row}");
    ensure!(row["play_down_causes"].to_string().contains("FewCopies"), "{row}");
    // Several looks between the two thresholds.
    let looks = Instant::now() + Duration::from_secs(4);
    eventually("reads of 30 ms, for some looks", || async {
        let row = reads.until(&cluster, 30, "DiskLatency").await?;
        ensure!(Instant::now() > looks, "{row}");
        Ok(())
    })
    .await?;
    let row = reads.until(&cluster, 10, "ReplaySuspendReason:None").await?;
    ensure!(row["lag_in_force"] == false, "{row}");
    until_played_down(&cluster, &end, "FewCopies").await?;
    let told = events(&cluster, "play_down_changed").await?;
    let deferred = told.iter().any(|event| event["message"].to_string().contains("deferred"));
    ensure!(deferred, "{told:?}");
    Ok(())
}

/// F44: an operator sets the lag aside, with a reason, and puts it in force again.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_plays_a_lag_down() -> Result<()> {
    let (cluster, end) = lagged_cluster().await?;
    let both = ["copy", "set", "DB1@m2", "--preference", "3", "--disable-lag", "audit"];
    check(&cluster.cli().run(both).await?, 3, "precondition");
    assert_eq!(status(&cluster, "m2").await?["activation_preference"], 2, "nothing is half done");
    let long = "x".repeat(513);
    let refused = cluster.cli().run(["copy", "set", "DB1@m3", "--disable-lag", &long]).await?;
    check(&refused, 3, "bad_argument");
    let delay = ["copy", "set", "DB1@m3", "--play-down-max-delay", "-1"];
    check(&cluster.cli().run(delay).await?, 3, "bad_argument");
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--disable-lag", "audit"]).await?;
    eventually("it replays what waits", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["lag_in_force"] == false && row["replayed"] == end, "{row}");
        let line = row["replay_lag_status"].as_str().unwrap_or_default();
        ensure!(line.contains("PlayDownReason:LagDisabled"), "{row}");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--enable-lag"]).await?;
    until_in_force(&cluster).await
}

/// A cluster with small generations whose member m3 is dead while the others take 12 MiB.
pub(crate) async fn cluster_without_m3(expanded: &str) -> Result<Cluster> {
    let mut cluster = Cluster::start(3).await?;
    let args = ["database", "create", "DB1", "--on", "m1,m2,m3", "--generation-size", "1MiB"];
    cluster.cli().succeed(args).await?;
    cluster.cli().succeed(["database", "set", "DB1", "--circular-logging", "true"]).await?;
    for (name, value) in [
        ("space_check_period", "1s"),
        ("expanded_truncation_copies", expanded),
        ("expanded_truncation_logs", "2"),
        ("expanded_truncation_low_space", ABOVE_ALL),
    ] {
        set(&cluster, name, value).await?;
    }
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.member("m3").kill()?;
    let database = cluster.client().database("DB1");
    for number in 0..24 {
        database.put(format!("k{number}"), vec![number; 512 * 1024]).await?;
    }
    Ok(cluster)
}

/// Waits until the others have removed log that only the copy on m3 needs.
pub(crate) async fn until_m3_misses_log(cluster: &Cluster) -> Result<()> {
    eventually("log that only m3 needs goes on the others", || async {
        for member in ["m1", "m2"] {
            let row = status(cluster, member).await?;
            ensure!(generation(&row, "truncated") >= 6, "{row}");
        }
        Ok(())
    })
    .await
}

/// F104-F107: short of space, the active gives the copy up that is furthest behind, marks it first
/// and removes the log; it returns as FailedAndSuspended, over a resume too.
#[tokio::test(flavor = "multi_thread")]
async fn expanded_truncation_gives_up_the_copy_that_is_furthest_behind() -> Result<()> {
    let mut cluster = cluster_without_m3("1").await?;
    until_m3_misses_log(&cluster).await?;
    let row = status(&cluster, "m3").await?;
    assert_eq!(row["cut_off"], true, "{row}");
    ensure!(!events(&cluster, "copy_cut_off").await?.is_empty(), "no event of the mark");
    ensure!(!events(&cluster, "expanded_truncation").await?.is_empty(), "no event of the cut");
    cluster.member("m3").start()?;
    for _ in 0..2 {
        let row = until_status(&cluster, "m3", "FailedAndSuspended").await?;
        ensure!(row["status_reason"].as_str().is_some_and(|r| r.contains("missing")), "{row}");
        eventually("consensus keeps it suspended", || async {
            let row = status(&cluster, "m3").await?;
            ensure!(row["suspended_by"] == "fault" && row["cut_off"] == true, "{row}");
            Ok(())
        })
        .await?;
        cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    }
    let database = cluster.client().database("DB1");
    assert_eq!(database.get("k3").await?.map(|value| value.len()), Some(512 * 1024));
    Ok(())
}

/// F104: off by default: the log is kept for the copy that is away, and `database show` says so.
#[tokio::test(flavor = "multi_thread")]
async fn without_expanded_truncation_the_log_is_kept() -> Result<()> {
    let mut cluster = cluster_without_m3("0").await?;
    let shown = eventually("the dead copy is named as the holder, since when", || async {
        let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
        let held = shown["log_held_by"].as_array().cloned().unwrap_or_default();
        let holds = |row: &Value| row["holder"] == "copy on m3" && row["since"] != "";
        ensure!(held.iter().any(holds), "{shown}");
        Ok(shown)
    })
    .await?;
    ensure!(shown["log_free_bytes"].as_u64().is_some_and(|free| free > 0), "{shown}");
    eventually("the stores of the others are durable", || async {
        for member in ["m1", "m2"] {
            let row = status(&cluster, member).await?;
            ensure!(generation(&row, "checkpointed") >= 6, "{row}");
            ensure!(generation(&row, "truncated") <= 2, "log that m3 needs is gone: {row}");
        }
        Ok(())
    })
    .await?;
    cluster.member("m3").start()?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

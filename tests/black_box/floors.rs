//! Expanded truncation while log comes as fast as it can: the volumes of the copies that are left
//! stay above their reserve, no write is refused, and the copy that was away is the price.

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, Writer, WriterOptions};

use crate::copies::{generation, status, until_status};
use crate::space::{events, set};

/// Room for log, of which 64 MiB are the reserve. Data has a directory of its own.
const LOG_QUOTA: &str = "log_dir = \"logs\"\nlog_quota = \"320 MiB\"";
/// Below this expanded truncation begins.
const FLOOR: &str = "192MiB";
const FLOOR_BYTES: u64 = 192 * 1024 * 1024;
const VALUE_BYTES: usize = 64 * 1024;
/// More than twice what the volume takes.
const WRITES: u64 = 11_000;

async fn with_a_floor() -> Result<Cluster> {
    let options = ClusterOptions { settings: LOG_QUOTA.into(), ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    let args = ["database", "create", "DB1", "--on", "m1,m2,m3", "--generation-size", "1MiB"];
    cluster.cli().succeed(args).await?;
    for (name, value) in [
        ("expanded_truncation_copies", "1"),
        ("expanded_truncation_logs", "8"),
        ("expanded_truncation_low_space", FLOOR),
    ] {
        set(&cluster, name, value).await?;
    }
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    Ok(cluster)
}

/// F104-F107, G7: the looks at the volume keep pace with the log (their period is a minute here),
/// and copies are checkpointed for it; what came between two looks is all that the floor gives
/// away.
#[tokio::test(flavor = "multi_thread")]
async fn the_others_stay_above_their_reserve_under_load() -> Result<()> {
    let mut cluster = with_a_floor().await?;
    cluster.member("m3").kill()?;
    let options = WriterOptions { tasks: 16, value_bytes: VALUE_BYTES, ..WriterOptions::default() };
    let writer = Writer::start(cluster.client().database("DB1"), options);
    let mut lowest = u64::MAX;
    for _ in 0..44 {
        writer.progress(WRITES / 44).await?;
        for member in ["m1", "m2"] {
            let free = status(&cluster, member).await?["log_free_bytes"].as_u64();
            lowest = lowest.min(free.unwrap_or_default());
        }
    }
    ensure!(lowest > FLOOR_BYTES / 2, "only {lowest} bytes were free");
    let oracle = writer.stop().await?;
    let full = events(&cluster, "volume_shortage").await?;
    ensure!(full.is_empty(), "a volume went below its reserve: {full:?}");
    for member in ["m1", "m2"] {
        let row = status(&cluster, member).await?;
        ensure!(generation(&row, "truncated") > 300, "{row}");
    }
    ensure!(!events(&cluster, "copy_cut_off").await?.is_empty(), "nobody was given up");
    cluster.member("m3").start()?;
    let row = until_status(&cluster, "m3", "FailedAndSuspended").await?;
    ensure!(row["status_reason"].as_str().is_some_and(|r| r.contains("missing")), "{row}");
    oracle.verify(&cluster.client().database("DB1")).await?;
    Ok(())
}

//! Classes of failures (F13): each has a tag and an action that status, health and events show.
//!
//! The disk misbehaves for real: a library before that of the members holds their syncs up, or
//! kills the process in the middle of one.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, Writer, WriterOptions, bad_host, eventually};
use serde_json::Value;

use crate::copies::{status, until_status};
use crate::crashes::prove;
use crate::space::{events, set};

/// In the directory of the library: what the kernel says of reads, where it is there.
pub(crate) const COUNTERS: &str = "counters";

/// Three members with DB1 on all of them, active on m1, whose disks can be made bad.
pub(crate) async fn cluster_on_bad_disks() -> Result<(Cluster, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let library = bad_host(directory.path()).await?;
    let environment = vec![
        ("LD_PRELOAD".to_owned(), library.display().to_string()),
        ("DISK_COUNTERS".to_owned(), directory.path().join(COUNTERS).display().to_string()),
    ];
    let options = ClusterOptions { environment, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    Ok((cluster, directory))
}

/// Makes the disk of a member bad in one way.
fn spoil(cluster: &Cluster, member: &str, how: &str) -> Result<PathBuf> {
    let file = cluster.path().join(member).join("data").join(how);
    std::fs::write(&file, "")?;
    Ok(file)
}

async fn failed_tests(cluster: &Cluster, member: &str) -> Result<Vec<Value>> {
    let output = cluster.cli().run(["health", member, "-o", "json"]).await?;
    let rows: Vec<Value> = serde_json::from_str(&output.stdout)?;
    Ok(rows.into_iter().filter(|row| row["result"] != "passed").collect())
}

/// The process lives, holds its lease and answers; its disk does not. The database is moved, the
/// class is shown, and the copy takes part again when the disk does.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_disk_is_left_and_its_copy_returns() -> Result<()> {
    let (cluster, _library) = cluster_on_bad_disks().await?;
    set(&cluster, "slow_io_after", "500ms").await?;
    set(&cluster, "hung_io_after", "2s").await?;
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    writer.progress(200).await?;
    let stalled = spoil(&cluster, "m1", "stalled")?;
    writer.progress(400).await?;
    ensure!(cluster.active_of("DB1").await? != "m1", "a copy on a hung disk serves");
    let row = status(&cluster, "m1").await?;
    assert_eq!((&row["failure_tag"], &row["log_stalled"]), (&"hung_io".into(), &"hung_io".into()));
    let failed = failed_tests(&cluster, "m1").await?;
    let disk = failed.iter().find(|row| row["test"] == "log_disk").context("the disk failed")?;
    ensure!(disk["error"].as_str().is_some_and(|e| e.contains("hung_io")), "{disk}");
    ensure!(failed_tests(&cluster, "m2").await?.iter().all(|r| r["test"] != "log_disk"));
    let decisions = cluster.cli().json(["decision", "list", "DB1"]).await?;
    ensure!(decisions.to_string().contains("wedged"), "{decisions}");
    eventually("slow and hung are events", || async {
        let told = events(&cluster, "disk_stalled").await?;
        let said = |tag: &str| told.iter().any(|e| e["message"].to_string().contains(tag));
        ensure!(said("slow_io") && said("hung_io"), "{told:?}");
        Ok(())
    })
    .await?;
    std::fs::remove_file(stalled)?;
    prove(&cluster, writer).await?;
    eventually("the disk is fine again", || async {
        let row = status(&cluster, "m1").await?;
        ensure!(row["failure_tag"] == "" && row["log_stalled"] == "", "{row}");
        Ok(())
    })
    .await
}

/// Nothing is moved where no other copy can serve: what hangs may go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_disk_is_waited_for_where_no_other_copy_can_serve() -> Result<()> {
    let (cluster, _library) = cluster_on_bad_disks().await?;
    set(&cluster, "hung_io_after", "1s").await?;
    for member in ["m2", "m3"] {
        cluster.cli().succeed(["copy", "suspend", &format!("DB1@{member}")]).await?;
    }
    let database = cluster.client().database("DB1");
    database.put("before", "v").await?;
    let epoch = status(&cluster, "m1").await?["epoch"].clone();
    let stalled = spoil(&cluster, "m1", "stalled")?;
    let put = tokio::spawn(async move { database.put("meanwhile", "v").await });
    eventually("the disk is told as hung", || async {
        let row = status(&cluster, "m1").await?;
        ensure!(row["log_stalled"] == "hung_io" && row["failure_action"] == "failover", "{row}");
        Ok(())
    })
    .await?;
    // A read needs no disk.
    let read = cluster.client().database("DB1").get("before").await?;
    assert_eq!(read.as_deref(), Some(&b"v"[..]));
    std::fs::remove_file(stalled)?;
    put.await??;
    let row = status(&cluster, "m1").await?;
    assert_eq!((&row["epoch"], &row["status"]), (&epoch, &"Mounted".into()), "{row}");
    Ok(())
}

/// Review S9.6: a copy that kills its process at every start is left alone, with its class, until
/// an operator resumes it; nothing automatic touches it meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_kills_its_process_is_quarantined() -> Result<()> {
    let (mut cluster, _library) = cluster_on_bad_disks().await?;
    for name in ["autoreseed_after", "autoreseed_resume_pause"] {
        set(&cluster, name, "0s").await?;
    }
    set(&cluster, "autoreseed_check_period", "1s").await?;
    let deadly = spoil(&cluster, "m3", "deadly")?;
    cluster.member("m3").kill_data_process()?;
    let row = eventually("it is left alone", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["suspended_by"] == "fault" && row["failure_tag"] == "crash_loop", "{row}");
        Ok(row)
    })
    .await?;
    assert_eq!(row["failure_action"], "quarantine", "{row}");
    eventually("automation says that it leaves it", || async {
        let row = status(&cluster, "m3").await?;
        let why = row["autoreseed"]["blocked"].as_str().unwrap_or_default();
        ensure!(why.contains("crash_loop") && row["status"] == "FailedAndSuspended", "{row}");
        let told = events(&cluster, "auto_reseed").await?;
        ensure!(told.iter().any(|e| e["message"].to_string().contains("blocked")), "{told:?}");
        Ok(())
    })
    .await?;
    let failed = failed_tests(&cluster, "m3").await?;
    ensure!(failed.iter().any(|row| row["error"].to_string().contains("crash_loop")), "{failed:?}");
    ensure!(!events(&cluster, "copy_failed").await?.is_empty(), "no event");
    cluster.client().database("DB1").put("k", "v").await?;
    std::fs::remove_file(deadly)?;
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

//! Members with several volumes: a disk that fails takes its copies only, and a spare takes its
//! place (F129-F131).
//!
//! A disk fails for real: a library before that of the members has its syncs fail, or the directory
//! of the volume is not there.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, Writer, WriterOptions, bad_host, eventually};
use serde_json::Value;
use tempfile::TempDir;

use crate::bad_input::check;
use crate::crashes::{EXPECTED_ERRORS, prove};
use crate::seeds::fill;
use crate::space::{events, set};

/// What members say of a disk that fails.
const OF_THE_DISK: &[&str] =
    &["Input/output error", "log failed; the copy stops", "the copy cannot be opened"];

/// Three members with two volumes and a spare each; DB1 and DB2, on different volumes of m1, are
/// active there. Automation does not wait.
async fn cluster_on_volumes() -> Result<(Cluster, TempDir)> {
    let library = tempfile::tempdir()?;
    let preload = bad_host(library.path()).await?;
    let options = ClusterOptions {
        environment: vec![("LD_PRELOAD".to_owned(), preload.display().to_string())],
        settings: "volumes = \"volumes/a, volumes/b\"\nspare_volumes = \"volumes/s\"\n".into(),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::prepare(&options).await?;
    for name in cluster.names() {
        for volume in ["a", "b", "s"] {
            std::fs::create_dir_all(volume_of(&cluster, &name, volume))?;
        }
        cluster.member(&name).start()?;
    }
    cluster.form().await?;
    for (name, value) in [
        ("space_check_period", "1s"),
        ("volume_probe_pause", "1s"),
        ("autoreseed_check_period", "1s"),
        ("autoreseed_failed_after", "1s"),
        ("autoreseed_after", "1s"),
        ("autoreseed_resume_pause", "1s"),
        ("autoreseed_seed_pause", "5s"),
    ] {
        set(&cluster, name, value).await?;
    }
    for name in ["DB1", "DB2"] {
        cluster.create_database(name, &["m1", "m2", "m3"]).await?;
        cluster.cli().succeed(["switchover", name, "--to", "m1"]).await?;
        cluster.wait_until_caught_up(name).await?;
    }
    Ok((cluster, library))
}

fn volume_of(cluster: &Cluster, member: &str, volume: &str) -> PathBuf {
    cluster.path().join(member).join("volumes").join(volume)
}

async fn status_of(cluster: &Cluster, database: &str, member: &str) -> Result<Value> {
    let rows = cluster.cli().json(["copy", "status", database, "--member", member]).await?;
    Ok(rows[0].clone())
}

/// The directory of the volume that holds a copy.
async fn home_of(cluster: &Cluster, database: &str, member: &str) -> Result<PathBuf> {
    eventually(&format!("{member} says where its copy of {database} is"), || async {
        let row = status_of(cluster, database, member).await?;
        let volume = row["volume"].as_str().filter(|path| !path.is_empty());
        Ok(volume.with_context(|| format!("no volume in {row}"))?.into())
    })
    .await
}

async fn state_of(cluster: &Cluster, member: &str, path: &std::path::Path) -> Result<Value> {
    let rows = cluster.cli().json(["volume", "list", "--member", member]).await?;
    let mut rows = rows.as_array().into_iter().flatten();
    let row = rows.find(|row| row["volume"] == path.display().to_string());
    Ok(row.with_context(|| format!("{} is not listed", path.display()))?.clone())
}

/// A disk whose syncs fail: its active moves away, the neighbour on another disk goes on, the copy
/// is made anew on the spare and lives there after a crash, and the disk is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_disk_is_replaced_by_the_spare() -> Result<()> {
    let (mut cluster, _library) = cluster_on_volumes().await?;
    let lost = home_of(&cluster, "DB1", "m1").await?;
    let other = home_of(&cluster, "DB2", "m1").await?;
    let spare = volume_of(&cluster, "m1", "s");
    ensure!(lost != other && lost != spare && other != spare, "{lost:?} {other:?}");
    let before = status_of(&cluster, "DB1", "m1").await?["copy"].clone();
    let epoch = status_of(&cluster, "DB2", "m1").await?["epoch"].clone();
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    writer.progress(200).await?;
    std::fs::write(lost.join("broken"), "")?;
    writer.progress(200).await?;
    ensure!(cluster.active_of("DB1").await? != "m1", "it stayed on the failed disk");
    let row = eventually("the copy is healthy on the spare", || async {
        let row = status_of(&cluster, "DB1", "m1").await?;
        let there = row["volume"] == spare.display().to_string();
        ensure!(there && row["status"] == "Healthy", "{row}");
        Ok(row)
    })
    .await?;
    ensure!(row["copy"] != before, "a seed makes another copy");
    let row = status_of(&cluster, "DB2", "m1").await?;
    ensure!(row["status"] == "Mounted" && row["epoch"] == epoch, "the neighbour moved: {row}");
    prove(&cluster, writer).await?;
    told_and_explained(&cluster, &lost).await?;

    cluster.member("m1").kill()?;
    cluster.member("m1").start()?;
    cluster.wait_until_whole().await?;
    ensure!(home_of(&cluster, "DB1", "m1").await? == spare, "it is on the spare for good");
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    cluster.client().database("DB1").put("on the spare", "v").await?;
    cluster.equal_digest("DB1", 3).await?;

    let (old, path) = (lost.join("databases"), lost.display().to_string());
    ensure!(old.read_dir()?.next().is_some(), "the old files stay where they are");
    let replaced = ["volume", "replaced", "m1", &path];
    check(&cluster.cli().run(replaced).await?, 3, "precondition");
    std::fs::remove_dir_all(&lost)?;
    std::fs::create_dir(&lost)?;
    cluster.cli().succeed(["--what-if", "volume", "replaced", "m1", &path]).await?;
    ensure!(state_of(&cluster, "m1", &lost).await?["state"] == "retired", "only asked");
    cluster.cli().succeed(replaced).await?;
    ensure!(state_of(&cluster, "m1", &lost).await?["state"] == "spare", "it waits");
    check(&cluster.cli().run(["volume", "replaced", "m1", "/x"]).await?, 3, "bad_argument");
    cluster.assert_clean_logs(&[EXPECTED_ERRORS, OF_THE_DISK].concat())
}

/// The way of it are events, and the decision can be taken again, otherwise too.
async fn told_and_explained(cluster: &Cluster, lost: &std::path::Path) -> Result<()> {
    let path = lost.display().to_string();
    let says = |told: Vec<Value>, word: &str| {
        let said = |one: &Value| {
            let text = one["message"].to_string();
            text.contains(&path) && text.contains(word)
        };
        ensure!(told.iter().any(said), "{word}: {told:?}");
        Ok(())
    };
    eventually("each step is an event", || async {
        says(events(cluster, "volume_state_changed").await?, "failed")?;
        says(events(cluster, "spare_assigned").await?, "spares_left")?;
        says(events(cluster, "auto_reseed").await?, "assigning_spare")
    })
    .await?;
    let row = state_of(cluster, "m1", lost).await?;
    ensure!(row["state"] == "retired" && row["copies"] == 0, "{row}");
    let decisions = cluster.cli().json(["decision", "list", "DB1"]).await?;
    let mut decisions = decisions.as_array().into_iter().flatten();
    let found = decisions.find(|one| one.to_string().contains("assign_spare"));
    let id = found.context("no such decision is kept")?["index"].to_string();
    let explained = cluster.cli().json(["decision", "explain", &id]).await?;
    ensure!(explained["agrees"] == true, "{explained}");
    let change = ["decision", "explain", &id, "--what-if", "spares=0"];
    let otherwise = cluster.cli().json(change).await?;
    ensure!(otherwise["agrees"] == false, "{otherwise}");
    ensure!(otherwise.to_string().contains("no spare volume"), "{otherwise}");
    Ok(())
}

/// A volume that is not mounted at a start: its copy has failed, is no new one, and goes on where
/// it was once the volume is back. The rest of the member serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_not_mounted_makes_no_new_copies() -> Result<()> {
    let (mut cluster, _library) = cluster_on_volumes().await?;
    set(&cluster, "autoreseed", "false").await?;
    for name in ["DB1", "DB2"] {
        cluster.client().database(name).put("before", "v").await?;
    }
    let lost = home_of(&cluster, "DB1", "m3").await?;
    let before = status_of(&cluster, "DB1", "m3").await?["copy"].clone();
    cluster.member("m3").kill()?;
    let away = lost.with_extension("away");
    std::fs::rename(&lost, &away)?;
    std::fs::create_dir(&lost)?;
    cluster.member("m3").start()?;
    cluster.wait_until_whole().await?;
    eventually("the copy has failed, and says why", || async {
        let row = status_of(&cluster, "DB1", "m3").await?;
        let fault = row["fault"].as_str().unwrap_or_default();
        ensure!(row["failure_tag"] == "log_io" && fault.contains("missing"), "{row}");
        ensure!(row["copy"] == before, "{row}");
        ensure!(state_of(&cluster, "m3", &lost).await?["state"] == "missing", "{row}");
        Ok(())
    })
    .await?;
    ensure!(lost.read_dir()?.next().is_none(), "something was written to the mount point");
    for name in ["DB1", "DB2"] {
        cluster.client().database(name).put("meanwhile", "v").await?;
    }
    cluster.wait_until_caught_up("DB2").await?;
    std::fs::remove_dir(&lost)?;
    std::fs::rename(&away, &lost)?;
    eventually("the copy goes on where it was", || async {
        let row = status_of(&cluster, "DB1", "m3").await?;
        ensure!(row["status"] == "Healthy" && row["copy"] == before, "{row}");
        ensure!(state_of(&cluster, "m3", &lost).await?["state"] == "healthy", "{row}");
        Ok(())
    })
    .await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    cluster.assert_clean_logs(&[EXPECTED_ERRORS, OF_THE_DISK].concat())
}

/// Between the change of the link and the end of the seed: a crash goes on with the same seed on
/// the spare; a seed that is cancelled leaves a copy that becomes whole there, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_behind_the_move_converges_on_the_spare() -> Result<()> {
    let (mut cluster, _library) = cluster_on_volumes().await?;
    fill(&cluster, 0, 12).await?;
    cluster.wait_until_caught_up("DB1").await?;
    set(&cluster, "seed_rate_max", "65536").await?;
    let lost = home_of(&cluster, "DB1", "m1").await?;
    let spare = volume_of(&cluster, "m1", "s");
    std::fs::write(lost.join("broken"), "")?;
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    let operation = eventually("a seed brings files to the spare", || async {
        let moved = home_of(&cluster, "DB1", "m1").await? == spare;
        let running = running_seed(&cluster).await?;
        let bytes = running["seed"]["bytes_received"].as_u64();
        ensure!(moved && bytes > Some(0), "{running}");
        Ok(running["operation"].as_str().unwrap_or_default().to_owned())
    })
    .await?;
    cluster.member("m1").kill()?;
    cluster.member("m1").start()?;
    cluster.wait_until_whole().await?;
    eventually("the same seed goes on there", || async {
        let running = running_seed(&cluster).await?;
        let going = running["phase"] == "transferring";
        ensure!(running["operation"] == operation.as_str() && going, "{running}");
        ensure!(home_of(&cluster, "DB1", "m1").await? == spare, "it went elsewhere");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["operation", "cancel", &operation]).await?;
    set(&cluster, "seed_rate_max", "0").await?;
    eventually("the copy is healthy on the spare", || async {
        let row = status_of(&cluster, "DB1", "m1").await?;
        let there = row["volume"] == spare.display().to_string();
        ensure!(there && row["status"] == "Healthy", "{row}");
        Ok(())
    })
    .await?;
    prove(&cluster, writer).await?;
    cluster.assert_clean_logs(&[EXPECTED_ERRORS, OF_THE_DISK].concat())
}

/// The seed that runs, with its progress.
async fn running_seed(cluster: &Cluster) -> Result<Value> {
    let rows = cluster.cli().json(["operation", "list"]).await?;
    let mut rows = rows.as_array().into_iter().flatten();
    let row = rows.find(|row| row["kind"] == "seed" && row["state"] == "running");
    let id = row.context("no seed runs")?["operation"].as_str().unwrap_or_default().to_owned();
    crate::seeds::operation(cluster, &id).await
}

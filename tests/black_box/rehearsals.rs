//! Rehearsals of switchovers: the target proves itself, and nothing moves.

use std::ffi::OsStr;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, Writer, WriterOptions, eventually};
use serde_json::Value;

use crate::data::cluster;
use crate::moves::another;

const REHEARSE: [&str; 3] = ["switchover", "DB1", "--rehearse"];

async fn forks(cluster: &Cluster) -> Result<usize> {
    let list = cluster.cli().json(["copy", "fork", "list"]).await?;
    Ok(list.as_array().context("a list")?.len())
}

/// A command that must be refused with this code and a hint.
async fn refused<S: AsRef<OsStr>>(
    cluster: &Cluster,
    command: impl IntoIterator<Item = S>,
    code: &str,
) -> Result<()> {
    let output = cluster.cli().run(command).await?;
    ensure!(output.error_code() == Some(code) && output.hint().is_some(), "not {code}: {output:?}");
    Ok(())
}

/// What the copy keeps of its last rehearsal.
async fn kept(cluster: &Cluster, member: &str) -> Result<Value> {
    let rows = cluster.cli().json(["copy", "status", "DB1", "--member", member]).await?;
    Ok(rows[0]["rehearsal"].clone())
}

async fn epoch(cluster: &Cluster) -> Result<Value> {
    Ok(cluster.cli().json(["database", "show", "DB1"]).await?["epoch"].clone())
}

/// Under a writer: the target reads from a fork of its copy, the result is dated and kept with the
/// copy, and neither epoch nor active nor forks are others than before. Then the move itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_rehearsal_proves_the_target_and_changes_nothing() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let writer = Writer::start(database.clone(), WriterOptions::default());
    writer.progress(300).await?;
    cluster.wait_until_counting("DB1").await?;
    let from = cluster.active_of("DB1").await?;
    let to = another(&cluster, &from);
    let before = epoch(&cluster).await?;
    let what_if = cluster.cli().succeed(REHEARSE.iter().chain(&["--what-if"])).await?;
    ensure!(what_if.contains("would rehearse the move of DB1"), "{what_if}");
    assert_eq!(kept(&cluster, &to).await?, Value::Null);

    let told = cluster.cli().json(REHEARSE.iter().chain(&["--to", &to])).await?;
    let rehearsal = &told["rehearsal"];
    assert_eq!((&told["to"], &rehearsal["passed"]), (&to.as_str().into(), &true.into()), "{told}");
    ensure!(rehearsal["keys"].as_u64().is_some_and(|keys| keys > 100), "{told}");
    ensure!(rehearsal["pause_millis"].as_u64().is_some_and(|pause| pause > 0), "{told}");
    ensure!(told["checks"].as_array().is_some_and(|checks| checks.len() > 10), "{told}");
    assert_eq!((epoch(&cluster).await?, forks(&cluster).await?), (before.clone(), 0));
    assert_eq!(cluster.active_of("DB1").await?, from);
    assert_eq!(kept(&cluster, &to).await?, *rehearsal, "the copy keeps it");
    assert_eq!(kept(&cluster, &from).await?, Value::Null, "and no other");

    let best = cluster.cli().succeed(REHEARSE).await?;
    ensure!(best.contains("passed at") && best.contains("pause of a move about"), "{best}");
    let shown = cluster.cli().succeed(["database", "show", "DB1"]).await?;
    ensure!(shown.contains("ago: passed, pause about"), "{shown}");
    let events = cluster.cli().succeed(["event", "list"]).await?;
    ensure!(events.matches("rehearsed").count() >= 2, "{events}");
    let operations = cluster.cli().succeed(["operation", "list"]).await?;
    ensure!(operations.contains(&format!("DB1@{to}")), "{operations}");
    assert_eq!((epoch(&cluster).await?, forks(&cluster).await?), (before, 0));

    writer.reset_gap();
    cluster.cli().succeed(["switchover", "DB1", "--to", &to]).await?;
    writer.progress(100).await?;
    println!("pause: foreseen {} ms, was {:?}", rehearsal["pause_millis"], writer.longest_gap());
    writer.stop().await?.verify(&database).await?;
    cluster.equal_digest("DB1", 3).await?;
    cluster.assert_clean_logs(&[])
}

/// What a move would not activate does not rehearse either; nothing is kept of a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_to_is_refused_with_its_code() -> Result<()> {
    let cluster = cluster().await?;
    let from = cluster.active_of("DB1").await?;
    let to = another(&cluster, &from);
    let rehearse = |rest: &[&str]| {
        let all = REHEARSE.iter().chain(rest);
        all.map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let to_it = rehearse(&["--to", &to]);
    refused(&cluster, &rehearse(&["--to", &from]), "bad_argument").await?;
    refused(&cluster, &rehearse(&["--to", "m9"]), "unknown_member").await?;
    refused(&cluster, &["switchover", "DB9", "--rehearse"], "unknown_database").await?;
    refused(&cluster, &rehearse(&["--to", &to, "--deadline", "11m"]), "bad_argument").await?;
    let with_time = cluster.cli().run(rehearse(&["--at", "5m"])).await?;
    assert_eq!(with_time.code, Some(2), "it begins now: {with_time:?}");
    let copy = format!("DB1@{to}");
    cluster.cli().succeed(["copy", "suspend", &copy, "--comment", "disk"]).await?;
    refused(&cluster, &to_it, "suspended").await?;
    cluster.cli().succeed(["copy", "resume", &copy]).await?;
    cluster.cli().succeed(["copy", "set", &copy, "--replay-lag", "1h"]).await?;
    refused(&cluster, &to_it, "target_unfit").await?;
    cluster.cli().succeed(["copy", "set", &copy, "--replay-lag", "0"]).await?;
    cluster.wait_until_counting("DB1").await?;
    assert_eq!(kept(&cluster, &to).await?, Value::Null);
    cluster.cli().succeed(&to_it).await?;
    cluster.cli().succeed(["database", "dismount", "DB1", "--yes"]).await?;
    refused(&cluster, &to_it, "dismounted").await?;
    Ok(())
}

/// A rehearsal that fails or takes too long says why, keeps that, and leaves no fork of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_rehearsal_is_kept_with_its_reason_and_leaves_nothing() -> Result<()> {
    let cluster = cluster().await?;
    cluster.client().database("DB1").put("k", "v").await?;
    cluster.wait_until_caught_up("DB1").await?;
    let from = cluster.active_of("DB1").await?;
    let to = another(&cluster, &from);
    let copy = format!("DB1@{to}");
    for number in 0..8 {
        let name = format!("mine{number}");
        cluster.cli().succeed(["copy", "fork", &copy, "--at", "0s", "--name", &name]).await?;
    }
    let rehearse: Vec<_> = REHEARSE.iter().chain(&["--to", &to]).map(ToString::to_string).collect();
    refused(&cluster, &rehearse, "fork_budget").await?;
    let result = kept(&cluster, &to).await?;
    assert_eq!((&result["passed"], &result["code"]), (&false.into(), &"fork_budget".into()));
    assert_eq!(forks(&cluster).await?, 8, "those of the operator");
    let table = cluster.cli().succeed(["copy", "status", "DB1", "-o", "wide"]).await?;
    ensure!(table.contains("failed (fork_budget)"), "{table}");
    cluster.cli().succeed(["copy", "fork", "drop", &format!("{copy}~mine0"), "--yes"]).await?;

    let hasty: Vec<_> =
        rehearse.iter().cloned().chain(["--deadline".into(), "1ms".into()]).collect();
    refused(&cluster, &hasty, "deadline_exceeded").await?;
    eventually("the fork of the hasty one is gone", || async {
        let left = forks(&cluster).await?;
        ensure!(left == 7, "{left} forks");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(&rehearse).await?;
    assert_eq!(kept(&cluster, &to).await?["passed"], true, "the last one counts");
    assert_eq!(forks(&cluster).await?, 7);
    cluster.assert_clean_logs(&[])
}

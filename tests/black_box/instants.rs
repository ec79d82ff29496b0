//! An instant of a lagged copy is made the truth; the others keep what is discarded until they are
//! released (G4, S13).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use keelson_client::Read;
use keelson_testkit::{Cluster, Output, eventually};
use serde_json::Value;

use crate::forks::{lagging, position};
use crate::returns::salvaged;
use crate::space::{events, set};

async fn status(cluster: &Cluster, member: &str) -> Result<Value> {
    let rows = cluster.cli().json(["copy", "status", "DB1", "--member", member]).await?;
    Ok(rows[0].clone())
}

/// Keys that the database shows.
async fn keys(cluster: &Cluster) -> Result<Vec<String>> {
    let items = cluster.cli().json(["kv", "scan", "DB1"]).await?;
    let keys = items.as_array().context("a list")?.iter();
    Ok(keys.map(|item| item["key"].as_str().unwrap_or_default().to_owned()).collect())
}

/// Ten keys, and behind the instant that is given they are dropped and something is written in a
/// session: twelve frames. Gives the token of the last one.
async fn dropped() -> Result<(Cluster, String, String)> {
    let cluster = lagging().await?;
    let before = position(&cluster).await?;
    let database = cluster.client().database("DB1");
    for key in 0..10 {
        database.delete(format!("key{key:04}")).await?;
    }
    let bad = cluster.cli().json(["kv", "put", "DB1", "bad", "1"]).await?;
    let token = bad["token_base64"].as_str().context("a token")?.to_owned();
    position(&cluster).await?;
    Ok((cluster, before, token))
}

fn ten() -> Vec<String> {
    (0..10).map(|key| format!("key{key:04}")).collect()
}

async fn activate(cluster: &Cluster, rest: &[&str]) -> Result<Output> {
    let words = ["copy", "activate"].iter().chain(rest);
    cluster.cli().run(words).await
}

async fn is_held(cluster: &Cluster, member: &str) -> Result<()> {
    eventually(&format!("{member} holds the discarded timeline"), || async {
        let row = status(cluster, member).await?;
        ensure!(row["status"] == "Suspended" && row["participant"] == false, "{row}");
        ensure!(row["suspended_by"] == "discarded_timeline", "{row}");
        let why = row["status_reason"].as_str().unwrap_or_default();
        ensure!(why.contains("discarded timeline"), "{row}");
        Ok(())
    })
    .await
}

const fn release(copy: &str) -> [&str; 5] {
    ["copy", "resume", copy, "--release-discarded", "--yes"]
}

/// S13: m2 is the last one to hold what was discarded. It is not released before that was kept long
/// enough, which is an event, and not by itself then.
async fn the_last_holder_goes_after_its_time(cluster: &Cluster) -> Result<()> {
    let refused = cluster.cli().run(release("DB1@m2")).await?;
    assert_eq!(refused.error_code(), Some("discarded_retained"), "{refused:?}");
    let removed = cluster.cli().run(["copy", "remove", "DB1", "--on", "m2", "--yes"]).await?;
    assert_eq!(removed.error_code(), Some("discarded_retained"), "{removed:?}");
    let row = status(cluster, "m2").await?;
    ensure!(row["discarded_kept_until"].as_str().is_some_and(|at| !at.is_empty()), "{row}");
    ensure!(row["discarded_epochs"].as_array().is_some_and(|epochs| epochs.len() == 1), "{row}");
    set(cluster, "discarded_retention", "1s").await?;
    eventually("the end of the retention is told", || async {
        ensure!(!events(cluster, "discarded_retention_over").await?.is_empty(), "not yet");
        Ok(())
    })
    .await?;
    is_held(cluster, "m2").await?;
    cluster.cli().succeed(release("DB1@m2")).await?;
    Ok(())
}

/// S13: what was cut goes by an operator's word, and before its time by one that says so.
async fn salvage_is_deleted_by_a_word(cluster: &Cluster) -> Result<()> {
    let list = cluster.cli().json(["copy", "salvage", "list", "DB1@m1"]).await?;
    let id = list[0]["id"].as_str().context("an id")?.to_owned();
    ensure!(list[0]["kept_until"].as_str() > list[0]["cut"].as_str(), "{list}");
    let delete = ["copy", "salvage", "delete", "DB1@m1", &id];
    assert_eq!(cluster.cli().run(delete).await?.code, Some(2), "it asks first");
    let refused = cluster.cli().run(delete.iter().chain(&["--yes"])).await?;
    assert_eq!(refused.error_code(), Some("salvage_retained"), "{refused:?}");
    cluster.cli().succeed(delete.iter().chain(&["--yes", "--before-retention"])).await?;
    ensure!(salvaged(cluster, "m1").await?.is_empty(), "it is there still");
    let refused = cluster.cli().run(delete.iter().chain(&["--yes"])).await?;
    assert_eq!(refused.error_code(), Some("bad_argument"), "{refused:?}");
    set(cluster, "salvage_retention", "0s").await?;
    let list = cluster.cli().json(["copy", "salvage", "list", "DB1@m2"]).await?;
    let id = list[0]["id"].as_str().context("an id")?;
    cluster.cli().succeed(["copy", "salvage", "delete", "DB1@m2", id, "--yes"]).await?;
    Ok(())
}

/// S13: positions of the discarded timeline are ahead of the new one, and say nothing there.
async fn discarded_positions_count_nowhere(cluster: &Cluster, token: &Bytes) -> Result<()> {
    for constraint in ["second_copy", "all_copies"] {
        let flush = ["guarantee", "flush", "DB1", "--constraint", constraint];
        let refused = cluster.cli().run(flush).await?;
        ensure!(refused.error_code() == Some("guarantee_not_satisfied"), "{refused:?}");
        let refused = cluster.cli().run(flush.iter().chain(&["--written-before", "1h"])).await?;
        ensure!(refused.error_code() == Some("guarantee_not_satisfied"), "{refused:?}");
    }
    let database = cluster.client().database("DB1");
    let read = Read::AtLeast(token.clone());
    for member in ["m1", "m2"] {
        // It answers whoever does not care.
        let bad = database.get_at(member, "bad", &Read::Any).await?;
        ensure!(bad.is_some(), "{member} forgot what it holds");
        let read =
            tokio::time::timeout(Duration::from_secs(2), database.get_at(member, "after", &read));
        let answer = read.await;
        ensure!(!matches!(answer, Ok(Ok(_))), "{member} answers from the discarded timeline");
    }
    let value = database.get_at("m3", "after", &read).await?;
    ensure!(value.as_deref() == Some(&b"1"[..]), "{value:?}");
    Ok(())
}

/// Who asks for a write that was discarded is told so, and not to wait.
async fn is_given_up(cluster: &Cluster, token: &str) -> Result<()> {
    let flush = ["guarantee", "flush", "DB1", "--token", token];
    eventually("the write is told as given up", || async {
        let refused = cluster.cli().run(flush).await?;
        ensure!(refused.error_code() == Some("discarded"), "{refused:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_becomes_the_truth_and_the_rest_is_kept_until_it_is_released() -> Result<()> {
    let (mut cluster, before, lost) = dropped().await?;
    let order = ["DB1@m3", "--at", before.as_str()];
    let shown = activate(&cluster, &[&order[..], &["--what-if", "-o", "json"]].concat()).await?;
    let shown: Value = serde_json::from_str(&shown.stdout)?;
    assert_eq!(
        (&shown["discarded_frames"], &shown["holders"]),
        (&12.into(), &serde_json::json!(["m1", "m2"]))
    );
    ensure!(shown["would"].as_str().is_some_and(|plan| plan.contains("discard")), "{shown}");
    assert_eq!(activate(&cluster, &order).await?.code, Some(2), "it asks first");
    assert_eq!(keys(&cluster).await?, ["bad"], "nothing has happened");

    let done = activate(&cluster, &[&order[..], &["--yes"]].concat()).await?;
    ensure!(done.code == Some(0), "{done:?}");
    assert_eq!(cluster.active_of("DB1").await?, "m3");
    assert_eq!(keys(&cluster).await?, ten());
    let after = cluster.client().database("DB1").put("after", "1").await?;
    for member in ["m1", "m2"] {
        is_held(&cluster, member).await?;
    }
    discarded_positions_count_nowhere(&cluster, &after.token).await?;
    is_given_up(&cluster, &lost).await?;
    let events = cluster.cli().succeed(["event", "list"]).await?;
    ensure!(events.contains("activated_at_instant"), "{events}");
    let resumed = cluster.cli().run(["copy", "resume", "DB1@m1"]).await?;
    assert_eq!(resumed.error_code(), Some("precondition"), "{resumed:?}");

    // The only copy with the truth is opened again, although it lags.
    cluster.member("m3").kill_data_process()?;
    eventually("m3 serves again", || async {
        let read = cluster.client().database("DB1").get("after").await?;
        ensure!(read.as_deref() == Some(&b"1"[..]), "{read:?}");
        Ok(())
    })
    .await?;
    assert_eq!(cluster.active_of("DB1").await?, "m3");
    is_given_up(&cluster, &lost).await?;
    for member in ["m1", "m2"] {
        is_held(&cluster, member).await?;
        ensure!(salvaged(&cluster, member).await?.is_empty(), "{member} keeps its log whole");
    }
    cluster.cli().succeed(release("DB1@m1")).await?;
    the_last_holder_goes_after_its_time(&cluster).await?;
    cluster.wait_until_following("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    for member in cluster.names() {
        assert_eq!(salvaged(&cluster, &member).await?, ["bad"], "{member}");
    }
    salvage_is_deleted_by_a_word(&cluster).await?;
    let mut all = ten();
    all.insert(0, "after".into());
    assert_eq!(keys(&cluster).await?, all);
    cluster.assert_clean_logs(crate::crashes::EXPECTED_ERRORS)
}

/// A wrong instant is taken back: a holder is made the truth again at its own end.
/// `--resync-others` lets the others follow at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_instant_can_be_taken_back() -> Result<()> {
    let (cluster, before, _) = dropped().await?;
    let done = activate(&cluster, &["DB1@m3", "--at", &before, "--yes"]).await?;
    ensure!(done.code == Some(0), "{done:?}");
    cluster.client().database("DB1").put("after", "1").await?;
    let back = ["DB1@m2", "--at", "0s", "--resync-others", "--yes"];
    let done = activate(&cluster, &back).await?;
    ensure!(done.code == Some(0), "{done:?}");
    assert_eq!(cluster.active_of("DB1").await?, "m2");
    assert_eq!(keys(&cluster).await?, ["bad"]);
    // m1 holds what is the truth again, so nothing keeps it from following; it was suspended
    // before.
    cluster.cli().succeed(release("DB1@m1")).await?;
    cluster.wait_until_following("DB1").await?;
    assert_eq!(salvaged(&cluster, "m3").await?, ["bad", "after"]);
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--replay-lag", "0s"]).await?;
    cluster.equal_digest("DB1", 3).await?;
    cluster.assert_clean_logs(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_instants_are_refused_with_codes() -> Result<()> {
    let cluster = lagging().await?;
    let at = position(&cluster).await?;
    let out = "instant_out_of_reach";
    for (copy, at, code) in [
        ("DB1@m1", at.as_str(), "precondition"),
        ("DB1@m2", "1:200", out),
        ("DB1@m3", "ff:1", out),
        ("DB1@m3", "1000d", out),
        ("DB1@m3", "2999-01-01T00:00:00Z", out),
        ("DB9@m3", at.as_str(), "unknown_database"),
        ("DB1@m9", at.as_str(), "unknown_member"),
    ] {
        let refused = activate(&cluster, &[copy, "--at", at, "--yes"]).await?;
        assert_eq!(refused.error_code(), Some(code), "{copy} at {at}: {refused:?}");
    }
    cluster.create_database("DB2", &["m1"]).await?;
    let refused = activate(&cluster, &["DB2@m2", "--at", &at, "--yes"]).await?;
    assert_eq!(refused.error_code(), Some("unknown_copy"), "{refused:?}");
    for at in ["--at=-5m", "--at=1:-7", "--at=-1:700", "--at=soon"] {
        let refused = activate(&cluster, &["DB1@m3", at, "--yes"]).await?;
        assert_eq!(refused.code, Some(2), "{at}: {refused:?}");
    }
    assert_eq!(cluster.active_of("DB1").await?, "m1", "nothing moved");
    cluster.assert_clean_logs(&[])
}

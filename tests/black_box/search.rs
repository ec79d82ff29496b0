//! The content index: what is written is found, on every copy alike; it is made anew when it is
//! damaged, falls behind visibly, and is there or not as the database says.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use keelson_client::{Database, Read, Search};
use keelson_testkit::{Cluster, eventually};
use serde_json::{Value, json};

use crate::bad_input::check;
use crate::moves::another;

async fn status(cluster: &Cluster, member: &str) -> Result<Value> {
    let rows = cluster.cli().json(["copy", "status", "DB1", "--member", member]).await?;
    rows.get(0).cloned().context("no such copy")
}

pub(crate) async fn until_index(cluster: &Cluster, member: &str, state: &str) -> Result<Value> {
    eventually(&format!("the content index on {member} is {state}"), || async {
        let row = status(cluster, member).await?;
        ensure!(row["content_index_state"] == state, "{row}");
        ensure!(state != "Healthy" || row["content_index_backlog_bytes"] == 0, "{row}");
        Ok(row)
    })
    .await
}

pub(crate) async fn keys(cluster: &Cluster, database: &str, query: &str) -> Result<Vec<String>> {
    let args = ["search", database, query, "--order", "key", "--current", "--limit", "1000"];
    let found = cluster.cli().json(args).await?;
    let hits = found["hits"].as_array().context("no hits")?;
    Ok(hits.iter().map(|hit| hit["key"].as_str().unwrap_or_default().to_owned()).collect())
}

async fn filled() -> Result<Cluster> {
    let cluster = Cluster::start(3).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    cluster.wait_until_indexed("DB1").await?;
    let database = cluster.client().database("DB1");
    for n in 0..60 {
        let value = json!({
            "name": format!("package{n}"),
            "version": format!("1.{n}"),
            "size": n * 10,
            "description": if n % 2 == 0 { "an even tool" } else { "an odd library" },
        });
        database.put(format!("pkg/{n:03}"), value.to_string()).await?;
    }
    let message = "From: Ada <ada@example.org>\nSubject: weaving\nDate: Mon, 2 Mar 2026 10:00:00 \
                   +0000\n\nThe engine weaves patterns.\n";
    database.put("mail/1", message).await?;
    Ok(cluster)
}

/// F51, and the issue: results on a passive at position p equal those on the active at p.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_found_on_every_copy_alike() -> Result<()> {
    let cluster = filled().await?;
    let database = cluster.client().database("DB1");
    assert_eq!(keys(&cluster, "DB1", "name:package7").await?, ["pkg/007"]);
    assert_eq!(keys(&cluster, "DB1", "\"even tool\"").await?.len(), 30);
    assert_eq!(
        keys(&cluster, "DB1", "size:[100 TO 120]").await?,
        ["pkg/010", "pkg/011", "pkg/012"]
    );
    assert_eq!(keys(&cluster, "DB1", "from:ada AND subject:weaving").await?, ["mail/1"]);
    assert_eq!(keys(&cluster, "DB1", "patterns").await?, ["mail/1"]);
    database.put("pkg/007", json!({ "name": "renamed" }).to_string()).await?;
    database.delete("pkg/008").await?;
    database.delete_range("pkg/010", "pkg/012").await?;
    assert_eq!(keys(&cluster, "DB1", "name:renamed").await?, ["pkg/007"]);
    assert_eq!(keys(&cluster, "DB1", "name:package7").await?, Vec::<String>::new());
    assert_eq!(keys(&cluster, "DB1", "size:[80 TO 120]").await?, ["pkg/009", "pkg/012"]);
    cluster.wait_until_caught_up("DB1").await?;
    let mut answers = Vec::new();
    for member in cluster.names() {
        until_index(&cluster, &member, "Healthy").await?;
        let copy = format!("DB1@{member}");
        let ranked = cluster.cli().json(["search", &copy, "tool OR library", "--limit", "20"]);
        answers.push((ranked.await?, keys(&cluster, &copy, "*").await?));
    }
    ensure!(answers[0].0["total"] == 56, "{}", answers[0].0);
    ensure!(answers.iter().all(|answer| *answer == answers[0]), "copies differ: {answers:?}");
    let shown = cluster.cli().succeed(["search", "DB1", "weaves", "--current"]).await?;
    ensure!(shown.contains("mail/1") && shown.contains("body: The engine [weaves]"), "{shown}");
    Ok(())
}

/// Searches at the copy of a member until it finds `all` records: how many it found at each
/// position that it named.
async fn found_by_position(
    database: Database,
    member: String,
    all: u64,
) -> Result<BTreeMap<(u64, u64), u64>> {
    let mut found = BTreeMap::new();
    let search = Search { query: "word".into(), limit: 1, read: Read::Any, ..Search::default() };
    loop {
        let answer = database.search_at(&member, &search).await?;
        let at = answer.reflects.and_then(|end| end.position).context("no position")?;
        let before = found.insert((at.generation, at.offset), answer.total);
        let same = before.is_none_or(|before| before == answer.total);
        ensure!(same, "{member} at {at:?}: {before:?} records, then {}", answer.total);
        if answer.total == all {
            return Ok(found);
        }
    }
}

/// The issue: results on a passive at position p equal those on the active at p, also while others
/// write: an answer names the position that it saw, not the one of a commit before or behind.
#[tokio::test(flavor = "multi_thread")]
async fn answers_name_the_position_that_they_saw() -> Result<()> {
    const RECORDS: u64 = 1_500;
    let cluster = Cluster::start(3).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    for member in cluster.names() {
        until_index(&cluster, &member, "Healthy").await?;
    }
    let database = cluster.client().database("DB1");
    let searches = cluster
        .names()
        .into_iter()
        .map(|member| tokio::spawn(found_by_position(database.clone(), member, RECORDS)));
    let searches: Vec<_> = searches.collect();
    for number in 0..RECORDS {
        database.put(format!("k{number:05}"), "word").await?;
    }
    let mut all = BTreeMap::new();
    for search in searches {
        for (at, total) in search.await?? {
            let before = all.insert(at, total);
            ensure!(before.is_none_or(|before| before == total), "{at:?}: {before:?}, {total}");
        }
    }
    // Records are only added, so a later position of any copy has as many at least.
    let totals: Vec<_> = all.into_values().collect();
    ensure!(totals.is_sorted(), "records went: {totals:?}");
    ensure!(totals.len() > 3, "{} positions", totals.len());
    Ok(())
}

/// A damaged index is made anew, one of a killed process goes on, and nothing else notices.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_survives_kills_and_is_made_anew_when_it_rots() -> Result<()> {
    let mut cluster = filled().await?;
    let member = another(&cluster, &cluster.active_of("DB1").await?);
    let copy = format!("DB1@{member}");
    until_index(&cluster, &member, "Healthy").await?;
    cluster.member(&member).kill()?;
    cluster.client().database("DB1").put("pkg/new", json!({ "name": "late" }).to_string()).await?;
    cluster.member(&member).start()?;
    cluster.wait_until_whole().await?;
    cluster.wait_until_caught_up("DB1").await?;
    until_index(&cluster, &member, "Healthy").await?;
    assert_eq!(keys(&cluster, &copy, "name:late").await?, ["pkg/new"]);
    cluster.member(&member).kill()?;
    let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
    let id = shown["id"].as_str().context("no id")?.to_owned();
    let directory = cluster.path().join(&member).join("data/databases").join(id);
    let mut flipped = 0;
    for entry in std::fs::read_dir(&directory)?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("catalog-") {
            continue;
        }
        for file in std::fs::read_dir(entry.path())?.flatten() {
            if file.path().extension().is_some_and(|extension| extension == "term") {
                let mut bytes = std::fs::read(file.path())?;
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x40;
                std::fs::write(file.path(), bytes)?;
                flipped += 1;
            }
        }
    }
    ensure!(flipped > 0, "no file of an index in {}", directory.display());
    cluster.member(&member).start()?;
    cluster.wait_until_whole().await?;
    cluster.wait_until_caught_up("DB1").await?;
    until_index(&cluster, &member, "Healthy").await?;
    cluster.cli().succeed(["copy", "scrub", &copy]).await?;
    eventually("it was found and is made anew", || async {
        let events = cluster.cli().json(["event", "list"]).await?;
        ensure!(events.to_string().contains("catalog_damaged"), "{events}");
        Ok(())
    })
    .await?;
    until_index(&cluster, &member, "Healthy").await?;
    assert_eq!(keys(&cluster, &copy, "name:late").await?, ["pkg/new"]);
    assert_eq!(keys(&cluster, &copy, "*").await?.len(), 62);
    Ok(())
}

/// The index is there or not, and of which fields, as the database says; lagged and suspended
/// copies have none that follows; what makes no sense is refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_as_the_database_says() -> Result<()> {
    let cluster = filled().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    for member in ["m1", "m2", "m3"] {
        until_index(&cluster, member, "Healthy").await?;
    }
    for (query, code) in [("", "bad_argument"), ("(a", "bad_argument"), ("x:[", "bad_argument")] {
        check(&cluster.cli().run(["search", "DB1", query]).await?, 3, code);
    }
    let many = cluster.cli().run(["search", "DB1", "x", "--limit", "1001"]).await?;
    check(&many, 3, "bad_argument");
    check(&cluster.cli().run(["search", "DB9", "x"]).await?, 3, "unknown_database");
    check(&cluster.cli().run(["search", "DB1@m9", "x"]).await?, 3, "unknown_member");
    let twice = ["database", "set", "DB1", "--content-index-fields", "a,a"];
    check(&cluster.cli().run(twice).await?, 3, "bad_argument");
    cluster.cli().succeed(["database", "set", "DB1", "--content-index-fields", "name"]).await?;
    eventually("only names are found", || async {
        let found = keys(&cluster, "DB1", "tool OR library").await?;
        ensure!(found.is_empty(), "{found:?}");
        let named = keys(&cluster, "DB1", "name:package9").await?;
        ensure!(named == ["pkg/009"], "{named:?}");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["copy", "suspend", "DB1@m2", "--comment", "disk"]).await?;
    until_index(&cluster, "m2", "Suspended").await?;
    cluster.cli().succeed(["copy", "resume", "DB1@m2"]).await?;
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--replay-lag", "1h"]).await?;
    until_index(&cluster, "m3", "AutoSuspended").await?;
    until_index(&cluster, "m2", "Healthy").await?;
    cluster.cli().succeed(["database", "set", "DB1", "--content-index", "false"]).await?;
    until_index(&cluster, "m1", "Disabled").await?;
    check(&cluster.cli().run(["search", "DB1", "x"]).await?, 3, "no_content_index");
    cluster.cli().succeed(["database", "set", "DB1", "--content-index", "true"]).await?;
    until_index(&cluster, "m1", "Healthy").await?;
    assert_eq!(keys(&cluster, "DB1", "name:package9").await?, ["pkg/009"]);
    Ok(())
}

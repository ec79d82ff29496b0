//! Seeds of content indexes: alone, while their copy goes on; left out; together with their copy.
//!
//! An index that was fetched has segments of its source, which have random names; one that was made
//! here has none of them.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, eventually};
use serde_json::{Value, json};

use crate::bad_input::check;
use crate::copies::{status, until_status};
use crate::search::{keys, until_index};
use crate::seed_kills::staged;
use crate::seeds::{fill, nothing_is_left, operation, rate, until_ended, until_phase};

const DOCUMENTS: u32 = 96;
/// Different words of each document: about 4 MiB of index in all.
const WORDS: u32 = 2_500;
/// Bytes beside them that are not found by anything.
const CONTENT_BYTES: u64 = 16 * 1024 * 1024;
/// What a crash may cost: a chunk of a transfer.
const CHUNK_BYTES: u64 = 1024 * 1024;

fn document(number: u32) -> String {
    let words = (0..WORDS)
        .map(|word| format!("{:08x}", (number * WORDS + word).wrapping_mul(2_654_435_761)));
    let body: Vec<_> = words.collect();
    json!({ "name": format!("doc{number}"), "body": body.join(" ") }).to_string()
}

/// DB1 on all three members, active on m1, with much that is found, and more that is not.
async fn indexed() -> Result<Cluster> {
    let cluster = Cluster::start(3).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    let database = cluster.client().database("DB1");
    for number in 0..DOCUMENTS {
        database.put(format!("doc/{number:03}"), document(number)).await?;
    }
    fill(&cluster, 0, (CONTENT_BYTES / (512 * 1024)) as u32).await?;
    cluster.wait_until_counting("DB1").await?;
    for member in ["m1", "m2", "m3"] {
        until_index(&cluster, member, "Healthy").await?;
    }
    Ok(cluster)
}

/// Names of the segments of the only index of a member.
fn segments(cluster: &Cluster, member: &str) -> BTreeSet<String> {
    let below = |path: std::path::PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    let databases = below(cluster.path().join(member).join("data/databases"));
    let entries = databases.flat_map(|database| below(database.path()));
    let indexes =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("catalog-"));
    let files = indexes.flat_map(|index| below(index.path()));
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let segments = names.filter(|name| !name.starts_with('.') && name != "meta.json");
    segments.map(|name| name.split('.').next().unwrap_or_default().to_owned()).collect()
}

/// Whether the index of m3 is of the same make as that of another member.
fn is_of(cluster: &Cluster, source: &BTreeSet<String>) -> bool {
    segments(cluster, "m3").intersection(source).next().is_some()
}

/// How often m3 said that it makes its index anew.
fn crawls(cluster: &Cluster) -> Result<usize> {
    let log = std::fs::read_to_string(cluster.path().join("m3").join("keelson.log"))?;
    Ok(log.lines().filter(|line| line.contains("the content index is made anew")).count())
}

fn number(shown: &Value, name: &str) -> u64 {
    shown["seed"][name].as_u64().unwrap_or(0)
}

async fn seed(cluster: &Cluster, more: &[&str]) -> Result<Value> {
    let args = ["copy", "seed", "DB1@m3", "--source", "m2", "--yes"];
    let seeded = cluster.cli().json(args.iter().chain(more)).await?;
    let id = seeded["operation"].as_str().context("no operation")?.to_owned();
    operation(cluster, &id).await
}

/// Issue 4: results on a passive at position p equal those on the active at p.
async fn searches_are_equal(cluster: &Cluster) -> Result<()> {
    cluster.wait_until_caught_up("DB1").await?;
    let mut answers = Vec::new();
    for member in ["m1", "m2", "m3"] {
        until_index(cluster, member, "Healthy").await?;
        let copy = format!("DB1@{member}");
        let word = format!("{:08x}", 7_u32.wrapping_mul(2_654_435_761));
        let ranked = cluster.cli().json(["search", &copy, "name:doc7 OR late", "--limit", "50"]);
        answers.push((
            ranked.await?,
            keys(cluster, &copy, "*").await?,
            keys(cluster, &copy, &word).await?,
        ));
    }
    ensure!(answers[0].2 == ["doc/000"], "{:?}", answers[0].2);
    ensure!(answers.iter().all(|answer| *answer == answers[0]), "copies differ: {answers:?}");
    Ok(())
}

async fn put_late(cluster: &Cluster, key: &'static str) -> Result<()> {
    let value = json!({ "name": "late" }).to_string();
    cluster.client().database("DB1").put(key, value).await.map(drop).map_err(Into::into)
}

/// F53, F64: the index alone; the copy is not stopped, keeps its id, and what came after the index
/// is fed to it from the copy's own log.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_seeded_while_its_copy_goes_on() -> Result<()> {
    let cluster = indexed().await?;
    let (before, made) = (status(&cluster, "m3").await?, crawls(&cluster)?);
    let source = segments(&cluster, "m2");
    ensure!(!source.is_empty() && !is_of(&cluster, &source), "each copy makes its own index");
    let shown = seed(&cluster, &["--catalog-only"]).await?;
    assert_eq!(
        (&shown["state"], &shown["seed"]["scope"]),
        (&"succeeded".into(), &"catalog".into())
    );
    let (received, bytes) = (number(&shown, "bytes_received"), number(&shown, "bytes"));
    ensure!(received == bytes && bytes > 2 * CHUNK_BYTES, "{shown}");
    ensure!(bytes < CONTENT_BYTES, "more than an index came: {shown}");
    ensure!(is_of(&cluster, &source), "it is another one: {:?}", segments(&cluster, "m3"));
    put_late(&cluster, "late/1").await?;
    searches_are_equal(&cluster).await?;
    let after = status(&cluster, "m3").await?;
    for field in ["copy", "status", "participant", "instance_start_time"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(crawls(&cluster)?, made, "it was made anew instead of fed");
    cluster.equal_digest("DB1", 3).await?;
    let events = cluster.cli().json(["event", "list"]).await?.to_string();
    ensure!(events.contains("catalog"), "{events}");
    nothing_is_left(&cluster).await
}

/// F51, F69: state, progress, source and flags; replay goes on meanwhile; a cancelled seed leaves
/// the index that was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_of_an_index_shows_itself_and_can_be_cancelled() -> Result<()> {
    let cluster = indexed().await?;
    let (other, made) = (segments(&cluster, "m2"), crawls(&cluster)?);
    let plan =
        cluster.cli().json(["copy", "seed", "DB1@m3", "--catalog-only", "--what-if"]).await?;
    let rows = plan.as_array().cloned().unwrap_or_default();
    ensure!(rows.iter().all(|row| row["passed"] == true), "{plan}");
    ensure!(rows.iter().any(|row| row["check"] == "content index"), "{plan}");
    rate(&cluster, "65536").await?;
    let args =
        ["copy", "seed", "DB1@m3", "--catalog-only", "--source", "m2", "--background", "--yes"];
    let begun = cluster.cli().json(args).await?;
    let id = begun["operation"].as_str().unwrap_or_default().to_owned();
    until_phase(&cluster, &id, "transferring").await?;
    let row = until_index_is_seeded(&cluster).await?;
    assert_eq!(
        (&row["status"], &row["content_index_seeding_source"]),
        (&"Healthy".into(), &"m2".into())
    );
    let fed = until_status(&cluster, "m2", "SeedingSource").await?;
    assert_eq!(
        (&fed["seeding_source_for_catalog"], &fed["seeding_source_for_database"]),
        (&true.into(), &false.into()),
        "{fed}"
    );
    check(
        &cluster.cli().run(["copy", "seed", "DB1@m3", "--catalog-only", "--yes"]).await?,
        3,
        "seed_in_progress",
    );
    put_late(&cluster, "late/1").await?;
    cluster.cli().succeed(["operation", "cancel", &id]).await?;
    assert_eq!(operation(&cluster, &id).await?["state"], "cancelled");
    searches_are_equal(&cluster).await?;
    ensure!(!is_of(&cluster, &other), "what was cancelled is in place");
    assert_eq!(crawls(&cluster)?, made, "the index that was there was not kept");
    let row = status(&cluster, "m3").await?;
    ensure!(row["content_index_seeding_percent"].is_null(), "{row}");
    nothing_is_left(&cluster).await
}

async fn until_index_is_seeded(cluster: &Cluster) -> Result<Value> {
    eventually("the content index is being seeded", || async {
        let row = status(cluster, "m3").await?;
        ensure!(row["content_index_state"] == "Seeding", "{row}");
        ensure!(row["content_index_seeding_percent"].as_u64().is_some(), "{row}");
        ensure!(row["content_index_seeding_source"] == "m2", "{row}");
        Ok(row)
    })
    .await
}

/// Issue 4: kills of both sides cost at most a chunk each; the index ends up equal.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_of_an_index_survives_kills_of_both_sides() -> Result<()> {
    let mut cluster = indexed().await?;
    rate(&cluster, "262144").await?;
    let source = segments(&cluster, "m2");
    let args =
        ["copy", "seed", "DB1@m3", "--catalog-only", "--source", "m2", "--background", "--yes"];
    let begun = cluster.cli().json(args).await?;
    let id = begun["operation"].as_str().unwrap_or_default().to_owned();
    let home = cluster.path().join("m3/data/databases");
    let (mut left, mut kills) = (0, 0);
    for victim in ["m3", "m2", "m3", "m2"] {
        let shown = eventually("more arrives", || async {
            let (there, shown) = (staged(&home, false), operation(&cluster, &id).await?);
            ensure!(there > left || shown["state"] != "running", "{there}, not over {left} bytes");
            Ok(shown)
        })
        .await?;
        if shown["state"] != "running" {
            break;
        }
        kills += 1;
        cluster.member(victim).kill()?;
        if victim == "m3" {
            left = staged(&home, false);
        }
        cluster.member(victim).start()?;
        cluster.wait_until_whole().await?;
    }
    ensure!(kills >= 2, "the seed was too fast to be killed on both sides");
    rate(&cluster, "0").await?;
    let ended = until_ended(&cluster, &id).await?;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    // The last life of the target counts from nothing: what was there is not sent again.
    let bound = number(&ended, "bytes").saturating_sub(left) + 2 * CHUNK_BYTES;
    let received = number(&ended, "bytes_received");
    ensure!(received <= bound, "{received} bytes came, {bound} were missing: {ended}");
    ensure!(is_of(&cluster, &source), "it was made anew");
    put_late(&cluster, "late/1").await?;
    searches_are_equal(&cluster).await?;
    nothing_is_left(&cluster).await
}

/// F53: each seed brings what it was asked for, by what is sent and what lies there afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_brings_what_it_was_asked_for() -> Result<()> {
    let cluster = indexed().await?;
    let suspend = ["copy", "suspend", "DB1@m3", "--comment", "new disk"];
    let mut sent = Vec::new();
    for (more, scope, comes_along) in
        [(&["--database-only"][..], "database", false), (&[], "everything", true)]
    {
        cluster.cli().succeed(suspend).await?;
        let source = segments(&cluster, "m2");
        let shown = seed(&cluster, &[more, &["--safe-delete-existing-files"]].concat()).await?;
        assert_eq!(
            (&shown["state"], &shown["seed"]["scope"]),
            (&"succeeded".into(), &scope.into())
        );
        assert_eq!(shown["seed"]["bytes_received"], shown["seed"]["bytes"], "{shown}");
        sent.push(number(&shown, "bytes"));
        until_status(&cluster, "m3", "Healthy").await?;
        searches_are_equal(&cluster).await?;
        assert_eq!(is_of(&cluster, &source), comes_along, "{scope}");
        cluster.wait_until_counting("DB1").await?;
        cluster.equal_digest("DB1", 3).await?;
        nothing_is_left(&cluster).await?;
    }
    ensure!(sent[1] > sent[0] + CHUNK_BYTES, "with and without an index: {sent:?}");
    // The index of a copy that stands still may be ahead of its log, and waits for it.
    cluster.cli().succeed(suspend).await?;
    put_late(&cluster, "late/2").await?;
    until_index(&cluster, "m2", "Healthy").await?;
    keys(&cluster, "DB1@m2", "late").await?;
    let here = segments(&cluster, "m3");
    let source = &segments(&cluster, "m2") - &here;
    ensure!(!source.is_empty(), "nothing new to fetch: {here:?}");
    seed(&cluster, &["--catalog-only"]).await?;
    until_status(&cluster, "m3", "Suspended").await?;
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    put_late(&cluster, "late/3").await?;
    searches_are_equal(&cluster).await?;
    ensure!(is_of(&cluster, &source), "it was made anew");
    nothing_is_left(&cluster).await
}

/// Bad input: each refusal has its code, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_seeded_is_refused_with_a_code() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    put_late(&cluster, "late/0").await?;
    cluster.wait_until_counting("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    for member in ["m1", "m2", "m3"] {
        until_index(&cluster, member, "Healthy").await?;
    }
    let refused = |copy: &'static str, more: &'static [&'static str], code: &'static str| {
        let args = ["copy", "seed", copy, "--catalog-only", "--yes"];
        let args: Vec<_> = args.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        let cli = cluster.cli();
        async move {
            check(&cli.run(args).await?, 3, code);
            anyhow::Ok(())
        }
    };
    refused("DB1@m1", &[], "precondition").await?;
    refused("DB1@m3", &["--source", "m3"], "bad_argument").await?;
    refused("DB1@m3", &["--source", "m9"], "unknown_member").await?;
    let deletes = ["copy", "seed", "DB1@m3", "--catalog-only", "--delete-existing-files", "--yes"];
    ensure!(cluster.cli().run(deletes).await?.code == Some(2), "an option that makes no sense");
    let lag = ["copy", "set", "DB1@m2", "--replay-lag", "1h"];
    cluster.cli().succeed(lag).await?;
    refused("DB1@m2", &[], "no_catalog").await?;
    refused("DB1@m3", &["--source", "m2"], "source_unfit").await?;
    let args = ["database", "set", "DB1", "--content-index", "false"];
    cluster.cli().succeed(args).await?;
    refused("DB1@m3", &[], "no_catalog").await?;
    nothing_is_left(&cluster).await
}

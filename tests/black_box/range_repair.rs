//! Stores that rot when the log does not reach back to their beginning: what is sound stays, the
//! rest is fetched from another copy.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, Writer, WriterOptions, eventually};

use crate::bad_input::check;
use crate::copies::{generation, status};
use crate::data::cluster;
use crate::diverge::whole;
use crate::space::{events, set};

const KEYS: u64 = 600;
const VALUE_BYTES: usize = 8 * 1024;

/// Bytes that do not compress.
fn value(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(VALUE_BYTES).collect()
}

/// A database on these members, the first of them active, whose log begins behind its start.
async fn truncated(members: &[&str]) -> Result<Cluster> {
    let cluster = Cluster::start(3).await?;
    let on = members.join(",");
    let args = ["database", "create", "DB1", "--on", &on, "--generation-size", "1MiB"];
    cluster.cli().succeed(args).await?;
    cluster.cli().succeed(["database", "set", "DB1", "--circular-logging", "true"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", members[0]]).await?;
    let database = cluster.client().database("DB1");
    for number in 0..KEYS {
        database.put(format!("k{number:04}"), value(number)).await?;
    }
    eventually("every copy truncates", || async {
        for member in members {
            let row = status(&cluster, member).await?;
            ensure!(generation(&row, "truncated") >= 3, "{row}");
        }
        Ok(())
    })
    .await?;
    Ok(cluster)
}

/// The directories of the only store of a member, one for each store that is kept.
pub(crate) fn stores(cluster: &Cluster, member: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for database in fs::read_dir(cluster.path().join(member).join("data/databases"))? {
        let database = database?.path();
        for entry in fs::read_dir(&database).into_iter().flatten() {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            if name.is_some_and(|name| name.starts_with("store-") && !name.contains('.')) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn flip(path: &PathBuf, offset: usize) -> Result<()> {
    let mut bytes = fs::read(path)?;
    bytes[offset] ^= 0x20;
    Ok(fs::write(path, bytes)?)
}

/// Flips a byte in the middle of the largest table.
fn rot_a_table(cluster: &Cluster, member: &str) -> Result<u64> {
    let stores = stores(cluster, member)?;
    ensure!(stores.len() == 1, "{stores:?}");
    let mut tables = Vec::new();
    for entry in fs::read_dir(&stores[0])? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            tables.push((fs::metadata(&path)?.len(), path));
        }
    }
    let (bytes, table) = tables.into_iter().max().context("no table")?;
    ensure!(bytes > KEYS * VALUE_BYTES as u64 / 2, "a small table: {bytes}");
    flip(&table, bytes as usize / 2)?;
    Ok(bytes)
}

/// Scrubs a copy and waits until it is whole again; how many bytes were fetched.
async fn repaired(cluster: &Cluster, member: &str, copies: usize) -> Result<u64> {
    let before = status(cluster, member).await?["divergence"]["began"].clone();
    let copy = format!("DB1@{member}");
    let row = cluster.cli().json(["copy", "scrub", &copy]).await?;
    ensure!(row[0]["scrub_found"].as_u64() > Some(0), "nothing is found: {row}");
    eventually("a repair begins", || async {
        let row = status(cluster, member).await?;
        let repairs = row["divergence"]["rung"] == "range repair";
        ensure!(repairs && row["divergence"]["began"] != before, "{row}");
        Ok(())
    })
    .await?;
    let fetched = whole(cluster, member).await?;
    cluster.equal_digest("DB1", copies).await?;
    ensure!(stores(cluster, member)?.len() == 2, "the damaged store is kept as evidence");
    eventually("the next scrub is clean, and the evidence goes", || async {
        let row = cluster.cli().json(["copy", "scrub", &copy]).await?;
        ensure!(row[0]["scrub_result"] == "clean", "{row}");
        ensure!(stores(cluster, member)?.len() == 1);
        Ok(())
    })
    .await?;
    fetched["fetched_bytes"].as_u64().context("no bytes")
}

async fn rot_and_repair(members: &[&str]) -> Result<()> {
    let mut cluster = truncated(members).await?;
    let options = WriterOptions { pause: Duration::from_millis(20), ..WriterOptions::default() };
    let writer = Writer::start(cluster.client().database("DB1"), options);
    writer.progress(20).await?;

    let table = rot_a_table(&cluster, members[1])?;
    let fetched = repaired(&cluster, members[1], members.len()).await?;
    ensure!(0 < fetched && fetched < table / 8, "{fetched} bytes for one block of {table}");
    ensure!(cluster.active_of("DB1").await? == members[0], "it moved");

    // The list of tables: all keys.
    let store = stores(&cluster, members[1])?.pop().context("no store")?;
    flip(&store.join("CURRENT"), 2)?;
    let fetched = repaired(&cluster, members[1], members.len()).await?;
    ensure!(fetched > KEYS * VALUE_BYTES as u64, "{fetched} bytes are not everything");

    // On the active: another copy takes its place first. Its store must be on disk.
    cluster.member(members[0]).stop()?;
    cluster.member(members[0]).start()?;
    cluster.wait_until_whole().await?;
    cluster.wait_until_counting("DB1").await?;
    let active = cluster.active_of("DB1").await?;
    let table = rot_a_table(&cluster, &active)?;
    let fetched = repaired(&cluster, &active, members.len()).await?;
    ensure!(0 < fetched && fetched < table / 8, "{fetched} bytes for one block of {table}");
    ensure!(cluster.active_of("DB1").await? != active, "it did not move");
    let oracle = writer.stop().await?;
    oracle.verify(&cluster.client().database("DB1")).await?;
    for number in [0, KEYS / 2, KEYS - 1] {
        let found = cluster.client().database("DB1").get(format!("k{number:04}")).await?;
        ensure!(found.as_deref() == Some(&value(number)[..]), "k{number:04} is wrong");
    }
    Ok(())
}

/// S15, G5: a byte of a passive's store, its list of tables, a byte of the active's store.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_rots_without_the_log_of_its_beginning_is_repaired() -> Result<()> {
    rot_and_repair(&["m1", "m2", "m3"]).await
}

/// F91: a copy with a lag replays ahead of it until its store is whole, and lags again then.
#[tokio::test(flavor = "multi_thread")]
async fn a_lagged_copy_is_played_down_for_its_repair() -> Result<()> {
    let cluster = truncated(&["m1", "m2", "m3"]).await?;
    set(&cluster, "space_check_period", "1s").await?;
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--replay-lag", "1h"]).await?;
    let in_force = || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["lag_in_force"] == true && row["status"] == "Healthy", "{row}");
        Ok(row)
    };
    eventually("the lag is in force", in_force).await?;
    cluster.client().database("DB1").put("late", "v").await?;
    let end = status(&cluster, "m1").await?["inspected"].clone();
    rot_a_table(&cluster, "m3")?;
    cluster.cli().json(["copy", "scrub", "DB1@m3"]).await?;
    eventually("it replays beyond its lag", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["replayed"] == end && row["divergence"]["fetched_keys"] != 0, "{row}");
        Ok(())
    })
    .await?;
    let row = eventually("it is whole and lags again", in_force).await?;
    ensure!(row["divergence"]["phase"] == "", "{row}");
    let told = events(&cluster, "play_down_changed").await?;
    let told = told.iter().any(|event| event.to_string().contains("RangeRepair"));
    ensure!(told, "no event names the cause");
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--replay-lag", "0"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// A scrub comes by itself when its period is over, and is read from the settings at once.
#[tokio::test(flavor = "multi_thread")]
async fn copies_are_scrubbed_once_in_the_period_that_is_set() -> Result<()> {
    let cluster = cluster().await?;
    cluster.client().database("DB1").put("k", "v").await?;
    let refused = ["cluster", "settings", "set", "scrub_rate", "1KiB"];
    check(&cluster.cli().run(refused).await?, 3, "bad_argument");
    let members = ["m1", "m2", "m3"];
    set(&cluster, "scrub_period", "1s").await?;
    // A new copy counts as read when it was created; and the second scrub comes as the first.
    for _ in 0..2 {
        let mut before = Vec::new();
        for member in members {
            before.push(status(&cluster, member).await?["scrub"]["scrub_ended"].clone());
        }
        eventually("each copy is scrubbed", || async {
            for (member, before) in members.iter().zip(&before) {
                let row = status(&cluster, member).await?;
                ensure!(row["scrub"]["scrub_ended"] != *before, "{row}");
                ensure!(row["scrub"]["scrub_bytes"].as_u64() > Some(0), "{row}");
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// S15: the other copy is donor and successor at once.
#[tokio::test(flavor = "multi_thread")]
async fn one_other_copy_is_enough_for_a_repair() -> Result<()> {
    rot_and_repair(&["m1", "m2"]).await
}

/// The tables of the only store of a member, oldest first, with their sizes.
fn tables(cluster: &Cluster, member: &str) -> Result<Vec<(PathBuf, u64)>> {
    let mut tables = Vec::new();
    for store in stores(cluster, member)? {
        for entry in fs::read_dir(&store)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "sst") {
                let bytes = fs::metadata(&path)?.len();
                tables.push((path, bytes));
            }
        }
    }
    tables.sort();
    Ok(tables)
}

/// Issue 4: a copy that lost one file of its store fetches the keys of that file, not the database.
///
/// Keys are written in ascending order and the oldest table goes, because every table begins with
/// the position of its store: its range ends where its own keys end, those of younger ones begin
/// before their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_table_costs_its_range_and_not_the_database() -> Result<()> {
    const ROUNDS: u64 = 8;
    let mut cluster = truncated(&["m1", "m2", "m3"]).await?;
    let database = cluster.client().database("DB1");
    let mut chosen = None;
    for round in 0..ROUNDS {
        for number in 0..KEYS / 2 {
            database.put(format!("l{round}-{number:04}"), value(number + round)).await?;
        }
        cluster.wait_until_caught_up("DB1").await?;
        cluster.member("m3").stop()?;
        let tables = tables(&cluster, "m3")?;
        let all: u64 = tables.iter().map(|(_, bytes)| bytes).sum();
        chosen = tables.into_iter().next();
        if chosen.as_ref().is_some_and(|(_, bytes)| *bytes < all * 3 / 4) {
            break;
        }
        cluster.member("m3").start()?;
        cluster.wait_until_whole().await?;
        cluster.wait_until_counting("DB1").await?;
    }
    let (table, bytes) = chosen.context("no table")?;
    fs::remove_file(&table)?;
    cluster.member("m3").start()?;
    cluster.wait_until_whole().await?;
    let fetched = whole(&cluster, "m3").await?;
    let fetched = fetched["fetched_bytes"].as_u64().context("no bytes")?;
    ensure!(fetched > bytes / 2 && fetched < bytes * 5 / 4, "{fetched} for a table of {bytes}");
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

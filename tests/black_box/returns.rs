//! The former active comes back after an activation with loss: it gets onto the log that went on,
//! without a full copy, and keeps what was given up as salvage (G3, G4, S14).

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, View, eventually};
use serde_json::Value;

use crate::losses::{Pair, lost_key, only_the_lost_active_has, only_the_lost_active_wrote};

/// How the former active spends the time until it is heard again.
enum Absence {
    /// It lives.
    Cut,
    /// Both processes were killed: its store comes back as its files hold it.
    Killed,
    /// It was stopped: its store holds everything, durably.
    Stopped,
}

/// Opens another copy with loss, writes there, and lets the former active come back.
async fn return_of_the_former(lost: u32, absence: Absence) -> Result<(Cluster, String, Value)> {
    let (mut cluster, former, view) = only_the_lost_active_has(lost).await?;
    match absence {
        Absence::Cut => {}
        Absence::Killed => cluster.member(&former).kill()?,
        Absence::Stopped => cluster.member(&former).stop()?,
    }
    write_on(&view).await?;
    cluster.network().heal_all();
    if !matches!(absence, Absence::Cut) {
        cluster.member(&former).start()?;
    }
    cluster.wait_until_whole().await?;
    cluster.wait_until_counting("DB1").await?;
    cluster.wait_until_caught_up("DB1").await?;
    let row = cluster.cli().json(["copy", "status", "DB1", "--member", &former]).await?;
    Ok((cluster, former, row[0]["divergence"].clone()))
}

/// Gives the lost writes up and goes on without them; one lost key gets another value.
async fn write_on(view: &View) -> Result<()> {
    let mount = ["database", "mount", "DB1", "--accept-loss", "--yes"];
    eventually("a copy is opened with loss", || async { view.cli.succeed(mount).await }).await?;
    let database = view.client.database("DB1");
    for number in 0..20 {
        database.put(format!("new{number:03}"), "1").await?;
    }
    database.put(lost_key(0), "another").await?;
    Ok(())
}

/// All copies are equal, show the timeline that went on, and the salvage of the former active holds
/// exactly the lost writes.
async fn prove(cluster: &Cluster, former: &str, lost: u32) -> Result<()> {
    cluster.equal_digest("DB1", 3).await?;
    let database = cluster.client().database("DB1");
    assert_eq!(database.get(lost_key(0)).await?.as_deref(), Some(&b"another"[..]));
    assert_eq!(database.get(lost_key(1)).await?, None);
    assert_eq!(database.get("kept").await?.as_deref(), Some(&b"1"[..]));
    assert_eq!(salvaged(cluster, former).await?, (0..lost).map(lost_key).collect::<Vec<_>>());
    for member in cluster.names().iter().filter(|name| *name != former) {
        ensure!(salvaged(cluster, member).await?.is_empty(), "{member} cut something");
    }
    cluster.assert_clean_logs(crate::crashes::EXPECTED_ERRORS)
}

/// The keys that the salvage of a copy puts.
pub(crate) async fn salvaged(cluster: &Cluster, member: &str) -> Result<Vec<String>> {
    let copy = format!("DB1@{member}");
    let list = cluster.cli().json(["copy", "salvage", "list", &copy]).await?;
    for one in list.as_array().context("a list")? {
        let id = one["id"].as_str().context("an id")?;
        let shown = cluster.cli().json(["copy", "salvage", "show", &copy, id]).await?;
        assert_eq!(shown["unread_bytes"], 0, "{shown}");
    }
    let exported = cluster.cli().succeed(["copy", "salvage", "export", &copy]).await?;
    let records = exported.lines().map(serde_json::from_str::<Value>);
    let records = records.collect::<Result<Vec<_>, _>>()?;
    let puts = records.iter().filter(|record| record["kind"] == "put");
    Ok(puts.map(|put| put["key"].as_str().unwrap_or_default().to_owned()).collect())
}

fn number(costs: &Value, field: &str) -> Result<u64> {
    costs[field].as_u64().with_context(|| format!("{field} is missing: {costs}"))
}

/// The store of a killed active never heard of its last frame, so the log alone is cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_that_was_not_replayed_is_cut() -> Result<()> {
    let (cluster, former, costs) = return_of_the_former(1, Absence::Killed).await?;
    assert_eq!(costs["rung"], "cut the fork", "{costs}");
    let size = number(&costs, "salvage_bytes")?;
    ensure!((1..2_000).contains(&size), "{costs}");
    assert_eq!((number(&costs, "fetched_bytes")?, number(&costs, "replay_bytes")?), (0, 0));
    prove(&cluster, &former, 1).await
}

/// The fork lies in the memory of the store alone: it is opened again without it, and nothing is
/// fetched.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_in_memory_is_forgotten_by_a_reopen() -> Result<()> {
    let (cluster, former, costs) = return_of_the_former(30, Absence::Cut).await?;
    assert_eq!(costs["rung"], "cut the fork", "after the reopen: {costs}");
    assert_eq!(number(&costs, "fetched_bytes")?, 0, "{costs}");
    let events = cluster.cli().succeed(["event", "list"]).await?;
    ensure!(events.contains("reopen the store at its checkpoint"), "{events}");
    prove(&cluster, &former, 30).await
}

/// The fork lies in the files of the store: what it touched is fetched, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_in_the_files_is_fetched_key_by_key() -> Result<()> {
    let (cluster, former, costs) = return_of_the_former(30, Absence::Stopped).await?;
    assert_eq!(costs["rung"], "fetch what the fork touched", "{costs}");
    // One of the keys exists where the log went on; the session of the client is touched, too.
    ensure!((1..=3).contains(&number(&costs, "fetched_keys")?), "{costs}");
    ensure!(number(&costs, "fetched_bytes")? < 1_000, "{costs}");
    prove(&cluster, &former, 30).await
}

const BASE_KEYS: u32 = 400;
const VALUE_BYTES: usize = 8 * 1024;

/// A key with bytes that do not compress.
fn pair(number: u32, salt: u64) -> Pair {
    let mut state = (u64::from(number) << 8 | salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (format!("base{number:04}"), std::iter::repeat_with(next).take(VALUE_BYTES).collect())
}

/// A fork that changed so many keys of a database of 400: the bytes that its undoing fetched.
async fn cost_of(forked: u32) -> Result<u64> {
    let base = (0..BASE_KEYS).map(|number| pair(number, 1)).collect();
    let lost: Vec<_> = (0..forked).map(|number| pair(number * 3, 2)).collect();
    let keys: Vec<_> = lost.iter().map(|(key, _)| key.clone()).collect();
    let (mut cluster, former, view) = only_the_lost_active_wrote(base, lost).await?;
    cluster.member(&former).stop()?;
    let mount = ["database", "mount", "DB1", "--accept-loss", "--yes"];
    eventually("a copy is opened with loss", || async { view.cli.succeed(mount).await }).await?;
    view.client.database("DB1").put("new", "1").await?;
    cluster.network().heal_all();
    cluster.member(&former).start()?;
    cluster.wait_until_whole().await?;
    cluster.wait_until_counting("DB1").await?;
    cluster.wait_until_caught_up("DB1").await?;
    let rows = cluster.cli().json(["copy", "status", "DB1", "--member", &former]).await?;
    let costs = &rows[0]["divergence"];
    assert_eq!(costs["rung"], "fetch what the fork touched", "{costs}");
    let fetched = number(costs, "fetched_bytes")?;
    // What was foreseen is what it cost, but for the session of the client.
    let (foreseen, spent) = (number(costs, "estimated_keys")?, number(costs, "fetched_keys")?);
    ensure!(foreseen >= u64::from(forked) && spent <= foreseen + 2, "{costs}");
    let store = number(&rows[0], "store_bytes")?;
    ensure!(fetched < store / 4, "{fetched} of a store of {store}");
    cluster.equal_digest("DB1", 3).await?;
    assert_eq!(salvaged(&cluster, &former).await?, keys, "exactly what was lost");
    let shown = cluster.client().database("DB1").get(keys[0].clone()).await?;
    ensure!(shown.as_deref() == Some(&pair(0, 1).1[..]), "the value of before the fork");
    Ok(fetched)
}

/// G4, S14: no full copy: what a fork costs follows from what it touched, not from the database.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_fork_costs_is_in_proportion_to_it() -> Result<()> {
    let (few, many) = (cost_of(5).await?, cost_of(40).await?);
    let each = VALUE_BYTES as u64;
    ensure!((5 * each..6 * each).contains(&few), "{few} bytes for 5 keys of {each}");
    ensure!((40 * each..44 * each).contains(&many), "{many} bytes for 40 keys of {each}");
    Ok(())
}

//! Contents that differ although every checksum is right: the digests of copies tell, and where
//! most agree the others are set right.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use keelson_env::{KvStore as _, StoreItem};
use keelson_store::{StoreFactory, StoreLimits};
use keelson_testkit::{Cluster, eventually};
use keelson_types::{Span, StoreKey};
use serde_json::Value;

use crate::range_repair::stores;

const KEYS: u32 = 200;

/// A database on all members of a cluster, active on m1, whose copies are equal.
async fn equal_copies(members: &[&str]) -> Result<Cluster> {
    let cluster = Cluster::start(3).await?;
    cluster.create_database("DB1", members).await?;
    cluster.wait_until_caught_up("DB1").await?;
    if cluster.active_of("DB1").await? != members[0] {
        cluster.cli().succeed(["switchover", "DB1", "--to", members[0]]).await?;
    }
    for number in 0..KEYS {
        cluster.client().database("DB1").put(format!("k{number:04}"), vec![7; 256]).await?;
    }
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", members.len()).await?;
    Ok(cluster)
}

/// Changes one value in the store of a member that is stopped meanwhile, as a bug would: files and
/// checksums are right.
async fn falsify(cluster: &mut Cluster, member: &str) -> Result<()> {
    cluster.member(member).stop()?;
    let directory = stores(cluster, member)?.pop().context("no store")?;
    let factory = StoreFactory::new(&StoreLimits::default())?;
    let store = factory.open_store(&directory)?;
    let (key, behind) = ("k0100", "k0101");
    let user = |key: &'static str| StoreKey::User(Bytes::from_static(key.as_bytes()));
    let span = Span::new(user(key), Some(user(behind))).context("a span")?;
    let wrong: StoreItem = (user(key), Bytes::from_static(b"wrong"));
    store.overwrite(&[span], &[wrong])?;
    store.checkpoint()?;
    drop(store);
    cluster.member(member).start()?;
    cluster.wait_until_whole().await?;
    cluster.wait_until_counting("DB1").await
}

/// Events about damage of this code.
async fn told(cluster: &Cluster, code: &str) -> Result<Vec<Value>> {
    let events = cluster.cli().json(["event", "list", "--limit", "500"]).await?;
    let events = events.as_array().cloned().unwrap_or_default();
    Ok(events.into_iter().filter(|event| event.to_string().contains(code)).collect())
}

/// Scrubs the active copy, which compares; gives what it reports.
async fn compare(cluster: &Cluster) -> Result<Value> {
    let active = cluster.active_of("DB1").await?;
    let rows = cluster.cli().json(["copy", "scrub", &format!("DB1@{active}")]).await?;
    rows.get(0).cloned().context("nothing was scrubbed")
}

/// S15, G5: two of three agree, so the third is wrong; it fetches its content from them.
#[tokio::test(flavor = "multi_thread")]
async fn the_copy_that_differs_from_most_is_named_and_set_right() -> Result<()> {
    let mut cluster = equal_copies(&["m1", "m2", "m3"]).await?;
    let clean = compare(&cluster).await?;
    assert_eq!((&clean["scrub_compared"], &clean["scrub_compared_of"]), (&3.into(), &3.into()));
    // Nothing is written: an operator who doubts a copy is told what it holds now.
    falsify(&mut cluster, "m2").await?;
    let report = compare(&cluster).await?;
    let problem = report["scrub_problem"].as_str().unwrap_or_default();
    ensure!(problem.contains("contents differ"), "{report}");
    cluster.equal_digest("DB1", 3).await?;
    let wrong = told(&cluster, "digest_wrong").await?;
    ensure!(!wrong.is_empty() && wrong.iter().all(|e| e["subject"] == "DB1@m2"), "{wrong:?}");
    eventually("nothing differs any more", || async {
        let report = compare(&cluster).await?;
        ensure!(report["scrub_result"] == "clean", "{report}");
        Ok(())
    })
    .await
}

/// S15: with two copies nobody knows which is right: both are named with their digests, and neither
/// is touched.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_copies_that_differ_both_are_named_and_neither_is_touched() -> Result<()> {
    let mut cluster = equal_copies(&["m1", "m2"]).await?;
    falsify(&mut cluster, "m2").await?;
    cluster.client().database("DB1").put("newer", "v").await?;
    let report = compare(&cluster).await?;
    let problem = report["scrub_problem"].as_str().unwrap_or_default();
    ensure!(problem.contains("nobody knows which is right"), "{report}");
    let told = told(&cluster, "digests_differ").await?;
    ensure!(!told.is_empty(), "no event");
    let rows = cluster.cli().json(["copy", "status", "DB1"]).await?;
    for row in rows.as_array().context("a list")? {
        let copy = row["copy"].as_str().unwrap_or_default();
        ensure!(told[0].to_string().contains(copy), "{copy} is not named: {}", told[0]);
        ensure!(row["fault"] == "" && row["status"] != "RangeRepair", "{row}");
    }
    let read = keelson_client::Read::Any;
    let kept = cluster.client().database("DB1").get_at("m2", "k0100", &read).await?;
    ensure!(kept.as_deref() == Some(&b"wrong"[..]), "the evidence is gone: {kept:?}");
    Ok(())
}

/// Two scrubs of one copy that are asked for at the same time both end, one behind the other.
#[tokio::test(flavor = "multi_thread")]
async fn two_scrubs_of_one_copy_both_end() -> Result<()> {
    let cluster = equal_copies(&["m1", "m2", "m3"]).await?;
    let (one, two) = tokio::join!(compare(&cluster), compare(&cluster));
    for report in [one?, two?] {
        assert_eq!(report["scrub_result"], "clean", "{report}");
        assert_eq!(report["scrub_compared"], 3, "{report}");
    }
    Ok(())
}

/// A comparison in which a copy is missing says so, and is made again although nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_not_compared_is_compared_later() -> Result<()> {
    let cluster = equal_copies(&["m1", "m2", "m3"]).await?;
    cluster.cli().succeed(["copy", "suspend", "DB1@m3"]).await?;
    let report = compare(&cluster).await?;
    assert_eq!((&report["scrub_compared"], &report["scrub_compared_of"]), (&2.into(), &3.into()));
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    let report = compare(&cluster).await?;
    assert_eq!((&report["scrub_compared"], &report["scrub_compared_of"]), (&3.into(), &3.into()));
    Ok(())
}

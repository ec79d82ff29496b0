//! Processes die or hang; nothing acknowledged is lost, and every copy comes back by itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, Verified, Writer, WriterOptions, eventually};

use crate::data::cluster;
use crate::moves::another;

/// What members log when the test kills a data process.
pub(crate) const EXPECTED_ERRORS: &[&str] = &["data process died status=signal: 9"];

/// Stops the writer and proves that the cluster holds what it must, equal on all copies.
pub(crate) async fn prove(cluster: &Cluster, writer: Writer) -> Result<Verified> {
    let oracle = writer.stop().await?;
    cluster.wait_until_whole().await?;
    let verified = oracle.verify(&cluster.client().database("DB1")).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.wait_until_counting("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(verified)
}

async fn writing(cluster: &Cluster) -> Result<Writer> {
    let database = cluster.client().database("DB1");
    let writer = Writer::start(database, WriterOptions::default());
    writer.progress(200).await?;
    Ok(writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_process_of_the_active_dies() -> Result<()> {
    let mut cluster = cluster().await?;
    let writer = writing(&cluster).await?;
    let active = cluster.active_of("DB1").await?;
    writer.reset_gap();
    cluster.member(&active).kill_data_process()?;
    writer.progress(200).await?;
    let gap = writer.longest_gap();
    // The aim is 300 ms on a quiet machine.
    ensure!(gap < Duration::from_secs(5), "nothing was written for {gap:?}");
    prove(&cluster, writer).await?;
    cluster.assert_clean_logs(EXPECTED_ERRORS)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_member_of_the_active_dies_and_returns() -> Result<()> {
    let mut cluster = cluster().await?;
    let writer = writing(&cluster).await?;
    let active = cluster.active_of("DB1").await?;
    writer.reset_gap();
    cluster.member(&active).kill()?;
    writer.progress(200).await?;
    let gap = writer.longest_gap();
    // The aim is 2.5 s on a quiet machine, when the leader dies as well.
    ensure!(gap < Duration::from_secs(10), "nothing was written for {gap:?}");
    ensure!(cluster.active_of("DB1").await? != active, "a dead member serves");
    cluster.member(&active).start()?;
    prove(&cluster, writer).await?;
    cluster.assert_clean_logs(EXPECTED_ERRORS)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passive_member_dies_and_catches_up() -> Result<()> {
    let mut cluster = cluster().await?;
    let writer = writing(&cluster).await?;
    let active = cluster.active_of("DB1").await?;
    let passive = another(&cluster, &active);
    cluster.member(&passive).kill()?;
    writer.progress(500).await?;
    cluster.member(&passive).start()?;
    eventually("the passive copy follows again", || async {
        let rows = cluster.cli().json(["copy", "status", "DB1", "--member", &passive]).await?;
        ensure!(rows[0]["status"] == "Healthy", "{rows}");
        Ok(())
    })
    .await?;
    writer.progress(200).await?;
    ensure!(cluster.active_of("DB1").await? == active, "the active moved for nothing");
    prove(&cluster, writer).await?;
    cluster.assert_clean_logs(EXPECTED_ERRORS)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_active_member_is_left_and_serves_nothing_when_it_wakes() -> Result<()> {
    let mut cluster = cluster().await?;
    let writer = writing(&cluster).await?;
    let active = cluster.active_of("DB1").await?;
    cluster.member(&active).pause()?;
    writer.progress(200).await?;
    ensure!(cluster.active_of("DB1").await? != active, "a paused member serves");
    cluster.member(&active).resume()?;
    writer.progress(200).await?;
    prove(&cluster, writer).await?;
    cluster.assert_clean_logs(EXPECTED_ERRORS)
}

/// The data process is well, reaches its peers, and could go on acknowledging. Nobody renews its
/// lease: it stops before anybody else serves.
#[tokio::test(flavor = "multi_thread")]
async fn an_active_whose_control_process_hangs_stops_with_its_lease() -> Result<()> {
    let mut cluster = cluster().await?;
    let writer = writing(&cluster).await?;
    let active = cluster.active_of("DB1").await?;
    let data = cluster.member(&active).data_pid();
    cluster.member(&active).pause_control_process()?;
    writer.progress(200).await?;
    let heir = cluster.active_of("DB1").await?;
    ensure!(heir != active, "{active} serves without a lease");
    ensure!(cluster.member(&active).data_pid() == data, "its data process lives");
    cluster.member(&active).resume()?;
    writer.progress(200).await?;
    prove(&cluster, writer).await?;
    cluster.assert_clean_logs(EXPECTED_ERRORS)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_die_at_once_and_return() -> Result<()> {
    let mut cluster = cluster().await?;
    let writer = writing(&cluster).await?;
    for name in cluster.names() {
        cluster.member(&name).kill()?;
    }
    for name in cluster.names() {
        cluster.member(&name).start()?;
    }
    writer.progress(200).await?;
    prove(&cluster, writer).await?;
    cluster.assert_clean_logs(EXPECTED_ERRORS)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_stop_and_start_in_turn_without_loss() -> Result<()> {
    let mut cluster = cluster().await?;
    let writer = writing(&cluster).await?;
    for name in cluster.names() {
        cluster.member(&name).stop()?;
        writer.progress(100).await?;
        cluster.member(&name).start()?;
        cluster.wait_until_whole().await?;
    }
    prove(&cluster, writer).await?;
    cluster.assert_clean_logs(EXPECTED_ERRORS)
}

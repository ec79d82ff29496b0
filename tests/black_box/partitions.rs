//! Members that live and do not hear each other.

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, Writer, WriterOptions, eventually};

use crate::crashes::prove;

/// Three members whose network can be cut, and DB1 with a copy on each.
pub(crate) async fn cuttable() -> Result<Cluster> {
    let options = ClusterOptions { network: true, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    Ok(cluster)
}

/// All members but this one.
pub(crate) fn others(cluster: &Cluster, member: &str) -> Vec<String> {
    cluster.names().into_iter().filter(|name| name != member).collect()
}

/// Cuts a member off from all others.
pub(crate) fn isolate(cluster: &Cluster, member: &str) {
    let others = others(cluster, member);
    let others: Vec<_> = others.iter().map(String::as_str).collect();
    cluster.network().part(&[member], &others);
}

/// The network heals: the database stays where it is, every copy follows, and nothing is lost.
pub(crate) async fn stays_when_healed(
    cluster: &Cluster,
    active: &str,
    writer: Writer,
) -> Result<()> {
    cluster.network().heal_all();
    writer.progress(200).await?;
    ensure!(cluster.active_of("DB1").await? == active, "healing moved the database");
    prove(cluster, writer).await?;
    cluster.assert_clean_logs(&[])
}

/// The active is cut off from both others: one of them takes over, the old active holds (G6)
/// although clients reach it, and after healing every copy is healthy and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_active_that_is_cut_off_holds_and_another_takes_over() -> Result<()> {
    let cluster = cuttable().await?;
    let database = cluster.client().database("DB1");
    let writer = Writer::start(database.clone(), WriterOptions::default());
    writer.progress(200).await?;
    let old = cluster.active_of("DB1").await?;
    isolate(&cluster, &old);
    let majority = cluster.seen_from(&others(&cluster, &old)[0])?;
    let new = eventually("another copy serves", || async {
        let new = majority.active_of("DB1").await?;
        ensure!(new != old, "{old} still serves");
        Ok(new)
    })
    .await?;
    writer.progress(200).await?;
    let there = cluster.seen_from(&old)?.cli;
    let seen = there.json(["copy", "status", "DB1", "--member", &old]).await?;
    assert_eq!(seen[0]["serving"], false, "it holds although clients reach it");
    stays_when_healed(&cluster, &new, writer).await
}

/// A passive hears the active but is not heard: writes go on with the other passive, and after
/// healing the copy follows again.
#[tokio::test(flavor = "multi_thread")]
async fn a_passive_that_is_not_heard_does_not_stop_the_writers() -> Result<()> {
    let cluster = cuttable().await?;
    let database = cluster.client().database("DB1");
    let active = cluster.active_of("DB1").await?;
    let silent = others(&cluster, &active).remove(0);
    let writer = Writer::start(database.clone(), WriterOptions::default());
    writer.progress(200).await?;
    cluster.network().cut_one_way(&silent, &active);
    writer.progress(200).await?;
    cluster.network().heal(&active, &silent);
    prove(&cluster, writer).await?;
    cluster.assert_clean_logs(&[])
}

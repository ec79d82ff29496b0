//! Members whose data address alone is cut off: control addresses answer, leases are renewed (F13).

use anyhow::{Context, Result, ensure};
use keelson_testkit::{CLIENTS, Cluster, ClusterOptions, Writer, WriterOptions, eventually};

use crate::copies::status;
use crate::partitions::{isolate, others, stays_when_healed};

/// Three members whose data addresses can be cut, and DB1 with a copy on each.
async fn cuttable(settings: &[&str]) -> Result<Cluster> {
    let options = ClusterOptions { network: true, data_only: true, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    if !settings.is_empty() {
        let set = ["database", "set", "DB1"].iter().chain(settings);
        cluster.cli().succeed(set).await?;
    }
    Ok(cluster)
}

/// Neither members nor clients reach the data process of a member, and it reaches none of them.
fn cut_off(cluster: &Cluster, member: &str) {
    isolate(cluster, member);
    cluster.network().cut(CLIENTS, member);
}

/// The active is left while it still holds its lease; what it had and acknowledged to nobody is
/// kept as salvage, and every acknowledged write is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_active_whose_data_address_is_cut_off_is_left() -> Result<()> {
    let cluster = cuttable(&[]).await?;
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    writer.progress(200).await?;
    let old = cluster.active_of("DB1").await?;
    cut_off(&cluster, &old);
    let new = eventually("another copy serves", || async {
        let new = cluster.active_of("DB1").await?;
        ensure!(new != old, "{old} is still active");
        Ok(new)
    })
    .await?;
    writer.progress(200).await?;
    let decisions = cluster.cli().json(["decision", "list", "DB1"]).await?;
    let record = decisions.as_array().and_then(|list| list.last()).context("a decision")?;
    ensure!(record.to_string().contains("data_network"), "{record}");
    let problems = cluster.cli().json(["cluster", "status"]).await?["problems"].to_string();
    ensure!(problems.contains(&format!("data address of {old} is not reached")), "{problems}");
    stays_when_healed(&cluster, &new, writer).await
}

/// An active that has degraded before acknowledges what only it holds: it stays, whoever reaches
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn a_degraded_active_that_is_cut_off_is_not_left() -> Result<()> {
    let cluster = cuttable(&["--degrade-after", "500ms"]).await?;
    let database = cluster.client().database("DB1");
    database.put("before", "1").await?;
    let active = cluster.active_of("DB1").await?;
    isolate(&cluster, &active);
    // Clients reach it still.
    database.put("alone", "1").await?;
    eventually("it is known to be cut off", || async {
        let row = status(&cluster, &active).await?;
        ensure!(row["failure_tag"] == "data_network" && row["degraded"] == true, "{row}");
        let problems = cluster.cli().json(["cluster", "status"]).await?["problems"].to_string();
        let by = others(&cluster, &active).join(", ");
        ensure!(problems.contains(&format!("{active} is not reached by {by}")), "{problems}");
        Ok(())
    })
    .await?;
    database.put("later", "1").await?;
    assert_eq!(cluster.active_of("DB1").await?, active, "it was left");
    cluster.network().heal_all();
    cluster.wait_until_counting("DB1").await?;
    assert_eq!(database.get("alone").await?.as_deref(), Some(&b"1"[..]));
    cluster.equal_digest("DB1", 3).await?;
    cluster.assert_clean_logs(&[])
}

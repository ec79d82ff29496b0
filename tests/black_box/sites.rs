//! A site is stopped: it serves nothing and does not vote, until it is started again (F126).

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, Writer, WriterOptions, eventually};
use serde_json::Value;

use crate::bad_input::check;
use crate::space::events;

/// m1 and m2 in north, m3 and m4 in south, the witness m5 in a third place; DB1 on all four. North
/// leads.
async fn two_sites() -> Result<Cluster> {
    let sites = ["north", "north", "south", "south", "west"].map(str::to_owned).to_vec();
    let options = ClusterOptions { members: 5, witnesses: 1, sites, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    cluster.create_database("DB1", &["m3", "m4", "m1", "m2"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    Ok(cluster)
}

async fn site(cluster: &Cluster, name: &str) -> Result<Value> {
    let sites = cluster.cli().json(["site", "list"]).await?;
    let mut sites = sites.as_array().into_iter().flatten();
    Ok(sites.find(|site| site["site"] == name).cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_site_does_not_vote_and_returns_without_harm() -> Result<()> {
    let mut cluster = two_sites().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m3"]).await?;
    let unknown = cluster.cli().run(["site", "stop", "east", "--yes"]).await?;
    check(&unknown, 3, "bad_argument");
    let status = cluster.cli().json(["cluster", "status"]).await?;
    let leader = status["leader"].as_str().unwrap_or_default().to_owned();
    if leader == "m3" || leader == "m4" {
        let refused = cluster.cli().run(["site", "stop", "south", "--yes"]).await?;
        check(&refused, 3, "precondition");
    }
    ensure!(site(&cluster, "south").await?["voters"] == 2, "two voters stand there");
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    writer.progress(100).await?;
    let planned = cluster.cli().succeed(["site", "stop", "south", "--what-if"]).await;
    ensure!(planned.is_ok() || leader == "m3" || leader == "m4", "{planned:?}");
    eventually("the site is stopped once another place leads", || async {
        let stop = ["site", "stop", "south", "--yes", "--comment", "flood"];
        let output = cluster.cli().run(stop).await?;
        if output.code != Some(0) {
            for member in ["m3", "m4"] {
                let _ = cluster.cli().run(["member", "maintenance", "start", member]).await?;
            }
        }
        ensure!(output.code == Some(0), "{output:?}");
        Ok(())
    })
    .await?;
    let south = site(&cluster, "south").await?;
    ensure!(south["stopped"] == true && south["voters"] == 0, "{south}");
    ensure!(south["comment"] == "flood" && south["actives"] == 0, "{south}");
    ensure!(!events(&cluster, "site_stopped").await?.is_empty(), "no event");
    writer.progress(100).await?;

    // Two of five voters would be gone with it; now two of three are left after one more loss.
    for member in ["m3", "m4"] {
        cluster.member(member).kill()?;
    }
    let active = cluster.active_of("DB1").await?;
    ensure!(active == "m1" || active == "m2", "{active} serves");
    writer.progress(100).await?;
    cluster.member(&active).kill()?;
    writer.progress(100).await?;
    cluster.member(&active).start()?;

    // It comes back: nothing moves there, it votes for nobody, and its copies catch up.
    for member in ["m3", "m4"] {
        cluster.member(member).start()?;
    }
    cluster.wait_until_whole().await?;
    let south = site(&cluster, "south").await?;
    ensure!(south["stopped"] == true && south["voters"] == 0 && south["actives"] == 0, "{south}");
    let refused = cluster.cli().run(["switchover", "DB1", "--to", "m3"]).await?;
    check(&refused, 3, "target_unfit");

    cluster.cli().succeed(["site", "start", "south"]).await?;
    for member in ["m3", "m4"] {
        cluster.cli().succeed(["member", "maintenance", "stop", member]).await?;
    }
    cluster.wait_until_counting("DB1").await?;
    let south = site(&cluster, "south").await?;
    ensure!(south["stopped"] == false && south["voters"] == 2, "{south}");
    let oracle = writer.stop().await?;
    oracle.verify(&cluster.client().database("DB1")).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 4).await?;
    Ok(())
}

/// Somebody must be left.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_site_is_not_stopped() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let refused = cluster.cli().run(["site", "stop", "test", "--yes"]).await?;
    check(&refused, 3, "precondition");
    Ok(())
}

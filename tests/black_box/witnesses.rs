//! A witness votes and holds no data: with it two members survive the loss of either.

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, ClusterOptions, Writer, WriterOptions, eventually};
use serde_json::Value;

use crate::bad_input::check;
use crate::space::events;

/// m1 and m2 hold DB1, m3 is a witness.
async fn cluster_with_witness() -> Result<Cluster> {
    let options = ClusterOptions { witnesses: 1, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    cluster.create_database("DB1", &["m1", "m2"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    Ok(cluster)
}

async fn member(cluster: &Cluster, name: &str) -> Result<Value> {
    let status = cluster.cli().json(["cluster", "status"]).await?;
    let mut members = status["members"].as_array().into_iter().flatten();
    members.find(|member| member["member"] == name).cloned().context("no such member")
}

/// Either member goes, in turn, and the database moves to the other by itself; so may the witness.
#[tokio::test(flavor = "multi_thread")]
async fn two_members_and_a_witness_survive_the_loss_of_any_of_them() -> Result<()> {
    let mut cluster = cluster_with_witness().await?;
    let witness = member(&cluster, "m3").await?;
    for (field, value) in [("witness", true), ("voter", true), ("data_process_up", false)] {
        assert_eq!(witness[field], value, "{witness}");
    }
    ensure!(!cluster.path().join("m3/data/databases").exists(), "a witness keeps data");
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    writer.progress(200).await?;
    for _ in 0..2 {
        let active = cluster.active_of("DB1").await?;
        cluster.member(&active).kill()?;
        writer.progress(200).await?;
        ensure!(cluster.active_of("DB1").await? != active, "a dead member serves");
        cluster.member(&active).start()?;
        cluster.wait_until_whole().await?;
        cluster.wait_until_counting("DB1").await?;
    }
    let active = cluster.active_of("DB1").await?;
    cluster.member("m3").kill()?;
    writer.progress(200).await?;
    assert_eq!(cluster.active_of("DB1").await?, active, "nothing moves for a witness");
    eventually("its loss is a problem", || async {
        let status = cluster.cli().json(["cluster", "status"]).await?;
        ensure!(status["problems"].to_string().contains("m3 is not reachable"), "{status}");
        Ok(())
    })
    .await?;
    cluster.member("m3").start()?;
    let oracle = writer.stop().await?;
    cluster.wait_until_whole().await?;
    oracle.verify(&cluster.client().database("DB1")).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 2).await?;
    Ok(())
}

/// F124: a leader under maintenance lets another one lead, after its databases have left.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_under_maintenance_stands_down() -> Result<()> {
    let cluster = cluster_with_witness().await?;
    let leads = || async {
        let status = cluster.cli().json(["cluster", "status"]).await?;
        Ok::<_, anyhow::Error>(status["leader"].as_str().unwrap_or_default().to_owned())
    };
    let leader = leads().await?;
    cluster.wait_until_indexed("DB1").await?;
    cluster.cli().succeed(["member", "maintenance", "start", &leader]).await?;
    eventually("another member leads", || async {
        let now = leads().await?;
        ensure!(!now.is_empty() && now != leader, "{now:?} leads");
        Ok(())
    })
    .await?;
    ensure!(cluster.active_of("DB1").await? != leader, "its databases stayed");
    cluster.client().database("DB1").put("k", "v").await?;
    let told = events(&cluster, "leader_stood_down").await?;
    ensure!(told.len() == 1 && told[0]["subject"] == leader.as_str(), "{told:?}");
    cluster.cli().succeed(["member", "maintenance", "stop", &leader]).await?;
    Ok(())
}

/// What a witness cannot do is refused with codes, and so is one kind taken for the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_witness_is_no_member_and_a_member_no_witness() -> Result<()> {
    let mut cluster = cluster_with_witness().await?;
    let create = ["database", "create", "DB2", "--on", "m1,m3"];
    check(&cluster.cli().run(create).await?, 3, "precondition");
    let copy = ["copy", "add", "DB1", "--on", "m3"];
    check(&cluster.cli().run(copy).await?, 3, "precondition");
    let health = cluster.cli().run(["health", "m3", "-o", "json"]).await?;
    let rows: Vec<Value> = serde_json::from_str(&health.stdout)?;
    let failed: Vec<_> = rows.iter().filter(|row| row["result"] != "passed").collect();
    ensure!(failed.is_empty(), "{failed:?}");
    let ping = ["member", "ping", "--config"].map(str::to_owned);
    let config = cluster.path().join("m3/keelson.toml").display().to_string();
    cluster.cli().succeed(ping.into_iter().chain([config.clone()])).await?;
    let listed = cluster.cli().json(["cluster", "witness", "list"]).await?;
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");

    let wrong = ["cluster", "witness", "remove", "m2", "--yes"];
    check(&cluster.cli().run(wrong).await?, 3, "precondition");
    cluster.cli().succeed(["cluster", "witness", "remove", "m3", "--yes"]).await?;
    eventually("it is gone", || async {
        ensure!(member(&cluster, "m3").await.is_err(), "it is still there");
        cluster.client().database("DB1").put("k", "v").await?;
        Ok(())
    })
    .await?;
    cluster.member("m3").stop()?;
    let server = cluster.cli().run(["server", "--config", &config]).await?;
    ensure!(server.code == Some(3) || server.code == Some(1), "{server:?}");
    ensure!(server.stderr.contains("wrong_kind"), "{server:?}");
    Ok(())
}

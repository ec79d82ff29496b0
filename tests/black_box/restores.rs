//! A site is forced up without the majority that was lost with another one, and that one returns
//! (F16, F126, S19).

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cli, Cluster, ClusterOptions, View, Writer, WriterOptions, eventually};
use serde_json::{Value, json};

use crate::bad_input::check;
use crate::space::events;

const NORTH: [&str; 3] = ["m1", "m2", "m5"];
const SOUTH: [&str; 2] = ["m3", "m4"];

/// m1, m2 and the witness m5 in north, m3 and m4 in south: north alone is a majority.
async fn north_has_the_majority() -> Result<Cluster> {
    let sites = ["north", "north", "south", "south", "north"].map(str::to_owned).to_vec();
    let options = ClusterOptions { members: 5, witnesses: 1, sites, ..ClusterOptions::default() };
    let cluster = Cluster::start_with(options).await?;
    let waits = ["cluster", "settings", "set", "cold_start_waits_for_all", "on"];
    cluster.cli().succeed(waits).await?;
    Ok(cluster)
}

/// `site restore` with the configuration of a member.
fn restore(cluster: &mut Cluster, member: &str, more: &[&str]) -> Vec<String> {
    let config = cluster.member(member).directory().join("keelson.toml").display().to_string();
    let words = ["site", "restore", "south", "--config", &config];
    words.into_iter().chain(more.iter().copied()).map(str::to_owned).collect()
}

async fn problems(cli: &Cli) -> Result<String> {
    let status = cli.json(["cluster", "status"]).await?;
    Ok(status["problems"].to_string())
}

async fn stopped(cli: &Cli, site: &str) -> Result<bool> {
    let sites = cli.json(["site", "list"]).await?;
    let mut sites = sites.as_array().into_iter().flatten();
    let found = sites.find(|found| found["site"] == site).context("the site is listed")?;
    found["stopped"].as_bool().context("it says so")
}

async fn voters(cli: &Cli, count: usize) -> Result<()> {
    eventually("the members vote", || async {
        let status = cli.json(["cluster", "status"]).await?;
        let members = status["members"].as_array().context("members")?;
        let votes = members.iter().filter(|m| m["voter"] == true && m["reachable"] == true);
        ensure!(votes.clone().count() == count, "{status}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_forced_up_and_the_lost_majority_returns_without_harm() -> Result<()> {
    let mut cluster = north_has_the_majority().await?;
    cluster.create_database("DB1", &["m1", "m2", "m3", "m4"]).await?;
    cluster.create_database("DB2", &["m3", "m4"]).await?;
    let (one, two) = (cluster.client().database("DB1"), cluster.client().database("DB2"));
    for number in 0..100 {
        one.put(format!("before{number:03}"), b"1".to_vec()).await?;
    }
    two.put("before", b"1".to_vec()).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    lose_the_north(&mut cluster).await?;

    let view = cluster.seen_from("m4")?;
    force_up(&mut cluster, &view).await?;
    open_with_loss(&view).await?;
    let writer = Writer::start(view.client.database("DB1"), WriterOptions::default());
    writer.progress(200).await?;

    north_returns(&mut cluster).await?;
    writer.progress(200).await?;
    ensure!(stopped(&view.cli, "north").await?, "it waits for an operator");
    view.cli.succeed(["site", "start", "north"]).await?;
    voters(&view.cli, 5).await?;
    cluster.wait_until_counting("DB1").await?;
    let oracle = writer.stop().await?;
    oracle.verify(&cluster.client().database("DB1")).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 4).await?;
    for number in 0..100 {
        let value = one.get(format!("before{number:03}")).await?;
        ensure!(value.is_some(), "before{number:03} is there");
    }
    ensure!(!events(&cluster, "site_recovered").await?.is_empty(), "no event");
    // The majority of before is one again.
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    for member in SOUTH {
        cluster.member(member).kill()?;
    }
    one.put("after", b"1".to_vec()).await?;
    Ok(())
}

/// The north dies; on the way, what a restore refuses.
async fn lose_the_north(cluster: &mut Cluster) -> Result<()> {
    let wanted = restore(cluster, "m3", &["--yes"]);
    check(&cluster.cli().run(&wanted).await?, 3, "second_holder");
    cluster.member("m3").kill()?;
    let lives = cluster.cli().run(&wanted).await?;
    check(&lives, 3, "precondition");
    ensure!(lives.stderr.contains("m1, m2, m5 answers"), "{lives:?}");
    for member in NORTH {
        cluster.member(member).kill()?;
    }
    let elsewhere = restore(cluster, "m1", &["--yes"]);
    check(&cluster.cli().run(&elsewhere).await?, 3, "bad_argument");
    Ok(())
}

/// m3 founds the consensus anew, and m4 is taken in.
async fn force_up(cluster: &mut Cluster, view: &View) -> Result<()> {
    let plan = restore(cluster, "m3", &["--what-if"]);
    let planned = eventually("m4 hears no leader any more", || view.cli.json(&plan)).await?;
    assert_eq!(planned["in_doubt"], json!(["DB1"]), "{planned}");
    assert_eq!(planned["open_by_themselves"], json!(["DB2"]), "{planned}");
    ensure!(planned["recovery_generation"].as_u64() > Some(0), "{planned}");
    assert_eq!(planned["cold_start_waits_for_all"], true, "{planned}");
    assert_eq!(planned["members"][0]["becomes"], "founder", "{planned}");
    let unconfirmed = restore(cluster, "m3", &[]);
    check(&cluster.cli().run(&unconfirmed).await?, 2, "usage");

    let order = restore(cluster, "m3", &["--yes", "--comment", "fire in the north"]);
    let done = view.cli.json(&order).await?;
    ensure!(done["kept"].as_str().is_some_and(|kept| kept.ends_with(".redb")), "{done}");
    cluster.member("m3").start()?;
    eventually("m4 is taken in, and the lost members are stopped", || async {
        ensure!(stopped(&view.cli, "north").await?, "not yet");
        Ok(())
    })
    .await?;
    voters(&view.cli, 2).await?;
    ensure!(!stopped(&view.cli, "south").await?, "the others are not");
    Ok(())
}

/// DB2 opens by itself; of DB1 nobody can know what m1 and m2 acknowledged.
async fn open_with_loss(view: &View) -> Result<()> {
    view.active_of("DB2").await?;
    let kept = view.client.database("DB2").get("before").await?;
    ensure!(kept.is_some(), "DB2 has what was written");
    eventually("DB1 is in doubt", || async {
        let refused = view.cli.run(["database", "mount", "DB1"]).await?;
        ensure!(refused.error_code() == Some("no_lossless_copy"), "{refused:?}");
        Ok(())
    })
    .await?;
    view.cli.succeed(["database", "mount", "DB1", "--accept-loss", "--yes"]).await?;
    let active = view.active_of("DB1").await?;
    ensure!(SOUTH.contains(&active.as_str()), "{active} serves");
    let shown = view.cli.json(["database", "show", "DB1"]).await?;
    assert_eq!(shown["losses"].as_array().map(Vec::len), Some(1), "{shown}");
    Ok(())
}

/// The north has power again. It was a majority, hears of the new generation, and serves nobody.
async fn north_returns(cluster: &mut Cluster) -> Result<()> {
    let mut pids = Vec::new();
    for member in NORTH {
        pids.push(start(cluster, member)?);
    }
    eventually("the north has forgotten its consensus", || async {
        for member in NORTH {
            let kept = cluster.path().join(member).join("data/cluster/consensus-recovery-0.redb");
            ensure!(kept.is_file(), "{member} has not");
        }
        Ok(())
    })
    .await?;
    for (member, pid) in NORTH.into_iter().zip(pids) {
        let process = cluster.member(member);
        ensure!(process.is_running(), "{member} starts again by itself");
        ensure!(process.control_pid() == pid, "{member} is the same process");
    }
    Ok(())
}

fn start(cluster: &mut Cluster, member: &str) -> Result<Option<u32>> {
    cluster.member(member).start()?;
    Ok(cluster.member(member).control_pid())
}

/// What F16 asks for: the north comes back alone and cannot know whether it was given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_starts_alone_serves_nothing_until_it_hears_the_other() -> Result<()> {
    let mut cluster = north_has_the_majority().await?;
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await?;
    let database = cluster.client().database("DB1");
    database.put("before", b"1".to_vec()).await?;
    // The life of the leader vouches: an ordinary failover waits for nobody.
    let active = cluster.active_of("DB1").await?;
    cluster.member(&active).kill()?;
    database.put("after a failover", b"1".to_vec()).await?;

    for member in ["m1", "m2", "m3", "m4", "m5"] {
        cluster.member(member).kill()?;
    }
    for member in NORTH {
        cluster.member(member).start()?;
    }
    let view = cluster.seen_from("m1")?;
    eventually("the north says for whom it waits", || async {
        let problems = problems(&view.cli).await?;
        ensure!(problems.contains("nothing is mounted before m3, m4 is back"), "{problems}");
        Ok(())
    })
    .await?;
    ensure!(!serves(&view.cli).await?, "no copy serves");

    // An operator who knows better says so.
    eventually("m4 is not waited for", || async {
        view.cli.succeed(["member", "maintenance", "start", "m4"]).await
    })
    .await?;
    cluster.member("m3").start()?;
    let value = cluster.client().database("DB1").get("after a failover").await?;
    ensure!(value.is_some(), "everything is there");
    Ok(())
}

async fn serves(cli: &Cli) -> Result<bool> {
    let rows = cli.json(["copy", "status", "DB1"]).await?;
    let serving = |row: &Value| row["serving"] == true;
    Ok(rows.as_array().is_some_and(|rows| rows.iter().any(serving)))
}

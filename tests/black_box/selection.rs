//! Which copy becomes active: policies, limits, checks, maintenance, and the records of it.

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, Output, eventually};
use serde_json::Value;

use crate::data::cluster;

#[track_caller]
fn check(output: &Output, code: &str) {
    assert_eq!((output.code, output.error_code()), (Some(3), Some(code)), "{}", output.stderr);
    assert!(output.hint().is_some(), "{}", output.stderr);
}

/// Makes `member` active and waits until the others have caught up.
async fn active_on(cluster: &Cluster, member: &str) -> Result<()> {
    eventually(&format!("DB1 is active on {member}"), || async {
        cluster.cli().succeed(["switchover", "DB1", "--to", member]).await?;
        Ok(())
    })
    .await?;
    cluster.wait_until_caught_up("DB1").await
}

async fn member(cluster: &Cluster, name: &str) -> Result<Value> {
    let members = cluster.cli().json(["member", "list"]).await?;
    let mut rows = members.as_array().cloned().unwrap_or_default().into_iter();
    Ok(rows.find(|row| row["member"] == name).unwrap_or_default())
}

/// F26, F28, F25: a blocked member is taken only when it is named; a failover passes it over.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_member_is_passed_over_by_a_failover() -> Result<()> {
    let mut cluster = cluster().await?;
    active_on(&cluster, "m1").await?;
    cluster.cli().succeed(["member", "set", "m2", "--activation-policy", "blocked"]).await?;
    assert_eq!(member(&cluster, "m2").await?["activation_policy"], "blocked");
    // Refused as long as an index crawls.
    eventually("it would move to m3", || async {
        let plan = cluster.cli().json(["switchover", "DB1", "--what-if"]).await?;
        let found = (plan[0]["to"].as_str(), plan[0]["result"].as_str());
        ensure!(found == (Some("m3"), Some("would_move")), "{plan}");
        Ok(())
    })
    .await?;
    cluster.member("m1").kill()?;
    eventually("DB1 is active on m3", || async {
        let active = cluster.active_of("DB1").await?;
        ensure!(active == "m3", "{active}");
        Ok(())
    })
    .await?;
    let decisions = cluster.cli().json(["decision", "list", "DB1", "--limit", "1"]).await?;
    let id = decisions[0]["index"].to_string();
    let explained = cluster.cli().json(["decision", "explain", &id]).await?;
    assert_eq!((&explained["agrees"], &explained["chosen"]), (&true.into(), &"m3".into()));
    let blocked = explained["candidates"].as_array().into_iter().flatten();
    let blocked = blocked
        .filter(|one| one["member"] == "m2")
        .flat_map(|one| one["criteria"].as_array().cloned().unwrap_or_default());
    let unmet: Vec<_> =
        blocked.filter(|row| row["met"] == false).map(|r| r["name"].clone()).collect();
    assert!(unmet.contains(&"policy".into()), "{unmet:?}");
    let change = ["decision", "explain", &id, "--what-if", "m2.policy=unrestricted"];
    assert_eq!(cluster.cli().json(change).await?["chosen"], "m2");
    let text = cluster.cli().succeed(["decision", "explain", &id]).await?;
    assert!(text.contains("decided again from its inputs it is the same"), "{text}");
    assert!(text.contains("fence: m1, active in epoch"), "{text}");
    let open = ["decision", "explain", &id, "--what-if", "m1.fenced=false"];
    assert_eq!(cluster.cli().json(open).await?["chosen"], serde_json::Value::Null);
    cluster.cli().succeed(["switchover", "DB1", "--to", "m2"]).await?;
    Ok(())
}

/// F27, F33-F35: refusals name the check, its code, and the flag that skips it.
#[tokio::test(flavor = "multi_thread")]
async fn checks_refuse_with_their_code_and_flags_skip_them() -> Result<()> {
    let cluster = cluster().await?;
    active_on(&cluster, "m1").await?;
    let cli = cluster.cli();
    cli.succeed(["member", "set", "m2", "--max-active-preferred", "0"]).await?;
    let to_m2 = ["switchover", "DB1", "--to", "m2"];
    let refused = cli.run(to_m2).await?;
    check(&refused, "active_limit");
    assert!(refused.stderr.contains("--skip-max-active-checks"), "{}", refused.stderr);
    let id = eventually("the refusal is a decision", || async {
        let newest = cli.json(["decision", "list", "DB1", "--limit", "1"]).await?;
        ensure!(newest.to_string().contains("refused_move"), "{newest}");
        Ok(newest[0]["index"].to_string())
    })
    .await?;
    let explained = cli.json(["decision", "explain", &id]).await?;
    assert_eq!((&explained["agrees"], &explained["chosen"]), (&true.into(), &Value::Null));
    ensure!(explained["outcome"].to_string().contains("max_active_preferred"), "{explained}");
    let change = ["decision", "explain", &id, "--what-if", "m2.max_active_preferred=none"];
    assert_eq!(cli.json(change).await?["chosen"], "m2");
    let plan = cli.json(["switchover", "DB1", "--to", "m2", "--what-if"]).await?;
    let rows = plan[0]["checks"].as_array().cloned().unwrap_or_default();
    assert_eq!(rows.len(), 14, "{plan}");
    let failed = rows.iter().find(|row| row["verdict"] == "failed").cloned().unwrap_or_default();
    assert_eq!(failed["check"], "max_active_preferred");
    assert_eq!((&failed["measured"], &failed["threshold"]), (&"0".into(), &"below 0".into()));
    let moved = cli.json([&to_m2[..], &["--skip-max-active-checks", "--comment", "test"]].concat());
    let moved = moved.await?["moved"].clone();
    assert_eq!((&moved["active_at_start"], &moved["active_at_end"]), (&"m1".into(), &"m2".into()));
    assert_eq!(
        (&moved["mount_status_at_end"], &moved["logs_lost"]),
        (&"Mounted".into(), &0.into())
    );
    cli.succeed(["member", "set", "m3", "--max-active", "0"]).await?;
    check(&cli.run(["switchover", "DB1", "--to", "m3", "--skip-all"]).await?, "active_limit");
    cli.succeed(["member", "set", "m3", "--max-active", "none"]).await?;
    check(&cli.run(["switchover", "DB1", "--to", "m9"]).await?, "unknown_member");
    check(&cli.run(["switchover", "DB9"]).await?, "unknown_database");
    let text = cli.succeed(["switchover", "DB1", "--what-if"]).await?;
    assert!(text.contains("would move DB1 from m2 to"), "{text}");
    Ok(())
}

/// F36: all databases of a member move at once, or none; those that prefer one come home.
#[tokio::test(flavor = "multi_thread")]
async fn the_databases_of_a_member_move_together_and_come_home() -> Result<()> {
    let cluster = cluster().await?;
    for name in ["DB2", "DB3"] {
        cluster.create_database(name, &["m1", "m2", "m3"]).await?;
    }
    cluster.create_database("DB4", &["m1"]).await?;
    active_on(&cluster, "m1").await?;
    let cli = cluster.cli();
    let all = ["switchover", "--server", "m1", "--all-or-none"];
    check(&cli.run(all).await?, "no_candidate");
    assert_eq!(cluster.active_of("DB2").await?, "m1", "DB4 has one copy: nothing moved");
    let output = cli.run(["switchover", "--server", "m1"]).await?;
    check(&output, "no_candidate");
    for (name, active) in [("DB1", false), ("DB2", false), ("DB3", false), ("DB4", true)] {
        assert_eq!(cluster.active_of(name).await? == "m1", active, "{name}: {}", output.stdout);
    }
    cluster.wait_until_caught_up("DB2").await?;
    cluster.wait_until_caught_up("DB3").await?;
    eventually("all are home", || async {
        cli.succeed(["switchover", "--bring-home", "m1"]).await?;
        for name in ["DB2", "DB3"] {
            let active = cluster.active_of(name).await?;
            ensure!(active == "m1", "{name} is on {active}");
        }
        Ok(())
    })
    .await
}

/// F124, F125: databases leave, nothing comes by itself, and an administrator's policy survives;
/// where they cannot leave, the maintenance is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn maintenance_moves_away_and_is_undone_if_it_cannot() -> Result<()> {
    let cluster = cluster().await?;
    active_on(&cluster, "m1").await?;
    let cli = cluster.cli();
    cli.succeed(["member", "set", "m1", "--activation-policy", "intrasite_only"]).await?;
    eventually("a content index is whole elsewhere", || async {
        let shown = cli.succeed(["member", "maintenance", "start", "m1", "--what-if"]).await?;
        ensure!(shown.contains("would move DB1 from m1 to"), "{shown}");
        Ok(())
    })
    .await?;
    assert!(member(&cluster, "m1").await?["maintenance"].is_null());
    cli.succeed(["member", "maintenance", "start", "m1", "--comment", "new disk"]).await?;
    assert_ne!(cluster.active_of("DB1").await?, "m1");
    assert_eq!(member(&cluster, "m1").await?["maintenance"]["comment"], "new disk");
    let list = cli.succeed(["member", "list"]).await?;
    assert!(list.contains("intrasite_only, maintenance"), "{list}");
    cli.succeed(["member", "maintenance", "stop", "m1"]).await?;
    let after = member(&cluster, "m1").await?;
    assert_eq!(after["activation_policy"], "intrasite_only");
    assert!(after["maintenance"].is_null());
    cluster.create_database("DB2", &["m1"]).await?;
    check(&cli.run(["member", "maintenance", "start", "m1"]).await?, "no_candidate");
    // A list may come from a follower, which hears of it a little later.
    eventually("it was taken back", || async {
        ensure!(member(&cluster, "m1").await?["maintenance"].is_null());
        Ok(())
    })
    .await?;
    let moves = ["member", "set", "m1", "--activation-disabled-and-move-now", "true"];
    let text = cli.succeed(moves).await?;
    assert!(text.contains("1 stay: DB2 has no other copy"), "{text}");
    cli.succeed(["copy", "add", "DB2", "--on", "m2"]).await?;
    eventually("DB2 leaves as soon as another copy can have it (F28)", || async {
        let active = cluster.active_of("DB2").await?;
        ensure!(active == "m2", "it is on {active}");
        Ok(())
    })
    .await
}

/// F133, F134: all tests pass on a whole cluster; a member that is gone fails those about it, and
/// the loss of redundancy is an event, as is its end.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_redundancy_tell_what_is_wrong() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    cluster.create_database("DB1", &["m1", "m2"]).await?;
    active_on(&cluster, "m1").await?;
    for (name, value) in [("redundancy_check_period", "1s"), ("redundancy_alert_after", "0")] {
        cluster.cli().succeed(["cluster", "settings", "set", name, value]).await?;
    }
    eventually("all tests pass", || async {
        cluster.cli().succeed(["health"]).await?;
        cluster.cli().succeed(["redundancy"]).await?;
        Ok(())
    })
    .await?;
    assert_eq!(cluster.cli().json(["health", "m1"]).await?.as_array().map(Vec::len), Some(19));
    cluster.member("m2").kill()?;
    let told = |kind: &'static str| {
        let cli = cluster.cli().clone();
        async move {
            let events = cli.json(["event", "list"]).await?;
            let mut events = events.as_array().into_iter().flatten();
            ensure!(events.any(|event| event["kind"] == kind), "no {kind}");
            Ok(())
        }
    };
    eventually("the loss is told", || told("redundancy_red")).await?;
    check(&cluster.cli().run(["redundancy", "DB1"]).await?, "unhealthy");
    let health = cluster.cli().run(["health"]).await?;
    check(&health, "unhealthy");
    assert!(health.stdout.contains("dag_members_up"), "{}", health.stdout);
    cluster.member("m2").start()?;
    eventually("it is over", || {
        let cli = cluster.cli().clone();
        async move {
            let events = cli.json(["event", "list"]).await?;
            let mut events = events.as_array().into_iter().flatten();
            ensure!(events.any(|event| event["kind"] == "redundancy_green"), "still red");
            Ok(())
        }
    })
    .await
}

/// F118, F120, F123: databases go to the copy that they prefer, asked for or by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn databases_are_spread_by_preference() -> Result<()> {
    let cluster = cluster().await?;
    cluster.create_database("DB2", &["m2", "m1", "m3"]).await?;
    active_on(&cluster, "m3").await?;
    let switch = |name: &'static str, on: &'static str| {
        let cli = cluster.cli().clone();
        async move { cli.succeed(["database", "set", "DB1", name, on]).await.map(drop) }
    };
    switch("--redistribution", "false").await?;
    let plan = cluster.cli().json(["redistribute", "--what-if"]).await?;
    assert_eq!(plan["moves"], serde_json::json!([]), "it is switched off for DB1");
    switch("--redistribution", "true").await?;
    let plan = cluster.cli().json(["redistribute", "--what-if"]).await?;
    let moves: Vec<_> = plan["moves"].as_array().into_iter().flatten().cloned().collect();
    assert_eq!(
        (moves.len(), &moves[0]["database"], &moves[0]["to"]),
        (1, &"DB1".into(), &"m1".into())
    );
    assert_eq!(plan["before"].as_array().map(Vec::len), Some(3));
    cluster.cli().succeed(["redistribute", "--yes"]).await?;
    assert_eq!(cluster.active_of("DB1").await?, "m1");
    active_on(&cluster, "m3").await?;
    cluster.cli().succeed(["cluster", "settings", "set", "preference_move_period", "1s"]).await?;
    let home = |database: &'static str, member: &'static str| {
        let cluster = &cluster;
        eventually("it is home by itself", move || async move {
            let active = cluster.active_of(database).await?;
            ensure!(active == member, "{database} is on {active}");
            Ok(())
        })
    };
    home("DB1", "m1").await?;
    switch("--preference-moves", "false").await?;
    active_on(&cluster, "m3").await?;
    cluster.cli().succeed(["switchover", "DB2", "--to", "m3"]).await?;
    home("DB2", "m2").await?;
    assert_eq!(cluster.active_of("DB1").await?, "m3", "the same round left it alone");
    switch("--preference-moves", "true").await?;
    home("DB1", "m1").await
}

/// F17: a member that stops in order gives its databases away first.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stops_moves_its_databases_away() -> Result<()> {
    let mut cluster = cluster().await?;
    active_on(&cluster, "m1").await?;
    cluster.member("m1").stop()?;
    assert_ne!(cluster.active_of("DB1").await?, "m1");
    let operations = cluster.cli().json(["operation", "list"]).await?;
    let mut operations = operations.as_array().into_iter().flatten();
    ensure!(operations.any(|one| one["comment"] == "m1 stops"), "nothing was moved");
    Ok(())
}

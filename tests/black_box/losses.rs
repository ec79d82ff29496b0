//! A database is opened with loss by an operator's word, and only by that (G3).

use anyhow::{Context, Result, ensure};
use keelson_testkit::{CLIENTS, Cluster, View, eventually};
use serde_json::Value;

use crate::partitions::{cuttable, isolate, others};

/// What the receipt of the newest loss says.
async fn receipt(view: &View) -> Result<Value> {
    let shown = view.cli.json(["database", "show", "DB1"]).await?;
    let losses = shown["losses"].as_array().context("losses are listed")?;
    losses.last().cloned().context("there is a receipt")
}

/// The active alone holds `lost` keys that it acknowledged, and is cut off. Gives it, and what the
/// others see.
pub(crate) async fn only_the_lost_active_has(lost: u32) -> Result<(Cluster, String, View)> {
    let lost = (0..lost).map(|number| (lost_key(number), b"1".to_vec()));
    only_the_lost_active_wrote(vec![("kept".into(), b"1".to_vec())], lost.collect()).await
}

/// A key and its value.
pub(crate) type Pair = (String, Vec<u8>);

/// All copies have the `kept` ones; the active alone the `lost` ones, acknowledged, and is cut off.
pub(crate) async fn only_the_lost_active_wrote(
    kept: Vec<Pair>,
    lost: Vec<Pair>,
) -> Result<(Cluster, String, View)> {
    let cluster = cuttable().await?;
    let database = cluster.client().database("DB1");
    for (key, value) in kept {
        database.put(key, value).await?;
    }
    let active = cluster.active_of("DB1").await?;
    let passives = others(&cluster, &active);
    for passive in &passives {
        let copy = format!("DB1@{passive}");
        let suspend = ["copy", "suspend", &copy, "--comment", "test"];
        cluster.cli().succeed(suspend).await?;
    }
    eventually("the active stands alone", || async {
        let rows = cluster.cli().json(["copy", "status", "DB1"]).await?;
        let rows = rows.as_array().context("an array")?;
        let counting = rows.iter().filter(|row| row["participant"] == true).count();
        ensure!(counting == 1, "{counting} copies count");
        Ok(())
    })
    .await?;
    for (key, value) in lost {
        database.put(key, value).await?;
    }
    isolate(&cluster, &active);
    // Whoever reached it would be told what was true before.
    cluster.network().cut(CLIENTS, &active);
    let view = cluster.seen_from(&passives[0])?;
    for passive in &passives {
        eventually("the others have a leader", || async {
            view.cli.succeed(["copy", "resume", &format!("DB1@{passive}")]).await
        })
        .await?;
    }
    Ok((cluster, active, view))
}

/// The keys that only the lost active has.
pub(crate) fn lost_key(number: u32) -> String {
    format!("lost{number:03}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_opened_with_loss_only_by_an_operators_word() -> Result<()> {
    let (cluster, lost, view) = only_the_lost_active_has(1).await?;
    let mount = ["database", "mount", "DB1"];
    eventually("an ordinary mount says that there is no lossless copy", || async {
        let refused = view.cli.run(mount).await?;
        ensure!(refused.error_code() == Some("no_lossless_copy"), "{refused:?}");
        ensure!(refused.hint().is_some_and(|hint| hint.contains("--accept-loss")), "{refused:?}");
        Ok(())
    })
    .await?;

    let preview = view.cli.json(mount.iter().chain(&["--accept-loss", "--what-if"])).await?;
    assert_eq!(preview["loss"]["missing_at_most"], "unknown", "{preview}");
    assert_eq!(preview["loss"]["unreached_members"], serde_json::json!([lost]), "{preview}");
    let target = preview["target"].as_str().context("a target")?.to_owned();
    ensure!(target != lost && !target.is_empty(), "{preview}");
    let shown = view.cli.json(["database", "show", "DB1"]).await?;
    assert_eq!(shown["losses"], serde_json::json!([]), "a preview changes nothing");

    let unconfirmed = view.cli.run(mount.iter().chain(&["--accept-loss"])).await?;
    assert_eq!(unconfirmed.code, Some(2), "{unconfirmed:?}");
    let accepted = ["database", "mount", "DB1", "--accept-loss", "--yes", "--on", &target];
    let mounted = view.cli.json(accepted).await?;
    assert_eq!(mounted["loss"]["unreached_members"], serde_json::json!([lost]), "{mounted}");
    assert_eq!(view.active_of("DB1").await?, target);
    assert_eq!(receipt(&view).await?, mounted["loss"]);

    let database = view.client.database("DB1");
    assert_eq!(database.get("kept").await?.as_deref(), Some(&b"1"[..]));
    assert_eq!(database.get(lost_key(0)).await?, None);
    database.put("new", "1").await?;
    let decisions = view.cli.json(["decision", "list", "DB1"]).await?;
    let record = decisions.as_array().and_then(|list| list.last()).context("a decision")?;
    ensure!(record.to_string().contains("possible_loss"), "the record hides it: {record}");
    let events = view.cli.succeed(["event", "list"]).await?;
    ensure!(events.contains("activated_with_loss"), "no event: {events}");

    // The old active hears of the new epoch: it answers nobody any more, and the loss stays one.
    cluster.network().heal_all();
    cluster.wait_until_whole().await?;
    assert_eq!(cluster.active_of("DB1").await?, target);
    assert_eq!(cluster.client().database("DB1").get(lost_key(0)).await?, None);
    cluster.wait_until_counting("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_words_for_a_loss_are_refused_with_codes() -> Result<()> {
    let cluster = crate::data::cluster().await?;
    let accept = "--accept-loss";
    for (database, member, expected) in
        [("DB9", "m1", "unknown_database"), ("DB1", "m9", "unknown_member")]
    {
        let words = ["database", "mount", database, accept, "--yes", "--on", member];
        let output = cluster.cli().run(words).await?;
        assert_eq!(output.error_code(), Some(expected), "{output:?}");
    }
    let usage = cluster.cli().run(["database", "mount", "DB1", "--on", "m1"]).await?;
    assert_eq!(usage.code, Some(2), "{usage:?}");
    // Where nothing is wrong nothing is given up, whatever is accepted.
    let done = cluster.cli().json(["database", "mount", "DB1", accept]).await?;
    assert_eq!(done["loss"], Value::Null, "{done}");
    Ok(())
}

/// F22-F24, G3: a database that its active acknowledges alone, whose member is killed. With the
/// default dial it waits; with `best_availability` on the others it comes up by itself, with a
/// receipt that names the loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_dial_opens_an_asynchronous_database_with_a_known_loss() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let create = ["database", "create", "DB1", "--on", "m1,m2,m3", "--commit-constraint", "none"];
    cluster.cli().succeed(create).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    cluster.client().database("DB1").put("k", "v").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.member("m1").kill()?;
    let view = cluster.seen_from("m2")?;
    eventually("the database waits", || async {
        let decisions = view.cli.json(["decision", "list", "DB1"]).await?;
        let text = decisions.to_string();
        ensure!(text.contains("beyond_dial") && text.contains("possible_loss"), "{text}");
        Ok(())
    })
    .await?;
    assert_eq!(view.cli.json(["database", "show", "DB1"]).await?["losses"], serde_json::json!([]));
    // Nobody asked for a ceiling before: how much is missing is not known, whatever is set now.
    let dial =
        |member| ["member", "set", member, "--auto-database-mount-dial", "best_availability"];
    for member in ["m2", "m3"] {
        view.cli.succeed(dial(member)).await?;
    }
    let best_effort = ["member", "set", "m2", "--auto-database-mount-dial", "best_effort"];
    assert_eq!(view.cli.run(best_effort).await?.error_code(), Some("bad_argument"));
    cluster.member("m1").start()?;
    cluster.wait_until_whole().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    let database = cluster.client().database("DB1");
    for number in 0..200 {
        database.put(format!("k{number}"), "v".repeat(1024)).await?;
    }
    cluster.wait_until_caught_up("DB1").await?;
    let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
    ensure!(shown["acknowledges_alone_up_to"].is_string(), "no ceiling: {shown}");

    cluster.member("m1").kill()?;
    let view = cluster.seen_from("m2")?;
    let loss = eventually("it comes up by itself", || async {
        let shown = view.cli.json(["database", "show", "DB1"]).await?;
        ensure!(shown["state"] == "established" && shown["active_member"] != "m1", "{shown}");
        receipt(&view).await
    })
    .await?;
    assert_eq!(loss["mount_dial"], "best_availability", "{loss}");
    ensure!(loss["missing_logs"].as_u64().is_some_and(|logs| logs <= 12), "{loss}");
    assert_eq!(loss["unreached_members"], serde_json::json!(["m1"]), "{loss}");
    let events = view.cli.succeed(["event", "list"]).await?;
    ensure!(events.contains("activated_with_loss"), "no event: {events}");
    let value = view.client.database("DB1").get("k199").await?;
    assert_eq!(value.map(|value| value.len()), Some(1024), "the copies had caught up");
    cluster.member("m1").start()?;
    cluster.wait_until_whole().await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

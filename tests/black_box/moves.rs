//! The active role moves while clients read, write and watch.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keelson_client::Change;
use keelson_testkit::{Cluster, Writer, WriterOptions, eventually};

use crate::bad_input::check;
use crate::data::cluster;
use crate::space::{events, set};

/// Any member but this one.
pub(crate) fn another(cluster: &Cluster, member: &str) -> String {
    cluster.names().into_iter().find(|name| name != member).expect("there are several")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_under_a_writer_loses_nothing_and_is_short() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let writer = Writer::start(database.clone(), WriterOptions::default());
    writer.progress(200).await?;
    for _ in 0..3 {
        let from = cluster.active_of("DB1").await?;
        let to = another(&cluster, &from);
        writer.reset_gap();
        cluster.cli().succeed(["switchover", "DB1", "--to", &to]).await?;
        assert_eq!(cluster.active_of("DB1").await?, to);
        writer.progress(200).await?;
        let gap = writer.longest_gap();
        // The aim is 20 ms on a quiet machine; this one runs other tests as well.
        ensure!(gap < Duration::from_secs(3), "nothing was written for {gap:?}");
    }
    let oracle = writer.stop().await?;
    oracle.verify(&database).await?;
    cluster.equal_digest("DB1", 3).await?;
    cluster.assert_clean_logs(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_follows_the_database_without_gaps() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let start = database.put("before", "1").await?.token;
    let mut watch = database.watch(start, "w/");
    let write = async {
        for number in 0..300 {
            database.put(format!("w/{number:04}"), "x").await?;
            if number % 100 == 50 {
                let from = cluster.active_of("DB1").await?;
                let to = another(&cluster, &from);
                cluster.cli().succeed(["switchover", "DB1", "--to", &to]).await?;
            }
        }
        anyhow::Ok(())
    };
    let read = async {
        let mut seen = Vec::new();
        while seen.len() < 300 {
            let event = watch.next().await?.context("the watch ended")?;
            ensure!(!event.truncated && !event.discarded, "the watch lost its place");
            seen.extend(event.changes);
        }
        Ok(seen)
    };
    let ((), seen) = tokio::try_join!(write, read)?;
    for (number, change) in seen.iter().enumerate() {
        let Change::Put(put) = change else { panic!("{change:?}") };
        assert_eq!(put.key, format!("w/{number:04}"), "nothing is missed and nothing comes twice");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_database_moves_back_and_its_copies_stay_equal() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    let first = cluster.active_of("DB1").await?;
    let second = another(&cluster, &first);
    for to in [&second, &first, &second, &first] {
        cluster.cli().succeed(["switchover", "DB1", "--to", to]).await?;
        database.put(format!("written on {to}"), "x").await?;
    }
    let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
    assert_eq!(shown["active_member"], first.as_str());
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    let decisions = cluster.cli().json(["decision", "list", "DB1"]).await?;
    ensure!(decisions.as_array().is_some_and(|list| list.len() >= 4), "no records: {decisions}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dismounted_database_answers_nothing_until_it_is_mounted() -> Result<()> {
    let cluster = cluster().await?;
    let database = cluster.client().database("DB1");
    database.put("k", "v").await?;
    let unconfirmed = cluster.cli().run(["database", "dismount", "DB1"]).await?;
    assert_eq!(unconfirmed.code, Some(2), "{unconfirmed:?}");
    cluster.cli().succeed(["database", "dismount", "DB1", "--yes"]).await?;
    let refused = database.get("k").await.unwrap_err();
    ensure!(refused.is_retryable(), "{refused}");
    cluster.cli().succeed(["database", "mount", "DB1"]).await?;
    eventually("the database answers again", || async {
        ensure!(database.get("k").await?.as_deref() == Some(&b"v"[..]), "the value is gone");
        Ok(())
    })
    .await
}

/// Kills the active's data process and waits until another copy serves, and all count again.
async fn fails_over(cluster: &mut Cluster) -> Result<()> {
    let old = cluster.active_of("DB1").await?;
    cluster.member(&old).kill_data_process()?;
    eventually("another copy serves", || async {
        let new = cluster.active_of("DB1").await?;
        ensure!(new != old, "{old} still serves");
        cluster.client().database("DB1").put("k", "v").await?;
        Ok(())
    })
    .await?;
    cluster.wait_until_whole().await?;
    cluster.wait_until_counting("DB1").await
}

/// F35, L6: a database that failures move again and again is not moved on purpose, too, for a
/// while; a failure moves it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_flaps_is_left_alone_but_fails_over() -> Result<()> {
    let mut cluster = cluster().await?;
    set(&cluster, "move_suppression_moves", "2").await?;
    set(&cluster, "certificate_moves", "0").await?;
    cluster.wait_until_counting("DB1").await?;
    for _ in 0..2 {
        fails_over(&mut cluster).await?;
    }
    let told = events(&cluster, "moves_suppressed").await?;
    ensure!(told.len() == 1, "{told:?}");
    let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
    ensure!(shown["moves_suppressed_until"].as_str().is_some_and(|at| !at.is_empty()), "{shown}");
    let problems = cluster.cli().json(["cluster", "status"]).await?["problems"].to_string();
    ensure!(problems.contains("moved by failures 2 times"), "{problems}");
    let to = another(&cluster, &cluster.active_of("DB1").await?);
    let switchover = ["switchover", "DB1", "--to", &to];
    check(&cluster.cli().run(switchover).await?, 3, "move_suppressed");
    fails_over(&mut cluster).await?;
    let to = another(&cluster, &cluster.active_of("DB1").await?);
    let switchover = ["switchover", "DB1", "--to", &to, "--skip-move-suppression-checks"];
    cluster.cli().succeed(switchover).await?;
    set(&cluster, "move_suppression_window", "1s").await?;
    eventually("it ends by itself", || async {
        let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
        ensure!(shown["moves_suppressed_until"] == "", "{shown}");
        Ok(())
    })
    .await?;
    let to = another(&cluster, &cluster.active_of("DB1").await?);
    cluster.wait_until_counting("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", &to]).await?;
    Ok(())
}

/// Design §6: death certificates move a database at most twice in five minutes; the third time it
/// waits for its process, which loses nothing and is activated again.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_again_and_again_moves_its_database_twice() -> Result<()> {
    let mut cluster = cluster().await?;
    cluster.wait_until_counting("DB1").await?;
    for _ in 0..2 {
        fails_over(&mut cluster).await?;
    }
    let active = cluster.active_of("DB1").await?;
    let database = cluster.client().database("DB1");
    database.put("before", "1").await?;
    cluster.member(&active).kill_data_process()?;
    eventually("the database waited for its process", || async {
        let told = events(&cluster, "waits_for_process").await?;
        ensure!(told.len() == 1, "{told:?}");
        database.put("after", "1").await?;
        Ok(())
    })
    .await?;
    assert_eq!(cluster.active_of("DB1").await?, active, "its process is back");
    assert_eq!(database.get("before").await?.as_deref(), Some(&b"1"[..]));
    Ok(())
}

/// A move waits for its time, is begun by whoever leads then, and can be taken back before.
#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_is_scheduled_kept_and_taken_back() -> Result<()> {
    let cluster = cluster().await?;
    let cli = cluster.cli();
    cluster.wait_until_counting("DB1").await?;
    let from = cluster.active_of("DB1").await?;
    let to = another(&cluster, &from);
    let schedule = |at: &'static str| {
        let (cli, to) = (cli.clone(), to.clone());
        async move {
            let args = ["switchover", "DB1", "--to", &to, "--comment", "at night", "--at", at];
            let begun = cli.json(args).await?;
            let id = begun["operation"].as_str().context("an operation")?;
            anyhow::Ok(id.to_owned())
        }
    };
    let shown = |id: String| async move { cli.json(["operation", "show", &id]).await };
    let later = schedule("1h").await?;
    let waits = shown(later.clone()).await?;
    assert_eq!(
        (&waits["state"], &waits["kind"], &waits["phase"]),
        (&"running".into(), &"scheduled_switchover".into(), &"waiting for its time".into())
    );
    cli.succeed(["operation", "cancel", &later]).await?;
    assert_eq!(shown(later).await?["state"], "cancelled");
    for bad in ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
        let refused = cli.run(["switchover", "DB1", "--to", &to, "--at", bad]).await?;
        check(&refused, 3, "bad_argument");
    }
    let both = ["switchover", "--server", &from, "--at", "1h"];
    assert_eq!(cli.run(both).await?.code, Some(2), "one database at a time");
    assert_eq!(cluster.active_of("DB1").await?, from, "nothing moved");
    let soon = schedule("2s").await?;
    eventually("the appointment is kept", || async {
        let ended = shown(soon.clone()).await?;
        ensure!(ended["state"] == "succeeded", "{ended}");
        ensure!(cluster.active_of("DB1").await? == to, "not moved yet");
        Ok(())
    })
    .await?;
    // What does not pass its checks then is not moved, and says why.
    cluster.wait_until_counting("DB1").await?;
    cli.succeed(["copy", "suspend", &format!("DB1@{from}"), "--comment", "new disk"]).await?;
    let begun = cli.json(["switchover", "DB1", "--to", &from, "--at", "2s"]).await?;
    let id = begun["operation"].as_str().context("an operation")?.to_owned();
    eventually("it is refused at its time", || async {
        let ended = shown(id.clone()).await?;
        ensure!(ended["state"] == "failed" && ended["code"] == "target_unfit", "{ended}");
        Ok(())
    })
    .await?;
    assert_eq!(cluster.active_of("DB1").await?, to);
    Ok(())
}

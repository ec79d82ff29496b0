//! What operators do to passive copies, and what the copies then do.

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::bad_input::check;
use crate::data::cluster;

/// A copy as `copy status -o json` shows it.
pub(crate) async fn status(cluster: &Cluster, member: &str) -> Result<Value> {
    let rows = cluster.cli().json(["copy", "status", "DB1", "--member", member]).await?;
    Ok(rows[0].clone())
}

pub(crate) async fn until_status(cluster: &Cluster, member: &str, wanted: &str) -> Result<Value> {
    eventually(&format!("DB1@{member} is {wanted}"), || async {
        let row = status(cluster, member).await?;
        ensure!(row["status"] == wanted, "{row}");
        Ok(row)
    })
    .await
}

/// F43, F44: suspended with a comment, kept over restarts, left out of the commit rule, resumed.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_copy_stays_so_over_a_restart_and_catches_up_when_resumed() -> Result<()> {
    let mut cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    let database = cluster.client().database("DB1");
    database.put("before", "v").await?;
    cluster.wait_until_caught_up("DB1").await?;
    let active = cluster.cli().run(["copy", "suspend", "DB1@m1"]).await?;
    check(&active, 3, "precondition");
    let long = "x".repeat(513);
    let refused = cluster.cli().run(["copy", "suspend", "DB1@m3", "--comment", &long]).await?;
    check(&refused, 3, "bad_argument");
    cluster.cli().succeed(["copy", "suspend", "DB1@m3", "--comment", "new disk"]).await?;
    let row = until_status(&cluster, "m3", "Suspended").await?;
    assert_eq!((&row["suspend_comment"], &row["participant"]), (&"new disk".into(), &false.into()));
    cluster.member("m3").kill()?;
    cluster.member("m3").start()?;
    cluster.wait_until_whole().await?;
    until_status(&cluster, "m3", "Suspended").await?;
    for number in 0..50 {
        database.put(format!("k{number}"), "v").await?;
    }
    let row = status(&cluster, "m3").await?;
    ensure!(row["inspected"] != status(&cluster, "m1").await?["inspected"], "it took log: {row}");
    let refused = cluster.cli().run(["switchover", "DB1", "--to", "m3"]).await?;
    check(&refused, 3, "target_unfit");
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// F44: only activation is blocked; copying goes on. The block ends by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_of_activation_ends_by_itself() -> Result<()> {
    let cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    let args = ["copy", "suspend", "DB1@m2", "--activation-only", "--for", "2s"];
    cluster.cli().succeed(args).await?;
    assert_eq!(status(&cluster, "m2").await?["activation_suspended"], true);
    let careful = ["switchover", "DB1", "--to", "m2", "--terminate-on-warning"];
    check(&cluster.cli().run(careful).await?, 3, "warning");
    cluster.client().database("DB1").put("k", "v").await?;
    cluster.wait_until_caught_up("DB1").await?;
    eventually("the time of the suspension is over", || async {
        ensure!(status(&cluster, "m2").await?["activation_suspended"] == false, "still blocked");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m2"]).await?;
    Ok(())
}

/// F151: lags are 0 to 14 days, and the last HA copies stay HA copies.
#[tokio::test(flavor = "multi_thread")]
async fn lags_out_of_bounds_are_refused() -> Result<()> {
    let cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    for lag in ["15days", "-5", "1209601"] {
        let refused = cluster.cli().run(["copy", "set", "DB1@m3", "--replay-lag", lag]).await?;
        check(&refused, 3, "bad_argument");
    }
    let refused = cluster.cli().run(["copy", "set", "DB1@m1", "--replay-lag", "1h"]).await?;
    check(&refused, 3, "precondition");
    let unknown = cluster.cli().run(["copy", "set", "DB1@m9", "--preference", "1"]).await?;
    check(&unknown, 3, "unknown_member");
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--preference", "1"]).await?;
    assert_eq!(status(&cluster, "m3").await?["activation_preference"], 1);
    Ok(())
}

pub(crate) fn generation(row: &Value, field: &str) -> u64 {
    let position = row[field].as_str().unwrap_or_default();
    position.split(':').next().and_then(|part| u64::from_str_radix(part, 16).ok()).unwrap_or(0)
}

/// F87: log waits for replay as long as the lag says, over restarts too; F89: no HA copy meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_lagged_copy_replays_late_and_remembers_its_clock() -> Result<()> {
    let mut cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    let database = cluster.client().database("DB1");
    database.put("early", "v").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--replay-lag", "1h"]).await?;
    eventually("the lagged copy leaves the commit rule", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["participant"] == false && row["replay_lag_seconds"] == 3_600, "{row}");
        Ok(())
    })
    .await?;
    for late in ["late", "later", "latest"] {
        database.put(late, "v").await?;
    }
    let inspected = |wanted: Value| {
        let cluster = &cluster;
        async move {
            eventually("the lagged copy has the log", || async {
                let row = status(cluster, "m3").await?;
                ensure!(row["inspected"] == wanted, "{row}");
                Ok(row)
            })
            .await
        }
    };
    let end = status(&cluster, "m1").await?["inspected"].clone();
    let row = inspected(end.clone()).await?;
    let before = row["replayed"].clone();
    ensure!(before != end, "it replayed at once: {row}");
    let refused = cluster.cli().run(["switchover", "DB1", "--to", "m3"]).await?;
    check(&refused, 3, "target_unfit");
    cluster.member("m3").kill()?;
    cluster.member("m3").start()?;
    cluster.wait_until_whole().await?;
    until_status(&cluster, "m3", "Healthy").await?;
    // Once gone too far it never comes back to this place.
    eventually("it has replayed again what it had, and no more", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["replayed"] == before, "the restart released the lag: {before}, {row}");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--replay-lag", "1s"]).await?;
    eventually("a second later it has replayed", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["replayed"] == end, "{row}");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--replay-lag", "0"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// F99: without circular logging log stays until a backup holds it.
#[tokio::test(flavor = "multi_thread")]
async fn without_circular_logging_log_goes_when_it_is_backed_up() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let cli = cluster.cli();
    let create = ["database", "create", "DB1", "--on", "m1,m2,m3", "--generation-size", "1MiB"];
    cli.succeed(create.into_iter().chain(["--circular-logging", "false"])).await?;
    let database = cluster.client().database("DB1");
    for number in 0..12 {
        database.put(format!("k{number}"), vec![number; 512 * 1024]).await?;
    }
    cluster.wait_until_caught_up("DB1").await?;
    let holds = |held: &Value, reason: &str| {
        let rows = held["log_held_by"].as_array().cloned().unwrap_or_default();
        rows.iter().any(|row| row["reason"] == reason)
    };
    eventually("the missing backup is named", || async {
        let shown = cli.json(["database", "show", "DB1"]).await?;
        ensure!(holds(&shown, "not backed up, and circular logging is off"), "{shown}");
        Ok(())
    })
    .await?;
    check(&cli.run(["database", "backed-up", "DB1", "ffff:0"]).await?, 3, "precondition");
    let row = status(&cluster, &cluster.active_of("DB1").await?).await?;
    let at = row["committed"].as_str().context("no position")?;
    cli.succeed(["database", "backed-up", "DB1", at]).await?;
    eventually("every copy truncates", || async {
        for member in ["m1", "m2", "m3"] {
            let row = status(&cluster, member).await?;
            ensure!(generation(&row, "truncated") >= 4, "{row}");
        }
        Ok(())
    })
    .await?;
    let shown = cli.json(["database", "show", "DB1"]).await?;
    ensure!(shown["backed_up_to"] == at, "{shown}");
    Ok(())
}

/// Three copies with generations of 1 MiB, active on m1.
async fn small_generations() -> Result<Cluster> {
    let cluster = Cluster::start(3).await?;
    let args = ["database", "create", "DB1", "--on", "m1,m2,m3", "--generation-size", "1MiB"];
    cluster.cli().succeed(args).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    Ok(cluster)
}

async fn write_six_generations(cluster: &Cluster) -> Result<()> {
    for number in 0..12 {
        let value = vec![number; 512 * 1024];
        cluster.client().database("DB1").put(format!("k{number}"), value).await?;
    }
    Ok(())
}

/// F99-F101: log goes when every copy is through with it; a suspended copy keeps all of it.
#[tokio::test(flavor = "multi_thread")]
async fn log_goes_when_every_copy_is_through_with_it() -> Result<()> {
    let cluster = small_generations().await?;
    cluster.cli().succeed(["database", "set", "DB1", "--circular-logging", "true"]).await?;
    cluster.cli().succeed(["copy", "suspend", "DB1@m3", "--comment", "holds log"]).await?;
    write_six_generations(&cluster).await?;
    eventually("the suspended copy is named as the holder", || async {
        let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
        let held = shown["log_held_by"].as_array().cloned().unwrap_or_default();
        let holds =
            |row: &Value| row["holder"] == "copy on m3" && row["reason"] == "replication suspended";
        ensure!(held.iter().any(holds), "{shown}");
        Ok(())
    })
    .await?;
    eventually("the stores of the others are durable", || async {
        for member in ["m1", "m2"] {
            let row = status(&cluster, member).await?;
            ensure!(generation(&row, "checkpointed") >= 6, "{row}");
            ensure!(generation(&row, "truncated") <= 1, "log that m3 needs is gone: {row}");
        }
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    eventually("every copy truncates", || async {
        for member in ["m1", "m2", "m3"] {
            let row = status(&cluster, member).await?;
            ensure!(generation(&row, "truncated") >= 6, "{row}");
        }
        Ok(())
    })
    .await?;
    cluster.equal_digest("DB1", 3).await?;
    let value = cluster.client().database("DB1").get("k3").await?;
    assert_eq!(value.map(|value| value.len()), Some(512 * 1024));
    // F107: a copy that needs the log from its start comes too late.
    cluster.cli().succeed(["copy", "remove", "DB1", "--on", "m3", "--yes"]).await?;
    cluster.cli().succeed(["copy", "add", "DB1", "--on", "m3", "--configuration-only"]).await?;
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    let row = until_status(&cluster, "m3", "FailedAndSuspended").await?;
    ensure!(row["fault"].as_str().is_some_and(|fault| fault.contains("log is missing")), "{row}");
    Ok(())
}

/// F88, F100: log goes from a copy with a truncation lag when the lag is over too; the others do
/// not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn log_stays_on_a_copy_with_a_truncation_lag_and_nowhere_else() -> Result<()> {
    let cluster = small_generations().await?;
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--truncation-lag", "1h"]).await?;
    write_six_generations(&cluster).await?;
    let gone = |member: &'static str| {
        let cluster = &cluster;
        eventually("log goes", move || async move {
            let row = status(cluster, member).await?;
            ensure!(generation(&row, "truncated") >= 6, "{row}");
            Ok(())
        })
    };
    gone("m1").await?;
    gone("m2").await?;
    eventually("the store of m3 needs no log any more, and it says what holds it", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(generation(&row, "checkpointed") >= 6, "{row}");
        ensure!(row["log_held_by"].to_string().contains("lag"), "{row}");
        Ok(())
    })
    .await?;
    let row = status(&cluster, "m3").await?;
    ensure!(generation(&row, "truncated") <= 1, "{row}");
    cluster.cli().succeed(["copy", "set", "DB1@m3", "--truncation-lag", "1s"]).await?;
    gone("m3").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// `--what-if` asks the cluster: what would be refused is refused, and nothing changes.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_refused_is_refused_when_it_is_only_asked() -> Result<()> {
    let cluster = cluster().await?;
    let active = cluster.active_of("DB1").await?;
    let passives: Vec<_> = ["m1", "m2", "m3"].into_iter().filter(|m| *m != active).collect();
    let copy = |member: &str| format!("DB1@{member}");
    let (first, second) = (copy(passives[0]), copy(passives[1]));
    for (args, code) in [
        (vec!["copy", "set", "DB1@m9", "--replay-lag", "1h"], "unknown_member"),
        (vec!["copy", "set", &first, "--replay-lag", "15d"], "bad_argument"),
        (vec!["copy", "set", &first, "--disable-lag", "audit"], "precondition"),
        (vec!["copy", "set", &first, "--disable-lag", ""], "bad_argument"),
        (vec!["copy", "suspend", "NOPE@m1"], "unknown_database"),
        (vec!["copy", "suspend", &copy(&active)], "precondition"),
        (vec!["copy", "resume", "NOPE@m1"], "unknown_database"),
    ] {
        for more in [&["--what-if"][..], &[]] {
            let output = cluster.cli().run(args.iter().chain(more)).await?;
            check(&output, 3, code);
        }
    }
    for args in [["--preference", "-1"], ["--replay-lag", "soon"], ["--play-down-max-delay", "x"]] {
        let output = cluster.cli().run(["copy", "set", &first].iter().chain(&args)).await?;
        check(&output, 2, "usage");
    }
    cluster.cli().succeed(["copy", "suspend", &first, "--what-if"]).await?;
    cluster.cli().succeed(["copy", "set", &first, "--replay-lag", "1h", "--what-if"]).await?;
    let rows = cluster.cli().json(["copy", "status", &first]).await?;
    ensure!(rows.as_array().is_some_and(|rows| rows.len() == 1), "{rows}");
    let row = status(&cluster, passives[0]).await?;
    ensure!(row["replay_lag_seconds"] == 0 && row["replication_suspended"] == false, "{row}");
    // The last copy that writes wait for: the rule never falls to none by itself.
    cluster.cli().succeed(["copy", "set", &first, "--replay-lag", "1h"]).await?;
    let last = ["copy", "set", &second, "--replay-lag", "1h"];
    check(&cluster.cli().run(last).await?, 3, "precondition");
    let alone = ["database", "set", "DB1", "--commit-constraint", "none"];
    cluster.cli().succeed(alone).await?;
    cluster.cli().succeed(last).await?;
    Ok(())
}

/// F108, F112: three answers with reasons, for a database whose copies follow and one whose do not.
#[tokio::test(flavor = "multi_thread")]
async fn the_data_guarantee_says_whether_enough_copies_follow() -> Result<()> {
    let mut cluster = cluster().await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    cluster.client().database("DB1").put("k", "v").await?;
    cluster.wait_until_caught_up("DB1").await?;
    let health = cluster.cli().json(["guarantee", "health", "DB1"]).await?;
    assert_eq!(health["answer"], "satisfied", "{health}");
    assert_eq!(health["constraint"], "second_copy", "F111: {health}");
    let all = ["guarantee", "flush", "DB1", "--constraint", "all_copies"];
    assert_eq!(cluster.cli().json(all).await?["answer"], "satisfied");
    cluster.cli().succeed(["copy", "suspend", "DB1@m3"]).await?;
    cluster.client().database("DB1").put("k", "w").await?;
    until_status(&cluster, "m3", "Suspended").await?;
    let output = cluster.cli().run(all).await?;
    check(&output, 1, "guarantee_not_satisfied");
    let health = ["guarantee", "health", "DB1", "--constraint", "all_copies"];
    check(&cluster.cli().run(health).await?, 1, "guarantee_not_satisfied");
    cluster.member("m3").kill()?;
    check(&cluster.cli().run(all).await?, 4, "guarantee_unknown");
    assert_eq!(cluster.cli().run(["guarantee", "health", "DB1"]).await?.code, Some(0));
    let unknown = ["guarantee", "health", "DB1", "--constraint", "most"];
    check(&cluster.cli().run(unknown).await?, 3, "bad_argument");
    let catalog = ["guarantee", "health", "DB1", "--constraint", "catalog_second_copy"];
    eventually("two copies have a current content index", || async {
        let output = cluster.cli().run(catalog).await?;
        ensure!(output.code == Some(0), "{output:?}");
        Ok(())
    })
    .await?;
    cluster.cli().succeed(["database", "set", "DB1", "--content-index", "false"]).await?;
    eventually("without an index the constraint is not met", || async {
        let output = cluster.cli().run(catalog).await?;
        ensure!(output.error_code() == Some("guarantee_not_satisfied"), "{output:?}");
        Ok(())
    })
    .await?;
    Ok(())
}

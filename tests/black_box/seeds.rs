//! Seeding copies: from an operator's word to equal content, whatever dies on the way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, Writer, WriterOptions, eventually, eventually_for};
use serde_json::Value;

use crate::bad_input::check;
use crate::copies::{generation, status, until_status};

/// DB1 on m1 and m2, active on m1, with log that begins behind its start.
async fn with_truncated_log() -> Result<Cluster> {
    let cluster = Cluster::start(3).await?;
    let args = ["database", "create", "DB1", "--on", "m1,m2", "--generation-size", "1MiB"];
    cluster.cli().succeed(args).await?;
    cluster.cli().succeed(["database", "set", "DB1", "--circular-logging", "true"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    fill(&cluster, 0, 12).await?;
    eventually("log goes", || async {
        let row = status(&cluster, "m1").await?;
        ensure!(generation(&row, "truncated") >= 4, "{row}");
        Ok(())
    })
    .await?;
    Ok(cluster)
}

pub(crate) async fn fill(cluster: &Cluster, from: u32, count: u32) -> Result<()> {
    let database = cluster.client().database("DB1");
    for number in from..from + count {
        // Noise, so that no layer makes it smaller.
        let mut noise = 0x9e37_79b9_u32 ^ number;
        let mut next = || {
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            noise as u8
        };
        let value: Vec<u8> = (0..512 * 1024).map(|_| next()).collect();
        database.put(format!("k{number}"), value).await?;
    }
    Ok(())
}

/// F39, F107: a copy is added to a database whose log does not reach back; it is seeded by itself,
/// follows, and has the content of the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_added_too_late_for_the_log_is_seeded() -> Result<()> {
    let cluster = with_truncated_log().await?;
    // F41: nobody adds a copy to what serves nothing; what would be done is told.
    cluster.cli().succeed(["database", "dismount", "DB1", "--yes"]).await?;
    check(&cluster.cli().run(["copy", "add", "DB1", "--on", "m3"]).await?, 3, "precondition");
    cluster.cli().succeed(["database", "mount", "DB1"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    let tried = cluster.cli().json(["copy", "add", "DB1", "--on", "m3", "--what-if"]).await?;
    ensure!(tried["would"].as_str().is_some_and(|would| would.contains("seed it")), "{tried}");
    assert_eq!(tried["checks"][1]["check"], "source health", "{tried}");
    let added = cluster.cli().json(["copy", "add", "DB1", "--on", "m3"]).await?;
    let operation = added["seed_operation"].as_str().unwrap_or_default().to_owned();
    let shown = cluster.cli().json(["operation", "show", &operation]).await?;
    assert_eq!((&shown["state"], &shown["kind"]), (&"succeeded".into(), &"seed".into()), "{shown}");
    assert_eq!(shown["seed"]["source"], "m2", "a passive copy feeds it: {shown}");
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.wait_until_counting("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    nothing_is_left(&cluster).await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m3"]).await?;
    let value = cluster.client().database("DB1").get("k3").await?;
    assert_eq!(value.map(|value| value.len()), Some(512 * 1024));
    Ok(())
}

/// Staging, checkpoints and records of seeds, by path.
fn leftovers(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting: Vec<_> =
        cluster.names().iter().map(|name| cluster.path().join(name).join("data")).collect();
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ["temp-seeding", "ci-seed.temp", "seed-source", "seed"].contains(&name.as_str()) {
                found.push(entry.path().display().to_string());
            } else if entry.path().is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    found
}

pub(crate) async fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    eventually("nothing of the seed is left beside the copy", || async {
        let found = leftovers(cluster);
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })
    .await
}

/// What one seed showed of itself.
pub(crate) async fn operation(cluster: &Cluster, id: &str) -> Result<Value> {
    cluster.cli().json(["operation", "show", id]).await
}

/// Suspends DB1@m3 and begins a seed of it; gives the operation.
pub(crate) async fn begin(cluster: &Cluster, more: &[&str]) -> Result<String> {
    cluster.cli().succeed(["copy", "suspend", "DB1@m3", "--comment", "new disk"]).await?;
    let args = ["copy", "seed", "DB1@m3", "--background", "--yes"];
    let begun = cluster.cli().json(args.iter().chain(more)).await?;
    Ok(begun["operation"].as_str().unwrap_or_default().to_owned())
}

/// DB1 on all three members, active on m1, with about 24 MiB of content.
pub(crate) async fn on_three() -> Result<Cluster> {
    let cluster = Cluster::start(3).await?;
    let args = ["database", "create", "DB1", "--on", "m1,m2,m3", "--generation-size", "1MiB"];
    cluster.cli().succeed(args).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m1"]).await?;
    fill(&cluster, 0, 48).await?;
    cluster.wait_until_counting("DB1").await?;
    Ok(cluster)
}

pub(crate) async fn rate(cluster: &Cluster, bytes_per_second: &str) -> Result<()> {
    let args = ["cluster", "settings", "set", "seed_rate_max", bytes_per_second];
    cluster.cli().succeed(args).await.map(drop)
}

pub(crate) async fn until_phase(cluster: &Cluster, id: &str, phase: &str) -> Result<Value> {
    eventually(&format!("the seed is {phase}"), || async {
        let shown = operation(cluster, id).await?;
        ensure!(shown["phase"] == phase, "{shown}");
        Ok(shown)
    })
    .await
}

pub(crate) async fn until_ended(cluster: &Cluster, id: &str) -> Result<Value> {
    eventually("the seed ends", || async {
        let shown = operation(cluster, id).await?;
        ensure!(shown["state"] != "running", "{shown}");
        Ok(shown)
    })
    .await
}

/// F46, F59, F60: each refusal has its code and says what to do; nothing is changed by any.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_seeded_is_refused_with_a_code() -> Result<()> {
    let cluster = on_three().await?;
    let cli = cluster.cli();
    let seed = |copy: &str, more: &[&str]| {
        let args: Vec<_> = ["copy", "seed", copy, "--yes"].iter().chain(more).copied().collect();
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        async move { cli.run(args).await }
    };
    check(&seed("DB1@m1", &[]).await?, 3, "precondition");
    let refused = seed("DB1@m3", &[]).await?;
    check(&refused, 3, "not_suspended");
    ensure!(
        refused.hint().is_some_and(|hint| hint.contains("keelson copy suspend")),
        "{refused:?}"
    );
    cli.succeed(["copy", "suspend", "DB1@m3", "--comment", "new disk"]).await?;
    for (more, code) in
        [(&["--source", "m3"][..], "bad_argument"), (&["--source", "m9"], "unknown_member")]
    {
        check(&seed("DB1@m3", more).await?, 3, code);
    }
    check(&seed("DB1@m9", &[]).await?, 3, "unknown_member");
    cli.succeed(["copy", "suspend", "DB1@m2", "--comment", "a bad source"]).await?;
    check(&seed("DB1@m3", &["--source", "m2"]).await?, 3, "source_unfit");
    check(&seed("DB1@m3", &["--safe-delete-existing-files"]).await?, 3, "precondition");
    let unasked = cli.run(["copy", "seed", "DB1@m3"]).await?;
    ensure!(unasked.code == Some(2) && unasked.stdout.contains("passed"), "{unasked:?}");
    let shown = cli.json(["copy", "seed", "DB1@m3", "--what-if"]).await?;
    let checks = shown.as_array().cloned().unwrap_or_default();
    ensure!(checks.iter().any(|row| row["check"] == "space" && row["passed"] == true), "{shown}");
    rate(&cluster, "1048576").await?;
    let first = cli.json(["copy", "seed", "DB1@m3", "--background", "--yes"]).await?;
    check(&seed("DB1@m3", &[]).await?, 3, "seed_in_progress");
    check(&cli.run(["copy", "resume", "DB1@m3"]).await?, 3, "precondition");
    check(&cli.run(["copy", "remove", "DB1", "--on", "m3", "--yes"]).await?, 3, "seed_in_progress");
    let id = first["operation"].as_str().unwrap_or_default();
    cli.succeed(["operation", "cancel", id]).await?;
    until_status(&cluster, "m3", "Suspended").await?;
    nothing_is_left(&cluster).await
}

/// F66: a cancelled seed leaves the copy as it was; the files that it had made are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_seed_leaves_the_copy_as_it_was() -> Result<()> {
    let cluster = on_three().await?;
    rate(&cluster, "1048576").await?;
    let id = begin(&cluster, &[]).await?;
    until_phase(&cluster, &id, "transferring").await?;
    until_status(&cluster, "m3", "Seeding").await?;
    until_status(&cluster, "m2", "SeedingSource").await?;
    cluster.cli().succeed(["operation", "cancel", &id]).await?;
    let ended = operation(&cluster, &id).await?;
    assert_eq!((&ended["state"], &ended["code"]), (&"cancelled".into(), &"cancelled".into()));
    let row = until_status(&cluster, "m3", "Suspended").await?;
    assert_eq!(row["suspend_comment"], "new disk", "{row}");
    nothing_is_left(&cluster).await?;
    until_status(&cluster, "m2", "Healthy").await?;
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    Ok(())
}

/// F40, F41, F58: added without a seed, it waits; seeded with a named source and a manual resume,
/// it waits again.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_can_be_postponed_and_the_resume_left_to_the_operator() -> Result<()> {
    let cluster = with_truncated_log().await?;
    let cli = cluster.cli();
    cli.succeed(["copy", "add", "DB1", "--on", "m3", "--seeding-postponed"]).await?;
    let row = until_status(&cluster, "m3", "Suspended").await?;
    let comment = row["suspend_comment"].as_str().unwrap_or_default();
    ensure!(comment.contains("keelson copy seed"), "{row}");
    let args = ["copy", "seed", "DB1@m3", "--source", "m1", "--manual-resume", "--yes"];
    let seeded = cli.json(args).await?;
    let shown = operation(&cluster, seeded["operation"].as_str().unwrap_or_default()).await?;
    assert_eq!(shown["seed"]["source"], "m1", "{shown}");
    until_status(&cluster, "m3", "Suspended").await?;
    cli.succeed(["copy", "resume", "DB1@m3"]).await?;
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    nothing_is_left(&cluster).await
}

/// F107: a copy that misses log is FailedAndSuspended, and a seed brings it back. Its old files
/// stay unless they are to go (G4).
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_misses_log_comes_back_by_a_seed() -> Result<()> {
    let cluster = with_truncated_log().await?;
    let cli = cluster.cli();
    cli.succeed(["copy", "add", "DB1", "--on", "m3", "--configuration-only"]).await?;
    cli.succeed(["copy", "resume", "DB1@m3"]).await?;
    until_status(&cluster, "m3", "FailedAndSuspended").await?;
    eventually("it stays suspended", || async {
        let row = status(&cluster, "m3").await?;
        ensure!(row["replication_suspended"] == true, "{row}");
        Ok(())
    })
    .await?;
    cli.succeed(["copy", "seed", "DB1@m3", "--force"]).await?;
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_counting("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    eventually("a copy without log leaves nothing behind", || async {
        let stores = stores(&cluster, "m3");
        ensure!(stores == 1, "{stores} stores");
        Ok(())
    })
    .await?;
    cli.succeed(["copy", "suspend", "DB1@m3", "--comment", "again"]).await?;
    cli.succeed(["copy", "seed", "DB1@m3", "--force"]).await?;
    until_status(&cluster, "m3", "Healthy").await?;
    assert_eq!(stores(&cluster, "m3"), 2, "the old files stay beside the new ones");
    cli.succeed(["copy", "suspend", "DB1@m3", "--comment", "again"]).await?;
    cli.succeed(["copy", "seed", "DB1@m3", "--force", "--safe-delete-existing-files"]).await?;
    until_status(&cluster, "m3", "Healthy").await?;
    eventually("what this seed replaced is gone, and nothing else", || async {
        let stores = stores(&cluster, "m3");
        ensure!(stores == 2, "{stores} stores");
        Ok(())
    })
    .await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    nothing_is_left(&cluster).await
}

/// Directories of stores on a member.
fn stores(cluster: &Cluster, member: &str) -> usize {
    let databases = cluster.path().join(member).join("data/databases");
    let homes = std::fs::read_dir(databases).into_iter().flatten().flatten();
    let entries =
        homes.flat_map(|home| std::fs::read_dir(home.path()).into_iter().flatten().flatten());
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("store-")).count()
}

/// Issue 4: a seed while clients write: no gap in the log, equal content, nothing acknowledged
/// lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_under_load_ends_with_equal_content() -> Result<()> {
    let cluster = with_truncated_log().await?;
    let database = cluster.client().database("DB1");
    let writer = Writer::start(database.clone(), WriterOptions { tasks: 8, ..Default::default() });
    writer.progress(50).await?;
    cluster.cli().succeed(["copy", "add", "DB1", "--on", "m3"]).await?;
    writer.progress(200).await?;
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_counting("DB1").await?;
    let oracle = writer.stop().await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    cluster.cli().succeed(["switchover", "DB1", "--to", "m3"]).await?;
    let verified = oracle.verify(&database).await?;
    ensure!(verified.acknowledged >= 250, "{verified:?}");
    nothing_is_left(&cluster).await
}

/// Issue 4: the log behind the checkpoint comes while files arrive, from another copy than they do;
/// a target that dies has it still.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_comes_beside_the_files_of_a_seed() -> Result<()> {
    const MIB: u64 = 1024 * 1024;
    let mut cluster = on_three().await?;
    rate(&cluster, "262144").await?;
    let id = begin(&cluster, &[]).await?;
    until_phase(&cluster, &id, "transferring").await?;
    let until_log = async |cluster: &Cluster, bytes: u64| {
        eventually(&format!("{bytes} bytes of log came"), || async {
            let shown = operation(cluster, &id).await?;
            ensure!(shown["seed"]["log_bytes"].as_u64() >= Some(bytes), "{shown}");
            assert_eq!(
                (&shown["phase"], &shown["state"]),
                (&"transferring".into(), &"running".into())
            );
            Ok(shown["seed"].clone())
        })
        .await
    };
    fill(&cluster, 100, 4).await?;
    let seed = until_log(&cluster, 2 * MIB).await?;
    assert_eq!(seed["source"], "m2", "{seed}");
    // The other one is asked first, and this one whenever that has nothing more.
    ensure!(seed["log_source"] == "m1" || seed["log_source"] == "m2", "{seed}");
    cluster.member("m3").kill()?;
    cluster.member("m3").start()?;
    until_log(&cluster, 2 * MIB).await?;
    // Of the source of the files as well, if the other is away.
    cluster.member("m1").kill()?;
    cluster.client().database("DB1").put("meanwhile", "taken").await?;
    fill(&cluster, 104, 4).await?;
    let seed = until_log(&cluster, 4 * MIB).await?;
    assert_eq!(seed["log_source"], "m2", "{seed}");
    rate(&cluster, "0").await?;
    let ended = until_ended(&cluster, &id).await?;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    cluster.member("m1").start()?;
    cluster.wait_until_whole().await?;
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    nothing_is_left(&cluster).await
}

/// Issue 4: what the death of a source costs is not sent again; the seed goes on from where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_dies_costs_no_byte_twice() -> Result<()> {
    const KILLS: u64 = 3;
    let mut cluster = on_three().await?;
    rate(&cluster, "2097152").await?;
    let id = begin(&cluster, &["--source", "m2"]).await?;
    until_phase(&cluster, &id, "transferring").await?;
    for _ in 0..KILLS {
        let before = operation(&cluster, &id).await?["seed"]["bytes_received"].as_u64();
        cluster.member("m2").kill()?;
        cluster.member("m2").start()?;
        cluster.wait_until_whole().await?;
        eventually("more bytes arrive", || async {
            let now = operation(&cluster, &id).await?;
            ensure!(now["seed"]["bytes_received"].as_u64() > before, "{now}");
            Ok(())
        })
        .await?;
    }
    rate(&cluster, "0").await?;
    let ended = until_ended(&cluster, &id).await?;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let number = |name: &str| ended["seed"][name].as_u64().unwrap_or(0);
    let (received, bytes) = (number("bytes_received"), number("bytes"));
    ensure!(received <= bytes + KILLS * 1024 * 1024, "at most a chunk for each death: {ended}");
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_caught_up("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    nothing_is_left(&cluster).await
}

/// Issue 4: a source that stays away is waited for, since what it sent is here, and then given up
/// for another one; the operation says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_goes_on_at_another_source_when_its_source_stays_away() -> Result<()> {
    const AWAY: Duration = Duration::from_secs(240);
    let mut cluster = on_three().await?;
    rate(&cluster, "1048576").await?;
    let id = begin(&cluster, &[]).await?;
    until_phase(&cluster, &id, "transferring").await?;
    assert_eq!(operation(&cluster, &id).await?["seed"]["source"], "m2", "a passive one first");
    cluster.member("m2").kill()?;
    let shown = eventually_for(AWAY, "the other source sends", || async {
        let shown = operation(&cluster, &id).await?;
        ensure!(shown["state"] == "running", "{shown}");
        ensure!(shown["phase"] == "transferring" && shown["seed"]["source"] == "m1", "{shown}");
        Ok(shown)
    })
    .await?;
    let why = shown["message"].as_str().context("no message")?;
    ensure!(!why.is_empty(), "{shown}");
    rate(&cluster, "0").await?;
    let ended = until_ended(&cluster, &id).await?;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    until_status(&cluster, "m3", "Healthy").await?;
    // F54: one that does not answer is no source to begin with.
    cluster.cli().succeed(["copy", "suspend", "DB1@m3", "--comment", "again"]).await?;
    let from_m2 = ["copy", "seed", "DB1@m3", "--source", "m2", "--yes"];
    check(&cluster.cli().run(from_m2).await?, 3, "source_unfit");
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    cluster.member("m2").start()?;
    cluster.wait_until_whole().await?;
    cluster.wait_until_counting("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    eventually("nothing is left but what the lost source keeps for a while", || async {
        let found = leftovers(&cluster);
        ensure!(found.iter().all(|path| path.contains("/m2/data/")), "{found:?}");
        Ok(())
    })
    .await
}

/// F66: all passive copies of a member are made anew, no more at a time than is allowed; its active
/// ones are left alone.
#[tokio::test(flavor = "multi_thread")]
async fn all_passive_copies_of_a_member_are_seeded_anew() -> Result<()> {
    let cluster = on_three().await?;
    let cli = cluster.cli();
    cluster.create_database("DB2", &["m1", "m2", "m3"]).await?;
    cluster.client().database("DB2").put("k", "v").await?;
    cluster.wait_until_counting("DB2").await?;
    cli.succeed(["switchover", "DB2", "--to", "m1"]).await?;
    cluster.wait_until_counting("DB2").await?;
    let plan = cli.succeed(["member", "reseed", "m3", "--what-if"]).await?;
    ensure!(plan.contains("2 passive copies on m3"), "{plan}");
    let checks = cli.json(["member", "reseed", "m3", "--what-if"]).await?;
    let checks = checks.as_array().cloned().unwrap_or_default();
    for database in ["DB1", "DB2"] {
        let space = |row: &Value| row["database"] == database && row["check"] == "space";
        ensure!(checks.iter().any(space), "{database}: {checks:?}");
    }
    ensure!(checks.iter().all(|row| row["passed"] == true), "{checks:?}");
    assert_eq!(stores(&cluster, "m3"), 2, "nothing happens with --what-if");
    // One that cannot be seeded stops no other: all are checked before the first is suspended.
    cli.succeed(["copy", "suspend", "DB2@m2", "--comment", "a bad source"]).await?;
    let from_m2 = ["member", "reseed", "m3", "--source", "m2", "--yes"];
    check(&cli.run(from_m2).await?, 3, "source_unfit");
    ensure!(status(&cluster, "m3").await?["replication_suspended"] == false);
    cli.succeed(["copy", "resume", "DB2@m2"]).await?;
    cluster.wait_until_counting("DB2").await?;
    let reseed = ["member", "reseed", "m3", "--parallel", "1", "--delete-existing-files", "--yes"];
    let rows = cli.json(reseed).await?;
    let rows = rows.as_array().cloned().unwrap_or_default();
    assert_eq!(rows.len(), 2, "{rows:?}");
    for row in &rows {
        assert_eq!(row["result"], "ok", "{row}");
        let shown = operation(&cluster, row["operation"].as_str().unwrap_or_default()).await?;
        assert_eq!((&shown["state"], &shown["kind"]), (&"succeeded".into(), &"seed".into()));
    }
    for database in ["DB1", "DB2"] {
        cluster.wait_until_counting(database).await?;
        cluster.equal_digest(database, 3).await?;
    }
    nothing_is_left(&cluster).await?;
    let actives = cli.json(["member", "reseed", "m1", "--yes"]).await?;
    assert_eq!(actives, serde_json::json!([]), "m1 has active copies only");
    check(&cli.run(["member", "reseed", "m9", "--yes"]).await?, 3, "unknown_member");
    Ok(())
}

/// F25: what an operator blocked by itself is blocked after a seed, too; the block of a plain
/// suspend goes with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_activation_survives_a_seed() -> Result<()> {
    let cluster = on_three().await?;
    let block = ["copy", "suspend", "DB1@m3", "--activation-only", "--comment", "standby"];
    cluster.cli().succeed(block).await?;
    let seeded = |blocked: bool| {
        let cluster = &cluster;
        async move {
            let id = begin(cluster, &[]).await?;
            ensure!(status(cluster, "m3").await?["activation_suspended"] == true);
            let shown = until_ended(cluster, &id).await?;
            ensure!(shown["state"] == "succeeded", "{shown}");
            let row = until_status(cluster, "m3", "Healthy").await?;
            ensure!(row["activation_suspended"] == blocked, "{row}");
            ensure!(row["activation_block"] == blocked, "{row}");
            ensure!(!blocked || row["suspend_comment"] == "standby", "{row}");
            anyhow::Ok(())
        }
    };
    seeded(true).await?;
    cluster.cli().succeed(["copy", "resume", "DB1@m3"]).await?;
    seeded(false).await
}

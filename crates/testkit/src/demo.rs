//! The demonstration: three members on this machine, real records, a move and three crashes while a
//! writer writes, and the proof that nothing was lost.
//!
//! Every step prints one line. The first step that fails ends it; the cluster is killed and its
//! files are removed in any case.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keelson_client::v1;

use crate::{
    Cluster, PackageRecords, Verified, Writer, WriterOptions, eventually, synthesize_packages,
};

/// What must be imported at least; otherwise made-up records are added.
const RECORDS_MIN: u64 = 20_000;
/// Bytes of keys and values.
const BYTES_MIN: u64 = 20_000_000;

/// Made-up records, with room above the least numbers.
const MADE_UP_RECORDS: u64 = 25_000;
const MADE_UP_BYTES: u64 = 26_000_000;

/// A failover on a loaded machine takes no longer.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(60);

/// Numbers of the closing line.
#[derive(Debug, Default)]
struct Figures {
    records: u64,
    bytes: u64,
    import_seconds: f64,
    switchover_gap: Duration,
    failover_gap: Duration,
    member_gap: Duration,
}

/// Runs the demonstration; Ctrl-C ends it and cleans up.
///
/// # Errors
/// The step that failed.
pub async fn run(path: Option<PathBuf>) -> Result<()> {
    let started = Instant::now();
    let mut figures = Figures::default();
    let mut cluster = start().await?;
    import(&cluster, path, &mut figures).await?;
    show_status(&cluster).await?;
    let writer = Writer::start(cluster.client().database("DB1"), WriterOptions::default());
    writer.progress(500).await?;
    switchover(&cluster, &writer, &mut figures).await?;
    restart_passive(&mut cluster, &writer).await?;
    fail_over(&mut cluster, &writer, &mut figures).await?;
    lose_active_member(&mut cluster, &writer, &mut figures).await?;
    let (verified, digests) = prove(&cluster, writer).await?;
    cluster.stop().context("stop the members")?;
    say("stop", "all members stopped; nothing is left running");
    drop(cluster);
    println!("\n{}", closing_line(&figures, verified, &digests, started.elapsed()));
    Ok(())
}

/// Prints a step.
fn say(step: &str, text: &str) {
    println!("{step:>12}  {text}");
}

async fn start() -> Result<Cluster> {
    println!("Keelson: three members, two databases, real records, a move and three crashes\n");
    let started = Instant::now();
    let cluster = Cluster::start(3).await.context("start three members")?;
    say("start", &format!("m1, m2 and m3 form a cluster ({:.1?})", started.elapsed()));
    let started = Instant::now();
    cluster.create_database("DB1", &["m1", "m2", "m3"]).await.context("create DB1")?;
    cluster.create_database("DB2", &["m2", "m3"]).await.context("create DB2")?;
    let text = format!("DB1 with 3 copies and DB2 with 2 copies ({:.1?})", started.elapsed());
    say("create", &text);
    Ok(cluster)
}

/// Imports into DB1, and made-up records into DB2 as well.
async fn import(cluster: &Cluster, path: Option<PathBuf>, figures: &mut Figures) -> Result<()> {
    let found = path.or_else(|| PackageRecords::of_this_machine().map(|records| records.path));
    if let Some(path) = &found {
        import_one(cluster, "DB1", path, figures).await?;
    }
    if figures.records < RECORDS_MIN || figures.bytes < BYTES_MIN {
        let file = cluster.path().join("made-up_Packages");
        synthesize_packages(&file, MADE_UP_RECORDS, MADE_UP_BYTES)?;
        import_one(cluster, "DB1", &file, figures).await?;
    }
    ensure!(figures.records >= RECORDS_MIN, "only {} records were imported", figures.records);
    ensure!(figures.bytes >= BYTES_MIN, "only {} bytes were imported", figures.bytes);
    let file = cluster.path().join("small_Packages");
    synthesize_packages(&file, 2_000, 1_000_000)?;
    import_one(cluster, "DB2", &file, &mut Figures::default()).await
}

async fn import_one(
    cluster: &Cluster,
    database: &str,
    path: &Path,
    figures: &mut Figures,
) -> Result<()> {
    let text = path.display().to_string();
    let output = cluster.cli().run(["kv", "import", database, &text, "-o", "json"]).await?;
    // 5: some lines of the source are no records; the rest is there.
    ensure!(matches!(output.code, Some(0 | 5)), "import {text}: {}", output.stderr.trim());
    let report: serde_json::Value = serde_json::from_str(&output.stdout)?;
    let number = |name: &str| report[name].as_u64().unwrap_or(0);
    let seconds = report["seconds"].as_f64().unwrap_or(0.0);
    figures.records += number("records");
    figures.bytes += number("bytes");
    figures.import_seconds += seconds;
    let text = format!(
        "{} records, {:.1} MB, from {text} into {database}: {:.0} records/s, {:.1} MB/s",
        number("records"),
        number("bytes") as f64 / 1e6,
        report["records_per_s"].as_f64().unwrap_or(0.0),
        report["megabytes_per_s"].as_f64().unwrap_or(0.0),
    );
    say("import", &text);
    Ok(())
}

async fn show_status(cluster: &Cluster) -> Result<()> {
    cluster.wait_until_caught_up("DB1").await?;
    cluster.wait_until_caught_up("DB2").await?;
    say("status", "keelson copy status");
    for line in cluster.cli().succeed(["copy", "status"]).await?.lines() {
        println!("{:14}{line}", "");
    }
    Ok(())
}

async fn switchover(cluster: &Cluster, writer: &Writer, figures: &mut Figures) -> Result<()> {
    let from = cluster.active_of("DB1").await?;
    let to = cluster.names().into_iter().find(|name| *name != from).context("one member only")?;
    writer.reset_gap();
    cluster.cli().succeed(["switchover", "DB1", "--to", &to]).await.context("switchover")?;
    writer.progress(500).await.context("the writer goes on after the switchover")?;
    figures.switchover_gap = writer.longest_gap();
    let gap = figures.switchover_gap;
    say(
        "switchover",
        &format!("DB1 moved from {from} to {to} while a writer writes; gap {gap:.1?}"),
    );
    Ok(())
}

async fn restart_passive(cluster: &mut Cluster, writer: &Writer) -> Result<()> {
    let active = cluster.active_of("DB1").await?;
    let passive = cluster.names().into_iter().find(|n| *n != active).context("no passive copy")?;
    writer.reset_gap();
    cluster.member(&passive).kill()?;
    writer.progress(500).await.context("the writer goes on without the passive member")?;
    let gap = writer.longest_gap();
    say(
        "kill -9",
        &format!("member {passive} (passive for DB1) is dead; writes go on, gap {gap:.1?}"),
    );
    cluster.member(&passive).start()?;
    let started = Instant::now();
    cluster.wait_until_whole().await?;
    healthy(cluster, "DB1", &passive).await?;
    say("catch up", &format!("{passive} is back and healthy ({:.1?})", started.elapsed()));
    Ok(())
}

/// Waits until the copy on `member` follows, with less than one log in its queues: a writer writes.
async fn healthy(cluster: &Cluster, database: &str, member: &str) -> Result<()> {
    let admin = cluster.client().admin();
    eventually(&format!("{database}@{member} is healthy"), || async {
        let rows = admin.copy_status(database, member).await?;
        let row = rows.into_iter().next().unwrap_or_default();
        ensure!(row.participant, "it does not count in the commit rule");
        let v1::CopyFacts { status, copy_queue_bytes, replay_queue_bytes, .. } =
            row.facts.unwrap_or_default();
        let behind = copy_queue_bytes.max(replay_queue_bytes);
        ensure!(status == "Healthy" && behind < 1024 * 1024, "{status}, {behind} bytes behind");
        Ok(())
    })
    .await
}

async fn fail_over(cluster: &mut Cluster, writer: &Writer, figures: &mut Figures) -> Result<()> {
    let active = cluster.active_of("DB1").await?;
    writer.reset_gap();
    cluster.member(&active).kill_data_process()?;
    let new = taken_over(cluster, &active).await?;
    writer.progress(500).await.context("the writer goes on after the failover")?;
    figures.failover_gap = writer.longest_gap();
    let gap = figures.failover_gap;
    say(
        "kill -9",
        &format!("data process of {active} (active) is dead; {new} took over, gap {gap:.1?}"),
    );
    Ok(())
}

/// The member of the copy that took over from the one on `old`.
async fn taken_over(cluster: &Cluster, old: &str) -> Result<String> {
    crate::eventually_for(TAKE_OVER_PATIENCE, "another copy takes over", || async {
        let new = cluster.active_of("DB1").await?;
        ensure!(new != old, "{new} is still active");
        Ok(new)
    })
    .await
}

/// Both processes of the active's member die; the decision is explained while they are dead.
async fn lose_active_member(
    cluster: &mut Cluster,
    writer: &Writer,
    figures: &mut Figures,
) -> Result<()> {
    cluster.wait_until_whole().await?;
    cluster.wait_until_counting("DB1").await?;
    let active = cluster.active_of("DB1").await?;
    writer.reset_gap();
    cluster.member(&active).kill()?;
    let new = taken_over(cluster, &active).await?;
    writer.progress(500).await.context("the writer goes on without the active's member")?;
    figures.member_gap = writer.longest_gap();
    let gap = figures.member_gap;
    say("kill -9", &format!("member {active} (active) is dead; {new} took over, gap {gap:.1?}"));
    let decisions = cluster.cli().json(["decision", "list", "DB1", "--limit", "1"]).await?;
    let id = decisions[0]["index"].to_string();
    say("explain", &format!("keelson decision explain {id}"));
    for line in cluster.cli().succeed(["decision", "explain", &id]).await?.lines() {
        println!("{:14}{line}", "");
    }
    cluster.member(&active).start()?;
    Ok(())
}

async fn prove(cluster: &Cluster, writer: Writer) -> Result<(Verified, Vec<String>)> {
    let oracle = writer.stop().await?;
    cluster.wait_until_whole().await?;
    let verified = oracle.verify(&cluster.client().database("DB1")).await?;
    let text = format!(
        "{} acknowledged writes are all there; of {} with unknown outcome {} were applied",
        verified.acknowledged,
        verified.unknown_applied + verified.unknown_absent,
        verified.unknown_applied,
    );
    say("oracle", &text);
    let mut digests = Vec::new();
    for (database, copies) in [("DB1", 3), ("DB2", 2)] {
        cluster.wait_until_counting(database).await?;
        let digest = cluster.equal_digest(database, copies).await?;
        say("digest", &format!("{database}: {copies} equal copies, {digest}"));
        digests.push(format!("{database}={digest}"));
    }
    Ok((verified, digests))
}

fn closing_line(
    figures: &Figures,
    verified: Verified,
    digests: &[String],
    elapsed: Duration,
) -> String {
    let seconds = figures.import_seconds.max(0.001);
    format!(
        "OK: {} records ({:.1} MB) imported at {:.1} MB/s; longest write gap {:.0} ms at the \
         switchover, {:.0} ms when the active's process died, {:.0} ms when its member did; \
         {} acknowledged writes, 0 lost; digests equal: {}; \
         {:.0} s in all",
        figures.records,
        figures.bytes as f64 / 1e6,
        figures.bytes as f64 / 1e6 / seconds,
        figures.switchover_gap.as_secs_f64() * 1e3,
        figures.failover_gap.as_secs_f64() * 1e3,
        figures.member_gap.as_secs_f64() * 1e3,
        verified.acknowledged,
        digests.join(", "),
        elapsed.as_secs_f64(),
    )
}

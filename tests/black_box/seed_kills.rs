//! kill -9 of the source and of the target of a seed, at random moments, again and again.
//!
//! What is asked: the seed ends with equal content and leaves nothing beside the copy, and a crash
//! costs no more than one chunk that is sent again. Each life of the target counts what it received
//! from nothing: what lies in its staging directory must survive every kill, and its last life may
//! receive what was missing then, and one chunk more for each crash.
//!
//! The copy comes with its content index. `KEELSON_SEED_KILLS` sets the number of kills (6 unless
//! set), `KEELSON_SEED` the choices. The run that the issue asks for, and a replay of any run:
//!
//! ```text
//! KEELSON_SEED_KILLS=20 [KEELSON_SEED=N] cargo xtask test -p keelson-tests seed_kills
//! ```
//!
//! `N` is printed first, so that a failure shows it.

use std::path::Path;

use anyhow::{Result, ensure};
use keelson_testkit::{Cluster, eventually};
use serde_json::Value;

use crate::copies::until_status;
use crate::kill_loop::{Choices, number_of};
use crate::seeds::{begin, fill, nothing_is_left, on_three, operation, rate, until_ended};

const KILLS: u64 = 6;
/// Content beside that of the others for each kill, in records of 512 KiB.
const RECORDS_PER_KILL: u64 = 6;
/// Bytes that are staged between two kills, at most. Every other kill waits for none: it falls into
/// whatever the seed does before it sends.
const BETWEEN_BYTES: u64 = 2 * 1024 * 1024;
/// What a crash may cost: a chunk of a transfer.
const CHUNK_BYTES: u64 = 1024 * 1024;
/// A member that dies again and again before it is up could be taken for one that cannot start.
const WHOLE_AFTER: u64 = 3;

/// Bytes in the staging directories below a directory.
pub(crate) fn staged(directory: &Path, inside: bool) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => {
            let name = entry.file_name();
            let staging = ["temp-seeding", "ci-seed.temp"].iter().any(|known| name == *known);
            staged(&entry.path(), inside || staging)
        }
        Ok(metadata) if inside => metadata.len(),
        _ => 0,
    };
    entries.map(of).sum()
}

/// The last life of the target.
struct Life {
    /// Staged when it began.
    before: u64,
    /// Of the source, since.
    crashes: u64,
}

fn number(shown: &Value, name: &str) -> u64 {
    shown["seed"][name].as_u64().unwrap_or(0)
}

/// Kills until the number is reached; the life of the target that goes on. A seed that is over
/// before that was not tried hard enough.
async fn kill_again_and_again(cluster: &mut Cluster, id: &str, kills: u64) -> Result<Life> {
    let mut choices = Choices::of_seed(kills)?;
    let home = cluster.path().join("m3/data/databases");
    let mut life = Life { before: 0, crashes: 0 };
    for kill in 1..=kills {
        if kill % WHOLE_AFTER == 0 {
            cluster.wait_until_whole().await?;
        }
        let more = (kill % 2) * choices.below(BETWEEN_BYTES);
        let goal = staged(&home, false) + more;
        let shown = eventually("the seed goes on", || async {
            let shown = operation(cluster, id).await?;
            let there = staged(&home, false);
            ensure!(there >= goal || shown["state"] != "running", "{there} of {goal} bytes");
            Ok(shown)
        })
        .await?;
        ensure!(shown["state"] == "running", "the seed ended before kill {kill}: {shown}");
        let victim = if choices.below(2) == 0 { "m3" } else { "m2" };
        cluster.member(victim).kill()?;
        println!("kill {kill}: {victim}, {} bytes are verified", number(&shown, "bytes_done"));
        if victim == "m2" {
            life.crashes += 1;
        } else if shown["phase"] == "transferring" {
            let left = staged(&home, false);
            let kept = left + CHUNK_BYTES >= life.before;
            ensure!(kept, "{} bytes were here, {left} are left", life.before);
            life = Life { before: left, crashes: 0 };
        }
        cluster.member(victim).start()?;
    }
    Ok(life)
}

/// Issue 4: kill -9 of source and target at random moments of a seed.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_survives_kills_of_both_sides_at_random_moments() -> Result<()> {
    let kills = number_of("KEELSON_SEED_KILLS", KILLS)?;
    let mut cluster = on_three().await?;
    // Each life sends a chunk at least, and more until the next kill.
    let more = u32::try_from(kills * RECORDS_PER_KILL)?;
    fill(&cluster, 1_000, more).await?;
    cluster.wait_until_counting("DB1").await?;
    rate(&cluster, "262144").await?;
    let id = begin(&cluster, &["--source", "m2"]).await?;
    let life = kill_again_and_again(&mut cluster, &id, kills).await?;
    rate(&cluster, "0").await?;
    let ended = until_ended(&cluster, &id).await?;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let (received, bytes) = (number(&ended, "bytes_received"), number(&ended, "bytes"));
    let bound = bytes.saturating_sub(life.before) + (life.crashes + 1) * CHUNK_BYTES;
    ensure!(received <= bound, "{received} bytes came, {bound} were missing: {ended}");
    until_status(&cluster, "m3", "Healthy").await?;
    cluster.wait_until_counting("DB1").await?;
    cluster.equal_digest("DB1", 3).await?;
    nothing_is_left(&cluster).await
}

//! A copy that lost its files is another copy (R4): it never vouches again for what it forgot, and
//! counts like any other once it has the log.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cluster, eventually};

use crate::data::cluster;
use crate::partitions::others;

/// The directories of databases on a member.
fn databases(cluster: &Cluster, member: &str) -> PathBuf {
    cluster.path().join(member).join("data/databases")
}

/// Removes the directories of all copies; the member remembers that they were there.
fn lose_directories(databases: &Path) -> Result<()> {
    let entries = std::fs::read_dir(databases)?.collect::<Result<Vec<_>, _>>()?;
    let directories: Vec<_> = entries.iter().filter(|entry| entry.path().is_dir()).collect();
    ensure!(!directories.is_empty(), "there are no copies in {}", databases.display());
    for directory in directories {
        std::fs::remove_dir_all(directory.path())?;
    }
    Ok(())
}

/// The id of the copy on a member.
async fn copy_id(cluster: &Cluster, member: &str) -> Result<Vec<u8>> {
    let rows = cluster.client().admin().copy_status("DB1", "").await?;
    let row = rows.into_iter().find(|row| row.member == member).context("no such copy")?;
    Ok(row.facts.context("its member says nothing")?.copy.to_vec())
}

async fn write(cluster: &Cluster, prefix: &str) -> Result<()> {
    let database = cluster.client().database("DB1");
    for number in 0..50 {
        database.put(format!("{prefix}{number:03}"), "1").await?;
    }
    Ok(())
}

/// The database is served elsewhere, by itself, with everything and without a loss accepted.
async fn moved_without_loss(cluster: &Cluster, from: &str, prefixes: &[&str]) -> Result<()> {
    eventually("another copy is active", || async {
        let active = cluster.active_of("DB1").await?;
        ensure!(active != from, "{active}");
        Ok(())
    })
    .await?;
    let database = cluster.client().database("DB1");
    for prefix in prefixes {
        for number in 0..50 {
            let key = format!("{prefix}{number:03}");
            let found = database.get(key.clone()).await?;
            ensure!(found.is_some(), "{key} is gone");
        }
    }
    let shown = cluster.cli().json(["database", "show", "DB1"]).await?;
    assert_eq!(shown["losses"], serde_json::json!([]), "{shown}");
    Ok(())
}

/// A passive loses its files and gets the log again; then the active dies. Only the copy that lost
/// its files and one other are left, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_passive_that_lost_its_directory_counts_again_in_proofs() -> Result<()> {
    let mut ours = cluster().await?;
    ours.wait_until_counting("DB1").await?;
    write(&ours, "before").await?;
    let active = ours.active_of("DB1").await?;
    let forgetful = others(&ours, &active)[0].clone();
    let before = copy_id(&ours, &forgetful).await?;
    ours.member(&forgetful).stop()?;
    lose_directories(&databases(&ours, &forgetful))?;
    ours.member(&forgetful).start()?;
    ours.wait_until_counting("DB1").await?;
    ours.wait_until_caught_up("DB1").await?;
    ensure!(copy_id(&ours, &forgetful).await? != before, "it is the same copy still");
    write(&ours, "after").await?;
    ours.wait_until_caught_up("DB1").await?;
    ours.equal_digest("DB1", 3).await?;
    let status = ours.cli().json(["cluster", "status"]).await?;
    ensure!(!status["problems"].to_string().contains("files are gone"), "{status}");
    ours.member(&active).kill()?;
    moved_without_loss(&ours, &active, &["before", "after"]).await
}

/// The active loses its files: another copy takes over, and the former one comes back empty.
#[tokio::test(flavor = "multi_thread")]
async fn an_active_that_lost_its_directory_is_replaced_and_comes_back() -> Result<()> {
    let mut ours = cluster().await?;
    ours.wait_until_counting("DB1").await?;
    write(&ours, "before").await?;
    let active = ours.active_of("DB1").await?;
    ours.member(&active).kill()?;
    lose_directories(&databases(&ours, &active))?;
    ours.member(&active).start()?;
    moved_without_loss(&ours, &active, &["before"]).await?;
    ours.wait_until_counting("DB1").await?;
    ours.wait_until_caught_up("DB1").await?;
    ours.equal_digest("DB1", 3).await?;
    Ok(())
}

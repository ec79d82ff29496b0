//! A few faults of the chaos runner, those that no other test does to processes.
//! `cargo xtask chaos` does all kinds, as often as one likes.

use std::time::Duration;

use anyhow::{Result, ensure};
use keelson_testkit::chaos::{ChaosOptions, HOLD_MILLIS, Kind, Script, Victim, Where, run};

async fn lose_nothing(kinds: &[Kind], script: Option<Script>) -> Result<()> {
    let options = ChaosOptions {
        seed: 6,
        faults: u32::try_from(kinds.len())?,
        kinds: kinds.to_vec(),
        victim: Victim::Any,
        hold_millis: HOLD_MILLIS,
        script,
        writers: 4,
        pause: Duration::from_millis(5),
        place: Where::Processes { other: None },
    };
    let outcome = run(&options).await?;
    println!("{}", outcome.table);
    ensure!(outcome.verified.acknowledged > 0 && outcome.operations > 0, "{outcome:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_disks_and_networks_wrong_clocks_and_certificates_lose_nothing() -> Result<()> {
    let kinds = [Kind::Cut, Kind::SlowNetwork, Kind::SlowDisk, Kind::ClockJump];
    lose_nothing(&[&kinds[..], &[Kind::CertificateExpiry]].concat(), None).await
}

/// Not a quota: the system has no block left, for consensus and the log file neither.
#[tokio::test(flavor = "multi_thread")]
async fn disks_without_a_block_left_lose_nothing() -> Result<()> {
    if let Some(why) = Kind::FullDisk.impossible_here() {
        eprintln!("NOT TESTED: full disks: {why}");
        return Ok(());
    }
    let script: Script = "full-disk active 4s\nfull-disk passive 4s".parse()?;
    lose_nothing(&[Kind::FullDisk], Some(script)).await
}

/// Longer than a copy that is away is waited for (`degrade_after`).
#[tokio::test(flavor = "multi_thread")]
async fn faults_that_outlast_patience_lose_nothing() -> Result<()> {
    let script: Script = "pause passive 13s\nisolate active 13s".parse()?;
    lose_nothing(&[Kind::Pause, Kind::Isolate], Some(script)).await
}

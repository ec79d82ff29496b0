//! A few faults of the chaos runner, one of each kind that no other test does to processes.
//! `cargo xtask chaos` does all kinds, as often as one likes.

use std::time::Duration;

use anyhow::{Result, ensure};
use keelson_testkit::chaos::{ChaosOptions, Kind, Victim, Where, run};

#[tokio::test(flavor = "multi_thread")]
async fn slow_disks_and_networks_wrong_clocks_and_certificates_lose_nothing() -> Result<()> {
    let kinds = [Kind::Cut, Kind::SlowNetwork, Kind::SlowDisk, Kind::ClockJump];
    let kinds = [&kinds[..], &[Kind::CertificateExpiry]].concat();
    let options = ChaosOptions {
        seed: 6,
        faults: 5,
        kinds,
        victim: Victim::Any,
        writers: 4,
        pause: Duration::from_millis(5),
        place: Where::Processes { other: None },
    };
    let outcome = run(&options).await?;
    println!("{}", outcome.table);
    ensure!(outcome.verified.acknowledged > 0 && outcome.operations > 0, "{outcome:?}");
    Ok(())
}

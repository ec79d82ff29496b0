//! kill -9 again and again, of any member and of data processes alone, under load.
//!
//! `KEELSON_KILLS` sets the number of kills (6 unless set; the recorded run uses 50),
//! `KEELSON_SEED` the choice of victims. The seed is printed.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use keelson_testkit::{Writer, WriterOptions};

use crate::crashes::{EXPECTED_ERRORS, prove};
use crate::data::cluster;

const KILLS: u64 = 6;

fn number_of(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text} is no number")),
        Err(_) => Ok(default),
    }
}

/// A small generator, so that a seed gives the same victims everywhere.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_however_often_members_are_killed() -> Result<()> {
    let kills = number_of("KEELSON_KILLS", KILLS)?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let seed = number_of("KEELSON_SEED", u64::from(since.subsec_nanos()))?;
    println!("{kills} kills with KEELSON_SEED={seed}");
    let mut choices = Choices(seed);
    let mut cluster = cluster().await?;
    let options = WriterOptions { tasks: 8, ..WriterOptions::default() };
    let writer = Writer::start(cluster.client().database("DB1"), options);
    writer.progress(200).await?;
    let mut longest = Duration::ZERO;
    for kill in 1..=kills {
        let names = cluster.names();
        let victim = &names[usize::try_from(choices.below(names.len() as u64))?];
        let whole = choices.below(3) > 0;
        writer.reset_gap();
        if whole {
            cluster.member(victim).kill()?;
            // Sometimes it stays away for a while, sometimes it is back at once.
            if choices.below(2) == 0 {
                writer.progress(100).await.with_context(|| format!("kill {kill} of {victim}"))?;
            }
            cluster.member(victim).start()?;
        } else {
            cluster.member(victim).kill_data_process()?;
        }
        writer.progress(100).await.with_context(|| format!("kill {kill} of {victim}"))?;
        // Two of three must be there before the next one goes, or nothing can be acknowledged.
        cluster.wait_until_whole().await.with_context(|| format!("kill {kill} of {victim}"))?;
        cluster.wait_until_following("DB1").await.with_context(|| format!("kill {kill}"))?;
        longest = longest.max(writer.longest_gap());
    }
    let verified = prove(&cluster, writer).await?;
    println!("{kills} kills, longest gap {longest:?}, {verified:?}");
    cluster.assert_clean_logs(EXPECTED_ERRORS)
}

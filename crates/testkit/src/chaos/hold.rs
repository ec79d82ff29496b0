//! How a fault is done, held and undone.

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::DATABASE;
use super::fault::{Fault, Kind};
use super::ground::{Ground, Place};
use crate::{View, Writer};

/// Writes that must be acknowledged between two members of a rolling restart.
const WRITES_BETWEEN: u64 = 20;

/// What came of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Held {
    /// It was done: the gap is its own.
    Done,
    /// The cluster refused what was asked: nothing was done.
    Refused,
}

impl Fault {
    /// Does it, holds it, and undoes it.
    pub(super) async fn hold(&self, ground: &mut impl Ground, writer: &Writer) -> Result<Held> {
        match self.strike(ground, writer).await {
            // It is allowed (a disk that stalls may cost the leader its office meanwhile); that the
            // database serves on is what is checked.
            Err(refused) if self.kind == Kind::Switchover => {
                println!("chaos: {refused:#}");
                Ok(Held::Refused)
            }
            struck => struck.map(|()| Held::Done),
        }
    }

    async fn strike(&self, ground: &mut impl Ground, writer: &Writer) -> Result<()> {
        let victim = self.victim.as_str();
        match self.kind {
            Kind::KillData => ground.kill_data(victim).await,
            Kind::KillMember => {
                ground.kill(victim).await?;
                sleep(self.hold).await;
                ground.start(victim).await
            }
            Kind::Pause => {
                ground.pause(victim).await?;
                sleep(self.hold).await;
                ground.resume(victim).await
            }
            Kind::CutOneWay | Kind::Cut | Kind::Isolate | Kind::SiteCut => {
                ground.cut(&self.ways(ground.places())).await?;
                sleep(self.hold).await;
                ground.heal_network().await
            }
            Kind::SlowNetwork => {
                ground.slow_network(victim).await?;
                sleep(self.hold).await;
                ground.heal_network().await
            }
            Kind::FullLog => {
                ground.fill_log(victim).await?;
                sleep(self.hold).await;
                ground.empty_log(victim).await
            }
            Kind::FullDisk => {
                ground.fill_disk(victim).await?;
                sleep(self.hold).await;
                ground.empty_disk(victim).await
            }
            Kind::SlowDisk => {
                ground.slow_disk(victim, true).await?;
                sleep(self.hold).await;
                ground.slow_disk(victim, false).await
            }
            Kind::ClockJump => {
                ground.shift_clock(victim, self.jump).await?;
                sleep(self.hold).await;
                ground.shift_clock(victim, 0).await
            }
            Kind::CertificateExpiry => {
                ground.expire_certificate(victim).await?;
                sleep(self.hold).await;
                ground.renew_certificate(victim).await
            }
            Kind::RollingRestart | Kind::RollingUpgrade => self.roll(ground, writer).await,
            Kind::Switchover => switchover(ground.view(), &self.other).await,
        }
    }

    /// The directions that it cuts.
    pub(super) fn ways(&self, places: &[Place]) -> Vec<(String, String)> {
        let site = |name: &str| places.iter().find(|place| place.name == name).map(|p| &p.site);
        let inside = |name: &str| match self.kind {
            Kind::SiteCut => site(name) == site(&self.victim),
            _ => name == self.victim,
        };
        let outside = |name: &str| match self.kind {
            Kind::SiteCut | Kind::Isolate => !inside(name),
            _ => name == self.other,
        };
        let mut ways = Vec::new();
        for one in places.iter().filter(|place| inside(&place.name)) {
            for other in places.iter().filter(|place| outside(&place.name)) {
                ways.push((one.name.clone(), other.name.clone()));
                if self.kind != Kind::CutOneWay {
                    ways.push((other.name.clone(), one.name.clone()));
                }
            }
        }
        ways
    }

    /// One member at a time, each whole before the next goes.
    async fn roll(&self, ground: &mut impl Ground, writer: &Writer) -> Result<()> {
        let names: Vec<_> = ground.places().iter().map(|place| place.name.clone()).collect();
        for name in &names {
            let what = || format!("restart {name}");
            if self.kind == Kind::RollingUpgrade {
                ground.change_version(name).await.with_context(what)?;
            } else {
                ground.stop(name).await.with_context(what)?;
                ground.start(name).await.with_context(what)?;
            }
            writer.progress(WRITES_BETWEEN).await?;
            ground.view().wait_until_up(names.len()).await?;
            ground.view().wait_until_counting(DATABASE).await?;
        }
        Ok(())
    }
}

/// The many failovers of such a run are no reason against it, nor is an index that they left
/// behind.
pub(super) async fn switchover(view: &View, to: &str) -> Result<()> {
    let flags = ["--skip-move-suppression-checks", "--skip-client-experience-checks"];
    let moved = ["switchover", DATABASE, "--to", to].into_iter().chain(flags);
    view.cli.succeed(moved).await.map(drop)
}

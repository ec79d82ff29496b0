//! What can happen to a cluster, and how it is undone.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::posix_fallocate;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::{Cluster, Writer};

/// Members have so much room for log, of which 64 MiB are the reserve.
pub(super) const SETTINGS: &str = "log_dir = \"logs\"\nlog_quota = \"512 MiB\"";

/// Leaves less than the reserve, without taking that much of the disk of this machine for long.
const BALLAST_BYTES: i64 = 480 * 1024 * 1024;

/// What members log because of what is done to them.
pub(super) const EXPECTED_ERRORS: &[&str] = &["data process died status=signal: 9"];

/// How long a fault is held.
const HOLD_MILLIS: std::ops::Range<u64> = 300..3_000;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// kill -9 of the data process alone.
    KillData = "kill-data";
    /// kill -9 of both processes of a member, and a start after a while.
    KillMember = "kill-member";
    /// A hung machine: both processes stopped, then continued.
    Pause = "pause";
    /// Nothing gets from one member to another.
    CutOneWay = "cut-one-way";
    /// A member neither hears nor is heard by the others.
    Isolate = "isolate";
    /// The volume of the logs fills up, and is emptied.
    FullLog = "full-log";
    /// Every member is stopped and started, one after the other.
    RollingRestart = "rolling-restart";
    /// No fault: an operator moves the database to another member.
    Switchover = "switchover";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().copied().find(|kind| kind.name() == text);
        let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
        found.with_context(|| format!("no fault {text:?}: {}", names.join(", ")))
    }
}

/// Whom faults hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    /// The active or a passive, as drawn.
    Any,
    /// The active, on a member that does not lead the cluster.
    Active,
    /// The active, on the member that leads the cluster.
    Leader,
}

impl FromStr for Victim {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "any" => Ok(Self::Any),
            "active" => Ok(Self::Active),
            "leader" => Ok(Self::Leader),
            _ => bail!("no victim {text:?}: any, active, leader"),
        }
    }
}

/// One fault, drawn as a whole.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    kind: Kind,
    victim: String,
    /// The other end of what is cut.
    other: String,
    /// The victim was active.
    active: bool,
    hold: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, victim, other, active, hold } = self;
        let role = if *active { "active" } else { "passive" };
        match kind {
            Kind::RollingRestart => write!(f, "{kind}"),
            Kind::Switchover => write!(f, "{kind} to {other}"),
            Kind::CutOneWay => write!(f, "{kind} {victim} ({role}) to {other} for {hold:?}"),
            _ => write!(f, "{kind} {victim} ({role}) for {hold:?}"),
        }
    }
}

impl Fault {
    /// Every second one hits the active, unless all do.
    pub(super) fn draw(
        kind: Kind,
        names: &[String],
        active: &str,
        whom: Victim,
        random: &mut StdRng,
    ) -> Self {
        let passives: Vec<_> = names.iter().filter(|name| *name != active).collect();
        let only_active = whom != Victim::Any || kind == Kind::Switchover;
        let hits_active = random.random_bool(0.5) || only_active;
        let passive = passives[random.random_range(0..passives.len())].clone();
        let victim = if hits_active { active.to_owned() } else { passive };
        let others: Vec<_> = names.iter().filter(|name| **name != victim).collect();
        let other = others[random.random_range(0..others.len())].clone();
        let hold = Duration::from_millis(random.random_range(HOLD_MILLIS));
        Self { kind, victim, other, active: hits_active, hold }
    }

    /// Does it, holds it, and undoes it.
    pub(super) async fn hold(&self, cluster: &mut Cluster, writer: &Writer) -> Result<()> {
        let victim = self.victim.as_str();
        match self.kind {
            Kind::KillData => cluster.member(victim).kill_data_process(),
            Kind::KillMember => {
                cluster.member(victim).kill()?;
                sleep(self.hold).await;
                cluster.member(victim).start()
            }
            Kind::Pause => {
                cluster.member(victim).pause()?;
                sleep(self.hold).await;
                cluster.member(victim).resume()
            }
            Kind::CutOneWay => {
                cluster.network().cut_one_way(victim, &self.other);
                sleep(self.hold).await;
                cluster.network().heal_all();
                Ok(())
            }
            Kind::Isolate => {
                let others = cluster.names().into_iter().filter(|name| name != victim);
                others.for_each(|other| cluster.network().cut(victim, &other));
                sleep(self.hold).await;
                cluster.network().heal_all();
                Ok(())
            }
            Kind::FullLog => self.fill(cluster).await,
            Kind::RollingRestart => rolling_restart(cluster, writer).await,
            Kind::Switchover => {
                // Refused is allowed (a disk that stalls may cost the leader its office meanwhile);
                // that the database serves on is what is checked.
                if let Err(refused) = switchover(cluster, &self.other).await {
                    println!("chaos: {refused:#}");
                }
                Ok(())
            }
        }
    }

    async fn fill(&self, cluster: &Cluster) -> Result<()> {
        let directory = cluster.path().join(&self.victim).join("logs");
        let ballast = directory.join("ballast");
        let file = std::fs::File::create(&ballast)?;
        // Reserved and not written: a quota counts blocks.
        posix_fallocate(&file, 0, BALLAST_BYTES)?;
        sleep(self.hold).await;
        std::fs::remove_file(&ballast).context("cannot remove the ballast")
    }
}

/// The many failovers of such a run are no reason against it, nor is an index that they left
/// behind.
pub(super) async fn switchover(cluster: &Cluster, to: &str) -> Result<()> {
    let flags = ["--skip-move-suppression-checks", "--skip-client-experience-checks"];
    let moved = ["switchover", "DB1", "--to", to].into_iter().chain(flags);
    cluster.cli().succeed(moved).await.map(drop)
}

/// One member at a time, each whole before the next goes.
async fn rolling_restart(cluster: &mut Cluster, writer: &Writer) -> Result<()> {
    for name in cluster.names() {
        cluster.member(&name).stop().with_context(|| format!("stop {name}"))?;
        if cluster.member(&name).is_running() {
            bail!("{name} runs after it was stopped");
        }
        cluster.member(&name).start()?;
        writer.progress(20).await?;
        cluster.wait_until_whole().await?;
        cluster.wait_until_counting("DB1").await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_seed_gives_the_same_faults_and_names_are_read_back() {
        let names = ["m1", "m2", "m3"].map(str::to_owned);
        let drawn = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let mut draw = |kind: &Kind| {
                Fault::draw(*kind, &names, "m2", Victim::Any, &mut random).to_string()
            };
            Kind::ALL.iter().map(&mut draw).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), *kind);
        }
        assert!("earthquake".parse::<Kind>().is_err());
    }
}

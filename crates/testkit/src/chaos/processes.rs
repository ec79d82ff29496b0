//! Faults on processes of this machine, behind forwarders of the test kit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::posix_fallocate;
use tempfile::TempDir;

use super::expiry;
use super::fault::Kind;
use super::ground::{EXPECTED_ERRORS, Ground, Place, Ways};
use crate::{Cluster, ClusterOptions, SmallVolume, View, bad_host, eventually};

/// Members have so much room for log, of which 64 MiB are the reserve.
const SETTINGS: &str = "log_dir = \"logs\"\nlog_quota = \"512 MiB\"";

/// Leaves less than the reserve, without taking that much of the disk of this machine for long.
const BALLAST_BYTES: i64 = 480 * 1024 * 1024;

/// Of the volume of a member that is filled: enough for its databases and the fullest log.
pub(super) const VOLUME_BYTES: u64 = 8 << 30;

/// What each buffer of a slow network takes longer.
const DELAY: Duration = Duration::from_millis(30);

/// A cluster of processes.
pub(super) struct Processes {
    cluster: Cluster,
    places: Vec<Place>,
    /// The program of this version, and another one, if there is.
    programs: (PathBuf, Option<PathBuf>),
    /// Why disks and clocks cannot be made bad; none if they can.
    good_host: Option<String>,
    /// Why members have no volumes of their own; none if they have.
    no_volumes: Option<String>,
    _library: TempDir,
}

impl Processes {
    /// Starts three members; where a site is to be cut, four in two sites and a witness in a third.
    pub(super) async fn start(kinds: &[Kind], other: Option<PathBuf>) -> Result<Self> {
        let library = tempfile::tempdir()?;
        let built = bad_host(library.path()).await;
        let no_volumes = match kinds.contains(&Kind::FullDisk) {
            true => try_volume(library.path()).err().map(|error| format!("{error:#}")),
            false => Some("none was wanted".into()),
        };
        let preload = |path: &PathBuf| ("LD_PRELOAD".to_owned(), path.display().to_string());
        let mut options = ClusterOptions {
            network: true,
            settings: SETTINGS.into(),
            environment: built.iter().map(preload).collect(),
            volume_bytes: no_volumes.is_none().then_some(VOLUME_BYTES),
            ..ClusterOptions::default()
        };
        if kinds.contains(&Kind::SiteCut) {
            let sites = ["north", "north", "south", "south", "west"].map(str::to_owned);
            options = ClusterOptions { members: 5, witnesses: 1, sites: sites.into(), ..options };
        }
        let place = |(index, name): (usize, String)| Place {
            name,
            site: options.sites.get(index).cloned().unwrap_or_default(),
            witness: index + options.witnesses >= options.members,
        };
        let cluster = Cluster::start_with(options.clone()).await?;
        let places = cluster.names().into_iter().enumerate().map(place).collect();
        let programs = (cluster.binary().to_owned(), other);
        let good_host = built.err().map(|error| format!("{error:#}"));
        Ok(Self { cluster, places, programs, good_host, no_volumes, _library: library })
    }

    fn directory(&self, member: &str) -> PathBuf {
        self.cluster.path().join(member)
    }

    fn number(&self, member: &str) -> Result<usize> {
        let number = self.places.iter().position(|place| place.name == member);
        Ok(number.with_context(|| format!("no member {member}"))? + 1)
    }
}

/// Whether file systems can be made and mounted here.
pub(super) fn try_volume(directory: &Path) -> Result<()> {
    SmallVolume::mount(&directory.join("image"), &directory.join("volume"), 16 << 20).map(drop)
}

/// A file that tells the disk below a directory something.
pub(super) fn tell(directory: &Path, what: &str, so: bool) -> Result<()> {
    let file = directory.join(what);
    match so {
        true => std::fs::write(&file, "")?,
        false => std::fs::remove_file(&file)?,
    }
    Ok(())
}

impl Ground for Processes {
    fn view(&self) -> &View {
        &self.cluster
    }

    fn places(&self) -> &[Place] {
        &self.places
    }

    fn lacks(&self, kind: Kind) -> Option<String> {
        let sites = self.places.iter().any(|place| place.site != self.places[0].site);
        match kind {
            Kind::SlowDisk | Kind::ClockJump => self.good_host.clone(),
            Kind::FullDisk => self.no_volumes.clone(),
            Kind::SiteCut if !sites => Some("all members are in one site".into()),
            Kind::RollingUpgrade if self.programs.1.is_none() => {
                Some("KEELSON_OTHER_BIN names no other version of the program".into())
            }
            _ => None,
        }
    }

    async fn kill_data(&mut self, member: &str) -> Result<()> {
        self.cluster.member(member).kill_data_process()
    }

    async fn kill(&mut self, member: &str) -> Result<()> {
        self.cluster.member(member).kill()
    }

    async fn stop(&mut self, member: &str) -> Result<()> {
        self.cluster.member(member).stop()?;
        if self.cluster.member(member).is_running() {
            bail!("{member} runs after it was stopped");
        }
        Ok(())
    }

    async fn start(&mut self, member: &str) -> Result<()> {
        self.cluster.member(member).start()
    }

    async fn pause(&mut self, member: &str) -> Result<()> {
        self.cluster.member(member).pause()
    }

    async fn resume(&mut self, member: &str) -> Result<()> {
        self.cluster.member(member).resume()
    }

    async fn cut(&mut self, ways: &Ways) -> Result<()> {
        ways.iter().for_each(|(from, to)| self.cluster.network().cut_one_way(from, to));
        Ok(())
    }

    async fn slow_network(&mut self, member: &str) -> Result<()> {
        self.cluster.network().slow_down(member, DELAY);
        Ok(())
    }

    async fn heal_network(&mut self) -> Result<()> {
        self.cluster.network().heal_all();
        Ok(())
    }

    async fn fill_log(&mut self, member: &str) -> Result<()> {
        let file = std::fs::File::create(self.directory(member).join("logs/ballast"))?;
        // Reserved and not written: a quota counts blocks.
        Ok(posix_fallocate(&file, 0, BALLAST_BYTES)?)
    }

    async fn empty_log(&mut self, member: &str) -> Result<()> {
        let ballast = self.directory(member).join("logs/ballast");
        std::fs::remove_file(ballast).context("cannot remove the ballast")
    }

    async fn fill_disk(&mut self, member: &str) -> Result<()> {
        self.cluster.volume(member).fill()
    }

    async fn empty_disk(&mut self, member: &str) -> Result<()> {
        self.cluster.volume(member).empty()
    }

    async fn slow_disk(&mut self, member: &str, slow: bool) -> Result<()> {
        let directory = self.directory(member);
        ["data", "logs"].iter().try_for_each(|place| tell(&directory.join(place), "slow", slow))
    }

    async fn shift_clock(&mut self, member: &str, seconds: i64) -> Result<()> {
        Ok(std::fs::write(self.directory(member).join("clock"), seconds.to_string())?)
    }

    async fn expire_certificate(&mut self, member: &str) -> Result<()> {
        self.cluster.certify(member, expiry::SHORT).await?;
        let number = self.number(member)?;
        let addresses = [self.cluster.data_address(number)?, self.cluster.control_address(number)?];
        let what = format!("the certificate of {member} ends in use");
        let client = self.cluster.client_toml();
        eventually(&what, || expiry::ended(client, &addresses)).await?;
        self.cluster.network().reset(member);
        Ok(())
    }

    async fn renew_certificate(&mut self, member: &str) -> Result<()> {
        self.cluster.certify(member, expiry::LONG).await
    }

    async fn change_version(&mut self, member: &str) -> Result<()> {
        let (this, other) = &self.programs;
        let other = other.clone().context("there is no other version")?;
        let next = if self.cluster.member(member).binary() == this { other } else { this.clone() };
        self.stop(member).await?;
        self.cluster.member(member).set_binary(&next);
        self.start(member).await
    }

    async fn check_logs(&self) -> Result<()> {
        self.cluster.assert_clean_logs(EXPECTED_ERRORS)
    }
}

//! Faults on the containers of `deploy/compose.yaml`.
//!
//! `cargo xtask chaos --docker` brings the cluster up and describes it in a file. Members are
//! killed, paused and restarted by the engine; their networks are cut and shaped from this machine
//! inside their network namespaces, which needs root and `nsenter`, `iptables` and `tc`, because
//! the image has no such programs and its processes no such rights. Their disks and clocks are made
//! bad through what they have mounted of this machine ([`super::hosting`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use keelson_client::{Client, ClientConfig, ClientOptions};
use tokio::process::Command;
use tokio::time::sleep;

use super::expiry;
use super::fault::Kind;
use super::ground::{EXPECTED_ERRORS, Ground, Place, Ways};
use super::hosting::{Hosting, told, words};
use super::processes::tell;
use crate::{Cli, View, eventually, keelson_binary, small_volume, unexpected_errors};

/// Of the `log_quota` in the members' configurations this leaves less than the reserve of 64 MiB.
const BALLAST: &str = "2016MiB";

/// What is left of a slow network, after which packets wait and then are lost. Heartbeats get
/// through, log does not keep up.
const SHAPE: [&str; 7] = ["tbf", "rate", "2mbit", "burst", "16kb", "latency", "300ms"];

/// How long connections are refused that are to end: longer than the pause between two heartbeats.
const RESET: Duration = Duration::from_secs(1);

/// A clock that was set to a time is not further from it than this when it is read.
const CLOCK_ERROR_SECONDS: i64 = 30;

/// A program that syncs a file where stores and logs are and prints how many milliseconds it took.
const TIMED_SYNC: &str = "f=/var/lib/keelson/data/databases/timed-sync; a=$(date +%s%N); \
    dd if=/dev/zero of=$f bs=1 count=1 conv=fdatasync 2>/dev/null; b=$(date +%s%N); rm -f $f; \
    echo $(((b - a) / 1000000))";

/// What `bad_host.c` adds to a sync of a slow disk.
const SLOW_SYNC_MILLIS: u64 = 40;

/// A program that ends with an error unless there is exactly one data process, whose number it
/// needs: its own command line must not match.
const KILL_DATA: &str = "for p in /proc/[0-9]*; do \
    if grep -q '[d]ata-process' $p/cmdline 2>/dev/null; then kill -9 ${p#/proc/} && ok=1; fi; \
    done; [ -n \"$ok\" ]";

/// The containers of a cluster.
pub(super) struct Containers {
    view: View,
    places: Vec<Place>,
    client: PathBuf,
    /// Where logs are put to be looked through.
    folder: PathBuf,
    /// What members have of this machine.
    hosting: Hosting,
    /// How Compose is called for this cluster.
    compose: Vec<String>,
    project: String,
    /// Images of this and of the other version.
    images: [String; 2],
    /// Members that run the other version.
    changed: BTreeSet<String>,
    /// Members whose network is not as it was.
    touched: BTreeSet<String>,
}

impl Containers {
    /// Finds the cluster that `file` describes, in JSON: `client` (a client configuration),
    /// `compose` (the words of a command), `project`, `images` (two).
    pub(super) async fn open(file: &Path) -> Result<Self> {
        let told = told(file)?;
        let word = |name: &str| told[name].as_str().with_context(|| format!("no {name}"));
        let client = PathBuf::from(word("client")?);
        let images = words(&told, "images")?.try_into();
        let cli = Cli::new(&keelson_binary()?, Some(&client));
        let config = ClientConfig::load(&client)?;
        let view = View { client: Client::new(config, ClientOptions::default())?, cli };
        let status = eventually("the cluster answers", || async {
            Ok(view.client.admin().cluster_status().await?)
        })
        .await?;
        let place = |member: keelson_client::v1::MemberStatus| Place {
            name: member.name,
            site: member.site,
            witness: member.witness,
        };
        let mut places: Vec<_> = status.members.into_iter().map(place).collect();
        places.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self {
            view,
            places,
            client,
            folder: file.parent().context("no folder")?.to_owned(),
            hosting: Hosting::of(file)?,
            compose: words(&told, "compose")?,
            project: word("project")?.to_owned(),
            images: images.ok().context("there are not two images")?,
            changed: BTreeSet::new(),
            touched: BTreeSet::new(),
        })
    }

    /// The id of a member's container, which changes when it is made anew.
    async fn id(&self, member: &str) -> Result<String> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let service = format!("label=com.docker.compose.service={member}");
        let list = ["ps", "-aq", "--no-trunc", "--filter", &project, "--filter", &service];
        let ids = docker(&list).await?;
        ids.lines().next().map(str::to_owned).with_context(|| format!("no container of {member}"))
    }

    async fn docker(&self, before: &[&str], member: &str, after: &[&str]) -> Result<String> {
        let id = self.id(member).await?;
        docker(&[before, &[id.as_str()], after].concat()).await
    }

    /// The addresses of a member in all its networks.
    async fn addresses(&self, member: &str) -> Result<Vec<String>> {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
        let all = self.docker(&["inspect", "--format", format], member, &[]).await?;
        Ok(all.split_whitespace().map(str::to_owned).collect())
    }

    /// Runs a program of this machine in the network of a member.
    async fn inside(&self, member: &str, words: &[&str]) -> Result<String> {
        let format = "{{.State.Pid}}";
        let pid = self.docker(&["inspect", "--format", format], member, &[]).await?;
        let enter = ["--net", "--target", &pid];
        output(Command::new("nsenter").args(enter).args(words)).await
    }

    /// The members' interfaces, without that of the loop.
    async fn interfaces(&self, member: &str) -> Result<Vec<String>> {
        let listed =
            self.inside(member, &["ip", "-oneline", "link", "show", "type", "veth"]).await?;
        let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
        Ok(listed.lines().filter_map(name).collect())
    }

    /// Ends the connections of a member: whoever says something on one is told that there is none.
    async fn reset(&mut self, member: &str) -> Result<()> {
        self.touched.insert(member.to_owned());
        for chain in ["INPUT", "OUTPUT"] {
            let refuse = ["-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"];
            self.inside(member, &[&["iptables", "-I", chain], &refuse[..]].concat()).await?;
        }
        sleep(RESET).await;
        self.heal_network().await
    }

    /// Has the authority of the cluster issue a certificate anew.
    async fn certify(&self, member: &str, time: &str) -> Result<()> {
        let (renew, expires) = (format!("RENEW={member}"), format!("EXPIRES={time}"));
        let run = ["run", "--rm", "--no-deps", "-e", &renew, "-e", &expires, "identities"];
        self.compose(&run, &self.images[0]).await
    }

    async fn compose(&self, words: &[&str], image: &str) -> Result<()> {
        let (program, first) = self.compose.split_first().context("no compose")?;
        let mut command = Command::new(program);
        command.args(first).args(words).env("KEELSON_IMAGE", image);
        output(&mut command).await.map(drop)
    }

    async fn check_log(&self, member: &str) -> Result<()> {
        let id = self.id(member).await?;
        let logs = Command::new("docker").args(["logs", &id]).output().await?;
        let file = self.folder.join(format!("{member}.log"));
        std::fs::write(&file, [logs.stdout, logs.stderr].concat())?;
        let found = unexpected_errors(&file, EXPECTED_ERRORS)?;
        let lines: Vec<_> = found.iter().take(20).map(ToString::to_string).collect();
        ensure!(lines.is_empty(), "{} unexpected errors:\n{}", found.len(), lines.join("\n"));
        Ok(())
    }
}

async fn docker(words: &[&str]) -> Result<String> {
    output(Command::new("docker").args(words)).await
}

/// Runs a command to its end and gives what it printed.
async fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{:?}", command.as_std()).replace('"', "");
    let output = command.output().await.with_context(|| format!("start {shown}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}: {}", output.status, errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Ground for Containers {
    fn view(&self) -> &View {
        &self.view
    }

    fn places(&self) -> &[Place] {
        &self.places
    }

    fn lacks(&self, kind: Kind) -> Option<String> {
        self.hosting.lacks(kind)
    }

    async fn kill_data(&mut self, member: &str) -> Result<()> {
        self.docker(&["exec"], member, &["sh", "-c", KILL_DATA]).await.map(drop)
    }

    async fn kill(&mut self, member: &str) -> Result<()> {
        self.docker(&["kill"], member, &[]).await.map(drop)
    }

    async fn stop(&mut self, member: &str) -> Result<()> {
        self.docker(&["stop", "--time", "45"], member, &[]).await?;
        let code =
            self.docker(&["inspect", "--format", "{{.State.ExitCode}}"], member, &[]).await?;
        ensure!(code == "0", "{member} ended with {code}");
        Ok(())
    }

    async fn start(&mut self, member: &str) -> Result<()> {
        self.docker(&["start"], member, &[]).await.map(drop)
    }

    async fn pause(&mut self, member: &str) -> Result<()> {
        self.docker(&["pause"], member, &[]).await.map(drop)
    }

    async fn resume(&mut self, member: &str) -> Result<()> {
        self.docker(&["unpause"], member, &[]).await.map(drop)
    }

    async fn cut(&mut self, ways: &Ways) -> Result<()> {
        for (from, to) in ways {
            self.touched.insert(to.clone());
            for address in self.addresses(from).await? {
                let drop = ["iptables", "-I", "INPUT", "-s", &address, "-j", "DROP"];
                self.inside(to, &drop).await?;
            }
        }
        Ok(())
    }

    async fn slow_network(&mut self, member: &str) -> Result<()> {
        self.touched.insert(member.to_owned());
        for interface in self.interfaces(member).await? {
            let add = ["tc", "qdisc", "add", "dev", &interface, "root"];
            self.inside(member, &[&add[..], &SHAPE].concat()).await?;
        }
        Ok(())
    }

    async fn heal_network(&mut self) -> Result<()> {
        for member in std::mem::take(&mut self.touched) {
            for chain in ["INPUT", "OUTPUT"] {
                self.inside(&member, &["iptables", "-F", chain]).await?;
            }
            for interface in self.interfaces(&member).await? {
                // There is nothing to delete unless it was slow.
                let delete = ["tc", "qdisc", "del", "dev", &interface, "root"];
                let _ = self.inside(&member, &delete).await;
            }
        }
        Ok(())
    }

    async fn fill_log(&mut self, member: &str) -> Result<()> {
        let fill = ["fallocate", "-l", BALLAST, "/var/lib/keelson/log/ballast"];
        self.docker(&["exec"], member, &fill).await.map(drop)
    }

    async fn empty_log(&mut self, member: &str) -> Result<()> {
        let remove = ["rm", "/var/lib/keelson/log/ballast"];
        self.docker(&["exec"], member, &remove).await.map(drop)
    }

    async fn fill_disk(&mut self, member: &str) -> Result<()> {
        small_volume::fill(&self.hosting.volume(member))
    }

    async fn empty_disk(&mut self, member: &str) -> Result<()> {
        small_volume::empty(&self.hosting.volume(member))
    }

    async fn slow_disk(&mut self, member: &str, slow: bool) -> Result<()> {
        let volume = self.hosting.volume(member);
        ["data", "log"].iter().try_for_each(|place| tell(&volume.join(place), "slow", slow))?;
        // It may be down or paused; its disk is slow when it goes on.
        let Ok(took) = self.docker(&["exec"], member, &["sh", "-c", TIMED_SYNC]).await else {
            return Ok(());
        };
        let took: u64 = took.parse().context("the time of a sync")?;
        // A library that is not there would make this no fault at all.
        ensure!(!slow || took >= SLOW_SYNC_MILLIS, "a sync of {member} takes {took} ms");
        Ok(())
    }

    async fn shift_clock(&mut self, member: &str, seconds: i64) -> Result<()> {
        self.hosting.shift_clock(member, seconds)?;
        let read = self.docker(&["exec"], member, &["date", "+%s"]).await;
        // It may be down or paused; its clock is read when it goes on.
        let Ok(read) = read else { return Ok(()) };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let ahead = read.parse::<i64>()? - i64::try_from(now)?;
        // A library that is not there, or may not read its file, would make this no fault at all.
        let error = (ahead - seconds).abs();
        ensure!(error < CLOCK_ERROR_SECONDS, "{member} is {ahead} s ahead instead of {seconds}");
        Ok(())
    }

    async fn expire_certificate(&mut self, member: &str) -> Result<()> {
        self.certify(member, expiry::SHORT).await?;
        let addresses = [7401, 7400].map(|port| format!("{member}:{port}"));
        let what = format!("the certificate of {member} ends in use");
        eventually(&what, || expiry::ended(&self.client, &addresses)).await?;
        self.reset(member).await
    }

    async fn renew_certificate(&mut self, member: &str) -> Result<()> {
        self.certify(member, expiry::LONG).await
    }

    async fn change_version(&mut self, member: &str) -> Result<()> {
        // The container is made anew, and its log goes with it.
        self.check_log(member).await?;
        let back = self.changed.remove(member);
        if !back {
            self.changed.insert(member.to_owned());
        }
        let image = &self.images[usize::from(!back)];
        self.compose(&["up", "-d", "--no-deps", "--no-build", member], image).await
    }

    async fn check_logs(&self) -> Result<()> {
        for place in &self.places {
            self.check_log(&place.name).await?;
        }
        Ok(())
    }
}

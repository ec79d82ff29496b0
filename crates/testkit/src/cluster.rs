//! A cluster in a temporary directory.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use keelson_client::{Client, ClientConfig, ClientOptions, v1};
use tempfile::TempDir;

use crate::logs::last_lines;
use crate::wait::gave_up;
use crate::{
    Cli, LogLine, MemberProcess, Network, SmallVolume, View, eventually, free_port, keelson_binary,
    unexpected_errors,
};

/// What a test cluster is like.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Members, named m1, m2, ...
    pub members: usize,
    /// Sites of the members, in their order; those beyond stand in `test`.
    pub sites: Vec<String>,
    /// The last so many of them are witnesses.
    pub witnesses: usize,
    /// Least level that members log.
    pub log_level: String,
    /// Data directory of a member (by number, from 1) elsewhere than in the cluster's own
    /// directory.
    pub data_dirs: Vec<(usize, PathBuf)>,
    /// Lines for the configuration of every member, outside its tables.
    pub settings: String,
    /// Members reach each other through a [`Network`] that the test can cut.
    pub network: bool,
    /// Only data addresses lie behind that network; control addresses are always reached.
    pub data_only: bool,
    /// Members have addresses in 127.1.0.0/16 besides, which the test can cut alone.
    pub replication: bool,
    /// Variables in the environment of every member.
    pub environment: Vec<(String, String)>,
    /// Members serve the web console.
    pub console: bool,
    /// All files of a member lie on a volume of its own, of so many bytes.
    pub volume_bytes: Option<u64>,
    /// Keep the directory for people to look at.
    pub keep: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        let keep = std::env::var_os("KEELSON_TEST_KEEP").is_some();
        Self {
            members: 3,
            sites: Vec::new(),
            witnesses: 0,
            log_level: "info".into(),
            data_dirs: Vec::new(),
            settings: String::new(),
            network: false,
            data_only: false,
            replication: false,
            environment: Vec::new(),
            console: false,
            volume_bytes: None,
            keep,
        }
    }
}

/// Lines of each log that are printed where a test waited in vain.
const LAST_WORDS: usize = 30;

/// A running cluster. Dropping it kills its members and removes its files; if the test panics the
/// files stay, and their place is printed.
#[derive(Debug)]
pub struct Cluster {
    // Before the directory, so that processes are gone when it is removed.
    members: Vec<MemberProcess>,
    volumes: Vec<SmallVolume>,
    network: Option<Network>,
    replication: Option<Network>,
    view: View,
    binary: PathBuf,
    directory: Option<TempDir>,
    path: PathBuf,
    client_toml: PathBuf,
    keep: bool,
    /// The last so many members are witnesses.
    witnesses: usize,
}

impl Cluster {
    /// Starts a cluster of `members` members, all reachable and in it when this returns.
    ///
    /// # Errors
    /// The first step that failed.
    pub async fn start(members: usize) -> Result<Self> {
        Self::start_with(ClusterOptions { members, ..ClusterOptions::default() }).await
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(options: ClusterOptions) -> Result<Self> {
        let mut cluster = Self::prepare(&options).await?;
        for member in &mut cluster.members {
            member.start()?;
        }
        cluster.form().await?;
        Ok(cluster)
    }

    /// Writes certificates and configurations and starts nothing.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn prepare(options: &ClusterOptions) -> Result<Self> {
        ensure!((1..=9).contains(&options.members), "a test cluster has 1 to 9 members");
        let binary = keelson_binary()?;
        let directory = tempfile::Builder::new().prefix("keelson-test-").tempdir()?;
        let path = directory.path().to_owned();
        let plain = Cli::new(&binary, None);
        let certs = path.join("certs").display().to_string();
        plain.succeed(["certs", "init", "--dir", &certs]).await?;
        plain
            .succeed(["certs", "issue", "admin", "client", "--ca-dir", &certs, "--dir", &certs])
            .await?;
        let mut members = Vec::new();
        let mut endpoints = Vec::new();
        let mut network = options.network.then(|| Network::new(&path));
        let mut replication = options.replication.then(|| Network::new(&path));
        let mut volumes = Vec::new();
        for number in 1..=options.members {
            let name = format!("m{number}");
            if let Some(bytes) = options.volume_bytes {
                let image = path.join(format!("{name}.ext4"));
                volumes.push(SmallVolume::mount(&image, &path.join(&name), bytes)?);
            }
            let networks = (network.as_mut(), replication.as_mut());
            let written = write_member(&plain, &path, number, options, networks);
            endpoints.push(written.await?);
            let process = MemberProcess::new(&binary, &name, &path.join(&name));
            let process = process.with_environment(&options.environment);
            let witness = number + options.witnesses > options.members;
            members.push(if witness { process.as_witness() } else { process });
        }
        let client_toml = path.join("client.toml");
        write_client_toml(&client_toml, &endpoints)?;
        let config = ClientConfig::load(&client_toml)?;
        let client = Client::new(config, ClientOptions::default())?;
        Ok(Self {
            members,
            volumes,
            network,
            replication,
            view: View { client, cli: Cli::new(&binary, Some(&client_toml)) },
            binary,
            directory: Some(directory),
            path,
            client_toml,
            keep: options.keep,
            witnesses: options.witnesses,
        })
    }

    /// Starts one more server, with an empty directory and the next number; it is in no cluster.
    /// Gives its name; not with a [`Network`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_server(&mut self) -> Result<String> {
        let number = self.members.len() + 1;
        let plain = Cli::new(&self.binary, None);
        let options = ClusterOptions::default();
        write_member(&plain, &self.path, number, &options, (None, None)).await?;
        let name = format!("m{number}");
        let mut server = MemberProcess::new(&self.binary, &name, &self.path.join(&name));
        server.start()?;
        self.members.push(server);
        Ok(name)
    }

    /// Makes a cluster of the members that were started.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn form(&mut self) -> Result<()> {
        let admin = self.view.client.admin();
        let first = self.control_address(1)?;
        let config =
            ClientConfig { endpoints: vec![first], ..ClientConfig::load(&self.client_toml)? };
        let alone = Client::new(config, ClientOptions::default())?.admin();
        eventually("the first member makes a cluster", || async {
            Ok(alone.init_cluster().await?)
        })
        .await?;
        for number in 2..=self.members.len() {
            // The others dial what is named here, not what the member advertises itself.
            let address = self.address(number, "advertise_control")?;
            let name = format!("m{number}");
            eventually(&format!("{name} is added"), || async {
                let status = admin.cluster_status().await?;
                if status.members.iter().any(|member| member.name == name) {
                    return Ok(());
                }
                match number + self.witnesses > self.members.len() {
                    true => admin.add_witness(&address, &name).await?,
                    false => admin.add_member(&address, &name).await?,
                };
                Ok(())
            })
            .await?;
        }
        self.wait_until_whole().await?;
        // Test machines have little space; a test of low space sets its own threshold.
        let message = v1::SetSettingRequest {
            name: "play_down_low_space".into(),
            value: Some("0".into()),
            what_if: false,
        };
        eventually("lags are not played down for the space of a test machine", || async {
            Ok(admin.set_setting(message.clone()).await?)
        })
        .await?;
        Ok(())
    }

    /// Waits until every member answers with a running data process.
    ///
    /// # Errors
    /// Not within a minute.
    pub async fn wait_until_whole(&self) -> Result<()> {
        self.view.wait_until_up(self.members.len()).await
    }

    /// A client of the cluster, with default options.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.view.client
    }

    /// Commands with the cluster's client configuration.
    #[must_use]
    pub fn cli(&self) -> &Cli {
        &self.view.cli
    }

    /// The `keelson` program in use.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The directory of everything.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The client configuration.
    #[must_use]
    pub fn client_toml(&self) -> &Path {
        &self.client_toml
    }

    /// The network between the members.
    ///
    /// # Panics
    /// The cluster was started without one.
    #[must_use]
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("ClusterOptions::network was not set")
    }

    /// The replication network between the members.
    ///
    /// # Panics
    /// The cluster was started without one.
    #[must_use]
    pub fn replication_network(&self) -> &Network {
        self.replication.as_ref().expect("ClusterOptions::replication was not set")
    }

    /// A member by name.
    ///
    /// # Panics
    /// There is no such member.
    pub fn member(&mut self, name: &str) -> &mut MemberProcess {
        let member = self.members.iter_mut().find(|member| member.name() == name);
        member.unwrap_or_else(|| panic!("there is no member {name}"))
    }

    /// The volume of a member by its name.
    ///
    /// # Panics
    /// There is no such member, or it has none ([`ClusterOptions::volume_bytes`]).
    #[must_use]
    pub fn volume(&self, name: &str) -> &SmallVolume {
        let path = self.path.join(name);
        let volume = self.volumes.iter().find(|volume| volume.path() == path);
        volume.unwrap_or_else(|| panic!("{name} has no volume of its own"))
    }

    /// Names of all members.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.name().to_owned()).collect()
    }

    /// Control address of member `number` (from 1), as its configuration has it.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub fn control_address(&self, number: usize) -> Result<String> {
        self.address(number, "control_address")
    }

    /// Data address of member `number` (from 1), as its configuration has it.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub fn data_address(&self, number: usize) -> Result<String> {
        self.address(number, "data_address")
    }

    /// Address of the web console of member `number` (from 1), as its configuration has it.
    ///
    /// # Errors
    /// It serves none, or the configuration cannot be read.
    pub fn console_address(&self, number: usize) -> Result<String> {
        self.address(number, "console_address")
    }

    fn address(&self, number: usize, key: &str) -> Result<String> {
        let path = self.path.join(format!("m{number}/keelson.toml"));
        let text = std::fs::read_to_string(&path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.split('"').nth(1));
        line.map(str::to_owned).with_context(|| format!("no {key} in {}", path.display()))
    }

    /// The cluster as those see it who reach only `member`.
    ///
    /// # Errors
    /// There is no such member.
    pub fn seen_from(&self, member: &str) -> Result<View> {
        let number = self.members.iter().position(|m| m.name() == member);
        let number = number.with_context(|| format!("there is no member {member}"))? + 1;
        let path = self.path.join(format!("client-{member}.toml"));
        write_client_toml(&path, &[self.control_address(number)?])?;
        let client = Client::new(ClientConfig::load(&path)?, ClientOptions::default())?;
        Ok(View { client, cli: Cli::new(&self.binary, Some(&path)) })
    }

    /// Puts a certificate that ends after `time` (as `12h`) in the place of the one that a member
    /// uses; it takes it up by itself.
    ///
    /// # Errors
    /// It is not issued, or cannot be put there.
    pub async fn certify(&self, member: &str, time: &str) -> Result<()> {
        let directory = self.path.join(member);
        let fresh = directory.join("fresh");
        let (certs, to) =
            (self.path.join("certs").display().to_string(), fresh.display().to_string());
        let issue = ["certs", "issue", "member", member, "--ca-dir", &certs, "--dir", &to];
        self.cli().succeed(issue.into_iter().chain(["--expires", time])).await?;
        for ending in ["key", "pem"] {
            let file = format!("{member}.{ending}");
            std::fs::rename(fresh.join(&file), directory.join(&file))?;
        }
        Ok(())
    }

    /// Lines of level ERROR and panics in the logs of all members, without those that contain one
    /// of `expected`.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn unexpected_errors(&self, expected: &[&str]) -> Result<Vec<LogLine>> {
        let mut found = Vec::new();
        for member in &self.members {
            found.extend(unexpected_errors(&member.log(), expected)?);
        }
        Ok(found)
    }

    /// Fails if a member logged an error that is not expected.
    ///
    /// # Errors
    /// The first lines found.
    pub fn assert_clean_logs(&self, expected: &[&str]) -> Result<()> {
        let found = self.unexpected_errors(expected)?;
        if found.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = found.iter().take(20).map(ToString::to_string).collect();
        bail!("{} unexpected errors in the logs:\n{}", found.len(), lines.join("\n"))
    }

    /// What each member logged last: where a test fails on another machine nothing else is left.
    fn print_last_words(&self) {
        for member in &self.members {
            let lines = last_lines(&member.log(), LAST_WORDS);
            eprintln!("last words of {}:\n{}", member.name(), lines.join("\n"));
        }
    }

    /// Asks all members to stop, and waits until they have.
    ///
    /// # Errors
    /// One did not stop properly.
    pub fn stop(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(MemberProcess::stop)
    }
}

/// What can be seen and waited for from outside is that of the view.
impl Deref for Cluster {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if gave_up() {
            self.print_last_words();
        }
        self.members.clear();
        self.volumes.clear();
        if (std::thread::panicking() || self.keep)
            && let Some(directory) = self.directory.take()
        {
            eprintln!("the files of the test cluster stay in {}", directory.keep().display());
        }
    }
}

async fn write_member(
    cli: &Cli,
    path: &Path,
    number: usize,
    options: &ClusterOptions,
    (network, replication): (Option<&mut Network>, Option<&mut Network>),
) -> Result<String> {
    let name = &format!("m{number}");
    let home = path.join(name);
    std::fs::create_dir_all(&home)?;
    let (certs, here) = (path.join("certs").display().to_string(), home.display().to_string());
    cli.succeed(["certs", "issue", "member", name, "--ca-dir", &certs, "--dir", &here]).await?;
    let control = format!("127.0.0.1:{}", free_port()?);
    let data = format!("127.0.0.1:{}", free_port()?);
    let (reached_control, reached_data) = match network {
        None => (control.clone(), data.clone()),
        Some(network) => {
            let control = match options.data_only {
                true => control.clone(),
                false => network.forward(name, "127.0.0.1", &control).await?,
            };
            (control, network.forward(name, "127.0.0.1", &data).await?)
        }
    };
    let mut besides = String::new();
    if let Some(network) = replication {
        let own = format!("127.2.0.{number}:{}", free_port()?);
        let reached = network.forward(name, &format!("127.1.0.{number}"), &own).await?;
        besides =
            format!("replication_addresses = \"{own}\"\nadvertise_replication = \"{reached}\"\n");
    }
    if options.console {
        besides.push_str(&format!("console_address = \"127.0.0.1:{}\"\n", free_port()?));
    }
    let elsewhere = options.data_dirs.iter().find(|(member, _)| *member == number);
    let data_dir = elsewhere.map_or_else(|| "data".into(), |(_, path)| path.display().to_string());
    let site = options.sites.get(number - 1).map_or("test", String::as_str);
    let text = format!(
        "name = \"{name}\"\nsite = \"{site}\"\ndata_dir = \"{data_dir}\"\nrun_dir = \".\"\n\
         control_address = \"{control}\"\ndata_address = \"{data}\"\n\
         advertise_control = \"{reached_control}\"\nadvertise_data = \"{reached_data}\"\n\
         {besides}{}\n\n\
         [tls]\nca = \"../certs/ca.pem\"\ncert = \"{name}.pem\"\nkey = \"{name}.key\"\n\n\
         [log]\nlevel = \"{}\"\nfile = \"keelson.log\"\n",
        options.settings, options.log_level
    );
    std::fs::write(home.join("keelson.toml"), text)?;
    Ok(control)
}

fn write_client_toml(path: &Path, endpoints: &[String]) -> Result<()> {
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| format!("{endpoint:?}")).collect();
    let text = format!(
        "endpoints = [{}]\nca = \"certs/ca.pem\"\ncert = \"certs/client.pem\"\n\
         key = \"certs/client.key\"\n",
        endpoints.join(", ")
    );
    Ok(std::fs::write(path, text)?)
}

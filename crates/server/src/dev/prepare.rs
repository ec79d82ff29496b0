//! Writes the files of a `dev` cluster, or finds those of a former run.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use keelson_net::certs::{AUTHORITY_DAYS, Authority, CertRequest, Validity};

use super::MEMBERS_MAX;
use crate::Config;
use crate::files::make_directory;

/// Control port of the first member; each further one has the next ten. Data is one above, the
/// console four above.
const FIRST_PORT: u16 = 7400;

/// A cluster whose files are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DevCluster {
    /// The directory of it all, absolute.
    pub dir: PathBuf,
    /// Members in order.
    pub members: Vec<DevMember>,
    /// What client commands need.
    pub client_toml: PathBuf,
    /// Whether the files were there already.
    pub existed: bool,
}

/// One member of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DevMember {
    /// m1, m2, ...
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Address of its control process.
    pub control_address: String,
    /// Address of its data process.
    pub data_address: String,
    /// Address of its console; none if its configuration has none.
    pub console_address: Option<String>,
}

/// Writes certificates, configurations and `client.toml` without starting anything. If `dir` holds
/// a cluster already, that one is returned and `members` and `first_port` are ignored. Ports are
/// `first_port + 10 i` (7400 by default), one and four above, free ones instead of those that are
/// taken.
///
/// A crash leaves a directory without `client.toml`, which is refused until it is removed.
///
/// # Errors
/// The directory cannot be used, or holds half a cluster.
pub fn prepare(dir: &Path, members: u32, first_port: Option<u16>) -> anyhow::Result<DevCluster> {
    ensure!((1..=MEMBERS_MAX).contains(&members), "a dev cluster has 1 to {MEMBERS_MAX} members");
    make_directory(dir)?;
    let dir = dir.canonicalize().with_context(|| format!("cannot use {}", dir.display()))?;
    if dir.join("client.toml").exists() {
        return existing(&dir);
    }
    if dir.join("certs").exists() {
        bail!("{} holds half a dev cluster; remove it, or choose another directory", dir.display());
    }
    make_directory(&dir.join("certs"))?;
    let authority = Authority::create("keelson-dev", Validity::days(AUTHORITY_DAYS))?;
    authority.write(&dir.join("certs/ca.pem"), &dir.join("certs/ca.key"))?;
    let client = authority.issue(&CertRequest::admin("dev"))?;
    client.write(&dir.join("certs/client.pem"), &dir.join("certs/client.key"))?;
    let mut ports = Ports { next: first_port.unwrap_or(FIRST_PORT), held: Vec::new() };
    let mut made = Vec::new();
    for number in 1..=members {
        made.push(write_member(&dir, number, &authority, &mut ports)?);
    }
    let endpoints: Vec<_> = made.iter().map(|m| format!("{:?}", m.control_address)).collect();
    let client_toml = dir.join("client.toml");
    let text = format!(
        "# Made by keelson dev. Use it with --client, or: export KEELSON_CLIENT={}\n\
         endpoints = [{}]\nca = \"certs/ca.pem\"\n\
         cert = \"certs/client.pem\"\nkey = \"certs/client.key\"\n",
        client_toml.display(),
        endpoints.join(", ")
    );
    crate::files::replace(&client_toml, text.as_bytes())?;
    Ok(DevCluster { dir, members: made, client_toml, existed: false })
}

fn write_member(
    dir: &Path,
    number: u32,
    authority: &Authority,
    ports: &mut Ports,
) -> anyhow::Result<DevMember> {
    let name = format!("m{number}");
    let home = dir.join(&name);
    make_directory(&home)?;
    let issued = authority.issue(&CertRequest::member(&name, &[]))?;
    issued.write(&home.join("member.pem"), &home.join("member.key"))?;
    let [control_address, data_address, console_address] =
        ports.three()?.map(|port| format!("127.0.0.1:{port}"));
    let text = format!(
        "# Member of a dev cluster. See keelson config explain.\n\
         name = \"{name}\"\nsite = \"dev\"\ndata_dir = \"data\"\nrun_dir = \".\"\n\
         control_address = \"{control_address}\"\ndata_address = \"{data_address}\"\n\
         console_address = \"{console_address}\"\n\n\
         [tls]\nca = \"../certs/ca.pem\"\ncert = \"member.pem\"\nkey = \"member.key\"\n\n\
         [log]\nlevel = \"info\"\nfile = \"keelson.log\"\n"
    );
    let config = home.join("keelson.toml");
    crate::files::replace(&config, text.as_bytes())?;
    let console_address = Some(console_address);
    Ok(DevMember { name, dir: home, config, control_address, data_address, console_address })
}

/// Finds the members of a former run by their configurations.
fn existing(dir: &Path) -> anyhow::Result<DevCluster> {
    let mut members = Vec::new();
    for number in 1..=MEMBERS_MAX {
        let home = dir.join(format!("m{number}"));
        let path = home.join("keelson.toml");
        if !path.exists() {
            break;
        }
        let config = Config::load(&path)?;
        members.push(DevMember {
            name: config.name().to_string(),
            dir: home,
            config: path,
            control_address: config.advertise_control().to_owned(),
            data_address: config.advertise_data().to_owned(),
            console_address: config.console_address().map(str::to_owned),
        });
    }
    ensure!(!members.is_empty(), "{} has a client.toml and no members", dir.display());
    let client_toml = dir.join("client.toml");
    Ok(DevCluster { dir: dir.to_owned(), members, client_toml, existed: true })
}

/// Hands out ports. Those that it found free stay bound until all are handed out, so that none is
/// given twice.
struct Ports {
    next: u16,
    held: Vec<TcpListener>,
}

impl Ports {
    /// For control, data and console.
    fn three(&mut self) -> anyhow::Result<[u16; 3]> {
        let wanted = self.next;
        self.next = self.next.checked_add(10).context("ports end at 65535")?;
        Ok([self.one(wanted)?, self.one(wanted + 1)?, self.one(wanted + 4)?])
    }

    fn one(&mut self, wanted: u16) -> anyhow::Result<u16> {
        let bound = TcpListener::bind(("127.0.0.1", wanted))
            .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
            .context("no free port on 127.0.0.1")?;
        let port = bound.local_addr()?.port();
        self.held.push(bound);
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_prepared_cluster_passes_its_own_checks_and_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let made = prepare(dir.path(), 3, Some(0)).unwrap();
        assert!(!made.existed);
        let names: Vec<_> = made.members.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["m1", "m2", "m3"]);
        let mut addresses = BTreeSet::new();
        for member in &made.members {
            let report = crate::config::check(&member.config).unwrap();
            assert_eq!(report.config.advertise_control(), member.control_address);
            assert_eq!(report.config.run_dir(), member.dir);
            assert_eq!(report.config.console_address(), member.console_address.as_deref());
            addresses.extend([&member.control_address, &member.data_address]);
            addresses.extend(&member.console_address);
        }
        assert_eq!(addresses.len(), 9, "no port twice");
        let again = prepare(dir.path(), 5, None).unwrap();
        assert_eq!((again.existed, again.members), (true, made.members.clone()));
        let client = std::fs::read_to_string(made.client_toml).unwrap();
        let client: toml::Table = client.parse().unwrap();
        assert_eq!(client["endpoints"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn half_a_cluster_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("certs")).unwrap();
        assert!(prepare(dir.path(), 1, None).unwrap_err().to_string().contains("half"));
        assert!(prepare(dir.path(), 0, None).is_err());
    }
}

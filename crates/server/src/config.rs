//! The configuration of one member: a TOML file, read in two steps.
//!
//! `RawConfig` is what was written; [`Config`] is checked, with absolute paths and private fields.
//! Nothing is corrected silently: every problem is listed with the values that conflict. A key that
//! this version does not know is an error for `config check` and a warning at start, so that going
//! back to an older version is possible. What must be equal on all members (databases, rules) is
//! kept in consensus, not here.

mod check;
mod fields;
mod raw;
mod telemetry;
mod volumes;

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use keelson_cluster::AuditSettings;
use keelson_net::TlsFiles;
use keelson_replication::VolumeSettings;
use keelson_types::{MemberName, RefusalReason, SiteName};

pub(crate) use check::check_certificate;
pub use check::{Report, check};
pub use fields::{FIELDS, Field, explain, sample};
pub use telemetry::Telemetry;

use crate::Problem;
use raw::{RawAudit, RawConfig, RawTls};

/// Twice what is kept free for recovery.
const QUOTA_BYTES_MIN: u64 = 128 * 1024 * 1024;

/// Sizes that a file of the audit may have: a line is read with its file.
const AUDIT_FILE_BYTES: RangeInclusive<u64> = 64 << 10..=1 << 30;

/// How many of them may be kept.
const AUDIT_FILES: RangeInclusive<usize> = 1..=100;

/// The times of consensus and leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// One site, round trips below 10 ms.
    Lan,
    /// Several sites, round trips up to 150 ms.
    Wan,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lan => "lan",
            Self::Wan => "wan",
        })
    }
}

/// A checked configuration. Every path is absolute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    path: PathBuf,
    name: MemberName,
    site: SiteName,
    data_dir: PathBuf,
    log_dir: PathBuf,
    run_dir: PathBuf,
    data_quota_bytes: Option<u64>,
    log_quota_bytes: Option<u64>,
    volumes: VolumeSettings,
    control_address: String,
    data_address: String,
    replication_addresses: Vec<String>,
    advertise_control: String,
    advertise_data: String,
    advertise_replication: Vec<String>,
    metrics_address: Option<String>,
    metrics_are_local: bool,
    console_address: Option<String>,
    profile: Profile,
    tls: TlsFiles,
    log_level: String,
    log_file: Option<PathBuf>,
    audit_file_bytes: u64,
    audit_files: usize,
    telemetry: Option<Telemetry>,
    unknown: Vec<String>,
}

impl Config {
    /// Reads and checks a file. Unknown keys are kept in [`Self::unknown_keys`].
    ///
    /// # Errors
    /// `bad_configuration` with every problem found.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let text = read(path)?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self::parse(&path, &text).map_err(|problems| {
            let message = format!("configuration {}: {}", path.display(), problems.join("; "));
            Problem::of(RefusalReason::BadConfiguration, message)
        })
    }

    /// Checks the text of a file at `path`, which relative paths start from.
    ///
    /// # Errors
    /// Every problem found, one line each.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Vec<String>> {
        let parsed = Parsed::of(path, text);
        parsed.config.ok_or(parsed.problems)
    }

    /// The file it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the member.
    #[must_use]
    pub fn name(&self) -> &MemberName {
        &self.name
    }

    /// Its datacenter.
    #[must_use]
    pub fn site(&self) -> &SiteName {
        &self.site
    }

    /// Directory of identity, consensus and stores.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Directory of the databases' logs.
    #[must_use]
    pub fn log_dir(&self) -> &Path {
        &self.log_dir
    }

    /// Directory of `control.pid` and `data.pid`.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// How many bytes may lie below [`Self::data_dir`]; `None` for as many as its volume takes.
    #[must_use]
    pub fn data_quota_bytes(&self) -> Option<u64> {
        self.data_quota_bytes
    }

    /// How many bytes may lie below [`Self::log_dir`]; `None` for as many as its volume takes.
    #[must_use]
    pub fn log_quota_bytes(&self) -> Option<u64> {
        self.log_quota_bytes
    }

    /// The volumes that hold the copies; none for copies in [`Self::data_dir`].
    #[must_use]
    pub fn volumes(&self) -> &VolumeSettings {
        &self.volumes
    }

    /// Where the control process listens.
    #[must_use]
    pub fn control_address(&self) -> &str {
        &self.control_address
    }

    /// Where the data process listens.
    #[must_use]
    pub fn data_address(&self) -> &str {
        &self.data_address
    }

    /// Where others reach the control process.
    #[must_use]
    pub fn advertise_control(&self) -> &str {
        &self.advertise_control
    }

    /// Where others reach the data process.
    #[must_use]
    pub fn advertise_data(&self) -> &str {
        &self.advertise_data
    }

    /// Where the data process listens besides, for other members.
    #[must_use]
    pub fn replication_addresses(&self) -> &[String] {
        &self.replication_addresses
    }

    /// Where others reach it there.
    #[must_use]
    pub fn advertise_replication(&self) -> &[String] {
        &self.advertise_replication
    }

    /// Where metrics are served, if anywhere.
    #[must_use]
    pub fn metrics_address(&self) -> Option<&str> {
        self.metrics_address.as_deref()
    }

    /// Metrics are served to this machine only, and need no protection.
    #[must_use]
    pub fn metrics_are_local(&self) -> bool {
        self.metrics_are_local
    }

    /// Where the web console is served, if anywhere.
    #[must_use]
    pub fn console_address(&self) -> Option<&str> {
        self.console_address.as_deref()
    }

    /// The times of consensus and leases.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Certificate files.
    #[must_use]
    pub fn tls(&self) -> &TlsFiles {
        &self.tls
    }

    /// Least level that is logged, or a filter in the syntax of `tracing`.
    #[must_use]
    pub fn log_level(&self) -> &str {
        &self.log_level
    }

    /// Where the log goes; standard error if `None`.
    #[must_use]
    pub fn log_file(&self) -> Option<&Path> {
        self.log_file.as_deref()
    }

    /// Where the audit goes, and how much of it is kept.
    #[must_use]
    pub fn audit(&self) -> AuditSettings {
        AuditSettings {
            directory: self.data_dir.clone(),
            file_bytes: self.audit_file_bytes,
            files: self.audit_files,
        }
    }

    /// Where traces go, if anywhere.
    #[must_use]
    pub fn telemetry(&self) -> Option<&Telemetry> {
        self.telemetry.as_ref()
    }

    /// Keys of the file that this version does not know.
    #[must_use]
    pub fn unknown_keys(&self) -> &[String] {
        &self.unknown
    }
}

fn read(path: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(path).map_err(|error| {
        let message = format!("configuration {} cannot be read: {error}", path.display());
        Problem::of(RefusalReason::BadConfiguration, message)
    })
}

/// What could be made of a file: the configuration if nothing is wrong, else the parts that are
/// usable by themselves.
struct Parsed {
    config: Option<Config>,
    name: Option<MemberName>,
    tls: Option<TlsFiles>,
    unknown: Vec<String>,
    problems: Vec<String>,
}

impl Parsed {
    fn of(path: &Path, text: &str) -> Self {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                let problems = vec![error.to_string().trim().to_owned()];
                return Self { config: None, name: None, tls: None, unknown: vec![], problems };
            }
        };
        let mut problems = Vec::new();
        let raw = RawConfig::of(&table, &mut problems);
        let checks = Checks { base: base_of(path), problems };
        checks.all(path, raw, fields::unknown_keys(&table))
    }
}

fn base_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// What stands between commas.
fn list(written: Option<&str>) -> Vec<String> {
    let parts = written.unwrap_or_default().split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// Collects problems, so that all of them are shown at once.
struct Checks {
    base: PathBuf,
    problems: Vec<String>,
}

impl Checks {
    fn all(mut self, path: &Path, raw: RawConfig, unknown: Vec<String>) -> Parsed {
        let metrics_are_local = self.metrics(&raw);
        self.console(&raw);
        let name = raw.name.and_then(|name| self.name(&name, "name", MemberName::new));
        let site = self.name(&raw.site, "site", SiteName::new);
        let tls = self.tls(&raw.tls);
        let advertise_control =
            raw.advertise_control.unwrap_or_else(|| raw.control_address.clone());
        let advertise_data = raw.advertise_data.unwrap_or_else(|| raw.data_address.clone());
        self.listen("control_address", &raw.control_address);
        self.listen("data_address", &raw.data_address);
        let replication = (raw.replication_addresses, raw.advertise_replication);
        let (replication_addresses, advertise_replication) =
            self.replication(replication.0.as_deref(), replication.1.as_deref());
        if raw.control_address == raw.data_address {
            let both = &raw.control_address;
            self.problem(format!("control_address and data_address are both {both:?}"));
        }
        self.advertise("advertise_control", "control_address", &advertise_control);
        self.advertise("advertise_data", "data_address", &advertise_data);
        let profile = self.profile(&raw.profile);
        self.level(&raw.log.level);
        let data_quota_bytes = self.quota("data_quota", raw.data_quota.as_deref());
        let log_quota_bytes = self.quota("log_quota", raw.log_quota.as_deref());
        let written = (raw.volumes.as_deref(), raw.spare_volumes.as_deref());
        let volumes = self.volumes(written, raw.data_dir.as_deref(), raw.log_dir.as_deref());
        let (audit_file_bytes, audit_files) = self.audit(&raw.audit);
        let telemetry = self.telemetry(&raw.telemetry, tls.as_ref());
        let data_dir = raw.data_dir.map(|dir| self.path(&dir));
        let parts = (name.clone(), site, data_dir, tls.clone(), profile);
        let config = match parts {
            (Some(name), Some(site), Some(data_dir), Some(tls), Some(profile))
                if self.problems.is_empty() =>
            {
                Some(Config {
                    path: path.to_owned(),
                    name,
                    site,
                    log_dir: raw.log_dir.map_or_else(|| data_dir.clone(), |dir| self.path(&dir)),
                    run_dir: raw.run_dir.map_or_else(|| data_dir.clone(), |dir| self.path(&dir)),
                    data_dir,
                    data_quota_bytes,
                    log_quota_bytes,
                    volumes,
                    control_address: raw.control_address,
                    data_address: raw.data_address,
                    replication_addresses,
                    advertise_control,
                    advertise_data,
                    advertise_replication,
                    metrics_address: raw.metrics_address,
                    metrics_are_local,
                    console_address: raw.console_address,
                    profile,
                    tls,
                    log_level: raw.log.level,
                    log_file: raw.log.file.map(|file| self.path(&file)),
                    audit_file_bytes,
                    audit_files,
                    telemetry,
                    unknown: unknown.clone(),
                })
            }
            _ => None,
        };
        Parsed { config, name, tls, unknown, problems: self.problems }
    }

    fn tls(&self, raw: &RawTls) -> Option<TlsFiles> {
        let path = |written: &Option<PathBuf>| written.as_ref().map(|file| self.path(file));
        Some(TlsFiles { ca: path(&raw.ca)?, cert: path(&raw.cert)?, key: path(&raw.key)? })
    }

    fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    fn name<N, E: fmt::Display>(
        &mut self,
        text: &str,
        key: &str,
        make: impl FnOnce(String) -> Result<N, E>,
    ) -> Option<N> {
        make(text.to_owned())
            .map_err(|error| self.problem(format!("{key} = {text:?}: {error}")))
            .ok()
    }

    fn path(&self, written: &Path) -> PathBuf {
        self.base.join(written)
    }

    fn quota(&mut self, key: &str, written: Option<&str>) -> Option<u64> {
        let text = written?;
        match text.parse::<ByteSize>() {
            Ok(size) if size.as_u64() >= QUOTA_BYTES_MIN => Some(size.as_u64()),
            Ok(_) => {
                self.problem(format!("{key} = {text:?} is less than 128 MiB"));
                None
            }
            Err(_) => {
                self.problem(format!("{key} = {text:?} is no size like \"200 GiB\""));
                None
            }
        }
    }

    fn audit(&mut self, raw: &RawAudit) -> (u64, usize) {
        let size = raw.file_size.parse::<ByteSize>().ok().map(|size| size.as_u64());
        if !size.is_some_and(|size| AUDIT_FILE_BYTES.contains(&size)) {
            let text = &raw.file_size;
            self.problem(format!("audit.file_size = {text:?} is no size from 64 KiB to 1 GiB"));
        }
        let files = raw.files.parse::<usize>().ok();
        if !files.is_some_and(|files| AUDIT_FILES.contains(&files)) {
            self.problem(format!("audit.files = {:?} is no number from 1 to 100", raw.files));
        }
        (size.unwrap_or_default(), files.unwrap_or_default())
    }

    /// Addresses for other members, and where others reach them.
    fn replication(
        &mut self,
        listen: Option<&str>,
        advertise: Option<&str>,
    ) -> (Vec<String>, Vec<String>) {
        let listen = list(listen);
        for address in &listen {
            self.listen("replication_addresses", address);
        }
        let advertised = if advertise.is_some() { list(advertise) } else { listen.clone() };
        for address in &advertised {
            self.advertise("advertise_replication", "replication_addresses", address);
        }
        (listen, advertised)
    }

    fn listen(&mut self, key: &str, address: &str) {
        if address.to_socket_addrs().is_err() {
            self.problem(format!("{key} = {address:?} is no host:port of this machine"));
        }
    }

    /// Whether metrics are served on loopback only.
    fn metrics(&mut self, raw: &RawConfig) -> bool {
        let Some(address) = &raw.metrics_address else { return true };
        self.listen_apart(raw, "metrics_address", address);
        let mut resolved = address.to_socket_addrs().into_iter().flatten();
        resolved.all(|address| address.ip().is_loopback())
    }

    fn console(&mut self, raw: &RawConfig) {
        let Some(address) = &raw.console_address else { return };
        self.listen_apart(raw, "console_address", address);
        if raw.metrics_address.as_ref() == Some(address) {
            self.problem(format!("console_address and metrics_address are both {address:?}"));
        }
    }

    /// At an address that neither of the two processes listens at.
    fn listen_apart(&mut self, raw: &RawConfig, key: &str, address: &str) {
        self.listen(key, address);
        for (other, taken) in
            [("control_address", &raw.control_address), ("data_address", &raw.data_address)]
        {
            if taken == address {
                self.problem(format!("{key} and {other} are both {address:?}"));
            }
        }
    }

    /// Others must be able to dial it: not "every interface", not port 0.
    fn advertise(&mut self, key: &str, fallback: &str, address: &str) {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let unspecified = address.parse::<SocketAddr>().is_ok_and(|a| a.ip().is_unspecified());
        if port.is_none_or(|port| port == 0) || unspecified {
            self.problem(format!(
                "{key} = {address:?} cannot be dialled by others (it defaults to {fallback})"
            ));
        }
    }

    fn profile(&mut self, text: &str) -> Option<Profile> {
        match text {
            "lan" => Some(Profile::Lan),
            "wan" => Some(Profile::Wan),
            _ => {
                self.problem(format!("profile = {text:?} is neither \"lan\" nor \"wan\""));
                None
            }
        }
    }

    fn level(&mut self, text: &str) {
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(text) {
            self.problem(format!("log.level = {text:?}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests;

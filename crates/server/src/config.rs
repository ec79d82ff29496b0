//! The configuration of one member: a TOML file, read in two steps.
//!
//! `RawConfig` is what was written; [`Config`] is checked, with absolute paths and private fields.
//! Nothing is corrected silently: every problem is listed with the values that conflict. A key that
//! this version does not know is an error for [`check`] and a warning at start, so that going back
//! to an older version is possible. What must be equal on all members (databases, rules) is kept in
//! consensus, not here.

mod fields;
mod raw;

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use keelson_net::TlsFiles;
use keelson_types::{MemberName, RefusalReason, SiteName};

pub use fields::{FIELDS, Field, explain, sample};

use crate::Problem;
use raw::RawConfig;

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
    control_address: String,
    data_address: String,
    advertise_control: String,
    advertise_data: String,
    profile: Profile,
    tls: TlsFiles,
    log_level: String,
    log_file: Option<PathBuf>,
    unknown: Vec<String>,
}

impl Config {
    /// Reads and checks a file. Unknown keys are kept in [`Self::unknown_keys`].
    ///
    /// # Errors
    /// `bad_configuration` with every problem found.
    pub fn load(path: &Path) -> Result<Self, Problem> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("configuration {} cannot be read: {error}", path.display());
            Problem::of(RefusalReason::BadConfiguration, message)
        })?;
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
        let raw: RawConfig =
            toml::from_str(text).map_err(|error| vec![error.to_string().trim().to_owned()])?;
        let unknown = fields::unknown_keys(text);
        check_raw(path, raw, unknown)
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

    /// Keys of the file that this version does not know.
    #[must_use]
    pub fn unknown_keys(&self) -> &[String] {
        &self.unknown
    }
}

/// What `keelson config check` prints.
#[derive(Debug)]
pub struct Report {
    /// The checked configuration.
    pub config: Config,
    /// What is allowed and yet worth a look.
    pub warnings: Vec<String>,
}

/// Checks a file strictly: unknown keys are errors, and the TLS files must be usable now.
///
/// # Errors
/// `bad_configuration`, or the code of the TLS problem.
pub fn check(path: &Path) -> Result<Report, Problem> {
    let config = Config::load(path)?;
    if let [first, ..] = config.unknown_keys() {
        let all = config.unknown_keys().join(", ");
        let message = format!("configuration {}: unknown keys: {all}", path.display());
        let hint = format!("remove {first:?}, or see keelson config explain for the right name");
        return Err(Problem::new(RefusalReason::BadConfiguration.code().0, message, hint));
    }
    let identity = config.tls().load()?;
    check_certificate(&config, identity.own())?;
    let mut warnings = Vec::new();
    if config.log_dir() == config.data_dir() {
        warnings.push(
            "log_dir and data_dir share a disk; a disk of its own makes commits faster".into(),
        );
    }
    let left = identity.not_after().duration_since(std::time::SystemTime::now());
    let days = left.map_or(0, |left| left.as_secs() / (24 * 3600));
    if days < 30 {
        warnings.push(format!("the certificate expires in {days} days"));
    }
    Ok(Report { config, warnings })
}

/// The certificate must be this member's.
pub(crate) fn check_certificate(
    config: &Config,
    own: &keelson_net::PeerIdentity,
) -> Result<(), Problem> {
    if own.role == keelson_net::Role::Member && own.name == config.name().as_str() {
        return Ok(());
    }
    let (cert, name) = (config.tls().cert.display(), config.name());
    let message = format!("certificate {cert} is for {own}, not for member {name}");
    let hint = format!("keelson certs issue member {name} makes the right one");
    Err(Problem::new(RefusalReason::BadCertificate.code().0, message, hint))
}

fn check_raw(path: &Path, raw: RawConfig, unknown: Vec<String>) -> Result<Config, Vec<String>> {
    let mut checks = Checks { base: base_of(path), problems: Vec::new() };
    let name = checks.name(&raw.name, "name", MemberName::new);
    let site = checks.name(&raw.site, "site", SiteName::new);
    let data_dir = checks.path(&raw.data_dir);
    let log_dir = raw.log_dir.map_or_else(|| data_dir.clone(), |dir| checks.path(&dir));
    let run_dir = raw.run_dir.map_or_else(|| data_dir.clone(), |dir| checks.path(&dir));
    let tls = TlsFiles {
        ca: checks.path(&raw.tls.ca),
        cert: checks.path(&raw.tls.cert),
        key: checks.path(&raw.tls.key),
    };
    checks.listen("control_address", &raw.control_address);
    checks.listen("data_address", &raw.data_address);
    if raw.control_address == raw.data_address {
        let both = &raw.control_address;
        checks.problem(format!("control_address and data_address are both {both:?}"));
    }
    let advertise_control = raw.advertise_control.unwrap_or_else(|| raw.control_address.clone());
    let advertise_data = raw.advertise_data.unwrap_or_else(|| raw.data_address.clone());
    checks.advertise("advertise_control", "control_address", &advertise_control);
    checks.advertise("advertise_data", "data_address", &advertise_data);
    let profile = checks.profile(&raw.profile);
    checks.level(&raw.log.level);
    let log_file = raw.log.file.map(|file| checks.path(&file));
    match (name, site, profile, checks.problems.is_empty()) {
        (Some(name), Some(site), Some(profile), true) => Ok(Config {
            path: path.to_owned(),
            name,
            site,
            data_dir,
            log_dir,
            run_dir,
            control_address: raw.control_address,
            data_address: raw.data_address,
            advertise_control,
            advertise_data,
            profile,
            tls,
            log_level: raw.log.level,
            log_file,
            unknown,
        }),
        _ => Err(checks.problems),
    }
}

fn base_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// Collects problems, so that all of them are shown at once.
struct Checks {
    base: PathBuf,
    problems: Vec<String>,
}

impl Checks {
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

    fn listen(&mut self, key: &str, address: &str) {
        if address.to_socket_addrs().is_err() {
            self.problem(format!("{key} = {address:?} is no host:port of this machine"));
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

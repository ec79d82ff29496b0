//! What is written in the file, before any check. Defaults stand here and nowhere else.

use std::path::PathBuf;

use serde::Deserialize;

pub(super) const DEFAULT_SITE: &str = "default";
pub(super) const DEFAULT_CONTROL_ADDRESS: &str = "127.0.0.1:7400";
pub(super) const DEFAULT_DATA_ADDRESS: &str = "127.0.0.1:7401";
pub(super) const DEFAULT_PROFILE: &str = "lan";
pub(super) const DEFAULT_LEVEL: &str = "info";

#[derive(Deserialize, Debug)]
pub(super) struct RawConfig {
    pub(super) name: String,
    #[serde(default = "site")]
    pub(super) site: String,
    pub(super) data_dir: PathBuf,
    pub(super) log_dir: Option<PathBuf>,
    pub(super) run_dir: Option<PathBuf>,
    #[serde(default = "control_address")]
    pub(super) control_address: String,
    #[serde(default = "data_address")]
    pub(super) data_address: String,
    pub(super) advertise_control: Option<String>,
    pub(super) advertise_data: Option<String>,
    #[serde(default = "profile")]
    pub(super) profile: String,
    pub(super) tls: RawTls,
    #[serde(default)]
    pub(super) log: RawLog,
}

#[derive(Deserialize, Debug)]
pub(super) struct RawTls {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

#[derive(Deserialize, Debug)]
pub(super) struct RawLog {
    #[serde(default = "level")]
    pub(super) level: String,
    pub(super) file: Option<PathBuf>,
}

impl Default for RawLog {
    fn default() -> Self {
        Self { level: level(), file: None }
    }
}

fn site() -> String {
    DEFAULT_SITE.into()
}

fn control_address() -> String {
    DEFAULT_CONTROL_ADDRESS.into()
}

fn data_address() -> String {
    DEFAULT_DATA_ADDRESS.into()
}

fn profile() -> String {
    DEFAULT_PROFILE.into()
}

fn level() -> String {
    DEFAULT_LEVEL.into()
}

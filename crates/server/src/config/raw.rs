//! What is written in the file, before any check of its meaning. Defaults stand here and nowhere
//! else.
//!
//! Keys are taken one by one instead of all at once, so that every missing or mistyped key is
//! named, not only the first.

use std::path::PathBuf;

pub(super) const DEFAULT_SITE: &str = "default";
pub(super) const DEFAULT_CONTROL_ADDRESS: &str = "127.0.0.1:7400";
pub(super) const DEFAULT_DATA_ADDRESS: &str = "127.0.0.1:7401";
pub(super) const DEFAULT_PROFILE: &str = "lan";
pub(super) const DEFAULT_LEVEL: &str = "info";
pub(super) const DEFAULT_AUDIT_FILE_SIZE: &str = "16 MiB";
pub(super) const DEFAULT_AUDIT_FILES: &str = "8";
pub(super) const DEFAULT_SAMPLING_RATIO: &str = "1";
pub(super) const DEFAULT_EXPORT_TIMEOUT: &str = "10s";

/// The keys of the file. A key without a default is `None` if it is missing or no text.
#[derive(Debug)]
pub(super) struct RawConfig {
    pub(super) name: Option<String>,
    pub(super) site: String,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) log_dir: Option<PathBuf>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) data_quota: Option<String>,
    pub(super) log_quota: Option<String>,
    pub(super) volumes: Option<String>,
    pub(super) spare_volumes: Option<String>,
    pub(super) control_address: String,
    pub(super) data_address: String,
    pub(super) replication_addresses: Option<String>,
    pub(super) advertise_replication: Option<String>,
    pub(super) advertise_control: Option<String>,
    pub(super) advertise_data: Option<String>,
    pub(super) metrics_address: Option<String>,
    pub(super) console_address: Option<String>,
    pub(super) profile: String,
    pub(super) tls: RawTls,
    pub(super) log: RawLog,
    pub(super) audit: RawAudit,
    pub(super) telemetry: RawTelemetry,
}

#[derive(Debug)]
pub(super) struct RawTls {
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct RawLog {
    pub(super) level: String,
    pub(super) file: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct RawAudit {
    pub(super) file_size: String,
    pub(super) files: String,
}

#[derive(Debug)]
pub(super) struct RawTelemetry {
    pub(super) endpoint: Option<String>,
    pub(super) sampling_ratio: String,
    pub(super) export_timeout: String,
    pub(super) ca: Option<PathBuf>,
}

impl RawConfig {
    /// Takes the keys out of a parsed file. What is missing or no text is added to `problems`.
    pub(super) fn of(table: &toml::Table, problems: &mut Vec<String>) -> Self {
        let mut keys = Keys { table, problems };
        Self {
            name: keys.needed("name"),
            site: keys.or("site", DEFAULT_SITE),
            data_dir: keys.needed("data_dir").map(PathBuf::from),
            log_dir: keys.optional("log_dir").map(PathBuf::from),
            run_dir: keys.optional("run_dir").map(PathBuf::from),
            data_quota: keys.optional("data_quota"),
            log_quota: keys.optional("log_quota"),
            volumes: keys.optional("volumes"),
            spare_volumes: keys.optional("spare_volumes"),
            control_address: keys.or("control_address", DEFAULT_CONTROL_ADDRESS),
            data_address: keys.or("data_address", DEFAULT_DATA_ADDRESS),
            replication_addresses: keys.optional("replication_addresses"),
            advertise_replication: keys.optional("advertise_replication"),
            advertise_control: keys.optional("advertise_control"),
            advertise_data: keys.optional("advertise_data"),
            metrics_address: keys.optional("metrics_address"),
            console_address: keys.optional("console_address"),
            profile: keys.or("profile", DEFAULT_PROFILE),
            tls: RawTls {
                ca: keys.needed("tls.ca").map(PathBuf::from),
                cert: keys.needed("tls.cert").map(PathBuf::from),
                key: keys.needed("tls.key").map(PathBuf::from),
            },
            log: RawLog {
                level: keys.or("log.level", DEFAULT_LEVEL),
                file: keys.optional("log.file").map(PathBuf::from),
            },
            audit: RawAudit {
                file_size: keys.or("audit.file_size", DEFAULT_AUDIT_FILE_SIZE),
                files: keys.or("audit.files", DEFAULT_AUDIT_FILES),
            },
            telemetry: RawTelemetry {
                endpoint: keys.optional("telemetry.endpoint"),
                sampling_ratio: keys.or("telemetry.sampling_ratio", DEFAULT_SAMPLING_RATIO),
                export_timeout: keys.or("telemetry.export_timeout", DEFAULT_EXPORT_TIMEOUT),
                ca: keys.optional("telemetry.ca").map(PathBuf::from),
            },
        }
    }
}

struct Keys<'a> {
    table: &'a toml::Table,
    problems: &'a mut Vec<String>,
}

impl Keys<'_> {
    fn find(&self, key: &str) -> Option<&toml::Value> {
        match key.split_once('.') {
            None => self.table.get(key),
            Some((table, key)) => self.table.get(table)?.as_table()?.get(key),
        }
    }

    fn optional(&mut self, key: &str) -> Option<String> {
        let problem = match self.find(key)? {
            toml::Value::String(text) => return Some(text.clone()),
            other => format!("{key} = {other}: must be text, but is {}", other.type_str()),
        };
        self.problems.push(problem);
        None
    }

    fn or(&mut self, key: &str, default: &str) -> String {
        self.optional(key).unwrap_or_else(|| default.to_owned())
    }

    fn needed(&mut self, key: &str) -> Option<String> {
        if self.find(key).is_none() {
            self.problems.push(format!("{key} is missing"));
        }
        self.optional(key)
    }
}

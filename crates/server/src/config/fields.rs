//! The documentation of every key, and what is made of it: `config explain`, the sample file, and
//! the list of known keys.

use std::fmt::Write;

use super::raw::{
    DEFAULT_AUDIT_FILE_SIZE, DEFAULT_AUDIT_FILES, DEFAULT_CONTROL_ADDRESS, DEFAULT_DATA_ADDRESS,
    DEFAULT_EXPORT_TIMEOUT, DEFAULT_LEVEL, DEFAULT_PROFILE, DEFAULT_SAMPLING_RATIO, DEFAULT_SITE,
};

/// One key of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Key with its table, as `tls.ca`.
    pub key: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What holds if it is not written; `None` if it must be.
    pub default: Option<&'static str>,
    /// What values are allowed.
    pub bound: &'static str,
    /// When a change takes effect.
    pub takes_effect: &'static str,
    /// Value in the sample file.
    sample: &'static str,
}

const AT_START: &str = "at the next start";
const ADDRESS: &str = "host:port, port 1 to 65535";
const QUOTA: &str = "a size of at least 128 MiB, like 200 GiB";
const VOLUMES: &str = "paths with commas between them, none inside another one or data_dir";
const PATH: &str = "a path; relative to this file";

/// Every key, in the order of the sample file.
pub const FIELDS: &[Field] = &[
    Field {
        key: "name",
        meaning: "Name of this member, unique in the cluster, and the common name of its \
            certificate. Fixed for the life of a data directory.",
        default: None,
        bound: "1 to 64 letters, digits, '-', '_', '.'",
        takes_effect: "never (a new name needs a new data directory)",
        sample: "m1",
    },
    Field {
        key: "site",
        meaning: "The datacenter this member stands in. Commit constraints and the choice of \
            copies go by it.",
        default: Some(DEFAULT_SITE),
        bound: "1 to 64 letters, digits, '-', '_', '.'",
        takes_effect: "when the member is added; later with keelson member set",
        sample: DEFAULT_SITE,
    },
    Field {
        key: "data_dir",
        meaning: "Directory of the member's identity, consensus state and stores. One running \
            server per directory.",
        default: None,
        bound: PATH,
        takes_effect: AT_START,
        sample: "data",
    },
    Field {
        key: "log_dir",
        meaning: "Directory of the databases' logs. A disk of its own makes commits faster.",
        default: Some("data_dir"),
        bound: PATH,
        takes_effect: "at the next start; move the files first",
        sample: "data",
    },
    Field {
        key: "run_dir",
        meaning: "Directory of control.pid and data.pid.",
        default: Some("data_dir"),
        bound: PATH,
        takes_effect: AT_START,
        sample: "data",
    },
    Field {
        key: "data_quota",
        meaning: "How much may lie below data_dir, whoever put it there. The last 64 MiB are kept \
            for recovery: an active that comes so far takes no more writes, a passive replays no \
            more, both until there is room again.",
        default: Some("what the volume has"),
        bound: QUOTA,
        takes_effect: AT_START,
        sample: "200 GiB",
    },
    Field {
        key: "log_quota",
        meaning: "How much may lie below log_dir, whoever put it there; with one directory for \
            both, each quota counts everything. An active that comes within 64 MiB of it takes no \
            more writes, a passive no more log, both until there is room again.",
        default: Some("what the volume has"),
        bound: QUOTA,
        takes_effect: AT_START,
        sample: "100 GiB",
    },
    Field {
        key: "volumes",
        meaning: "Directories that hold the copies of databases, store and log of a copy together, \
            each a disk of its own; a new copy goes where the fewest are. data_dir keeps identity, \
            consensus state and one link per database. An empty directory is made a volume of this \
            member when it is first seen; what is not mounted later is missing, and its copies \
            have failed. Not with a log_dir of its own.",
        default: Some("copies lie in data_dir and log_dir"),
        bound: VOLUMES,
        takes_effect: "at the next start; copies that are there stay where they are",
        sample: "volumes/a, volumes/b",
    },
    Field {
        key: "spare_volumes",
        meaning: "Directories like these that wait until a volume fails: automatic reseed makes \
            its copies anew on the first one with room, and it is a volume like the others then.",
        default: Some("no spares: a failed volume waits for an operator"),
        bound: VOLUMES,
        takes_effect: AT_START,
        sample: "volumes/spare",
    },
    Field {
        key: "control_address",
        meaning: "Where the control process listens: consensus, administration, client endpoints.",
        default: Some(DEFAULT_CONTROL_ADDRESS),
        bound: ADDRESS,
        takes_effect: AT_START,
        sample: DEFAULT_CONTROL_ADDRESS,
    },
    Field {
        key: "data_address",
        meaning: "Where the data process listens: reads and writes, log shipping. Another port \
            than control_address.",
        default: Some(DEFAULT_DATA_ADDRESS),
        bound: ADDRESS,
        takes_effect: AT_START,
        sample: DEFAULT_DATA_ADDRESS,
    },
    Field {
        key: "advertise_control",
        meaning: "Where others reach the control process. Needed if control_address is 0.0.0.0 \
            or a name only this machine knows.",
        default: Some("control_address"),
        bound: "host:port that other members and clients can dial; the certificate must carry \
            the host",
        takes_effect: "when the member is added; later with keelson member set",
        sample: DEFAULT_CONTROL_ADDRESS,
    },
    Field {
        key: "advertise_data",
        meaning: "Where others reach the data process.",
        default: Some("data_address"),
        bound: "host:port that other members and clients can dial; the certificate must carry \
            the host",
        takes_effect: "when the member is added; later with keelson member set",
        sample: DEFAULT_DATA_ADDRESS,
    },
    Field {
        key: "replication_addresses",
        meaning: "Where the data process listens besides, for log and seeds of other members: one \
            address for each replication network (keelson network set).",
        default: Some("none"),
        bound: "IP:port, several separated by commas; ports that nothing else uses",
        takes_effect: AT_START,
        sample: "10.1.0.1:7402",
    },
    Field {
        key: "advertise_replication",
        meaning: "Where other members reach replication_addresses.",
        default: Some("replication_addresses"),
        bound: "IP:port, several separated by commas; an address belongs to the network that has \
            its subnet",
        takes_effect: "when the member is added; later with keelson member set",
        sample: "10.1.0.1:7402",
    },
    Field {
        key: "metrics_address",
        meaning: "Where the control process serves metrics for Prometheus at /metrics. On loopback \
            over plain HTTP; at any other address over TLS, to whoever shows a certificate of the \
            cluster's authority (one of the role monitor is for that and nothing else).",
        default: Some("no metrics are served"),
        bound: ADDRESS,
        takes_effect: AT_START,
        sample: "127.0.0.1:7403",
    },
    Field {
        key: "console_address",
        meaning: "Where the control process serves the web console, over TLS with this member's \
            certificate. Browsers log in with a token (keelson token issue).",
        default: Some("no console is served"),
        bound: ADDRESS,
        takes_effect: AT_START,
        sample: "127.0.0.1:7404",
    },
    Field {
        key: "profile",
        meaning: "Times of consensus and leases: lan for one site (lease 1 s), wan for round \
            trips up to 150 ms (lease 4 s). Equal on all members.",
        default: Some(DEFAULT_PROFILE),
        bound: "lan, wan",
        takes_effect: "at the next start, once all members have it",
        sample: DEFAULT_PROFILE,
    },
    Field {
        key: "tls.ca",
        meaning: "Certificate of the cluster's authority, PEM. Several while one replaces the \
            other.",
        default: None,
        bound: PATH,
        takes_effect: "content: with the next connection; path: at the next start",
        sample: "ca.pem",
    },
    Field {
        key: "tls.cert",
        meaning: "Certificate of this member, PEM.",
        default: None,
        bound: PATH,
        takes_effect: "content: with the next connection; path: at the next start",
        sample: "member.pem",
    },
    Field {
        key: "tls.key",
        meaning: "Private key of tls.cert, PEM, mode 0600.",
        default: None,
        bound: PATH,
        takes_effect: "content: with the next connection; path: at the next start",
        sample: "member.key",
    },
    Field {
        key: "log.level",
        meaning: "Least level that is logged, or a filter like info,keelson_cluster=debug. The \
            environment variable KEELSON_LOG overrides it.",
        default: Some(DEFAULT_LEVEL),
        bound: "error, warn, info, debug, trace, or a filter",
        takes_effect: AT_START,
        sample: DEFAULT_LEVEL,
    },
    Field {
        key: "log.file",
        meaning: "File that both processes append to. Rotate it by copying and truncating.",
        default: Some("standard error"),
        bound: PATH,
        takes_effect: AT_START,
        sample: "keelson.log",
    },
    Field {
        key: "audit.file_size",
        meaning: "Size of a file of the audit (audit.log in data_dir: who changed what, who was \
            refused, who logged in). A full one is followed by a new one and becomes audit.log.1.",
        default: Some(DEFAULT_AUDIT_FILE_SIZE),
        bound: "64 KiB to 1 GiB",
        takes_effect: AT_START,
        sample: DEFAULT_AUDIT_FILE_SIZE,
    },
    Field {
        key: "audit.files",
        meaning: "Files of the audit that are kept; the oldest goes.",
        default: Some(DEFAULT_AUDIT_FILES),
        bound: "1 to 100",
        takes_effect: AT_START,
        sample: DEFAULT_AUDIT_FILES,
    },
    Field {
        key: "telemetry.endpoint",
        meaning: "Where both processes send their traces: an OpenTelemetry collector (OTLP over \
            gRPC). Spans name databases, members and callers, and no keys or values. A collector \
            that is slow or away delays nothing: spans are dropped and counted. \
            OTEL_EXPORTER_OTLP_HEADERS in the environment adds headers, such as a token.",
        default: Some("no traces are made"),
        bound: "http://host:port or https://host:port; empty for none",
        takes_effect: AT_START,
        sample: "http://127.0.0.1:4317",
    },
    Field {
        key: "telemetry.sampling_ratio",
        meaning: "Share of the traces that is exported. A call that is part of a trace already is \
            exported if its caller exports it.",
        default: Some(DEFAULT_SAMPLING_RATIO),
        bound: "0 to 1",
        takes_effect: AT_START,
        sample: DEFAULT_SAMPLING_RATIO,
    },
    Field {
        key: "telemetry.export_timeout",
        meaning: "How long the collector may take for spans that are sent to it; then they are \
            dropped.",
        default: Some(DEFAULT_EXPORT_TIMEOUT),
        bound: "100ms to 1m",
        takes_effect: AT_START,
        sample: DEFAULT_EXPORT_TIMEOUT,
    },
    Field {
        key: "telemetry.ca",
        meaning: "Certificate of the authority of a collector at https, PEM.",
        default: Some("tls.ca"),
        bound: PATH,
        takes_effect: AT_START,
        sample: "collector-ca.pem",
    },
];

/// All keys with meaning, default and bound, for people.
#[must_use]
pub fn explain() -> String {
    let mut text = String::new();
    for field in FIELDS {
        let Field { key, meaning, bound, takes_effect, .. } = field;
        let default = field.default.unwrap_or("none: must be written");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key}\n    {meaning}");
        let _ = writeln!(text, "    default: {default}\n    allowed: {bound}");
        let _ = writeln!(text, "    a change takes effect: {takes_effect}\n");
    }
    text
}

/// A complete file with every key explained; keys that have a default are commented out.
#[must_use]
pub fn sample() -> String {
    let mut text =
        String::from("# Configuration of one Keelson member (keelson server --config FILE).\n");
    let mut table = "";
    for field in FIELDS {
        let (section, key) = field.key.rsplit_once('.').unwrap_or(("", field.key));
        if section != table {
            table = section;
            let _ = writeln!(text, "\n[{section}]");
        }
        let _ = writeln!(text, "\n# {}", field.meaning);
        let default = field.default.map_or("must be written".into(), |d| format!("default: {d}"));
        let _ = writeln!(text, "# Allowed: {}. {default}.", field.bound);
        let mark = if field.default.is_some() { "# " } else { "" };
        let _ = writeln!(text, "{mark}{key} = \"{}\"", field.sample);
    }
    text
}

/// Keys of a file that no field describes.
pub(super) fn unknown_keys(table: &toml::Table) -> Vec<String> {
    let mut unknown = Vec::new();
    collect(table, "", &mut unknown);
    unknown
}

fn collect(table: &toml::Table, prefix: &str, unknown: &mut Vec<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        let within = format!("{path}.");
        if FIELDS.iter().any(|field| field.key == path) {
            continue;
        }
        match value {
            toml::Value::Table(inner) if FIELDS.iter().any(|f| f.key.starts_with(&within)) => {
                collect(inner, &within, unknown);
            }
            _ => unknown.push(path),
        }
    }
}

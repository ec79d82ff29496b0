//! `keelson kv import`: reads records from files and writes them in batches, several under way at
//! once.
//!
//! Every batch carries, in the same atomic write, a record of how far its lane has come. So an
//! import that was killed at any moment continues, with the same command, behind exactly what was
//! committed. The progress records lie below the tools' own prefix and are removed when the import
//! ends. They belong to this source as it is: if the file, its time of change, or an option that
//! shapes the records differs, the import starts from the beginning (and overwrites the same keys),
//! and the progress records of former states of the same path are removed.
//!
//! If a key occurs several times, its last record is what stays.
//!
//! While the copies do not keep up, the import waits (see [`pace`]).
//!
//! A malformed line or a record over a limit is reported with its place; everything else is
//! imported, and the exit code is 5. So is a file, one of several, that cannot be read: how far the
//! import has come is not recorded behind it, because the next run may read it and make other
//! batches.
//!
//! A pipe gives its bytes once, so an import of it cannot be continued and records no progress.

mod batch;
mod deb822;
mod input;
mod json_lines;
mod lanes;
mod lines;
mod mbox;
mod numbered;
mod pace;
mod pipeline;
mod progress;
mod quotes;
mod report;
mod source;
mod table;
mod tree;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::context::Global;
use crate::failure::{Failure, Outcome};
use pace::Pace;
use pipeline::Start;
use report::Report;
use source::Source;

/// What the records look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// One JSON object per line
    JsonLines,
    /// Comma-separated values with a header line; a record is the row as a JSON object
    Csv,
    /// Mail folder in one file; a record is a message
    Mbox,
    /// Mail folder with one file per message
    Maildir,
    /// A record per file; the key is its path below the directory
    Tree,
    /// Debian package index (dpkg status, apt lists); a record is a stanza, the key package/version
    Deb822,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "json-lines",
            Self::Csv => "csv",
            Self::Mbox => "mbox",
            Self::Maildir => "maildir",
            Self::Tree => "tree",
            Self::Deb822 => "deb822",
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// Name of the database
    database: String,
    /// File or directory to read, "-" for standard input; files ending in .lz4 are decompressed. An
    /// import of a pipe cannot be continued
    path: PathBuf,
    /// What the records look like; default: found out from the name and the first bytes
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Field, column or header that holds the key. Default: "key" of JSON objects that have one,
    /// package/version of package stanzas, otherwise the number of the record behind the name of
    /// its file (FILE/000000000001)
    #[arg(long, value_name = "NAME")]
    key_field: Option<String>,
    /// Put this before every key
    #[arg(long, default_value = "", value_name = "PREFIX")]
    key_prefix: String,
    /// Start from the beginning, even if an earlier run did not end
    #[arg(long)]
    restart: bool,
    /// Write over numbered records that are there: the same file again, or another of its name
    #[arg(long)]
    overwrite: bool,
    /// How long to wait in all while the copies do not keep up (keelson guarantee health); then the
    /// import stops. At most 7 days
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    guarantee_wait: humantime::Duration,
    /// Write on whether the copies keep up or not
    #[arg(long, conflicts_with = "guarantee_wait")]
    no_guarantee: bool,
}

/// Options that shape the records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shape {
    key_field: Option<String>,
    key_prefix: String,
}

impl Import {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let shape = Shape { key_field: self.key_field, key_prefix: self.key_prefix };
        let source = Source::open(&self.path, self.format, shape)?;
        let report = Report::new(global, &self.database, &self.path, &source);
        let report = if global.what_if {
            pipeline::count(source, report).await?
        } else {
            if !source.is_resumable() {
                eprintln!("note: a pipe is read once: this import cannot be continued");
            }
            let client = global.connect().await?;
            let pace = match self.no_guarantee {
                true => None,
                false => Some(Pace::new(client.admin(), &self.database, *self.guarantee_wait)?),
            };
            let database = client.database(&self.database);
            let start = Start { restart: self.restart, overwrite: self.overwrite };
            pipeline::run(&database, source, start, (pace, report)).await?
        };
        report.print(global);
        match report.bad_count() {
            0 => Ok(()),
            1 => Err(Failure::partly("1 record was not imported, see above")),
            bad => Err(Failure::partly(format!("{bad} records were not imported, see above"))),
        }
    }
}

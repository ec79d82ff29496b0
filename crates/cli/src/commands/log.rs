//! `keelson log`: look into the log files of a copy, offline. Nothing is changed.

use std::error::Error;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keelson_log::{DumpError, DumpOptions, VerifyReport};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, column};
use crate::text;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List generations, frames or records
    Dump(Dump),
    /// Check every byte of the log
    Verify {
        /// Directory `log-<id>` of a copy
        directory: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Dump {
    /// Directory `log-<id>` of a copy
    directory: PathBuf,
    /// List the frames
    #[arg(long)]
    frames: bool,
    /// List the records (keys and lengths, not values) below their frames
    #[arg(long)]
    records: bool,
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Dump(dump) => dump.run(global),
            Self::Verify { directory } => verify(global, &directory),
        }
    }
}

impl Dump {
    fn run(self, global: &Global) -> Outcome {
        check_directory(&self.directory)?;
        let options = DumpOptions {
            json: global.output.is_data(),
            frames: self.frames,
            records: self.records,
        };
        let mut out = BufWriter::new(io::stdout().lock());
        let report =
            keelson_log::dump_dir(&self.directory, options, &mut out).map_err(|error| {
                let code = if let DumpError::Log(error) = &error { error.code() } else { "file" };
                failed(&self.directory, code, &error)
            })?;
        drop(out);
        verdict(&self.directory, &report)
    }
}

fn verify(global: &Global, directory: &Path) -> Outcome {
    check_directory(directory)?;
    let report = keelson_log::verify_dir(directory)
        .map_err(|error| failed(directory, error.code(), &error))?;
    let columns = [
        column("generation"),
        column("frames"),
        column("records"),
        column("ends at"),
        column("file"),
    ];
    let rows = report.generations.iter().map(|generation| {
        vec![
            generation.generation.to_string(),
            generation.frames.to_string(),
            generation.records.to_string(),
            generation.end.to_string(),
            text::size(generation.file_bytes),
        ]
    });
    output::print_list(global.output, &columns, rows.collect(), &data(directory, &report));
    if !global.output.is_data() {
        output::emit(&about_the_end(&report));
    }
    verdict(directory, &report)
}

/// What is known of the place where the log ends: a frame lost there leaves no hole.
fn about_the_end(report: &VerifyReport) -> String {
    let mut text = format!("log end {}\n", report.end);
    if let Some(position) = report.torn_from {
        text += &format!("torn tail from {position}: a start of the copy cuts it\n");
    }
    if report.bytes_behind > 0 {
        let bytes = report.bytes_behind;
        text += &format!(
            "{bytes} bytes behind the log's end that are not zero (torn tail, damage, or left from \
             an earlier use of the file)\n"
        );
    }
    match report.known {
        Some(known) if known.committed > report.end.position => {
            text += &format!(
                "the copy knew the log to be committed to {}: what is missing is fetched from \
                 another copy when it starts\n",
                known.committed
            );
        }
        Some(known) => text += &format!("the copy had it durable to {} at least\n", known.durable),
        None => {
            text += "no control file of this log beside it: whether frames are missing at the end \
                     cannot be told\n";
        }
    }
    text
}

fn data(directory: &Path, report: &VerifyReport) -> Value {
    let generations = report.generations.iter().map(|generation| {
        json!({
            "generation": generation.generation.to_string(),
            "header_intact": generation.header.is_some(),
            "frames": generation.frames,
            "records": generation.records,
            "end": generation.end.to_string(),
            "file_bytes": generation.file_bytes,
        })
    });
    json!({
        "directory": directory,
        "intact": report.is_intact(),
        "end": report.end.to_string(),
        "torn_from": report.torn_from.map(|position| position.to_string()),
        "bytes_behind_end": report.bytes_behind,
        "known_durable": report.known.map(|known| known.durable.to_string()),
        "known_committed": report.known.map(|known| known.committed.to_string()),
        "damages": report.damages.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "generations": generations.collect::<Value>(),
    })
}

/// Damage is a failure of the command, with a code of its own.
fn verdict(directory: &Path, report: &VerifyReport) -> Outcome {
    if report.is_intact() {
        return Ok(());
    }
    let damages: Vec<_> = report.damages.iter().map(ToString::to_string).collect();
    Err(Failure {
        code: "log_damaged".into(),
        message: format!("{} is damaged: {}", directory.display(), damages.join("; ")),
        hint:
            "keep the files; the copy can be made anew from another one (keelson copy remove, then \
               keelson copy add)"
                .into(),
        exit: Exit::Failed,
    })
}

fn check_directory(directory: &Path) -> Outcome {
    let opened = std::fs::read_dir(directory);
    opened.map(drop).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotADirectory => {
            let holder = directory.parent().unwrap_or(directory).display();
            Failure {
                hint: format!("a log is checked as a whole: name its directory, {holder}"),
                ..Failure::file(directory, &error)
            }
        }
        _ => Failure::file(directory, &error),
    })
}

fn failed(directory: &Path, code: &str, error: &dyn Error) -> Failure {
    let mut message = format!("{}: {error}", directory.display());
    let mut cause = error.source();
    while let Some(error) = cause {
        message += &format!(": {error}");
        cause = error.source();
    }
    Failure {
        code: code.into(),
        message,
        hint: "name a directory `log-<id>` of a copy that has received log; the member should be \
               stopped"
            .into(),
        exit: Exit::Failed,
    }
}

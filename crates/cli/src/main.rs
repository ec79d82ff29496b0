//! `keelson`: the one program of the cluster, for servers and for people.
//!
//! Parses the command line, runs one command, prints its failure with code and hint. Commands live
//! in one file per noun; exit codes are those of `failure`.

mod cli;
mod commands;
mod context;
mod failure;
mod output;
mod text;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::failure::{Exit, Failure};

/// Puts and gets are made of small allocations on many threads: with 64 clients this allocator
/// gives a tenth more of them than that of the C library. It is RocksDB's, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error),
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What the parser does not take is told like every other refusal; help and versions are no
/// refusals.
fn unparsed(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind as Kind;
    match error.kind() {
        Kind::DisplayHelp
        | Kind::DisplayVersion
        | Kind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => Failure::unparsed(&error.to_string()).report(),
    }
}

/// Runs an asynchronous command to its end.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure {
        exit: Exit::Failed,
        ..Failure::local(format!("cannot start threads: {error}"))
    })?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

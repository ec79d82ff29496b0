//! `keelson-demo`: the demonstration. Runs unattended, prints what it does, and leaves nothing
//! running.

use std::path::PathBuf;
use std::process::ExitCode;

use keelson_testkit::{demo, until_interrupted};

const USAGE: &str = "usage: keelson-demo [PATH]\n\
    PATH: what to import (JSON Lines, CSV, mbox, Maildir, package lists, a directory tree);\n\
    default: the package lists of this machine, or made-up ones";

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let path = arguments.next().map(PathBuf::from);
    let help = path.as_ref().is_some_and(|path| path.to_string_lossy().starts_with('-'));
    if help || arguments.next().is_some() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match until_interrupted(demo::run(path)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demonstration FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

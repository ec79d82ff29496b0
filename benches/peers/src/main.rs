//! `keelson-peers`: the same load against Keelson and its peers in one run, and the ratios.
//!
//! Everything lives in one directory and on ports of its own. Processes are killed and files
//! removed at the end in any case, also after Ctrl-C. The table goes to standard output, progress
//! to standard error. Exit codes: 0 all was measured, 1 something was not, 130 interrupted.

mod disk;
mod etcd;
mod keelson;
mod load;
mod options;
mod page;
mod place;
mod postgres;
mod process;
mod redis;
mod report;
mod run;
mod target;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use options::Arguments;
use place::Place;
use report::Results;

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<ExitCode> {
    let place = Place::new(arguments.dir.as_deref())?;
    // The members of Keelson live in temporary directories.
    tempfile::env::override_temp_dir(place.path())
        .map_err(|set| anyhow!("temporary files go to {} already", set.display()))?;
    let runtime = Builder::new_multi_thread().enable_all().build().context("start threads")?;
    let (kinds, plan) = (arguments.kinds(), arguments.plan());
    let mut results = Results::default();
    let whole = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // A signal drops the run, and with it every process of the system under way.
        anyhow::Ok(tokio::select! {
            biased;
            _ = interrupt.recv() => false,
            _ = terminate.recv() => false,
            () = run::run(&kinds, &plan, &place, &mut results) => true,
        })
    })?;
    drop(runtime);
    if !whole {
        eprintln!("peers: interrupted");
        return Ok(ExitCode::from(130));
    }
    println!("{}", results.tables());
    if let Some(path) = &arguments.json {
        write(path, &format!("{:#}\n", results.json()))?;
    }
    if let Some(path) = &arguments.results {
        write(path, &page::page(&kinds, &plan, &page::machine(), &results))?;
    }
    for note in &results.notes {
        println!("note: {note}");
    }
    Ok(if results.notes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

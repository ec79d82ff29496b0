//! The library of disks and clocks that misbehave on demand, to be put before the C library of
//! members (`LD_PRELOAD`). What it does and how it is told stands at the top of `bad_host.c`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const SOURCE: &str = include_str!("bad_host.c");

/// Builds it in `directory` and gives its path.
///
/// # Errors
/// There is no C compiler `cc`, or it refuses.
pub async fn bad_host(directory: &Path) -> Result<PathBuf> {
    let (source, library) = (directory.join("bad_host.c"), directory.join("bad_host.so"));
    std::fs::write(&source, SOURCE)?;
    let mut compiler = tokio::process::Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&library).arg(&source);
    let status = compiler.arg("-ldl").status().await.context("cc is not there")?;
    ensure!(status.success(), "the library of bad disks and clocks was not built: {status}");
    Ok(library)
}

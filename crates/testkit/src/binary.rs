//! Finds the `keelson` program.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The program of `KEELSON_BIN`, else `keelson` in the directory of the running program or above it
/// (test programs lie one directory deeper than binaries).
///
/// # Errors
/// There is none.
pub fn keelson_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KEELSON_BIN") {
        let path = PathBuf::from(path);
        if path.is_file() {
            return Ok(path);
        }
        bail!("KEELSON_BIN names {}, which is no file", path.display());
    }
    let own = std::env::current_exe()?;
    let found =
        own.ancestors().skip(1).take(2).map(|dir| dir.join("keelson")).find(|p| p.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!(
            "no program keelson beside {}; build it with: cargo build -p keelson-cli",
            own.parent().unwrap_or(Path::new(".")).display()
        ),
    }
}

//! The checkout that xtask works on, and the way it starts other programs.
//!
//! Owns the environment of every child `cargo`: the compiler cache, incremental builds off in CI,
//! and none of the variables that the outer `cargo run` set for xtask itself. Those would otherwise
//! reach build scripts that watch them (`ring` does) and rebuild crates for no reason.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Prefixes of what the outer cargo tells a running package about that package.
const OUTER_PACKAGE_VARIABLES: &[&str] =
    &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_"];

/// The checkout and the facts about the environment that every subcommand needs.
pub(crate) struct Workspace {
    /// The directory of the root manifest.
    pub(crate) root: PathBuf,
    /// Whether a CI system started us (`CI` is set and not empty, `0` or `false`).
    pub(crate) ci: bool,
}

impl Workspace {
    /// Finds the checkout from the manifest that cargo is running, and reads the environment once.
    pub(crate) fn discover() -> Result<Workspace> {
        let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir
            .ancestors()
            .nth(2)
            .context("xtask expects to live two folders below the root manifest")?
            .to_path_buf();
        let ci = std::env::var("CI").is_ok_and(|value| is_set(&value));
        Ok(Workspace { root, ci })
    }

    /// A `cargo` command at the root, with the environment described at the top of this file.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.args(args).current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if OUTER_PACKAGE_VARIABLES.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&*name);
            }
        }
        for (name, value) in compiler_cache() {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        if self.ci && std::env::var_os("CARGO_INCREMENTAL").is_none() {
            // A build that is used once pays for incremental state in time and disk, and never gets
            // it back.
            command.env("CARGO_INCREMENTAL", "0");
        }
        command
    }

    /// What `cargo metadata` says about our own packages, without resolving any other.
    pub(crate) fn metadata(&self) -> Result<Value> {
        let output = self
            .cargo(&["metadata", "--no-deps", "--format-version", "1"])
            .stderr(std::process::Stdio::inherit())
            .output()
            .context("start cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", output.status);
        }
        serde_json::from_slice(&output.stdout).context("read the answer of cargo metadata")
    }

    /// Where the binary `keelson` of a profile's folder (`debug` or `release`) is built.
    pub(crate) fn keelson_binary(&self, profile_folder: &str) -> Result<PathBuf> {
        let metadata = self.metadata()?;
        let target = metadata["target_directory"].as_str().context("no target_directory")?;
        let name = format!("keelson{}", std::env::consts::EXE_SUFFIX);
        Ok(Path::new(target).join(profile_folder).join(name))
    }
}

/// Compiler variables that route C and C++ through ccache, or nothing where there is no ccache.
pub(crate) fn compiler_cache() -> Vec<(&'static str, &'static str)> {
    let mut variables = Vec::new();
    if find_program("ccache").is_some() {
        for (name, compiler, value) in [("CC", "gcc", "ccache gcc"), ("CXX", "g++", "ccache g++")] {
            if find_program(compiler).is_some() {
                variables.push((name, value));
            }
        }
    }
    variables
}

/// The first file called `name` on the search path.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Prints the command, runs it with our own input and output, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    println!("+ {shown}");
    let status = command.status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("'{shown}' failed: {status}");
    }
    Ok(())
}

/// How long `work` takes, in whole seconds, with its result.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed().as_secs())
}

/// The command as a person would type it, without the folder of the program.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or_default().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Whether a switch in the environment is on.
fn is_set(value: &str) -> bool {
    !matches!(value, "" | "0" | "false")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_is_on_unless_empty_zero_or_false() {
        let read: Vec<bool> = ["true", "1", "yes", "", "0", "false"].map(is_set).to_vec();
        assert_eq!(read, [true, true, true, false, false, false]);
    }

    #[test]
    fn child_cargo_does_not_inherit_the_package_of_xtask() {
        let workspace = Workspace { root: PathBuf::from("."), ci: true };
        let command = workspace.cargo(&["build"]);
        let removed: Vec<_> =
            command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert!(removed.iter().any(|name| *name == "CARGO_PKG_NAME"), "removed: {removed:?}");
        assert_eq!(shown(&command), "cargo build");
    }

    #[test]
    fn failed_command_is_an_error_that_names_it() {
        let error = run(Command::new("false").arg("x")).unwrap_err();
        assert!(error.to_string().starts_with("'false x' failed"), "{error}");
    }
}

//! `cargo xtask demo`, `chaos` and `profile`: set up, build `keelson`, and run a program of the
//! test kit with it.
//!
//! The scenarios themselves are the programs `keelson-demo`, `keelson-chaos` and `keelson-profile`
//! of the crate `keelson-testkit`; here are only the build profile and the hand-over. Every
//! argument but `--profile` goes to that program. `chaos --docker` goes to
//! [`crate::compose::chaos`].

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::compose;
use crate::setup::{self, Trigger};
use crate::workspace::{Workspace, run as run_command};

/// The build profiles that the demonstration may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    Dev,
    Release,
}

impl Profile {
    /// The folder below the target directory.
    fn folder(self) -> &'static str {
        match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Release => "release",
        }
    }
}

/// Runs the demonstration.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    run_program(workspace, "keelson-demo", args)
}

/// Measures what requests cost.
pub(crate) fn profile(workspace: &Workspace, args: &[String]) -> Result<()> {
    run_program(workspace, "keelson-profile", args)
}

/// Runs faults on processes of this machine, or with `--docker` on containers.
pub(crate) fn chaos(workspace: &Workspace, args: &[String]) -> Result<()> {
    let (docker, rest): (Vec<_>, Vec<_>) = args.iter().cloned().partition(|arg| arg == "--docker");
    if docker.is_empty() {
        return run_program(workspace, "keelson-chaos", args);
    }
    let (profile, rest) = parse(&rest)?;
    compose::chaos::run(workspace, profile.name(), &rest)
}

fn run_program(workspace: &Workspace, program: &str, args: &[String]) -> Result<()> {
    let (profile, rest) = parse(args)?;
    if let Some(ready) = ready(program) {
        return run_command(Command::new(ready).args(&rest));
    }
    setup::run(workspace, Trigger::OnTheWay)?;
    run_command(&mut workspace.cargo(&["build", "--profile", profile.name(), "-p", "keelson-cli"]))
        .context("build the binary keelson")?;
    let binary = workspace.keelson_binary(profile.folder())?;
    let mut command = workspace.cargo(&["run", "--quiet", "--profile", profile.name()]);
    command.args(["-p", "keelson-testkit", "--bin", program, "--"]).args(&rest);
    run_command(command.env("KEELSON_BIN", &binary))
}

/// A program of the test kit beside the one that `KEELSON_BIN` names: then nothing is built.
pub(crate) fn ready(program: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(std::env::var_os("KEELSON_BIN")?).with_file_name(program);
    beside.is_file().then_some(beside)
}

/// Takes `--profile NAME` out of the arguments, wherever it stands; release without it.
fn parse(args: &[String]) -> Result<(Profile, Vec<String>)> {
    let mut profile = Profile::Release;
    let mut rest = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = match arg.strip_prefix("--profile") {
            Some("") => Some(args.next().context("--profile needs 'dev' or 'release'")?.as_str()),
            Some(value) => value.strip_prefix('='),
            None => None,
        };
        match name {
            Some("dev") => profile = Profile::Dev,
            Some("release") => profile = Profile::Release,
            Some(other) => bail!("no profile '{other}': 'dev' or 'release'"),
            None => rest.push(arg.clone()),
        }
    }
    Ok((profile, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<(Profile, Vec<String>)> {
        parse(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn profile_is_taken_out_and_the_rest_passed_on() {
        let (profile, rest) = parsed(&["--seed", "7", "--profile", "dev", "--fast"]).unwrap();
        assert_eq!((profile, rest.join(" ")), (Profile::Dev, "--seed 7 --fast".to_string()));
        assert_eq!(parsed(&["--profile=dev"]).unwrap().0, Profile::Dev);
        assert_eq!(parsed(&[]).unwrap(), (Profile::Release, Vec::new()));
    }

    #[test]
    fn unknown_or_missing_profile_is_refused() {
        assert!(parsed(&["--profile", "quick"]).is_err());
        assert!(parsed(&["--profile"]).is_err());
    }
}

//! `cargo xtask peers`: set up, install the peers from the distribution's packages, build `keelson`
//! and the load generator for release, and measure all of them in one run.
//!
//! The measurement is the program `keelson-peers` of the package in `benches/peers`, which gets
//! every argument; here are only packages and builds.

use std::path::Path;

use anyhow::{Context, Result};

use crate::setup::{self, Trigger};
use crate::workspace::{Workspace, find_program, run as run_command};

/// A peer, and what brings it.
struct Peer {
    /// As `--only` has it.
    name: &'static str,
    debian_package: &'static str,
    present: fn() -> bool,
}

const PEERS: &[Peer] = &[
    Peer { name: "postgres", debian_package: "postgresql", present: has_postgres },
    Peer { name: "etcd", debian_package: "etcd-server", present: || has("etcd") },
    Peer { name: "redis", debian_package: "redis-server", present: || has("redis-server") },
];

/// Measures Keelson and its peers.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    if !args.iter().any(|arg| arg == "--help" || arg == "-h") {
        setup::run(workspace, Trigger::OnTheWay)?;
        let asked = asked(args);
        let missing = PEERS.iter().filter(|peer| asked(peer.name) && !(peer.present)());
        let packages: Vec<&str> = missing.map(|peer| peer.debian_package).collect();
        setup::install_besides(workspace, &packages)?;
        let build = ["build", "--release", "-p", "keelson-cli"];
        run_command(&mut workspace.cargo(&build)).context("build the binary keelson")?;
    }
    let binary = workspace.keelson_binary("release")?;
    let mut command =
        workspace.cargo(&["run", "--quiet", "--release", "-p", "keelson-peers", "--"]);
    run_command(command.args(args).env("KEELSON_BIN", &binary))
}

/// Whether a peer is to be measured: all of them, unless `--only` names some.
fn asked(args: &[String]) -> impl Fn(&str) -> bool {
    let mut names: Vec<String> = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = match arg.strip_prefix("--only") {
            Some("") => args.next().map(String::as_str),
            Some(value) => value.strip_prefix('='),
            None => None,
        };
        names.extend(value.into_iter().flat_map(|value| value.split(',')).map(str::to_string));
    }
    move |name| names.is_empty() || names.iter().any(|other| other == name)
}

fn has(program: &str) -> bool {
    find_program(program).is_some() || Path::new("/usr/sbin").join(program).is_file()
}

/// The distribution keeps the server's programs off the search path.
fn has_postgres() -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|version| version.path()).any(|path| path.join("bin/initdb").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> Vec<&'static str> {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        let asked = asked(&words);
        PEERS.iter().map(|peer| peer.name).filter(|name| asked(name)).collect()
    }

    #[test]
    fn only_what_is_measured_is_installed() {
        assert_eq!(names(&["--quick"]), ["postgres", "etcd", "redis"]);
        assert_eq!(names(&["--only", "keelson,redis", "--quick"]), ["redis"]);
        assert_eq!(names(&["--only=etcd", "--only", "postgres"]), ["postgres", "etcd"]);
        assert_eq!(names(&["--only", "keelson"]), Vec::<&str>::new());
    }
}

//! Where PostgreSQL's programs and data are, and as whom they run.
//!
//! It refuses to run as root, so where we are root its programs run as the user `postgres`, which
//! the distribution's package makes.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};

use crate::place::Place;
use crate::process::{Server, last_lines, says, succeed};

/// Where the distribution puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The version that is taken if it is there.
const VERSION: u32 = 15;
/// The superuser of the system's package, as whom the programs run if we are root.
const SYSTEM_USER: &str = "postgres";

/// Settings of every node, besides its port and whom it follows.
const SETTINGS: [&str; 11] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=on",
    "synchronous_commit=on",
    "synchronous_standby_names=FIRST 1 (n1, n2, n3)",
    "max_connections=200",
    "shared_buffers=512MB",
    "max_wal_size=4GB",
    "wal_keep_size=2GB",
    "wal_retrieve_retry_interval=100ms",
    // In the data directory, so that a kill leaves nothing elsewhere.
    "dynamic_shared_memory_type=mmap",
];

pub(super) struct Host {
    programs: PathBuf,
    directory: PathBuf,
    owner: Option<(u32, u32)>,
}

impl Host {
    pub(super) fn prepare(place: &Place) -> Result<Self> {
        let programs = programs(Path::new(VERSIONS))?;
        let owner = match Uid::effective().is_root() {
            false => None,
            true => {
                let user = User::from_name(SYSTEM_USER)?;
                let user = user.context("there is no user postgres, as whom root runs it")?;
                Some((user.uid.as_raw(), user.gid.as_raw()))
            }
        };
        let host = Self { programs, directory: place.fresh("postgres")?, owner };
        host.own(&host.directory)?;
        Ok(host)
    }

    pub(super) fn version(&self) -> Result<String> {
        says(&self.programs.join("postgres"), "--version")
    }

    /// Runs a program, with the data directories as relative names.
    pub(super) fn succeed(&self, program: &str, arguments: &[&str]) -> Result<()> {
        succeed(self.command(program, arguments), &self.log(program))
    }

    /// Starts a node; whom it follows matters only while it is a standby.
    pub(super) fn serve(&self, name: &str, port: u16, follows: &str) -> Result<Server> {
        let (port, follows) = (format!("port={port}"), format!("primary_conninfo={follows}"));
        let mut command = self.command("postgres", &["-D", name]);
        for setting in SETTINGS.into_iter().chain([&*port, &*follows]) {
            command.args(["-c", setting]);
        }
        // An immediate shutdown: no more than a kill does, but its children go, too.
        Server::start(command, &self.log(name), Signal::SIGQUIT)
    }

    /// Makes a standby of a node that does not run.
    pub(super) fn make_standby(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name).join("standby.signal");
        std::fs::write(&path, "").with_context(|| format!("write {}", path.display()))?;
        self.own(&path)
    }

    /// Removes what a kill of a node leaves in the kernel.
    pub(super) fn remove_shared_memory(&self, name: &str) -> Result<()> {
        let lock = std::fs::read_to_string(self.directory.join(name).join("postmaster.pid"))?;
        let id = shared_memory(&lock).context("the node's lock file names no shared memory")?;
        let mut command = Command::new("ipcrm");
        command.args(["-m", id]);
        succeed(command, &self.log("ipcrm"))
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.directory.join(name);
        std::fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))
    }

    pub(super) fn size_of(&self, name: &str) -> Result<u64> {
        size_of(&self.directory.join(name))
    }

    /// The end of a node's log.
    pub(super) fn last_lines(&self, name: &str) -> String {
        last_lines(&self.log(name))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    fn own(&self, path: &Path) -> Result<()> {
        if let Some((user, group)) = self.owner {
            chown(path, Some(user), Some(group))
                .with_context(|| format!("give {} to {SYSTEM_USER}", path.display()))?;
        }
        Ok(())
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments).current_dir(&self.directory).env("LC_ALL", "C");
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }
}

/// The programs of version 15 below `versions`, or else of the newest one.
fn programs(versions: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(versions).into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let found = entries.map(|entry| entry.path()).filter(|path| path.join("bin/initdb").is_file());
    let best = found.max_by_key(|path| (version(path) == Some(VERSION), version(path)));
    let best = best.context("there is no PostgreSQL server; package postgresql brings it")?;
    Ok(best.join("bin"))
}

/// The segment's number in a `postmaster.pid`: the second word of the seventh line.
fn shared_memory(lock: &str) -> Option<&str> {
    lock.lines().nth(6)?.split_whitespace().nth(1)
}

fn size_of(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
        bytes += match kind?.is_dir() {
            true => size_of(&path)?,
            false => path.metadata()?.len(),
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_15_is_taken_or_else_the_newest_with_a_server() {
        let directory = tempfile::tempdir().unwrap();
        let add = |version: &str, program: &str| {
            let bin = directory.path().join(version).join("bin");
            std::fs::create_dir_all(&bin).unwrap();
            std::fs::write(bin.join(program), "").unwrap();
        };
        let taken = || programs(directory.path()).unwrap();
        assert!(programs(directory.path()).is_err());
        add("9", "initdb");
        add("16", "initdb");
        add("17", "psql");
        assert_eq!(taken(), directory.path().join("16/bin"));
        add("15", "initdb");
        assert_eq!(taken(), directory.path().join("15/bin"));
        assert_eq!(size_of(directory.path()).unwrap(), 0);
    }

    #[test]
    fn shared_memory_is_found_in_the_lock_file() {
        let lock = "41\n/data\n1700000000\n5432\n\n127.0.0.1\n  5243082   98321\nready   \n";
        assert_eq!(shared_memory(lock), Some("98321"));
        assert_eq!(shared_memory("41\n/data\n"), None);
    }
}

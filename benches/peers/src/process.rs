//! Servers as child processes, and the commands that prepare them.
//!
//! Each server leads a process group of its own, so that the terminal's Ctrl-C reaches only us.
//! Dropping one ends it: asked first, if it has children that must notice, then killed.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long a server that is asked to end may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// What ends it at once and everything that it started.
    end: Signal,
}

impl Server {
    /// Starts `command` with its output in the file `log`; `end` is what ends it at once.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(mut command: Command, log: &Path, end: Signal) -> Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, end })
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it, and returns once it is gone.
    pub(crate) fn kill(&mut self) {
        if self.stop(self.end, PATIENCE).is_err() {
            let _ = killpg(self.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }

    /// Asks it with `signal` to end, and returns once it is gone.
    ///
    /// # Errors
    /// It still runs after `patience`.
    pub(crate) fn stop(&mut self, signal: Signal, patience: Duration) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        // Nothing to do if it is gone already.
        let _ = kill(self.pid(), signal);
        let deadline = Instant::now() + patience;
        while self.is_running() {
            ensure!(Instant::now() < deadline, "it still runs after {patience:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Kills it and its children with SIGKILL, also those that left its process group.
    pub(crate) fn kill_with_children(&mut self) {
        let children = children(self.pid());
        // The parent first, which would start new ones.
        for pid in std::iter::once(self.pid()).chain(children) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("the kernel's numbers fit"))
    }
}

/// Processes whose parent is `parent`.
fn children(parent: Pid) -> Vec<Pid> {
    let is_child = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The program's name stands in brackets and may hold anything, brackets too.
        let (_, rest) = stat.rsplit_once(')')?;
        let its_parent: i32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        (its_parent == parent.as_raw()).then(|| Pid::from_raw(pid))
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(is_child).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command that must succeed; its output goes to the file `log`.
///
/// # Errors
/// It failed; the error ends with the last lines of its output.
pub(crate) fn succeed(mut command: Command, log: &Path) -> Result<()> {
    let out = File::create(log)?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}: {}", last_lines(log));
    }
    Ok(())
}

/// What a program prints about itself, in one line.
///
/// # Errors
/// It cannot be started.
pub(crate) fn says(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The last lines of a log, for an error.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The first program called `name` on the search path, or where servers lie besides.
///
/// # Errors
/// There is none; the error says which package brings it.
pub(crate) fn find_program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/bin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.with_context(|| format!("there is no program {name}; package {package} brings it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_testkit::eventually;
    use nix::unistd::getpgid;

    #[test]
    fn a_server_ends_and_a_command_that_fails_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut command = Command::new("cat");
        command.arg("/dev/zero");
        let mut server = Server::start(command, Path::new("/dev/null"), Signal::SIGKILL).unwrap();
        assert!(server.is_running());
        server.kill();
        assert!(!server.is_running());
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = succeed(command, &log).unwrap_err().to_string();
        assert!(error.ends_with("exit status: 3: one\ntwo"), "{error}");
    }

    #[tokio::test]
    async fn children_in_sessions_of_their_own_are_killed_with_their_parent() {
        let mut command = Command::new("sh");
        command.args(["-c", "setsid sleep 600 & wait"]);
        let mut server = Server::start(command, Path::new("/dev/null"), Signal::SIGKILL).unwrap();
        let child = eventually("it has a child in another group", || async {
            let child = *children(server.pid()).first().context("none")?;
            ensure!(getpgid(Some(child))? == child, "not yet");
            Ok(child)
        });
        let child = child.await.unwrap();
        server.kill_with_children();
        assert!(!server.is_running());
        eventually("the child is gone", || async {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            ensure!(stat.is_empty() || stat.contains(") Z "), "{stat}");
            Ok(())
        })
        .await
        .unwrap();
    }

    #[test]
    fn a_server_that_does_not_listen_to_a_signal_still_runs() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut server = Server::start(command, Path::new("/dev/null"), Signal::SIGKILL).unwrap();
        assert!(server.stop(Signal::SIGCONT, Duration::from_millis(20)).is_err());
        assert!(server.is_running());
        server.stop(Signal::SIGTERM, PATIENCE).unwrap();
        assert!(!server.is_running());
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        assert!(find_program("sh", "dash").is_ok());
        let error = find_program("no-such-server", "a-package").unwrap_err().to_string();
        assert!(error.contains("no-such-server") && error.contains("a-package"), "{error}");
    }
}

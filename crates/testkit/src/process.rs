//! One member as processes: started, killed, paused, continued.
//!
//! The control process leads a process group of its own, so that signals reach nobody else. Its
//! data process dies with it; to be sure, both are killed by name of their pid files when a member
//! goes.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long a member may take to stop when asked politely.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A member and its two processes.
#[derive(Debug)]
pub struct MemberProcess {
    binary: PathBuf,
    name: String,
    directory: PathBuf,
    environment: Vec<(String, String)>,
    /// `server` or `witness`.
    kind: &'static str,
    child: Option<Child>,
}

impl MemberProcess {
    /// A member whose files lie in `directory`; not started.
    #[must_use]
    pub fn new(binary: &Path, name: &str, directory: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            name: name.to_owned(),
            directory: directory.to_owned(),
            environment: Vec::new(),
            kind: "server",
            child: None,
        }
    }

    /// The same as a witness, without a data process.
    #[must_use]
    pub const fn as_witness(mut self) -> Self {
        self.kind = "witness";
        self
    }

    /// The same with variables in its environment.
    #[must_use]
    pub fn with_environment(mut self, environment: &[(String, String)]) -> Self {
        self.environment = environment.to_vec();
        self
    }

    /// The member's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The program that the next start runs.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Runs another program from the next start on.
    pub fn set_binary(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
    }

    /// Where its files are: `keelson.toml`, `keelson.log`, `data`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its log, with what it printed before logging began.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("keelson.log")
    }

    /// Starts the member.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.name);
        }
        let errors = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.binary);
        command
            .args([self.kind, "--config"])
            .arg(self.directory.join("keelson.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .process_group(0);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// Whether the control process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Kills both processes at once, as a power cut would, and waits until they are gone.
    ///
    /// # Errors
    /// The process cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        let data = self.data_pid();
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // Nothing to do if they are gone already.
        let _ = killpg(pid_of(&child)?, Signal::SIGKILL);
        if let Some(data) = data {
            let _ = kill(data, Signal::SIGKILL);
        }
        child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// Asks the member to stop, and waits until it has.
    ///
    /// # Errors
    /// It does not stop in time, or ends with an error.
    pub fn stop(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let pid = pid_of(child)?;
        // Nothing to do if it is gone already.
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + STOP_PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                if status.success() {
                    return Ok(());
                }
                bail!("{} ended with {status}", self.name);
            }
            if Instant::now() >= deadline {
                self.kill()?;
                bail!("{} did not stop within {STOP_PATIENCE:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the data process alone.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_data_process(&self) -> Result<()> {
        let pid = self.data_pid().with_context(|| format!("{} has no data process", self.name))?;
        kill(pid, Signal::SIGKILL)
            .with_context(|| format!("cannot kill data process of {}", self.name))
    }

    /// Stops both processes in their tracks, as a hung machine; they keep their connections.
    ///
    /// # Errors
    /// The member does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal_all(Signal::SIGSTOP)
    }

    /// Stops the control process alone; its data process goes on.
    ///
    /// # Errors
    /// The member does not run.
    pub fn pause_control_process(&self) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        Ok(kill(pid_of(child)?, Signal::SIGSTOP)?)
    }

    /// Lets a paused member go on.
    ///
    /// # Errors
    /// The member does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal_all(Signal::SIGCONT)
    }

    /// Process id of the control process.
    #[must_use]
    pub fn control_pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Process id of the running data process, as its pid file has it. A number that belongs to
    /// another program by now does not count.
    #[must_use]
    pub fn data_pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.directory.join("data.pid")).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = command.split(|byte| *byte == 0).any(|argument| argument == b"data-process");
        ours.then(|| Pid::from_raw(pid))
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        kill(pid_of(child)?, signal)?;
        if let Some(data) = self.data_pid() {
            kill(data, signal)?;
        }
        Ok(())
    }
}

impl Drop for MemberProcess {
    fn drop(&mut self) {
        // There is nobody to tell; the group gets the signal in any case.
        let _ = self.kill();
    }
}

fn pid_of(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id()).context("the process id is too large")?))
}

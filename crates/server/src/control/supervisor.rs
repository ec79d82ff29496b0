//! The parent of the data process: starts it, waits for its end, starts it again.
//!
//! [`supervise`] runs on the main thread, because the parent-death signal of a child fires when the
//! *thread* that made it ends (review S9.4). It draws the incarnation of every life and announces
//! its end only after reaping it: that announcement is what a death certificate rests on. The
//! child's standard input is its end of the link.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use keelson_types::IncarnationId;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::files::PidFile;

/// First pause between an end and the next start; the very first restart has none.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A life this long clears the count of failures.
const LONG_LIFE: Duration = Duration::from_secs(30);

/// How the data process is started.
#[derive(Clone, Debug)]
pub(super) struct ChildSpec {
    /// Arguments before those that change with every life.
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// Where its pid file goes.
    pub(super) pid_file: PathBuf,
}

/// What happens to the child.
#[derive(Debug)]
pub(super) enum LifeEvent {
    /// It runs; this is our end of the link.
    Started { incarnation: IncarnationId, pid: u32, link: UnixStream },
    /// It was reaped: it can do nothing any more.
    Reaped { incarnation: IncarnationId, status: ExitStatus },
}

#[derive(Debug, Default)]
struct State {
    started: bool,
    stopping: bool,
    /// Set while there is a child that is not reaped, so that a signal never meets a foreign
    /// process.
    pid: Option<Pid>,
}

/// Steers the supervision from other threads.
#[derive(Clone, Debug, Default)]
pub(super) struct Steering {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Steering {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the first life begin.
    pub(super) fn start(&self) {
        self.lock().started = true;
        self.shared.1.notify_all();
    }

    /// No further life begins; the present one goes on until it ends or is killed.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.shared.1.notify_all();
    }

    /// Kills the present life, if there is one.
    pub(super) fn kill(&self) {
        if let Some(pid) = self.lock().pid {
            // It may have ended by itself; then it is a zombie until it is reaped, and this does
            // nothing.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Waits until the first life may begin; false if supervision stops before.
    fn wait_for_start(&self) -> bool {
        let mut state = self.lock();
        while !state.started && !state.stopping {
            state = self.shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopping
    }

    /// Waits until supervision stops, for a control process without a child.
    pub(super) fn wait_for_stop(&self) {
        let mut state = self.lock();
        while !state.stopping {
            state = self.shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Pauses; false if supervision stops meanwhile.
    fn pause(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        let mut state = self.lock();
        while !state.stopping {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.1.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !state.stopping
    }
}

/// Runs until [`Steering::stop`] was called and the last life has ended. Call it on the main
/// thread.
pub(super) fn supervise(spec: &ChildSpec, steering: &Steering, events: &mpsc::Sender<LifeEvent>) {
    if !steering.wait_for_start() {
        return;
    }
    let mut failures = 0;
    loop {
        let began = Instant::now();
        match one_life(spec, steering, events) {
            Ok(status) if status.success() => tracing::info!("data process ended"),
            Ok(status) => tracing::error!(%status, "data process died"),
            Err(error) => tracing::error!(%error, "data process cannot be started"),
        }
        if began.elapsed() >= LONG_LIFE {
            failures = 0;
        }
        if !steering.pause(pause(failures)) {
            return;
        }
        failures += 1;
    }
}

/// The pause before the start that follows the (n+1)th short life in a row.
fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => PAUSE_MIN.saturating_mul(1 << (n - 1).min(8)).min(PAUSE_MAX),
    }
}

fn one_life(
    spec: &ChildSpec,
    steering: &Steering,
    events: &mpsc::Sender<LifeEvent>,
) -> io::Result<ExitStatus> {
    let incarnation = IncarnationId::new(Uuid::new_v4());
    let (mut child, link) = spawn(spec, incarnation, steering)?;
    let pid = child.id();
    tracing::info!(%incarnation, pid, "data process started");
    let _pid_file = PidFile::write(spec.pid_file.clone(), pid);
    // An error says that the control plane has ended; it stops supervision, too.
    let _ = events.blocking_send(LifeEvent::Started { incarnation, pid, link });
    let status = reap(&mut child, steering)?;
    let _ = events.blocking_send(LifeEvent::Reaped { incarnation, status });
    Ok(status)
}

fn spawn(
    spec: &ChildSpec,
    incarnation: IncarnationId,
    steering: &Steering,
) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut state = steering.lock();
    if state.stopping {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "the member is stopping"));
    }
    let child = Command::new(&spec.program)
        .arg0("keelson")
        .args(&spec.arguments)
        .args(["--incarnation", &incarnation.to_string()])
        .args(["--parent", &std::process::id().to_string()])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()?;
    state.pid = i32::try_from(child.id()).ok().map(Pid::from_raw);
    Ok((child, ours))
}

/// Waits for the end without reaping, forgets the pid, then reaps.
fn reap(child: &mut Child, steering: &Steering) -> io::Result<ExitStatus> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while let Err(error) = waitid(Id::Pid(Pid::from_raw(pid)), flags) {
        if error != nix::Error::EINTR {
            return Err(error.into());
        }
    }
    steering.lock().pid = None;
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn spec(dir: &tempfile::TempDir, script: &str) -> ChildSpec {
        ChildSpec {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into(), "sh".into()],
            pid_file: dir.path().join("data.pid"),
        }
    }

    /// Supervises `script` on a thread of its own.
    fn run(
        script: &str,
        dir: &tempfile::TempDir,
    ) -> (Steering, mpsc::Receiver<LifeEvent>, std::thread::JoinHandle<()>) {
        let (sender, events) = mpsc::channel(64);
        let (spec, steering) = (spec(dir, script), Steering::default());
        let steer = steering.clone();
        let thread = std::thread::spawn(move || supervise(&spec, &steer, &sender));
        (steering, events, thread)
    }

    #[test]
    fn a_dead_child_is_reaped_announced_and_started_again_with_a_new_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let (steering, mut events, thread) = run("exit 3", &dir);
        steering.start();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let Some(LifeEvent::Started { incarnation, .. }) = events.blocking_recv() else {
                panic!("a life begins")
            };
            let Some(LifeEvent::Reaped { incarnation: reaped, status }) = events.blocking_recv()
            else {
                panic!("a life ends")
            };
            assert_eq!((reaped, status.code()), (incarnation, Some(3)));
            seen.push(incarnation);
        }
        assert_ne!(seen[0], seen[1]);
        steering.stop();
        drop(events);
        thread.join().unwrap();
        assert!(!dir.path().join("data.pid").exists());
    }

    #[test]
    fn the_child_has_the_link_as_standard_input_and_a_pid_file() {
        let dir = tempfile::tempdir().unwrap();
        let (steering, mut events, thread) = run("echo hello >&0; cat", &dir);
        steering.start();
        let Some(LifeEvent::Started { mut link, pid, .. }) = events.blocking_recv() else {
            panic!("a life begins")
        };
        link.set_nonblocking(false).unwrap();
        let mut hello = [0; 6];
        link.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello\n");
        assert_eq!(crate::files::read_pid(&dir.path().join("data.pid")), Some(pid));
        steering.stop();
        steering.kill();
        thread.join().unwrap();
        assert!(matches!(events.blocking_recv(), Some(LifeEvent::Reaped { .. })));
    }

    #[test]
    fn supervision_that_stops_before_it_starts_starts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (steering, mut events, thread) = run("exit 0", &dir);
        steering.stop();
        thread.join().unwrap();
        assert!(events.blocking_recv().is_none());
    }

    #[test]
    fn the_first_restart_is_immediate_and_later_ones_wait_longer_up_to_a_bound() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(1), PAUSE_MIN);
        assert_eq!(pause(2), PAUSE_MIN * 2);
        assert_eq!(pause(99), PAUSE_MAX);
    }
}

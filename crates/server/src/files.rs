//! Small files of a member: durable replacement, pid files, and the locks that keep a second
//! process out.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keelson_types::RefusalReason;
use nix::fcntl::{Flock, FlockArg};

use crate::Problem;

/// Pause between two attempts to get a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Replaces a file so that a crash leaves the old content or the new one, never a part.
///
/// # Errors
/// Any failure of the file system; the old content stays.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// A file with the number of a running process, removed when dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    pid: u32,
}

impl PidFile {
    /// Writes the file. A failure is logged: nothing but people depends on it.
    pub(crate) fn write(path: PathBuf, pid: u32) -> Self {
        if let Err(error) = replace(&path, format!("{pid}\n").as_bytes()) {
            tracing::warn!(path = %path.display(), %error, "pid file not written");
        }
        Self { path, pid }
    }
}

impl Drop for PidFile {
    /// Removes the file unless it names another process by now.
    fn drop(&mut self) {
        if read_pid(&self.path) == Some(self.pid) {
            // What cannot be removed is replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The number in a pid file.
pub(crate) fn read_pid(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// An exclusive lock on a file, held until dropped or until the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock, waiting at most `patience` for a holder that is about to end.
    ///
    /// # Errors
    /// `second_holder`, or the file cannot be made.
    pub(crate) fn take(path: &Path, patience: Duration) -> Result<Self, Problem> {
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let mut file = opened.map_err(|error| unusable(path, &error))?;
        let deadline = Instant::now() + patience;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(Self { _file: locked }),
                Err((_, error)) if error != nix::Error::EWOULDBLOCK => {
                    return Err(unusable(path, &error.into()));
                }
                Err(_) if Instant::now() >= deadline => {
                    let message = format!("another process holds {}", path.display());
                    return Err(Problem::of(RefusalReason::SecondHolder, message));
                }
                Err((returned, _)) => file = returned,
            }
            std::thread::sleep(LOCK_PAUSE);
        }
    }
}

fn unusable(path: &Path, error: &io::Error) -> Problem {
    let message = format!("{} cannot be used: {error}", path.display());
    Problem::new("directory_unusable", message, "check path, owner and rights of the directory")
}

/// Makes a directory with its parents.
///
/// # Errors
/// `directory_unusable`.
pub(crate) fn make_directory(path: &Path) -> Result<(), Problem> {
    std::fs::create_dir_all(path).map_err(|error| unusable(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_keeps_a_second_holder_out_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::take(&path, Duration::ZERO).unwrap();
        let refused = Lock::take(&path, Duration::from_millis(30)).unwrap_err();
        assert_eq!(refused.code, "second_holder");
        drop(held);
        assert!(Lock::take(&path, Duration::ZERO).is_ok());
    }

    #[test]
    fn a_pid_file_is_removed_by_its_own_process_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.pid");
        drop(PidFile::write(path.clone(), 7));
        assert!(!path.exists());
        let old = PidFile::write(path.clone(), 7);
        let new = PidFile::write(path.clone(), 8);
        drop(old);
        assert_eq!(read_pid(&path), Some(8));
        drop(new);
        assert_eq!(read_pid(&path), None);
    }
}

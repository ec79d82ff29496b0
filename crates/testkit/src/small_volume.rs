//! A volume of its own size: an ext4 file system in a file, mounted on a directory. When it is full
//! it is full for everybody, with `ENOSPC` from the kernel, and its syncs reach the disk.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::posix_fallocate;

/// The file that fills a volume.
const BALLAST: &str = "ballast";
/// The most that is taken in one step; halved until nothing is left.
const STEP_BYTES: i64 = 1 << 30;

/// A mounted volume; unmounted when dropped.
#[derive(Debug)]
pub struct SmallVolume {
    path: PathBuf,
}

impl SmallVolume {
    /// Makes a volume of `bytes` in the file `image`, which takes no space before it is used, and
    /// mounts it on `path`.
    ///
    /// # Errors
    /// This machine lets us make or mount no file system, as without root's rights.
    pub fn mount(image: &Path, path: &Path, bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(path)?;
        File::create_new(image)?.set_len(bytes)?;
        // Nothing is kept back for root, nothing is written before it is needed.
        let lean = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
        run(Command::new("mkfs.ext4").args(lean).arg(image))?;
        run(Command::new("mount").args(["-o", "loop"]).args([image, path]))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all the space that is left.
    ///
    /// # Errors
    /// Anything but that there is no more.
    pub fn fill(&self) -> Result<()> {
        fill(&self.path)
    }

    /// Gives the space back.
    ///
    /// # Errors
    /// The volume was not filled.
    pub fn empty(&self) -> Result<()> {
        empty(&self.path)
    }

    /// Leaves it mounted: whoever asked for it unmounts it.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

/// Takes all the space that is left where a volume is mounted.
pub(crate) fn fill(volume: &Path) -> Result<()> {
    let file = File::create(volume.join(BALLAST))?;
    let (mut end, mut step) = (0, STEP_BYTES);
    while step > 0 {
        match posix_fallocate(&file, end, step) {
            Ok(()) => end += step,
            Err(Errno::ENOSPC) => step /= 2,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(io::Error::from(error)).context("filling a volume"),
        }
    }
    Ok(())
}

/// Gives the space back.
pub(crate) fn empty(volume: &Path) -> Result<()> {
    std::fs::remove_file(volume.join(BALLAST)).context("cannot remove the ballast")
}

impl Drop for SmallVolume {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still hold a file.
        let _ = run(Command::new("umount").arg("-l").arg(&self.path));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

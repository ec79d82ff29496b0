//! The test of a volume: is it there, and can it be written, synced and read?
//!
//! It runs on a thread of its own, for a disk that hangs takes the thread along. Whoever asks waits
//! for a while and then takes it for failed; no second test of a volume begins while one hangs.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keelson_env::{Disk, DiskError, DiskErrorKind};
use keelson_types::MemberId;
use nix::errno::Errno;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::book::{self, Found};

/// A volume that does not answer for so long has failed the test.
const DEADLINE: Duration = Duration::from_secs(10);
const FILE: &str = "keelson-probe";
/// Two pages: more than what a disk keeps beside a file's name.
const BYTES: usize = 8 * 1024;

/// What a test found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Probed {
    Well,
    /// Another thing, or nothing, is mounted there.
    Absent(String),
    /// It does not work.
    Broken(String),
    /// It is there and full: nobody knows whether it could be written.
    Full,
    /// The test failed for a reason that says nothing of the disk: it is to be made again.
    Unknown(String),
}

/// A volume that is to be tested.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) root: PathBuf,
    pub(super) member: MemberId,
    pub(super) volume: Uuid,
}

impl Probe {
    /// Tests it, within time. The flag is held for as long as the test takes, however long.
    pub(super) async fn run(self, held: Held) -> Probed {
        let (reply, done) = oneshot::channel();
        let started = std::thread::Builder::new().name("volume-probe".into()).spawn(move || {
            let _held = held;
            // Nobody listens any more if it took too long.
            let _ = reply.send(self.look());
        });
        if let Err(error) = started {
            return Probed::Unknown(format!("no thread for its test: {error}"));
        }
        match tokio::time::timeout(DEADLINE, done).await {
            Ok(Ok(probed)) => probed,
            Ok(Err(_)) => Probed::Unknown("its test panicked; see the member's log".into()),
            Err(_) => Probed::Broken(format!("it does not answer within {DEADLINE:?}")),
        }
    }

    /// Whether the volume is the one that it should be.
    pub(super) fn is_there(&self) -> Probed {
        match book::look(&self.root, self.member) {
            Found::Ours(volume) if volume == self.volume => Probed::Well,
            Found::Ours(other) => {
                Probed::Absent(format!("volume {other} is mounted there, not {}", self.volume))
            }
            Found::Empty => Probed::Absent("it is empty: is the disk mounted?".into()),
            Found::Absent(why) => Probed::Absent(why),
            Found::Broken(why) => Probed::Broken(why),
            Found::Unknown(why) => Probed::Unknown(why),
        }
    }

    /// The whole test; blocks for as long as the disk does.
    pub(super) fn look(&self) -> Probed {
        match self.is_there() {
            Probed::Well => {}
            found => return found,
        }
        match write_and_read(&*self.disk, &self.root) {
            Ok(true) => Probed::Well,
            Ok(false) => Probed::Broken("it does not return what was written".into()),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &DiskError) -> Probed {
        let number = match &error.kind {
            // Whoever needs room says so himself.
            DiskErrorKind::NoSpace => return Probed::Full,
            DiskErrorKind::Denied if is_read_only(&self.root) => Some(Errno::EROFS as i32),
            DiskErrorKind::Io(text) => number_of(text),
            _ => Some(0),
        };
        match number {
            Some(number) if !book::is_of_disk(number) => Probed::Unknown(error.to_string()),
            _ => Probed::Broken(error.to_string()),
        }
    }
}

/// Whether the file system became read-only, as many do after an error: the port to files tells
/// that from missing rights no more.
fn is_read_only(root: &Path) -> bool {
    let tried = fs::File::create(root.join(FILE));
    tried.is_err_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem)
}

/// The number of an error that the operating system gave: the port to files keeps its text only.
/// Nothing if it comes from elsewhere, as a write that takes no bytes.
fn number_of(text: &str) -> Option<i32> {
    let (_, rest) = text.rsplit_once("(os error ")?;
    rest.strip_suffix(')')?.parse().ok()
}

/// Held by a test that runs.
pub(super) type Held = Arc<()>;

fn write_and_read(disk: &dyn Disk, root: &Path) -> Result<bool, DiskError> {
    let path = root.join(FILE);
    if disk.exists(&path)? {
        disk.remove(&path)?;
    }
    let written: Vec<u8> = Uuid::new_v4().into_bytes().into_iter().cycle().take(BYTES).collect();
    disk.create(&path)?.write_at(0, &written)?;
    let file = disk.open(&path)?;
    file.sync()?;
    file.drop_cache()?;
    let mut read = vec![0; BYTES];
    let bytes = file.read_at(0, &mut read)?;
    disk.remove(&path)?;
    disk.sync_dir(root)?;
    Ok(bytes == BYTES && read == written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_env::SimDisk;

    #[test]
    fn a_disk_that_works_or_is_full_passes_the_test() {
        let disk = SimDisk::new();
        let root = Path::new("/v");
        disk.create_dir_all(root).unwrap();
        assert_eq!(write_and_read(&disk, root), Ok(true));
        assert_eq!(write_and_read(&disk, root), Ok(true), "nothing is left");
        disk.set_quota(Some(0));
        assert!(write_and_read(&disk, root).unwrap_err().is_no_space());
    }

    /// A member that lacks files, memory or rights gives no disk up.
    #[test]
    fn only_errors_of_the_disk_break_it() {
        let place = tempfile::tempdir().unwrap();
        let (root, member) = (place.path().to_owned(), MemberId::from_u128(3));
        let probe = Probe { disk: Arc::new(SimDisk::new()), root, member, volume: Uuid::new_v4() };
        let verb = keelson_env::DiskVerb::Write;
        let failed = |kind| probe.failed(&DiskError::new(&probe.root, verb, kind));
        let of_system = |number: Errno| {
            let text = std::io::Error::from_raw_os_error(number as i32).to_string();
            failed(DiskErrorKind::Io(text))
        };
        for number in [Errno::EIO, Errno::ENODEV, Errno::ESTALE, Errno::EUCLEAN] {
            assert!(matches!(of_system(number), Probed::Broken(_)), "{number}");
        }
        for number in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EINTR] {
            assert!(matches!(of_system(number), Probed::Unknown(_)), "{number}");
        }
        assert!(matches!(failed(DiskErrorKind::Denied), Probed::Unknown(_)), "no rights");
        assert_eq!(failed(DiskErrorKind::NoSpace), Probed::Full);
        let own = failed(DiskErrorKind::Io("the write took no bytes".into()));
        assert!(matches!(own, Probed::Broken(_)));
    }

    #[test]
    fn one_whose_writes_or_syncs_fail_does_not() {
        let disk = SimDisk::new();
        let root = Path::new("/v");
        disk.create_dir_all(root).unwrap();
        disk.fail_sync(1);
        assert!(write_and_read(&disk, root).is_err());
        disk.fail_write(1);
        assert!(write_and_read(&disk, root).is_err());
    }
}

//! What a member remembers of its volumes, and the marker by which it knows each again.
//!
//! The book lies in the data directory. A marker lies in the root of each volume and names the
//! member and the volume: a directory without it is an empty mount point or another disk, and never
//! a volume that lost its copies. The marker is written before the book: a crash in between leaves
//! a marked volume that the next start takes into the book.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use keelson_env::Disk;
use keelson_types::MemberId;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::whole_file;

const BOOK: &str = "volumes.json";
const MARKER: &str = "keelson-volume";
/// Version of both.
const FORMAT: u32 = 1;
const BYTES_MAX: usize = 1 << 20;
/// What a file system puts into an empty volume.
const OF_THE_FILE_SYSTEM: &str = "lost+found";

/// A volume that this member has used, or keeps as a spare.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) path: String,
    /// As its marker says.
    pub(super) volume: Uuid,
    /// It waits, and has held nothing yet.
    pub(super) spare: bool,
    /// The configuration named it among the spares.
    pub(super) listed_spare: bool,
    /// Copies left it: it gets nothing new by itself.
    #[serde(default)]
    pub(super) retired: bool,
    /// Where they went.
    #[serde(default)]
    pub(super) replaced_by: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Book {
    format: u32,
    volumes: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    format: u32,
    member: MemberId,
    volume: Uuid,
}

/// The book of a member.
#[derive(Debug)]
pub(super) enum Remembered {
    Volumes(Vec<Entry>),
    /// It was never written.
    Nothing,
    /// It cannot be read: no volume may be taken for a new one.
    Damaged(String),
}

pub(super) fn load(disk: &dyn Disk, data: &Path) -> Remembered {
    let bytes = match whole_file::read(disk, &data.join(BOOK), BYTES_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Remembered::Nothing,
        Err(error) => return Remembered::Damaged(error.to_string()),
    };
    match serde_json::from_slice::<Book>(&bytes) {
        Ok(Book { format: FORMAT, volumes }) => Remembered::Volumes(volumes),
        Ok(Book { format, .. }) => Remembered::Damaged(format!("format {format}")),
        Err(error) => Remembered::Damaged(error.to_string()),
    }
}

pub(super) fn save(disk: &dyn Disk, data: &Path, volumes: Vec<Entry>) -> Result<(), String> {
    let book = Book { format: FORMAT, volumes };
    let bytes = serde_json::to_vec_pretty(&book).map_err(|error| error.to_string())?;
    whole_file::replace(disk, &data.join(BOOK), &bytes).map_err(|error| error.to_string())
}

/// What lies in the directory of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A volume of this member.
    Ours(Uuid),
    /// An empty directory.
    Empty,
    /// Nothing, or nothing that could be one of its volumes.
    Absent(String),
    /// It cannot be read.
    Broken(String),
    /// The look failed for a reason that says nothing of the disk.
    Unknown(String),
}

impl Found {
    fn failed(error: &std::io::Error) -> Self {
        let text = error.to_string();
        match error.raw_os_error() {
            Some(number) if !is_of_disk(number) => Self::Unknown(text),
            _ => Self::Broken(text),
        }
    }
}

/// Whether an error of the operating system says that a disk, or the way to it, does not work.
/// All others may come from a member that lacks files, memory, threads or rights: a disk is not
/// given up for these. The second half is what file systems and the block layer say of damage.
pub(super) fn is_of_disk(number: i32) -> bool {
    use Errno::{
        EBADMSG, EILSEQ, EIO, ENODATA, ENODEV, ENOLINK, ENOTCONN, ENXIO, EREMOTEIO, EROFS,
        ESHUTDOWN, ESTALE, ETIMEDOUT, EUCLEAN,
    };
    let gone = [EIO, EROFS, ENODEV, ENXIO, ESTALE, ESHUTDOWN, ENOTCONN];
    let damaged = [EUCLEAN, EBADMSG, EILSEQ, ENODATA, ENOLINK, EREMOTEIO, ETIMEDOUT];
    gone.iter().chain(&damaged).any(|error| *error as i32 == number)
}

pub(super) fn look(root: &Path, member: MemberId) -> Found {
    match fs::read(root.join(MARKER)) {
        Ok(bytes) => match serde_json::from_slice::<Marker>(&bytes) {
            Ok(marker) if marker.member == member => Found::Ours(marker.volume),
            Ok(marker) => Found::Absent(format!("it belongs to member {}", marker.member)),
            Err(error) => Found::Broken(format!("its marker cannot be read: {error}")),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => without_marker(root),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            Found::Absent("it is no directory".into())
        }
        Err(error) => Found::failed(&error),
    }
}

fn without_marker(root: &Path) -> Found {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Found::Absent("the directory does not exist".into());
        }
        Err(error) => return Found::failed(&error),
    };
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_name() == OF_THE_FILE_SYSTEM => {}
            Ok(entry) => {
                let name = entry.file_name().to_string_lossy().into_owned();
                return Found::Absent(format!("it has no marker, and holds {name}"));
            }
            Err(error) => return Found::failed(&error),
        }
    }
    Found::Empty
}

/// Whether a marked volume holds no database; a crash may leave one without the directory for
/// them.
pub(super) fn holds_nothing(root: &Path) -> bool {
    match fs::read_dir(root.join("databases")) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// Makes an empty directory a volume of the member.
pub(super) fn mark(disk: &dyn Disk, root: &Path, member: MemberId) -> Result<Uuid, String> {
    let volume = Uuid::new_v4();
    let text = |error: keelson_env::DiskError| error.to_string();
    let marker = Marker { format: FORMAT, member, volume };
    let bytes = serde_json::to_vec_pretty(&marker).map_err(|error| error.to_string())?;
    whole_file::replace(disk, &root.join(MARKER), &bytes).map_err(text)?;
    disk.create_dir_all(&root.join("databases")).map_err(text)?;
    disk.sync_dir(root).map_err(text)?;
    Ok(volume)
}

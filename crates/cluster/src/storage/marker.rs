//! A small file beside the cluster directory that says: this member has joined a cluster, so there
//! is a vote to remember.
//!
//! Without it an emptied or deleted consensus file would look like that of a new server, and the
//! member would vote a second time in a term. It is written after the consensus file knows the
//! cluster and before the member takes part; a crash in between is made good at the next start. It
//! lies beside the directory, so that it outlives the loss of the whole directory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use keelson_types::ClusterId;
use serde::{Deserialize, Serialize};

/// Version of the file.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Joined {
    format: u32,
    cluster: ClusterId,
}

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Marked {
    /// There is none.
    No,
    /// The member has joined this cluster.
    Joined(ClusterId),
    /// It has joined one; the file cannot be understood.
    Unreadable,
}

/// The file of a cluster directory: `cluster.joined` beside `cluster`.
pub(super) fn path_of(directory: &Path) -> PathBuf {
    let mut name = directory.file_name().map(OsString::from).unwrap_or_default();
    name.push(".joined");
    directory.with_file_name(name)
}

pub(super) fn read(path: &Path) -> io::Result<Marked> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Marked::No),
        Err(error) => return Err(error),
    };
    let joined = serde_json::from_slice::<Joined>(&bytes);
    Ok(joined.map_or(Marked::Unreadable, |joined| Marked::Joined(joined.cluster)))
}

/// Durable when it returns.
pub(super) fn write(path: &Path, cluster: ClusterId) -> io::Result<()> {
    let joined = Joined { format: FORMAT, cluster };
    let text = serde_json::to_vec_pretty(&joined).expect("plain values become JSON");
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

//! Directories: a record per file, for plain trees and for mail folders.
//!
//! Files are taken in the order of their paths, so that a second run meets them in the same order.
//! Symbolic links are not followed; they, pipes and devices are counted. Keys have the bytes of the
//! names, in whatever encoding.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use keelson_types::VALUE_BYTES_MAX;

use super::Shape;
use super::batch::{Found, Place};
use super::mbox::header;

/// A file to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// The key, unless a header gives it.
    pub(super) key: Vec<u8>,
    pub(super) bytes: u64,
    pub(super) modified_nanos: u128,
}

/// What lies below a directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Regular files, in order.
    pub(super) entries: Vec<Entry>,
    /// Directories that cannot be read.
    pub(super) closed: Vec<(PathBuf, io::Error)>,
    /// Links, pipes and devices.
    pub(super) skipped: u64,
}

/// Reads one file after the other.
pub(super) struct Tree {
    entries: std::vec::IntoIter<Entry>,
    shape: Shape,
}

impl Tree {
    pub(super) fn new(entries: Vec<Entry>, shape: Shape) -> Self {
        Self { entries: entries.into_iter(), shape }
    }

    /// The next record, and how many bytes of the source it stands for.
    pub(super) fn next(&mut self) -> Option<(Found, u64)> {
        let entry = self.entries.next()?;
        let place = Place { file: entry.path.as_os_str().as_bytes().into(), line: 0 };
        let bytes = entry.bytes;
        Some((self.read(entry, place), bytes))
    }

    fn read(&self, entry: Entry, place: Place) -> Found {
        if entry.bytes > VALUE_BYTES_MAX as u64 {
            let max = VALUE_BYTES_MAX;
            let reason = format!("the value has {} bytes, more than {max}", entry.bytes);
            return Found::Bad { place, reason };
        }
        let value = match fs::read(&entry.path) {
            Ok(value) => value,
            Err(error) => return Found::Unread { place, reason: error.to_string() },
        };
        let key = match &self.shape.key_field {
            None => Some(entry.key.into()),
            Some(name) => header(&value, name),
        };
        match key {
            Some(key) => Found::Record { place, key, value: value.into() },
            None => {
                let name = self.shape.key_field.as_deref().unwrap_or_default();
                Found::Bad { place, reason: format!("the file has no header {name:?}") }
            }
        }
    }
}

/// The regular files below `root`; the key of each is its path below `root`.
///
/// # Errors
/// `root` cannot be read.
pub(super) fn files_below(root: &Path) -> io::Result<Listing> {
    let mut found = Listing::default();
    found.add(root, root, true)?;
    found.entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The messages of a mail folder; the key of each is its unique name, without flags.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn messages_of(root: &Path) -> io::Result<Listing> {
    let mut found = Listing::default();
    for folder in ["cur", "new"] {
        found.add(root, &root.join(folder), false)?;
    }
    for entry in &mut found.entries {
        let name = entry.path.file_name().unwrap_or_default().as_bytes();
        let flags = name.windows(3).position(|three| three == b":2,");
        entry.key = name[..flags.unwrap_or(name.len())].to_vec();
    }
    found.entries.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

impl Listing {
    /// Adds what is in `directory`, and in those below it if they count.
    fn add(&mut self, root: &Path, directory: &Path, deep: bool) -> io::Result<()> {
        let mut waiting = self.items(root, directory)?;
        while let Some(directory) = waiting.pop().filter(|_| deep) {
            match self.items(root, &directory) {
                Ok(further) => waiting.extend(further),
                Err(error) => self.closed.push((directory, error)),
            }
        }
        Ok(())
    }

    /// Adds the files of one directory and gives the directories in it.
    fn items(&mut self, root: &Path, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let mut directories = Vec::new();
        for item in fs::read_dir(directory)? {
            let item = item?;
            let kind = item.file_type()?;
            match () {
                () if kind.is_dir() => directories.push(item.path()),
                () if kind.is_file() => self.entries.push(entry(root, item.path())?),
                () => self.skipped += 1,
            }
        }
        Ok(directories)
    }
}

/// Whether a directory is a mail folder.
pub(super) fn is_mail_folder(root: &Path) -> bool {
    ["cur", "new", "tmp"].iter().all(|folder| root.join(folder).is_dir())
}

fn entry(root: &Path, path: PathBuf) -> io::Result<Entry> {
    let metadata = fs::metadata(&path)?;
    let key = path.strip_prefix(root).unwrap_or(&path).as_os_str().as_bytes().to_vec();
    Ok(Entry { key, bytes: metadata.len(), modified_nanos: modified_nanos(&metadata), path })
}

/// When a file was changed, in nanoseconds since 1970; 0 if the file system does not say.
pub(super) fn modified_nanos(metadata: &fs::Metadata) -> u128 {
    let modified = metadata.modified().ok();
    let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_nanos())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::symlink;

    use super::*;

    fn directory() -> PathBuf {
        let path = std::env::temp_dir().join(format!("keelson-tree-{}", uuid::Uuid::new_v4()));
        for folder in ["cur", "new", "tmp", "deep/er"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        path
    }

    #[test]
    fn files_are_found_in_order_and_messages_lose_their_flags() {
        let root = directory();
        fs::write(root.join("deep/er/z"), "1").unwrap();
        fs::write(root.join("cur/22.host:2,S"), "Message-ID: <m>\n\nx").unwrap();
        fs::write(root.join("new/11.host"), "2").unwrap();
        let keys = |found: &Listing| {
            let keys = found.entries.iter().map(|entry| entry.key.escape_ascii().to_string());
            keys.collect::<Vec<_>>()
        };
        let files = files_below(&root).unwrap();
        assert_eq!(keys(&files), ["cur/22.host:2,S", "deep/er/z", "new/11.host"]);
        let messages = messages_of(&root).unwrap();
        assert!(is_mail_folder(&root));
        assert_eq!(keys(&messages), ["11.host", "22.host"]);
        let shape = Shape { key_field: Some("message-id".into()), ..Shape::default() };
        let mut tree = Tree::new(messages.entries, shape);
        assert!(matches!(tree.next(), Some((Found::Bad { .. }, 1))));
        assert!(matches!(tree.next(), Some((Found::Record { key, .. }, _)) if key == "m"));
        fs::remove_dir_all(&root).unwrap();
    }

    /// Names that are no text stay apart; links and pipes are counted and not followed.
    #[test]
    fn names_of_any_bytes_are_keys_and_what_is_no_file_is_counted() {
        let root = directory();
        for byte in [0xfe, 0xff] {
            fs::write(root.join(OsStr::from_bytes(&[b'b', byte])), [byte]).unwrap();
        }
        symlink(root.join("nowhere"), root.join("link")).unwrap();
        nix::unistd::mkfifo(&root.join("deep/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = files_below(&root).unwrap();
        assert_eq!((found.skipped, found.closed.len()), (2, 0));
        let mut tree = Tree::new(found.entries, Shape::default());
        for byte in [0xfe, 0xff] {
            let Some((Found::Record { key, value, .. }, 1)) = tree.next() else { panic!() };
            assert_eq!((key.as_ref(), value.as_ref()), (&[b'b', byte][..], &[byte][..]));
        }
        fs::remove_dir_all(&root).unwrap();
    }
}

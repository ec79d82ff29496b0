//! Directories: a record per file, for plain trees and for mail folders.
//!
//! Files are taken in the order of their paths, so that a second run meets them in the same order.
//! Symbolic links are not followed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use keelson_types::VALUE_BYTES_MAX;

use super::Shape;
use super::batch::{Found, Place};
use super::mbox::header;

/// A file to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    /// The key, unless a header gives it.
    pub(super) key: String,
    pub(super) bytes: u64,
    pub(super) modified_nanos: u128,
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
        let place = Place { file: Arc::from(entry.path.to_string_lossy()), line: 0 };
        let found = match self.read(&entry) {
            Ok((key, value)) => Found::Record { place, key, value },
            Err(reason) => Found::Bad { place, reason },
        };
        Some((found, entry.bytes))
    }

    fn read(&self, entry: &Entry) -> Result<(Bytes, Bytes), String> {
        if entry.bytes > VALUE_BYTES_MAX as u64 {
            let max = VALUE_BYTES_MAX;
            return Err(format!("the value has {} bytes, more than {max}", entry.bytes));
        }
        let value = fs::read(&entry.path).map_err(|error| error.to_string())?;
        let key = match &self.shape.key_field {
            None => entry.key.clone().into(),
            Some(name) => {
                header(&value, name).ok_or_else(|| format!("the file has no header {name:?}"))?
            }
        };
        Ok((key, value.into()))
    }
}

/// The regular files below `root`, in order; the key of each is its path below `root`.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn files_below(root: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for item in fs::read_dir(&directory)? {
            let item = item?;
            let kind = item.file_type()?;
            if kind.is_dir() {
                waiting.push(item.path());
            } else if kind.is_file() {
                entries.push(entry(root, item.path())?);
            }
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// The messages of a mail folder; the key of each is its unique name, without flags.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn messages_of(root: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for folder in ["cur", "new"] {
        for item in fs::read_dir(root.join(folder))? {
            let item = item?;
            if !item.file_type()?.is_file() {
                continue;
            }
            let mut found = entry(root, item.path())?;
            let name = item.file_name().to_string_lossy().into_owned();
            found.key = name.split(":2,").next().unwrap_or(&name).to_owned();
            entries.push(found);
        }
    }
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(entries)
}

/// Whether a directory is a mail folder.
pub(super) fn is_mail_folder(root: &Path) -> bool {
    ["cur", "new", "tmp"].iter().all(|folder| root.join(folder).is_dir())
}

fn entry(root: &Path, path: PathBuf) -> io::Result<Entry> {
    let metadata = fs::metadata(&path)?;
    let key = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
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
        let keys = |entries: &[Entry]| entries.iter().map(|e| e.key.clone()).collect::<Vec<_>>();
        assert_eq!(
            keys(&files_below(&root).unwrap()),
            ["cur/22.host:2,S", "deep/er/z", "new/11.host"]
        );
        let messages = messages_of(&root).unwrap();
        assert!(is_mail_folder(&root));
        assert_eq!(keys(&messages), ["11.host", "22.host"]);
        let shape = Shape { key_field: Some("message-id".into()), ..Shape::default() };
        let mut tree = Tree::new(messages, shape);
        assert!(matches!(tree.next(), Some((Found::Bad { .. }, 1))));
        assert!(matches!(tree.next(), Some((Found::Record { key, .. }, _)) if key == "m"));
        fs::remove_dir_all(&root).unwrap();
    }
}

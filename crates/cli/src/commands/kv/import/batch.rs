//! Records, what is wrong with some of them, and the batches they are sent in.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use keelson_types::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// A batch is full with this many records
const RECORDS_MAX: usize = 256;

/// or with this many bytes of keys and values.
const BYTES_MAX: usize = 1024 * 1024;

/// Name of a file, in whatever bytes it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileName(Arc<[u8]>);

impl<T: AsRef<[u8]> + ?Sized> From<&T> for FileName {
    fn from(name: &T) -> Self {
        Self(name.as_ref().into())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) => f.write_str(text),
            Err(_) => self.0.escape_ascii().fmt(f),
        }
    }
}

/// Where a record stands in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file: its path below the source, or its name if it is the source.
    pub(super) file: FileName,
    /// First line of the record, from 1; 0 for a whole file.
    pub(super) line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (file, 0) => write!(f, "{file}"),
            (file, line) => write!(f, "{file} line {line}"),
        }
    }
}

/// What a reader found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A record.
    Record { place: Place, key: Bytes, value: Bytes },
    /// Something that is no record, and why.
    Bad { place: Place, reason: String },
    /// A file, or the rest of it, that could not be read, and why. The next run may be able to.
    Unread { place: Place, reason: String },
    /// A remark about the source; nothing is missing for it.
    Note { place: Place, text: String },
}

impl Found {
    /// Puts the prefix before the key and checks the limits of a database.
    pub(super) fn checked(self, prefix: &str) -> Self {
        let Self::Record { place, key, value } = self else { return self };
        let key = if prefix.is_empty() { key } else { [prefix.as_bytes(), &key].concat().into() };
        let problem = if key.is_empty() {
            Some("the key is empty".to_owned())
        } else if key.len() > KEY_BYTES_MAX {
            Some(format!("the key has {} bytes, more than {KEY_BYTES_MAX}", key.len()))
        } else if value.len() > VALUE_BYTES_MAX {
            Some(format!("the value has {} bytes, more than {VALUE_BYTES_MAX}", value.len()))
        } else {
            None
        };
        match problem {
            None => Self::Record { place, key, value },
            Some(reason) => Self::Bad { place, reason },
        }
    }
}

/// The key of a record that has none of its own: its number behind the name of its file, so that
/// another file does not overwrite it, and the same file again does.
pub(super) fn numbered_key(file: &FileName, number: u64) -> Bytes {
    [&file.0, format!("/{number:012}").as_bytes()].concat().into()
}

/// Records that are written together. Where a batch ends depends on the records alone, so that a
/// second run over the same source makes the same batches.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Number of the batch in its lane, from 0.
    pub(super) index: u64,
    pub(super) records: Vec<(Bytes, Bytes)>,
    /// Bytes of keys and values.
    pub(super) bytes: usize,
    /// Bytes of the source read when the batch was complete.
    pub(super) read: u64,
    /// Everything before it could be read. Otherwise a later run may make other batches, so this
    /// one says nothing about how far the import has come.
    pub(super) counts: bool,
}

impl Batch {
    pub(super) fn add(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.records.push((key, value));
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: usize, value: usize) -> Found {
        let place = Place { file: "f".into(), line: 7 };
        Found::Record { place, key: vec![b'k'; key].into(), value: vec![0; value].into() }
    }

    #[test]
    fn limits_are_those_of_a_database() {
        let reason = |found: Found| match found.checked("") {
            Found::Bad { place, reason } => format!("{place}: {reason}"),
            _ => String::new(),
        };
        assert_eq!(reason(record(1, VALUE_BYTES_MAX)), "");
        assert_eq!(reason(record(KEY_BYTES_MAX, 0)), "");
        assert!(reason(record(0, 1)).starts_with("f line 7: the key is empty"));
        assert!(reason(record(KEY_BYTES_MAX + 1, 1)).contains("65537 bytes"));
        assert!(reason(record(1, VALUE_BYTES_MAX + 1)).contains("the value has"));
    }

    #[test]
    fn the_prefix_counts_as_part_of_the_key() {
        let Found::Record { key, .. } = record(2, 0).checked("p/") else { panic!("refused") };
        assert_eq!(key, "p/kk");
        assert!(matches!(record(KEY_BYTES_MAX, 0).checked("p"), Found::Bad { .. }));
    }
}

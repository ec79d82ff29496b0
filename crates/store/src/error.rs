//! Decides what a failure of RocksDB means: full, damaged, or failed.
//!
//! The library hands errors over as text only, so the text decides, here and nowhere else. Its
//! first words are the status code, fixed in `util/status.cc`; a stall wraps another status behind
//! its own code.

use std::io;

use keelson_env::StoreError;
use rocksdb::ErrorKind;

const NO_SPACE: [&str; 2] = ["No space left on device", "Space limit reached"];

/// The meaning of an error of the library.
pub(crate) fn from_rocks(error: &rocksdb::Error) -> StoreError {
    classify(error.kind(), error.as_ref())
}

fn classify(kind: ErrorKind, text: &str) -> StoreError {
    if NO_SPACE.iter().any(|words| text.contains(words)) {
        return StoreError::NoSpace;
    }
    match kind {
        ErrorKind::Corruption => StoreError::Damaged(text.to_owned()),
        ErrorKind::Incomplete if text.contains("Corruption: ") => {
            StoreError::Damaged(text.to_owned())
        }
        _ => StoreError::Failed(text.to_owned()),
    }
}

/// The meaning of an error of the file system around the library's own files.
pub(crate) fn from_io(what: &str, error: &io::Error) -> StoreError {
    if error.kind() == io::ErrorKind::StorageFull {
        StoreError::NoSpace
    } else {
        StoreError::Failed(format!("{what}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_library_get_their_meaning() {
        let check = |kind, text: &str| classify(kind, text);
        let full = "IO error: No space left on device: While appending to file: /d/000012.sst";
        assert!(matches!(check(ErrorKind::IOError, full), StoreError::NoSpace));
        let stalled = "Result incomplete: IO error: No space left on device: While appending";
        assert!(matches!(check(ErrorKind::Incomplete, stalled), StoreError::NoSpace));
        let block = "Corruption: block checksum mismatch: stored = 1, computed = 2";
        assert!(matches!(check(ErrorKind::Corruption, block), StoreError::Damaged(_)));
        let stalled = "Result incomplete: Corruption: block checksum mismatch";
        assert!(matches!(check(ErrorKind::Incomplete, stalled), StoreError::Damaged(_)));
        let other = "IO error: Input/output error: While fsync: /d/000012.sst";
        assert!(matches!(check(ErrorKind::IOError, other), StoreError::Failed(_)));
    }
}

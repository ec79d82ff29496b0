//! What tells the directory of a witness from that of a member.
//!
//! A witness is a control process without a data process: it votes, may lead, and holds no data.
//! The cluster recorded it as such, so a directory must not change sides: a member that came back
//! as a witness would leave its copies without anybody who serves them, and its vote with them.

use std::io;
use std::path::Path;

use crate::Problem;
use crate::files::replace;

/// The file that marks the directory of a witness.
const MARK: &str = "witness";

/// What a control process runs for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A member with a data process.
    Member,
    /// A vote without data.
    Witness,
}

/// Whether the directory belongs to a witness.
#[must_use]
pub fn is_witness(data_dir: &Path) -> bool {
    data_dir.join(MARK).exists()
}

/// Refuses a directory of the other kind, and marks the new one of a witness. The caller holds the
/// lock of the directory.
///
/// # Errors
/// `wrong_kind`; `directory_unusable`.
pub(crate) fn claim(data_dir: &Path, kind: Kind) -> Result<(), Problem> {
    let dir = data_dir.display();
    match (kind, is_witness(data_dir)) {
        (Kind::Member, false) | (Kind::Witness, true) => Ok(()),
        (Kind::Member, true) => Err(wrong_kind(
            format!("{dir} belongs to a witness"),
            "start it with keelson witness; a member needs a directory of its own",
        )),
        (Kind::Witness, false) if is_used(data_dir) => Err(wrong_kind(
            format!("{dir} belongs to a member"),
            "start it with keelson server; a witness needs an empty directory of its own",
        )),
        (Kind::Witness, false) => replace(&data_dir.join(MARK), b"a witness: keelson witness\n")
            .map_err(|error| {
                let message = format!("{dir} cannot be used: {error}");
                let hint = "check path, owner and rights of the directory";
                Problem::new("directory_unusable", message, hint)
            }),
    }
}

fn wrong_kind(message: String, hint: &str) -> Problem {
    Problem::new("wrong_kind", message, hint)
}

/// Whether a member ran here.
fn is_used(data_dir: &Path) -> bool {
    let there = |part| {
        let looked = std::fs::metadata(data_dir.join(part));
        matches!(looked, Err(error) if error.kind() == io::ErrorKind::NotFound)
    };
    !["member.json", "databases", "cluster"].into_iter().all(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_never_changes_sides() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path(), Kind::Witness).unwrap();
        assert!(is_witness(dir.path()));
        claim(dir.path(), Kind::Witness).unwrap();
        assert_eq!(claim(dir.path(), Kind::Member).unwrap_err().code, "wrong_kind");
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path(), Kind::Member).unwrap();
        std::fs::write(dir.path().join("member.json"), "{}").unwrap();
        assert_eq!(claim(dir.path(), Kind::Witness).unwrap_err().code, "wrong_kind");
        assert!(!is_witness(dir.path()));
    }
}

//! The identity of a member: a random id, drawn once per data directory and kept in `member.json`.
//!
//! A crash while it is written leaves no file, and the next start draws another id: nobody knew the
//! first one. A directory whose member has another name is refused, so that a copied or swapped
//! directory is noticed. Nothing is drawn beside the state or the copies of a member whose file is
//! gone: under a new identity its votes and its copies would be somebody else's.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use keelson_types::{MemberId, MemberName, RefusalReason};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Problem;
use crate::files::replace;

/// Version of the file, and with it of the layout of the data directory.
const FORMAT: u32 = 1;

/// What `member.json` holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberIdentity {
    /// Version of the layout of the data directory.
    pub format: u32,
    /// The random identity.
    pub member: MemberId,
    /// The name it was made for.
    pub name: MemberName,
    /// When, in Unix milliseconds.
    pub created_unix_millis: u64,
}

/// The part that every version of the file has.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl MemberIdentity {
    /// Reads the identity in `data_dir`, or draws one if neither it nor `log_dir` has anything of a
    /// member. The caller holds the lock of the directory.
    ///
    /// # Errors
    /// `newer_format`, `second_holder` (the directory belongs to a member of another name),
    /// `identity_missing`, `identity_malformed`, `directory_unusable`.
    pub fn open(data_dir: &Path, log_dir: &Path, name: &MemberName) -> Result<Self, Problem> {
        let path = data_dir.join("member.json");
        let identity = match std::fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                check_unused(&path, data_dir, log_dir)?;
                draw(&path, name)?
            }
            Err(error) => return Err(unusable(&path, &error)),
        };
        if identity.name == *name {
            return Ok(identity);
        }
        let (dir, owner) = (data_dir.display(), &identity.name);
        let message = format!("{dir} belongs to member {owner}, the configuration names {name}");
        let hint =
            "give every member a data directory of its own; the name of a member never changes";
        Err(Problem::new(RefusalReason::SecondHolder.code().0, message, hint))
    }
}

fn unusable(path: &Path, error: &io::Error) -> Problem {
    let message = format!("{} cannot be used: {error}", path.display());
    Problem::new("directory_unusable", message, "check path, owner and rights of the directory")
}

fn parse(path: &Path, bytes: &[u8]) -> Result<MemberIdentity, Problem> {
    let malformed = |error: serde_json::Error| {
        let message = format!("{} is malformed: {error}", path.display());
        let hint = "restore the file, or remove the member from the cluster and start with an \
            empty directory";
        Problem::new("identity_malformed", message, hint)
    };
    let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
    if head.format > FORMAT {
        let (path, found) = (path.display(), head.format);
        let message =
            format!("{path} has format {found}; this version knows formats up to {FORMAT}");
        return Err(Problem::of(RefusalReason::NewerFormat, message));
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

/// The file is durable before anything else of a member is made, so whatever is there without it
/// belongs to an identity that was lost.
fn check_unused(path: &Path, data_dir: &Path, log_dir: &Path) -> Result<(), Problem> {
    let parts = ["cluster", "cluster.joined", "databases"].map(|part| data_dir.join(part));
    let parts = parts.into_iter().chain([log_dir.join("databases")]);
    for part in parts {
        if part.try_exists().map_err(|error| unusable(&part, &error))? {
            let message = format!("{} is missing, but {} is there", path.display(), part.display());
            let hint = "restore the file; if it is lost, bring the member back empty, in this \
                order: keelson copy remove for each of its copies, keelson member remove, move \
                what is there away (keep it), start the server, keelson member add, keelson copy \
                add";
            return Err(Problem::new("identity_missing", message, hint));
        }
    }
    Ok(())
}

fn draw(path: &Path, name: &MemberName) -> Result<MemberIdentity, Problem> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let identity = MemberIdentity {
        format: FORMAT,
        member: MemberId::new(Uuid::new_v4()),
        name: name.clone(),
        created_unix_millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    };
    let text = serde_json::to_string_pretty(&identity).expect("plain values become JSON");
    replace(path, text.as_bytes()).map_err(|error| unusable(path, &error))?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).unwrap()
    }

    fn open(dir: &Path, wanted: &str) -> Result<MemberIdentity, Problem> {
        MemberIdentity::open(dir, dir, &name(wanted))
    }

    #[test]
    fn beside_the_state_of_a_member_no_identity_is_drawn() {
        for part in ["cluster", "cluster.joined", "databases"] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join(part)).unwrap();
            let problem = open(dir.path(), "m1").unwrap_err();
            assert_eq!(problem.code, "identity_missing", "{part}");
            assert!(!dir.path().join("member.json").exists());
        }
        let (data, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(logs.path().join("databases")).unwrap();
        let found = MemberIdentity::open(data.path(), logs.path(), &name("m1"));
        assert_eq!(found.unwrap_err().code, "identity_missing");
    }

    #[test]
    fn an_identity_is_drawn_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "m1").unwrap();
        assert_eq!(open(dir.path(), "m1").unwrap(), first);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(open(other.path(), "m1").unwrap().member, first.member);
    }

    #[test]
    fn foreign_newer_and_malformed_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let code = |wanted: &str| open(dir.path(), wanted).unwrap_err().code;
        open(dir.path(), "m1").unwrap();
        assert_eq!(code("m2"), "second_holder");
        let path = dir.path().join("member.json");
        std::fs::write(&path, r#"{"format": 9, "shape": "unknown"}"#).unwrap();
        assert_eq!(code("m1"), "newer_format");
        std::fs::write(&path, "{").unwrap();
        assert_eq!(code("m1"), "identity_malformed");
    }
}

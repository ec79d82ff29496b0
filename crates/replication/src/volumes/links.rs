//! Where a database's files are: `databases/<id>` in the data directory is a symbolic link to
//! `databases/<id>` on a volume, so that every path leads there.
//!
//! A directory on the volume is durable before the link that leads to it, and a link is replaced by
//! a rename: whatever crashes in between, the link leads to a directory that was made for it. A
//! link that leads nowhere makes no new directory: the files are on a disk that is not there.

use std::fs::{self, File};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use keelson_types::DatabaseId;

const DATABASES: &str = "databases";

/// What `databases/<id>` is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// Nothing.
    None,
    /// The files themselves, in the data directory.
    Directory,
    /// A link to a volume.
    Volume(PathBuf),
}

fn entry_of(data: &Path, database: DatabaseId) -> PathBuf {
    data.join(DATABASES).join(database.to_string())
}

/// The directory of a database on a volume.
pub(super) fn on_volume(root: &Path, database: DatabaseId) -> PathBuf {
    entry_of(root, database)
}

pub(super) fn look(data: &Path, database: DatabaseId) -> Result<Entry> {
    let entry = entry_of(data, database);
    match fs::symlink_metadata(&entry) {
        Ok(found) if found.is_symlink() => Ok(match root_of(&fs::read_link(&entry)?) {
            Some(root) => Entry::Volume(root),
            // A link that somebody else made is his business, and leads where it leads.
            None => Entry::Directory,
        }),
        Ok(_) => Ok(Entry::Directory),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Entry::None),
        Err(error) => Err(error),
    }
}

/// `<root>/databases/<id>` without what follows the root.
fn root_of(target: &Path) -> Option<PathBuf> {
    let databases = target.parent()?;
    (databases.file_name()? == DATABASES).then(|| databases.parent().map(Path::to_owned))?
}

/// The databases whose files lie on a volume, and which one. What a crash left half made goes.
pub(super) fn all(data: &Path) -> Vec<(DatabaseId, PathBuf)> {
    let entries = fs::read_dir(data.join(DATABASES)).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(FRESH) {
            // It is made anew by whoever needs it.
            let _ = fs::remove_file(entry.path());
        }
        let Ok(database) = name.parse::<DatabaseId>() else { continue };
        if let Ok(Entry::Volume(root)) = look(data, database) {
            found.push((database, root));
        }
    }
    found
}

const FRESH: &str = ".link";

/// Makes the directory on the volume, and durable; the link to one that is there was made after
/// that.
pub(super) fn make_directory(root: &Path, database: DatabaseId) -> Result<()> {
    let directory = on_volume(root, database);
    fs::create_dir_all(&directory)?;
    for part in [&*directory, &root.join(DATABASES), root] {
        File::open(part)?.sync_all()?;
    }
    Ok(())
}

/// Makes the entry of the database a link to a directory on the volume, in place of another link.
pub(super) fn lead_to(data: &Path, database: DatabaseId, root: &Path) -> Result<()> {
    make_directory(root, database)?;
    let entry = entry_of(data, database);
    let fresh = entry.with_extension(&FRESH[1..]);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(on_volume(root, database), &fresh)?;
    fs::rename(&fresh, &entry)?;
    File::open(data.join(DATABASES))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_one_volume_and_then_to_another() {
        let place = tempfile::tempdir().unwrap();
        let [data, a, b] = ["data", "a", "b"].map(|name| place.path().join(name));
        let database = DatabaseId::from_u128(7);
        fs::create_dir_all(data.join(DATABASES)).unwrap();
        assert_eq!(look(&data, database).unwrap(), Entry::None);
        lead_to(&data, database, &a).unwrap();
        fs::write(entry_of(&data, database).join("f"), "x").unwrap();
        assert_eq!(look(&data, database).unwrap(), Entry::Volume(a.clone()));
        // A crash left the link of an earlier try.
        symlink("nowhere", entry_of(&data, database).with_extension("link")).unwrap();
        lead_to(&data, database, &b).unwrap();
        assert_eq!(all(&data), [(database, b.clone())]);
        assert!(!entry_of(&data, database).join("f").exists(), "another place");
        assert!(on_volume(&a, database).join("f").exists(), "what it had stays");
        fs::remove_dir_all(&b).unwrap();
        assert_eq!(look(&data, database).unwrap(), Entry::Volume(b), "it leads nowhere now");
        assert!(fs::create_dir_all(entry_of(&data, database)).is_err(), "and nothing is made");
    }

    #[test]
    fn a_directory_in_the_data_directory_is_where_it_is() {
        let place = tempfile::tempdir().unwrap();
        let database = DatabaseId::from_u128(7);
        fs::create_dir_all(entry_of(place.path(), database)).unwrap();
        assert_eq!(look(place.path(), database).unwrap(), Entry::Directory);
        assert_eq!(all(place.path()), []);
    }
}

//! Where forks lie: `databases/<database>/forks/<name>/` with the store and a description.
//!
//! A name that begins with `~` is no fork: one that is being built, or one that is being removed.
//! A fork comes and goes with a rename, so a crash leaves it whole or leaves something that the
//! next start removes.

use std::fs;
use std::io::{Error, Result, Write};
use std::path::{Path, PathBuf};

use keelson_types::LogEnd;
use serde_json::{Value, json};

use super::{Description, ForkState};

/// The store in a fork's directory.
pub(super) const STORE: &str = "store";
const DESCRIPTION: &str = "fork.json";
const FORKS: &str = "forks";
/// Version of the description.
const FORMAT: u64 = 1;

fn forks_of(root: &Path, is: &Description) -> PathBuf {
    root.join(is.database.to_string()).join(FORKS)
}

/// The directory of a finished fork.
pub(super) fn of(root: &Path, is: &Description) -> PathBuf {
    forks_of(root, is).join(is.name.as_str())
}

fn sync_directory(path: &Path) -> Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Makes an empty place in which the fork is built.
pub(super) fn begin(root: &Path, is: &Description) -> Result<PathBuf> {
    let forks = forks_of(root, is);
    fs::create_dir_all(&forks)?;
    let building = forks.join(format!("~{}", is.name));
    remove(&building)?;
    fs::create_dir(&building)?;
    Ok(building)
}

/// Makes what was built the fork.
pub(super) fn finish(
    root: &Path,
    building: &Path,
    is: &Description,
    at: LogEnd,
    time_unix_ms: u64,
) -> Result<()> {
    let text = encode(is, at, time_unix_ms).to_string();
    let mut file = fs::File::create_new(building.join(DESCRIPTION))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    sync_directory(building)?;
    fs::rename(building, of(root, is))?;
    sync_directory(&forks_of(root, is))
}

/// Takes a fork's name away from its directory, and gives the directory.
pub(super) fn doom(root: &Path, is: &Description) -> Result<PathBuf> {
    let (place, doomed) = (of(root, is), forks_of(root, is).join(format!("~{}", is.name)));
    if place.exists() {
        remove(&doomed)?;
        fs::rename(&place, &doomed)?;
        sync_directory(&forks_of(root, is))?;
    }
    Ok(doomed)
}

/// Removes a directory, if it is there.
pub(super) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The finished forks below the databases' directory; what is none is removed.
pub(super) fn scan(root: &Path) -> Vec<(Description, ForkState)> {
    let inside = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let places = inside(root).flat_map(|database| inside(&database.path().join(FORKS)));
    places.filter_map(|entry| look(&entry.path())).collect()
}

fn look(place: &Path) -> Option<(Description, ForkState)> {
    let name = place.file_name()?.to_str()?;
    if name.starts_with('~') {
        if let Err(error) = remove(place) {
            tracing::warn!(place = %place.display(), %error, "a part of a fork stays");
        }
        return None;
    }
    let found = read(&place.join(DESCRIPTION));
    found
        .map_err(|error| {
            // Nothing that this version does not understand is removed.
            tracing::warn!(place = %place.display(), %error, "a fork cannot be read");
        })
        .ok()
}

fn encode(is: &Description, at: LogEnd, time_unix_ms: u64) -> Value {
    json!({
        "format": FORMAT,
        "database": is.database,
        "database_name": is.database_name,
        "copy": is.copy,
        "name": is.name,
        "created_unix_ms": is.created_unix_ms,
        "expires_unix_ms": is.expires_unix_ms,
        "bytes_max": is.bytes_max,
        "at": at,
        "time_unix_ms": time_unix_ms,
    })
}

fn read(path: &Path) -> Result<(Description, ForkState)> {
    let text = fs::read(path)?;
    let fields: Value = serde_json::from_slice(&text)?;
    if fields["format"] != FORMAT {
        return Err(Error::other(format!("format {}, known is {FORMAT}", fields["format"])));
    }
    Ok(decode(fields)?)
}

fn decode(mut fields: Value) -> serde_json::Result<(Description, ForkState)> {
    let mut take = |name: &str| fields[name].take();
    let is = Description {
        database: serde_json::from_value(take("database"))?,
        database_name: serde_json::from_value(take("database_name"))?,
        copy: serde_json::from_value(take("copy"))?,
        name: serde_json::from_value(take("name"))?,
        created_unix_ms: serde_json::from_value(take("created_unix_ms"))?,
        expires_unix_ms: serde_json::from_value(take("expires_unix_ms"))?,
        bytes_max: serde_json::from_value(take("bytes_max"))?,
    };
    let at = serde_json::from_value(take("at"))?;
    let time_unix_ms = serde_json::from_value(take("time_unix_ms"))?;
    Ok((is, ForkState::Ready { at, time_unix_ms }))
}

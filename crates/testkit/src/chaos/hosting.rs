//! What members in containers have of this machine, so that their disks and clocks can be made bad.
//!
//! It lies in the folder of the file that describes their cluster, and
//! `deploy/compose.chaos.yaml` mounts it into them: of `volumes` a small volume for each member,
//! with its data and its log; `host` with the library of [`bad_host`] and a file `NAME.clock` for
//! each. What this machine lets nobody make is said and left out: a volume is a plain folder then,
//! and the faults that need it are not done.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::fault::Kind;
use super::processes::VOLUME_BYTES;
use crate::{SmallVolume, bad_host};

/// The user in the image, by `deploy/Dockerfile`.
const USER: u32 = 10_001;

/// Makes it for the cluster that `file` describes, whose `members` are not started yet. Whoever
/// calls unmounts the volumes when those are gone.
///
/// # Errors
/// The file does not say who the members are, or its folder cannot be written.
pub async fn prepare(file: &Path) -> Result<()> {
    let hosting = Hosting::of(file)?;
    let members = words(&told(file)?, "members")?;
    if let Err(error) = hosting.mount(&members) {
        println!("chaos: members have no volumes of their own: {error:#}");
    }
    for directory in members.iter().flat_map(|member| hosting.directories(member)) {
        std::fs::create_dir_all(&directory)?;
        give(&directory)?;
    }
    let host = hosting.folder.join("host");
    std::fs::create_dir_all(&host)?;
    give(&host)?;
    match bad_host(&host).await {
        Ok(library) => give(&library),
        Err(error) => {
            println!("chaos: members have good disks and clocks: {error:#}");
            Ok(())
        }
    }
}

/// What a file says about a cluster.
pub(super) fn told(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// A list of words in it.
pub(super) fn words(told: &Value, name: &str) -> Result<Vec<String>> {
    let list = told[name].as_array().with_context(|| format!("no {name}"))?;
    let word = |word: &Value| word.as_str().map(str::to_owned);
    list.iter().map(word).collect::<Option<_>>().with_context(|| format!("{name} are no words"))
}

/// Members must be able to read it, whatever this machine takes from new files.
fn give(path: &Path) -> Result<()> {
    chown(path, Some(USER), Some(USER)).with_context(|| format!("give away {}", path.display()))
}

/// What the members of one cluster have.
pub(super) struct Hosting {
    folder: PathBuf,
}

impl Hosting {
    pub(super) fn of(file: &Path) -> Result<Self> {
        Ok(Self { folder: file.parent().context("no folder")?.to_owned() })
    }

    /// Where the volume of a member is mounted.
    pub(super) fn volume(&self, member: &str) -> PathBuf {
        self.folder.join("volumes").join(member)
    }

    fn directories(&self, member: &str) -> [PathBuf; 2] {
        ["data", "log"].map(|place| self.volume(member).join(place))
    }

    /// All volumes or none.
    fn mount(&self, members: &[String]) -> Result<()> {
        let mut mounted = Vec::new();
        for member in members {
            let image = self.folder.join(format!("{member}.ext4"));
            mounted.push(SmallVolume::mount(&image, &self.volume(member), VOLUME_BYTES)?);
        }
        mounted.into_iter().for_each(SmallVolume::keep);
        Ok(())
    }

    /// Why this kind cannot be done; none if it can.
    pub(super) fn lacks(&self, kind: Kind) -> Option<String> {
        match kind {
            Kind::FullDisk if !self.mounted() => Some("the disk is that of all containers".into()),
            Kind::SlowDisk | Kind::ClockJump if !self.folder.join("host/bad_host.so").exists() => {
                Some("the library that makes them bad was not built".into())
            }
            _ => None,
        }
    }

    /// Whether volumes are mounted where members have theirs.
    fn mounted(&self) -> bool {
        let volumes = self.folder.join("volumes");
        let device = |path: &Path| path.metadata().map(|data| data.dev()).ok();
        let entries = std::fs::read_dir(&volumes).into_iter().flatten().flatten();
        let mut devices = entries.map(|entry| device(&entry.path())).peekable();
        devices.peek().is_some() && devices.all(|other| other != device(&volumes))
    }

    /// The wall clock of a member is ahead by so many seconds.
    pub(super) fn shift_clock(&self, member: &str, seconds: i64) -> Result<()> {
        let file = self.folder.join("host").join(format!("{member}.clock"));
        std::fs::write(&file, seconds.to_string())?;
        give(&file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_made_is_not_done() {
        let folder = tempfile::tempdir().expect("a folder");
        let hosting = Hosting::of(&folder.path().join("cluster.json")).expect("a folder");
        let check = |expected: [bool; 4]| {
            let kinds = [Kind::FullDisk, Kind::SlowDisk, Kind::ClockJump, Kind::FullLog];
            assert_eq!(kinds.map(|kind| hosting.lacks(kind).is_none()), expected);
        };
        check([false, false, false, true]);
        std::fs::create_dir_all(hosting.volume("m1")).expect("a plain folder");
        std::fs::create_dir(folder.path().join("host")).expect("a folder");
        std::fs::write(folder.path().join("host/bad_host.so"), "").expect("a library");
        check([false, true, true, true]);
    }

    #[test]
    fn a_file_tells_words_or_is_refused() {
        let told = serde_json::json!({"members": ["m1", "w1"], "images": [1]});
        assert_eq!(words(&told, "members").expect("words"), ["m1", "w1"]);
        assert!(words(&told, "images").is_err() && words(&told, "compose").is_err());
    }
}

//! The keys `volumes` and `spare_volumes`: directories that hold the copies instead of `data_dir`.

use std::path::{Path, PathBuf};

use keelson_replication::VolumeSettings;

use super::{Checks, list};

impl Checks {
    /// The volumes and the spares; no two directories may be one, or inside one another: each is
    /// taken for a disk of its own.
    pub(super) fn volumes(
        &mut self,
        (volumes, spares): (Option<&str>, Option<&str>),
        data_dir: Option<&Path>,
        log_dir: Option<&Path>,
    ) -> VolumeSettings {
        let volumes = self.directories(volumes);
        let spares = self.directories(spares);
        if volumes.is_empty() {
            if !spares.is_empty() {
                self.problem("spare_volumes needs volumes: only these are replaced".into());
            }
            return VolumeSettings::default();
        }
        let data_dir = data_dir.map(|dir| self.path(dir));
        let log_dir =
            log_dir.map(|dir| self.path(dir)).filter(|dir| Some(dir) != data_dir.as_ref());
        if let Some(log_dir) = log_dir {
            let log_dir = log_dir.display();
            self.problem(format!(
                "volumes and log_dir = {log_dir}: a volume holds store and log of a copy together"
            ));
        }
        let all: Vec<_> = data_dir.iter().chain(&volumes).chain(&spares).collect();
        for (index, one) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                self.apart(one, other);
            }
        }
        VolumeSettings { volumes, spares }
    }

    fn directories(&self, written: Option<&str>) -> Vec<PathBuf> {
        let listed = list(written);
        listed.iter().map(|path| plain(&self.path(Path::new(path)))).collect()
    }

    fn apart(&mut self, one: &Path, other: &Path) {
        let (one, other) = (plain(one), plain(other));
        let (first, second) = (one.display(), other.display());
        if one == other {
            self.problem(format!(
                "the directory {first} is named twice among data_dir and volumes"
            ));
        } else if one.starts_with(&other) || other.starts_with(&one) {
            let text = "data_dir and volumes must not lie inside one another";
            self.problem(format!("{first} and {second}: {text}"));
        }
    }
}

/// Without dots and doubled slashes, so that one directory has one name.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

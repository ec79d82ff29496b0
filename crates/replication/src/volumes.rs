//! The volumes of a member that has several (F131): on which one a copy lies, what is known of
//! each, and how a copy leaves one that failed.
//!
//! Each volume holds copies, store and log of one together. The data directory keeps the member's
//! identity, the list of copies that it made (so a volume that is gone makes a copy *failed*, never
//! *new*), and one link per database (`links`). A volume is told from an empty mount point by its
//! marker (`book`); that it fails is found by a test of it (`probe`, `watch`), which runs only
//! after a copy on it failed. Without configured volumes all of this rests: a copy lies in the data
//! directory.
//!
//! Two locks: `acting` is held while links and the book change, and may wait for a disk; `known` is
//! held for moments, because owners of copies ask for their volume at every frame.

mod book;
mod links;
mod placing;
mod probe;
mod renewal;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use keelson_env::Disk;
use keelson_types::{DatabaseId, MemberId, VolumeState};
use keelson_wire::v1;
use tokio::sync::Notify;
use uuid::Uuid;

use book::{Entry, Found, Remembered};
use probe::{Held, Probe, Probed};

pub(crate) use placing::Stays;
pub(crate) use watch::run;

/// A volume that does not say what it is within this time at the start is taken for failed.
const START_DEADLINE: Duration = Duration::from_secs(5);

/// Tests in a row that a failed volume has not passed.
const STRIKES: u32 = 2;

/// The volumes that a member's configuration names; none for copies in the data directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolumeSettings {
    /// Directories that hold copies.
    pub volumes: Vec<PathBuf>,
    /// Directories that wait until one of these fails.
    pub spares: Vec<PathBuf>,
}

/// What is known of one volume.
#[derive(Debug)]
struct Known {
    path: PathBuf,
    /// In the configuration: it may get copies.
    configured: bool,
    /// Among the spares there.
    listed_spare: bool,
    /// As in the book; nothing of one that was never a volume of this member.
    entry: Option<Entry>,
    /// Tests in a row that it did not pass, and what the last one found.
    strikes: u32,
    absent: bool,
    why: String,
    /// Held by a test that runs, perhaps for ever.
    probing: Held,
    free_bytes: Option<u64>,
    total_bytes: Option<u64>,
}

impl Known {
    fn state(&self) -> VolumeState {
        let entry = self.entry.as_ref();
        if entry.is_some_and(|entry| entry.retired) {
            return VolumeState::Retired;
        }
        match (self.strikes, self.absent) {
            (STRIKES.., true) => VolumeState::Missing,
            (STRIKES.., false) => VolumeState::Failed,
            (1.., _) => VolumeState::Suspect,
            (0, _) if entry.is_some_and(|entry| entry.spare) => VolumeState::Spare,
            (0, _) => VolumeState::Healthy,
        }
    }

    /// What a test found.
    fn found(&mut self, probed: Probed) {
        (self.strikes, self.absent, self.why) = match probed {
            Probed::Well => (0, false, String::new()),
            Probed::Absent(why) => (self.strikes.saturating_add(1), true, why),
            Probed::Broken(why) => (self.strikes.saturating_add(1), false, why),
            // Neither is a word for the disk, nor one against it.
            Probed::Full | Probed::Unknown(_) => return,
        };
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

#[derive(Debug, Default)]
struct Table {
    volumes: Vec<Known>,
    /// The volume to which the link of a database leads.
    homes: BTreeMap<DatabaseId, PathBuf>,
    /// Volumes on which a copy failed since their last test.
    asked: BTreeSet<PathBuf>,
}

impl Table {
    fn of(&self, path: &Path) -> Option<&Known> {
        self.volumes.iter().find(|volume| volume.path == path)
    }

    fn of_mut(&mut self, path: &Path) -> Option<&mut Known> {
        self.volumes.iter_mut().find(|volume| volume.path == path)
    }

    fn entries(&self) -> Vec<Entry> {
        self.volumes.iter().filter_map(|volume| volume.entry.clone()).collect()
    }

    /// What was saved is what is known from now on.
    fn publish(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if let Some(volume) = self.of_mut(Path::new(&entry.path)) {
                volume.entry = Some(entry);
            }
        }
    }

    fn copies_on(&self, path: &Path) -> usize {
        self.homes.values().filter(|home| *home == path).count()
    }
}

/// See the module page. One without volumes is the default.
#[derive(Debug, Default)]
pub(crate) struct MemberVolumes {
    of: Option<Owned>,
    /// The book could not be read: what it says may be of use yet, so it is not written.
    damaged: bool,
    known: Mutex<Table>,
    /// Links and the book are changed by one at a time.
    acting: Mutex<()>,
    changed: Notify,
}

/// What it works with.
#[derive(Debug)]
struct Owned {
    disk: Arc<dyn Disk>,
    data: PathBuf,
    member: MemberId,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemberVolumes {
    /// Looks at what is there, and makes empty directories volumes that were never one. Blocks; a
    /// volume that hangs is left alone after a while.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        data: &Path,
        member: MemberId,
        settings: &VolumeSettings,
    ) -> Self {
        let remembered = book::load(&*disk, data);
        let damaged = matches!(remembered, Remembered::Damaged(_));
        let entries = match remembered {
            Remembered::Volumes(entries) => entries,
            Remembered::Nothing => Vec::new(),
            Remembered::Damaged(why) => {
                tracing::error!(why, "the list of volumes is damaged: only marked ones are taken");
                Vec::new()
            }
        };
        if settings.volumes.is_empty() && entries.is_empty() && !damaged {
            return Self::default();
        }
        let homes = links::all(data).into_iter().collect();
        let table = Table { volumes: volumes(settings, entries), homes, asked: BTreeSet::new() };
        let of = Some(Owned { disk, data: data.to_owned(), member });
        let this = Self { of, damaged, known: Mutex::new(table), ..Self::default() };
        this.look_first();
        this
    }

    /// Whether copies lie on volumes.
    pub(crate) fn is_used(&self) -> bool {
        self.of.is_some()
    }

    fn look_first(&self) {
        let Some(of) = &self.of else { return };
        let volumes: Vec<_> = {
            let table = lock(&self.known);
            table.volumes.iter().map(|v| (v.path.clone(), v.probing.clone())).collect()
        };
        for (path, found) in look_at(volumes, of.member) {
            let mut table = lock(&self.known);
            let copies = table.copies_on(&path);
            if matches!(found, Some(Found::Unknown(_))) {
                // The watch finds out.
                table.asked.insert(path.clone());
            }
            let Some(volume) = table.of_mut(&path) else { continue };
            let found = match found {
                Some(found) => found,
                None => Found::Broken(format!("it does not answer within {START_DEADLINE:?}")),
            };
            volume.begin(of, found, copies, self.damaged);
            if volume.state() != VolumeState::Healthy && volume.state() != VolumeState::Spare {
                let (volume, state, why) = (volume.name(), volume.state(), &volume.why);
                tracing::warn!(volume, %state, why, "a volume cannot be used");
            }
        }
        let entries = lock(&self.known).entries();
        if let Err(why) = self.save(of, entries) {
            tracing::error!(why, "the list of volumes cannot be written");
        }
    }

    fn save(&self, of: &Owned, entries: Vec<Entry>) -> Result<(), String> {
        if self.damaged {
            let what = "remove it while all volumes are mounted, and start the member again";
            return Err(format!("volumes.json is damaged: {what}"));
        }
        book::save(&*of.disk, &of.data, entries)
    }

    /// The volume that a database's files lie on; nothing if that is the data directory.
    pub(crate) fn home(&self, database: DatabaseId) -> Option<PathBuf> {
        self.of.as_ref()?;
        lock(&self.known).homes.get(&database).cloned()
    }

    /// Its state, if it is one of this member.
    pub(crate) fn state(&self, path: &Path) -> Option<VolumeState> {
        lock(&self.known).of(path).map(Known::state)
    }

    /// Looks at the space of all volumes that may be asked, and whether those without copies are
    /// there: nobody else would notice that a spare is gone. Blocks.
    pub(crate) fn look_at_space(&self) {
        let Some(of) = &self.of else { return };
        let paths: Vec<_> = {
            let table = lock(&self.known);
            let asks =
                |v: &&Known| v.state() != VolumeState::Failed && Arc::strong_count(&v.probing) == 1;
            table.volumes.iter().filter(asks).map(|volume| volume.path.clone()).collect()
        };
        for path in paths {
            let (free, total) = (of.disk.free_bytes(&path).ok(), of.disk.total_bytes(&path));
            let idle = self.probe_of(&path).filter(|_| lock(&self.known).copies_on(&path) == 0);
            let there = idle.map(|(probe, _)| probe.is_there());
            let mut table = lock(&self.known);
            let Some(volume) = table.of_mut(&path) else { continue };
            (volume.free_bytes, volume.total_bytes) = (free, total);
            // A marker is no proof that the volume can be written: the watch tests it.
            let back = volume.strikes > 0 && there == Some(Probed::Well);
            if let Some(probed) = there.filter(|_| !back) {
                volume.found(probed);
            }
            if back || volume.state() == VolumeState::Failed {
                table.asked.insert(path);
                self.changed.notify_one();
            }
        }
    }

    /// A test of a volume that was one once; nothing while one runs.
    fn probe_of(&self, path: &Path) -> Option<(Probe, Held)> {
        let of = self.of.as_ref()?;
        let table = lock(&self.known);
        let volume = table.of(path)?;
        let free = Arc::strong_count(&volume.probing) == 1;
        let entry = volume.entry.as_ref().filter(|_| free)?;
        let (disk, root) = (of.disk.clone(), path.to_owned());
        let probe = Probe { disk, root, member: of.member, volume: entry.volume };
        Some((probe, volume.probing.clone()))
    }

    /// For status pages; `copies` are those of this member.
    pub(crate) fn facts(&self, copies: &BTreeSet<DatabaseId>) -> Vec<v1::VolumeFacts> {
        let table = lock(&self.known);
        let fact = |volume: &Known| {
            let on =
                |(id, home): &(&DatabaseId, &PathBuf)| **home == volume.path && copies.contains(id);
            v1::VolumeFacts {
                path: volume.name(),
                state: volume.state().to_string(),
                why: volume.why.clone(),
                copies: u32::try_from(table.homes.iter().filter(on).count()).unwrap_or(u32::MAX),
                free_bytes: volume.free_bytes.filter(|_| volume.strikes == 0),
                total_bytes: volume.total_bytes,
                replaced_by: volume
                    .entry
                    .as_ref()
                    .and_then(|entry| entry.replaced_by.clone())
                    .unwrap_or_default(),
            }
        };
        table.volumes.iter().map(fact).collect()
    }
}

impl Known {
    /// What the first look at it says.
    ///
    /// An empty directory becomes a volume only if no link leads there: else it is the mount point
    /// of a disk that holds copies, whatever became of the book.
    fn begin(&mut self, of: &Owned, found: Found, copies: usize, damaged: bool) {
        let (id, used) = match (&found, &self.entry) {
            (Found::Ours(id), Some(entry)) if *id == entry.volume => (None, true),
            (Found::Ours(id), None) => (Some(*id), false),
            (Found::Ours(other), Some(_)) => {
                let why = format!("volume {other} is mounted there");
                return self.found_first(Probed::Absent(why));
            }
            (Found::Empty, None) if !damaged && self.configured && copies == 0 => {
                match book::mark(&*of.disk, &self.path, of.member) {
                    Ok(id) => (Some(id), false),
                    Err(why) => return self.found_first(Probed::Broken(why)),
                }
            }
            (Found::Empty, _) => {
                let why = "it is empty: is the disk mounted?".to_owned();
                return self.found_first(Probed::Absent(why));
            }
            (Found::Absent(why), _) => return self.found_first(Probed::Absent(why.clone())),
            (Found::Broken(why), _) => return self.found_first(Probed::Broken(why.clone())),
            (Found::Unknown(why), None) => {
                return self.found_first(Probed::Broken(why.clone()));
            }
            (Found::Unknown(_), Some(_)) => return,
        };
        if let (Some(id), false) = (id, used) {
            let spare = self.listed_spare && copies == 0 && book::holds_nothing(&self.path);
            self.entry = Some(Entry::new(&self.path, id, spare, self.listed_spare));
        }
        let moved = |entry: &&mut Entry| entry.listed_spare && !self.listed_spare;
        if let Some(entry) = self.entry.as_mut().filter(moved).filter(|_| self.configured) {
            // An operator made the spare a volume like the others.
            (entry.spare, entry.listed_spare) = (false, false);
        }
    }

    /// A disk that is not mounted is no disk that fails for a moment.
    fn found_first(&mut self, probed: Probed) {
        let absent = matches!(probed, Probed::Absent(_));
        self.found(probed);
        if absent || self.entry.is_none() {
            self.strikes = STRIKES;
        }
    }
}

impl Entry {
    fn new(path: &Path, volume: Uuid, spare: bool, listed_spare: bool) -> Self {
        let path = path.display().to_string();
        Self { path, volume, spare, listed_spare, retired: false, replaced_by: None }
    }
}

/// Those of the configuration, then those that only the book knows.
fn volumes(settings: &VolumeSettings, entries: Vec<Entry>) -> Vec<Known> {
    let known = |path: PathBuf, configured, entry| Known {
        configured,
        listed_spare: settings.spares.contains(&path),
        path,
        entry,
        strikes: 0,
        absent: false,
        why: String::new(),
        probing: Held::default(),
        free_bytes: None,
        total_bytes: None,
    };
    let configured = settings.volumes.iter().chain(&settings.spares);
    let mut volumes: Vec<_> = configured.map(|path| known(path.clone(), true, None)).collect();
    for entry in entries {
        let path = PathBuf::from(&entry.path);
        match volumes.iter_mut().find(|volume| volume.path == path) {
            Some(volume) => volume.entry = Some(entry),
            None => volumes.push(known(path, false, Some(entry))),
        }
    }
    volumes
}

/// Looks at all volumes at the same time, each on a thread of its own; nothing of one that hangs,
/// which is not asked again before it answers.
fn look_at(volumes: Vec<(PathBuf, Held)>, member: MemberId) -> Vec<(PathBuf, Option<Found>)> {
    let until = Instant::now() + START_DEADLINE;
    let look = |(path, held): (PathBuf, Held)| {
        let (reply, found) = mpsc::channel();
        let root = path.clone();
        let look = move || {
            let seen = book::look(&root, member);
            drop(held);
            drop(reply.send(seen));
        };
        let started = std::thread::Builder::new().name("volume-look".into()).spawn(look);
        if let Err(error) = started {
            tracing::error!(%error, "no thread to look at a volume");
        }
        (path, found)
    };
    let looks: Vec<_> = volumes.into_iter().map(look).collect();
    let wait = |(path, found): (PathBuf, mpsc::Receiver<Found>)| {
        let left = until.saturating_duration_since(Instant::now());
        let found = match found.recv_timeout(left) {
            Ok(found) => Some(found),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                Some(Found::Unknown("no thread looked at it".into()))
            }
        };
        (path, found)
    };
    looks.into_iter().map(wait).collect()
}

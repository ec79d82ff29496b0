//! On which volume a copy lies: chosen once, when it is made, and changed by an order alone.
//!
//! A new copy goes where the fewest are. A copy leaves its volume when consensus orders a seed on a
//! spare: the book says first that the volume is retired and which one takes its place, then the
//! link is replaced. An order that is repeated finds the link where it leads and changes nothing;
//! one that was interrupted takes the volume that the book names. Everything here blocks.

use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use keelson_types::{CopyFault, DatabaseId, News, SEED_RESERVE_BYTES, SpareOrder, VolumeState};
use uuid::Uuid;

use super::book;
use super::links::{self, Entry};
use super::probe::Probed;
use super::{Known, MemberVolumes, Owned, Table, lock};

/// A spare that is not tested within this time is passed over.
const PROBE_WITHIN: Duration = Duration::from_secs(15);

/// Between two looks whether a test of somebody else ended.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// Why a copy did not leave its volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stays {
    /// No volume has room.
    pub(crate) full: bool,
    pub(crate) why: String,
}

impl MemberVolumes {
    /// Sees to it that the directory of a database is where its copy is, or is to be; makes it for
    /// a copy that was never here.
    ///
    /// # Errors
    /// The volume of the copy is not there, or does not work: that is a fault of the copy, which
    /// never begins anew elsewhere by itself. `Forgotten` if the link is gone.
    pub(crate) fn prepare(&self, database: DatabaseId, is_new: bool) -> Result<(), CopyFault> {
        let Some(of) = &self.of else { return Ok(()) };
        let failed = |error: std::io::Error| CopyFault::LogIo(format!("its directory: {error}"));
        let root = match links::look(&of.data, database).map_err(failed)? {
            Entry::Directory => return Ok(()),
            Entry::None if is_new => return self.place(of, database),
            Entry::None => return Err(CopyFault::Forgotten),
            Entry::Volume(root) => root,
        };
        match self.usable(&root) {
            // Whoever is new has nothing there: a copy was removed, and added again.
            Err(_) if is_new => self.place(of, database),
            Err(why) => Err(CopyFault::LogIo(why)),
            // A volume that is there and works may have lost a directory: then the copy has
            // forgotten.
            Ok(()) if links::on_volume(&root, database).is_dir() => Ok(()),
            Ok(()) => links::make_directory(&root, database).map_err(failed),
        }
    }

    /// Whether copies on the volume can be opened.
    fn usable(&self, root: &Path) -> Result<(), String> {
        let name = root.display();
        if let Some(state) = self.state(root).filter(|state| state.is_lost())
            && state != VolumeState::Retired
        {
            let why = lock(&self.known).of(root).map(|v| v.why.clone()).unwrap_or_default();
            return Err(format!("its volume {name} is {state}: {why}"));
        }
        let Some((probe, _)) = self.probe_of(root) else {
            return Err(match self.state(root) {
                Some(_) => format!("its volume {name} does not answer"),
                None => format!("its volume {name} is none that this member knows"),
            });
        };
        match probe.is_there() {
            Probed::Well | Probed::Full => Ok(()),
            Probed::Unknown(why) => Err(format!("its volume {name} cannot be looked at: {why}")),
            Probed::Absent(why) => Err(format!("its volume {name} is missing: {why}")),
            Probed::Broken(why) => Err(format!("its volume {name} cannot be read: {why}")),
        }
    }

    /// Puts a new copy on the volume with the fewest, of these on the one with the most room.
    fn place(&self, of: &Owned, database: DatabaseId) -> Result<(), CopyFault> {
        let _acting = lock(&self.acting);
        let mut fit: Vec<_> = {
            let table = lock(&self.known);
            let takes = |v: &&Known| v.configured && v.state() == VolumeState::Healthy;
            let volumes = table.volumes.iter().filter(takes);
            volumes.map(|v| (table.copies_on(&v.path), v.path.clone())).collect()
        };
        fit.sort_by_cached_key(|(copies, path)| {
            let free = of.disk.free_bytes(path).unwrap_or(0);
            (*copies, u64::MAX - free)
        });
        let mut why = "no volume of this member is healthy".to_owned();
        for (_, root) in fit {
            let placed = self.usable(&root).and_then(|()| {
                let led = links::lead_to(&of.data, database, &root);
                led.map_err(|error| format!("{}: {error}", root.display()))
            });
            match placed {
                Ok(()) => {
                    tracing::info!(%database, volume = %root.display(), "a copy is placed");
                    lock(&self.known).homes.insert(database, root);
                    return Ok(());
                }
                Err(text) => why = text,
            }
        }
        Err(CopyFault::LogIo(format!("the copy has no place: {why}")))
    }

    /// Carries the order out: from now on the database's files are made on a spare. Says what is
    /// to be told, if anything was done.
    ///
    /// # Errors
    /// The volume is not lost any more; no spare has room, or works; the link cannot be changed.
    pub(crate) fn leave(
        &self,
        database: DatabaseId,
        order: &SpareOrder,
    ) -> Result<Option<News>, Stays> {
        let failed = |why: String| Stays { full: false, why };
        let Some(of) = &self.of else {
            return Err(failed("no volumes are configured here".into()));
        };
        let _acting = lock(&self.acting);
        let leaves = Path::new(&order.leaves);
        let entry = links::look(&of.data, database).map_err(|error| failed(error.to_string()))?;
        if entry != Entry::Volume(leaves.to_owned()) {
            return Ok(None);
        }
        self.is_lost_still(leaves).map_err(failed)?;
        let spare = self.choose(of, leaves, order.bytes)?;
        let entries = replaced(lock(&self.known).entries(), leaves, &spare);
        self.save(of, entries.clone()).map_err(failed)?;
        lock(&self.known).publish(entries);
        links::lead_to(&of.data, database, &spare).map_err(|error| failed(error.to_string()))?;
        let mut table = lock(&self.known);
        table.homes.insert(database, spare.clone());
        let left = table.volumes.iter().filter(|v| v.state() == VolumeState::Spare).count();
        Ok(Some(News::SpareAssigned {
            volume: order.leaves.clone(),
            spare: spare.display().to_string(),
            spares_left: u32::try_from(left).unwrap_or(u32::MAX),
        }))
    }

    /// Looks again: an order may come long after the volume was found lost. Whoever is retired was
    /// left already, and its other copies follow.
    fn is_lost_still(&self, leaves: &Path) -> Result<(), String> {
        let name = leaves.display();
        match self.state(leaves) {
            Some(VolumeState::Retired) => return Ok(()),
            Some(state) if state.is_lost() => {}
            Some(state) => return Err(format!("volume {name} is {state}: no copy leaves it")),
            None => return Err(format!("{name} is no volume that this member knows")),
        }
        match self.test(leaves) {
            Probed::Absent(_) | Probed::Broken(_) | Probed::Full => Ok(()),
            Probed::Unknown(why) => Err(format!("volume {name} cannot be tested: {why}")),
            Probed::Well => {
                // The watch tells that it is back.
                lock(&self.known).asked.insert(leaves.to_owned());
                self.changed.notify_one();
                Err(format!("volume {name} passed its test: no copy leaves it"))
            }
        }
    }

    /// The volume that took the place of the one that is left, else the first spare, if it has room
    /// and passes the test. While it is not known whether the former works, nobody goes elsewhere.
    fn choose(&self, of: &Owned, leaves: &Path, bytes: u64) -> Result<PathBuf, Stays> {
        let wanted = bytes.saturating_add(SEED_RESERVE_BYTES);
        let (mut full, mut why) = (true, String::new());
        let (heir, heirs) = {
            let table = lock(&self.known);
            (table.heir(leaves), table.heirs(leaves))
        };
        let undecided = |path: &Path, state: Option<VolumeState>| {
            let is_heir = heir.as_deref() == Some(path);
            let why = format!("{}, which takes its place, is to be tested again", path.display());
            let waits = is_heir && state == Some(VolumeState::Suspect);
            if waits { Err(Stays { full: false, why }) } else { Ok(()) }
        };
        if let Some(heir) = &heir {
            undecided(heir, self.state(heir))?;
        }
        for path in heirs {
            let free = of.disk.free_bytes(&path).unwrap_or(0);
            if free < wanted {
                why = format!("{why}; {} has {free} bytes free", path.display());
                continue;
            }
            let tested = self.test(&path);
            let text = match &tested {
                Probed::Well => return Ok(path),
                Probed::Full => "it is full",
                Probed::Absent(text) | Probed::Broken(text) | Probed::Unknown(text) => {
                    full = false;
                    text
                }
            };
            why = format!("{why}; {}: {text}", path.display());
            let unknown = matches!(tested, Probed::Unknown(_)).then_some(VolumeState::Suspect);
            if let Some(volume) = lock(&self.known).of_mut(&path) {
                volume.found(tested);
            }
            self.changed.notify_one();
            undecided(&path, unknown.or(self.state(&path)))?;
        }
        let why = format!("no spare volume takes a copy that needs {bytes} bytes{why}");
        Err(Stays { full, why })
    }

    /// A spare is tested before it is used, and given up if it does not answer.
    fn test(&self, path: &Path) -> Probed {
        let until = Instant::now() + PROBE_WITHIN;
        let (probe, held) = loop {
            match self.probe_of(path) {
                Some(free) => break free,
                // A test that runs now may end at once, or hang.
                None if self.is_waited_for(path) && Instant::now() < until => {
                    std::thread::sleep(PROBE_PAUSE);
                }
                None => return Probed::Broken("it does not answer".into()),
            }
        };
        let (reply, done) = std::sync::mpsc::channel();
        let look = move || {
            let _held = held;
            let _ = reply.send(probe.look());
        };
        if let Err(error) = std::thread::Builder::new().name("volume-probe".into()).spawn(look) {
            return Probed::Unknown(format!("no thread for its test: {error}"));
        }
        match done.recv_timeout(PROBE_WITHIN) {
            Ok(probed) => probed,
            Err(RecvTimeoutError::Timeout) => {
                Probed::Broken(format!("no answer within {PROBE_WITHIN:?}"))
            }
            Err(RecvTimeoutError::Disconnected) => Probed::Unknown("its test panicked".into()),
        }
    }
}

impl Table {
    /// Who took the place of a volume.
    fn heir(&self, leaves: &Path) -> Option<PathBuf> {
        let entry = self.of(leaves)?.entry.as_ref()?;
        entry.replaced_by.clone().map(PathBuf::from)
    }

    /// Who may take copies of a volume that is left, the best first.
    fn heirs(&self, leaves: &Path) -> Vec<PathBuf> {
        let heir = self.heir(leaves).filter(|path| {
            self.of(path).is_some_and(|volume| volume.state() == VolumeState::Healthy)
        });
        let spares = self.volumes.iter().filter(|v| v.state() == VolumeState::Spare);
        heir.into_iter().chain(spares.map(|volume| volume.path.clone())).collect()
    }
}

/// The book after copies went from one volume to another. A lost one that it did not name is in it
/// from now on: else the next start would take its mount point for a new volume.
pub(super) fn replaced(
    mut entries: Vec<book::Entry>,
    leaves: &Path,
    spare: &Path,
) -> Vec<book::Entry> {
    if !entries.iter().any(|entry| Path::new(&entry.path) == leaves) {
        entries.push(book::Entry::new(leaves, Uuid::nil(), false, false));
    }
    for entry in &mut entries {
        let path = Path::new(&entry.path);
        if path == spare {
            entry.spare = false;
        } else if path == leaves {
            entry.retired = true;
            entry.replaced_by = Some(spare.display().to_string());
        }
    }
    entries
}

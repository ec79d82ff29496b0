//! Room on the volumes of this member, asked of the disk for every frame: one system call per
//! volume is little beside a sync, and another program may fill a volume within milliseconds.
//!
//! Copies on one volume share a [`Room`]; a full volume holds up no copy on another one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use keelson_copy_core::room::{RESERVE_BYTES, Shortage};
use keelson_env::Disk;
use keelson_types::{DatabaseId, News};
use tokio::sync::Notify;

use crate::open::{Places, Roots};

/// Whoever looks at the volumes, and when he has to before the time.
#[derive(Debug, Default)]
struct Bell {
    changed: Notify,
    due: AtomicBool,
}

impl Bell {
    fn ask(&self) {
        self.due.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }
}

/// The rooms of a member.
#[derive(Debug)]
pub(crate) struct Rooms {
    places: Places,
    /// By the root of the stores.
    known: RwLock<BTreeMap<PathBuf, Arc<Room>>>,
    bell: Arc<Bell>,
}

impl Rooms {
    pub(crate) fn of(places: &Places) -> Self {
        let bell = Arc::<Bell>::default();
        let own = Roots { data: places.data.clone(), logs: places.logs.clone() };
        let first = Room::new(places, own, &bell);
        let known = BTreeMap::from([(places.data.clone(), Arc::new(first))]);
        Self { places: places.clone(), known: RwLock::new(known), bell }
    }

    /// That of a copy.
    pub(crate) fn of_database(&self, database: DatabaseId) -> Arc<Room> {
        let roots = self.places.roots(database);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = known.get(&roots.data) {
            return room.clone();
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Room::new(&self.places, roots.clone(), &self.bell));
        known.entry(roots.data.clone()).or_insert_with(make).clone()
    }

    /// Those of which anybody asked, that of the data directory first.
    pub(crate) fn all(&self) -> Vec<Arc<Room>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let own = |room: &&Arc<Room>| room.roots.data != self.places.data;
        let mut all: Vec<_> = known.values().cloned().collect();
        all.sort_by_key(|room| own(&room));
        all
    }

    /// The volumes are to be looked at before the time.
    pub(crate) fn ask(&self) {
        self.bell.ask();
    }

    /// Whether the volumes are to be looked at before the time; asked once for each.
    pub(crate) fn take_due(&self) -> bool {
        self.bell.due.swap(false, Ordering::Relaxed)
    }

    /// Waits until a volume became full, has room again, or [`Room::wake_below`] is reached.
    pub(crate) async fn changed(&self) {
        self.bell.changed.notified().await;
    }

    /// What changed since this was asked last; what came and went meanwhile is not told.
    pub(crate) fn news(&self) -> Vec<News> {
        self.all().iter().flat_map(|room| room.news()).collect()
    }
}

/// Which volumes of a copy are short, as last seen.
#[derive(Debug)]
pub(crate) struct Room {
    disk: Arc<dyn Disk>,
    pub(crate) roots: Roots,
    /// What they are called.
    pub(crate) names: [String; 2],
    known: Mutex<Known>,
    bell: Arc<Bell>,
    /// Free space for log at which the volumes are to be looked at before the time.
    wake_below: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    now: Shortage,
    /// What was told as news.
    told: Shortage,
    log_free: Option<u64>,
    store_free: Option<u64>,
}

impl Room {
    fn new(places: &Places, roots: Roots, bell: &Arc<Bell>) -> Self {
        let names = match roots.data == places.data {
            true => ["log".to_owned(), "data".to_owned()],
            // Log and store are together there.
            false => [(); 2].map(|()| roots.data.display().to_string()),
        };
        Self {
            disk: places.disk.clone(),
            roots,
            names,
            known: Mutex::default(),
            bell: bell.clone(),
            wake_below: AtomicU64::new(0),
        }
    }

    /// Whether log and stores share a volume.
    pub(crate) fn is_one_volume(&self) -> bool {
        self.roots.logs == self.roots.data
    }

    /// Looks, and says it once if a volume became full or has room again.
    pub(crate) fn look(&self) -> Shortage {
        let log = self.disk.free_bytes(&self.roots.logs).ok();
        let same = self.is_one_volume();
        let store = if same { log } else { self.disk.free_bytes(&self.roots.data).ok() };
        if log.is_some_and(|free| free < self.wake_below.load(Ordering::Relaxed)) {
            self.wake_below.store(0, Ordering::Relaxed);
            self.bell.ask();
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = known.now.after(log, store);
        if now != known.now {
            if now == Shortage::default() {
                tracing::info!(log_free = log, store_free = store, "there is room again");
            } else {
                tracing::warn!(log_free = log, store_free = store, "{now}");
            }
            (known.now, known.log_free, known.store_free) = (now, log, store);
            self.bell.changed.notify_one();
        }
        now
    }

    /// From now on the first look that finds less free space for log wakes [`Rooms::changed`].
    pub(crate) fn wake_below(&self, free_bytes: u64) {
        self.wake_below.store(free_bytes, Ordering::Relaxed);
    }

    fn news(&self) -> Vec<News> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = known.now;
        let told = std::mem::replace(&mut known.told, now);
        let [log, data] = &self.names;
        let volumes = [
            (log, told.log, now.log, known.log_free),
            (data, told.store, now.store, known.store_free),
        ];
        let volumes = volumes.into_iter().take(if self.is_one_volume() { 1 } else { 2 });
        let changed = volumes.filter(|(_, told, now, _)| told != now);
        let news = changed.map(|(volume, _, now, free_bytes)| News::VolumeShortage {
            volume: volume.clone(),
            step: if now { "began" } else { "ended" }.into(),
            free_bytes,
            reserve_bytes: RESERVE_BYTES,
        });
        news.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_copy_core::room::RETURN_BYTES;
    use keelson_env::SimDisk;

    fn rooms(disk: &Arc<SimDisk>, data: PathBuf, logs: PathBuf) -> Rooms {
        let (noting, volumes) = Default::default();
        Rooms::of(&Places { disk: disk.clone(), data, logs, noting, volumes })
    }

    #[tokio::test]
    async fn space_for_log_that_falls_below_a_mark_wakes_once() {
        let disk = Arc::new(SimDisk::new());
        let (data, logs) = ("/data".into(), "/data".into());
        let rooms = rooms(&disk, data, logs);
        let room = rooms.of_database(DatabaseId::from_u128(1));
        room.wake_below(3 * RESERVE_BYTES);
        disk.set_quota(Some(3 * RESERVE_BYTES));
        room.look();
        assert!(!rooms.take_due(), "not below it");
        disk.set_quota(Some(2 * RESERVE_BYTES));
        room.look();
        rooms.changed().await;
        assert!(rooms.take_due());
        room.look();
        assert!(!rooms.take_due(), "the mark is set anew after the look");
    }

    #[test]
    fn a_quota_that_is_lifted_ends_the_shortage() {
        let disk = Arc::new(SimDisk::new());
        let (data, logs) = ("/data".into(), "/data".into());
        let rooms = rooms(&disk, data, logs);
        let room = rooms.of_database(DatabaseId::from_u128(1));
        assert_eq!(room.look(), Shortage::default());
        assert_eq!(rooms.news(), []);
        disk.set_quota(Some(RESERVE_BYTES - 1));
        assert_eq!(room.look(), Shortage { log: true, store: true });
        disk.set_quota(Some(RESERVE_BYTES));
        let told = |step: &str, free_bytes| News::VolumeShortage {
            volume: "log".into(),
            step: step.into(),
            free_bytes: Some(free_bytes),
            reserve_bytes: RESERVE_BYTES,
        };
        assert_eq!(rooms.news(), [told("began", RESERVE_BYTES - 1)], "one volume, told once");
        assert!(!room.look().takes_log(), "not at the border");
        assert_eq!(rooms.news(), []);
        disk.set_quota(Some(RESERVE_BYTES + RETURN_BYTES));
        assert_eq!(room.look(), Shortage::default());
        assert_eq!(rooms.news(), [told("ended", RESERVE_BYTES + RETURN_BYTES)]);
    }
}

//! Room on the volumes of this member, asked of the disk for every frame: one system call per
//! volume is little beside a sync, and another program may fill a volume within milliseconds.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use keelson_copy_core::room::{RESERVE_BYTES, Shortage};
use keelson_env::Disk;
use keelson_types::News;
use tokio::sync::Notify;

use crate::open::Places;

/// Which volumes are short, as last seen.
#[derive(Debug)]
pub(crate) struct Room {
    disk: Arc<dyn Disk>,
    logs: PathBuf,
    data: PathBuf,
    known: Mutex<Known>,
    changed: Notify,
    /// Free space for log at which the volumes are to be looked at before the time.
    wake_below: AtomicU64,
    due: AtomicBool,
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
    pub(crate) fn of(places: &Places) -> Self {
        Self {
            disk: places.disk.clone(),
            logs: places.logs.clone(),
            data: places.data.clone(),
            known: Mutex::default(),
            changed: Notify::new(),
            wake_below: AtomicU64::new(0),
            due: AtomicBool::new(false),
        }
    }

    /// Looks, and says it once if a volume became full or has room again.
    pub(crate) fn look(&self) -> Shortage {
        let log = self.disk.free_bytes(&self.logs).ok();
        let same = self.logs == self.data;
        let store = if same { log } else { self.disk.free_bytes(&self.data).ok() };
        if log.is_some_and(|free| free < self.wake_below.load(Ordering::Relaxed)) {
            self.wake_below.store(0, Ordering::Relaxed);
            self.ask();
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
            self.changed.notify_one();
        }
        now
    }

    /// From now on the first look that finds less free space for log wakes [`Self::changed`].
    pub(crate) fn wake_below(&self, free_bytes: u64) {
        self.wake_below.store(free_bytes, Ordering::Relaxed);
    }

    /// The volumes are to be looked at before the time.
    pub(crate) fn ask(&self) {
        self.due.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Whether the volumes are to be looked at before the time; asked once for each.
    pub(crate) fn take_due(&self) -> bool {
        self.due.swap(false, Ordering::Relaxed)
    }

    /// Waits until a volume became full, has room again, or [`Self::wake_below`] is reached.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What changed since this was asked last; what came and went meanwhile is not told.
    pub(crate) fn news(&self) -> Vec<News> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = known.now;
        let told = std::mem::replace(&mut known.told, now);
        let volumes = [
            ("log", told.log, now.log, known.log_free),
            ("data", told.store, now.store, known.store_free),
        ];
        let same = self.logs == self.data;
        let changed = volumes
            .into_iter()
            .filter(|(volume, told, now, _)| told != now && !(same && *volume == "data"));
        let news = changed.map(|(volume, _, now, free_bytes)| News::VolumeShortage {
            volume: volume.into(),
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

    #[tokio::test]
    async fn space_for_log_that_falls_below_a_mark_wakes_once() {
        let disk = Arc::new(SimDisk::new());
        let (data, logs) = ("/data".into(), "/data".into());
        let room = Room::of(&Places { disk: disk.clone(), data, logs, noting: Arc::default() });
        room.wake_below(3 * RESERVE_BYTES);
        disk.set_quota(Some(3 * RESERVE_BYTES));
        room.look();
        assert!(!room.take_due(), "not below it");
        disk.set_quota(Some(2 * RESERVE_BYTES));
        room.look();
        room.changed().await;
        assert!(room.take_due());
        room.look();
        assert!(!room.take_due(), "the mark is set anew after the look");
    }

    #[test]
    fn a_quota_that_is_lifted_ends_the_shortage() {
        let disk = Arc::new(SimDisk::new());
        let (data, logs) = ("/data".into(), "/data".into());
        let room = Room::of(&Places { disk: disk.clone(), data, logs, noting: Arc::default() });
        assert_eq!(room.look(), Shortage::default());
        assert_eq!(room.news(), []);
        disk.set_quota(Some(RESERVE_BYTES - 1));
        assert_eq!(room.look(), Shortage { log: true, store: true });
        disk.set_quota(Some(RESERVE_BYTES));
        let told = |step: &str, free_bytes| News::VolumeShortage {
            volume: "log".into(),
            step: step.into(),
            free_bytes: Some(free_bytes),
            reserve_bytes: RESERVE_BYTES,
        };
        assert_eq!(room.news(), [told("began", RESERVE_BYTES - 1)], "one volume, told once");
        assert!(!room.look().takes_log(), "not at the border");
        assert_eq!(room.news(), []);
        disk.set_quota(Some(RESERVE_BYTES + RETURN_BYTES));
        assert_eq!(room.look(), Shortage::default());
        assert_eq!(room.news(), [told("ended", RESERVE_BYTES + RETURN_BYTES)]);
    }
}

//! Room on the volumes of this member, asked of the disk for every frame: one system call per
//! volume is little beside a sync, and another program may fill a volume within milliseconds.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use keelson_copy_core::room::Shortage;
use keelson_env::Disk;

use crate::open::Places;

/// Which volumes are short, as last seen.
#[derive(Debug)]
pub(crate) struct Room {
    disk: Arc<dyn Disk>,
    logs: PathBuf,
    data: PathBuf,
    known: Mutex<Shortage>,
}

impl Room {
    pub(crate) fn of(places: &Places) -> Self {
        Self {
            disk: places.disk.clone(),
            logs: places.logs.clone(),
            data: places.data.clone(),
            known: Mutex::default(),
        }
    }

    /// Looks, and says it once if a volume became full or has room again.
    pub(crate) fn look(&self) -> Shortage {
        let log = self.disk.free_bytes(&self.logs).ok();
        let same = self.logs == self.data;
        let store = if same { log } else { self.disk.free_bytes(&self.data).ok() };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = known.after(log, store);
        if now != *known {
            if now == Shortage::default() {
                tracing::info!(log_free = log, store_free = store, "there is room again");
            } else {
                tracing::warn!(log_free = log, store_free = store, "{now}");
            }
            *known = now;
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_copy_core::room::{RESERVE_BYTES, RETURN_BYTES};
    use keelson_env::SimDisk;

    #[test]
    fn a_quota_that_is_lifted_ends_the_shortage() {
        let disk = Arc::new(SimDisk::new());
        let (data, logs) = ("/data".into(), "/data".into());
        let room = Room::of(&Places { disk: disk.clone(), data, logs, noting: Arc::default() });
        assert_eq!(room.look(), Shortage::default());
        disk.set_quota(Some(RESERVE_BYTES - 1));
        assert_eq!(room.look(), Shortage { log: true, store: true });
        disk.set_quota(Some(RESERVE_BYTES));
        assert!(!room.look().takes_log(), "not at the border");
        disk.set_quota(Some(RESERVE_BYTES + RETURN_BYTES));
        assert_eq!(room.look(), Shortage::default());
    }
}

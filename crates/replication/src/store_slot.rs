//! The store of a copy while it is open.
//!
//! RocksDB locks its directory, so a store that a reader still holds cannot be opened a second
//! time. A store that was closed for idleness is therefore taken back as long as somebody holds it.
//! One that failed is never taken back: whoever opens it anew comes again until its readers have
//! ended, which they do when the life of the copy's files does. Until then [`StoreSlot::open`]
//! answers [`StoreError::InUse`], at once and without touching the files; that is no failure of the
//! store. Nobody waits here, and no store is let go under the lock.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use keelson_env::{KvStore, StoreError, StoreOpener};

/// How long the readers of a store may go on after it was let go for good. They look after every
/// piece they read whether they are to end; beyond this one hangs.
pub(crate) const READERS_END: Duration = Duration::from_secs(60);
/// How often is looked whether they have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// See the module page.
#[derive(Default)]
pub(crate) struct StoreSlot(Mutex<Slot>);

#[derive(Default)]
struct Slot {
    open: Option<Arc<dyn KvStore>>,
    /// Closed here, but maybe held by a reader.
    closed: Option<Weak<dyn KvStore>>,
    /// Where the store lies that was opened last.
    directory: Option<PathBuf>,
}

impl std::fmt::Debug for StoreSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreSlot").field("open", &self.lock().open.is_some()).finish()
    }
}

impl StoreSlot {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The store, if it is open.
    pub(crate) fn get(&self) -> Option<Arc<dyn KvStore>> {
        self.lock().open.clone()
    }

    /// The store, opened if it is closed. Blocking; one at a time may open.
    ///
    /// # Errors
    /// The opener's; [`StoreError::InUse`] while an earlier handle is held or being closed.
    pub(crate) fn open(
        &self,
        opener: &dyn StoreOpener,
        directory: &Path,
    ) -> Result<Arc<dyn KvStore>, StoreError> {
        if let Some(store) = self.take_back() {
            return Ok(store);
        }
        if opener.in_use(directory) {
            return Err(StoreError::InUse);
        }
        let store = opener.open(directory)?;
        let mut slot = self.lock();
        slot.open = Some(store.clone());
        slot.directory = Some(directory.to_owned());
        Ok(store)
    }

    /// Lets go of the store, which has nothing to do; it may be taken back.
    pub(crate) fn close(&self) {
        let mut slot = self.lock();
        let open = slot.open.take();
        if let Some(store) = &open {
            slot.closed = Some(Arc::downgrade(store));
        }
        drop(slot);
        drop(open);
    }

    /// Lets go of the store for good: the next one is read from the files.
    pub(crate) fn retire(&self) {
        let mut slot = self.lock();
        let open = slot.open.take();
        slot.closed = None;
        drop(slot);
        drop(open);
    }

    fn take_back(&self) -> Option<Arc<dyn KvStore>> {
        let mut slot = self.lock();
        if slot.open.is_none() {
            slot.open = slot.closed.take().and_then(|store| store.upgrade());
        }
        slot.open.clone()
    }

    /// Whether the store in this directory is closed, but an earlier handle of it is still there.
    pub(crate) fn must_wait(&self, opener: &dyn StoreOpener, directory: &Path) -> bool {
        self.take_back().is_none() && opener.in_use(directory)
    }

    /// Waits until nobody holds the store that was let go for good; says whether that came true in
    /// time.
    pub(crate) async fn closed(&self, opener: &dyn StoreOpener, patience: Duration) -> bool {
        let Some(directory) = self.directory() else { return true };
        let began = Instant::now();
        while opener.in_use(&directory) {
            if began.elapsed() > patience {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        true
    }

    /// The same for threads that nobody waits for.
    pub(crate) fn wait_closed(&self, opener: &dyn StoreOpener, patience: Duration) -> bool {
        self.directory().is_none_or(|directory| wait_closed(opener, &directory, patience))
    }

    fn directory(&self) -> Option<PathBuf> {
        self.lock().directory.clone()
    }
}

/// Waits until no handle of the store in this directory is left; says whether that came true in
/// time. Blocking.
pub(crate) fn wait_closed(opener: &dyn StoreOpener, directory: &Path, patience: Duration) -> bool {
    let began = Instant::now();
    while opener.in_use(directory) {
        if began.elapsed() > patience {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_env::MemStoreOpener;

    fn slot() -> (StoreSlot, MemStoreOpener) {
        (StoreSlot::default(), MemStoreOpener::new())
    }

    #[test]
    fn a_closed_store_that_a_reader_holds_is_taken_back() {
        let (slot, opener) = slot();
        let open = || slot.open(&opener, Path::new("/store")).unwrap();
        let reader = open();
        slot.close();
        assert!(slot.get().is_none());
        assert!(!slot.must_wait(&opener, Path::new("/store")));
        assert!(Arc::ptr_eq(&reader, &open()), "its directory is locked");
        slot.close();
        let old = Arc::downgrade(&reader);
        drop(reader);
        assert_eq!(old.strong_count(), 0, "nobody else keeps it open");
        open();
    }

    #[tokio::test]
    async fn a_retired_store_is_opened_anew_once_its_readers_ended() {
        let (slot, opener) = slot();
        let open = || slot.open(&opener, Path::new("/store"));
        let reader = open().unwrap();
        slot.close();
        slot.retire();
        assert!(matches!(open(), Err(StoreError::InUse)), "not beside its reader");
        assert!(slot.must_wait(&opener, Path::new("/store")));
        assert!(!slot.closed(&opener, Duration::ZERO).await);
        let ends = std::thread::spawn(move || drop(reader));
        assert!(slot.closed(&opener, READERS_END).await);
        open().unwrap();
        ends.join().unwrap();
    }
}

//! The store of a copy while it is open.
//!
//! RocksDB locks its directory, so a store that a reader still holds cannot be opened a second
//! time. A store that was closed for idleness is therefore taken back as long as somebody holds it.
//! One that failed is never taken back: whoever opens it anew waits for its readers, which end when
//! the life of the copy's files does.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use keelson_env::{KvStore, StoreError, StoreOpener};

/// How long the readers of a store that failed may take to end.
const READERS_END: Duration = Duration::from_secs(5);
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
    retired: Option<Weak<dyn KvStore>>,
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

    /// The store, opened if it is closed. Blocking.
    ///
    /// # Errors
    /// The opener's; [`StoreError::Failed`] if readers of a retired store do not end in time.
    pub(crate) fn open(
        &self,
        opener: &dyn StoreOpener,
        directory: &Path,
    ) -> Result<Arc<dyn KvStore>, StoreError> {
        if let Some(store) = self.take_back() {
            return Ok(store);
        }
        self.wait_for_readers()?;
        let store = opener.open(directory)?;
        let mut slot = self.lock();
        slot.open = Some(store.clone());
        Ok(store)
    }

    /// Lets go of the store, which has nothing to do; it may be taken back.
    pub(crate) fn close(&self) {
        let mut slot = self.lock();
        if let Some(store) = slot.open.take() {
            slot.closed = Some(Arc::downgrade(&store));
        }
    }

    /// Lets go of the store for good: the next one is read from the files.
    pub(crate) fn retire(&self) {
        let mut slot = self.lock();
        let open = slot.open.take().map(|store| Arc::downgrade(&store));
        let gone = open.or_else(|| slot.closed.take());
        slot.retired = gone.or_else(|| slot.retired.take());
        slot.closed = None;
    }

    fn take_back(&self) -> Option<Arc<dyn KvStore>> {
        let mut slot = self.lock();
        if slot.open.is_none() {
            slot.open = slot.closed.take().and_then(|store| store.upgrade());
        }
        slot.open.clone()
    }

    /// Waits until nobody holds the store that was let go for good. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if somebody does for too long.
    pub(crate) fn wait_for_readers(&self) -> Result<(), StoreError> {
        let Some(retired) = self.lock().retired.clone() else { return Ok(()) };
        let began = Instant::now();
        while retired.strong_count() > 0 {
            if began.elapsed() > READERS_END {
                let why = "a reader still holds the store that is to be opened anew";
                return Err(StoreError::Failed(why.into()));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
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
        assert!(Arc::ptr_eq(&reader, &open()), "its directory is locked");
        slot.close();
        let old = Arc::downgrade(&reader);
        drop(reader);
        assert_eq!(old.strong_count(), 0, "nobody else keeps it open");
        open();
    }

    #[test]
    fn a_retired_store_is_opened_anew_once_its_readers_ended() {
        let (slot, opener) = slot();
        let open = || slot.open(&opener, Path::new("/store")).unwrap();
        let reader = open();
        slot.close();
        slot.retire();
        let reading = Arc::downgrade(&reader);
        let ends = std::thread::spawn(move || drop(reader));
        open();
        assert_eq!(reading.strong_count(), 0, "not opened beside its reader");
        ends.join().unwrap();
    }
}

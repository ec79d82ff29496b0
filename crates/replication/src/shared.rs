//! What readers and services see of a copy without asking its owner.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keelson_env::KvStore;
use keelson_types::{CopyId, DatabaseId, Generation, Position, StreamId};
use tokio::sync::watch;

use crate::gate::ServeGate;

/// A position packed into one word, order kept: 32 bits of generation, 32 bits of offset (a
/// generation has at most 1 GiB plus one frame).
#[derive(Debug, Default)]
pub(crate) struct AtomicPosition(AtomicU64);

impl AtomicPosition {
    pub(crate) fn load(&self) -> Position {
        let packed = self.0.load(Ordering::SeqCst);
        Position { generation: Generation(packed >> 32), offset: packed & 0xffff_ffff }
    }

    pub(crate) fn store(&self, position: Position) {
        let packed = position.generation.0 << 32 | position.offset;
        self.0.store(packed, Ordering::SeqCst);
    }
}

/// Bytes of writes that may wait, be prepared, or be on their way to their commit.
const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a request takes beside its keys and values.
const REQUEST_BYTES: usize = 512;

/// A part of the bytes that one copy may hold for writers; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl Held {
    /// Takes a part, if it is there.
    pub(crate) fn take(of: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let bytes = bytes + REQUEST_BYTES;
        let taken = of.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            // One large write must get through alone.
            (held == 0 || held + bytes <= PENDING_BYTES_MAX).then_some(held + bytes)
        });
        taken.is_ok().then(|| Self { bytes, of: of.clone() })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Says which life of the copy's files this is; none is behind [`GONE`].
pub(crate) const GONE: u64 = u64::MAX;

/// The shared face of one copy.
#[derive(Debug)]
pub(crate) struct CopyShared {
    pub(crate) database: DatabaseId,
    pub(crate) copy: CopyId,
    pub(crate) name: String,
    pub(crate) stream: StreamId,
    pub(crate) gate: ServeGate,
    pub(crate) committed: AtomicPosition,
    pub(crate) durable: AtomicPosition,
    pub(crate) replayed: AtomicPosition,
    /// What the store holds durably.
    pub(crate) checkpointed: AtomicPosition,
    /// Wakes those who wait for a position; the number only says that something moved.
    pub(crate) moved: watch::Sender<u64>,
    /// Data address of the active's member, as last heard; empty if unknown.
    pub(crate) active_address: Mutex<String>,
    pub(crate) store: StoreSlot,
    /// Of the log files that are kept, and of the store when it was closed last.
    pub(crate) log_bytes: AtomicU64,
    pub(crate) store_bytes: AtomicU64,
    /// Bytes of unanswered writes, see [`Held`].
    pub(crate) pending: Arc<AtomicUsize>,
    /// Counts how often the files were opened; [`GONE`] when the copy is not here any more.
    pub(crate) life: AtomicU64,
}

impl CopyShared {
    /// Tells everyone who waits that a position moved.
    pub(crate) fn wake(&self) {
        if self.moved.receiver_count() > 0 {
            self.moved.send_modify(|count| *count += 1);
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            database: DatabaseId::from_bytes([7; 16]),
            copy: CopyId::from_bytes([1; 16]),
            name: "DB1".into(),
            stream: StreamId::from_bytes([9; 16]),
            gate: ServeGate::new(Arc::default()),
            committed: AtomicPosition::default(),
            durable: AtomicPosition::default(),
            replayed: AtomicPosition::default(),
            checkpointed: AtomicPosition::default(),
            moved: watch::Sender::new(0),
            active_address: Mutex::default(),
            store: StoreSlot::default(),
            log_bytes: AtomicU64::new(0),
            store_bytes: AtomicU64::new(0),
            pending: Arc::default(),
            life: AtomicU64::new(0),
        }
    }

    /// The copy's files were opened anew; readers of the old ones end.
    pub(crate) fn reopened(&self) {
        self.life.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// The copy is not here any more.
    pub(crate) fn left(&self) {
        self.life.store(GONE, Ordering::SeqCst);
        self.wake();
    }

    /// Waits until `reached` is true of this copy.
    pub(crate) async fn wait_until(&self, reached: impl Fn(&Self) -> bool) {
        if reached(self) {
            return;
        }
        let mut moved = self.moved.subscribe();
        while !reached(self) {
            if moved.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn active_address(&self) -> String {
        self.active_address.lock().map(|a| a.clone()).unwrap_or_default()
    }
}

/// The store of a copy while it is open. Stores with nothing to do are closed (review P7).
#[derive(Debug, Default)]
pub(crate) struct StoreSlot(Mutex<Option<OpenStore>>);

#[derive(Clone)]
struct OpenStore(Arc<dyn KvStore>);

impl std::fmt::Debug for OpenStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenStore")
    }
}

impl StoreSlot {
    pub(crate) fn get(&self) -> Option<Arc<dyn KvStore>> {
        let slot = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        slot.as_ref().map(|store| store.0.clone())
    }

    pub(crate) fn set(&self, store: Option<Arc<dyn KvStore>>) {
        let mut slot = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *slot = store.map(OpenStore);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unanswered_writes_have_a_bound_and_give_it_back() {
        let pending = Arc::new(AtomicUsize::new(0));
        let large = Held::take(&pending, 2 * PENDING_BYTES_MAX);
        assert!(large.is_some(), "alone");
        assert!(Held::take(&pending, 1).is_none());
        drop(large);
        assert!(Held::take(&pending, 1).is_some());
        assert_eq!(pending.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn packed_positions_keep_their_order() {
        let at = AtomicPosition::default();
        for position in [Position::ZERO, Position::new(1, 512), Position::new(70_000, 1 << 30)] {
            at.store(position);
            assert_eq!(at.load(), position);
        }
    }
}

//! What readers and services see of a copy without asking its owner.

use std::sync::atomic::{AtomicU64, Ordering};
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
    /// Wakes those who wait for a position; the number only says that something moved.
    pub(crate) moved: watch::Sender<u64>,
    /// Data address of the active's member, as last heard; empty if unknown.
    pub(crate) active_address: Mutex<String>,
    pub(crate) store: StoreSlot,
}

impl CopyShared {
    /// Tells everyone who waits that a position moved.
    pub(crate) fn wake(&self) {
        if self.moved.receiver_count() > 0 {
            self.moved.send_modify(|count| *count += 1);
        }
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
    fn packed_positions_keep_their_order() {
        let at = AtomicPosition::default();
        for position in [Position::ZERO, Position::new(1, 512), Position::new(70_000, 1 << 30)] {
            at.store(position);
            assert_eq!(at.load(), position);
        }
    }
}

//! What readers and services see of a copy without asking its owner.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keelson_copy_core::checkpoint;
use keelson_copy_core::copy_state::StatusTracker;
use keelson_types::{
    CopyId, DatabaseId, FailureTag, Generation, LogHold, Position, RefusalReason, StreamId,
};
use keelson_wire::Refusal;
use tokio::sync::watch;

use crate::catalog::CatalogSlot;
use crate::gate::ServeGate;
use crate::log_index::LogIndex;
use crate::pool::BusyClock;
use crate::scrub::ScrubState;
use crate::store_slot::StoreSlot;

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
const GONE: u64 = u64::MAX;

/// One life of a copy's files, for those who read them.
#[derive(Debug)]
pub(crate) struct Life {
    of: Arc<CopyShared>,
    number: u64,
}

impl Life {
    /// The present one. Taken before the files are, so that none is missed.
    pub(crate) fn of(shared: &Arc<CopyShared>) -> Self {
        Self { of: shared.clone(), number: shared.life.load(Ordering::SeqCst) }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.of.life.load(Ordering::SeqCst) != self.number
    }

    /// Waits until it is over.
    pub(crate) async fn over(&self) {
        self.of.wait_until(|_| self.is_over()).await;
    }

    /// Tells a reader why it ends; it may begin anew, here or at another copy.
    pub(crate) fn refusal(&self) -> Refusal {
        let name = &self.of.name;
        match self.of.life.load(Ordering::SeqCst) {
            GONE => {
                let message = format!("this member has no copy of {name} any more");
                Refusal::new(RefusalReason::NotActive, message)
            }
            _ => Refusal::new(RefusalReason::Activating, format!("{name} was opened anew")),
        }
    }
}

/// How many targets of seeds read a copy now, by what they read (the model's source flags).
#[derive(Debug, Default)]
pub(crate) struct Feeding {
    /// Its store and log.
    pub(crate) database: AtomicUsize,
    /// Its content index.
    pub(crate) catalog: AtomicUsize,
}

impl Feeding {
    /// Whether anything of it is read.
    pub(crate) fn is_read(&self) -> bool {
        [&self.database, &self.catalog].into_iter().any(|count| count.load(Ordering::Relaxed) > 0)
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
    /// What the store holds durably.
    pub(crate) checkpointed: AtomicPosition,
    /// The log is complete from here on.
    pub(crate) log_from: AtomicPosition,
    /// Keys of the store are in doubt: it is nobody's donor, and takes no digest.
    pub(crate) marked: AtomicBool,
    /// It was told that the files are gone, and that was not taken back.
    pub(crate) forgotten: AtomicBool,
    /// Wakes those who wait for a position; the number only says that something moved.
    pub(crate) moved: watch::Sender<u64>,
    /// Data address of the active's member, as last heard; empty if unknown.
    pub(crate) active_address: Mutex<String>,
    pub(crate) store: StoreSlot,
    /// Log that is needed here for a while, by something that does not outlive the process.
    pub(crate) holds: Mutex<Vec<LogHold>>,
    /// Of the log files that are kept, and of the store when it was closed last.
    pub(crate) log_bytes: AtomicU64,
    pub(crate) store_bytes: AtomicU64,
    /// Log that came to the files, and to the store, in the life of the process.
    pub(crate) written_bytes: AtomicU64,
    pub(crate) replayed_bytes: AtomicU64,
    /// Bytes of unanswered writes, see [`Held`].
    pub(crate) pending: Arc<AtomicUsize>,
    pub(crate) scrub: ScrubState,
    /// Counts how often the files were opened; [`GONE`] when the copy is not here any more.
    life: AtomicU64,
    /// Sizes and ages of the log files.
    index: Mutex<LogIndex>,
    /// The last status that was told, over the lives of the owner.
    status: Mutex<StatusTracker>,
    pub(crate) catalog: CatalogSlot,
    /// It is being seeded.
    pub(crate) seeded: AtomicBool,
    /// Targets of seeds that read it now.
    pub(crate) feeding: Feeding,
    /// A try of this life stands in its control file.
    pub(crate) counted: AtomicBool,
    /// It has a replay lag, which the watch over the volumes looks after.
    pub(crate) lagged: AtomicBool,
    /// Since when its log makes no progress.
    pub(crate) log_clock: BusyClock,
    /// What the watch found of it: its class, and whether it hangs now.
    stalled: Mutex<(Option<FailureTag>, bool)>,
}

impl CopyShared {
    pub(crate) fn index(&self) -> MutexGuard<'_, LogIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn kept_status(&self) -> StatusTracker {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn keep_status(&self, status: &StatusTracker) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone_from(status);
    }

    pub(crate) fn is_lagged(&self) -> bool {
        self.lagged.load(Ordering::Relaxed)
    }

    /// Whether its log is slow or hung on its disk.
    pub(crate) fn stalled(&self) -> Option<FailureTag> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn hangs(&self) -> bool {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    pub(crate) fn set_stalled(&self, class: Option<FailureTag>, hangs: bool) {
        *self.stalled.lock().unwrap_or_else(PoisonError::into_inner) = (class, hangs);
    }

    /// Of a copy whose files were not opened yet.
    pub(crate) fn new(
        database: DatabaseId,
        copy: CopyId,
        name: String,
        stream: StreamId,
        gate: ServeGate,
    ) -> Self {
        Self {
            database,
            copy,
            name,
            stream,
            gate,
            committed: AtomicPosition::default(),
            durable: AtomicPosition::default(),
            replayed: AtomicPosition::default(),
            checkpointed: AtomicPosition::default(),
            log_from: AtomicPosition::default(),
            marked: AtomicBool::new(false),
            forgotten: AtomicBool::new(false),
            moved: watch::Sender::new(0),
            active_address: Mutex::default(),
            store: StoreSlot::default(),
            holds: Mutex::default(),
            log_bytes: AtomicU64::new(0),
            store_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            replayed_bytes: AtomicU64::new(0),
            pending: Arc::default(),
            scrub: ScrubState::default(),
            life: AtomicU64::new(0),
            index: Mutex::default(),
            status: Mutex::default(),
            catalog: CatalogSlot::default(),
            seeded: AtomicBool::new(false),
            feeding: Feeding::default(),
            counted: AtomicBool::new(false),
            lagged: AtomicBool::new(false),
            log_clock: BusyClock::default(),
            stalled: Mutex::default(),
        }
    }

    /// Whether a whole generation of log would go for a checkpoint.
    pub(crate) fn may_checkpoint_for_space(&self) -> bool {
        checkpoint::is_due_for_space(self.checkpointed.load(), self.replayed.load())
    }

    /// Where the log begins that something in this process needs.
    pub(crate) fn local_hold(&self) -> Option<Position> {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.iter().map(|hold| hold.from).min()
    }

    /// Tells everyone who waits that a position moved.
    pub(crate) fn wake(&self) {
        if self.moved.receiver_count() > 0 {
            self.moved.send_modify(|count| *count += 1);
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let (database, copy) = (DatabaseId::from_bytes([7; 16]), CopyId::from_bytes([1; 16]));
        let stream = StreamId::from_bytes([9; 16]);
        Self::new(database, copy, "DB1".into(), stream, ServeGate::new(Arc::default()))
    }

    /// Bytes of log and store on disk, about.
    pub(crate) fn size(&self) -> u64 {
        let open = self.store.get().map(|store| store.size_bytes());
        let store = open.unwrap_or_else(|| self.store_bytes.load(Ordering::Relaxed));
        self.log_bytes.load(Ordering::Relaxed) + store
    }

    /// Which life of the copy's files this is.
    pub(crate) fn life(&self) -> u64 {
        self.life.load(Ordering::SeqCst)
    }

    /// The copy's files are closed or opened anew; readers of the old ones end.
    pub(crate) fn reopened(&self) {
        let next = |life: u64| (life != GONE).then(|| life + 1);
        // A copy that is not here any more stays so, whatever its owner does until it ends.
        let _ = self.life.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
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

    /// Whether the database is on its way: to this copy, or to one that nobody has named yet.
    pub(crate) fn is_moving(&self) -> bool {
        !self.gate.is_open() && (self.gate.is_assigned() || self.active_address().is_empty())
    }

    pub(crate) fn active_address(&self) -> String {
        self.active_address.lock().map(|a| a.clone()).unwrap_or_default()
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

    /// A request is kept while nobody is named, and while this copy is named and does not serve
    /// yet.
    #[test]
    fn a_database_is_moving_until_somebody_else_is_named_or_this_copy_answers() {
        let shared = CopyShared::for_tests();
        assert!(shared.is_moving(), "nobody is named");
        *shared.active_address.lock().expect("nobody panicked") = "m2:7401".into();
        assert!(!shared.is_moving(), "another copy is");
        shared.gate.assign(Some(keelson_types::Epoch::new(0, 3)), 9);
        assert!(shared.is_moving(), "this copy is, and does not serve yet");
        shared.gate.open(keelson_types::Epoch::new(0, 3));
        assert!(shared.is_moving(), "no lease covers it yet");
    }

    /// The first life has the number that another one behind the last would have.
    #[test]
    fn a_copy_that_left_has_no_further_life() {
        let shared = Arc::new(CopyShared::for_tests());
        let first = Life::of(&shared);
        shared.left();
        shared.reopened();
        assert!(first.is_over());
        assert_eq!(first.refusal().reason, RefusalReason::NotActive);
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

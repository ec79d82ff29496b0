//! The port to a copy's store: a map of user keys that replays frames and knows how far it is.
//!
//! A store has no log of its own: what was replayed after the last checkpoint lives in memory and
//! is gone after a crash *or after the store is dropped*, and is replayed again from the copy's
//! log. `MemStore` here and `RocksStore` in `store` behave alike; `kv_suite` holds both to it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use keelson_types::{
    HybridTime, KEY_BYTES_MAX, LogEnd, Position, Record, SessionId, Span, StoreKey,
};

/// One committed frame, decoded, ready to be replayed.
#[derive(Clone, Debug)]
pub struct ReplayFrame {
    /// Epoch of the frame and position behind it.
    pub end: LogEnd,
    /// Timestamp of the frame.
    pub time: HybridTime,
    /// Sequence number of the first record.
    pub first_sequence: u64,
    /// The effects, in order.
    pub records: Vec<Record>,
}

/// What a store remembers of a client session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionState {
    /// Timestamp of the last frame that touched the session.
    pub last_used: HybridTime,
    /// Answers kept for retries: sequence number and end of the frame that applied it, ascending.
    /// As long as what the client has in flight; who accepts writes bounds that.
    pub applied: Vec<(u64, LogEnd)>,
    /// Numbers below this were answered and dropped.
    pub lowest_unanswered: u64,
}

/// A key and its value.
pub type ScanItem = (Bytes, Bytes);

/// A key of any kind with its value: the body of the schema, a session as
/// [`SessionState::encode`] has it, or a user's value.
pub type StoreItem = (StoreKey, Bytes);

/// Why a store could not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The volume is full. Nothing was lost and the store stays open; retry when space returns.
    #[error("the store's volume is full")]
    NoSpace,
    /// Bytes on disk do not match their checksum.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Any other failure. The store must be closed and reopened from its files before it is used
    /// again.
    #[error("the store failed: {0}")]
    Failed(String),
    /// This process has the store open, or is still closing it. Nothing is wrong with it; try again
    /// once whoever holds it has let go.
    #[error("the store is still open here")]
    InUse,
    /// A frame does not follow what the store holds.
    #[error("frame ending at {frame} does not follow the replayed position {replayed}")]
    OutOfOrder {
        /// End of the refused frame.
        frame: Position,
        /// Where the store stands.
        replayed: Position,
    },
    /// Items that no store of this version would have handed out; nothing was applied.
    #[error("not the content of a store: {0}")]
    Malformed(String),
    /// A record this version does not know.
    #[error("a record needs version {0}")]
    NeedsVersion(u32),
    /// The files were written by a newer version; nothing was changed.
    #[error("the store has format {found}, this version knows formats up to {known}")]
    NewerFormat {
        /// Format of the files.
        found: u32,
        /// Newest format this version reads.
        known: u32,
    },
}

/// A consistent read-only view of a store.
pub trait KvSnapshot: Send {
    /// End of the last frame the view contains.
    fn at(&self) -> LogEnd;

    /// The value of a user key.
    ///
    /// # Errors
    /// Damage or failure of the store.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// At most `limit` user keys in `from..to` in ascending order, and not more than `bytes_max` of
    /// keys and values, except that one item is returned if there is any. `to = None` means to the
    /// end.
    ///
    /// # Errors
    /// Damage or failure of the store.
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<ScanItem>, StoreError>;

    /// At most `limit` items of a span, of every kind, in ascending order, and not more than
    /// `bytes_max` of keys and values, except that one item is returned if there is any. What a
    /// donor of a range fetch answers with.
    ///
    /// # Errors
    /// Damage or failure of the store.
    fn read_span(
        &self,
        span: &Span,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoreItem>, StoreError>;

    /// A digest of everything that replay defines (user keys, sessions, schema, epoch and
    /// position), equal on all copies at the same position, whatever the layout on disk; see
    /// [`KvDigest`](crate::KvDigest). Reads the whole store.
    ///
    /// # Errors
    /// Damage or failure of the store.
    fn digest(&self) -> Result<u128, StoreError> {
        self.digest_while(&|| true)
    }

    /// The same, asking now and then whether to go on: a view keeps its store open, and whoever
    /// wants to open it anew waits for that.
    ///
    /// # Errors
    /// Damage or failure of the store; [`StoreError::Failed`] if it was told to end.
    fn digest_while(&self, go_on: &dyn Fn() -> bool) -> Result<u128, StoreError>;
}

/// What a digest answers that was told to end.
#[must_use]
pub fn digest_ended() -> StoreError {
    StoreError::Failed("the store was opened anew before its digest was complete".to_owned())
}

/// One copy's store. One writer at a time calls `replay` and `checkpoint`; readers may be many.
///
/// Dropping the last handle (snapshots count) closes the store *without* a checkpoint.
pub trait KvStore: Send + Sync {
    /// Applies whole frames in order, together with the position behind the last one, in one atomic
    /// batch. After a crash the store stands at some replayed position not before the checkpoint,
    /// never between two frames. The caller bounds the batch (a few MiB is best).
    ///
    /// # Errors
    /// [`StoreError::OutOfOrder`] if a frame does not lie behind what is replayed; then nothing was
    /// applied. [`StoreError::NoSpace`]: nothing was applied, repeat it later. After
    /// [`StoreError::Failed`] or [`StoreError::Damaged`] every further `replay` and `checkpoint`
    /// fails: drop all handles and reopen.
    fn replay(&self, frames: &[ReplayFrame]) -> Result<(), StoreError>;

    /// Sets the replayed position, durably, and changes nothing else: the first step of a range
    /// fetch that undoes a fork. Only here may [`Self::checkpointed`] go back.
    ///
    /// # Errors
    /// As for [`Self::replay`]. After [`StoreError::NoSpace`] the position is set in memory only.
    fn rewind(&self, to: LogEnd) -> Result<(), StoreError>;

    /// Makes the content of `spans` equal to `items`, all of which lie in them, in one atomic
    /// batch: what is not among the items is removed. The position stays, so until the log is
    /// replayed up to where the items come from the content belongs to no position; a mark beside
    /// the store says so. Durable with the next checkpoint, which flushes even if the position did
    /// not move.
    ///
    /// # Errors
    /// [`StoreError::Malformed`]; else as for [`Self::replay`].
    fn overwrite(&self, spans: &[Span], items: &[StoreItem]) -> Result<(), StoreError>;

    /// End of the last frame replayed, perhaps only in memory.
    fn replayed(&self) -> LogEnd;

    /// Position that survives a crash, as a lower bound. It also moves between calls of
    /// `checkpoint`, when the store flushes by itself, and goes back in [`Self::rewind`] only.
    /// Cheap enough for every status report.
    fn checkpointed(&self) -> Position;

    /// Makes everything replayed durable and returns the new checkpoint. When to do so (by log
    /// bytes not yet checkpointed and by age) is the caller's decision.
    ///
    /// # Errors
    /// As for [`Self::replay`].
    fn checkpoint(&self) -> Result<Position, StoreError>;

    /// The value of a user key.
    ///
    /// # Errors
    /// Damage or failure of the store.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// What is known of a session; `None` if it never was or has expired.
    ///
    /// # Errors
    /// Damage or failure of the store.
    fn session(&self, session: SessionId) -> Result<Option<SessionState>, StoreError>;

    /// At most `limit` sessions last used before `before`, for expiry; about the longest idle
    /// first.
    ///
    /// # Errors
    /// Damage or failure of the store.
    fn idle_sessions(&self, before: HybridTime, limit: usize)
    -> Result<Vec<SessionId>, StoreError>;

    /// The body of the last [`Record::Schema`] replayed.
    ///
    /// # Errors
    /// Damage or failure of the store.
    fn schema(&self) -> Result<Option<Bytes>, StoreError>;

    /// A consistent view of now. It holds this handle, and so keeps the store open, as long as it
    /// lives.
    ///
    /// # Errors
    /// Damage or failure of the store.
    fn snapshot(self: Arc<Self>) -> Result<Box<dyn KvSnapshot>, StoreError>;

    /// Makes `directory`, which must not exist, a store of its own at some position between what
    /// was replayed when the call began and when it ends, and returns that end. Files are shared
    /// (hard links), so it must lie on the same volume. Meant as the source of a seed; may run
    /// beside `replay`.
    ///
    /// # Errors
    /// The directory exists, or the store is damaged or failed. What was begun may be left behind.
    fn create_checkpoint(&self, directory: &Path) -> Result<LogEnd, StoreError>;

    /// Bytes on disk, about. Cheap.
    fn size_bytes(&self) -> u64;
}

/// Opens stores; a store with nothing to replay and no reader is closed again.
pub trait StoreOpener: Send + Sync {
    /// Opens, or creates, the store in a directory. The parent of a created directory is synced, so
    /// that a checkpoint cannot vanish with its directory.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::NewerFormat`], [`StoreError::NoSpace`],
    /// [`StoreError::Failed`], or [`StoreError::InUse`] if it is open here already. A handle that
    /// is just being closed is waited for, for a while; ask [`StoreOpener::in_use`] before, so as
    /// not to wait.
    fn open(&self, directory: &Path) -> Result<Arc<dyn KvStore>, StoreError>;

    /// Whether this process has the store in a directory open, or has not closed it completely.
    fn in_use(&self, directory: &Path) -> bool;

    /// Reads everything that the files of a store hold and checks it, whether the store is open or
    /// closed, beside its writer and past every cache. `pace` is called with the bytes read since
    /// the last call and may sleep. An open store is not disturbed but for the disk's time.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with what was found, also when the files hold less than `at_least`;
    /// [`StoreError::Failed`] if the check itself could not be made.
    fn verify(
        &self,
        directory: &Path,
        at_least: Position,
        pace: &mut dyn FnMut(u64),
    ) -> Result<Verified, StoreError>;

    /// Makes `to` a store of what is sound in the closed store `from`, which stays as it is. No
    /// copy of sound files is made, so both must lie on the same volume; what an earlier attempt
    /// left in `to` is removed. Where the position itself is lost, the new store says `at`, before
    /// which the content must not be older; without it, so does one whose files name an older
    /// position.
    ///
    /// Content outside of what is lost is that of one position: the one found, or one that was lost
    /// with the rest.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], or [`StoreError::Failed`] if it could not be made; repeat it.
    fn rescue(&self, from: &Path, to: &Path, at: LogEnd) -> Result<Rescued, StoreError>;

    /// Removes a closed store with its directory. Nothing happens if there is none.
    ///
    /// # Errors
    /// [`StoreError::Failed`]; some of the files may be gone.
    fn destroy(&self, directory: &Path) -> Result<(), StoreError>;
}

/// What a check of a store's files found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Bytes of table files that were read.
    pub bytes: u64,
    /// Files without content that were damaged and are right again.
    pub mended: Vec<String>,
}

/// What came of a damaged store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rescued {
    /// Keys that were not to be read, or may be wrong.
    pub lost: Vec<Span>,
    /// Bytes of the table files in which they lay: more than what was lost.
    pub lost_bytes: u64,
    /// The position of the content, if that is not lost.
    pub at: Option<LogEnd>,
}

/// Refuses frames that do not each lie behind the one before, beginning behind `replayed`.
///
/// # Errors
/// [`StoreError::OutOfOrder`] with the first frame that does not follow.
pub fn check_order(replayed: LogEnd, frames: &[ReplayFrame]) -> Result<(), StoreError> {
    let mut last = replayed;
    for frame in frames {
        if frame.end.position <= last.position || frame.end.epoch < last.epoch {
            return Err(StoreError::OutOfOrder {
                frame: frame.end.position,
                replayed: last.position,
            });
        }
        last = frame.end;
    }
    Ok(())
}

/// The states of the sessions among the items.
///
/// # Errors
/// [`StoreError::Malformed`] for an item outside of the spans, in the wrong order, or that is no
/// session where there should be one.
pub fn check_items(
    spans: &[Span],
    items: &[StoreItem],
) -> Result<Vec<(SessionId, SessionState)>, StoreError> {
    let malformed = |what: &str| StoreError::Malformed(what.to_owned());
    let mut sessions = Vec::new();
    let mut rest = spans;
    let mut last: Option<&StoreKey> = None;
    for (key, value) in items {
        if last.is_some_and(|last| last >= key) {
            return Err(malformed("keys do not ascend"));
        }
        last = Some(key);
        while rest.first().is_some_and(|span| span.ends_before(key)) {
            rest = &rest[1..];
        }
        if !rest.first().is_some_and(|span| span.covers(key)) {
            return Err(malformed("a key was not asked for"));
        }
        match key {
            StoreKey::Schema => {}
            StoreKey::Session(id) => {
                let state = SessionState::decode(value);
                sessions.push((*id, state.ok_or_else(|| malformed("a session does not decode"))?));
            }
            StoreKey::User(key) if key.len() > KEY_BYTES_MAX => {
                return Err(malformed("a key is too long"));
            }
            StoreKey::User(_) => {}
        }
    }
    Ok(sessions)
}

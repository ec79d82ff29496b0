//! What a frame carries: effects, never conditions. Replaying the same records in the same order
//! gives the same store on every copy.

use bytes::Bytes;

use crate::{Epoch, SessionId};

/// One effect. The numeric tags of the encoding belong to `format`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Sets a user key.
    Put {
        /// 1 byte to [`crate::KEY_BYTES_MAX`].
        key: Bytes,
        /// At most [`crate::VALUE_BYTES_MAX`].
        value: Bytes,
    },
    /// Removes a user key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Removes all user keys in `from..to`. Up to 1,000 keys the active writes deletes instead
    /// (review S17), so that few range tombstones reach a store.
    DeleteRange {
        /// First key removed.
        from: Bytes,
        /// First key kept; empty: none, the range has no end.
        to: Bytes,
    },
    /// Bookkeeping of a client session (review S18).
    Session {
        /// The session.
        session: SessionId,
        /// What happened to it.
        change: SessionRecord,
    },
    /// First record of an epoch; nothing is served before its frame is committed (review R2).
    Opening {
        /// The epoch.
        epoch: Epoch,
    },
    /// Each copy takes a digest of its store where it replays this.
    DigestMarker {
        /// Names the marker in results.
        id: u64,
    },
    /// An operator's name for this position.
    RestorePoint {
        /// The name.
        name: String,
    },
    /// Nothing; moves `committed` or the clock along.
    NoOp,
    /// Settings of the content index from here on, opaque to the log.
    Schema {
        /// The encoded settings.
        body: Bytes,
    },
}

/// Changes of a session, explicit in the log so that every copy knows the same window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionRecord {
    /// The session exists from here on.
    Open,
    /// The write with this sequence number was applied by this frame; the client will not repeat
    /// numbers below `lowest_unanswered`, so their results are dropped.
    Applied {
        /// Number of the write in its session, from 1.
        sequence: u64,
        /// Lowest number whose answer the client has not seen.
        lowest_unanswered: u64,
    },
    /// The session is gone: idle by commit timestamps, or closed.
    Expire,
}

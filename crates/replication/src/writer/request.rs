//! What a write is while it waits: its body, what must be read for it, and where it is answered.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use keelson_env::SessionState;
use keelson_types::{Epoch, HybridTime, LogEnd, SessionId};
use keelson_wire::Refusal;
use tokio::sync::oneshot;

use super::stages::Stages;
use crate::shared::Held;

/// What an operation or a condition takes beside its bytes.
const PER_ITEM_BYTES: usize = 96;

/// A test on a key, evaluated by the active.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    Exists(Bytes, bool),
    Equals(Bytes, Bytes),
}

impl Condition {
    pub(crate) fn key(&self) -> &Bytes {
        match self {
            Self::Exists(key, _) | Self::Equals(key, _) => key,
        }
    }

    pub(super) fn holds(&self, value: Option<&Bytes>) -> bool {
        match self {
            Self::Exists(_, wanted) => value.is_some() == *wanted,
            Self::Equals(_, wanted) => value == Some(wanted),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Put(Bytes, Bytes),
    Delete(Bytes),
    /// From, and to (none: to the end).
    DeleteRange(Bytes, Option<Bytes>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) session: SessionId,
    pub(crate) sequence: u64,
    pub(crate) lowest_unanswered: u64,
}

#[derive(Debug)]
pub(crate) enum WriteBody {
    Apply { conditions: Vec<Condition>, operations: Vec<Operation>, stamp: Option<Stamp> },
    OpenSession(SessionId),
    Marker(u64),
}

impl WriteBody {
    /// Bytes that the write keeps in memory while it waits.
    pub(crate) fn bytes(&self) -> usize {
        let Self::Apply { conditions, operations, .. } = self else { return 0 };
        let tested = conditions.iter().map(|condition| match condition {
            Condition::Exists(key, _) => key.len(),
            Condition::Equals(key, value) => key.len() + value.len(),
        });
        let written = operations.iter().map(|operation| match operation {
            Operation::Put(key, value) => key.len() + value.len(),
            Operation::Delete(key) => key.len(),
            Operation::DeleteRange(from, to) => from.len() + to.as_ref().map_or(0, Bytes::len),
        });
        tested.chain(written).map(|bytes| bytes + PER_ITEM_BYTES).sum()
    }
}

/// Where a write ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) end: LogEnd,
    pub(crate) time: HybridTime,
    pub(crate) repeated: bool,
}

pub(crate) type WriteAnswer = Result<Written, Refusal>;

/// Where a write is answered, and the part of the copy's bytes that it holds until then.
#[derive(Debug)]
pub(crate) struct Reply {
    sender: oneshot::Sender<WriteAnswer>,
    arrived: Instant,
    pub(super) stages: Stages,
    _held: Option<Held>,
}

impl Reply {
    pub(crate) fn new(sender: oneshot::Sender<WriteAnswer>, held: Option<Held>) -> Self {
        Self { sender, arrived: Instant::now(), stages: Stages::begin(), _held: held }
    }

    /// When the request came.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Answers; the client may have gone, what was decided stands all the same.
    pub(crate) fn send(self, answer: WriteAnswer) {
        let _ = self.sender.send(answer);
    }
}

#[derive(Debug)]
pub(crate) struct WriteRequest {
    pub(crate) body: WriteBody,
    pub(crate) reply: Reply,
}

/// What has to be read from the store before a request can be applied.
#[derive(Debug, Default)]
pub(crate) struct ReadPlan {
    pub(crate) keys: Vec<Bytes>,
    pub(crate) ranges: Vec<(Bytes, Option<Bytes>)>,
    pub(crate) session: Option<SessionId>,
    /// Also look for sessions that nobody used for long.
    pub(crate) idle_sessions: bool,
}

/// Names a read under way: the epoch whose writer asked for it, and a number in it. What was read
/// for one epoch says nothing in the next, whose writer knows of other writes in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    pub(super) epoch: Epoch,
    pub(super) number: u64,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct ReadResults {
    pub(crate) values: BTreeMap<Bytes, Option<Bytes>>,
    /// Per range: its keys, or none if there are more than [`super::RANGE_KEYS_MAX`].
    pub(crate) ranges: Vec<Option<Vec<Bytes>>>,
    pub(crate) session: Option<Option<SessionState>>,
    pub(crate) idle_sessions: Vec<SessionId>,
}

/// A request with what it needs.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) request: WriteRequest,
    pub(crate) reads: ReadResults,
    /// Ticket of its read, if there was one.
    pub(crate) ticket: Option<Ticket>,
}

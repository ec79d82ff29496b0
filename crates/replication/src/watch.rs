//! `Watch`: committed changes from a position on, read from the copy's log.
//!
//! A watcher costs one task that sleeps until something is committed. It reads only what is
//! committed *and* in this copy's own log, so every copy shows the same changes in the same order.
//! A cursor of a given-up timeline, or older than the log, ends the stream with a message that says
//! so. A watcher that nobody listens to gives up, and is begun anew from its last cursor.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use keelson_format::{Chunk, Frame, Item};
use keelson_log::LogError;
use keelson_types::{LogEnd, Position, Record, RefusalReason};
use keelson_wire::{CommitToken, Refusal, v1};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::ahead::{Piece, Pieces, Room, Share, hand};
use crate::context::{CopyHandle, PlaneContext};
use crate::kv::{Standing, standing};
use crate::message::{LogView, Message};
use crate::shared::Life;

/// Log read at a time.
const READ_BYTES: usize = 1024 * 1024;
/// Messages waiting for a slow client; then the watcher waits too.
const AHEAD: usize = 2;

type Sender = mpsc::Sender<Piece<v1::WatchResponse>>;

/// What ends a watch: a message that says why, or a refusal.
type LastWord = Result<v1::WatchResponse, Status>;

/// Starts a watcher.
pub(crate) async fn start(
    context: Arc<PlaneContext>,
    copy: CopyHandle,
    request: v1::WatchRequest,
    share: Share,
) -> Result<Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>, Refusal> {
    // Before the view: a copy that is opened anew in between ends the watch at once.
    let life = Life::of(&copy.shared);
    let log = log_view(&copy).await?;
    let (sender, responses) = mpsc::channel(AHEAD + 1);
    // The place of the last word: it does not wait for whoever takes nothing.
    let closed = |_| Refusal::new(RefusalReason::Internal, "a new channel is closed");
    let last_word = sender.clone().try_reserve_owned().map_err(closed)?;
    let stream = Box::pin(Pieces::new(responses));
    let from = if request.from.is_empty() {
        copy.shared.committed.load().min(log.durable.position)
    } else {
        let bad = |_| Refusal::new(RefusalReason::BadArgument, "the cursor is not readable");
        let token = CommitToken::decode(&request.from).map_err(bad)?;
        let standing = standing(&log.table, &token, &copy);
        if standing == Standing::Unheard {
            let what = "the copy has not heard of the epoch of this cursor yet";
            return Err(Refusal::new(RefusalReason::Activating, what));
        }
        if standing == Standing::Discarded {
            let response = v1::WatchResponse { discarded: true, ..Default::default() };
            last_word.send((Ok(response), None));
            return Ok(stream);
        }
        token.end.position
    };
    let prefix = request.prefix;
    let mut watcher = Watcher { context, copy, log, at: from, prefix, share, sender };
    tokio::spawn(async move {
        let sender = watcher.sender.clone();
        let last = tokio::select! {
            biased;
            () = sender.closed() => return,
            () = life.over() => Err(life.refusal().into()),
            last = watcher.follow() => last,
        };
        last_word.send((last, None));
    });
    Ok(stream)
}

async fn log_view(copy: &CopyHandle) -> Result<LogView, Refusal> {
    let (reply, view) = oneshot::channel();
    let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
    copy.mailbox.send(Message::LogView(reply)).await.map_err(|_| gone())?;
    view.await.map_err(|_| gone())?
}

struct Watcher {
    context: Arc<PlaneContext>,
    copy: CopyHandle,
    log: LogView,
    at: Position,
    prefix: bytes::Bytes,
    share: Share,
    sender: Sender,
}

impl Watcher {
    /// Sends changes until there is a reason to end.
    async fn follow(&mut self) -> LastWord {
        loop {
            let at = self.at;
            self.copy.shared.wait_until(|shared| readable(shared) > at).await;
            let (response, room) = match self.next().await {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                Err(last) => return last,
            };
            let Ok(sent) = hand(&self.sender, response, room).await else {
                let what = "the client took nothing for too long; it may go on from its cursor";
                return Err(Refusal::new(RefusalReason::Overloaded, what).into());
            };
            if !sent {
                // Nobody hears this.
                return Err(Refusal::new(RefusalReason::ConnectionLost, "nobody listens").into());
            }
        }
    }

    /// The changes between here and what is readable, at most one read's worth, with the room that
    /// they take; none if no change has the prefix.
    async fn next(&mut self) -> Result<Option<(v1::WatchResponse, Room)>, LastWord> {
        let mut bytes = READ_BYTES;
        loop {
            let room = self.share.room(bytes).await;
            let mut room = room.map_err(|refusal| Err(refusal.into()))?;
            let (response, at) = self.read().await?;
            bytes = response.as_ref().map_or(0, v1::WatchResponse::encoded_len);
            if room.fit(bytes) {
                self.at = at;
                return Ok(response.map(|response| (response, room)));
            }
        }
    }

    /// The next changes, and how far they reach.
    async fn read(&self) -> Result<(Option<v1::WatchResponse>, Position), LastWord> {
        let limit = readable(&self.copy.shared);
        let (mut reader, from) = (self.log.reader.clone(), self.at);
        let (reply, chunks) = oneshot::channel();
        self.context.readers.run(move || drop(reply.send(reader.read(from, limit, READ_BYTES))));
        let gone = |_| Err(Refusal::new(RefusalReason::Internal, "a reader ended").into());
        let chunks = match chunks.await.map_err(gone)? {
            Ok(chunks) => chunks,
            Err(LogError::Truncated { .. }) => {
                return Err(Ok(v1::WatchResponse { truncated: true, ..Default::default() }));
            }
            Err(error) => {
                let refusal = Refusal::new(RefusalReason::CopyFailed, error.to_string());
                return Err(Err(refusal.into()));
            }
        };
        let gathered = self.gather(&chunks);
        gathered.map_err(|why| Err(Refusal::new(RefusalReason::CopyFailed, why).into()))
    }

    fn gather(&self, chunks: &[Chunk]) -> Result<(Option<v1::WatchResponse>, Position), String> {
        let mut changes = Vec::new();
        let mut last: Option<(LogEnd, keelson_types::HybridTime)> = None;
        for item in chunks.iter().flat_map(Chunk::items) {
            let item = item.map_err(|(position, error)| format!("at {position}: {error}"))?;
            let Item::Frame(info) = item else { continue };
            let Frame { end, time, records, .. } = info.decode().map_err(|e| e.to_string())?;
            changes.extend(records.into_iter().filter_map(|record| self.change(record)));
            last = Some((end, time));
        }
        let Some((end, time)) = last else {
            return Ok((None, chunks.last().map_or(self.at, |chunk| chunk.end)));
        };
        if changes.is_empty() {
            return Ok((None, end.position));
        }
        let cursor = CommitToken { stream: self.copy.shared.stream, end, time }.encode();
        let unix_millis = time.unix_millis();
        let response = v1::WatchResponse { cursor, unix_millis, changes, ..Default::default() };
        Ok((Some(response), end.position))
    }

    fn change(&self, record: Record) -> Option<v1::WatchChange> {
        use v1::watch_change::Change;
        let change = match record {
            Record::Put { key, value } if key.starts_with(&self.prefix) => {
                Change::Put(v1::KeyValue { key, value })
            }
            Record::Delete { key } if key.starts_with(&self.prefix) => Change::Delete(key),
            Record::DeleteRange { from, to } => {
                Change::DeleteRange(v1::RangeOperation { from, to })
            }
            _ => return None,
        };
        Some(v1::WatchChange { change: Some(change) })
    }
}

/// Committed and in this copy's log.
fn readable(shared: &crate::shared::CopyShared) -> Position {
    shared.committed.load().min(shared.durable.load())
}

//! `Watch`: committed changes from a position on, read from the copy's log.
//!
//! A watcher costs one task that sleeps until something is committed. It reads only what is
//! committed *and* in this copy's own log, so every copy shows the same changes in the same order.
//! A cursor of a given-up timeline, or older than the log, ends the stream with a message that says
//! so.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use keelson_format::{Chunk, Frame, Item};
use keelson_log::LogError;
use keelson_types::{LogEnd, Position, Record, RefusalReason};
use keelson_wire::{CommitToken, Refusal, v1};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::context::{CopyHandle, PlaneContext};
use crate::kv::{Standing, standing};
use crate::message::{LogView, Message};
use crate::shared::Life;

/// Log read at a time.
const READ_BYTES: usize = 1024 * 1024;
/// Messages waiting for a slow client; then the watcher waits too.
const AHEAD: usize = 16;

type Sender = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// Starts a watcher.
pub(crate) async fn start(
    context: Arc<PlaneContext>,
    copy: CopyHandle,
    request: v1::WatchRequest,
) -> Result<Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>, Refusal> {
    // Before the view: a copy that is opened anew in between ends the watch at once.
    let life = Life::of(&copy.shared);
    let log = log_view(&copy).await?;
    let (sender, responses) = mpsc::channel(AHEAD);
    let stream = Box::pin(ReceiverStream::new(responses));
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
            // The channel is empty.
            let _ = sender.try_send(Ok(response));
            return Ok(stream);
        }
        token.end.position
    };
    let watcher = Watcher { context, copy, life, log, at: from, prefix: request.prefix, sender };
    tokio::spawn(watcher.run());
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
    /// Of the files that `log` reads.
    life: Life,
    log: LogView,
    at: Position,
    prefix: bytes::Bytes,
    sender: Sender,
}

impl Watcher {
    async fn run(mut self) {
        loop {
            let (at, life) = (self.at, &self.life);
            let news =
                self.copy.shared.wait_until(|shared| readable(shared) > at || life.is_over());
            tokio::select! {
                biased;
                () = self.sender.closed() => return,
                () = news => {}
            }
            if self.life.is_over() {
                let _ = self.sender.send(Err(self.life.refusal().into())).await;
                return;
            }
            match self.read().await {
                Ok(Some(response)) => {
                    if self.sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(status) => {
                    let _ = self.sender.send(status).await;
                    return;
                }
            }
        }
    }

    /// The changes between here and what is readable, at most one read's worth; none if no change
    /// has the prefix.
    async fn read(
        &mut self,
    ) -> Result<Option<v1::WatchResponse>, Result<v1::WatchResponse, Status>> {
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

    fn gather(&mut self, chunks: &[Chunk]) -> Result<Option<v1::WatchResponse>, String> {
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
            self.at = chunks.last().map_or(self.at, |chunk| chunk.end);
            return Ok(None);
        };
        self.at = end.position;
        if changes.is_empty() {
            return Ok(None);
        }
        let cursor = CommitToken { stream: self.copy.shared.stream, end, time }.encode();
        let unix_millis = time.unix_millis();
        Ok(Some(v1::WatchResponse { cursor, unix_millis, changes, ..Default::default() }))
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

//! Salvage: log that was cut off the copy of this member and kept, listed and read while the copy
//! goes on.

use std::collections::VecDeque;

use keelson_copy_core::salvage::{kept_until, may_delete};
use keelson_env::Disk;
use keelson_format::FrameInfo;
use keelson_log::{LogError, Salvage, SalvagedFrames, delete_salvage, list_salvage, read_salvage};
use keelson_types::{Record, RefusalReason, Setting};
use keelson_wire::{Refusal, ids, v1};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use super::Answers;
use crate::ahead::{Piece, Pieces, Share, hand};
use crate::kv::KvService;
use crate::message::Message;
use crate::owner::unix_millis;
use crate::pool::Pool;

/// Bytes of records in one message, except that one record is sent if there is any.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// Messages read ahead of the asker.
const AHEAD: usize = 2;

impl KvService {
    pub(super) async fn salvages(&self, database: &str) -> Result<Vec<v1::Salvage>, Refusal> {
        let found = self.found_salvage(database).await?.1;
        let shown = |salvage: Salvage| v1::Salvage {
            cut_unix_millis: salvage.cut_unix_ms.unwrap_or(0),
            kept_until_unix_millis: self.kept_until(&salvage),
            id: salvage.name,
            epoch: Some(salvage.epoch.into()),
            at: Some(salvage.at.into()),
            bytes: salvage.bytes,
        };
        Ok(found.into_iter().map(shown).collect())
    }

    fn kept_until(&self, salvage: &Salvage) -> u64 {
        let retention = self.context.settings.borrow().span(Setting::SalvageRetention);
        kept_until(salvage.cut_unix_ms, retention, unix_millis())
    }

    /// Deletes one by an operator's word.
    pub(super) async fn remove_salvage(
        &self,
        request: v1::DeleteSalvageRequest,
    ) -> Result<(), Refusal> {
        let (directory, found) = self.found_salvage(&request.database).await?;
        let salvage = named(found, &request.id)?;
        let until = self.kept_until(&salvage);
        may_delete(until, unix_millis(), request.before_retention)
            .map_err(|refused| Refusal::new(refused.reason, refused.message))?;
        let disk = self.context.places.disk.clone();
        let (reply, deleted) = oneshot::channel();
        let (database, id) = (&request.database, &request.id);
        tracing::warn!(%database, %id, "salvage is deleted by an operator's word");
        self.context.readers.run(move || {
            drop(reply.send(delete_salvage(&*disk, &directory, &salvage)));
        });
        let gone = |_| Refusal::new(RefusalReason::Internal, "the removal panicked");
        deleted.await.map_err(gone)?.map_err(|error| refusal(&error))
    }

    pub(super) async fn salvaged(
        &self,
        request: v1::ReadSalvageRequest,
        share: Share,
    ) -> Result<Answers<v1::ReadSalvageResponse>, Refusal> {
        let (directory, found) = self.found_salvage(&request.database).await?;
        let (salvage, disk) = (named(found, &request.id)?, self.context.places.disk.clone());
        let read = move || read_salvage(&*disk, &directory, &salvage);
        let frames = on(&self.context.scans, read).await?.map_err(|error| refusal(&error))?;
        let (sender, responses) = mpsc::channel(AHEAD);
        let service = self.clone();
        tokio::spawn(async move {
            let sent = tokio::select! {
                () = sender.closed() => return,
                sent = service.send_salvage(frames, share, &sender) => sent,
            };
            if let Err(refusal) = sent {
                // A client that has gone needs no answer.
                let _ = sender.send((Err(refusal.into()), None)).await;
            }
        });
        Ok(Box::pin(Pieces::new(responses)))
    }

    /// Reads and sends message by message, so that a slow asker keeps no thread.
    async fn send_salvage(
        &self,
        frames: SalvagedFrames,
        share: Share,
        sender: &Sender,
    ) -> Result<(), Refusal> {
        let mut records = Records { frames, left: VecDeque::new() };
        loop {
            let mut room = share.room(MESSAGE_BYTES).await?;
            let read = move || {
                let message = records.message();
                (records, message)
            };
            let (rest, (message, is_last)) = on(&self.context.readers, read).await?;
            records = rest;
            let bytes = message.encoded_len();
            if !room.fit(bytes) {
                // Its bytes are those of the salvage, which is in memory as a whole.
                drop(room);
                room = share.room(bytes).await?;
            }
            let stalled = |_| {
                let what = "the client took nothing for too long";
                Refusal::new(RefusalReason::DeadlineExceeded, what)
            };
            if !hand(sender, message, room).await.map_err(stalled)? || is_last {
                return Ok(());
            }
        }
    }

    async fn found_salvage(
        &self,
        database: &str,
    ) -> Result<(std::path::PathBuf, Vec<Salvage>), Refusal> {
        let copy = self.copy(database)?;
        let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
        let (reply, view) = oneshot::channel();
        copy.mailbox.send(Message::LogView(reply)).await.map_err(|_| gone())?;
        let log = view.await.map_err(|_| gone())??.log;
        let directory = self.context.places.log(copy.shared.database, log);
        let (reply, listed) = oneshot::channel();
        let (disk, of) = (self.context.places.disk.clone(), directory.clone());
        self.context.readers.run(move || drop(reply.send(list(&*disk, &of))));
        let found = listed.await.map_err(|_| gone())?.map_err(|error| refusal(&error))?;
        Ok((directory, found))
    }
}

fn named(found: Vec<Salvage>, id: &str) -> Result<Salvage, Refusal> {
    let unknown = || {
        let what = format!("this copy keeps no salvage {id:?}");
        Refusal::new(RefusalReason::BadArgument, what)
    };
    found.into_iter().find(|salvage| salvage.name == id).ok_or_else(unknown)
}

fn list(disk: &dyn Disk, directory: &std::path::Path) -> Result<Vec<Salvage>, LogError> {
    list_salvage(disk, directory)
}

fn refusal(error: &LogError) -> Refusal {
    Refusal::new(RefusalReason::CopyFailed, format!("salvage: {error}"))
}

/// Does blocking work on a thread of a pool.
async fn on<T: Send + 'static>(
    pool: &Pool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let (reply, done) = oneshot::channel();
    pool.run(move || drop(reply.send(work())));
    done.await.map_err(|_| Refusal::new(RefusalReason::Internal, "a reader thread ended"))
}

type Sender = mpsc::Sender<Piece<v1::ReadSalvageResponse>>;

/// What is left of a salvage.
struct Records {
    frames: SalvagedFrames,
    /// Of the last frame.
    left: VecDeque<v1::SalvagedRecord>,
}

impl Records {
    /// As many as one message has, and whether it is the last one, which says what was not read.
    fn message(&mut self) -> (v1::ReadSalvageResponse, bool) {
        let mut message = v1::ReadSalvageResponse::default();
        let mut bytes = 0;
        loop {
            while let Some(record) = self.left.front() {
                let more = record.encoded_len();
                if bytes > 0 && bytes + more > MESSAGE_BYTES {
                    return (message, false);
                }
                bytes += more;
                message.records.extend(self.left.pop_front());
            }
            let frame = self.frames.next();
            let Some((frame, decoded)) = frame.and_then(|f| f.decode().ok().map(|d| (f, d))) else {
                message.unread_bytes = self.frames.unread_bytes();
                return (message, true);
            };
            let millis = decoded.time.unix_millis();
            let numbered = (decoded.first_sequence..).zip(decoded.records);
            self.left = numbered.map(|(n, record)| salvaged(&frame, millis, n, record)).collect();
        }
    }
}

fn salvaged(
    frame: &FrameInfo,
    unix_millis: u64,
    sequence: u64,
    record: Record,
) -> v1::SalvagedRecord {
    let end = frame.end();
    let mut salvaged = v1::SalvagedRecord {
        epoch: Some(end.epoch.into()),
        end: Some(end.position.into()),
        sequence,
        unix_millis,
        ..v1::SalvagedRecord::default()
    };
    salvaged.kind = match record {
        Record::Put { key, value } => {
            (salvaged.key, salvaged.value) = (key, value);
            "put"
        }
        Record::Delete { key } => {
            salvaged.key = key;
            "delete"
        }
        Record::DeleteRange { from, to } => {
            (salvaged.key, salvaged.to) = (from, to);
            "delete_range"
        }
        Record::Session { session, .. } => {
            salvaged.session = ids::bytes(session);
            "session"
        }
        Record::Schema { .. } => "schema",
        Record::Opening { .. } => "opening",
        Record::DigestMarker { .. } => "digest_marker",
        Record::RestorePoint { .. } => "restore_point",
        Record::NoOp => "no_op",
    }
    .into();
    salvaged
}

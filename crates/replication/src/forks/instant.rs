//! Resolving an instant of a copy: the frame at which its log would be cut, and what lies behind.
//!
//! Reads the log from where the store stands; nothing is changed. What was resolved may be out of
//! reach a moment later, because replay goes on: whoever cuts the log looks again.

use std::sync::Arc;

use keelson_format::Item;
use keelson_log::LogReader;
use keelson_types::{EpochTable, Instant, LogEnd, Position, RefusalReason};
use keelson_wire::{Refusal, v1};
use tokio::sync::oneshot;

use super::build::READ_BYTES;
use super::internal;
use super::reach::{Reach, Until};
use crate::context::{CopyHandle, PlaneContext};
use crate::message::Message;
use crate::owner::unix_millis;

/// An instant of a log, and what lies behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Resolved {
    /// End of the last frame that belongs to the instant.
    kept: LogEnd,
    /// When it was written; 0 if the store has it and no frame behind it was kept.
    kept_unix_ms: u64,
    end: LogEnd,
    frames: u64,
    records: u64,
    bytes: u64,
    /// When the first and the last frame behind the instant were written.
    discarded_unix_ms: Option<(u64, u64)>,
}

impl From<Resolved> for v1::InstantInfo {
    fn from(resolved: Resolved) -> Self {
        let (first, last) = resolved.discarded_unix_ms.unwrap_or_default();
        Self {
            kept: Some(resolved.kept.into()),
            kept_unix_millis: resolved.kept_unix_ms,
            log_end: Some(resolved.end.into()),
            frames: resolved.frames,
            records: resolved.records,
            bytes: resolved.bytes,
            first_unix_millis: first,
            last_unix_millis: last,
        }
    }
}

/// A log from where its store stands.
struct Stretch {
    reader: LogReader,
    table: EpochTable,
    from: Position,
    end: LogEnd,
}

impl Stretch {
    fn resolve(&mut self, until: Until) -> Result<Resolved, Refusal> {
        let epoch = self.table.epoch_at(self.from);
        let kept = LogEnd { epoch, position: self.from };
        let mut found = Resolved { kept, end: self.end, ..Resolved::default() };
        let (mut read, mut inside) = (self.from, true);
        while read < self.end.position {
            let chunks = self.reader.read(read, self.end.position, READ_BYTES);
            let chunks = chunks.map_err(|error| internal(&error))?;
            let before = read;
            for item in chunks.iter().flat_map(keelson_format::Chunk::items) {
                let Item::Frame(frame) = item.map_err(|(_, error)| internal(&error))? else {
                    continue;
                };
                let (end, time) = (frame.end(), frame.header.time.unix_millis());
                if end.position <= read {
                    continue;
                }
                read = end.position;
                inside = inside && until.holds(&frame);
                if inside {
                    (found.kept, found.kept_unix_ms) = (end, time);
                    continue;
                }
                found.frames += 1;
                found.records += u64::from(frame.header.record_count);
                found.bytes += frame.bytes.len() as u64;
                let first = found.discarded_unix_ms.map_or(time, |(first, _)| first);
                found.discarded_unix_ms = Some((first, time));
            }
            if read == before {
                break;
            }
        }
        Ok(found)
    }
}

impl PlaneContext {
    /// Finds an instant of a copy.
    ///
    /// # Errors
    /// `instant_out_of_reach` with the span that the copy can be taken back to, or what its log
    /// says.
    pub(crate) async fn resolve_instant(
        self: &Arc<Self>,
        copy: &CopyHandle,
        at: Instant,
    ) -> Result<Resolved, Refusal> {
        let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
        let (reply, log) = oneshot::channel();
        copy.mailbox.send(Message::LogView(reply)).await.map_err(|_| gone())?;
        let log = log.await.map_err(|_| gone())??;
        let (reply, view) = oneshot::channel();
        copy.mailbox.send(Message::View(reply)).await.map_err(|_| gone())?;
        let view = view.await.map_err(|_| gone())?;
        let (name, from) = (copy.shared.name.clone(), view.marks.replayed);
        let last_unix_ms = view.last_inspected_unix_millis;
        let (mut reader, table, end) = (log.reader.clone(), log.table, log.durable);
        let (reply, found) = oneshot::channel();
        self.scans.run(move || {
            let span = (from, end.position);
            let reach = Reach::find(&mut reader, span, end.position, last_unix_ms);
            let checked = reach.and_then(|reach| reach.until(at, unix_millis(), &name));
            let mut stretch = Stretch { reader: log.reader, table, from, end };
            drop(reply.send(checked.and_then(|until| stretch.resolve(until))));
        });
        found.await.map_err(|_| gone())?
    }
}

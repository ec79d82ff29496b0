//! The holder's side of a fetch: what both logs share, then the bytes from there on.

use std::sync::Arc;

use keelson_format::{Chunk, pack};
use keelson_log::LogError;
use keelson_types::{LogEnd, Position, RefusalReason};
use keelson_wire::{Refusal, epoch_rows, epoch_table, ids, v1};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::context::PlaneContext;
use crate::message::{LogView, Message};

/// Log sent in one message.
const FETCH_BYTES: usize = 1024 * 1024;

/// Where a fetch starts and ends.
pub(crate) struct FetchPlan {
    matched: LogEnd,
    until: Position,
    compressed: bool,
}

impl FetchPlan {
    pub(crate) fn new(request: v1::FetchLogRequest, view: &LogView) -> Result<Self, Refusal> {
        if ids::stream(&request.stream)? != view.stream {
            let message = "this member's copy belongs to another log stream";
            return Err(Refusal::new(RefusalReason::Diverged, message));
        }
        let compressed = request.compressed;
        let wanted = LogEnd::from(request.wanted.unwrap_or_default());
        let table = epoch_table(request.epochs)?;
        let end = request.end.map(Position::from).unwrap_or_default();
        if request.committed {
            let matched = view.table.common(view.durable.position, &table, end);
            let until = view.committed.min(view.durable.position);
            return Ok(Self { matched, until, compressed });
        }
        let holds = view.durable >= wanted
            && view.table.end_of(wanted.epoch, view.durable.position) >= wanted.position;
        if !holds {
            let message = format!("this log ends at {}, wanted is {wanted}", view.durable);
            return Err(Refusal::new(RefusalReason::Truncated, message));
        }
        let matched = view.table.common(view.durable.position, &table, end);
        Ok(Self { matched, until: wanted.position, compressed })
    }
}

pub(crate) async fn send_log(
    context: Arc<PlaneContext>,
    view: LogView,
    plan: FetchPlan,
    sender: mpsc::Sender<Result<v1::FetchLogResponse, Status>>,
    owner: mpsc::Sender<Message>,
) {
    let first = v1::FetchLogResponse {
        matched: Some(plan.matched.into()),
        epochs: epoch_rows(&view.table),
        ..Default::default()
    };
    if sender.send(Ok(first)).await.is_err() {
        return;
    }
    let mut at = plan.matched.position;
    while at < plan.until {
        let (mut reader, from, until) = (view.reader.clone(), at, plan.until);
        let (reply, read) = oneshot::channel();
        let compressed = plan.compressed;
        context.readers.run(move || {
            let chunks = reader.read(from, until, FETCH_BYTES);
            let _ = reply.send(chunks.map(|chunks| bodies(chunks, compressed)));
        });
        let chunks = match read.await {
            Ok(Ok(chunks)) if !chunks.is_empty() => chunks,
            Ok(Ok(_)) | Err(_) => return,
            Ok(Err(error)) => {
                if let LogError::Damaged(damage) = &error {
                    // An owner that ended finds it when it opens the log, or the next scrub does.
                    let _ = owner.send(Message::LogDamaged(damage.position, None)).await;
                }
                let refusal = Refusal::new(RefusalReason::Truncated, error.to_string());
                let _ = sender.send(Err(refusal.into())).await;
                return;
            }
        };
        for (end, response) in chunks {
            at = end;
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }
}

/// Chunks as they are sent, and where each ends.
fn bodies(chunks: Vec<Chunk>, compressed: bool) -> Vec<(Position, v1::FetchLogResponse)> {
    let body = |chunk: Chunk| {
        let (body, packed_from) = if compressed { pack(chunk.bytes) } else { (chunk.bytes, 0) };
        let response = v1::FetchLogResponse {
            position: Some(chunk.position.into()),
            end: Some(chunk.end.into()),
            body,
            packed_from,
            ..Default::default()
        };
        (chunk.end, response)
    };
    chunks.into_iter().map(body).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use keelson_env::SimDisk;
    use keelson_log::{Log, LogConfig};
    use keelson_types::{EpochTable, LogId, StreamId};

    use super::*;

    /// A database of the same id in another stream (made anew, restored) has other log at the same
    /// positions.
    #[test]
    fn log_of_another_stream_is_not_handed_out() {
        let (own, foreign) = (StreamId::from_u128(9), StreamId::from_u128(8));
        let (disk, place) = (Arc::new(SimDisk::new()), Path::new("/log"));
        let (log, _) = Log::open(disk, place, LogConfig::default(), own, Position::ZERO).unwrap();
        let view = LogView {
            stream: own,
            table: EpochTable::new(),
            durable: LogEnd::ZERO,
            committed: Position::ZERO,
            log: LogId::from_u128(1),
            reader: log.reader(),
        };
        let plan = |stream| {
            let request = v1::FetchLogRequest { stream: ids::bytes(stream), ..Default::default() };
            FetchPlan::new(request, &view).map(|plan| plan.until).map_err(|refusal| refusal.reason)
        };
        assert_eq!(plan(own), Ok(Position::ZERO));
        assert_eq!(plan(foreign), Err(RefusalReason::Diverged));
    }
}

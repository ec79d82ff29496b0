//! Building a fork: checkpoint, then the log up to the instant.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use keelson_env::{KvStore, ReplayFrame};
use keelson_format::{FrameInfo, Item};
use keelson_log::LogReader;
use keelson_types::{ForkName, HoldKind, Instant, LogHold, OperationId, Position, RefusalReason};
use keelson_wire::Refusal;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::reach::{Reach, Until, written_before};
use super::{Description, Fork, ForkState, Forks, Replayed, lock, place};
use crate::context::{CopyHandle, PlaneContext};
use crate::kv::{open_store, refuse_if_marked};
use crate::message::Message;
use crate::owner::unix_millis;
use crate::shared::CopyShared;
use crate::store_slot::wait_closed;

/// Log read from files in one piece.
pub(super) const READ_BYTES: usize = 4 * 1024 * 1024;
/// Frames applied in one store batch.
const BATCH_BYTES: usize = 2 * 1024 * 1024;

/// A built store must be closed before its directory gets its name.
const CLOSED_WITHIN: Duration = Duration::from_secs(20);

/// What an operator asks for.
#[derive(Clone, Debug)]
pub(crate) struct ForkOrder {
    /// One is made up if there is none.
    pub(crate) name: Option<ForkName>,
    pub(crate) at: Instant,
    /// Milliseconds from now.
    pub(crate) expires_after_ms: Option<u64>,
}

/// Keeps log that a fork needs until it is dropped.
struct Hold {
    of: Arc<CopyShared>,
    operation: OperationId,
}

impl Hold {
    fn take(of: &Arc<CopyShared>) -> Self {
        let operation = OperationId::new(Uuid::new_v4());
        // The checkpoint can only lie behind what is durable in the store by now.
        let hold = LogHold {
            operation,
            kind: HoldKind::Fork,
            from: of.checkpointed.load(),
            taken_unix_ms: unix_millis(),
            expires_unix_ms: u64::MAX,
        };
        lock(&of.holds).push(hold);
        Self { of: of.clone(), operation }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.of.holds).retain(|hold| hold.operation != self.operation);
    }
}

impl PlaneContext {
    /// Checks the order and begins to build the fork.
    ///
    /// # Errors
    /// `copy_failed` while keys of the copy are being fetched, `instant_out_of_reach` with the
    /// span that the copy can show, `already_exists`,
    /// `fork_budget`, or what the copy's store says.
    pub(crate) async fn create_fork(
        self: &Arc<Self>,
        copy: &CopyHandle,
        order: ForkOrder,
    ) -> Result<Arc<Fork>, Refusal> {
        refuse_if_marked(copy)?;
        let shared = copy.shared.clone();
        let hold = Hold::take(&shared);
        let store = open_store(copy).await?;
        let (reply, log) = oneshot::channel();
        let gone = || Refusal::new(RefusalReason::Activating, "the copy is being reopened");
        copy.mailbox.send(Message::LogView(reply)).await.map_err(|_| gone())?;
        let log = log.await.map_err(|_| gone())??;
        let (reply, view) = oneshot::channel();
        copy.mailbox.send(Message::View(reply)).await.map_err(|_| gone())?;
        let last_unix_ms = view.await.map_err(|_| gone())?.last_inspected_unix_millis;
        let end = log.durable.position;
        let to = shared.committed.load().min(end);
        let from = store.replayed().position;
        let bytes_max = store.size_bytes() + shared.log_bytes.load(Ordering::Relaxed);
        let (name, at, mut reader) = (shared.name.clone(), order.at, log.reader.clone());
        let (reply, checked) = oneshot::channel();
        self.readers.run(move || {
            let reach = Reach::find(&mut reader, (from, to), end, last_unix_ms);
            drop(reply.send(reach.and_then(|reach| reach.until(at, unix_millis(), &name))));
        });
        let until = checked.await.map_err(|_| gone())??;
        let now = unix_millis();
        let fork = self.forks.admit(Description {
            database: shared.database,
            database_name: shared.name.clone(),
            copy: shared.copy,
            name: order.name.unwrap_or_else(|| self.forks.free_name(&shared.name)),
            created_unix_ms: now,
            expires_unix_ms: order.expires_after_ms.map(|after| now.saturating_add(after)),
            bytes_max,
        })?;
        let (context, built) = (self.clone(), fork.clone());
        // Waiting for its turn it must not keep the store from being opened anew.
        let store = Arc::downgrade(&store);
        self.scans.run(move || {
            let of = &*shared;
            let (reader, context, fork) = (log.reader, &*context, &*built);
            let work = Work { context, fork, reader, from, to, until, of };
            work.finish(&store);
            drop(hold);
        });
        Ok(fork)
    }
}

/// A fork being built, on a thread of its own.
struct Work<'a> {
    context: &'a PlaneContext,
    fork: &'a Fork,
    reader: LogReader,
    /// Where the store stood when the order was checked.
    from: Position,
    to: Position,
    until: Until,
    of: &'a CopyShared,
}

impl Work<'_> {
    fn finish(mut self, store: &Weak<dyn KvStore>) {
        let closed = || "its copy's store was closed meanwhile; try again".to_owned();
        let built = store.upgrade().ok_or_else(closed).and_then(|store| self.build(store));
        let (database, fork) = (&self.fork.is.database_name, &self.fork.is.name);
        let state = match built {
            Ok(state) => {
                tracing::info!(%database, %fork, "a fork is ready");
                state
            }
            Err(why) => {
                tracing::warn!(%database, %fork, why, "a fork failed");
                ForkState::Failed(why)
            }
        };
        *lock(&self.fork.state) = state;
        self.fork.settled.notify_waiters();
        // One that expired meanwhile was not dropped while it was built.
        self.context.forks.changed.notify_one();
    }

    fn build(&mut self, source: Arc<dyn KvStore>) -> Result<ForkState, String> {
        let forks: &Forks = &self.context.forks;
        let building = place::begin(&forks.root, &self.fork.is).map_err(text)?;
        let directory = building.join(place::STORE);
        let started = source.create_checkpoint(&directory).map_err(text)?;
        drop(source);
        if self.of.marked.load(Ordering::SeqCst) {
            return Err("keys of the copy are being fetched from another one".into());
        }
        let moved = (self.from, started.position);
        if !self.until.is_still_ahead(&mut self.reader, moved).map_err(text)? {
            return Err(format!("the copy was replayed up to {} meanwhile", started.position));
        }
        let opener = &*self.context.opener.0;
        let store = opener.open(&directory).map_err(text)?;
        let began = std::time::Instant::now();
        let (bytes, time_unix_ms) = self.replay(&*store)?;
        *lock(&self.fork.replayed) = Replayed { bytes, time: began.elapsed() };
        store.checkpoint().map_err(text)?;
        let at = store.replayed();
        drop(store);
        if !wait_closed(opener, &directory, CLOSED_WITHIN) {
            return Err("its store is not closed in time".into());
        }
        place::finish(&forks.root, &building, &self.fork.is, at, time_unix_ms).map_err(text)?;
        Ok(ForkState::Ready { at, time_unix_ms })
    }

    /// Replays up to the instant; gives the bytes of the frames and the time of the last one.
    fn replay(&mut self, store: &dyn KvStore) -> Result<(u64, u64), String> {
        let mut at = store.replayed().position;
        let mut time_unix_ms = written_before(&mut self.reader, at).unwrap_or(0);
        let (mut batch, mut bytes, mut all) = (Vec::new(), 0, 0);
        'log: while at < self.to {
            let chunks = self.reader.read(at, self.to, READ_BYTES).map_err(text)?;
            let before = at;
            for item in chunks.iter().flat_map(keelson_format::Chunk::items) {
                let Item::Frame(frame) = item.map_err(|(_, error)| text(error))? else { continue };
                if frame.end().position <= at {
                    continue;
                }
                if !self.until.holds(&frame) {
                    break 'log;
                }
                at = frame.end().position;
                time_unix_ms = frame.header.time.unix_millis();
                bytes += frame.bytes.len();
                all += frame.bytes.len() as u64;
                batch.push(replayable(&frame)?);
                if bytes >= BATCH_BYTES {
                    store.replay(&std::mem::take(&mut batch)).map_err(text)?;
                    bytes = 0;
                }
            }
            if at == before {
                break;
            }
        }
        store.replay(&batch).map_err(text)?;
        Ok((all, time_unix_ms))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn replayable(frame: &FrameInfo) -> Result<ReplayFrame, String> {
    let frame = frame.decode().map_err(text)?;
    let (end, time, first_sequence) = (frame.end, frame.time, frame.first_sequence);
    Ok(ReplayFrame { end, time, first_sequence, records: frame.records })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_keeps_log_until_it_is_dropped() {
        let shared = Arc::new(CopyShared::for_tests());
        shared.checkpointed.store(Position::new(4, 0));
        let hold = Hold::take(&shared);
        let other = Hold::take(&shared);
        drop(hold);
        let held: Vec<_> = lock(&shared.holds).iter().map(|hold| (hold.kind, hold.from)).collect();
        assert_eq!(held, [(HoldKind::Fork, Position::new(4, 0))]);
        drop(other);
        assert!(lock(&shared.holds).is_empty());
    }
}

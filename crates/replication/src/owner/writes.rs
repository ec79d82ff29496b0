//! Writes and the store: preparing requests, building frames, replay's completions.

use std::sync::Arc;

use keelson_copy_core::Event;
use keelson_copy_core::range_fetch::FetchEvent;
use keelson_copy_core::room::Shortage;
use keelson_env::{KvStore, StoreError};
use keelson_types::{CopyFault, HybridTime, Position, RefusalReason};
use keelson_wire::Refusal;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::log_lane::LogJob;
use crate::message::{Completion, prepared};
use crate::note::NoteCode;
use crate::owner::{Owner, StoreWaiter, unix_millis};
use crate::store_lane::StoreJob;
use crate::writer::{Prepared, RANGE_KEYS_MAX, ReadPlan, ReadResults, Ticket, WriteRequest};

/// Frames of an active that may be on their way to its own disk.
const FRAMES_IN_FLIGHT: usize = 2;
/// Requests that may wait for a frame; the client is told to slow down beyond.
const QUEUE_MAX: usize = 16 * 1024;
/// Sessions idle for longer, by timestamps in the log, are expired.
const SESSION_IDLE_MILLIS: u64 = 60 * 60 * 1000;
/// Idle sessions expired per new one.
const EXPIRE_AT_ONCE: usize = 16;

impl Owner {
    pub(super) fn take_write(&mut self, request: WriteRequest) {
        let Some(writer) = &mut self.writer else {
            let refusal = self.not_serving();
            request.reply.send(Err(refusal));
            return;
        };
        if writer.queued() >= QUEUE_MAX {
            let refusal = Refusal::new(RefusalReason::Overloaded, "too many writes wait");
            request.reply.send(Err(refusal));
            return;
        }
        match writer.plan(&request.body) {
            None => {
                let reads = ReadResults::default();
                self.prepared(Prepared { request, reads, ticket: None });
            }
            Some(plan) => self.prepare(request, plan),
        }
    }

    /// Why this copy takes no writes.
    pub(super) fn not_serving(&self) -> Refusal {
        let name = &self.shared.name;
        match self.machine.own_epoch() {
            Some(_) => Refusal::new(RefusalReason::Activating, format!("{name} is being mounted")),
            None => Refusal::new(RefusalReason::NotActive, format!("{name} is not active here"))
                .with_address(self.shared.active_address()),
        }
    }

    /// Reads what the request depends on, elsewhere.
    fn prepare(&mut self, request: WriteRequest, plan: ReadPlan) {
        let Some(writer) = &mut self.writer else { return };
        let ticket = writer.begin_read();
        let Some(store) = self.shared.store.get() else {
            return self.prepare_when_open(request, plan, ticket);
        };
        let done = self.done.clone();
        self.store_used = Some(Instant::now());
        self.context.readers.run(move || read_for(&store, &plan, request, ticket, &done));
    }

    /// The store is closed: open it first, then read.
    fn prepare_when_open(&mut self, request: WriteRequest, plan: ReadPlan, ticket: Ticket) {
        let (reply, opened) = tokio::sync::oneshot::channel();
        self.open_store(reply);
        let (done, readers) = (self.done.clone(), self.context.readers.clone());
        tokio::spawn(async move {
            let store = match opened.await {
                Ok(Ok(store)) => store,
                Ok(Err(refusal)) => {
                    drop(done.send(Completion::PrepareFailed { request, ticket, refusal }));
                    return;
                }
                Err(_) => return, // The owner ended; the client hears a closed channel.
            };
            readers.run(move || read_for(&store, &plan, request, ticket, &done));
        });
    }

    pub(super) fn prepared(&mut self, prepared: Prepared) {
        let refused = match &mut self.writer {
            Some(writer) => writer.queue(prepared),
            None => Some(prepared),
        };
        if let Some(prepared) = refused {
            let refusal = Refusal::new(RefusalReason::NotActive, "the database was moved")
                .with_address(self.shared.active_address());
            prepared.request.reply.send(Err(refusal));
        }
    }

    pub(super) fn prepare_failed(
        &mut self,
        request: WriteRequest,
        ticket: Ticket,
        refusal: Refusal,
    ) {
        if let Some(writer) = &mut self.writer {
            writer.end_read(ticket);
        }
        request.reply.send(Err(refusal));
    }

    /// Builds frames while there is something to write and room in flight.
    pub(super) fn write_frames(&mut self) {
        while self.frames_in_flight < FRAMES_IN_FLIGHT {
            let Some(writer) = &mut self.writer else { return };
            if writer.queued() == 0 && !writer.has_records() {
                return;
            }
            let shortage = self.context.room_of(self.shared.database).look();
            if !shortage.takes_writes() {
                return self.refuse_queue(shortage);
            }
            if writer.must_wait_for_replay() {
                return; // The next completion of the store comes back here.
            }
            let Some(writer) = &mut self.writer else { return };
            let answers = writer.fill();
            let records = writer.take_records();
            self.answer(answers);
            if records.is_empty() {
                continue;
            }
            self.write_frame(&records);
        }
    }

    fn write_frame(&mut self, records: &[keelson_types::Record]) {
        let after = self.cursor.position();
        let (committed, durable) = (self.machine.committed(), self.machine.durable().position);
        let encoded = self.cursor.encode(records, unix_millis(), committed, durable);
        let encoded = encoded.expect("a batch is smaller than the largest frame");
        let end = encoded.frame.end();
        if let Some(writer) = &mut self.writer {
            writer.framed(end, encoded.frame.header.time);
        }
        let mut before = after;
        for chunk in &encoded.chunks {
            self.tail.push(before, chunk.clone());
            before = chunk.end;
        }
        self.frames_in_flight += 1;
        self.idle.wrote(Instant::now());
        self.log_job(LogJob::Write { chunks: encoded.chunks, end });
        self.events.push_back(Event::Appended { end: end.position });
        self.run_machine();
    }

    fn refuse_queue(&mut self, shortage: Shortage) {
        let Some(writer) = &mut self.writer else { return };
        let refusal =
            || Refusal::new(RefusalReason::DiskFull, format!("at the active member {shortage}"));
        writer.drain_queue().into_iter().for_each(|answer| answer.refuse(refusal()));
    }

    pub(super) fn replayed(&mut self, to: Position, time_millis: u64) {
        if self.machine.is_store_away() {
            return; // Ordered before the store was set back.
        }
        self.last_replayed_millis = self.last_replayed_millis.max(time_millis);
        self.shared.replayed.store(to);
        self.shared.wake();
        if let Some(writer) = &mut self.writer {
            writer.replayed(to);
        }
        self.event(Event::Replayed { to });
        self.fetch_event(FetchEvent::Replayed { to });
        self.lag_replayed(to);
        self.context.catalogs.replayed(&self.shared);
    }

    pub(super) fn open_store(&mut self, reply: StoreWaiter) {
        self.store_used = Some(Instant::now());
        match (self.shared.store.get(), &self.files) {
            (Some(store), _) => drop(reply.send(Ok(store))),
            (None, Some(files)) => {
                files.store.push(StoreJob::Open);
                self.store_waiters.push(reply);
            }
            (None, None) => {
                let refusal = Refusal::new(RefusalReason::CopyFailed, "the copy failed");
                drop(reply.send(Err(refusal)));
            }
        }
    }

    pub(super) fn store_opened(&mut self, result: &Result<Arc<dyn KvStore>, CopyFault>) {
        for waiter in self.store_waiters.drain(..) {
            let refused =
                |fault: &CopyFault| Refusal::new(RefusalReason::CopyFailed, fault.to_string());
            drop(waiter.send(result.as_ref().map(Arc::clone).map_err(refused)));
        }
        if let Err(fault) = result {
            self.store_failed(fault.clone());
        }
    }

    /// The store was closed with a checkpoint, so nothing that was replayed is lost.
    pub(super) fn after_close(&mut self) {
        if !self.store_waiters.is_empty()
            && let Some(files) = &self.files
        {
            files.store.push(StoreJob::Open);
        }
    }

    pub(super) fn store_failed(&mut self, fault: CopyFault) {
        if let CopyFault::StoreDamaged(why) = fault {
            return self.store_damaged(why, NoteCode::StoreDamaged);
        }
        tracing::error!(database = %self.shared.name, %fault, "store failed; the copy stops");
        self.shared.store.retire();
        self.event(Event::StoreFailed { fault });
    }
}

/// Reads what a request depends on; blocking. Damage is the copy's concern, too.
fn read_for(
    store: &Arc<dyn KvStore>,
    plan: &ReadPlan,
    request: WriteRequest,
    ticket: Ticket,
    done: &UnboundedSender<Completion>,
) {
    let completion = match read(store, plan) {
        Ok(reads) => prepared(request, reads, ticket),
        Err(error) => {
            if let StoreError::Damaged(why) = &error {
                // The owner has gone when the copy is reopened, which finds the damage.
                drop(done.send(Completion::StoreFailed(CopyFault::StoreDamaged(why.clone()))));
            }
            let refusal = Refusal::new(RefusalReason::CopyFailed, error.to_string());
            Completion::PrepareFailed { request, ticket, refusal }
        }
    };
    drop(done.send(completion));
}

/// Reads what a plan asks for; blocking.
fn read(store: &Arc<dyn KvStore>, plan: &ReadPlan) -> Result<ReadResults, StoreError> {
    let mut results = ReadResults::default();
    for key in &plan.keys {
        results.values.insert(key.clone(), store.get(key)?);
    }
    for (from, to) in &plan.ranges {
        let snapshot = store.clone().snapshot()?;
        let to = to.as_ref().map(AsRef::as_ref);
        let found = snapshot.scan(from, to, RANGE_KEYS_MAX + 1, usize::MAX)?;
        let keys = found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        results.ranges.push((keys.len() <= RANGE_KEYS_MAX).then_some(keys));
    }
    if let Some(session) = plan.session {
        results.session = Some(store.session(session)?);
    }
    if plan.idle_sessions {
        let before = unix_millis().saturating_sub(SESSION_IDLE_MILLIS);
        let before = HybridTime::from_unix_millis(before);
        results.idle_sessions = store.idle_sessions(before, EXPIRE_AT_ONCE)?;
    }
    Ok(results)
}

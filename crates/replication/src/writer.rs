//! Turns client writes into batches of records: conditions, sessions, range deletes, waiters.
//!
//! Owned by the loop of an active copy; fresh for every epoch. What it must know of the store is
//! read beforehand on another thread (`prepare`) and corrected here by the overlay of what is in
//! flight.
//!
//! A write is answered when the batch it became part of is committed; a failed condition is
//! answered when what it read is committed. A retry that meets its original joins it (review S18).

mod request;
mod stages;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use keelson_env::SessionState;
use keelson_types::{
    Epoch, HybridTime, LogEnd, Position, Record, RefusalReason, SessionId, SessionRecord,
};
use keelson_wire::Refusal;

use crate::overlay::{InFlight, Overlay};
pub(crate) use crate::writer::request::{
    Condition, Operation, Prepared, ReadPlan, ReadResults, Reply, Stamp, Ticket, WriteAnswer,
    WriteBody, WriteRequest, Written,
};

/// Range deletes of at most this many keys become single deletes (review S17).
pub(crate) const RANGE_KEYS_MAX: usize = 1_000;
/// A batch is closed once it has this many bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// A range delete is resolved to single deletes only while its batch stays below this; a frame must
/// fit into one message between members, whatever the keys are.
const RESOLVED_BYTES_MAX: usize = 2 * BATCH_BYTES;
/// Committed bytes that the store may be behind before writers wait.
const UNREPLAYED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Unconfirmed answers of one session.
const UNCONFIRMED_MAX: usize = 10_000;
/// Sessions remembered beside the store.
const SESSIONS_MAX: usize = 10_000;

#[derive(Debug)]
struct Waiter {
    reply: Reply,
    outcome: Result<bool, Refusal>,
}

/// A batch that became a frame.
#[derive(Debug)]
struct Flying {
    number: u64,
    end: LogEnd,
    time: HybridTime,
    /// When it became one.
    framed: Instant,
    bytes: usize,
    waiters: Vec<Waiter>,
}

#[derive(Debug, Clone, Copy)]
enum Applied {
    Flying(u64),
    Known(LogEnd),
}

#[derive(Debug, Default)]
struct Session {
    applied: BTreeMap<u64, Applied>,
    lowest_unanswered: u64,
    last_batch: u64,
}

/// An answer that may leave as soon as the gate allows it.
#[derive(Debug)]
pub(crate) struct Answer {
    reply: Reply,
    answer: WriteAnswer,
    /// When what it answers became a frame of this writer.
    framed: Option<Instant>,
}

impl Answer {
    /// When the write came and when it became a frame, if this tells that it is committed.
    pub(crate) fn times(&self) -> Option<(Instant, Instant)> {
        let framed = self.framed.filter(|_| self.answer.is_ok())?;
        Some((self.reply.arrived(), framed))
    }

    /// An answer that waited for no frame.
    fn beside(reply: Reply, answer: WriteAnswer) -> Self {
        Self { reply, answer, framed: None }
    }

    /// It waits until the lease is back.
    pub(crate) fn parked(&mut self) {
        self.reply.stages.parked();
    }

    pub(crate) fn send(self) {
        self.reply.send(self.answer);
    }

    pub(crate) fn refuse(self, refusal: Refusal) {
        self.reply.send(Err(refusal));
    }
}

/// See the module page.
#[derive(Debug)]
pub(crate) struct Writer {
    overlay: Overlay,
    queue: VecDeque<Prepared>,
    /// Number of the batch being filled, from 1.
    open: u64,
    records: Vec<Record>,
    record_bytes: usize,
    /// Bytes of the batch that was taken and is not framed yet.
    taken_bytes: usize,
    waiters: Vec<Waiter>,
    flying: VecDeque<Flying>,
    /// Batches that are committed and not replayed.
    unreplayed: VecDeque<(u64, Position, usize)>,
    unreplayed_bytes: usize,
    replayed_batch: u64,
    /// Reads under way: ticket, and the batch replayed when it began.
    reads: BTreeMap<Ticket, u64>,
    last_ticket: Ticket,
    sessions: BTreeMap<SessionId, Session>,
}

impl Writer {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            overlay: Overlay::default(),
            queue: VecDeque::new(),
            open: 1,
            records: Vec::new(),
            record_bytes: 0,
            taken_bytes: 0,
            waiters: Vec::new(),
            flying: VecDeque::new(),
            unreplayed: VecDeque::new(),
            unreplayed_bytes: 0,
            replayed_batch: 0,
            reads: BTreeMap::new(),
            last_ticket: Ticket { epoch, number: 0 },
            sessions: BTreeMap::new(),
        }
    }

    /// What must be read before the request can be queued; `None` if nothing.
    pub(crate) fn plan(&self, body: &WriteBody) -> Option<ReadPlan> {
        let mut plan = ReadPlan::default();
        match body {
            WriteBody::Marker(_) => return None,
            WriteBody::OpenSession(session) => {
                plan.session = Some(*session);
                plan.idle_sessions = true;
            }
            WriteBody::Apply { conditions, operations, stamp } => {
                plan.keys = conditions.iter().map(|c| c.key().clone()).collect();
                plan.ranges = operations.iter().filter_map(as_range).collect();
                let stamped = stamp.map(|stamp| stamp.session);
                plan.session = stamped.filter(|id| !self.sessions.contains_key(id));
            }
        }
        let needed = !plan.keys.is_empty() || !plan.ranges.is_empty() || plan.session.is_some();
        needed.then_some(plan)
    }

    /// Registers a read that begins now; its results stay valid until [`Self::fill`] used them.
    pub(crate) fn begin_read(&mut self) -> Ticket {
        self.last_ticket.number += 1;
        self.reads.insert(self.last_ticket, self.replayed_batch);
        self.last_ticket
    }

    /// Takes a request with its reads, or gives it back if they were made for another epoch.
    pub(crate) fn queue(&mut self, prepared: Prepared) -> Option<Prepared> {
        if prepared.ticket.is_some_and(|ticket| !self.reads.contains_key(&ticket)) {
            return Some(prepared);
        }
        self.queue.push_back(prepared);
        None
    }

    /// A read came to nothing.
    pub(crate) fn end_read(&mut self, ticket: Ticket) {
        self.reads.remove(&ticket);
        self.forget();
    }

    /// Takes everything that waits, to be refused.
    pub(crate) fn drain_queue(&mut self) -> Vec<Answer> {
        let drained: Vec<_> = self.queue.drain(..).collect();
        let mut answers = Vec::with_capacity(drained.len());
        for prepared in drained {
            if let Some(ticket) = prepared.ticket {
                self.end_read(ticket);
            }
            let refusal = Refusal::new(RefusalReason::Overloaded, "not queued");
            answers.push(Answer::beside(prepared.request.reply, Err(refusal)));
        }
        answers
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Moves requests into the open batch until it is full; returns answers that need no batch.
    pub(crate) fn fill(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        while self.record_bytes < BATCH_BYTES {
            let Some(prepared) = self.queue.pop_front() else { break };
            answers.extend(self.apply(prepared));
        }
        answers
    }

    pub(crate) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// The open batch, ready to be framed; [`Self::framed`] must follow.
    pub(crate) fn take_records(&mut self) -> Vec<Record> {
        self.taken_bytes = std::mem::take(&mut self.record_bytes);
        std::mem::take(&mut self.records)
    }

    /// The records taken became the frame that ends here.
    pub(crate) fn framed(&mut self, end: LogEnd, time: HybridTime) {
        let mut waiters = std::mem::take(&mut self.waiters);
        let writes = waiters.len();
        waiters.iter_mut().for_each(|waiter| waiter.reply.stages.framed(end, writes));
        let bytes = std::mem::take(&mut self.taken_bytes);
        let framed = Instant::now();
        self.flying.push_back(Flying { number: self.open, end, time, framed, bytes, waiters });
        self.open += 1;
    }

    /// The own log has everything up to here, synced.
    pub(crate) fn logged(&mut self, to: Position) {
        let logged = self.flying.iter_mut().take_while(|flying| flying.end.position <= to);
        for waiter in logged.flat_map(|flying| &mut flying.waiters) {
            waiter.reply.stages.logged();
        }
    }

    /// Answers of everything that is committed now.
    pub(crate) fn committed(&mut self, to: Position) -> Vec<Answer> {
        let mut answers = Vec::new();
        while let Some(flying) = self.flying.pop_front_if(|flying| flying.end.position <= to) {
            self.unreplayed.push_back((flying.number, flying.end.position, flying.bytes));
            self.unreplayed_bytes += flying.bytes;
            for waiter in flying.waiters {
                let written = |repeated| Written { end: flying.end, time: flying.time, repeated };
                let (reply, answer) = (waiter.reply, waiter.outcome.map(written));
                answers.push(Answer { reply, answer, framed: Some(flying.framed) });
            }
            self.settle_sessions(flying.number, flying.end);
        }
        answers
    }

    /// The store holds everything up to here: the overlay forgets it.
    pub(crate) fn replayed(&mut self, to: Position) {
        while let Some((number, _, bytes)) = self.unreplayed.pop_front_if(|(_, end, _)| *end <= to)
        {
            self.unreplayed_bytes -= bytes;
            self.replayed_batch = number;
        }
        self.forget();
    }

    /// Whether the store is so far behind that no more may be written: what it has not replayed is
    /// kept in memory.
    pub(crate) fn must_wait_for_replay(&self) -> bool {
        self.unreplayed_bytes >= UNREPLAYED_BYTES_MAX
    }

    /// All waiters, when the epoch ends. What was queued is certainly not written; what became part
    /// of a batch may be committed by the next epoch, so its outcome is unknown.
    pub(crate) fn into_waiting(self) -> Vec<Answer> {
        let flying = self.flying.into_iter().flat_map(|flying| flying.waiters);
        let unknown = flying.chain(self.waiters).map(|waiter| (waiter.reply, outcome_unknown()));
        let not_written = || Refusal::new(RefusalReason::NotActive, "the database is moving");
        let queued = self.queue.into_iter().map(|prepared| (prepared.request.reply, not_written()));
        let all = unknown.chain(queued);
        all.map(|(reply, refusal)| Answer::beside(reply, Err(refusal))).collect()
    }

    /// The last batch whose effects every read that is under way, or waits in the queue, has seen.
    fn seen_by_all(&self) -> u64 {
        let oldest_read = self.reads.values().copied().min().unwrap_or(u64::MAX);
        self.replayed_batch.min(oldest_read)
    }

    fn forget(&mut self) {
        self.overlay.forget(self.seen_by_all());
    }

    fn apply(&mut self, prepared: Prepared) -> Option<Answer> {
        let Prepared { request, reads, ticket } = prepared;
        let result = match request.body {
            WriteBody::Marker(id) => {
                self.records.push(Record::DigestMarker { id });
                Verdict::Open(Ok(false))
            }
            WriteBody::OpenSession(session) => self.open_session(session, &reads),
            WriteBody::Apply { conditions, operations, stamp } => {
                self.apply_write(&conditions, operations, stamp, reads)
            }
        };
        if let Some(ticket) = ticket {
            self.reads.remove(&ticket);
            self.forget();
        }
        self.wait(request.reply, result)
    }

    /// Puts the waiter where its verdict belongs.
    fn wait(&mut self, reply: Reply, verdict: Verdict) -> Option<Answer> {
        match verdict {
            Verdict::Open(outcome) => self.waiters.push(Waiter { reply, outcome }),
            Verdict::At(batch, outcome) if batch == self.open => {
                self.waiters.push(Waiter { reply, outcome });
            }
            Verdict::At(batch, outcome) => {
                match self.flying.iter_mut().find(|flying| flying.number == batch) {
                    Some(flying) => flying.waiters.push(Waiter { reply, outcome }),
                    None => {
                        // Committed already; only refusals are attached to such batches.
                        let refusal = outcome.err()?;
                        return Some(Answer::beside(reply, Err(refusal)));
                    }
                }
            }
            Verdict::Now(answer) => return Some(Answer::beside(reply, answer)),
        }
        None
    }

    fn open_session(&mut self, session: SessionId, reads: &ReadResults) -> Verdict {
        let seen = self.seen_by_all();
        for idle in reads.idle_sessions.iter().filter(|idle| **idle != session) {
            // What was read knows nothing of later writes, which make the session a busy one.
            if self.sessions.get(idle).is_some_and(|known| known.last_batch > seen) {
                continue;
            }
            self.sessions.remove(idle);
            self.record_session(*idle, SessionRecord::Expire);
        }
        let known = matches!(reads.session, Some(Some(_))) || self.sessions.contains_key(&session);
        if !known {
            self.record_session(session, SessionRecord::Open);
        } else if self.records.is_empty() {
            // A retried open: any frame will do to answer it with a commit.
            self.records.push(Record::NoOp);
        }
        let open = self.open;
        self.session(session, reads).last_batch = open;
        Verdict::Open(Ok(known))
    }

    fn apply_write(
        &mut self,
        conditions: &[Condition],
        operations: Vec<Operation>,
        stamp: Option<Stamp>,
        reads: ReadResults,
    ) -> Verdict {
        if let Some(stamp) = stamp
            && let Some(verdict) = self.check_session(stamp, &reads)
        {
            return verdict;
        }
        let mut read_batch = 0;
        for condition in conditions {
            let (value, batch) = self.value(condition.key(), &reads);
            read_batch = read_batch.max(batch);
            if !condition.holds(value.as_ref()) {
                let message = format!("the condition on key {:?} does not hold", condition.key());
                let refusal = Refusal::new(RefusalReason::ConditionFailed, message);
                return match read_batch {
                    0 => Verdict::Now(Err(refusal)),
                    batch => Verdict::At(batch, Err(refusal)),
                };
            }
        }
        let mut ranges = reads.ranges.into_iter();
        for operation in operations {
            self.record(operation, &mut ranges);
        }
        if let Some(stamp) = stamp {
            self.stamp(stamp);
        }
        if self.records.is_empty() {
            self.records.push(Record::NoOp);
        }
        Verdict::Open(Ok(false))
    }

    /// The current value of a key and the batch that decided it (0: the store).
    fn value(&self, key: &Bytes, reads: &ReadResults) -> (Option<Bytes>, u64) {
        match self.overlay.get(key) {
            InFlight::Put(value, batch) => (Some(value), batch),
            InFlight::Deleted(batch) => (None, batch),
            InFlight::Untouched => (reads.values.get(key).cloned().flatten(), 0),
        }
    }

    fn record(
        &mut self,
        operation: Operation,
        ranges: &mut impl Iterator<Item = Option<Vec<Bytes>>>,
    ) {
        let batch = self.open;
        match operation {
            Operation::Put(key, value) => {
                self.record_bytes += key.len() + value.len() + 16;
                self.overlay.put(key.clone(), value.clone(), batch);
                self.records.push(Record::Put { key, value });
            }
            Operation::Delete(key) => self.record_delete(key),
            Operation::DeleteRange(from, to) => {
                let stored = ranges.next().flatten();
                match stored.and_then(|keys| self.resolve(&from, to.as_ref(), keys)) {
                    Some(keys) => keys.into_iter().for_each(|key| self.record_delete(key)),
                    None => self.record_range(from, to),
                }
            }
        }
    }

    fn record_delete(&mut self, key: Bytes) {
        self.record_bytes += key.len() + 16;
        self.overlay.delete(key.clone(), self.open);
        self.records.push(Record::Delete { key });
    }

    fn record_range(&mut self, from: Bytes, to: Option<Bytes>) {
        self.overlay.delete_range(from.clone(), to.clone(), self.open);
        let to = to.unwrap_or_default();
        self.record_bytes += from.len() + to.len() + 32;
        self.records.push(Record::DeleteRange { from, to });
    }

    /// The keys that exist in a range, as the store and what is in flight have it; none if they
    /// are too many or too long.
    fn resolve(&self, from: &Bytes, to: Option<&Bytes>, stored: Vec<Bytes>) -> Option<Vec<Bytes>> {
        let alive = |key: &Bytes| !matches!(self.overlay.get(key), InFlight::Deleted(_));
        let mut keys: std::collections::BTreeSet<_> = stored.into_iter().filter(alive).collect();
        let flying = self.overlay.keys_in(from, to).filter(|(_, exists)| *exists);
        keys.extend(flying.map(|(key, _)| key).filter(alive));
        let bytes: usize = keys.iter().map(|key| key.len() + 16).sum();
        let fits = self.record_bytes + bytes <= RESOLVED_BYTES_MAX;
        (keys.len() <= RANGE_KEYS_MAX && fits).then(|| keys.into_iter().collect())
    }

    fn record_session(&mut self, session: SessionId, change: SessionRecord) {
        self.record_bytes += 40;
        self.records.push(Record::Session { session, change });
    }

    /// The remembered session, made from what the store says if it is not known yet.
    fn session(&mut self, id: SessionId, reads: &ReadResults) -> &mut Session {
        if self.sessions.len() >= SESSIONS_MAX {
            // A request that was read for before a batch would not find it in the store either.
            let seen = self.seen_by_all();
            self.sessions.retain(|_, session| session.last_batch > seen);
        }
        self.sessions.entry(id).or_insert_with(|| {
            let state = reads.session.iter().flatten().next();
            state.map(Session::from_state).unwrap_or_default()
        })
    }

    /// Decides a stamped write that must not be applied (again); `None` if it is new.
    fn check_session(&mut self, stamp: Stamp, reads: &ReadResults) -> Option<Verdict> {
        let known =
            self.sessions.contains_key(&stamp.session) || matches!(reads.session, Some(Some(_)));
        let unknown = |message: &str| {
            Some(Verdict::Now(Err(Refusal::new(RefusalReason::OutcomeUnknown, message))))
        };
        if !known {
            return unknown("the session is unknown or has expired");
        }
        let session = self.session(stamp.session, reads);
        match session.applied.get(&stamp.sequence) {
            Some(Applied::Known(end)) => {
                let time = HybridTime::default();
                Some(Verdict::Now(Ok(Written { end: *end, time, repeated: true })))
            }
            Some(Applied::Flying(batch)) => Some(Verdict::At(*batch, Ok(true))),
            None if stamp.sequence < session.lowest_unanswered => {
                unknown("the answer of this write was dropped: the client had confirmed it")
            }
            None if session.applied.len() >= UNCONFIRMED_MAX => {
                let message = "the session has too many unconfirmed answers";
                Some(Verdict::Now(Err(Refusal::new(RefusalReason::Overloaded, message))))
            }
            None => None,
        }
    }

    fn stamp(&mut self, stamp: Stamp) {
        let Stamp { session, sequence, lowest_unanswered } = stamp;
        self.record_session(session, SessionRecord::Applied { sequence, lowest_unanswered });
        let batch = self.open;
        if let Some(session) = self.sessions.get_mut(&session) {
            session.applied.insert(sequence, Applied::Flying(batch));
            session.last_batch = batch;
            session.lowest_unanswered = session.lowest_unanswered.max(lowest_unanswered);
            session.applied = session.applied.split_off(&session.lowest_unanswered);
        }
    }

    /// Sessions of a committed batch know now where it ended.
    fn settle_sessions(&mut self, batch: u64, end: LogEnd) {
        let touched = self.sessions.values_mut().filter(|session| session.last_batch >= batch);
        for applied in touched.flat_map(|session| session.applied.values_mut()) {
            if matches!(applied, Applied::Flying(number) if *number == batch) {
                *applied = Applied::Known(end);
            }
        }
    }
}

impl Session {
    fn from_state(state: &SessionState) -> Self {
        let known = state.applied.iter().map(|(number, end)| (*number, Applied::Known(*end)));
        Self { applied: known.collect(), lowest_unanswered: state.lowest_unanswered, last_batch: 0 }
    }
}

/// The answer to a write that may or may not be committed by the next epoch. The client takes this
/// reason for an open outcome, and retries with its session only.
pub(crate) fn outcome_unknown() -> Refusal {
    let message = "the database moved while the write was under way";
    Refusal::new(RefusalReason::StaleEpoch, message)
}

/// Where the answer of a request waits.
enum Verdict {
    /// For the open batch.
    Open(Result<bool, Refusal>),
    /// For this batch.
    At(u64, Result<bool, Refusal>),
    /// For nothing.
    Now(WriteAnswer),
}

fn as_range(operation: &Operation) -> Option<(Bytes, Option<Bytes>)> {
    match operation {
        Operation::DeleteRange(from, to) => Some((from.clone(), to.clone())),
        Operation::Put(..) | Operation::Delete(_) => None,
    }
}

#[cfg(test)]
mod tests;

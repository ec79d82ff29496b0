//! Clients: the gate, writes, reads, replay.

use keelson_copy_core::range_fetch::FetchEvent;
use keelson_copy_core::{Event, StopReason};
use keelson_env::{ReplayFrame, StoreError};
use keelson_format::{FrameInfo, Item};
use keelson_types::{CopyFault, Epoch, Position, Record};

use super::{CopyNode, Job, Moment, Out};
use crate::checkers::Write;
use crate::messages::{Operation, Reply};
use crate::probes::Probe;

/// Bytes replayed in one batch.
const REPLAY_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingWrite {
    end: Position,
    operation: Operation,
    epoch: Epoch,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingRead {
    needs: Position,
    operation: Operation,
    epoch: Epoch,
}

/// The bytes of a key.
pub(crate) fn key_bytes(key: u32) -> Vec<u8> {
    format!("k{key}").into_bytes()
}

/// Version of a value: its first eight bytes.
pub(crate) fn version_of(value: &[u8]) -> u64 {
    value.get(..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl CopyNode {
    /// The epoch in which this copy may answer now.
    fn gate(&self, moment: &Moment<'_>) -> Option<Epoch> {
        self.serving.filter(|epoch| {
            moment.cover.is_some_and(|(covered, until)| covered == *epoch && until > moment.now)
        })
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.serving.is_some()
    }

    pub(crate) fn client(&mut self, moment: &mut Moment<'_>, operation: Operation) {
        let Some(epoch) = self.gate(moment) else {
            self.reply(moment, operation, Reply::Refused, Epoch::ZERO);
            return;
        };
        match operation.write {
            Some(version) => self.client_write(moment, operation, version, epoch),
            None => {
                let needs = self.machine.committed();
                self.reads.push(PendingRead { needs, operation, epoch });
                self.answer_reads(moment);
            }
        }
    }

    fn client_write(
        &mut self,
        moment: &mut Moment<'_>,
        operation: Operation,
        version: u64,
        epoch: Epoch,
    ) {
        let mut value = version.to_le_bytes().to_vec();
        value.resize(8 + moment.random.below(200) as usize, 7);
        let record = Record::Put { key: key_bytes(operation.key).into(), value: value.into() };
        let mut cursor = self.cursor;
        let (committed, durable) = (self.machine.committed(), self.log.durable_end().position);
        let frame = match cursor.encode(&[record], moment.wall_ms, committed, durable) {
            Ok(frame) => frame,
            Err(error) => {
                moment.out.push(Out::Bug(format!("{} cannot write: {error}", self.copy)));
                return;
            }
        };
        match self.write(moment, &frame.chunks, cursor) {
            Ok(()) => {
                let end = cursor.end().position;
                self.writes.push_back(PendingWrite { end, operation, epoch });
                self.pump(moment);
                self.step(moment, Event::Appended { end });
            }
            Err(CopyFault::DiskFull) => {
                moment.out.push(Out::Fired(Probe::DiskFullActive));
                self.reply(moment, operation, Reply::Refused, Epoch::ZERO);
            }
            Err(fault) => self.step(moment, Event::LogFailed { fault }),
        }
    }

    fn reply(&self, moment: &mut Moment<'_>, operation: Operation, reply: Reply, epoch: Epoch) {
        moment.out.push(Out::Reply { operation, reply, epoch });
    }

    /// Answers the writers whose frames are committed, if the gate is open; tells the passives.
    pub(super) fn committed(&mut self, moment: &mut Moment<'_>, to: Position) {
        let gate = self.gate(moment);
        while let Some(write) = self.writes.front().copied().filter(|write| write.end <= to) {
            self.writes.pop_front();
            // Without the lease nothing is said: the client does not know.
            if gate == Some(write.epoch) {
                self.reply(moment, write.operation, Reply::Written(write.end), write.epoch);
            }
        }
        self.tell_committed(moment, to);
    }

    pub(super) fn stop_serving(
        &mut self,
        moment: &mut Moment<'_>,
        epoch: Epoch,
        reason: &StopReason,
    ) {
        self.serving = None;
        self.writes.clear();
        self.reads.clear();
        self.proposal = None;
        self.ceiling = None;
        if *reason == StopReason::Dismounted {
            moment.out.push(Out::Fired(Probe::Dismounted));
            let database = self.database;
            let done = crate::messages::ToControl::Dismounted { database, epoch };
            moment.out.push(Out::Control(done));
        }
    }

    /// Reads take their snapshot first and look at the gate then (S6).
    pub(super) fn answer_reads(&mut self, moment: &mut Moment<'_>) {
        let replayed = self.store.replayed().position;
        let ready: Vec<_> = self.reads.iter().filter(|r| r.needs <= replayed).copied().collect();
        self.reads.retain(|read| read.needs > replayed);
        for read in ready {
            match self.store.get(&key_bytes(read.operation.key)) {
                Ok(value) if self.gate(moment) == Some(read.epoch) => {
                    let version = value.as_deref().map_or(0, version_of);
                    self.reply(moment, read.operation, Reply::Read(version), read.epoch);
                }
                Ok(_) => {}
                Err(error) => moment.out.push(Out::Bug(format!("read: {error}"))),
            }
        }
    }

    /// Feeds the store up to `to`, a piece at a time.
    pub(super) fn replay(&mut self, moment: &mut Moment<'_>, to: Position) {
        let from = self.store.replayed().position;
        if from >= to {
            return;
        }
        let chunks = match self.log.reader().read(from, to, REPLAY_BYTES) {
            Ok(chunks) => chunks,
            Err(error) => return self.unreadable(moment, &error),
        };
        let mut frames: Vec<FrameInfo> = Vec::new();
        for chunk in &chunks {
            let items = chunk.items().filter_map(Result::ok);
            frames.extend(items.filter_map(|item| match item {
                Item::Frame(frame) => Some(frame),
                Item::Header(_) => None,
            }));
        }
        let decoded: Result<Vec<_>, _> = frames.iter().map(replay_frame).collect();
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(what) => return moment.out.push(Out::Bug(what)),
        };
        match self.store.replay(&decoded) {
            Ok(()) => {}
            Err(StoreError::NoSpace) => {
                return moment.out.push(Out::Job(Job::Replay(to, self.repair.replays)));
            }
            Err(error) => return moment.out.push(Out::Bug(format!("replay: {error}"))),
        }
        for (frame, decoded) in frames.iter().zip(&decoded) {
            let (start, end, chain) = (frame.header.position, frame.end(), frame.header.chain);
            let writes = decoded.records.iter().filter_map(write_of).collect();
            moment.out.push(Out::Replaying { start, end, chain, writes });
        }
        // A full volume leaves the old checkpoint.
        if moment.random.chance(1, 16) && self.store.checkpoint().is_ok() {
            self.acknowledge_again(moment);
        }
        let reached = self.store.replayed().position;
        self.step(moment, Event::Replayed { to: reached });
        self.fetch_goes_on(moment, FetchEvent::Replayed { to: reached });
        self.answer_reads(moment);
        if reached < to {
            moment.out.push(Out::Job(Job::Replay(to, self.repair.replays)));
        }
    }
}

fn replay_frame(frame: &FrameInfo) -> Result<ReplayFrame, String> {
    let frame = frame.decode().map_err(|error| format!("a frame does not decode: {error}"))?;
    Ok(ReplayFrame {
        end: frame.end,
        time: frame.time,
        first_sequence: frame.first_sequence,
        records: frame.records,
    })
}

/// Key and version of a record, if it is a client's write.
pub(crate) fn write_of(record: &Record) -> Option<Write> {
    match record {
        Record::Put { key, value } => Some((key_number(key), version_of(value))),
        _ => None,
    }
}

/// Number of a key: the reverse of [`key_bytes`].
pub(crate) fn key_number(key: &[u8]) -> u32 {
    let digits = key.get(1..).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX)
}

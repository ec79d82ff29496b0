//! The active's side of shipping: offers, streaming from memory or files within a window of
//! unacknowledged bytes, acknowledgements.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use keelson_copy_core::{Event, OpenRefusal};
use keelson_format::Chunk;
use keelson_log::LogError;
use keelson_types::{CopyId, Epoch, MemberId, Position};
use keelson_wire::{epoch_rows, v1};
use tokio::sync::OwnedSemaphorePermit;

use crate::log_lane::LogJob;
use crate::message::{Completion, FromTarget, SourceSender};
use crate::owner::Owner;

/// Bytes that may be under way to one copy.
pub(super) const WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// Bytes sent in one message, and read from files at a time.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// Streaming to one passive.
#[derive(Debug)]
pub(super) struct PeerShip {
    pub(super) member: MemberId,
    pub(super) epoch: Epoch,
    pub(super) next: Position,
    unacked: VecDeque<(Position, usize)>,
    unacked_bytes: usize,
    reading: bool,
    /// Held while log is read from files for this peer.
    turn: Option<OwnedSemaphorePermit>,
}

impl PeerShip {
    pub(super) fn is_caught_up(&self, end: Position) -> bool {
        self.next >= end
    }

    fn acked(&mut self, durable: Position) {
        while let Some((_, bytes)) = self.unacked.pop_front_if(|(end, _)| *end <= durable) {
            self.unacked_bytes -= bytes;
        }
    }
}

impl Owner {
    pub(super) fn database_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.shared.database.into_bytes())
    }

    pub(super) fn send_source(&self, member: MemberId, message: v1::source_message::Message) {
        if let Some(sender) = self.sessions.get(&member) {
            // A closed session reports itself.
            let _ = sender.send(v1::SourceMessage { message: Some(message) });
        }
    }

    pub(super) fn session(&mut self, member: MemberId, sender: Option<SourceSender>) {
        match sender {
            Some(sender) => {
                if self.sessions.insert(member, sender).is_some() {
                    self.event(Event::PeerDown { member });
                }
                self.event(Event::PeerUp { member });
            }
            None => {
                self.sessions.remove(&member);
                self.peers.retain(|_, peer| peer.member != member);
                self.event(Event::PeerDown { member });
            }
        }
    }

    pub(super) fn open_peer(&mut self, copy: CopyId, member: MemberId, epoch: Epoch) {
        let open = v1::ShipOpen {
            database: self.database_bytes(),
            epoch: Some(epoch.into()),
            stream: Bytes::copy_from_slice(&self.shared.stream.into_bytes()),
            copy: Bytes::copy_from_slice(&copy.into_bytes()),
            epochs: epoch_rows(self.machine.table()),
            end: Some(self.machine.end().position.into()),
            committed: Some(self.machine.committed().into()),
            log_from: Some(self.shared.log_from.load().into()),
        };
        self.send_source(member, v1::source_message::Message::Open(open));
    }

    pub(super) fn take_from_target(&mut self, message: FromTarget) {
        match message {
            FromTarget::Opened { copy, epoch, matched, chain } => {
                self.compare_chain(copy, epoch, matched, chain);
            }
            FromTarget::Ack { copy, epoch, reported } => {
                let durable = reported.inspected;
                if let Some(peer) = self.peers.get_mut(&copy).filter(|peer| peer.epoch == epoch) {
                    peer.acked(durable);
                    self.reported(copy, reported);
                }
                self.event(Event::Acked { copy, epoch, durable });
            }
            FromTarget::Refused { copy, epoch, refusal } => {
                self.peers.remove(&copy);
                if self.refusals.get(&copy) != Some(&refusal) {
                    tracing::warn!(database = %self.shared.name, %copy, ?refusal, "offer refused");
                    self.refusals.insert(copy, refusal.clone());
                }
                self.event(Event::Refused { copy, epoch, refusal });
            }
        }
    }

    /// Looks the own chain value at the matched position up, in the log files.
    fn compare_chain(&mut self, copy: CopyId, epoch: Epoch, matched: Position, chain: u32) {
        // Whoever ends where the oldest generation goes on misses nothing.
        if matched < self.shared.log_from.load() {
            return self.say_log_gone(copy, epoch, self.truncation.first);
        }
        if matched == self.machine.end().position {
            let same = self.cursor.state().chain == chain;
            self.event(Event::Opened { copy, epoch, matched, chain_matches: same });
        } else {
            self.log_job(LogJob::CompareChain { copy, epoch, matched, chain });
        }
    }

    /// F107: log that the copy misses was truncated; only a seed helps it.
    fn say_log_gone(&self, copy: CopyId, epoch: Epoch, begins: Position) {
        let others = self.assigned.iter().flat_map(|assigned| &assigned.others);
        let Some(member) = others.filter(|o| o.copy == copy).map(|o| o.member).next() else {
            return;
        };
        let close = v1::ShipClose {
            database: self.database_bytes(),
            epoch: Some(epoch.into()),
            log_begins: Some(begins.into()),
        };
        self.send_source(member, v1::source_message::Message::Close(close));
    }

    pub(super) fn ship_from(
        &mut self,
        copy: CopyId,
        member: MemberId,
        epoch: Epoch,
        from: Position,
    ) {
        let matched =
            v1::ShipMatched { database: self.database_bytes(), epoch: Some(epoch.into()) };
        self.send_source(member, v1::source_message::Message::Matched(matched));
        // An idle database sends no frame that would say what was committed meanwhile.
        let committed = v1::ShipCommitted {
            database: self.database_bytes(),
            epoch: Some(epoch.into()),
            committed: Some(self.machine.committed().into()),
        };
        self.send_source(member, v1::source_message::Message::Committed(committed));
        let ship = PeerShip {
            member,
            epoch,
            next: from,
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            reading: false,
            turn: None,
        };
        self.peers.insert(copy, ship);
        if self.refusals.remove(&copy).is_some() {
            tracing::info!(database = %self.shared.name, %copy, "the offer is taken now");
        }
        self.order_truncation_of(member);
        self.pump(copy);
    }

    pub(super) fn pump_peers(&mut self) {
        let end = self.cursor.end().position;
        let behind = self.peers.iter().filter(|(_, peer)| !peer.is_caught_up(end));
        let behind: Vec<_> = behind.map(|(copy, _)| *copy).collect();
        for copy in behind {
            self.pump(copy);
        }
    }

    /// Keeps in memory only what somebody still needs: the store, or a peer that is behind.
    pub(super) fn trim_tail(&mut self) {
        let shipped = self.peers.values().map(|peer| peer.next).min();
        let needed = shipped.map_or(self.replay_sent, |next| next.min(self.replay_sent));
        self.tail.forget(needed);
    }

    /// Sends what the window allows: from memory, or by asking for a read of the files.
    fn pump(&mut self, copy: CopyId) {
        let end = self.cursor.end().position;
        loop {
            let Some(peer) = self.peers.get_mut(&copy) else { return };
            if peer.is_caught_up(end) {
                peer.turn = None;
                return;
            }
            if peer.reading || peer.unacked_bytes >= WINDOW_BYTES {
                return;
            }
            let chunks = self.tail.read(peer.next, MESSAGE_BYTES);
            if chunks.is_empty() {
                self.read_for(copy);
                return;
            }
            self.send_chunks(copy, chunks);
        }
    }

    fn read_for(&mut self, copy: CopyId) {
        let Some(files) = &self.files else { return };
        let limit = self.machine.durable().position;
        let Some(peer) = self.peers.get_mut(&copy) else { return };
        if peer.next >= limit {
            return; // Not durable yet; the next completion pumps again.
        }
        peer.reading = true;
        if peer.turn.is_none() {
            return self.wait_for_turn(copy);
        }
        let (from, epoch) = (peer.next, peer.epoch);
        let (mut reader, done) = (files.reader.clone(), self.done.clone());
        self.context.readers.run(move || {
            let read = reader.read(from, limit, MESSAGE_BYTES);
            drop(done.send(Completion::PeerRead { copy, epoch, from, result: read }));
        });
    }

    /// A few copies at a time catch up from files: what they have in flight is memory.
    fn wait_for_turn(&self, copy: CopyId) {
        let (turns, done) = (self.context.catching_up.clone(), self.done.clone());
        tokio::spawn(async move {
            if let Ok(turn) = turns.acquire_owned().await {
                // An owner that ended gives the turn back by dropping it.
                let _ = done.send(Completion::CatchUpTurn { copy, turn });
            }
        });
    }

    pub(super) fn take_turn(&mut self, copy: CopyId, turn: OwnedSemaphorePermit) {
        if let Some(peer) = self.peers.get_mut(&copy) {
            (peer.reading, peer.turn) = (false, Some(turn));
            self.pump(copy);
        }
    }

    pub(super) fn peer_read(
        &mut self,
        copy: CopyId,
        epoch: Epoch,
        from: Position,
        result: Result<Vec<Chunk>, LogError>,
    ) {
        let Some(peer) = self.peers.get_mut(&copy) else { return };
        peer.reading = false;
        if peer.epoch != epoch || peer.next != from {
            return;
        }
        match result {
            Ok(chunks) => {
                self.send_chunks(copy, chunks);
                self.pump(copy);
            }
            Err(why) => {
                // It is tried for as long as it lasts, and said once.
                if self.unreadable.replace(from) != Some(from) {
                    let database = &self.shared.name;
                    tracing::error!(%database, %from, %why, "shipping cannot read");
                }
                if let LogError::Damaged(damage) = why {
                    self.log_damaged(damage.position, None);
                }
                self.peers.remove(&copy);
                // The copy leaves the rule, and is offered the log again after a pause that grows.
                self.event(Event::Refused { copy, epoch, refusal: OpenRefusal::Failed });
            }
        }
    }

    /// Sends chunks that follow each other, joined where they touch in one generation.
    fn send_chunks(&mut self, copy: CopyId, chunks: Vec<Chunk>) {
        let committed = self.machine.committed();
        let database = self.database_bytes();
        let Some(peer) = self.peers.get_mut(&copy) else { return };
        let (member, epoch) = (peer.member, peer.epoch);
        for chunk in join(chunks) {
            peer.next = chunk.end;
            peer.unacked.push_back((chunk.end, chunk.bytes.len()));
            peer.unacked_bytes += chunk.bytes.len();
            let frames = v1::ShipFrames {
                database: database.clone(),
                epoch: Some(epoch.into()),
                position: Some(chunk.position.into()),
                end: Some(chunk.end.into()),
                body: chunk.bytes,
                // Whoever knows the way compresses it.
                packed_from: 0,
                committed: Some(committed.into()),
            };
            if let Some(sender) = self.sessions.get(&member) {
                let message = Some(v1::source_message::Message::Frames(frames));
                let _ = sender.send(v1::SourceMessage { message });
            }
        }
    }
}

/// Joins neighbours of one generation up to a message's size, so that small frames share a message.
fn join(chunks: Vec<Chunk>) -> Vec<Chunk> {
    let mut joined: Vec<Chunk> = Vec::with_capacity(chunks.len());
    let mut run: Vec<Chunk> = Vec::new();
    let mut run_bytes = 0;
    for chunk in chunks {
        let follows = run.last().is_some_and(|last| last.end == chunk.position);
        if !follows || run_bytes + chunk.bytes.len() > MESSAGE_BYTES {
            joined.extend(merge(&mut run));
            run_bytes = 0;
        }
        run_bytes += chunk.bytes.len();
        run.push(chunk);
    }
    joined.extend(merge(&mut run));
    joined
}

fn merge(run: &mut Vec<Chunk>) -> Option<Chunk> {
    if run.len() <= 1 {
        return run.pop();
    }
    let position = run.first()?.position;
    let mut bytes = BytesMut::with_capacity(run.iter().map(|chunk| chunk.bytes.len()).sum());
    run.drain(..).for_each(|chunk| bytes.extend_from_slice(&chunk.bytes));
    Some(Chunk::new(position, bytes.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_generations_are_not() {
        let chunk = |generation, offset, length: usize| {
            Chunk::new(Position::new(generation, offset), Bytes::from(vec![7; length]))
        };
        let joined = join(vec![chunk(1, 512, 10), chunk(1, 522, 5), chunk(2, 0, 512)]);
        let ends: Vec<_> = joined.iter().map(|c| (c.position, c.bytes.len())).collect();
        assert_eq!(ends, [(Position::new(1, 512), 15), (Position::new(2, 0), 512)]);
        let big = join(vec![chunk(1, 512, MESSAGE_BYTES), chunk(1, 512 + MESSAGE_BYTES as u64, 1)]);
        assert_eq!(big.len(), 2);
    }
}

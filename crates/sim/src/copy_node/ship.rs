//! Log sessions: offers, streams of frames, acknowledgements.

use keelson_copy_core::{Event, OpenOffer, OpenRefusal};
use keelson_log::LogError;
use keelson_types::{CopyId, Epoch, MemberId, Position};

use super::{CopyNode, Moment, Out};
use crate::messages::DataMessage;

/// A stream to a passive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ship {
    pub(crate) member: MemberId,
    pub(crate) epoch: Epoch,
    pub(crate) next: Position,
}

impl CopyNode {
    pub(crate) fn message(
        &mut self,
        moment: &mut Moment<'_>,
        from: MemberId,
        message: DataMessage,
    ) {
        match message {
            DataMessage::Open { copy, offer } if copy == self.copy => {
                self.tell_ground(moment);
                self.step(moment, Event::Open(offer));
            }
            DataMessage::Open { .. } => {}
            DataMessage::Opened { copy, epoch, matched, chain } => {
                if let Some(begins) = self.misses_log(matched.position) {
                    return self.say_log_gone(moment, copy, epoch, begins);
                }
                let chain_matches =
                    self.log.chain_at(matched.position).is_ok_and(|own| own == chain);
                let matched = matched.position;
                self.step(moment, Event::Opened { copy, epoch, matched, chain_matches });
            }
            DataMessage::Matched { epoch } => {
                self.step(moment, Event::Matched { epoch });
                self.follows_epoch(moment, epoch);
            }
            DataMessage::Refused { copy, epoch, refusal } => {
                self.step(moment, Event::Refused { copy, epoch, refusal });
            }
            DataMessage::Frames { epoch, chunks, committed } => {
                self.received(moment, epoch, chunks);
                self.step(moment, Event::CommittedUpTo { epoch, committed });
            }
            DataMessage::Committed { epoch, committed } => {
                self.step(moment, Event::CommittedUpTo { epoch, committed });
            }
            DataMessage::Ack { copy, epoch, durable, checkpointed } => {
                if self.ships.get(&copy).is_some_and(|ship| ship.epoch == epoch) {
                    self.reported(moment, copy, (durable, checkpointed));
                }
                self.step(moment, Event::Acked { copy, epoch, durable });
            }
            DataMessage::LogGone { epoch, begins } => self.log_gone(moment, epoch, begins),
            DataMessage::Truncate(order) => self.truncation_ordered(moment, order),
            DataMessage::FetchOpen { id, source, table, end } => {
                self.fetch_asked(moment, from, (id, source), &table, end);
            }
            DataMessage::FetchPull { id, from: at } => self.fetch_pulled(moment, from, id, at),
            DataMessage::FetchOpened { id, matched } => self.fetch_opened(moment, id, matched),
            DataMessage::FetchRefused { id } => self.fetch_over(moment, id),
            DataMessage::FetchFrames { id, chunks, done } => {
                self.fetched(moment, id, chunks, done);
            }
            DataMessage::RangeAsk { ask, donor, request } => {
                self.range_asked(moment, from, (ask, donor), &request);
            }
            DataMessage::RangeGive { ask, answer } => self.range_given(moment, ask, answer),
        }
    }

    /// Inspects bytes and hands them to the machine. Bytes that are not wanted are dropped.
    pub(super) fn received(
        &mut self,
        moment: &mut Moment<'_>,
        epoch: Epoch,
        mut chunks: Vec<keelson_format::Chunk>,
    ) {
        // A header alone comes from a source that cannot read on: without its frames it is of no
        // use, and another source may have another one there.
        let frames = chunks.iter().rposition(keelson_format::Chunk::has_frames);
        chunks.truncate(frames.map_or(0, |last| last + 1));
        if self.machine.expects(epoch).is_none() || chunks.is_empty() {
            return;
        }
        let mut cursor = self.cursor;
        let mut starts = Vec::new();
        for chunk in &chunks {
            match cursor.verify(chunk) {
                Ok(inspected) => starts.extend(inspected.epochs),
                Err(error) => {
                    let what = format!("{} refuses a chunk of epoch {epoch}: {error}", self.copy);
                    moment.out.push(Out::Bug(what));
                    return;
                }
            }
        }
        self.staged = Some((chunks, cursor));
        self.step(moment, Event::Received { epoch, end: cursor.end(), starts });
        self.staged = None;
    }

    pub(super) fn open_peer(
        &mut self,
        moment: &mut Moment<'_>,
        copy: CopyId,
        member: MemberId,
        epoch: Epoch,
    ) {
        let offer = OpenOffer {
            member: self.machine_member(),
            epoch,
            stream: self.record.stream,
            table: self.machine.table().clone(),
            end: self.machine.end().position,
            committed: self.machine.committed(),
            log_from: self.log_from(),
        };
        moment.out.push(Out::Send { to: member, message: DataMessage::Open { copy, offer } });
    }

    pub(super) fn ship_from(&mut self, moment: &mut Moment<'_>, copy: CopyId, ship: Ship) {
        let message = DataMessage::Matched { epoch: ship.epoch };
        moment.out.push(Out::Send { to: ship.member, message });
        self.ships.insert(copy, ship);
        self.pump(moment);
        let committed = self.machine.committed();
        let message = DataMessage::Committed { epoch: ship.epoch, committed };
        moment.out.push(Out::Send { to: ship.member, message });
    }

    /// Sends what the log has and the streams have not sent yet. Log that cannot be read costs the
    /// copy that needs it its stream, not the active its epoch.
    pub(super) fn pump(&mut self, moment: &mut Moment<'_>) {
        let (end, committed) = (self.log.end().position, self.machine.committed());
        let mut failed = Vec::new();
        for (copy, ship) in &mut self.ships {
            let mut reader = self.log.reader();
            while ship.next < end {
                match reader.read(ship.next, end, self.ship_bytes) {
                    Ok(chunks) => {
                        let Some(last) = chunks.last() else { break };
                        ship.next = last.end;
                        let epoch = ship.epoch;
                        let message = DataMessage::Frames { epoch, chunks, committed };
                        moment.out.push(Out::Send { to: ship.member, message });
                    }
                    Err(LogError::Damaged(_) | LogError::Truncated { .. }) => {
                        failed.push((*copy, ship.epoch));
                        break;
                    }
                    Err(error) => {
                        let what = format!("{} cannot be read: {error}", self.copy);
                        moment.out.push(Out::Bug(what));
                        break;
                    }
                }
            }
        }
        for (copy, epoch) in failed {
            self.ships.remove(&copy);
            self.step(moment, Event::Refused { copy, epoch, refusal: OpenRefusal::Busy });
        }
    }

    pub(super) fn unreadable(&mut self, moment: &mut Moment<'_>, error: &LogError) {
        if !matches!(error, LogError::Damaged(_)) {
            moment.out.push(Out::Bug(format!("{} cannot be read: {error}", self.copy)));
        }
        self.log_failed(moment, error);
    }

    pub(super) fn tell_committed(&mut self, moment: &mut Moment<'_>, committed: Position) {
        for ship in self.ships.values() {
            let message = DataMessage::Committed { epoch: ship.epoch, committed };
            moment.out.push(Out::Send { to: ship.member, message });
        }
    }

    pub(crate) fn session_up(&mut self, moment: &mut Moment<'_>, peer: MemberId) {
        self.step(moment, Event::PeerUp { member: peer });
    }

    pub(crate) fn session_down(&mut self, moment: &mut Moment<'_>, peer: MemberId) {
        self.ships.retain(|_, ship| ship.member != peer);
        self.step(moment, Event::PeerDown { member: peer });
        self.step(moment, Event::SourceDown { member: peer });
        if let Some(id) = self.fetch.as_ref().filter(|f| f.member == peer).map(|f| f.id) {
            self.fetch_over(moment, id);
        }
    }
}

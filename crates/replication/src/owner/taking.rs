//! The passive's side: offers, frames, acknowledgements, cuts; and log fetched for an activation.

use bytes::Bytes;
use keelson_copy_core::{Event, OpenRefusal};
use keelson_format::{Chunk, Cursor, CursorState};
use keelson_types::{CopyFault, Epoch, LogEnd, MemberId, Position, RefusalReason};
use keelson_wire::{Refusal, v1};

use crate::inbound::refuse_unknown;
use crate::log_lane::LogJob;
use crate::message::{AfterCut, FromSource, LogView, TargetSender};
use crate::owner::{Owner, unix_millis};

impl Owner {
    pub(super) fn take_from_source(&mut self, member: MemberId, message: FromSource) {
        match message {
            FromSource::Open { offer, copy, reply } => {
                if copy != self.shared.copy {
                    // One of the two has not heard of the copy's new identity yet.
                    return refuse_unknown(self.shared.database, copy, &offer, &reply);
                }
                self.sources().insert(member, (offer.epoch, reply));
                self.waiting.forget_frames();
                self.generated = offer.end;
                self.heard_source(member);
                self.tell_ground();
                self.event(Event::Open(offer));
            }
            FromSource::Matched { epoch } => {
                self.event(Event::Matched { epoch });
                self.follows_epoch(epoch);
            }
            FromSource::Frames { epoch, chunk, committed } => {
                self.take_frames(epoch, chunk, committed);
            }
            FromSource::LogGone { epoch, begins } => {
                self.event(Event::LogGone { epoch, begins });
            }
            FromSource::Garbled { epoch } => {
                // Perhaps nothing follows that would show the gap, so the source is told.
                if self.machine.expects(epoch).is_some() {
                    tracing::error!(database = %self.shared.name, "received log does not unpack");
                    self.waiting.forget_frames();
                    self.drop_source(epoch);
                }
            }
            FromSource::Truncate(order) => self.truncation_ordered(order),
            FromSource::Committed { epoch, committed } => {
                self.event(Event::CommittedUpTo { epoch, committed });
            }
        }
    }

    /// Inspects bytes and hands them to the log if the machine wants them.
    pub(super) fn take_chunk(&mut self, epoch: Epoch, chunk: Chunk, committed: Option<Position>) {
        if self.machine.expects(epoch).is_none() {
            return; // Of an older life of the session, or after a seal.
        }
        let after = self.cursor.position();
        let inspected = match self.cursor.verify(&chunk) {
            Ok(inspected) => inspected,
            Err(error) => {
                tracing::error!(database = %self.shared.name, %error, "received log refused");
                return self.drop_source(epoch);
            }
        };
        let end = self.cursor.end();
        self.generated = self.generated.max(end.position);
        let newest = inspected.frames.last().map(|frame| &frame.header);
        if let Some(newest) = newest {
            self.context.meters.arrived(newest.time.unix_millis(), unix_millis());
        }
        let marks = newest.map(|header| header.committed);
        self.tail.push(after, chunk.clone());
        self.log_job(LogJob::Write { chunks: vec![chunk], end });
        self.events.push_back(Event::Received { epoch, end, starts: inspected.epochs });
        let committed = committed.into_iter().chain(marks).max();
        if let Some(committed) = committed {
            self.events.push_back(Event::CommittedUpTo { epoch, committed });
        }
        self.run_machine();
    }

    /// Ends the agreement with the source; the refusal makes it offer its log again.
    pub(super) fn drop_source(&mut self, epoch: Epoch) {
        let members: Vec<_> = self.sources().keys().copied().collect();
        for member in members {
            self.send_refused(member, epoch, &OpenRefusal::Busy);
            self.event(Event::SourceDown { member });
        }
    }

    /// The end of a session that was replaced already means nothing.
    pub(super) fn source_down(&mut self, member: MemberId, replies: &TargetSender) {
        let mut sources = self.sources();
        let current = sources.get(&member);
        if current.is_none_or(|(_, sender)| !sender.same_channel(replies)) {
            return;
        }
        sources.remove(&member);
        drop(sources);
        self.waiting.forget_frames();
        self.event(Event::SourceDown { member });
    }

    /// Makes every source offer its log again.
    pub(super) fn refuse_sources(&self) {
        let inbound = self.sources().clone();
        for (member, (epoch, _)) in inbound {
            self.send_refused(member, epoch, &OpenRefusal::Busy);
        }
    }

    pub(super) fn log_cut(&mut self, state: CursorState, then: AfterCut) {
        self.cursor = Cursor::new(state, *self.cursor.config());
        self.tail.clear();
        self.lag_cut(state.position);
        self.guard.cut(state.position);
        match then {
            AfterCut::Machine => self.event(Event::LogCut { end: state.end }),
            AfterCut::Opened(member, epoch, matched) => self.say_opened(member, epoch, matched),
            AfterCut::Pull => self.go_fetch(),
        }
    }

    /// Generation headers without frames behind the matched end are removed first: the source sends
    /// its own.
    pub(super) fn send_opened(&mut self, member: MemberId, epoch: Epoch, matched: LogEnd) {
        if self.cursor.position() > matched.position {
            let then = AfterCut::Opened(member, epoch, matched);
            self.log_job(LogJob::Cut { to: matched.position, then });
        } else {
            self.say_opened(member, epoch, matched);
        }
    }

    fn say_opened(&mut self, member: MemberId, epoch: Epoch, matched: LogEnd) {
        let opened = v1::ShipOpened {
            database: self.database_bytes(),
            epoch: Some(epoch.into()),
            copy: self.copy_bytes(),
            matched: Some(matched.into()),
            chain: self.cursor.state().chain,
        };
        self.send_target(member, v1::target_message::Message::Opened(opened));
    }

    pub(super) fn pull_fetch(&mut self) {
        let end = self.machine.end().position;
        if self.cursor.position() > end {
            self.log_job(LogJob::Cut { to: end, then: AfterCut::Pull });
        } else {
            self.go_fetch();
        }
    }

    fn go_fetch(&mut self) {
        if let Some(go) = self.fetch_go.take() {
            let _ = go.send(());
        }
    }

    pub(super) fn send_ack(&mut self, member: MemberId, epoch: Epoch, durable: Position) {
        let replayed = self.shared.replayed.load();
        let ack = v1::ShipAck {
            database: self.database_bytes(),
            epoch: Some(epoch.into()),
            copy: self.copy_bytes(),
            durable: Some(durable.into()),
            replayed: Some(replayed.into()),
            // A store that was set back is durable no further than it stands.
            checkpointed: Some(self.shared.checkpointed.load().min(replayed).into()),
        };
        self.send_target(member, v1::target_message::Message::Ack(ack));
    }

    pub(super) fn send_refused(&self, member: MemberId, epoch: Epoch, refusal: &OpenRefusal) {
        let (code, sealed) = match refusal {
            OpenRefusal::SealedHigher(sealed) => (RefusalReason::StaleEpoch, Some(*sealed)),
            OpenRefusal::Diverged => (RefusalReason::Diverged, None),
            OpenRefusal::Busy => (RefusalReason::Activating, None),
            OpenRefusal::Failed => (RefusalReason::CopyFailed, None),
            OpenRefusal::Suspended => (RefusalReason::Suspended, None),
        };
        let fault = self.fault().map(|fault| fault.to_string()).unwrap_or_default();
        let refused = v1::ShipRefused {
            database: self.database_bytes(),
            epoch: Some(epoch.into()),
            code: code.code().0.into(),
            message: fault,
            sealed: sealed.map(Into::into),
            copy: self.copy_bytes(),
        };
        self.send_target(member, v1::target_message::Message::Refused(refused));
    }

    fn send_target(&self, member: MemberId, message: v1::target_message::Message) {
        if let Some((_, sender)) = self.sources().get(&member) {
            // A closed session reports itself.
            let _ = sender.send(Ok(v1::TargetMessage { message: Some(message) }));
        }
    }

    /// Tells the active what changed here without any log having arrived.
    pub(super) fn acknowledge_again(&mut self) {
        let (durable, view) = (self.machine.durable().position, self.machine.view());
        let members: Vec<_> = self.sources().keys().copied().collect();
        if self.machine.expects(view.epoch).is_some() {
            members.into_iter().for_each(|member| self.send_ack(member, view.epoch, durable));
        }
    }

    fn copy_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.shared.copy.into_bytes())
    }

    pub(super) fn log_view(&self) -> Result<LogView, Refusal> {
        let failed = |fault: Option<CopyFault>| {
            let what = fault.map(|fault| fault.to_string()).unwrap_or_default();
            Refusal::new(RefusalReason::CopyFailed, what)
        };
        let files = self.files.as_ref().ok_or_else(|| failed(self.fault()))?;
        Ok(LogView {
            stream: self.shared.stream,
            table: self.machine.table().clone(),
            durable: self.machine.durable(),
            committed: self.shared.committed.load(),
            log: self.log_id(),
            reader: files.reader.clone(),
        })
    }
}

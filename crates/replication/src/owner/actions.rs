//! Carrying out the machine's actions, in order.

use keelson_copy_core::{Action, Event, StopReason};
use keelson_types::{Epoch, Position, Record};
use keelson_wire::v1;

use crate::fetch;
use crate::log_lane::LogJob;
use crate::message::AfterCut;
use crate::owner::{Owner, unix_millis};
use crate::store_lane::StoreJob;
use crate::writer::{Answer, Writer, outcome_unknown};

impl Owner {
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::SaveControl { save, sealed, table } => {
                self.log_job(LogJob::Control { save, sealed, table });
            }
            Action::CutLog { to } => self.log_job(LogJob::Cut { to, then: AfterCut::Machine }),
            Action::Climbed(verdict) => self.climbed(&verdict),
            Action::ReopenStore => self.reopen_store(),
            Action::CountFork { from, to } => self.count_fork(from, to),
            Action::BeginResync { fork, estimated, .. } => self.begin_resync(fork, estimated),
            Action::Append => {} // The bytes were handed on where they arrived.
            Action::BeginEpoch { epoch } => self.begin_epoch(epoch),
            Action::ReplayTo(to) => self.replay_to(to),
            Action::Commit(to) => self.commit(to),
            Action::SealReply { request, answer } => {
                if let Some(reply) = self.seals.remove(&request) {
                    drop(reply.send(answer.map(|answer| self.sealed(answer))));
                }
            }
            Action::MountReply { request, answer } => {
                if let Some(reply) = self.mounts.remove(&request) {
                    drop(reply.send(answer));
                }
            }
            Action::Serve { epoch } => self.serve(epoch),
            Action::StopServing { epoch, reason } => self.stop_serving(epoch, &reason),
            Action::Established { epoch } => self.context.report_established(&self.shared, epoch),
            Action::ProposeRule { epoch, expected_version, rule } => {
                self.context.propose_rule(&self.shared, epoch, expected_version, &rule);
            }
            Action::ProposeCeiling { epoch, proposal } => {
                self.context.propose_ceiling(&self.shared, epoch, &proposal);
            }
            Action::GiveUp { epoch, reason } => {
                self.context.report_given_up(&self.shared, epoch, &reason);
            }
            Action::OpenPeer { copy, member, epoch } => self.open_peer(copy, member, epoch),
            Action::ShipFrom { copy, member, epoch, from } => {
                self.ship_from(copy, member, epoch, from);
            }
            Action::ClosePeer { copy } => drop(self.peers.remove(&copy)),
            Action::SendOpened { member, epoch, matched } => {
                self.send_opened(member, epoch, matched);
            }
            Action::SendAck { member, epoch, durable } => self.send_ack(member, epoch, durable),
            Action::SendRefused { member, epoch, refusal } => {
                self.send_refused(member, epoch, &refusal);
            }
            Action::Fetch { epoch, source, wanted } => {
                let end = self.machine.end().position;
                let ask = fetch::Ask { epoch, source, wanted, end };
                let table = self.machine.table().clone();
                fetch::start(&self.context, &self.shared, ask, table, self.done.clone());
            }
            Action::PullFetch => self.pull_fetch(),
        }
    }

    pub(super) fn log_job(&self, job: LogJob) {
        if let Some(files) = &self.files {
            files.log.push(job);
        }
    }

    fn begin_epoch(&mut self, epoch: Epoch) {
        let now = unix_millis();
        let after = self.cursor.position();
        let begun = self.cursor.begin_epoch(epoch, now);
        let (header, start) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let fault = keelson_types::CopyFault::LogDamaged(error.to_string());
                self.events.push_back(Event::LogFailed { fault });
                return;
            }
        };
        let committed = self.machine.committed();
        let durable = self.machine.durable().position;
        let records = [Record::Opening { epoch }];
        let encoded = self.cursor.encode(&records, now, committed, durable);
        let encoded = encoded.expect("an opening frame is small and its epoch has begun");
        let mut chunks = vec![header];
        chunks.extend(encoded.chunks);
        let mut before = after;
        for chunk in &chunks {
            self.tail.push(before, chunk.clone());
            before = chunk.end;
        }
        self.frames_in_flight += 1;
        self.log_job(LogJob::Write { chunks, end: self.cursor.end() });
        // The machine learns of it before anything else happens.
        self.events.push_front(Event::EpochBegun { start, end: self.cursor.end().position });
    }

    pub(super) fn replay_to(&mut self, to: Position) {
        if !self.room().look().replays(self.machine.own_epoch().is_some()) {
            return self.replay_later(to);
        }
        if !self.may_replay(to) {
            return;
        }
        let chunks = self.tail.read(self.replay_sent, usize::MAX);
        let usable = chunks.last().is_some_and(|last| last.end >= to);
        let chunks = if usable { chunks } else { Vec::new() };
        self.replay_sent = to;
        self.store_used = Some(tokio::time::Instant::now());
        if let Some(files) = &self.files {
            files.store.push(StoreJob::Replay { to, chunks });
        }
    }

    fn commit(&mut self, to: Position) {
        self.shared.committed.store(to);
        let answers = self.writer.as_mut().map(|writer| writer.committed(to)).unwrap_or_default();
        self.answer(answers);
        let idle = self.frames_in_flight == 0;
        if idle && self.writer.as_ref().is_none_or(|writer| writer.queued() == 0) {
            self.tell_committed(to);
        }
    }

    /// Sends answers if the gate allows it, else keeps them until the lease is back.
    pub(super) fn answer(&mut self, mut answers: Vec<Answer>) {
        if self.shared.gate.is_open() {
            for answer in answers {
                if let Some((arrived, framed)) = answer.times() {
                    self.context.meters.answered(arrived, framed);
                }
                answer.send();
            }
        } else {
            answers.iter_mut().for_each(Answer::parked);
            self.parked.extend(answers);
        }
    }

    pub(super) fn lease_back(&mut self) {
        self.event(Event::LeaseBack);
        self.renew_replay_limit();
        let parked = std::mem::take(&mut self.parked);
        self.answer(parked);
    }

    fn serve(&mut self, epoch: Epoch) {
        tracing::info!(database = %self.shared.name, %epoch, "serving");
        self.writer = Some(Writer::new(epoch));
        self.serves();
        self.shared.gate.open(epoch);
        self.shared.wake();
    }

    fn stop_serving(&mut self, epoch: Epoch, reason: &StopReason) {
        tracing::info!(database = %self.shared.name, %epoch, ?reason, "stopped serving");
        self.shared.gate.close();
        self.frames_in_flight = 0;
        let waiting = self.writer.take().map(Writer::into_waiting).unwrap_or_default();
        waiting.into_iter().for_each(Answer::send);
        // These are committed, but nothing may be answered any more.
        let parked = std::mem::take(&mut self.parked);
        parked.into_iter().for_each(|answer| answer.refuse(outcome_unknown()));
        self.peers.clear();
        self.reported.clear();
        self.shared.wake();
    }

    fn tell_committed(&self, to: Position) {
        for peer in self.peers.values().filter(|peer| peer.is_caught_up(self.cursor.end().position))
        {
            let committed = v1::ShipCommitted {
                database: self.database_bytes(),
                epoch: Some(peer.epoch.into()),
                committed: Some(to.into()),
            };
            self.send_source(peer.member, v1::source_message::Message::Committed(committed));
        }
    }
}

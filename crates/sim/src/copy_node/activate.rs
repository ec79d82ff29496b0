//! Seals, mounts and fetches.

use std::collections::VecDeque;

use keelson_cluster_core as cluster;
use keelson_copy_core::{Event, LogSource, MountFailure, MountOrder, SealAnswer, SealRefusal};
use keelson_format::Chunk;
use keelson_types::{CopyFault, CopyId, Epoch, EpochTable, LogEnd, MemberId, Position, Record};

use super::{CopyNode, Job, Moment, Out};
use crate::messages::{DataMessage, ToControl};
use crate::probes::Probe;

/// A fetch under way at a target.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    pub(crate) id: u64,
    pub(crate) member: MemberId,
    epoch: Epoch,
}

impl CopyNode {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(crate) fn seal(&mut self, moment: &mut Moment<'_>, epoch: Epoch) {
        let request = self.number();
        self.seals.insert(request, (epoch, self.sync_queued));
        self.step(moment, Event::Seal { request, epoch });
    }

    pub(super) fn seal_reply(
        &mut self,
        moment: &mut Moment<'_>,
        request: u64,
        answer: Result<SealAnswer, SealRefusal>,
    ) {
        let Some((epoch, waited)) = self.seals.remove(&request) else { return };
        if waited && answer.is_ok() {
            moment.out.push(Out::Fired(Probe::SealWaited));
        }
        let result = match answer {
            Ok(answer) => Ok(cluster::SealReply {
                copy: self.copy,
                member: self.machine_member(),
                sealed: epoch,
                end: answer.end,
                committed: answer.committed,
                replayed: answer.replayed,
                fault: answer.fault,
                may_have_lost: answer.may_have_lost,
                ha: true,
                health: cluster::CopyHealth::default(),
            }),
            Err(SealRefusal::SealedHigher(epoch)) => {
                moment.out.push(Out::Fired(Probe::SealedHigher));
                Err(cluster::SealRefusal::HigherEpoch(epoch))
            }
            Err(SealRefusal::Superseded(epoch)) => {
                moment.out.push(Out::Fired(Probe::SealSuperseded));
                Err(cluster::SealRefusal::HigherEpoch(epoch))
            }
            Err(SealRefusal::EpochInUse(epoch)) => Err(cluster::SealRefusal::HigherEpoch(epoch)),
            Err(SealRefusal::Failed(fault)) => Err(cluster::SealRefusal::Fault(fault)),
        };
        let answer = cluster::SealAnswer { database: self.database, epoch, result };
        moment.out.push(Out::Control(ToControl::SealAnswer(answer)));
    }

    pub(super) fn machine_member(&self) -> MemberId {
        self.member
    }

    pub(crate) fn mount(&mut self, moment: &mut Moment<'_>, order: cluster::MountOrder) {
        if order.target != self.copy {
            return;
        }
        let request = self.number();
        self.mounts.insert(request, order.epoch);
        let source = |s: &cluster::Source| LogSource { member: s.member, copy: s.copy, end: s.end };
        let order = MountOrder {
            epoch: order.epoch,
            rule: order.rule,
            required_end: order.required_end,
            sources: order.sources.iter().map(source).collect(),
            ceiling: order.ceiling,
        };
        self.step(moment, Event::Mount { request, order });
    }

    pub(super) fn mount_reply(
        &mut self,
        moment: &mut Moment<'_>,
        request: u64,
        answer: Result<(), MountFailure>,
    ) {
        let Some(epoch) = self.mounts.remove(&request) else { return };
        if answer.is_err() {
            moment.out.push(Out::Fired(Probe::MountFailed));
        }
        let result = answer.map_err(|failure| match failure {
            MountFailure::SealedHigher(epoch) => cluster::MountFailure::StaleEpoch(epoch),
            MountFailure::NoSource => cluster::MountFailure::LogNotFetched,
            MountFailure::Diverged => {
                cluster::MountFailure::Fault(CopyFault::Diverged("from the sources".into()))
            }
            MountFailure::Failed(fault) => cluster::MountFailure::Fault(fault),
            MountFailure::Stopped => cluster::MountFailure::StaleEpoch(self.machine.sealed()),
        });
        self.mount_result(moment, epoch, result);
    }

    fn mount_result(
        &self,
        moment: &mut Moment<'_>,
        epoch: Epoch,
        result: Result<(), cluster::MountFailure>,
    ) {
        let database = self.database;
        moment.out.push(Out::Control(ToControl::MountResult { database, epoch, result }));
    }

    /// Opens the epoch with its opening frame, in the same turn.
    pub(super) fn begin_epoch(
        &mut self,
        moment: &mut Moment<'_>,
        epoch: Epoch,
        events: &mut VecDeque<Event>,
    ) {
        let mut cursor = self.cursor;
        let (committed, durable) = (self.machine.committed(), self.log.durable_end().position);
        let begun = cursor.begin_epoch(epoch, moment.wall_ms).and_then(|(header, start)| {
            let records = [Record::Opening { epoch }];
            let frame = cursor.encode(&records, moment.wall_ms, committed, durable)?;
            Ok((header, start, frame))
        });
        let (header, start, frame) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                moment.out.push(Out::Bug(format!("{} cannot open {epoch}: {error}", self.copy)));
                return;
            }
        };
        let chunks: Vec<_> = std::iter::once(header).chain(frame.chunks).collect();
        match self.write(moment, &chunks, cursor) {
            Ok(()) => {
                self.mount_result(moment, epoch, Ok(()));
                events.push_front(Event::EpochBegun { start, end: cursor.end().position });
            }
            Err(fault) => {
                if fault == CopyFault::DiskFull {
                    moment.out.push(Out::Fired(Probe::DiskFullActive));
                }
                events.push_front(Event::LogFailed { fault });
            }
        }
    }

    pub(super) fn fetch(
        &mut self,
        moment: &mut Moment<'_>,
        epoch: Epoch,
        source: &LogSource,
        _wanted: LogEnd,
    ) {
        if self.fetch.as_ref().is_some_and(|former| former.epoch == epoch) {
            moment.out.push(Out::Fired(Probe::SecondSource));
        }
        let id = self.number();
        self.fetch = Some(Fetch { id, member: source.member, epoch });
        let message = DataMessage::FetchOpen {
            id,
            source: source.copy,
            table: self.machine.table().clone(),
            end: self.machine.end().position,
        };
        moment.out.push(Out::Send { to: source.member, message });
        moment.out.push(Out::Job(Job::FetchTimeout(id)));
    }

    pub(super) fn pull(&mut self, moment: &mut Moment<'_>, events: &mut VecDeque<Event>) {
        let Some(fetch) = &self.fetch else {
            // The source went away while the fork was being cut.
            if let Some(epoch) = self.machine.own_epoch() {
                events.push_back(Event::FetchFailed { epoch });
            }
            return;
        };
        let message = DataMessage::FetchPull { id: fetch.id, from: self.machine.end().position };
        moment.out.push(Out::Send { to: fetch.member, message });
    }

    pub(super) fn fetch_opened(&mut self, moment: &mut Moment<'_>, id: u64, matched: Position) {
        if let Some(fetch) = self.fetch.as_ref().filter(|fetch| fetch.id == id) {
            let epoch = fetch.epoch;
            self.step(moment, Event::FetchMatched { epoch, matched });
        }
    }

    pub(super) fn fetched(
        &mut self,
        moment: &mut Moment<'_>,
        id: u64,
        chunks: Vec<Chunk>,
        done: bool,
    ) {
        let Some(fetch) = self.fetch.clone().filter(|fetch| fetch.id == id) else { return };
        moment.out.push(Out::Fired(Probe::Fetched));
        let before = self.machine.end();
        self.received(moment, fetch.epoch, chunks);
        if done || self.machine.end() == before {
            self.fetch_over(moment, id);
        } else if self.machine.expects(fetch.epoch).is_some() {
            let from = self.machine.end().position;
            let message = DataMessage::FetchPull { id, from };
            moment.out.push(Out::Send { to: fetch.member, message });
        }
    }

    /// The fetch gives nothing more. The machine knows whether that is enough.
    pub(super) fn fetch_over(&mut self, moment: &mut Moment<'_>, id: u64) {
        if let Some(fetch) = self.fetch.take_if(|fetch| fetch.id == id) {
            // Kept for the next one to see that it is not the first.
            let epoch = fetch.epoch;
            self.fetch = Some(Fetch { id: 0, ..fetch });
            self.step(moment, Event::FetchFailed { epoch });
            self.fetch.take_if(|fetch| fetch.id == 0);
        }
    }

    pub(super) fn fetch_is_late(&mut self, moment: &mut Moment<'_>, id: u64) {
        self.fetch_over(moment, id);
    }

    pub(super) fn fetch_asked(
        &mut self,
        moment: &mut Moment<'_>,
        from: MemberId,
        (id, source): (u64, CopyId),
        table: &EpochTable,
        end: Position,
    ) {
        let own_end = self.log.durable_end().position;
        let usable = source == self.copy && self.log.damage().is_none();
        let message = if usable {
            let matched = self.machine.table().common(own_end, table, end).position;
            DataMessage::FetchOpened { id, matched }
        } else {
            DataMessage::FetchRefused { id }
        };
        moment.out.push(Out::Send { to: from, message });
    }

    pub(super) fn fetch_pulled(
        &mut self,
        moment: &mut Moment<'_>,
        from: MemberId,
        id: u64,
        at: Position,
    ) {
        let end = self.log.durable_end().position;
        let message = match self.log.reader().read(at, end, self.ship_bytes) {
            Ok(chunks) => {
                let done = chunks.last().is_none_or(|last| last.end >= end);
                DataMessage::FetchFrames { id, chunks, done }
            }
            Err(_) => DataMessage::FetchRefused { id },
        };
        moment.out.push(Out::Send { to: from, message });
    }
}

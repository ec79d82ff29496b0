//! One copy in a data process: the machine of `copy-core` over the real log and the in-memory
//! store.
//!
//! The node carries actions out. What takes time (sync, cut, save, replay) is a [`Job`] that the
//! world completes later; until then a crash loses it.

mod activate;
mod lag;
mod mend;
mod open;
mod repair;
mod serve;
mod ship;
mod truncating;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use keelson_copy_core::range_fetch::{FetchEvent, Mark};
use keelson_copy_core::{Action, Assignment, CopyMachine, Event, StopReason};
use keelson_env::{KvStore, SplitMix64};
use keelson_format::{Chunk, ControlRecord, Cursor};
use keelson_log::{ControlFile, Log, LogError};
use keelson_types::{
    CopyFault, CopyId, DatabaseId, Epoch, Generation, LogEnd, MemberId, Position, Tick,
};

use crate::checkers::Write;
use crate::messages::{CeilingProposal, DataMessage, Operation, Reply, RuleProposal, ToControl};
use crate::probes::Probe;
use lag::Lag;
use repair::Repair;
use truncating::Truncating;

pub(crate) use activate::Fetch;
pub(crate) use mend::Holder;
pub(crate) use open::Place;
pub(crate) use repair::{Ask, StoreWork};
pub(crate) use serve::{PendingRead, PendingWrite, key_bytes, write_of};
pub(crate) use ship::Ship;

/// Work of the disk that completes later.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    Sync,
    Cut(Position),
    Save(u64, Box<ControlRecord>),
    /// Up to here, if the store was not set back since.
    Replay(Position, u64),
    FetchTimeout(u64),
    /// A mark is replaced, or removed.
    Mark(Ask, Option<Box<Mark>>),
    Store(Ask, StoreWork),
    RangeTimeout(Ask),
    /// Generations before this one go.
    Truncate(Generation),
}

/// What a node wants of the world.
#[derive(Clone, Debug)]
pub(crate) enum Out {
    Send {
        to: MemberId,
        message: DataMessage,
    },
    Job(Job),
    Control(ToControl),
    Reply {
        operation: Operation,
        reply: Reply,
        epoch: Epoch,
    },
    /// A frame is being replayed.
    Replaying {
        start: Position,
        end: LogEnd,
        chain: u32,
        writes: Vec<Write>,
    },
    /// The copy serves from now on.
    Serves {
        epoch: Epoch,
    },
    Fired(Probe),
    Note(String),
    /// Something that can only be a bug.
    Bug(String),
    /// The process must be restarted to go on.
    Broken,
}

/// What a node knows of the moment.
pub(crate) struct Moment<'a> {
    pub(crate) now: Tick,
    pub(crate) wall_ms: u64,
    /// Epoch and expiry of the lease for this database.
    pub(crate) cover: Option<(Epoch, Tick)>,
    /// Little of the log volume is free.
    pub(crate) short_of_space: bool,
    pub(crate) random: &'a mut SplitMix64,
    pub(crate) out: &'a mut Vec<Out>,
}

/// A copy and everything it needs.
pub(crate) struct CopyNode {
    pub(crate) database: DatabaseId,
    pub(crate) copy: CopyId,
    member: MemberId,
    pub(crate) machine: CopyMachine,
    pub(crate) log: Log,
    pub(crate) store: Arc<dyn KvStore>,
    cursor: Cursor,
    control: ControlFile,
    record: ControlRecord,
    ship_bytes: usize,
    sync_queued: bool,
    ships: BTreeMap<CopyId, Ship>,
    /// Bytes that arrived and wait for `Append`, and the cursor behind them.
    staged: Option<(Vec<Chunk>, Cursor)>,
    fetch: Option<Fetch>,
    next_number: u64,
    writes: VecDeque<PendingWrite>,
    reads: Vec<PendingRead>,
    serving: Option<Epoch>,
    covered: bool,
    /// Reported until consensus shows it.
    established: Option<Epoch>,
    gave_up: Option<Epoch>,
    proposal: Option<RuleProposal>,
    ceiling: Option<CeilingProposal>,
    seals: BTreeMap<u64, (Epoch, bool)>,
    mounts: BTreeMap<u64, Epoch>,
    lag: Option<Lag>,
    repair: Repair,
    truncating: Truncating,
    /// It failed because log that it needs is gone.
    misses_log: bool,
    /// The active that was answered last, and its epoch.
    source: Option<(MemberId, Epoch)>,
}

impl CopyNode {
    /// Steps the machine and carries its actions out.
    pub(crate) fn step(&mut self, moment: &mut Moment<'_>, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front().or_else(|| self.queued_event()) {
            let mut actions = Vec::new();
            self.machine.step(moment.now, event, &mut actions);
            for action in actions {
                self.act(moment, action, &mut events);
            }
        }
        let misses = matches!(self.machine.view().fault, Some(CopyFault::MissingLog(_)));
        if misses && !std::mem::replace(&mut self.misses_log, misses) {
            moment.out.push(Out::Fired(Probe::LogGone));
        }
        self.misses_log = misses;
        if let Err(what) = self.machine.check() {
            moment.out.push(Out::Bug(what.to_owned()));
        }
    }

    fn act(&mut self, moment: &mut Moment<'_>, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::SaveControl { save, sealed, table } => {
                self.record.sealed = sealed;
                self.record.epoch_table = table;
                moment.out.push(Out::Job(Job::Save(save, Box::new(self.record.clone()))));
            }
            Action::CutLog { to } => {
                let probe = match self.machine.own_epoch() {
                    Some(_) => Probe::TargetCut,
                    None => Probe::ForkCut,
                };
                moment.out.push(Out::Fired(probe));
                moment.out.push(Out::Job(Job::Cut(to)));
            }
            Action::Climbed(_) => {}
            Action::ReopenStore => self.reopen_store(moment),
            Action::CountFork { from, to } => self.count_fork(moment, from, to),
            Action::BeginResync { epoch, fork, estimated } => {
                self.begin_resync(moment, epoch, fork, estimated);
            }
            Action::Append => self.append_staged(moment, events),
            Action::BeginEpoch { epoch } => self.begin_epoch(moment, epoch, events),
            Action::ReplayTo(to) => {
                moment.out.push(Out::Job(Job::Replay(to, self.repair.replays)));
            }
            Action::Commit(to) => self.committed(moment, to),
            Action::SealReply { request, answer } => self.seal_reply(moment, request, answer),
            Action::MountReply { request, answer } => self.mount_reply(moment, request, answer),
            Action::Serve { epoch } => {
                self.serving = Some(epoch);
                self.begins_to_serve(moment);
                moment.out.push(Out::Serves { epoch });
            }
            Action::StopServing { epoch, reason } => self.stop_serving(moment, epoch, &reason),
            Action::Established { epoch } => {
                self.established = Some(epoch);
                self.report(moment);
            }
            Action::ProposeRule { epoch, expected_version, rule } => {
                moment.out.push(Out::Fired(Probe::RuleProposed));
                let database = self.database;
                self.proposal = Some(RuleProposal { database, epoch, expected_version, rule });
                self.report(moment);
            }
            Action::ProposeCeiling { epoch, proposal } => {
                let database = self.database;
                self.ceiling = Some(CeilingProposal { database, epoch, proposal });
                self.report(moment);
            }
            Action::GiveUp { epoch, reason } => {
                match reason {
                    StopReason::Restarted => moment.out.push(Out::Fired(Probe::RestartGivesUp)),
                    StopReason::LeaseGone => moment.out.push(Out::Fired(Probe::LeaseGone)),
                    _ => {}
                }
                self.gave_up = Some(epoch);
                self.report(moment);
            }
            Action::OpenPeer { copy, member, epoch } => self.open_peer(moment, copy, member, epoch),
            Action::ShipFrom { copy, member, epoch, from } => {
                self.ship_from(moment, copy, Ship { member, epoch, next: from });
            }
            Action::ClosePeer { copy } => drop(self.ships.remove(&copy)),
            Action::SendOpened { .. } | Action::SendAck { .. } | Action::SendRefused { .. } => {
                self.tell_source(moment, action);
            }
            Action::Fetch { epoch, source, wanted } => self.fetch(moment, epoch, &source, wanted),
            Action::PullFetch => self.pull(moment, events),
        }
    }

    fn tell_source(&mut self, moment: &mut Moment<'_>, action: Action) {
        match action {
            Action::SendOpened { member, epoch, matched } => {
                let chain = self.cursor.state().chain;
                self.source = Some((member, epoch));
                let message = DataMessage::Opened { copy: self.copy, epoch, matched, chain };
                moment.out.push(Out::Send { to: member, message });
            }
            Action::SendAck { member, epoch, durable } => {
                self.acknowledge(moment, member, epoch, durable);
            }
            Action::SendRefused { member, epoch, refusal } => {
                if refusal == keelson_copy_core::OpenRefusal::Busy {
                    moment.out.push(Out::Fired(Probe::OfferBusy));
                }
                let message = DataMessage::Refused { copy: self.copy, epoch, refusal };
                moment.out.push(Out::Send { to: member, message });
            }
            _ => {}
        }
    }

    /// Reports until they are answered what consensus must learn of this copy.
    pub(crate) fn report(&self, moment: &mut Moment<'_>) {
        let database = self.database;
        let mut say = |report| moment.out.push(Out::Control(report));
        if let Some(epoch) = self.established {
            say(ToControl::Established { database, epoch });
        }
        if let Some(epoch) = self.gave_up {
            say(ToControl::GaveUp { database, epoch });
        }
        if let Some(proposal) = &self.proposal {
            say(ToControl::ProposeRule(proposal.clone()));
        }
        if let Some(proposal) = self.ceiling {
            say(ToControl::ProposeCeiling(proposal));
        }
    }

    pub(crate) fn assigned(
        &mut self,
        moment: &mut Moment<'_>,
        assignment: Assignment,
        established: bool,
    ) {
        let epoch = assignment.epoch;
        self.established.take_if(|own| *own < epoch || *own == epoch && established);
        self.gave_up.take_if(|own| *own < epoch);
        let known = assignment.ceiling.number;
        self.ceiling.take_if(|own| own.epoch < epoch || own.proposal.number <= known);
        let version = assignment.rule.as_ref().map_or(0, |rule| rule.version);
        let decided = self.proposal.take_if(|p| p.epoch < epoch || p.rule.version <= version);
        if let Some(proposal) = decided {
            let recorded = assignment.rule.as_ref() == Some(&proposal.rule);
            let probe = if recorded { Probe::RuleRecorded } else { Probe::RuleRefused };
            moment.out.push(Out::Fired(probe));
        }
        self.know_donors(&assignment);
        self.step(moment, Event::Assigned(assignment));
    }

    /// The leader refused this proposal for good.
    pub(crate) fn rule_refused(
        &mut self,
        moment: &mut Moment<'_>,
        proposal: &RuleProposal,
        recorded: keelson_types::CommitRule,
    ) {
        if self.proposal.as_ref() == Some(proposal) {
            self.proposal = None;
            moment.out.push(Out::Fired(Probe::RuleRefused));
            let (epoch, version) = (proposal.epoch, proposal.rule.version);
            self.step(moment, Event::RuleRecorded { epoch, version, rule: recorded });
        }
    }

    /// Lease edges, wake-ups, repeated reports.
    pub(crate) fn tick(&mut self, moment: &mut Moment<'_>) {
        let own = self.machine.own_epoch();
        let covered = self.is_covered(moment);
        if own.is_some() && covered != self.covered {
            self.covered = covered;
            if covered && self.machine.view().status == keelson_types::CopyStatus::Held {
                moment.out.push(Out::Fired(Probe::HeldAndResumed));
            }
            let edge = if covered { Event::LeaseBack } else { Event::LeaseLost };
            self.step(moment, edge);
        } else if own.is_none() {
            self.covered = false;
        }
        if self.machine.next_wake().is_some_and(|at| at <= moment.now) {
            self.step(moment, Event::Wake);
        }
        self.fetch_goes_on(moment, FetchEvent::Wake);
        self.limit_replay(moment);
        self.truncate(moment);
        self.report(moment);
        self.answer_reads(moment);
    }

    /// Log that it acknowledged may be gone (R4).
    pub(crate) fn may_have_lost(&self) -> bool {
        self.record.may_have_lost_from.is_some()
    }

    fn is_covered(&self, moment: &Moment<'_>) -> bool {
        let own = self.machine.own_epoch();
        moment.cover.is_some_and(|(epoch, until)| Some(epoch) == own && until > moment.now)
    }

    pub(crate) fn job_done(&mut self, moment: &mut Moment<'_>, job: Job) {
        match job {
            Job::Sync => {
                self.sync_queued = false;
                match self.log.sync() {
                    Ok(end) => self.step(moment, Event::Logged { end }),
                    Err(error) => self.log_failed(moment, &error),
                }
            }
            Job::Cut(to) => self.cut(moment, to),
            Job::Save(save, mut record) => {
                record.durable_floor = self.log.durable_end().position;
                record.committed = self.machine.committed();
                let saved = self.space_for_a_save().and_then(|()| self.control.write(&record));
                match saved {
                    Ok(()) => self.step(moment, Event::ControlSaved { save }),
                    Err(error) => {
                        moment.out.push(Out::Broken);
                        let fault = CopyFault::LogIo(error.to_string());
                        self.step(moment, Event::LogFailed { fault });
                    }
                }
            }
            Job::Replay(to, life) if life == self.repair.replays => self.replay(moment, to),
            // The store was set back since; the machine asks anew.
            Job::Replay(..) => {}
            Job::FetchTimeout(id) => self.fetch_is_late(moment, id),
            Job::Mark(ask, mark) => self.mark_job(moment, ask, mark),
            Job::Store(ask, work) => self.store_job(moment, ask, work),
            Job::RangeTimeout(ask) => self.range_late(moment, ask),
            Job::Truncate(before) => self.do_truncate(moment, before),
        }
    }

    fn cut(&mut self, moment: &mut Moment<'_>, to: Position) {
        match self.log.cut(to).and_then(|report| {
            // A header without a frame behind the end would not match what comes next.
            let end = report.state.end.position;
            if end == report.state.position { Ok(report) } else { self.log.cut(end) }
        }) {
            Ok(report) => {
                self.cursor = Cursor::new(report.state, *self.cursor.config());
                self.lag_cut(report.state.end.position);
                self.step(moment, Event::LogCut { end: report.state.end });
            }
            // Space for the salvage is missing: tried again.
            Err(LogError::NoSpace) => moment.out.push(Out::Job(Job::Cut(to))),
            Err(error) => self.log_failed(moment, &error),
        }
    }

    /// Writes chunks and makes `cursor` the log's, or reports the failure and leaves both as they
    /// were.
    fn write(
        &mut self,
        moment: &mut Moment<'_>,
        chunks: &[Chunk],
        cursor: Cursor,
    ) -> Result<(), CopyFault> {
        match self.log.write(chunks) {
            Ok(()) => {
                self.cursor = cursor;
                if !self.sync_queued {
                    self.sync_queued = true;
                    moment.out.push(Out::Job(Job::Sync));
                }
                Ok(())
            }
            Err(LogError::NoSpace) => Err(CopyFault::DiskFull),
            Err(LogError::Poisoned(error)) => {
                moment.out.push(Out::Broken);
                moment.out.push(Out::Fired(Probe::Poisoned));
                Err(CopyFault::LogIo(error.to_string()))
            }
            Err(error) => {
                moment.out.push(Out::Bug(format!("the log refuses what was inspected: {error}")));
                Err(CopyFault::LogIo(error.to_string()))
            }
        }
    }

    fn append_staged(&mut self, moment: &mut Moment<'_>, events: &mut VecDeque<Event>) {
        let Some((chunks, cursor)) = self.staged.take() else {
            moment.out.push(Out::Bug("append without bytes".into()));
            return;
        };
        if let Err(fault) = self.write(moment, &chunks, cursor) {
            if fault == CopyFault::DiskFull {
                moment.out.push(Out::Fired(Probe::DiskFullPassive));
            }
            events.push_back(Event::LogFailed { fault });
        }
    }

    fn log_failed(&mut self, moment: &mut Moment<'_>, error: &LogError) {
        moment.out.push(Out::Broken);
        let fault = match error {
            LogError::Poisoned(_) => {
                moment.out.push(Out::Fired(Probe::Poisoned));
                CopyFault::LogIo(error.to_string())
            }
            LogError::Damaged(_) => CopyFault::LogDamaged(error.to_string()),
            other => CopyFault::LogIo(other.to_string()),
        };
        self.step(moment, Event::LogFailed { fault });
    }
}

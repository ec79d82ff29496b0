//! Data processes: the copies of a member, their jobs, what they say and what they answer.

use std::collections::{BTreeMap, BTreeSet};

use keelson_copy_core::Event;
use keelson_types::{
    CopyId, DatabaseId, Epoch, IncarnationId, MemberId, Position, Tick, Watermarks,
};

use super::{Happening, World, database_id, database_index, stream_id};
use crate::checkers::Write;
use crate::copy_node::{CopyNode, Holder, Job, Moment, Out, Place};
use crate::messages::{ControlMessage, Operation, Reply, ToControl, ToData};
use crate::params::MS;
use crate::probes::Probe;

/// A data process.
pub(crate) struct Data {
    pub(crate) incarnation: IncarnationId,
    pub(crate) copies: BTreeMap<usize, CopyNode>,
    pub(crate) cover: BTreeMap<DatabaseId, (Epoch, Tick)>,
    /// Sessions by peer.
    pub(crate) peers: BTreeMap<usize, u64>,
    dead: BTreeSet<MemberId>,
    /// When the last job of a log, or of a control file, is done.
    log_busy: BTreeMap<usize, u64>,
    save_busy: BTreeMap<usize, u64>,
    store_busy: BTreeMap<usize, u64>,
    ticks: u64,
    pub(crate) broken: bool,
}

impl World {
    /// Whether the member's control process runs and knows new ids for what was lost with a disk.
    fn knows_lost_copies(&self, member: usize) -> bool {
        let machine = &self.machines[member];
        let Some(control) = &machine.control else { return true };
        let databases = control.state.databases.values();
        databases.filter_map(|d| d.copy_on(machine.id)).any(|id| machine.lost_copies.contains(&id))
    }

    pub(crate) fn start_data(&mut self, member: usize) {
        let machine = &self.machines[member];
        if machine.data.is_some() || machine.down_for_good || self.knows_lost_copies(member) {
            return;
        }
        let incarnation = self.fresh_incarnation();
        let machine = &mut self.machines[member];
        machine.data_life += 1;
        let life = machine.data_life;
        machine.data = Some(Data {
            incarnation,
            copies: BTreeMap::new(),
            cover: BTreeMap::new(),
            peers: BTreeMap::new(),
            dead: BTreeSet::new(),
            log_busy: BTreeMap::new(),
            save_busy: BTreeMap::new(),
            store_busy: BTreeMap::new(),
            ticks: 0,
            broken: false,
        });
        self.note(format_args!("m{member}: data process {life} starts"));
        self.control_sees_data(member, incarnation);
        self.after(MS, Happening::DataTick { member, life });
    }

    /// Ends the data process; what its volume keeps is the caller's business.
    pub(crate) fn end_data(&mut self, member: usize) {
        let machine = &mut self.machines[member];
        if machine.data.take().is_none() {
            return;
        }
        machine.data_paused = false;
        // What was meant for the process is lost with it; that a session is over is still to be
        // noted.
        let parked = std::mem::take(&mut machine.parked);
        for happening in parked {
            match happening {
                Happening::SessionNotice { .. } => self.after(0, happening),
                Happening::Datagram { .. } | Happening::ControlTick { .. } => {
                    self.machines[member].parked.push(happening);
                }
                _ => {}
            }
        }
        self.counts.crashes += 1;
        self.note(format_args!("m{member}: data process ends"));
        self.break_sessions_of(member);
    }

    fn open_copy(&mut self, member: usize, database: usize, copy: CopyId) {
        let holders = self.holders(member, database);
        let machine = &self.machines[member];
        let mut place = Place {
            disk: &machine.disk,
            stores: &machine.stores,
            member: machine.id,
            database: database_id(database),
            copy,
            stream: stream_id(database),
            params: &self.params,
            holders,
        };
        let mut out = Vec::new();
        let opened = CopyNode::open(&mut place, &mut out);
        if out.iter().any(|out| matches!(out, Out::Fired(Probe::Damage))) {
            self.waived.insert(database);
        }
        match opened {
            Ok(node) => {
                let (predecessor, peers): (_, Vec<_>) = {
                    let data = self.machines[member].data.as_mut().expect("the process runs");
                    let predecessor = data.copies.insert(database, node).is_some();
                    let peers = data.peers.keys().map(|peer| super::member_id(*peer)).collect();
                    (predecessor, peers)
                };
                if predecessor {
                    // It may have taken an offer along; sources are told to offer again.
                    self.break_sessions_of(member);
                }
                self.note(format_args!("m{member}: db{database} opened as {copy}"));
                self.handle(member, database, out);
                self.with_copy(member, database, |copy, moment| {
                    copy.start(moment);
                    peers.into_iter().for_each(|peer| copy.session_up(moment, peer));
                });
            }
            // For want of space, for example; tried again with the next news.
            Err(error) => {
                self.note(format_args!("m{member}: db{database} does not open: {error}"));
                self.break_process(member);
            }
        }
    }

    /// Calls `act` with one copy, then carries out what it wants, then checks it.
    pub(crate) fn with_copy<R>(
        &mut self,
        member: usize,
        database: usize,
        act: impl FnOnce(&mut CopyNode, &mut Moment<'_>) -> R,
    ) -> Option<R> {
        let (now, wall_ms) = (self.tick(member), self.wall_ms(member));
        let mut out = Vec::new();
        let short_of_space = self.machines[member].short_of_space;
        let data = self.machines[member].data.as_mut()?;
        let cover = data.cover.get(&database_id(database)).copied();
        let copy = data.copies.get_mut(&database)?;
        let random = &mut self.random;
        let mut moment = Moment { now, wall_ms, cover, short_of_space, random, out: &mut out };
        let result = act(copy, &mut moment);
        self.handle(member, database, out);
        self.check_watermarks(member, database);
        Some(result)
    }

    pub(crate) fn each_copy(
        &mut self,
        member: usize,
        mut act: impl FnMut(&mut CopyNode, &mut Moment<'_>),
    ) {
        let Some(data) = &self.machines[member].data else { return };
        let databases: Vec<_> = data.copies.keys().copied().collect();
        for database in databases {
            self.with_copy(member, database, &mut act);
        }
    }

    fn check_watermarks(&mut self, member: usize, database: usize) {
        let Some(copy) = self.copy(member, database) else { return };
        if copy.machine.view().fault.is_some() || !copy.is_whole() {
            return;
        }
        let marks = Watermarks {
            checkpointed: copy.store.checkpointed(),
            replayed: copy.store.replayed().position,
            inspected: copy.log.durable_end().position,
            committed: copy.machine.committed(),
            ..Watermarks::default()
        };
        if let Err(error) = marks.validate() {
            self.fail("watermarks", format!("m{member} db{database}: {error}"));
        }
    }

    /// The copies of the other members.
    fn holders(&self, member: usize, database: usize) -> Vec<Holder> {
        let others = (0..self.params.members).filter(|other| *other != member);
        others.filter_map(|other| Some(self.copy(other, database)?.holder())).collect()
    }

    /// The scrub of members with rot: what they read wrong is mended from other copies.
    pub(crate) fn scrub_rotten(&mut self) {
        for (member, database) in self.rotten.clone() {
            let mut holders = self.holders(member, database);
            if self.copy(member, database).is_none() {
                continue;
            }
            let mended = self.with_copy(member, database, |copy, _| copy.scrub(&mut holders));
            if mended == Some(None) && self.healing {
                self.excuse_rot(member, database, &holders);
            }
            if let Some(Some(count)) = mended {
                self.rotten.remove(&(member, database));
                if count > 0 {
                    self.fire(Probe::Mended);
                    self.note(format_args!("m{member}: db{database}: {count} damages mended"));
                }
            }
        }
    }

    /// Rot in log that no other copy has is mended by nobody; a seed would help, which is not
    /// modelled.
    fn excuse_rot(&mut self, member: usize, database: usize, holders: &[Holder]) {
        let copies = self.reference.databases[&database_id(database)].copies.len();
        let beyond = self.copy(member, database).is_some_and(|c| c.is_beyond_mending(holders));
        if holders.len() + 1 == copies && beyond && self.waived.insert(database) {
            self.note(format_args!("m{member}: db{database}: nobody else has what rotted"));
        }
    }

    pub(crate) fn copy(&self, member: usize, database: usize) -> Option<&CopyNode> {
        self.machines[member].data.as_ref()?.copies.get(&database)
    }

    fn handle(&mut self, member: usize, database: usize, out: Vec<Out>) {
        for out in out {
            match out {
                Out::Send { to, message } => self.session_send(member, to, database, message),
                Out::Job(job) => self.schedule(member, database, job),
                Out::Control(message) => self.say(member, message),
                Out::Reply { operation, reply, epoch } => {
                    self.server_reply(member, database, (operation, reply), epoch);
                }
                Out::Replaying { start, end, chain, writes } => {
                    self.note_replayed(member, database, (start, end.position), writes);
                    let who = format!("m{member}");
                    self.note_losses(member, database, end);
                    let (frame, given_up) = ((end, chain), &self.given_up);
                    let verdict = self.prefixes.check(database, start, frame, given_up, &who);
                    self.check(verdict);
                }
                Out::Serves { epoch } => {
                    self.note(format_args!("m{member}: db{database} serves epoch {epoch}"));
                    self.check_log(member, database);
                }
                Out::Fired(probe) => {
                    if probe == Probe::LogGone {
                        self.check_log_gone(member, database);
                    }
                    if matches!(probe, Probe::ForkCut | Probe::TargetCut) {
                        self.counts.cuts += 1;
                    }
                    self.fire(probe);
                }
                Out::Note(text) => self.note(format_args!("m{member} db{database}: {text}")),
                Out::Bug(text) => self.fail("core", format!("m{member} db{database}: {text}")),
                Out::Broken => self.break_process(member),
            }
        }
    }

    /// Ordinary truncation leaves what any copy needs; only one that lost its files, or is to be
    /// seeded, may miss log.
    fn check_log_gone(&mut self, member: usize, database: usize) {
        let Some(copy) = self.copy(member, database).map(|node| node.copy) else { return };
        let recorded = self.reference.databases[&database_id(database)].copies.get(&copy);
        // An active that was made by a seed has no log from before.
        let target = self.reference.databases[&database_id(database)].target;
        let short = target.is_some_and(|active| self.seeded.contains(&active));
        let given_up = short || recorded.is_none_or(|config| config.cut_off);
        let expanded = self.params.faults.short_of_space > 0;
        if !expanded && !given_up && !self.not_kept.contains(&copy) {
            self.fail(
                "truncation",
                format!("m{member} db{database}: log that {copy} needs is gone"),
            );
        }
    }

    /// What the copy replayed behind this frame, it replays anew, or another timeline had it.
    fn note_replayed(
        &mut self,
        member: usize,
        database: usize,
        (start, end): (Position, Position),
        writes: Vec<Write>,
    ) {
        if !self.params.truncation {
            return;
        }
        let Some(copy) = self.copy(member, database).map(|node| node.copy) else { return };
        let frames = self.replayed.entry(copy).or_default();
        let mut behind = frames.split_off(&start);
        // The frame that ends where this one begins stays.
        frames.extend(behind.remove_entry(&start));
        frames.insert(end, writes);
    }

    /// The supervisor restarts a process whose copy cannot go on.
    fn break_process(&mut self, member: usize) {
        if let Some(data) = &mut self.machines[member].data
            && !data.broken
        {
            data.broken = true;
            let delay = self.between((50 * MS, 500 * MS));
            self.after(delay, Happening::Undo(super::Fault::BrokenProcess { member }));
        }
    }

    fn schedule(&mut self, member: usize, database: usize, job: Job) {
        let delay = match &job {
            Job::FetchTimeout(_) | Job::RangeTimeout(_) => 2_000 * MS,
            Job::Replay(..) | Job::Store(..) => self.between((MS / 20, 3 * MS)),
            Job::Sync | Job::Cut(_) | Job::Save(..) | Job::Mark(..) | Job::Truncate(_) => {
                self.between(self.params.sync_delay)
            }
        };
        let mut at = self.now + delay;
        let life = self.machines[member].data_life;
        let Some(data) = &mut self.machines[member].data else { return };
        let busy = match &job {
            Job::Sync | Job::Cut(_) | Job::Mark(..) | Job::Truncate(_) => Some(&mut data.log_busy),
            Job::Save(..) => Some(&mut data.save_busy),
            Job::Replay(..) | Job::Store(..) => Some(&mut data.store_busy),
            Job::FetchTimeout(_) | Job::RangeTimeout(_) => None,
        };
        if let Some(busy) = busy.map(|busy| busy.entry(database).or_default()) {
            at = at.max(*busy + 1);
            *busy = at;
        }
        let Some(copy) = data.copies.get(&database).map(|copy| copy.copy) else { return };
        self.at(at, Happening::Job { member, life, database, copy, job });
    }

    pub(crate) fn job_done(
        &mut self,
        member: usize,
        life: u64,
        (database, copy): (usize, CopyId),
        job: Job,
    ) {
        if self.machines[member].data_life != life
            || self.copy(member, database).is_none_or(|node| node.copy != copy)
        {
            return;
        }
        self.note(format_args!("m{member} db{database} {}", job_name(&job)));
        self.with_copy(member, database, |node, moment| node.job_done(moment, job));
    }

    fn say(&mut self, member: usize, message: ToControl) {
        let life = self.machines[member].data_life;
        self.after(MS / 20, Happening::FromData { member, life, message });
    }

    pub(crate) fn tell(&mut self, member: usize, message: ToData) {
        let life = self.machines[member].data_life;
        self.after(MS / 20, Happening::ToData { member, life, message });
    }

    pub(crate) fn data_hears(&mut self, member: usize, life: u64, message: ToData) {
        if self.machines[member].data_life != life || self.machines[member].data.is_none() {
            return;
        }
        match message {
            ToData::Assigned { database, copy, assignment, established, lag, truncation } => {
                if self.copy(member, database).is_none_or(|node| node.copy != copy) {
                    self.open_copy(member, database, copy);
                    let dead = self.machines[member].data.as_ref().map(|data| data.dead.clone());
                    self.with_copy(member, database, |node, moment| {
                        node.step(moment, Event::MembersDead(dead.unwrap_or_default()));
                    });
                }
                self.with_copy(member, database, |node, moment| {
                    node.assigned(moment, *assignment, established);
                    node.set_lag(moment, lag);
                    node.truncation_facts(truncation);
                });
            }
            ToData::Dead(dead) => {
                if let Some(data) = &mut self.machines[member].data {
                    data.dead.clone_from(&dead);
                }
                self.each_copy(member, |copy, moment| {
                    copy.step(moment, Event::MembersDead(dead.clone()));
                });
            }
            ToData::Cover(pairs) => {
                if let Some(data) = &mut self.machines[member].data {
                    let pairs = pairs.iter().map(|pair| (pair.database, (pair.epoch, pair.until)));
                    data.cover = pairs.collect();
                }
            }
            ToData::Seal { items } => {
                for item in items {
                    let database = database_index(item.database);
                    self.with_copy(member, database, |copy, moment| copy.seal(moment, item.epoch));
                }
            }
            ToData::Mount { order } => {
                let database = database_index(order.database);
                self.with_copy(member, database, |copy, moment| copy.mount(moment, *order));
            }
            ToData::Dismount { database, epoch } => {
                self.with_copy(member, database_index(database), |copy, moment| {
                    copy.step(moment, Event::Dismount { epoch });
                });
            }
            ToData::RuleRefused { proposal, recorded } => {
                let database = database_index(proposal.database);
                self.with_copy(member, database, |copy, moment| {
                    copy.rule_refused(moment, &proposal, recorded);
                });
            }
        }
    }

    pub(crate) fn data_tick(&mut self, member: usize, life: u64) {
        if self.machines[member].data_life != life {
            return;
        }
        let Some(data) = &mut self.machines[member].data else { return };
        data.ticks += 1;
        self.each_copy(member, |copy, moment| copy.tick(moment));
        self.after(20 * MS, Happening::DataTick { member, life });
    }

    pub(crate) fn control_hears(&mut self, member: usize, life: u64, message: ToControl) {
        if self.machines[member].data_life != life || self.machines[member].data.is_none() {
            return;
        }
        let message = match message {
            ToControl::SealAnswer(answer) => ControlMessage::SealReplies { answers: vec![answer] },
            ToControl::MountResult { database, epoch, result } => {
                ControlMessage::MountResult { database, epoch, result }
            }
            ToControl::Dismounted { database, epoch } => {
                ControlMessage::Dismounted { database, epoch }
            }
            ToControl::Established { database, epoch } => {
                ControlMessage::Established { database, epoch }
            }
            ToControl::GaveUp { database, epoch } => ControlMessage::GaveUp { database, epoch },
            ToControl::ProposeRule(proposal) => ControlMessage::ProposeRule(proposal),
            ToControl::ProposeCeiling(proposal) => ControlMessage::ProposeCeiling(proposal),
            ToControl::CutOff { database, epoch, copies, operations } => {
                ControlMessage::CutOff { database, epoch, copies, operations }
            }
            ToControl::ClearCutOff { database, epoch, copy } => {
                ControlMessage::ClearCutOff { database, epoch, copy }
            }
        };
        self.say_to_leader(member, message);
    }

    pub(crate) fn client_request(
        &mut self,
        member: usize,
        client: usize,
        database: usize,
        operation: Operation,
    ) {
        if self.copy(member, database).is_none() {
            let reply = Reply::Refused;
            self.after(MS / 10, Happening::ClientReply { client, operation, reply });
            return;
        }
        self.with_copy(member, database, |copy, moment| copy.client(moment, operation));
    }
}

fn job_name(job: &Job) -> &'static str {
    match job {
        Job::Sync => "synced",
        Job::Cut(_) => "cut",
        Job::Save(..) => "saved",
        Job::Replay(..) => "replays",
        Job::FetchTimeout(_) => "fetch timeout",
        Job::Mark(..) => "marked",
        Job::Store(..) => "store works",
        Job::RangeTimeout(_) => "range timeout",
        Job::Truncate(_) => "truncates",
    }
}

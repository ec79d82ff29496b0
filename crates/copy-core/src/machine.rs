//! Owns the state of a copy and dispatches events.
//!
//! Invariants, checked after every step in debug builds:
//! `replayed ≤ min(committed, durable)` (R10), `durable ≤ end`, a saved seal is never above the
//! promised one, and an active or activating copy is sealed for exactly its epoch.

use std::collections::{BTreeSet, VecDeque};

use keelson_types::{
    CopyFault, Epoch, EpochTable, LogEnd, MemberId, Position, Suspension, Tick, Weakness,
};

use crate::activation::Activation;
use crate::active::Active;
use crate::event::{Action, Assignment, CopyConfig, Event, Recovered};
use crate::outcome::{MountFailure, OpenRefusal, StopReason};
use crate::passive::Passive;
use crate::seal::Sealing;
use crate::status::Contact;
use crate::undo::{Ground, Marking};

/// Generations whose end is remembered: a ceiling asks for the newest one.
const GENERATION_ENDS_MAX: usize = 4;

/// What the copy is doing.
#[derive(Debug)]
pub(crate) enum Role {
    /// Nothing: just opened, sealed, dismounted, or without a source.
    Idle,
    /// Takes the log of an active.
    Passive(Passive),
    /// Completes its log before it opens an epoch.
    Activating(Activation),
    /// Writes the log.
    Active(Box<Active>),
}

/// The machine of one copy. One owner feeds it; see the crate page.
#[derive(Debug)]
pub struct CopyMachine {
    pub(crate) config: CopyConfig,
    /// Lower epochs are refused from the moment this rises; the promise counts once it is saved.
    pub(crate) sealed: Epoch,
    /// Highest epoch for which this life of the process answered a seal.
    pub(crate) answered_seal: Epoch,
    pub(crate) sealing: Option<Sealing>,
    pub(crate) table: EpochTable,
    /// End of what was handed to the log.
    pub(crate) end: LogEnd,
    /// End of what the log holds durably.
    pub(crate) durable: LogEnd,
    pub(crate) committed: Position,
    pub(crate) replayed: Position,
    /// What the store may hold, or will soon.
    pub(crate) replay_asked: Position,
    replay_limit: Option<Position>,
    saves: u64,
    pub(crate) assignment: Option<Assignment>,
    pub(crate) dead: BTreeSet<MemberId>,
    pub(crate) connected: BTreeSet<MemberId>,
    pub(crate) role: Role,
    pub(crate) fault: Option<CopyFault>,
    /// Where the store was before it was damaged, while it is not there again.
    pub(crate) rebuilding: Option<Position>,
    /// The log itself failed: nothing it says can be trusted until it is opened again.
    pub(crate) log_broken: bool,
    pub(crate) may_have_lost: bool,
    /// The fault is what the ladder of divergence said at the last offer.
    pub(crate) off_the_log: bool,
    /// A cut was ordered and has not happened yet: the log's end is not known.
    pub(crate) cutting: bool,
    /// Facts for the ladder of divergence.
    pub(crate) ground: Ground,
    /// A mark stands beside the store.
    pub(crate) marking: Option<Marking>,
    /// It is seeded; it feeds a seed.
    pub(crate) seeding: (bool, bool),
    /// The store is being opened again or set back: what it says of itself is old.
    pub(crate) store_away: bool,
    gave_up: Epoch,
    /// Highest epoch whose mount order this life took up. An epoch is opened at most once (R5).
    pub(crate) taken_up: Epoch,
    /// Since when the lease is known to be lost; it may be lost while the copy is being activated.
    pub(crate) lease_lost_at: Option<Tick>,
    /// For the status page.
    /// Ends of the generations that this copy closed while it was active, the newest last.
    pub(crate) generation_ends: VecDeque<Position>,
    pub(crate) contact: Contact,
}

impl CopyMachine {
    /// A machine over what was found on disk. Step it with [`Event::Wake`] once to start replay.
    #[must_use]
    pub fn new(config: CopyConfig, found: Recovered) -> Self {
        let broken = matches!(
            found.fault,
            Some(
                CopyFault::LogIo(_)
                    | CopyFault::LogDamaged(_)
                    | CopyFault::MissingLog(_)
                    // These have no log that was opened.
                    | CopyFault::CrashLoop
                    | CopyFault::Forgotten
            )
        );
        Self {
            config,
            sealed: found.sealed,
            answered_seal: Epoch::ZERO,
            sealing: None,
            table: found.table,
            end: found.end,
            durable: found.end,
            committed: found.committed.max(found.replayed),
            replayed: found.replayed,
            replay_asked: found.replayed,
            replay_limit: None,
            saves: 0,
            assignment: None,
            dead: BTreeSet::new(),
            connected: BTreeSet::new(),
            role: Role::Idle,
            fault: found.fault,
            rebuilding: found.rebuilding.filter(|until| found.replayed < *until),
            log_broken: broken,
            may_have_lost: found.may_have_lost,
            off_the_log: false,
            cutting: false,
            ground: Ground::default(),
            marking: None,
            seeding: (false, false),
            store_away: false,
            gave_up: Epoch::ZERO,
            taken_up: Epoch::ZERO,
            lease_lost_at: None,
            generation_ends: VecDeque::new(),
            contact: Contact::default(),
        }
    }

    /// Takes one event and pushes what has to be done, in order.
    pub fn step(&mut self, now: Tick, event: Event, out: &mut Vec<Action>) {
        self.contact.at(now);
        match event {
            Event::Assigned(assignment) => self.assigned(assignment, out),
            Event::MembersDead(dead) => self.dead = dead,
            Event::Seal { request, epoch } => self.seal(request, epoch, out),
            Event::Mount { request, order } => self.mount(request, order, out),
            Event::Dismount { epoch } => self.dismount(epoch, out),
            Event::LeaseLost => self.lease_lost(now, out),
            Event::LeaseBack => self.lease_back(),
            Event::RuleRecorded { epoch, version, rule } => {
                self.rule_recorded(epoch, version, rule);
            }
            Event::Logged { end } => self.logged(end, out),
            Event::LogFailed { fault } => self.failed(fault, true, out),
            Event::LogCut { end } => self.log_cut(end, out),
            Event::ControlSaved { save } => self.control_saved(save, out),
            Event::EpochBegun { start, end } => self.epoch_begun(start, end, out),
            Event::Appended { end } => self.appended(end),
            Event::Replayed { to } => self.replayed_to(to, out),
            Event::ReplayLimit(limit) => self.replay_limit = limit,
            Event::StoreFailed { fault } => self.failed(fault, false, out),
            Event::PeerUp { member } => self.peer_up(member, out),
            Event::PeerDown { member } => self.peer_down(member),
            Event::Opened { copy, epoch, matched, chain_matches } => {
                self.peer_opened(now, copy, epoch, matched, chain_matches, out);
            }
            Event::Acked { copy, epoch, durable } => self.peer_acked(now, copy, epoch, durable),
            Event::Refused { copy, epoch, refusal } => {
                self.peer_refused(now, copy, epoch, &refusal, out);
            }
            Event::Ground(ground) => self.ground = ground,
            Event::StoreReopened { replayed } => self.store_reopened(replayed, out),
            Event::ForkCounted(touched) => self.climb(touched, out),
            Event::ResyncBegun { fork } => self.resync_begun(fork, out),
            Event::ResyncRefused => self.resync_refused(out),
            Event::StoreRewound { to } => self.store_rewound(to),
            Event::Marked(marking) => self.marking = marking,
            Event::Seeding { target, source } => self.seeding = (target, source),
            Event::Open(offer) => self.open(&offer, out),
            Event::LogGone { epoch, begins } => self.log_gone(epoch, begins),
            Event::Matched { epoch } => self.matched(epoch, out),
            Event::Received { epoch, end, starts } => self.received(epoch, end, &starts, out),
            Event::CommittedUpTo { epoch, committed } => self.committed_up_to(epoch, committed),
            Event::SourceDown { member } => self.source_down(member),
            Event::FetchMatched { epoch, matched } => self.fetch_matched(epoch, matched, out),
            Event::FetchFailed { epoch } => self.fetch_failed(epoch, out),
            Event::Wake => {}
        }
        self.upkeep(now, out);
        debug_assert_eq!(self.check(), Ok(()), "{:?}", self.config.database);
    }

    /// What is always true afterwards: commits, rule changes, expiries, replay.
    fn upkeep(&mut self, now: Tick, out: &mut Vec<Action>) {
        self.active_upkeep(now, out);
        let target = self.replay_target();
        let busy = self.cutting || self.store_away || self.is_undoing();
        if target > self.replay_asked && self.fault.is_none() && !busy {
            self.replay_asked = target;
            out.push(Action::ReplayTo(target));
        }
    }

    /// Committed and durable; a suspended copy replays nothing, a lagged one what is old enough.
    pub(crate) fn replay_target(&self) -> Position {
        let target = self.committed.min(self.durable.position);
        let marked = self.marking.and_then(|marking| marking.replay_limit);
        let target = marked.map_or(target, |limit| target.min(limit));
        if let Role::Activating(activation) = &self.role {
            // What lies behind may be given up by the order, and is cut before the epoch is opened.
            return target.min(activation.order.required_end.position);
        }
        match self.replay_limit {
            _ if self.own_epoch().is_some() => target,
            _ if self.is_suspended() => Position::ZERO,
            Some(limit) => target.min(limit),
            None => target,
        }
    }

    /// What is stopped on this copy, as far as it knows.
    pub(crate) fn suspension(&self) -> Option<&Suspension> {
        self.assignment.as_ref().map(|assignment| &assignment.suspension)
    }

    /// Whether copying and replay are stopped.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspension().is_some_and(|suspension| suspension.replication.is_some())
    }

    /// When to step with [`Event::Wake`] at the latest; `None` while nothing is waited for.
    #[must_use]
    pub fn next_wake(&self) -> Option<Tick> {
        match &self.role {
            Role::Active(active) => active.next_wake(self.assignment.as_ref()),
            Role::Idle | Role::Passive(_) | Role::Activating(_) => None,
        }
    }

    /// The position at which bytes of this epoch's session or fetch are wanted, if any are.
    #[must_use]
    pub fn expects(&self, epoch: Epoch) -> Option<Position> {
        let wanted = match &self.role {
            Role::Passive(passive) => passive.takes_frames(epoch),
            Role::Activating(activation) => activation.takes_frames(epoch),
            Role::Idle | Role::Active(_) => false,
        };
        wanted.then_some(self.end.position)
    }

    /// The epochs of this log.
    #[must_use]
    pub fn table(&self) -> &EpochTable {
        &self.table
    }

    /// End of what was handed to the log.
    #[must_use]
    pub fn end(&self) -> LogEnd {
        self.end
    }

    /// End of what the log holds durably.
    #[must_use]
    pub fn durable(&self) -> LogEnd {
        self.durable
    }

    /// What is known to be committed.
    #[must_use]
    pub fn committed(&self) -> Position {
        self.committed
    }

    /// Highest epoch promised.
    #[must_use]
    pub fn sealed(&self) -> Epoch {
        self.sealed
    }

    /// Epoch in which this copy is active or being activated.
    #[must_use]
    pub fn own_epoch(&self) -> Option<Epoch> {
        match &self.role {
            Role::Active(active) => Some(active.epoch),
            Role::Activating(activation) => Some(activation.order.epoch),
            Role::Idle | Role::Passive(_) => None,
        }
    }

    fn assigned(&mut self, assignment: Assignment, out: &mut Vec<Action>) {
        let epoch = assignment.epoch;
        if self.own_epoch().is_some_and(|own| own < epoch) {
            self.stop(StopReason::Deposed(epoch), out);
        }
        let mine = assignment.active == Some(self.config.copy);
        let (rule, ceiling) = (assignment.rule.clone(), assignment.ceiling);
        let was_suspended = self.is_suspended();
        let told = self.assignment.replace(assignment);
        self.forgive_divergence(told);
        if was_suspended && !self.is_suspended() {
            self.contact.begin_again();
        }
        self.leave_when_suspended(out);
        self.sync_peers(out);
        if let Some(rule) = rule.clone() {
            self.rule_published(epoch, rule);
        }
        self.ceiling_published(epoch, ceiling);
        if !mine || self.own_epoch().is_some() || self.answered_seal >= epoch {
            return;
        }
        match rule {
            // H8: the naive restart, kept to show why it is wrong.
            Some(rule) if self.config.weakness == Weakness::ResumeAfterRestart => {
                self.resume(epoch, rule, out);
            }
            _ => self.give_up(epoch, StopReason::Restarted, out),
        }
    }

    /// A suspended copy takes no more log; its source offers again once it goes on.
    fn leave_when_suspended(&mut self, out: &mut Vec<Action>) {
        if self.is_suspended() {
            self.leave_source(OpenRefusal::Suspended, out);
        }
    }

    /// Takes no more log of its source, which is told: it offers again after a pause.
    fn leave_source(&mut self, refusal: OpenRefusal, out: &mut Vec<Action>) {
        if let Role::Passive(passive) = &self.role {
            let (member, epoch) = (passive.member, passive.epoch);
            out.push(Action::SendRefused { member, epoch, refusal });
            self.role = Role::Idle;
        }
    }

    fn dismount(&mut self, epoch: Epoch, out: &mut Vec<Action>) {
        if self.own_epoch().is_some_and(|own| own <= epoch) {
            self.stop(StopReason::Dismounted, out);
        }
    }

    /// Ends the own epoch, if there is one.
    pub(crate) fn stop(&mut self, reason: StopReason, out: &mut Vec<Action>) {
        let role = std::mem::replace(&mut self.role, Role::Idle);
        let (epoch, waiting, peers) = match role {
            Role::Active(active) => (active.epoch, active.waiting, active.peers),
            Role::Activating(activation) => {
                (activation.order.epoch, activation.requests, Default::default())
            }
            other @ (Role::Idle | Role::Passive(_)) => {
                self.role = other;
                return;
            }
        };
        self.contact.was_active();
        out.push(Action::StopServing { epoch, reason: reason.clone() });
        out.extend(peers.into_keys().map(|copy| Action::ClosePeer { copy }));
        let failure = match reason {
            StopReason::Failed(fault) => MountFailure::Failed(fault),
            _ => MountFailure::Stopped,
        };
        out.extend(
            waiting
                .into_iter()
                .map(|request| Action::MountReply { request, answer: Err(failure.clone()) }),
        );
    }

    /// Asks for a new activation, once per epoch.
    pub(crate) fn give_up(&mut self, epoch: Epoch, reason: StopReason, out: &mut Vec<Action>) {
        if epoch > self.gave_up {
            self.gave_up = epoch;
            out.push(Action::GiveUp { epoch, reason });
        }
    }

    fn failed(&mut self, fault: CopyFault, log: bool, out: &mut Vec<Action>) {
        if log && fault == CopyFault::DiskFull {
            self.disk_full(out);
            return;
        }
        if let Some(epoch) = self.own_epoch() {
            self.stop(StopReason::Failed(fault.clone()), out);
            self.give_up(epoch, StopReason::Failed(fault.clone()), out);
        }
        self.leave_source(OpenRefusal::Failed, out);
        self.role = Role::Idle;
        self.log_broken |= log;
        self.fault.get_or_insert(fault);
        self.seal_failed(out);
    }

    /// Bytes behind the durable end were refused for want of space. The log is not broken (G7):
    /// they are cut off, seals go on, and an active's next offer begins there again. Cut also if
    /// nothing of them is known here (a header, an opening frame): the log takes nothing before.
    fn disk_full(&mut self, out: &mut Vec<Action>) {
        if let Some(epoch) = self.own_epoch() {
            let reason = StopReason::Failed(CopyFault::DiskFull);
            self.stop(reason.clone(), out);
            self.give_up(epoch, reason, out);
        }
        self.leave_source(OpenRefusal::Busy, out);
        if !self.cutting {
            self.cut(self.durable.position, out);
        }
    }

    /// Keeps seal and epoch table; returns the number whose completion proves it.
    pub(crate) fn save(&mut self, out: &mut Vec<Action>) -> u64 {
        self.saves += 1;
        out.push(Action::SaveControl {
            save: self.saves,
            sealed: self.sealed,
            table: self.table.clone(),
        });
        self.saves
    }

    fn logged(&mut self, end: LogEnd, out: &mut Vec<Action>) {
        if self.log_broken {
            return;
        }
        self.durable = end;
        self.seal_upkeep(out);
        if self.sealing.is_some() {
            return;
        }
        match &self.role {
            Role::Passive(_) => self.acknowledge(out),
            Role::Activating(_) => self.advance_activation(out),
            Role::Idle | Role::Active(_) => {}
        }
    }

    fn control_saved(&mut self, save: u64, out: &mut Vec<Action>) {
        self.seal_saved(save, out);
        self.passive_saved(save, out);
        self.activation_saved(save, out);
    }

    fn log_cut(&mut self, end: LogEnd, out: &mut Vec<Action>) {
        self.cutting = false;
        self.end = end;
        self.durable = end;
        self.table.cut(end.position);
        self.seal_upkeep(out);
        self.passive_cut(out);
        self.activation_cut(out);
    }

    fn appended(&mut self, end: Position) {
        if let Role::Active(active) = &self.role {
            if end.generation > self.end.position.generation {
                self.generation_ends.push_back(self.end.position);
                let surplus = self.generation_ends.len().saturating_sub(GENERATION_ENDS_MAX);
                self.generation_ends.drain(..surplus);
            }
            self.end = LogEnd { epoch: active.epoch, position: end };
        }
    }

    fn replayed_to(&mut self, to: Position, out: &mut Vec<Action>) {
        if self.store_away {
            return; // Ordered before; the store stands elsewhere by now.
        }
        self.replayed = self.replayed.max(to);
        self.rebuilding.take_if(|until| *until <= to);
        self.serve_when_replayed(out);
    }

    /// Orders a cut; the log's end is unknown until [`Event::LogCut`].
    pub(crate) fn cut(&mut self, to: Position, out: &mut Vec<Action>) {
        self.cutting = true;
        out.push(Action::CutLog { to });
    }

    /// The invariants named on the module page.
    ///
    /// # Errors
    /// The one that does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.config.weakness != Weakness::None || self.fault.is_some() {
            return Ok(());
        }
        if self.replayed > self.committed {
            return Err("replayed beyond committed");
        }
        if self.replayed > self.durable.position {
            return Err("replayed beyond the durable log");
        }
        if self.durable.position > self.end.position {
            return Err("durable beyond the end");
        }
        if self.own_epoch().is_some_and(|own| own != self.sealed) {
            return Err("active in an epoch it is not sealed for");
        }
        Ok(())
    }
}

//! The leader's side: heartbeats, leases, the active manager and what it wants done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keelson_cluster_core::{
    ActivationReason, AllocateItem, Candidate, Command, Exclusion, Grant, ManagerAction,
    ManagerEvent, MountFailure, MountOrder, OperationState, RenewRequest, SealAnswer, SealItem,
    autoreseed::ReseedWatch,
};
use keelson_types::{DatabaseId, Epoch, FailureTag, IncarnationId, MemberId, OperationId, Tick};

use super::consensus::Origin;
use super::control::lease_config;
use super::{ManagerWorld, member_id, member_index};

/// How long an answer to a seal is waited for.
const SEAL_ANSWER_MS: u64 = 250;

/// What members say to each other about leadership and activations.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Heartbeat {
        term: u64,
        commit: usize,
        sent: Tick,
    },
    /// The receiver of a heartbeat voted in a higher term.
    HigherTerm {
        term: u64,
    },
    HeartbeatAck {
        term: u64,
        sent: Tick,
    },
    Renew {
        incarnation: IncarnationId,
        sent: Tick,
        wedged: Vec<(DatabaseId, Epoch)>,
        unreached: BTreeSet<MemberId>,
    },
    Granted {
        grant: Grant,
        sent: Tick,
    },
    StartLife {
        incarnation: IncarnationId,
    },
    Certify {
        incarnation: IncarnationId,
    },
    Seal {
        items: Vec<SealItem>,
    },
    SealReplies {
        answers: Vec<SealAnswer>,
    },
    SealFailed,
    Mount {
        order: Box<MountOrder>,
        incarnation: IncarnationId,
    },
    MountResult {
        database: DatabaseId,
        epoch: Epoch,
        result: Result<(), MountFailure>,
    },
    Established {
        database: DatabaseId,
        epoch: Epoch,
    },
    Dismount {
        database: DatabaseId,
        epoch: Epoch,
    },
    Dismounted {
        database: DatabaseId,
        epoch: Epoch,
    },
    GaveUp {
        database: DatabaseId,
        epoch: Epoch,
    },
    /// What a data process wants recorded, again and again until it is.
    Propose {
        command: Box<Command>,
    },
}

/// What a leader knows besides its tables.
pub(super) struct Leading {
    pub(super) term: u64,
    /// Send time of the newest heartbeat that each member acknowledged.
    acks: BTreeMap<usize, Tick>,
    pub(super) ready: bool,
    alive: BTreeMap<MemberId, IncarnationId>,
    seals: BTreeMap<(MemberId, DatabaseId, Epoch), Tick>,
    /// What was proposed for others, and when: it is not proposed again at once.
    asked: BTreeMap<String, Tick>,
    /// Operations that ended, until that is recorded.
    pub(super) finished: BTreeMap<OperationId, OperationState>,
    pub(super) watch: ReseedWatch,
}

impl ManagerWorld {
    pub(super) fn leads(&self, member: usize) -> bool {
        self.machines[member].control.as_ref().is_some_and(|c| c.leading.is_some())
    }

    pub(super) fn leading_term(&self, member: usize) -> Option<u64> {
        let control = self.machines[member].control.as_ref()?;
        control.leading.as_ref().map(|leading| leading.term)
    }

    /// The leader of the newest term, once it has applied the first entry of it.
    pub(super) fn ready_leader(&self) -> Option<usize> {
        (0..self.params.machines()).find(|m| {
            let control = self.machines[*m].control.as_ref();
            let leading = control.and_then(|control| control.leading.as_ref());
            leading.is_some_and(|l| l.ready && l.term == self.consensus.term)
        })
    }

    pub(super) fn begin_leading(&mut self, member: usize, term: u64) {
        let now = self.tick(member);
        let Some(control) = &mut self.machines[member].control else { return };
        control.leading = Some(Leading {
            term,
            acks: BTreeMap::new(),
            ready: false,
            alive: BTreeMap::new(),
            seals: BTreeMap::new(),
            asked: BTreeMap::new(),
            finished: BTreeMap::new(),
            watch: ReseedWatch::default(),
        });
        control.table.became_leader(now, lease_config().lease);
    }

    pub(super) fn is_ready(&mut self, member: usize) {
        if let Some(control) = &mut self.machines[member].control
            && let Some(leading) = &mut control.leading
        {
            leading.ready = true;
        }
    }

    pub(super) fn leader_tick(&mut self, member: usize, now: Tick, ticks: u64) {
        if ticks.is_multiple_of(3) {
            self.send_heartbeats(member, now);
        }
        let Some(control) = &mut self.machines[member].control else { return };
        let Some(leading) = &mut control.leading else { return };
        if !leading.ready {
            return;
        }
        let expired = control.table.expired(now, &control.state);
        leading.alive.retain(|id, _| !expired.contains(id));
        let late = leading.seals.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key);
        let late: BTreeSet<_> = late.collect();
        leading.seals.retain(|key, _| !late.contains(key));
        let silent: BTreeSet<_> = late.into_iter().map(|(member, ..)| member).collect();
        let due = control.wake.is_some_and(|at| at <= now);
        control.wake = control.wake.filter(|_| !due);
        for id in expired {
            self.note(format_args!("m{member} sees the lease of m{} over", member_index(id)));
            self.manage(member, ManagerEvent::LeaseExpired { member: id });
        }
        for id in silent {
            self.manage(member, ManagerEvent::SealFailed { member: id });
        }
        if due {
            self.manage(member, ManagerEvent::Timer);
        }
        if ticks.is_multiple_of(25) {
            self.automation(member);
        }
    }

    fn send_heartbeats(&mut self, member: usize, now: Tick) {
        let Some(control) = &self.machines[member].control else { return };
        let Some(leading) = &control.leading else { return };
        let (term, commit) = (leading.term, control.applied);
        for to in (0..self.params.machines()).filter(|to| *to != member) {
            self.datagram_to(member, to, Message::Heartbeat { term, commit, sent: now });
        }
    }

    /// Send time of the newest heartbeat that a majority acknowledged.
    fn last_quorum_ack(&self, member: usize) -> Option<Tick> {
        let leading = self.machines[member].control.as_ref()?.leading.as_ref()?;
        let needed = self.params.machines() / 2;
        let mut sent: Vec<_> = leading.acks.values().copied().collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        sent.get(needed - 1).copied()
    }

    /// Whether something was not proposed for somebody within the last 400 ms.
    fn first_time(&mut self, leader: usize, what: String) -> bool {
        let now = self.tick(leader);
        let Some(control) = &mut self.machines[leader].control else { return false };
        let Some(leading) = &mut control.leading else { return false };
        leading.asked.retain(|_, at| now.since(*at) < Duration::from_millis(400));
        leading.asked.insert(what, now).is_none()
    }

    pub(super) fn leader_hears(&mut self, from: usize, to: usize, message: Message) {
        let now = self.tick(to);
        let Some(control) = &mut self.machines[to].control else { return };
        let Some(leading) = &mut control.leading else { return };
        match message {
            Message::HeartbeatAck { term, sent } => {
                if term == leading.term {
                    let newest = leading.acks.entry(from).or_insert(sent);
                    *newest = (*newest).max(sent);
                }
                return;
            }
            Message::Renew { incarnation, sent, wedged, unreached } => {
                return self.renewal((from, to), (incarnation, sent), wedged, unreached);
            }
            _ if !leading.ready => return,
            _ => {}
        }
        let member = member_id(from);
        match message {
            Message::StartLife { incarnation } => {
                let Some(known) = control.state.members.get(&member) else { return };
                if control.table.may_start(now, known, incarnation).is_ok()
                    && self.first_time(to, format!("life {incarnation}"))
                {
                    let command = Command::StartIncarnation { member, incarnation };
                    self.propose(to, command, Origin::None);
                }
            }
            Message::Certify { incarnation } => {
                control.table.certify(member, incarnation);
                if leading.alive.get(&member) == Some(&incarnation) {
                    leading.alive.remove(&member);
                }
                self.manage(to, ManagerEvent::DeathCertified { member, incarnation });
            }
            Message::SealReplies { answers } => {
                for answer in &answers {
                    leading.seals.remove(&(member, answer.database, answer.epoch));
                }
                self.manage(to, ManagerEvent::SealReplies { member, answers });
            }
            Message::SealFailed => {
                leading.seals.retain(|(id, ..), _| *id != member);
                self.manage(to, ManagerEvent::SealFailed { member });
            }
            Message::MountResult { database, epoch, result } => {
                self.manage(to, ManagerEvent::MountResult { database, epoch, result });
            }
            Message::Dismounted { database, epoch } => {
                self.manage(to, ManagerEvent::Dismounted { database, epoch });
            }
            Message::Established { database, epoch } => {
                self.manage(to, ManagerEvent::EstablishedReported { database, epoch });
            }
            Message::GaveUp { database, epoch }
                if self.first_time(to, format!("gave up {database} {epoch}")) =>
            {
                let reason = ActivationReason::Wedged;
                let item = AllocateItem { database, expected: epoch, reason };
                self.propose(to, Command::AllocateEpochs(vec![item]), Origin::None);
            }
            Message::Propose { command } if self.first_time(to, format!("{command:?}")) => {
                self.propose(to, *command, Origin::None);
            }
            _ => {}
        }
    }

    fn renewal(
        &mut self,
        (from, to): (usize, usize),
        (incarnation, sent): (IncarnationId, Tick),
        wedged: Vec<(DatabaseId, Epoch)>,
        unreached: BTreeSet<MemberId>,
    ) {
        let now = self.tick(to);
        let last_quorum_ack = self.last_quorum_ack(to);
        let id = member_id(from);
        let Some(control) = &mut self.machines[to].control else { return };
        let Some(leading) = &mut control.leading else { return };
        let Some(member) = control.state.members.get(&id) else { return };
        let request =
            RenewRequest { member, incarnation, last_quorum_ack, applied_own_term: leading.ready };
        let Ok(grant) = control.table.renew(now, &request) else { return };
        let first = leading.alive.insert(id, incarnation) != Some(incarnation);
        if first {
            self.manage(to, ManagerEvent::MemberAlive { member: id, incarnation });
        }
        self.datagram_to(to, from, Message::Granted { grant, sent });
        for (database, epoch) in wedged {
            self.manage(to, ManagerEvent::Wedged { database, epoch });
        }
        let members = unreached;
        self.manage(to, ManagerEvent::Unreached { member: id, members });
    }

    /// Counts databases that leave a member which is cut off by data, and those that come back to
    /// it because the proof needs its log.
    fn note_left(&mut self, command: &Command) {
        let Command::Activate(items) = command else { return };
        let tag = FailureTag::DataNetwork;
        for decision in items.iter().map(|item| &item.decision) {
            let cut = |c: &Candidate| c.excluded.contains(&Exclusion::DataCut);
            if decision.candidates.iter().any(cut) {
                self.fire("left a member that is cut off by data");
            } else if decision.reason == (ActivationReason::Failed { tag }) {
                self.fire("its log is needed, though it is cut off by data");
            }
        }
    }

    /// Steps the active manager and carries its actions out.
    pub(super) fn manage(&mut self, member: usize, event: ManagerEvent) {
        let now = self.tick(member);
        let (mut actions, mut plain) = (Vec::new(), None);
        if let Some(control) = &mut self.machines[member].control {
            if self.params.compared {
                let (mut thorough, mut out) = (control.manager.clone(), Vec::new());
                thorough.look_at_everything();
                thorough.step(now, &control.state, event.clone(), &mut out);
                plain = Some(out);
            }
            control.manager.step(now, &control.state, event.clone(), &mut actions);
        }
        if let Some(plain) = plain.filter(|plain| *plain != actions) {
            let what = format!("{event:?} leads m{member} to {actions:?}, not {plain:?}");
            self.check(Err(crate::checkers::Violation::new("the work list misses nothing", what)));
        }
        for action in actions {
            self.act(member, now, action);
        }
    }

    fn act(&mut self, leader: usize, now: Tick, action: ManagerAction) {
        let life = self.machines[leader].control_life;
        match action {
            ManagerAction::Propose { tag, command } => {
                let Some(term) = self.leading_term(leader) else { return };
                self.note_left(&command);
                self.propose(leader, command, Origin::Manager { leader, life, term, tag });
            }
            ManagerAction::SealMany { member, items } => {
                let until = now.after(Duration::from_millis(SEAL_ANSWER_MS));
                if let Some(control) = &mut self.machines[leader].control
                    && let Some(leading) = &mut control.leading
                {
                    let keys = items.iter().map(|item| (member, item.database, item.epoch));
                    leading.seals.extend(keys.map(|key| (key, until)));
                }
                self.datagram_to(leader, member_index(member), Message::Seal { items });
            }
            ManagerAction::Mount { member, order } => {
                let Some(control) = &self.machines[leader].control else { return };
                let database = control.state.databases.get(&order.database);
                let binding = database.and_then(|database| database.binding.as_ref());
                let Some(incarnation) = binding.map(|binding| binding.incarnation) else { return };
                let message = Message::Mount { order: Box::new(order), incarnation };
                self.datagram_to(leader, member_index(member), message);
            }
            ManagerAction::Dismount { member, database, epoch } => {
                let message = Message::Dismount { database, epoch };
                self.datagram_to(leader, member_index(member), message);
            }
            ManagerAction::Wake { at } => {
                if let Some(control) = &mut self.machines[leader].control {
                    control.wake = Some(at);
                }
            }
            ManagerAction::FinishOperation { operation, result } => {
                self.note(format_args!("{operation} ends: {result:?}"));
                self.fire(if result.is_ok() { "operation done" } else { "operation failed" });
                let state = match result {
                    Ok(()) => OperationState::Succeeded,
                    Err(refusal) => OperationState::Failed(refusal),
                };
                if let Some(control) = &mut self.machines[leader].control
                    && let Some(leading) = &mut control.leading
                {
                    leading.finished.insert(operation, state);
                }
            }
        }
    }
}

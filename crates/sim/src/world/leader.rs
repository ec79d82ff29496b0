//! The leader's side: heartbeats, leases, the active manager.

use std::collections::{BTreeMap, BTreeSet};

use keelson_cluster_core::{
    AcceptedLoss, ActivateAt, ActivationReason, AllocateItem, Command, ManagerAction, ManagerEvent,
    MoveOptions, OperationKind, Outcome, RenewRequest,
};
use keelson_copy_core::RecordedCeiling;
use keelson_types::{DatabaseId, Epoch, IncarnationId, MemberId, OperationId, Tick};

use super::consensus::Origin;
use super::control::lease_config;
use super::{World, member_id, member_index};
use crate::messages::{CeilingProposal, ControlMessage, RuleProposal};
use crate::probes::Probe;

/// How long an answer to a seal is waited for.
const SEAL_ANSWER_MS: u64 = 250;

/// What a leader knows besides its tables.
#[derive(Debug)]
pub(crate) struct Leading {
    term: u64,
    /// Send time of the newest heartbeat that each member acknowledged.
    acks: BTreeMap<usize, Tick>,
    own_term_applied: bool,
    alive: BTreeMap<MemberId, IncarnationId>,
    seals: BTreeMap<(MemberId, DatabaseId, Epoch), Tick>,
    /// Epochs that were given up: the next one was proposed, and when.
    given_up: BTreeMap<DatabaseId, (Epoch, Tick)>,
    /// Lives that were proposed, and when.
    lives: BTreeMap<MemberId, (IncarnationId, Tick)>,
    rules: BTreeMap<DatabaseId, (RuleProposal, Tick)>,
}

impl World {
    pub(crate) fn leads(&self, member: usize) -> bool {
        self.machines[member].control.as_ref().is_some_and(|c| c.leading.is_some())
    }

    pub(crate) fn leading_term(&self, member: usize) -> Option<u64> {
        let control = self.machines[member].control.as_ref()?;
        control.leading.as_ref().map(|leading| leading.term)
    }

    pub(crate) fn begin_leading(&mut self, member: usize, term: u64) {
        let now = self.tick(member);
        let Some(control) = &mut self.machines[member].control else { return };
        control.leading = Some(Leading {
            term,
            acks: BTreeMap::new(),
            own_term_applied: false,
            alive: BTreeMap::new(),
            seals: BTreeMap::new(),
            lives: BTreeMap::new(),
            rules: BTreeMap::new(),
            given_up: BTreeMap::new(),
        });
        control.table.became_leader(now, lease_config().lease);
    }

    pub(crate) fn stop_leading(&mut self, member: usize) {
        if let Some(control) = &mut self.machines[member].control {
            control.leading = None;
            control.table.lost_leadership();
        }
        self.note(format_args!("m{member} learns that it does not lead"));
        self.manage(member, ManagerEvent::LostLeadership);
    }

    pub(crate) fn leader_tick(&mut self, member: usize, now: Tick, ticks: u64) {
        if ticks.is_multiple_of(3) {
            self.send_heartbeats(member);
        }
        let Some(control) = &mut self.machines[member].control else { return };
        let Some(leading) = &mut control.leading else { return };
        if !leading.own_term_applied {
            return;
        }
        let expired = control.table.expired(now, &control.state);
        leading.alive.retain(|id, _| !expired.contains(id));
        let late: Vec<_> =
            leading.seals.iter().filter(|(_, at)| **at <= now).map(|(k, _)| *k).collect();
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
    }

    /// Members of which the leader knows that no life holds a lease.
    fn over(&self, member: usize) -> BTreeSet<MemberId> {
        let now = self.tick(member);
        let Some(control) = &self.machines[member].control else { return BTreeSet::new() };
        if !control.leading.as_ref().is_some_and(|leading| leading.own_term_applied) {
            return BTreeSet::new();
        }
        let over = control.state.members.values().filter(|m| control.table.lease_over(now, m));
        over.map(|member| member.config.id).collect()
    }

    pub(crate) fn send_heartbeats(&mut self, member: usize) {
        let (now, dead) = (self.tick(member), self.over(member));
        let Some(control) = &self.machines[member].control else { return };
        let Some(leading) = &control.leading else { return };
        let (term, commit) = (leading.term, control.applied);
        for to in (0..self.params.members).filter(|to| *to != member) {
            let dead = dead.clone();
            self.datagram_to(
                member,
                to,
                ControlMessage::Heartbeat { term, commit, sent: now, dead },
            );
        }
        self.own_dead(member, dead);
    }

    /// Send time of the newest heartbeat that a majority acknowledged.
    fn last_quorum_ack(&self, member: usize, now: Tick) -> Option<Tick> {
        let leading = self.machines[member].control.as_ref()?.leading.as_ref()?;
        let needed = self.params.members / 2;
        if needed == 0 {
            return Some(now);
        }
        let mut sent: Vec<_> = leading.acks.values().copied().collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        sent.get(needed - 1).copied()
    }

    pub(crate) fn leader_hears(&mut self, from: usize, to: usize, message: ControlMessage) {
        let now = self.tick(to);
        let Some(control) = &mut self.machines[to].control else { return };
        let Some(leading) = &mut control.leading else { return };
        match message {
            ControlMessage::HeartbeatAck { term, sent } => {
                if term == leading.term {
                    let newest = leading.acks.entry(from).or_insert(sent);
                    *newest = (*newest).max(sent);
                }
                return;
            }
            ControlMessage::Renew { incarnation, sent } => {
                return self.renewal(from, to, incarnation, sent);
            }
            _ if !leading.own_term_applied => return,
            _ => {}
        }
        match message {
            ControlMessage::StartLife { incarnation } => {
                let id = member_id(from);
                let Some(member) = control.state.members.get(&id) else { return };
                let asked = leading.lives.get(&id).is_some_and(|(life, at)| {
                    *life == incarnation && now.since(*at).as_millis() < 300
                });
                if !asked && control.table.may_start(now, member, incarnation).is_ok() {
                    leading.lives.insert(id, (incarnation, now));
                    let command = Command::StartIncarnation { member: id, incarnation };
                    self.propose(to, command, Origin::None);
                }
            }
            ControlMessage::Certify { incarnation } => {
                let member = member_id(from);
                control.table.certify(member, incarnation);
                self.fire(Probe::Certified);
                self.manage(to, ManagerEvent::DeathCertified { member, incarnation });
            }
            ControlMessage::SealReplies { answers } => {
                let member = member_id(from);
                for answer in &answers {
                    leading.seals.remove(&(member, answer.database, answer.epoch));
                    let shown = answer.result.as_ref().map(|reply| reply.end).ok();
                    let database = super::database_index(answer.database);
                    self.trace.note(
                        self.now,
                        format_args!("m{from} db{database} sealed {}: {shown:?}", answer.epoch),
                    );
                }
                self.manage(to, ManagerEvent::SealReplies { member, answers });
            }
            ControlMessage::SealFailed => {
                let member = member_id(from);
                leading.seals.retain(|(id, ..), _| *id != member);
                self.manage(to, ManagerEvent::SealFailed { member });
            }
            ControlMessage::MountResult { database, epoch, result } => {
                self.manage(to, ManagerEvent::MountResult { database, epoch, result });
            }
            ControlMessage::Dismounted { database, epoch } => {
                self.manage(to, ManagerEvent::Dismounted { database, epoch });
            }
            ControlMessage::Established { database, epoch } => {
                self.manage(to, ManagerEvent::EstablishedReported { database, epoch });
            }
            ControlMessage::GaveUp { database, epoch } => self.given_up(to, database, epoch),
            ControlMessage::ProposeRule(proposal) => self.rule_asked(from, to, proposal),
            ControlMessage::ProposeCeiling(proposal) => self.ceiling_asked(to, proposal),
            other => self.marks_asked(to, other),
        }
    }

    /// An active marks copies before their log goes, or takes a mark back.
    fn marks_asked(&mut self, to: usize, message: ControlMessage) {
        let command = match message {
            ControlMessage::CutOff { database, epoch, copies, operations } => {
                if !copies.is_empty() {
                    self.fire(Probe::CutOff);
                }
                Command::MarkCutOff { database, epoch, copies, operations }
            }
            ControlMessage::ClearCutOff { database, epoch, copy } => {
                self.fire(Probe::CameBack);
                Command::ClearCutOff { database, epoch, copy }
            }
            _ => return,
        };
        self.propose(to, command, Origin::None);
    }

    /// An active that gave its epoch up asks for the next one by itself, again and again.
    fn given_up(&mut self, to: usize, database: DatabaseId, expected: Epoch) {
        let now = self.tick(to);
        let Some(control) = &mut self.machines[to].control else { return };
        let Some(leading) = &mut control.leading else { return };
        let asked = leading.given_up.get(&database);
        if asked.is_some_and(|(epoch, at)| *epoch == expected && now.since(*at).as_millis() < 500) {
            return;
        }
        leading.given_up.insert(database, (expected, now));
        let item = AllocateItem { database, expected, reason: ActivationReason::Wedged };
        self.propose(to, Command::AllocateEpochs(vec![item]), Origin::None);
    }

    /// Asked again and again until it is recorded; its number makes that once.
    fn ceiling_asked(&mut self, to: usize, asked: CeilingProposal) {
        let CeilingProposal { database, epoch, proposal } = asked;
        let RecordedCeiling { number, ceiling } = proposal;
        let command = Command::SetCeiling { database, epoch, number, ceiling };
        self.propose(to, command, Origin::None);
    }

    fn rule_asked(&mut self, from: usize, to: usize, proposal: RuleProposal) {
        let now = self.tick(to);
        let Some(control) = &mut self.machines[to].control else { return };
        let Some(leading) = &mut control.leading else { return };
        let database = proposal.database;
        let known = leading
            .rules
            .get(&database)
            .is_some_and(|(former, at)| *former == proposal && now.since(*at).as_millis() < 500);
        if known {
            return;
        }
        leading.rules.insert(database, (proposal.clone(), now));
        let command = Command::ChangeRule {
            database,
            epoch: proposal.epoch,
            expected_version: proposal.expected_version,
            rule: proposal.rule.clone(),
        };
        self.propose(to, command, Origin::Rule { member: from, proposal });
    }

    fn renewal(&mut self, from: usize, to: usize, incarnation: IncarnationId, sent: Tick) {
        let now = self.tick(to);
        let last_quorum_ack = self.last_quorum_ack(to, now);
        let id = member_id(from);
        let Some(control) = &mut self.machines[to].control else { return };
        let Some(leading) = &mut control.leading else { return };
        let Some(member) = control.state.members.get(&id) else { return };
        let request = RenewRequest {
            member,
            incarnation,
            last_quorum_ack,
            applied_own_term: leading.own_term_applied,
        };
        let Ok(grant) = control.table.renew(now, &request) else { return };
        let first = leading.alive.insert(id, incarnation) != Some(incarnation);
        self.datagram_to(to, from, ControlMessage::Granted { grant, sent });
        if first {
            self.manage(to, ManagerEvent::MemberAlive { member: id, incarnation });
        }
    }

    /// An entry was applied at a member.
    pub(crate) fn outcome(&mut self, member: usize, origin: Origin, outcome: Outcome) {
        let life = self.machines[member].control_life;
        match origin {
            Origin::Manager { leader, life: of, term, tag }
                if leader == member && of == life && self.leading_term(member) == Some(term) =>
            {
                self.manage(member, ManagerEvent::CommandDone { tag, outcome });
            }
            Origin::Rule { member: active, proposal } => {
                if let Some(control) = &mut self.machines[member].control
                    && let Some(leading) = &mut control.leading
                {
                    leading.rules.remove(&proposal.database);
                    if matches!(outcome, Outcome::Refused(_)) {
                        self.fire(Probe::RuleRefused);
                        let message = ControlMessage::RuleRefused { proposal };
                        self.datagram_to(member, active, message);
                    }
                }
            }
            Origin::OwnTerm { leader, life: of, term }
                if leader == member && of == life && self.leading_term(member) == Some(term) =>
            {
                if let Some(control) = &mut self.machines[member].control
                    && let Some(leading) = &mut control.leading
                {
                    leading.own_term_applied = true;
                }
                self.manage(member, ManagerEvent::BecameLeader { term });
            }
            Origin::Manager { .. } | Origin::OwnTerm { .. } | Origin::None => {}
        }
    }

    pub(crate) fn leader_applied(&mut self, member: usize) {
        if self.leads(member) {
            self.manage(member, ManagerEvent::Applied);
        }
    }

    /// Steps the active manager and carries its actions out.
    pub(crate) fn manage(&mut self, member: usize, event: ManagerEvent) {
        let now = self.tick(member);
        let mut actions = Vec::new();
        if let Some(control) = &mut self.machines[member].control {
            control.manager.step(now, &control.state, event, &mut actions);
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
                if let Command::Activate(items) = &command {
                    self.counts.activations += items.len() as u64;
                }
                self.propose(leader, command, Origin::Manager { leader, life, term, tag });
            }
            ManagerAction::SealMany { member, items } => {
                let until = now.after(std::time::Duration::from_millis(SEAL_ANSWER_MS));
                if let Some(control) = &mut self.machines[leader].control
                    && let Some(leading) = &mut control.leading
                {
                    let keys = items.iter().map(|item| (member, item.database, item.epoch));
                    leading.seals.extend(keys.map(|key| (key, until)));
                }
                self.datagram_to(leader, member_index(member), ControlMessage::Seal { items });
            }
            ManagerAction::Mount { member, order } => {
                let Some(control) = &self.machines[leader].control else { return };
                let database = control.state.databases.get(&order.database);
                let binding = database.and_then(|database| database.binding.as_ref());
                let Some(incarnation) = binding.map(|binding| binding.incarnation) else { return };
                let order = Box::new(order);
                let message = ControlMessage::Mount { order, incarnation };
                self.datagram_to(leader, member_index(member), message);
            }
            ManagerAction::Dismount { member, database, epoch } => {
                let message = ControlMessage::Dismount { database, epoch };
                self.datagram_to(leader, member_index(member), message);
            }
            ManagerAction::Wake { at } => {
                if let Some(control) = &mut self.machines[leader].control {
                    control.wake = Some(at);
                }
            }
            ManagerAction::FinishOperation { operation, result } => {
                self.note(format_args!("{operation} ends: {result:?}"));
                if result.is_ok() {
                    self.fire(Probe::Switchover);
                }
            }
        }
    }

    /// The leader of the newest term, once it has applied the first entry of it.
    pub(crate) fn ready_leader(&self) -> Option<usize> {
        (0..self.params.members).find(|m| {
            let control = self.machines[*m].control.as_ref();
            let leading = control.and_then(|control| control.leading.as_ref());
            leading.is_some_and(|l| l.own_term_applied && l.term == self.consensus.term)
        })
    }

    /// An operator opens a database, perhaps with loss.
    pub(crate) fn mount(&mut self, database: DatabaseId, accept_loss: Option<AcceptedLoss>) {
        let Some(leader) = self.ready_leader() else { return };
        let operation = OperationId::from_u128(0x7000 + u128::from(self.fresh()));
        self.note(format_args!("an operator opens {database}, loss: {accept_loss:?}"));
        let kind = OperationKind::Mount { database, accept_loss };
        self.propose(leader, Command::PutOperation { id: operation, kind }, Origin::None);
        let event = ManagerEvent::MountRequested { operation, database, accept_loss };
        self.manage(leader, event);
    }

    /// An operator makes an instant of a copy the truth.
    pub(crate) fn activate_at(&mut self, database: DatabaseId, order: ActivateAt) {
        let Some(leader) = self.ready_leader() else { return };
        let operation = OperationId::from_u128(0x7000 + u128::from(self.fresh()));
        self.note(format_args!("an operator turns {database} back: {order:?}"));
        let kind = OperationKind::ActivateAt { database, order };
        self.propose(leader, Command::PutOperation { id: operation, kind }, Origin::None);
        self.manage(leader, ManagerEvent::InstantRequested { operation, database, order });
    }

    /// An operator closes a database.
    pub(crate) fn dismount(&mut self, database: DatabaseId) {
        let Some(leader) = self.ready_leader() else { return };
        let operation = OperationId::from_u128(0x7000 + u128::from(self.fresh()));
        self.note(format_args!("an operator closes {database}"));
        let kind = OperationKind::Dismount { database };
        self.propose(leader, Command::PutOperation { id: operation, kind }, Origin::None);
        self.manage(leader, ManagerEvent::DismountRequested { operation, database });
    }

    /// An operator moves a database; nothing happens if nobody leads.
    pub(crate) fn switch_over(&mut self, database: DatabaseId, to: MemberId) {
        let Some(leader) = self.ready_leader() else { return };
        let operation = OperationId::from_u128(0x7000 + u128::from(self.fresh()));
        let options = MoveOptions::default();
        let kind = OperationKind::Switchover { database, to, comment: String::new(), options };
        self.note(format_args!("an operator moves {database} to {to}"));
        self.propose(leader, Command::PutOperation { id: operation, kind }, Origin::None);
        self.manage(leader, ManagerEvent::MoveRequested { operation, database, to, options });
    }
}

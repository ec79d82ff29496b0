//! Consensus as in the other world: one list of commands, elections that an observer decides,
//! leaders that do not know that they are deposed, proposals that a successor may find.

use std::collections::BTreeSet;

use keelson_cluster_core::{ClusterState, Command, ManagerEvent, Outcome};

use super::{Happening, ManagerWorld};
use crate::params::MS;

/// Who waits for the outcome of an entry.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Manager {
        leader: usize,
        life: u64,
        term: u64,
        tag: u64,
    },
    /// An operator's wish, told to the manager once it is recorded.
    Ask {
        leader: usize,
        life: u64,
        term: u64,
        event: Box<ManagerEvent>,
    },
    OwnTerm {
        leader: usize,
        life: u64,
        term: u64,
    },
    None,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) command: Command,
    pub(super) origin: Origin,
}

/// What a control process finds on its disk.
#[derive(Clone, Default, Debug)]
pub(super) struct Kept {
    pub(super) state: ClusterState,
    pub(super) applied: usize,
    pub(super) term: u64,
}

#[derive(Default, Debug)]
pub(super) struct Consensus {
    pub(super) log: Vec<Entry>,
    pub(super) term: u64,
    /// Proposals of deposed leaders that a successor may find.
    doubtful: Vec<Entry>,
}

impl ManagerWorld {
    fn is_up(&self, member: usize) -> bool {
        let machine = &self.machines[member];
        machine.control.is_some() && machine.paused.is_none()
    }

    /// Members that a leader exchanges messages with, itself included.
    fn reachable(&self, leader: usize) -> BTreeSet<usize> {
        let all = 0..self.params.machines();
        all.filter(|m| self.is_up(*m) && (*m == leader || self.both_ways(leader, *m))).collect()
    }

    pub(super) fn is_majority(&self, count: usize) -> bool {
        count * 2 > self.params.machines()
    }

    /// Tries to win an election.
    pub(super) fn stand(&mut self, member: usize) {
        let mut willing = self.reachable(member);
        willing.retain(|m| *m == member || self.has_lost_its_leader(*m));
        if !self.is_majority(willing.len()) {
            return;
        }
        if (0..self.params.machines()).any(|m| m != member && self.leads(m)) {
            self.fire("a leader that does not know");
        }
        self.consensus.term += 1;
        self.fire("election");
        let term = self.consensus.term;
        self.note(format_args!("m{member} is elected in term {term}"));
        for voter in willing {
            self.vote(voter, term, member);
        }
        for entry in std::mem::take(&mut self.consensus.doubtful) {
            self.fire("a proposal recorded by a successor");
            self.record(entry);
        }
        let life = self.machines[member].control_life;
        let origin = Origin::OwnTerm { leader: member, life, term };
        self.propose(member, Command::Batch(Vec::new()), origin);
    }

    /// A leader proposes, with its wall clock.
    pub(super) fn propose(&mut self, leader: usize, command: Command, origin: Origin) {
        let Some(term) = self.leading_term(leader) else { return };
        let life = self.machines[leader].control_life;
        let unix_ms = self.wall_ms(leader);
        let command = Command::Stamped { unix_ms, command: Box::new(command) };
        let delay = self.between(MS, 8 * MS);
        let entry = Box::new(Entry { command, origin });
        self.after(delay, Happening::Entry { leader, life, term, entry });
    }

    /// A proposal reaches its majority, or does not.
    pub(super) fn entry(&mut self, leader: usize, life: u64, term: u64, entry: Entry) {
        let machine = &self.machines[leader];
        let lives = machine.control_life == life && machine.control.is_some();
        if self.consensus.term != term || !lives {
            if self.random.chance(1, 2) && !matches!(entry.origin, Origin::OwnTerm { .. }) {
                self.consensus.doubtful.push(entry);
            }
            return;
        }
        if machine.paused.is_some() || !self.is_majority(self.reachable(leader).len()) {
            let entry = Box::new(entry);
            self.after(50 * MS, Happening::Entry { leader, life, term, entry });
            return;
        }
        self.record(entry);
        self.apply_up_to(leader, self.consensus.log.len());
    }

    fn record(&mut self, entry: Entry) {
        let index = self.consensus.log.len() as u64 + 1;
        let weakness = self.params.weakness;
        let before = self.truth.before(&self.reference);
        let outcome = self.reference.apply_with(index, &entry.command, weakness);
        self.note(format_args!("entry {index}: {}", shown(&entry.command, &outcome)));
        self.consensus.log.push(entry.clone());
        self.recorded(&before, &entry.command, &outcome);
        let verdict = self.explanations.check(&self.reference, weakness);
        self.check(verdict);
    }

    /// A member applies what it did not know yet.
    pub(super) fn apply_up_to(&mut self, member: usize, commit: usize) {
        let weakness = self.params.weakness;
        let mut news = Vec::new();
        {
            let Some(control) = &mut self.machines[member].control else { return };
            while control.applied < commit {
                let entry = &self.consensus.log[control.applied];
                control.applied += 1;
                let index = control.applied as u64;
                let outcome = control.state.apply_with(index, &entry.command, weakness);
                news.push((entry.origin.clone(), outcome));
            }
        }
        if !news.is_empty() {
            for (origin, outcome) in news {
                self.outcome(member, origin, outcome);
            }
            if self.leads(member) {
                self.manage(member, ManagerEvent::Applied);
            }
            self.data_sees_state(member);
        }
    }

    fn outcome(&mut self, member: usize, origin: Origin, outcome: Outcome) {
        let here = |(leader, life, term): (usize, u64, u64), world: &Self| {
            leader == member
                && life == world.machines[member].control_life
                && world.leading_term(member) == Some(term)
        };
        match origin {
            Origin::Manager { leader, life, term, tag } if here((leader, life, term), self) => {
                self.manage(member, ManagerEvent::CommandDone { tag, outcome });
            }
            Origin::Ask { leader, life, term, event } if here((leader, life, term), self) => {
                if matches!(outcome, Outcome::Ok(_)) {
                    self.manage(member, *event);
                }
            }
            Origin::OwnTerm { leader, life, term } if here((leader, life, term), self) => {
                self.is_ready(member);
                self.manage(member, ManagerEvent::BecameLeader { term });
            }
            _ => {}
        }
    }
}

fn shown(command: &Command, outcome: &Outcome) -> String {
    let refused = match outcome {
        Outcome::Refused(refusal) => format!(" REFUSED {refusal}"),
        Outcome::Ok(_) => String::new(),
    };
    format!("{}{refused}", told(command))
}

fn told(command: &Command) -> String {
    match command {
        Command::Stamped { command, .. } | Command::OfLife { command, .. } => told(command),
        Command::Batch(all) => all.iter().map(told).collect::<Vec<_>>().join("; "),
        Command::AllocateEpochs(items) => {
            let told =
                items.iter().map(|i| format!("{}>{} {:?}", i.database, i.expected, i.reason));
            format!("allocate {}", told.collect::<Vec<_>>().join(", "))
        }
        Command::Activate(items) => {
            let told = items.iter().map(|i| {
                let copies = i.rule.participants.iter().map(|p| super::member_index(p.member));
                let copies: Vec<_> = copies.collect();
                let loss = i.decision.loss.is_some();
                format!("{} {} {} rule {copies:?} loss {loss}", i.database, i.epoch, i.required_end)
            });
            format!("activate {}", told.collect::<Vec<_>>().join(", "))
        }
        Command::RecordDecision(record) => {
            format!("no candidate for {} {}: {:?}", record.database, record.epoch, record.verdict)
        }
        Command::ChangeRule { database, epoch, rule, .. } => {
            let copies = rule.participants.iter().map(|p| super::member_index(p.member));
            let copies: Vec<_> = copies.collect();
            format!("rule {database} {epoch} v{} {copies:?}", rule.version)
        }
        other => format!("{other:?}"),
    }
}

//! A model of consensus: one ordered list of commands, terms, elections that an omniscient observer
//! decides, and leaders that do not know yet that they are deposed.
//!
//! What is modelled: an entry is recorded only while a majority is reachable from the leader of the
//! newest term; a proposal of a deposed leader is lost, or recorded by its successor before the
//! first entry of the successor's own term; members learn of entries from heartbeats only.

use keelson_cluster_core::{ClusterState, Command, Outcome};

use super::{Happening, World};
use crate::messages::RuleProposal;
use crate::params::MS;
use crate::probes::Probe;

/// Who waits for the outcome of an entry.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The manager of a leader, by its tag.
    Manager { leader: usize, life: u64, term: u64, tag: u64 },
    /// The active of a database.
    Rule { member: usize, proposal: RuleProposal },
    /// The first entry of a leader's own term.
    OwnTerm { leader: usize, life: u64, term: u64 },
    /// Nobody.
    None,
}

/// A command with its origin.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) command: Command,
    pub(crate) origin: Origin,
}

/// What a control process finds of consensus on its disk.
#[derive(Clone, Default, Debug)]
pub(crate) struct Kept {
    pub(crate) state: ClusterState,
    pub(crate) applied: usize,
    pub(crate) term: u64,
}

/// What is recorded.
#[derive(Default, Debug)]
pub(crate) struct Consensus {
    log: Vec<Entry>,
    pub(crate) term: u64,
    pub(crate) leader: Option<usize>,
    /// Proposals of deposed leaders that a successor may find.
    doubtful: Vec<Entry>,
}

impl Consensus {
    pub(crate) fn len(&self) -> usize {
        self.log.len()
    }

    /// Commands of the time before the run.
    pub(crate) fn append_first(&mut self, state: &mut ClusterState, command: Command) {
        self.log.push(Entry { command: command.clone(), origin: Origin::None });
        let outcome = state.apply(self.log.len() as u64, &command);
        assert!(matches!(outcome, Outcome::Ok(_)), "the first commands are valid: {outcome:?}");
    }
}

impl World {
    /// Members that a leader exchanges messages with, itself included.
    fn reachable(&self, leader: usize) -> Vec<usize> {
        let alive = |m: &usize| {
            let machine = &self.machines[*m];
            machine.control.is_some() && !machine.control_paused
        };
        (0..self.params.members)
            .filter(alive)
            .filter(|m| self.network.both_ways(leader, *m))
            .collect()
    }

    pub(crate) fn is_majority(&self, count: usize) -> bool {
        count * 2 > self.params.members
    }

    /// Tries to win an election.
    pub(crate) fn stand(&mut self, member: usize) {
        let reachable = self.reachable(member);
        let willing: Vec<_> = reachable
            .into_iter()
            .filter(|m| *m == member || self.has_lost_its_leader(*m))
            .collect();
        if !self.is_majority(willing.len()) {
            return;
        }
        if self.consensus.leader.is_some_and(|old| old != member && self.leads(old)) {
            self.fire(Probe::BlindLeader);
        }
        self.consensus.term += 1;
        self.consensus.leader = Some(member);
        self.counts.elections += 1;
        let term = self.consensus.term;
        self.note(format_args!("m{member} is elected in term {term}"));
        for voter in willing {
            self.vote(voter, term, member);
        }
        for entry in std::mem::take(&mut self.consensus.doubtful) {
            self.fire(Probe::LateCommit);
            self.record(entry);
        }
        let life = self.machines[member].control_life;
        let origin = Origin::OwnTerm { leader: member, life, term };
        self.propose(member, Command::Batch(Vec::new()), origin);
    }

    /// A leader proposes.
    pub(crate) fn propose(&mut self, leader: usize, command: Command, origin: Origin) {
        let Some(term) = self.leading_term(leader) else { return };
        let life = self.machines[leader].control_life;
        let delay = self.between(self.params.commit_delay);
        let entry = Box::new(Entry { command, origin });
        self.after(delay, Happening::Entry { leader, life, term, entry });
    }

    /// A proposal reaches its majority, or does not.
    pub(crate) fn entry(&mut self, leader: usize, life: u64, term: u64, entry: Entry) {
        let machine = &self.machines[leader];
        let lives = machine.control_life == life && machine.control.is_some();
        if self.consensus.term != term || !lives {
            // Some follower may have it, or nobody.
            if self.random.chance(1, 2) && !matches!(entry.origin, Origin::OwnTerm { .. }) {
                self.consensus.doubtful.push(entry);
            }
            return;
        }
        if machine.control_paused || !self.is_majority(self.reachable(leader).len()) {
            let entry = Box::new(entry);
            self.after(50 * MS, Happening::Entry { leader, life, term, entry });
            return;
        }
        self.record(entry);
        self.apply_up_to(leader, self.consensus.len());
        // The others hear of it at once.
        self.send_heartbeats(leader);
    }

    fn record(&mut self, entry: Entry) {
        let index = self.consensus.log.len() as u64 + 1;
        let weakness = self.params.weakness;
        let outcome = self.reference.apply_with(index, &entry.command, weakness);
        self.note(format_args!("entry {index}: {}", Shown(&entry.command, &outcome)));
        if let Command::ChangeRule { rule, .. } = &entry.command
            && rule.is_degraded()
            && matches!(outcome, Outcome::Ok(_))
        {
            self.fire(Probe::Degraded);
        }
        if matches!(outcome, Outcome::Ok(_)) {
            match &entry.command {
                Command::SuspendCopy { .. } => self.fire(Probe::Suspended),
                Command::SetCopy { lag: Some(lag), .. } if lag.is_lagged() => {
                    self.fire(Probe::Lagged);
                }
                _ => {}
            }
        }
        self.consensus.log.push(entry);
        let verdict = self.bindings.check(&self.reference);
        self.check(verdict);
        let verdict = self.explanations.check(&self.reference, weakness);
        self.check(verdict);
    }

    /// A member applies what it did not know yet.
    pub(crate) fn apply_up_to(&mut self, member: usize, commit: usize) {
        let weakness = self.params.weakness;
        let mut news = Vec::new();
        {
            let Some(control) = &mut self.machines[member].control else { return };
            while control.applied < commit {
                let entry = self.consensus.log[control.applied].clone();
                control.applied += 1;
                let index = control.applied as u64;
                let outcome = control.state.apply_with(index, &entry.command, weakness);
                news.push((entry.origin, outcome));
            }
        }
        if !news.is_empty() {
            self.applied(member, news);
        }
    }
}

/// A command in a line of the trace.
struct Shown<'a>(&'a Command, &'a Outcome);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let refused = matches!(self.1, Outcome::Refused(_));
        match self.0 {
            Command::Activate(items) => {
                for item in items {
                    write!(
                        f,
                        "activate {} epoch {} end {} rule v{} ",
                        item.target, item.epoch, item.required_end, item.rule.version
                    )?;
                    let copies =
                        item.rule.participants.iter().map(|p| super::member_index(p.member));
                    write!(f, "{:?}", copies.collect::<Vec<_>>())?;
                }
            }
            Command::ChangeRule { epoch, rule, .. } => {
                let copies = rule.participants.iter().map(|p| super::member_index(p.member));
                write!(f, "rule v{} of {epoch} {:?}", rule.version, copies.collect::<Vec<_>>())?;
            }
            Command::RecordDecision(record) => {
                write!(f, "no candidate for {}: {:?}", record.epoch, record.verdict)?;
            }
            Command::AllocateEpochs(items) => {
                for item in items {
                    write!(f, "allocate after {} because {:?} ", item.expected, item.reason)?;
                }
            }
            other => write!(f, "{other:?}")?,
        }
        if refused { write!(f, " REFUSED {:?}", self.1) } else { Ok(()) }
    }
}

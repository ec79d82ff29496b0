//! Control processes: consensus as they see it, leases, the life of their data process.

use std::collections::BTreeMap;
use std::time::Duration;

use keelson_cluster_core::{
    ClusterState, LeaseConfig, LeaseHolder, LeaseTable, Manager, ManagerConfig, ManagerEvent,
};
use keelson_types::{IncarnationId, Tick};

use super::leader::{Leading, Message};
use super::{Happening, ManagerWorld};
use crate::params::MS;

const ELECTION_MIN: Duration = Duration::from_millis(600);

pub(super) struct Control {
    pub(super) state: ClusterState,
    pub(super) applied: usize,
    pub(super) term: u64,
    pub(super) leader: Option<usize>,
    last_heard: Tick,
    patience: Duration,
    pub(super) leading: Option<Leading>,
    pub(super) table: LeaseTable,
    pub(super) manager: Manager,
    pub(super) wake: Option<Tick>,
    pub(super) holder: Option<LeaseHolder>,
    /// The life of the data process that runs.
    pub(super) incarnation: Option<IncarnationId>,
    /// Lives that ended before the eyes of this process and are not certified yet.
    pub(super) reaped: BTreeMap<IncarnationId, u64>,
    last_renewal: Option<Tick>,
    ticks: u64,
}

pub(super) fn lease_config() -> LeaseConfig {
    // Who votes has heard nothing for so long, and who starts takes that for heard.
    LeaseConfig { loyalty: ELECTION_MIN, ..LeaseConfig::default() }
}

impl ManagerWorld {
    pub(super) fn start_control(&mut self, member: usize) {
        if self.machines[member].control.is_some() {
            return;
        }
        let weakness = self.params.weakness;
        let patience = Duration::from_millis(600 + self.random.below(600));
        let now = self.tick(member);
        let machine = &mut self.machines[member];
        machine.control_life += 1;
        let life = machine.control_life;
        let kept = machine.kept.clone();
        let config = ManagerConfig {
            mount_deadline: Duration::from_secs(3),
            backoff_max: Duration::from_secs(1),
            startup_grace: Duration::from_secs(3),
            activations_per_member_max: 6,
            ..ManagerConfig::for_leases(&lease_config())
        };
        machine.control = Some(Control {
            state: kept.state,
            applied: kept.applied,
            term: kept.term,
            leader: None,
            last_heard: now,
            patience,
            leading: None,
            table: LeaseTable::new(lease_config(), weakness),
            manager: Manager::new(config, weakness),
            wake: None,
            holder: None,
            incarnation: None,
            reaped: BTreeMap::new(),
            last_renewal: None,
            ticks: 0,
        });
        self.note(format_args!("m{member}: control process {life} starts"));
        self.after(MS, Happening::ControlTick { member, life });
        if member < self.params.members {
            self.after(2 * MS, Happening::StartData { member });
        }
    }

    /// Ends both processes: the data process never outlives its parent.
    pub(super) fn end_member(&mut self, member: usize) {
        self.end_data(member);
        let machine = &mut self.machines[member];
        if let Some(control) = machine.control.take() {
            machine.kept.state = control.state;
            machine.kept.applied = control.applied;
            machine.kept.term = control.term;
            (machine.paused, machine.hung) = (None, None);
            machine.waiting.clear();
            self.note(format_args!("m{member}: both processes end"));
        }
    }

    pub(super) fn has_lost_its_leader(&self, member: usize) -> bool {
        let now = self.tick(member);
        let control = self.machines[member].control.as_ref();
        control.is_some_and(|c| {
            let granted = c.table.granted_on().is_some_and(|on| now.since(on) < ELECTION_MIN);
            c.leading.is_none() && !granted && now.since(c.last_heard) >= ELECTION_MIN
        })
    }

    /// A leader hears that another one was elected: it follows nobody yet, and may vote or stand.
    pub(super) fn outvoted(&mut self, member: usize, term: u64) {
        let Some(control) = &mut self.machines[member].control else { return };
        if term <= control.term {
            return;
        }
        (control.term, control.leader) = (term, None);
        if control.leading.is_some() {
            self.fire("a leader that steps down");
            self.stop_leading(member);
        }
    }

    /// Votes, which every later leader of a lower term will learn of.
    pub(super) fn vote(&mut self, member: usize, term: u64, leader: usize) {
        let now = self.tick(member);
        if let Some(control) = &mut self.machines[member].control {
            control.term = term;
            control.last_heard = now;
            control.leader = Some(leader);
        }
        if member == leader {
            self.begin_leading(member, term);
        }
    }

    pub(super) fn control_tick(&mut self, member: usize, life: u64) {
        if self.machines[member].control_life != life || self.machines[member].control.is_none() {
            return;
        }
        let now = self.tick(member);
        let Some(control) = &mut self.machines[member].control else { return };
        control.ticks += 1;
        let (ticks, leads) = (control.ticks, control.leading.is_some());
        if !leads && now.since(control.last_heard) >= control.patience {
            control.last_heard = now;
            let patience = Duration::from_millis(600 + self.random.below(600));
            if let Some(control) = &mut self.machines[member].control {
                control.patience = patience;
            }
            self.stand(member);
        }
        self.renew(member, now);
        if ticks.is_multiple_of(5) {
            self.introduce(member);
            self.data_tick(member);
        }
        if leads {
            self.leader_tick(member, now, ticks);
        }
        self.after(20 * MS, Happening::ControlTick { member, life });
    }

    fn renew(&mut self, member: usize, now: Tick) {
        let (wedged, unreached) = (self.wedged(member), self.unreached(member));
        let Some(control) = &mut self.machines[member].control else { return };
        let Some(incarnation) = control.incarnation else { return };
        let renewal = lease_config().renewal;
        if control.last_renewal.is_some_and(|last| now.since(last) < renewal) {
            return;
        }
        control.last_renewal = Some(now);
        let sent = now;
        self.say_to_leader(member, Message::Renew { incarnation, sent, wedged, unreached });
    }

    /// Has the own life recorded, and the ends of those before.
    fn introduce(&mut self, member: usize) {
        let id = self.machines[member].id;
        let Some(control) = &mut self.machines[member].control else { return };
        let Some(recorded) = control.state.members.get(&id) else { return };
        let dead = &recorded.certified_dead;
        control.reaped.retain(|life, _| !dead.contains(life));
        let reaped = control.reaped.iter().min_by_key(|(_, at)| **at).map(|(life, _)| *life);
        let fresh = control.incarnation.filter(|life| recorded.incarnation != Some(*life));
        if let Some(incarnation) = reaped {
            self.say_to_leader(member, Message::Certify { incarnation });
        } else if let Some(incarnation) = fresh {
            self.say_to_leader(member, Message::StartLife { incarnation });
        }
    }

    pub(super) fn say_to_leader(&mut self, member: usize, message: Message) {
        let leader = self.machines[member].control.as_ref().and_then(|control| control.leader);
        if let Some(leader) = leader {
            self.datagram_to(member, leader, message);
        }
    }

    pub(super) fn datagram_to(&mut self, from: usize, to: usize, message: Message) {
        let happening = Happening::Datagram { from, to, message };
        match from == to {
            true => self.after(MS / 10, happening),
            false => self.send((from, to), happening),
        }
    }

    pub(super) fn datagram(&mut self, from: usize, to: usize, message: Message) {
        if self.machines[to].control.is_none() {
            return;
        }
        match message {
            Message::Heartbeat { term, commit, sent } => {
                self.heartbeat(from, to, (term, commit), sent);
            }
            Message::Granted { grant, sent } => {
                let now = self.tick(to);
                if let Some(control) = &mut self.machines[to].control
                    && let Some(holder) = &mut control.holder
                {
                    holder.granted(now, sent, &grant);
                }
            }
            Message::HigherTerm { term } => self.outvoted(to, term),
            Message::Seal { items } => self.seal_asked(from, to, &items),
            Message::Mount { order, incarnation } => self.mount_asked(to, &order, incarnation),
            Message::Dismount { database, epoch } => self.dismount_asked(to, database, epoch),
            other => self.leader_hears(from, to, other),
        }
    }

    fn heartbeat(&mut self, from: usize, to: usize, (term, commit): (u64, usize), sent: Tick) {
        let now = self.tick(to);
        let Some(control) = &mut self.machines[to].control else { return };
        if term < control.term {
            let term = control.term;
            return self.datagram_to(to, from, Message::HigherTerm { term });
        }
        let deposed = control.leading.is_some() && term > control.term;
        control.term = term;
        control.leader = Some(from);
        control.last_heard = now;
        if deposed {
            self.stop_leading(to);
        }
        self.apply_up_to(to, commit);
        self.datagram_to(to, from, Message::HeartbeatAck { term, sent });
    }

    pub(super) fn stop_leading(&mut self, member: usize) {
        if let Some(control) = &mut self.machines[member].control {
            control.leading = None;
            control.table.lost_leadership();
        }
        self.note(format_args!("m{member} learns that it does not lead"));
        self.manage(member, ManagerEvent::LostLeadership);
    }
}

//! What operators do: moves, mounts, policies, maintenance, sites, settings. At the end they take
//! back what keeps databases from being served.

use std::collections::BTreeSet;

use keelson_cluster_core::schedule::ScheduledMove;
use keelson_cluster_core::{
    AcceptedLoss, Command, ConstraintSetting, ManagerEvent, MemberActivation, MoveOptions,
    OperationKind,
};
use keelson_types::{
    ActivationPolicy, Automation, CommitConstraint, DatabaseId, MemberId, MountDial, MountIntent,
    ResumeRequest, SuspendRequest, SuspendedBy,
};

use super::consensus::Origin;
use super::{ManagerWorld, database_id, member_id};

impl ManagerWorld {
    fn one_database(&mut self) -> DatabaseId {
        database_id(self.pick(self.params.databases))
    }

    fn one_copy(&mut self, id: DatabaseId) -> (keelson_types::CopyId, MemberId) {
        let place = self.pick(self.reference.databases[&id].copies.len());
        let mut copies = self.reference.databases[&id].copies.iter();
        let (copy, config) = copies.nth(place).expect("below their number");
        (*copy, config.member)
    }

    /// Something that an operator does, if somebody leads.
    pub(super) fn operator(&mut self) {
        let Some(leader) = self.ready_leader() else { return };
        let id = self.one_database();
        let (copy, holder) = self.one_copy(id);
        let member = member_id(self.pick(self.params.members));
        let command = match self.random.below(20) {
            0..=3 => return self.wants_move(leader, (id, holder)),
            4 => return self.appoints(leader, (id, holder)),
            5 => return self.opens(leader, id),
            6 => return self.closes(leader, id),
            7 | 8 => Command::SetActivation { member, activation: self.some_activation() },
            9 => {
                let policy = self.some_policy();
                Command::SetCopyPolicy { database: id, copy, policy }
            }
            10 => {
                self.fire("maintenance");
                Command::BeginMaintenance { member, comment: "simulated".into() }
            }
            11 | 12 => Command::EndMaintenance { member },
            13 => return self.stops_site(leader),
            14 => self.starts_sites(),
            15 => {
                let activation_only = self.random.chance(1, 2);
                let comment = "simulated".to_owned();
                let request = SuspendRequest { activation_only, comment, lasting: None };
                Command::SuspendCopy { database: id, copy, request }
            }
            16 => Command::ResumeCopy { database: id, copy, request: ResumeRequest::default() },
            17 => {
                let mut settings = self.reference.databases[&id].settings.clone();
                let constraints = [
                    CommitConstraint::None,
                    CommitConstraint::SecondCopy,
                    CommitConstraint::Majority,
                    CommitConstraint::SecondDatacenter,
                ];
                settings.constraint = match self.random.chance(1, 2) {
                    true => ConstraintSetting::Auto,
                    false => ConstraintSetting::Explicit(constraints[self.pick(4)]),
                };
                settings.autoreseed = self.random.chance(3, 4);
                let one = Automation::ALL[self.pick(4)];
                settings.automations = settings.automations.with(one, self.random.chance(3, 4));
                Command::SetDatabase { database: id, settings }
            }
            18 => {
                let preference = Some(1 + self.random.below(5) as u32);
                let (leaving, lag) = (None, None);
                Command::SetCopy { database: id, copy, preference, leaving, lag }
            }
            _ => self.some_setting(),
        };
        self.propose(leader, command, Origin::None);
    }

    fn wants_move(&mut self, leader: usize, to: (DatabaseId, MemberId)) {
        let dials = [None, Some(MountDial::BestAvailability), Some(MountDial::BestEffort)];
        let options = match self.random.chance(1, 3) {
            true => MoveOptions::of_dial(dials[self.pick(3)]),
            false => MoveOptions::default(),
        };
        self.fire("switchover asked");
        let operation = self.fresh_operation();
        self.move_database(leader, operation, to, options);
    }

    fn appoints(&mut self, leader: usize, (database, to): (DatabaseId, MemberId)) {
        let at_unix_ms = self.wall_ms(leader) + self.between(500, 10_000);
        let to = self.random.chance(2, 3).then_some(to);
        let order = ScheduledMove {
            database,
            to,
            at_unix_ms,
            skip: Vec::new(),
            options: MoveOptions::default(),
            terminate_on_warning: false,
            comment: String::new(),
        };
        let (id, kind) = (self.fresh_operation(), OperationKind::ScheduledMove(Box::new(order)));
        self.propose(leader, Command::PutOperation { id, kind }, Origin::None);
    }

    pub(super) fn opens(&mut self, leader: usize, database: DatabaseId) {
        // Loss is accepted only where a database waits, and seldom.
        let accept = !self.healing && self.random.chance(1, 4);
        let accept_loss = accept.then(AcceptedLoss::default);
        let operation = self.fresh_operation();
        let kind = OperationKind::Mount { database, accept_loss };
        let event = ManagerEvent::MountRequested { operation, database, accept_loss };
        self.ask(leader, (operation, kind), event);
    }

    fn closes(&mut self, leader: usize, database: DatabaseId) {
        self.fire("dismount asked");
        let operation = self.fresh_operation();
        let event = ManagerEvent::DismountRequested { operation, database };
        self.ask(leader, (operation, OperationKind::Dismount { database }), event);
    }

    fn some_policy(&mut self) -> ActivationPolicy {
        let all = [
            ActivationPolicy::Unrestricted,
            ActivationPolicy::Unrestricted,
            ActivationPolicy::IntrasiteOnly,
            ActivationPolicy::Blocked,
        ];
        all[self.pick(4)]
    }

    fn some_activation(&mut self) -> MemberActivation {
        let dials = [MountDial::Lossless, MountDial::GoodAvailability, MountDial::BestAvailability];
        let most = self.params.databases as u64 / 3;
        let max_active = self.random.chance(1, 2).then(|| 2 + self.random.below(most) as u32);
        MemberActivation {
            policy: self.some_policy(),
            max_active,
            max_active_preferred: max_active.map(|most| most / 2),
            move_away: self.random.chance(1, 8),
            dial: dials[self.pick(3)],
        }
    }

    fn some_setting(&mut self) -> Command {
        let (name, value) = [
            ("autoreseed", 0),
            ("autoreseed", 1),
            ("preference_move_period", 0),
            ("preference_move_period", 4_000),
            ("certificate_moves", 0),
            ("certificate_moves", 2),
            ("move_suppression_moves", 2),
            ("move_suppression_moves", 0),
            ("cold_start_waits_for_all", 0),
            ("cold_start_waits_for_all", 1),
        ][self.pick(10)];
        Command::ChangeSetting { name: name.into(), value: Some(value) }
    }

    fn stops_site(&mut self, leader: usize) {
        let site = self.pick(self.params.sites);
        let there = (0..self.params.members).filter(|m| self.machines[*m].site == site);
        let members: BTreeSet<_> = there.map(member_id).collect();
        self.fire("site stopped");
        let comment = Some("simulated".to_owned());
        self.propose(leader, Command::StopMembers { members, comment }, Origin::None);
    }

    fn starts_sites(&self) -> Command {
        let stopped = self.reference.members.iter().filter(|(_, m)| m.stopped.is_some());
        let members = stopped.map(|(id, _)| *id).collect();
        Command::StopMembers { members, comment: None }
    }

    /// At the end: everything that keeps a database from being served is taken back, until it is.
    pub(super) fn heal(&mut self) {
        let Some(leader) = self.ready_leader() else { return };
        let mut wanted = Vec::new();
        for (id, member) in &self.reference.members {
            let member_id = *id;
            if member.maintenance.is_some() {
                wanted.push(Command::EndMaintenance { member: member_id });
            }
            let dial = member.activation.dial;
            let plain = MemberActivation { dial, ..MemberActivation::default() };
            if member.activation != plain {
                wanted.push(Command::SetActivation { member: member_id, activation: plain });
            }
        }
        if self.reference.members.values().any(|member| member.stopped.is_some()) {
            wanted.push(self.starts_sites());
        }
        let mut closed = Vec::new();
        for (id, database) in &self.reference.databases {
            if database.intent == MountIntent::Dismounted {
                closed.push(*id);
            }
            for (copy, config) in &database.copies {
                let (database, copy) = (*id, *copy);
                if config.policy != ActivationPolicy::Unrestricted {
                    let policy = ActivationPolicy::Unrestricted;
                    wanted.push(Command::SetCopyPolicy { database, copy, policy });
                }
                let by_operator = config.suspension.by == SuspendedBy::Operator;
                let off = !config.suspension.is_none() && config.seeding.is_none();
                if off && (by_operator || config.is_stopped()) {
                    let request = ResumeRequest::default();
                    wanted.push(Command::ResumeCopy { database, copy, request });
                }
            }
        }
        for command in wanted {
            self.propose(leader, command, Origin::None);
        }
        for id in closed {
            self.opens(leader, id);
        }
    }
}

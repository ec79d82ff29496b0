//! The cluster at its beginning.

use std::collections::{BTreeMap, BTreeSet};

use keelson_cluster_core::{
    ClusterState, Command, CopyKind, DatabaseSettings, MemberConfig, NewCopy, Outcome,
};
use keelson_env::SplitMix64;
use keelson_types::{ClusterId, CopyId, DatabaseName, MemberName, MountDial, SiteName, StreamId};

use super::consensus::{Consensus, Entry, Kept, Origin};
use super::truth::Truth;
use super::{
    Happening, Machine, ManagerCounts, ManagerParams, ManagerWorld, database_id, member_id,
};
use crate::checkers::Explanations;
use crate::params::MS;
use crate::trace::Trace;

/// Times of automation, short enough for a run.
const SETTINGS: [(&str, u64); 8] = [
    ("autoreseed_failed_after", 1_000),
    ("autoreseed_after", 2_000),
    ("autoreseed_resume_pause", 1_000),
    ("autoreseed_seed_pause", 3_000),
    ("autoreseed_reset_after", 10_000),
    ("certificate_patience", 2_000),
    ("switchover_budget", 2_000),
    ("preference_move_period", 4_000),
];

impl ManagerWorld {
    /// A cluster of the seed's size; `print` shows every line of the trace.
    #[must_use]
    pub fn new(params: ManagerParams, print: bool) -> Self {
        let random = SplitMix64::new(params.seed);
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            random,
            machines: Vec::new(),
            cut: BTreeSet::new(),
            data_cut: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            consensus: Consensus::default(),
            reference: ClusterState::default(),
            next_id: 0,
            healing: false,
            writing: true,
            truth: Truth::default(),
            explanations: Explanations::default(),
            trace: Trace::new(print),
            violation: None,
            counts: ManagerCounts::default(),
            params,
        };
        world.form();
        world
    }

    fn form(&mut self) {
        self.first(Command::InitCluster { cluster: ClusterId::from_u128(1) });
        for member in 0..self.params.machines() {
            let config = self.member_config(member);
            self.first(Command::AddMember { member: config });
        }
        for (name, value) in SETTINGS {
            self.first(Command::ChangeSetting { name: name.into(), value: Some(value) });
        }
        for member in 0..self.params.members {
            if self.random.chance(1, 3) {
                let dial = [MountDial::GoodAvailability, MountDial::BestAvailability];
                let dial = dial[self.pick(2)];
                let activation =
                    keelson_cluster_core::MemberActivation { dial, ..Default::default() };
                self.first(Command::SetActivation { member: member_id(member), activation });
            }
        }
        for database in 0..self.params.databases {
            let command = self.create(database);
            self.first(command);
            let at = self.between(MS, 200 * MS);
            self.at(at, Happening::Write { database });
        }
        let kept =
            Kept { state: self.reference.clone(), applied: self.consensus.log.len(), term: 0 };
        for member in 0..self.params.machines() {
            let machine = self.machine(member, kept.clone());
            self.machines.push(machine);
            let at = self.between(0, 100 * MS);
            self.at(at, Happening::StartControl { member });
        }
        self.at(2_000 * MS, Happening::WorldTick);
    }

    fn first(&mut self, command: Command) {
        self.consensus.log.push(Entry { command: command.clone(), origin: Origin::None });
        let outcome = self.reference.apply(self.consensus.log.len() as u64, &command);
        assert!(matches!(outcome, Outcome::Ok(_)), "the first commands are valid: {outcome:?}");
    }

    fn machine(&mut self, member: usize, kept: Kept) -> Machine {
        Machine {
            id: member_id(member),
            site: member % self.params.sites,
            drift_ppm: i64::try_from(self.random.below(800)).expect("small") - 400,
            clock_start: 1_000_000_000_000 + self.random.below(1_000_000_000_000),
            wall_offset_ms: i64::try_from(self.random.below(2_000)).expect("small"),
            control: None,
            control_life: 0,
            kept,
            data: None,
            copies: BTreeMap::new(),
            hung: None,
            parked: Vec::new(),
            paused: None,
            waiting: Vec::new(),
        }
    }

    fn member_config(&self, member: usize) -> MemberConfig {
        let data = member < self.params.members;
        MemberConfig {
            id: member_id(member),
            node: member as u64 + 1,
            name: MemberName::new(format!("m{member}")).expect("a valid name"),
            site: SiteName::new(format!("s{}", member % self.params.sites)).expect("a valid name"),
            control_address: format!("m{member}:7400"),
            data_address: if data { format!("m{member}:7401") } else { String::new() },
            replication_addresses: Vec::new(),
            voter: true,
        }
    }

    fn create(&mut self, database: usize) -> Command {
        let members = self.params.members;
        let count = if self.random.chance(1, 8) { 2 } else { 3 + self.pick(2) };
        let first = self.pick(members);
        let copies = (0..count).map(|number| NewCopy {
            copy: CopyId::from_u128(0x1_0000 + (database * 16 + number) as u128),
            member: member_id((first + number) % members),
            preference: number as u32 + 1,
            kind: CopyKind::Ha,
        });
        Command::CreateDatabase {
            id: database_id(database),
            name: DatabaseName::new(format!("DB{database}")).expect("a valid name"),
            stream: StreamId::from_u128(0x300 + database as u128),
            settings: DatabaseSettings::default(),
            copies: copies.collect(),
        }
    }
}

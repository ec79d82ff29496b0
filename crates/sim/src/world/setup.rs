//! The first state: members, databases, clients.

use std::collections::BTreeSet;

use keelson_cluster_core::{
    ClusterState, Command, ConstraintSetting, CopyKind, DatabaseSettings, MemberActivation,
    MemberConfig, NewCopy,
};
use keelson_env::{MemStoreOpener, SimDisk, SplitMix64};
use keelson_types::{ClusterId, CommitConstraint, CopyId, DatabaseName, MemberName, SiteName};

use super::{
    Client, Consensus, Counts, Happening, Machine, Network, World, database_id, member_id,
    stream_id,
};
use crate::params::{MS, Params, SEC};
use crate::probes::Probes;
use crate::trace::Trace;

/// Keys per database; each has one writer.
pub(crate) const KEYS: u32 = 3;

impl World {
    /// A cluster that has just been formed.
    #[must_use]
    pub fn new(params: Params, print: bool) -> Self {
        let mut world = Self::bare(params, print);
        for member in 0..world.params.members {
            let start = world.random.below(300 * MS);
            world.at(start, Happening::StartControl { member });
        }
        world.begin();
        for database in 0..world.params.databases {
            for key in 0..KEYS {
                world.clients.push(Client::new(database, Some(key)));
                world.clients.push(Client::new(database, None));
            }
        }
        for client in 0..world.clients.len() {
            let start = world.random.below(SEC);
            world.at(start, Happening::ClientStep { client });
        }
        world
    }

    pub(crate) fn begin(&mut self) {
        self.at(0, Happening::Connect);
        self.at(0, Happening::WorldTick);
    }

    pub(crate) fn bare(params: Params, print: bool) -> Self {
        let mut random = SplitMix64::new(params.seed);
        let machines = (0..params.members).map(|i| machine(i, &params, &mut random)).collect();
        let mut world = Self {
            now: 0,
            queue: std::collections::BTreeMap::new(),
            sequence: 0,
            random,
            machines,
            network: Network::new(params.members),
            consensus: Consensus::default(),
            reference: ClusterState::default(),
            clients: Vec::new(),
            next_id: 0,
            healing: false,
            clients_stop: false,
            waived: BTreeSet::new(),
            rotten: BTreeSet::new(),
            seeds: Default::default(),
            seeded: Default::default(),
            not_kept: Default::default(),
            replayed: Default::default(),
            acknowledged: Default::default(),
            given_up: Default::default(),
            bindings: Default::default(),
            explanations: Default::default(),
            contents: Default::default(),
            serving: Default::default(),
            prefixes: Default::default(),
            registers: Default::default(),
            floors: Default::default(),
            probes: Probes::default(),
            trace: Trace::new(print),
            violation: None,
            counts: Counts::default(),
            params,
        };
        for command in world.first_commands() {
            world.consensus.append_first(&mut world.reference, command);
        }
        let (state, applied) = (world.reference.clone(), world.consensus.len());
        for machine in &mut world.machines {
            machine.kept.state = state.clone();
            machine.kept.applied = applied;
        }
        world
    }

    pub(crate) fn settings(&self, constraint: Option<CommitConstraint>) -> DatabaseSettings {
        DatabaseSettings {
            constraint: constraint.map_or(ConstraintSetting::Auto, ConstraintSetting::Explicit),
            degrade_after_ms: self.params.degrade_after_ms,
            dismount_after_ms: self.params.dismount_after_ms,
            ..DatabaseSettings::default()
        }
    }

    fn first_commands(&mut self) -> Vec<Command> {
        let mut commands = vec![Command::InitCluster { cluster: ClusterId::from_u128(1) }];
        for index in 0..self.params.members {
            let member = member_config(index, index % self.params.sites);
            let id = member.id;
            commands.push(Command::AddMember { member });
            let activation = MemberActivation { dial: self.params.dial, ..Default::default() };
            commands.push(Command::SetActivation { member: id, activation });
        }
        for index in 0..self.params.databases {
            let copies = (0..self.params.copies).map(|n| NewCopy {
                copy: CopyId::from_u128(0x1000 + u128::from(self.fresh())),
                member: member_id((index + n) % self.params.members),
                preference: n as u32,
                kind: CopyKind::Ha,
            });
            let copies = copies.collect();
            commands.push(Command::CreateDatabase {
                id: database_id(index),
                name: DatabaseName::new(format!("db{index}")).expect("valid"),
                stream: stream_id(index),
                settings: self.settings(self.params.constraint),
                copies,
            });
        }
        commands
    }
}

fn member_config(index: usize, site: usize) -> MemberConfig {
    MemberConfig {
        id: member_id(index),
        node: index as u64 + 1,
        name: MemberName::new(format!("m{index}")).expect("valid"),
        site: SiteName::new(format!("site{site}")).expect("valid"),
        control_address: format!("m{index}:1"),
        data_address: format!("m{index}:2"),
        replication_addresses: Vec::new(),
        voter: true,
    }
}

fn machine(index: usize, params: &Params, random: &mut SplitMix64) -> Machine {
    let drift = random.below(2 * params.drift_ppm + 1) as i64 - params.drift_ppm as i64;
    Machine {
        id: member_id(index),
        disk: SimDisk::new(),
        stores: MemStoreOpener::new(),
        drift_ppm: drift,
        clock_start: 1_000 * SEC + random.below(1_000 * SEC),
        wall_offset_ms: 1_700_000_000_000 + random.below(2_000),
        control: None,
        control_life: 0,
        kept: super::consensus::Kept::default(),
        data: None,
        data_life: 0,
        control_paused: false,
        data_paused: false,
        parked: Vec::new(),
        stalled: false,
        stalled_jobs: Vec::new(),
        short_of_space: false,
        lost_copies: std::collections::BTreeSet::new(),
        down_for_good: false,
    }
}

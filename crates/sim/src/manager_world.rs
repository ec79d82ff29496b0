//! The world of the whole manager: many members in sites, many databases, the real active manager
//! with all that acts by itself or by operators, over copies that are only numbers.
//!
//! Real: `ClusterState`, `Manager`, `LeaseTable`, `LeaseHolder`, redistribution, schedule, the
//! automatic reseed. Modelled: consensus with leaders that do not know they are deposed, the
//! network, clocks, and copies as a list of epochs and bytes ([`copies`]). What must hold is
//! watched in true time ([`truth`]). `crates/sim/DESIGN.md` tells more.

mod automation;
mod consensus;
mod control;
mod copies;
mod data;
mod faults;
mod finish;
mod leader;
mod operators;
mod setup;
mod ship;
mod truth;

use std::collections::{BTreeMap, BTreeSet};

use keelson_cluster_core::ClusterState;
use keelson_env::SplitMix64;
use keelson_types::{CopyId, DatabaseId, Epoch, IncarnationId, MemberId, Tick, Weakness};

use crate::checkers::{Explanations, Violation};
use crate::params::MS;
use crate::trace::Trace;
use consensus::{Consensus, Entry, Kept};
use control::Control;
use copies::{CopyFile, Log};
use data::Data;
use leader::Message;
use truth::Truth;

pub use finish::ManagerReport;

/// What a seed draws.
#[derive(Clone, Debug)]
pub struct ManagerParams {
    /// The seed.
    pub seed: u64,
    /// Members that hold data.
    pub members: usize,
    /// Whether a witness votes beside them.
    pub witness: bool,
    /// Sites.
    pub sites: usize,
    /// Databases.
    pub databases: usize,
    /// Seconds in which faults happen.
    pub faulty_seconds: u64,
    /// The rule that is switched off.
    pub weakness: Weakness,
    /// Every step is taken a second time by a manager that looks at every database.
    pub compared: bool,
}

impl ManagerParams {
    /// The world of a seed, as large as it says.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = SplitMix64::new(seed ^ 0x6d61_6e61_6765_7273);
        let members = 5 + random.below(8) as usize;
        Self {
            seed,
            members,
            witness: members.is_multiple_of(2),
            sites: 2 + random.below(2) as usize,
            databases: 20 + random.below(41) as usize,
            faulty_seconds: 20 + random.below(20),
            weakness: Weakness::None,
            compared: seed.is_multiple_of(4),
        }
    }

    /// All members.
    fn machines(&self) -> usize {
        self.members + usize::from(self.witness)
    }
}

/// Something that happens at a time.
#[derive(Clone, Debug)]
enum Happening {
    Datagram { from: usize, to: usize, message: Message },
    ControlTick { member: usize, life: u64 },
    Entry { leader: usize, life: u64, term: u64, entry: Box<Entry> },
    Append { from: usize, to: usize, append: Box<Append> },
    Ack { to: usize, ack: Ack },
    Fetched { member: usize, life: IncarnationId, order: Box<keelson_cluster_core::MountOrder> },
    Seeded { member: usize, life: IncarnationId, database: DatabaseId, copy: CopyId },
    Write { database: usize },
    StartControl { member: usize },
    StartData { member: usize },
    Undo(faults::Fault),
    WorldTick,
}

/// Log on its way from an active to another copy.
#[derive(Clone, Debug)]
struct Append {
    database: DatabaseId,
    copy: CopyId,
    epoch: Epoch,
    log: Log,
}

/// A copy says what it holds of an epoch.
#[derive(Clone, Copy, Debug)]
struct Ack {
    database: DatabaseId,
    copy: CopyId,
    epoch: Epoch,
    bytes: u64,
}

/// A server.
struct Machine {
    id: MemberId,
    site: usize,
    drift_ppm: i64,
    clock_start: u64,
    wall_offset_ms: i64,
    control: Option<Control>,
    control_life: u64,
    kept: Kept,
    data: Option<Data>,
    copies: BTreeMap<DatabaseId, CopyFile>,
    /// Since when its disk does not answer.
    hung: Option<u64>,
    /// What waits for the disk.
    parked: Vec<Happening>,
    /// The whole server stands still: nothing is lost but time.
    paused: Option<u64>,
    waiting: Vec<Happening>,
}

/// Everything.
pub struct ManagerWorld {
    params: ManagerParams,
    now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    random: SplitMix64,
    machines: Vec<Machine>,
    /// Directed links that are cut.
    cut: BTreeSet<(usize, usize)>,
    /// Members whose data address is cut off while their control process answers, and since when.
    data_cut: BTreeMap<usize, u64>,
    arrivals: BTreeMap<(usize, usize), u64>,
    consensus: Consensus,
    /// The state behind the last entry, as an omniscient observer has it.
    reference: ClusterState,
    next_id: u64,
    healing: bool,
    writing: bool,
    truth: Truth,
    explanations: Explanations,
    trace: Trace,
    violation: Option<Violation>,
    counts: ManagerCounts,
}

/// How often what happened.
#[derive(Clone, Debug, Default)]
pub struct ManagerCounts {
    /// Things that happened.
    pub events: u64,
    /// Rare ones by name.
    pub rare: BTreeMap<&'static str, u64>,
}

fn member_id(index: usize) -> MemberId {
    MemberId::from_u128(0x100 + index as u128)
}

fn member_index(id: MemberId) -> usize {
    usize::try_from(u128::from_be_bytes(id.into_bytes()) - 0x100).expect("made by member_id")
}

fn database_id(index: usize) -> DatabaseId {
    DatabaseId::from_u128(0x200 + index as u128)
}

impl ManagerWorld {
    fn at(&mut self, time: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((time.max(self.now), self.sequence), happening);
    }

    fn after(&mut self, delay: u64, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.below(high - low + 1)
    }

    fn pick(&mut self, many: usize) -> usize {
        self.random.below(many.max(1) as u64) as usize
    }

    fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The clock of a member, in its own nanoseconds.
    fn tick(&self, member: usize) -> Tick {
        let machine = &self.machines[member];
        let drift = i128::from(self.now) * i128::from(machine.drift_ppm) / 1_000_000;
        let local = i128::from(machine.clock_start) + i128::from(self.now) + drift;
        Tick(u64::try_from(local).expect("clocks start high enough"))
    }

    fn wall_ms(&self, member: usize) -> u64 {
        let wall = 1_000_000_000 + self.machines[member].wall_offset_ms;
        u64::try_from(wall).expect("clocks start high enough") + self.now / MS
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now, what);
    }

    /// Counts something rare.
    fn fire(&mut self, what: &'static str) {
        *self.counts.rare.entry(what).or_default() += 1;
    }

    fn check(&mut self, verdict: crate::checkers::Verdict) {
        if let Err(violation) = verdict {
            self.trace.note(self.now, format_args!("VIOLATION {violation}"));
            self.violation.get_or_insert(violation);
        }
    }

    fn linked(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    fn both_ways(&self, a: usize, b: usize) -> bool {
        self.linked(a, b) && self.linked(b, a)
    }

    /// Whether data processes reach each other.
    fn by_data(&self, a: usize, b: usize) -> bool {
        a == b || !(self.data_cut.contains_key(&a) || self.data_cut.contains_key(&b))
    }

    /// Sends log, or the answer to it.
    fn send_data(&mut self, (from, to): (usize, usize), happening: Happening) {
        if self.by_data(from, to) {
            self.send((from, to), happening);
        }
    }

    /// Sends over one direction of the network, in order.
    fn send(&mut self, (from, to): (usize, usize), happening: Happening) {
        if !self.linked(from, to) {
            return;
        }
        let delay = self.between(MS / 2, 4 * MS);
        let last = self.arrivals.get(&(from, to)).copied().unwrap_or(0);
        let arrival = (self.now + delay).max(last + 1);
        self.arrivals.insert((from, to), arrival);
        self.at(arrival, happening);
    }

    /// Lets the next thing happen; false if nothing is left.
    fn advance(&mut self) -> bool {
        let Some(((time, _), happening)) = self.queue.pop_first() else { return false };
        self.now = time;
        self.counts.events += 1;
        if !self.waits(&happening) {
            self.happen(happening);
        }
        true
    }

    /// What a server that stands still would do waits.
    fn waits(&mut self, happening: &Happening) -> bool {
        let (member, disk) = match happening {
            Happening::Datagram { to, .. } => (*to, false),
            Happening::ControlTick { member, .. } => (*member, false),
            Happening::Append { to, .. } | Happening::Ack { to, .. } => (*to, true),
            Happening::Fetched { member, .. } | Happening::Seeded { member, .. } => (*member, true),
            Happening::Entry { .. }
            | Happening::Write { .. }
            | Happening::StartControl { .. }
            | Happening::StartData { .. }
            | Happening::Undo(_)
            | Happening::WorldTick => return false,
        };
        let machine = &mut self.machines[member];
        if machine.paused.is_some() {
            machine.waiting.push(happening.clone());
            return true;
        }
        if disk && machine.hung.is_some() {
            machine.parked.push(happening.clone());
            return true;
        }
        false
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Datagram { from, to, message } => self.datagram(from, to, message),
            Happening::ControlTick { member, life } => self.control_tick(member, life),
            Happening::Entry { leader, life, term, entry } => {
                self.entry(leader, life, term, *entry);
            }
            Happening::Append { from, to, append } => self.append(from, to, *append),
            Happening::Ack { to, ack } => self.acked(to, ack),
            Happening::Fetched { member, life, order } => self.fetched(member, life, *order),
            Happening::Seeded { member, life, database, copy } => {
                self.seeded(member, life, database, copy);
            }
            Happening::Write { database } => self.write(database),
            Happening::StartControl { member } => self.start_control(member),
            Happening::StartData { member } => self.start_data(member),
            Happening::Undo(fault) => self.undo(&fault),
            Happening::WorldTick => self.world_tick(),
        }
    }
}

#[cfg(test)]
mod tests;

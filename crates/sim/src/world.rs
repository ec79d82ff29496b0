//! The simulated cluster: one queue of events in true time, and everything that they happen to.

mod clients;
mod consensus;
mod control;
mod data;
mod faults;
mod finish;
mod leader;
mod network;
mod operators;
mod script;
mod seeds;
mod setup;

use std::collections::{BTreeMap, BTreeSet};

use keelson_cluster_core::ClusterState;
use keelson_env::{MemStoreOpener, SimDisk, SplitMix64};
use keelson_types::{CopyId, DatabaseId, IncarnationId, MemberId, Position, StreamId, Tick};

use crate::checkers::{
    Acknowledged, Bindings, Contents, Explanations, GivenUp, Prefixes, Registers, Serving,
    Violation, Write,
};
use crate::copy_node::Job;
use crate::messages::{ControlMessage, DataMessage, Operation, Reply, ToControl, ToData};
use crate::params::Params;
use crate::probes::{Probe, Probes};
use crate::trace::Trace;

pub(crate) use clients::Client;
pub(crate) use consensus::{Consensus, Entry};
pub(crate) use control::Control;
pub(crate) use data::Data;
pub(crate) use faults::Fault;
pub use finish::Report;
pub(crate) use network::{Network, Pair};
pub(crate) use seeds::Seed;

/// Something that happens at a time.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Datagram { from: usize, to: usize, message: ControlMessage },
    ToData { member: usize, life: u64, message: ToData },
    FromData { member: usize, life: u64, message: ToControl },
    Session { pair: Pair, id: u64, from: usize, database: usize, message: DataMessage },
    SessionNotice { pair: Pair, id: u64, member: usize, up: bool },
    SessionBreak { pair: Pair, id: u64 },
    Connect,
    ControlTick { member: usize, life: u64 },
    DataTick { member: usize, life: u64 },
    Job { member: usize, life: u64, database: usize, copy: CopyId, job: Job },
    Entry { leader: usize, life: u64, term: u64, entry: Box<Entry> },
    ClientStep { client: usize },
    ClientRequest { member: usize, client: usize, database: usize, operation: Operation },
    ClientReply { client: usize, operation: Operation, reply: Reply },
    ClientTimeout { client: usize, operation: u64 },
    StartControl { member: usize },
    StartData { member: usize },
    Undo(Fault),
    WorldTick,
}

/// A server.
pub(crate) struct Machine {
    pub(crate) id: MemberId,
    pub(crate) disk: SimDisk,
    pub(crate) stores: MemStoreOpener,
    /// Local nanoseconds per million true ones, minus a million; and the clock's start.
    pub(crate) drift_ppm: i64,
    pub(crate) clock_start: u64,
    pub(crate) wall_offset_ms: u64,
    pub(crate) control: Option<Control>,
    pub(crate) control_life: u64,
    /// What the consensus library keeps on disk.
    pub(crate) kept: consensus::Kept,
    pub(crate) data: Option<Data>,
    pub(crate) data_life: u64,
    pub(crate) control_paused: bool,
    pub(crate) data_paused: bool,
    /// What waits for a paused process.
    pub(crate) parked: Vec<Happening>,
    pub(crate) stalled: bool,
    pub(crate) stalled_jobs: Vec<Happening>,
    /// Copies whose files are gone with their disk: their ids must never be used again (R4).
    pub(crate) lost_copies: BTreeSet<CopyId>,
    /// Little of its log volume is free.
    pub(crate) short_of_space: bool,
    /// Not started again by itself.
    pub(crate) down_for_good: bool,
}

/// Everything.
pub struct World {
    pub(crate) params: Params,
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    pub(crate) random: SplitMix64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) network: Network,
    pub(crate) consensus: Consensus,
    /// The state behind the last entry, as an omniscient observer has it.
    pub(crate) reference: ClusterState,
    pub(crate) clients: Vec<Client>,
    pub(crate) next_id: u64,
    pub(crate) healing: bool,
    pub(crate) clients_stop: bool,
    /// Databases whose log was damaged: they may rightly wait for an operator.
    pub(crate) waived: BTreeSet<usize>,
    /// Member and database of logs in which a bit flipped that no scrub has mended yet.
    pub(crate) rotten: BTreeSet<(usize, usize)>,
    /// Seeds under way, by member and database of the target.
    pub(crate) seeds: BTreeMap<(usize, usize), Seed>,
    /// Copies that were made of another one's files.
    pub(crate) seeded: BTreeSet<CopyId>,
    /// Copies for which no log was kept: they lost their files, or were to be seeded.
    pub(crate) not_kept: BTreeSet<CopyId>,
    /// Writes that each copy replayed, by the end of their frame: what its truncated log held.
    pub(crate) replayed: BTreeMap<CopyId, BTreeMap<Position, Vec<Write>>>,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) given_up: GivenUp,
    pub(crate) bindings: Bindings,
    pub(crate) explanations: Explanations,
    pub(crate) contents: Contents,
    pub(crate) serving: Serving,
    pub(crate) prefixes: Prefixes,
    pub(crate) registers: Registers,
    pub(crate) floors: BTreeMap<u64, u64>,
    pub(crate) probes: Probes,
    pub(crate) trace: Trace,
    pub(crate) violation: Option<Violation>,
    pub(crate) counts: Counts,
}

/// Figures of a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Things that happened.
    pub events: u64,
    /// Leaders elected.
    pub elections: u64,
    /// Copies bound to an epoch.
    pub activations: u64,
    /// Processes that ended unasked.
    pub crashes: u64,
    /// Forks cut.
    pub cuts: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Writes whose outcome nobody knows.
    pub unknown: u64,
    /// Reads answered.
    pub reads: u64,
}

pub(crate) fn member_id(index: usize) -> MemberId {
    MemberId::from_u128(0x100 + index as u128)
}

pub(crate) fn member_index(id: MemberId) -> usize {
    usize::try_from(u128::from_be_bytes(id.into_bytes()) - 0x100).expect("made by member_id")
}

pub(crate) fn database_id(index: usize) -> DatabaseId {
    DatabaseId::from_u128(0x200 + index as u128)
}

pub(crate) fn database_index(id: DatabaseId) -> usize {
    usize::try_from(u128::from_be_bytes(id.into_bytes()) - 0x200).expect("made by database_id")
}

pub(crate) fn stream_id(index: usize) -> StreamId {
    StreamId::from_u128(0x300 + index as u128)
}

impl World {
    pub(crate) fn at(&mut self, time: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((time.max(self.now), self.sequence), happening);
    }

    pub(crate) fn after(&mut self, delay: u64, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    /// A number between the two.
    pub(crate) fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.random.below(high - low + 1)
    }

    pub(crate) fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn fresh_incarnation(&mut self) -> IncarnationId {
        IncarnationId::from_u128(0x9000 + u128::from(self.fresh()))
    }

    /// The clock of a member, in its own nanoseconds.
    pub(crate) fn tick(&self, member: usize) -> Tick {
        let machine = &self.machines[member];
        let drift = i128::from(self.now) * i128::from(machine.drift_ppm) / 1_000_000;
        let local = i128::from(machine.clock_start) + i128::from(self.now) + drift;
        Tick(u64::try_from(local).expect("clocks start high enough"))
    }

    pub(crate) fn wall_ms(&self, member: usize) -> u64 {
        self.machines[member].wall_offset_ms + self.now / crate::params::MS
    }

    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now, what);
    }

    pub(crate) fn fire(&mut self, probe: Probe) {
        self.probes.fire(probe);
    }

    pub(crate) fn check(&mut self, verdict: crate::checkers::Verdict) {
        if let Err(violation) = verdict {
            self.trace.note(self.now, format_args!("VIOLATION {violation}"));
            self.violation.get_or_insert(violation);
        }
    }

    pub(crate) fn fail(&mut self, property: &'static str, what: impl Into<String>) {
        self.check(Err(Violation::new(property, what)));
    }

    /// Lets the next thing happen; false if nothing is left.
    pub(crate) fn advance(&mut self) -> bool {
        let Some(((time, _), happening)) = self.queue.pop_first() else { return false };
        self.now = time;
        self.counts.events += 1;
        if self.is_parked(&happening) {
            return true;
        }
        self.happen(happening);
        true
    }

    /// What a paused process, or a stalled disk, should do waits.
    fn is_parked(&mut self, happening: &Happening) -> bool {
        let (member, control) = match happening {
            Happening::Datagram { to, .. } => (*to, true),
            Happening::ControlTick { member, .. } | Happening::FromData { member, .. } => {
                (*member, true)
            }
            Happening::ToData { member, .. }
            | Happening::DataTick { member, .. }
            | Happening::SessionNotice { member, .. }
            | Happening::ClientRequest { member, .. } => (*member, false),
            Happening::Job { member, .. } => {
                if self.machines[*member].stalled {
                    self.machines[*member].stalled_jobs.push(happening.clone());
                    return true;
                }
                (*member, false)
            }
            Happening::Session { pair, from, .. } => (pair.other(*from), false),
            _ => return false,
        };
        let machine = &mut self.machines[member];
        let paused = if control { machine.control_paused } else { machine.data_paused };
        if paused {
            machine.parked.push(happening.clone());
        }
        paused
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Datagram { from, to, message } => self.datagram(from, to, message),
            Happening::ToData { member, life, message } => self.data_hears(member, life, message),
            Happening::FromData { member, life, message } => {
                self.control_hears(member, life, message)
            }
            Happening::Session { pair, id, from, database, message } => {
                self.session_message(pair, id, from, (database, message));
            }
            Happening::SessionNotice { pair, id, member, up } => {
                self.session_notice(pair, id, member, up);
            }
            Happening::SessionBreak { pair, id } => self.break_session(pair, id),
            Happening::Connect => self.connect(),
            Happening::ControlTick { member, life } => self.control_tick(member, life),
            Happening::DataTick { member, life } => self.data_tick(member, life),
            Happening::Job { member, life, database, copy, job } => {
                self.job_done(member, life, (database, copy), job);
            }
            Happening::Entry { leader, life, term, entry } => {
                self.entry(leader, life, term, *entry);
            }
            Happening::ClientStep { client } => self.client_step(client),
            Happening::ClientRequest { member, client, database, operation } => {
                self.client_request(member, client, database, operation);
            }
            Happening::ClientReply { client, operation, reply } => {
                self.client_reply(client, operation, reply);
            }
            Happening::ClientTimeout { client, operation } => {
                self.client_timeout(client, operation);
            }
            Happening::StartControl { member } => self.start_control(member),
            Happening::StartData { member } => self.start_data(member),
            Happening::Undo(fault) => self.undo(&fault),
            Happening::WorldTick => self.world_tick(),
        }
    }
}

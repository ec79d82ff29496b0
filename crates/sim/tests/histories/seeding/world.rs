//! Three members, one database, one seed: the real state machine of consensus, the real rules of
//! truncation, the real machine of the seed. A log is its limits; one generation is written a turn.

use std::collections::BTreeMap;

use keelson_cluster_core::{
    ClusterState, Command, CopyKind, DatabaseSettings, MemberConfig, NewCopy, unfit_source,
};
use keelson_copy_core::seed::{
    Offered, SeedAction, SeedConfig, SeedEvent, SeedMachine, SeedRecord, SourceCandidate,
    SourceFailure, Standing,
};
use keelson_copy_core::truncate::{
    OtherCopy, OwnLog, Truncation, TruncationInputs, TruncationOrder, TruncationRole,
    truncation_point,
};
use keelson_types::{
    CheckpointId, CopyId, DatabaseId, DatabaseName, Epoch, LagSettings, LogHold, MemberId,
    MemberName, OldFiles, OperationId, Position, SeedOrder, SeedProgress, SeedScope, SiteName,
    StreamId, Tick,
};

/// Files of a checkpoint; one is sent a turn.
pub(crate) const FILES: u64 = 4;
const DB: DatabaseId = DatabaseId::from_u128(1);
const OPERATION: OperationId = OperationId::from_u128(7);
const TARGET: usize = 2;
const SOURCE: usize = 1;
const SPACE: u64 = 1 << 40;
/// A turn, in milliseconds.
const TURN_MS: u64 = 500;
/// How long a source stays away, in turns.
const AWAY: u64 = 6;

/// Where what a seed needs of the log is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HoldKept {
    InConsensus,
    /// The naive rule: by whoever was active when the seed began.
    ByTheActive,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The database moves to the other copy.
    Move,
    TargetCrash,
    SourceDown,
    SourceLosesCheckpoint,
}

#[derive(Clone, Copy, Debug)]
struct Log {
    copy: CopyId,
    truncated: Position,
    checkpointed: Position,
    end: Position,
    sealed: Epoch,
    order: Option<TruncationOrder>,
}

/// What lies on the target's disk.
#[derive(Default)]
struct Staging {
    record: Option<SeedRecord>,
    files: u64,
    installed: bool,
}

#[derive(Clone, Copy)]
struct Checkpoint {
    id: CheckpointId,
    /// The store stands here; the log that comes with it goes on to `end`.
    at: Position,
    end: Position,
}

pub(crate) struct World {
    kept: HoldKept,
    state: ClusterState,
    index: u64,
    turns: u64,
    epoch: Epoch,
    active: usize,
    active_at_begin: usize,
    logs: [Log; 3],
    /// What each source keeps.
    checkpoint: BTreeMap<usize, Checkpoint>,
    /// Every checkpoint that was ever made.
    made: BTreeMap<CheckpointId, Checkpoint>,
    source_back: u64,
    machine: SeedMachine,
    todo: Vec<SeedAction>,
    staging: Staging,
    from: Option<Position>,
    sent: u64,
    held: u64,
    gap: Option<(Position, Position)>,
}

fn member(index: usize) -> MemberId {
    MemberId::from_u128(10 + index as u128)
}

fn copy(index: usize) -> CopyId {
    CopyId::from_u128(100 + index as u128)
}

fn start_of(generation: u64) -> Position {
    Position::new(generation, 0)
}

fn order() -> SeedOrder {
    SeedOrder {
        operation: OPERATION,
        copy: copy(9),
        source: None,
        old_files: OldFiles::Keep,
        scope: SeedScope::Everything,
        manual_resume: false,
        no_throttle: false,
        network: None,
        compression: None,
        spare: None,
    }
}

fn first_commands() -> Vec<Command> {
    let site = SiteName::new("here").expect("valid");
    let add = |index: usize| Command::AddMember {
        member: MemberConfig {
            id: member(index),
            node: index as u64 + 1,
            name: MemberName::new(format!("m{index}")).expect("valid"),
            site: site.clone(),
            control_address: format!("m{index}:1"),
            data_address: format!("m{index}:2"),
            replication_addresses: Vec::new(),
            voter: true,
        },
    };
    let copies = (0..3).map(|index| NewCopy {
        copy: copy(index),
        member: member(index),
        preference: index as u32 + 1,
        kind: CopyKind::Ha,
    });
    let create = Command::CreateDatabase {
        id: DB,
        name: DatabaseName::new("DB1").expect("valid"),
        stream: StreamId::from_u128(1),
        settings: DatabaseSettings::default(),
        copies: copies.collect(),
    };
    // As its member does when only a seed helps: no log is kept for it, but what the seed holds.
    let suspend = Command::SuspendFailed {
        database: DB,
        copy: copy(TARGET),
        resumes: 0,
        comment: "misses log".into(),
        needs_seed: true,
        tag: None,
    };
    let begin = Command::BeginSeed { database: DB, copy: copy(TARGET), order: order() };
    (0..3).map(add).chain([create, suspend, begin]).collect()
}

impl World {
    pub(crate) fn new(kept: HoldKept) -> Self {
        let log = |index: usize, end: Position| Log {
            copy: copy(index),
            truncated: start_of(1),
            checkpointed: start_of(1),
            end,
            sealed: Epoch::new(0, 1),
            order: None,
        };
        let mut world = Self {
            kept,
            state: ClusterState::default(),
            index: 0,
            turns: 0,
            epoch: Epoch::new(0, 1),
            active: 0,
            active_at_begin: 0,
            logs: [0, 1, 2].map(|index| log(index, start_of(1))),
            checkpoint: BTreeMap::new(),
            made: BTreeMap::new(),
            source_back: 0,
            machine: SeedMachine::new(SeedConfig::default(), order(), copy(TARGET)),
            todo: Vec::new(),
            staging: Staging::default(),
            from: None,
            sent: 0,
            held: 0,
            gap: None,
        };
        for command in first_commands() {
            world.apply(command);
        }
        world.tell(SeedEvent::Candidates(world.candidates()));
        world
    }

    fn apply(&mut self, command: Command) {
        self.index += 1;
        let unix_ms = 1_000_000 + self.turns * TURN_MS;
        let stamped = Command::Stamped { unix_ms, command: Box::new(command) };
        self.state.apply(self.index, &stamped).into_result().expect("accepted");
    }

    fn tell(&mut self, event: SeedEvent) {
        let now = Tick(self.turns * TURN_MS * 1_000_000);
        self.machine.step(now, event, &mut self.todo);
    }

    fn candidates(&self) -> Vec<SourceCandidate> {
        let database = &self.state.databases[&DB];
        let others = (0..3).filter(|index| *index != TARGET);
        let known = others.filter_map(|index| {
            let copy = database.copy_on(member(index))?;
            let standing = match unfit_source(&database.copies[&copy], SeedScope::Everything) {
                Some(_) => Standing::Suspended,
                None if self.is_away(index) => Standing::Away,
                None => Standing::Fit,
            };
            let (member, active) = (member(index), index == self.active);
            Some(SourceCandidate { member, copy, active, near: true, standing })
        });
        known.collect()
    }

    fn is_away(&self, index: usize) -> bool {
        index == SOURCE && self.turns < self.source_back
    }

    pub(crate) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Move => {
                // Nobody moves to a member that is away.
                if !self.is_away(SOURCE) {
                    self.active = 1 - self.active;
                    self.epoch = Epoch::new(0, self.epoch.counter + 1);
                    (0..2).for_each(|index| self.logs[index].sealed = self.epoch);
                }
            }
            Fault::TargetCrash => {
                self.machine = SeedMachine::new(SeedConfig::default(), order(), copy(TARGET));
                self.todo.clear();
                let seeding = self.state.databases[&DB].copies.contains_key(&copy(TARGET));
                if seeding {
                    self.tell(SeedEvent::Candidates(self.candidates()));
                }
            }
            Fault::SourceDown if self.active != SOURCE => self.source_back = self.turns + AWAY,
            Fault::SourceDown => {}
            Fault::SourceLosesCheckpoint => drop(self.checkpoint.remove(&SOURCE)),
        }
    }

    /// Everybody does one thing.
    pub(crate) fn turn(&mut self) {
        self.turns += 1;
        self.write();
        self.truncate();
        if !self.is_seeded() {
            self.tell(SeedEvent::Candidates(self.candidates()));
            self.seed();
        }
    }

    fn follows(&self, index: usize) -> bool {
        index != self.active && !self.is_away(index) && (index != TARGET || self.is_seeded())
    }

    /// A generation more, on every copy that follows; stores are one behind.
    fn write(&mut self) {
        let end = start_of(self.logs[self.active].end.generation.0 + 1);
        let first = self.logs[self.active].truncated;
        for index in 0..3 {
            let log = &mut self.logs[index];
            if index == self.active {
                (log.checkpointed, log.end) = (log.end, end);
            } else if self.follows(index) {
                if self.logs[index].end < first {
                    self.gap.get_or_insert((self.logs[index].end, first));
                }
                let log = &mut self.logs[index];
                (log.checkpointed, log.end) = (log.end, end);
            }
        }
    }

    fn holds(&self) -> Vec<LogHold> {
        let known = self.kept == HoldKept::InConsensus || self.active == self.active_at_begin;
        if known { self.state.databases[&DB].holds.clone() } else { Vec::new() }
    }

    fn decide(&self, index: usize, role: TruncationRole<'_>, holds: &[LogHold]) -> Truncation {
        let log = &self.logs[index];
        truncation_point(&TruncationInputs {
            own: OwnLog {
                copy: log.copy,
                member: member(index),
                truncated: log.truncated,
                checkpointed: log.checkpointed,
                end: log.end,
            },
            role,
            lags: LagSettings::default(),
            aged_out: start_of(u64::MAX),
            holds,
            now_unix_ms: self.state.clock_unix_ms,
        })
    }

    /// The active decides; who follows takes its order.
    fn truncate(&mut self) {
        let database = &self.state.databases[&DB];
        let others = database.copies.iter().filter_map(|(id, config)| {
            let index = (0..3).find(|index| member(*index) == config.member)?;
            let known = (self.logs[index].copy == *id).then_some(&self.logs[index]);
            (index != self.active).then(|| OtherCopy {
                copy: *id,
                member: config.member,
                lagged: false,
                inspected: known.map(|log| log.end),
                checkpointed: known.map(|log| log.checkpointed),
                suspended_since_unix_ms: config.is_stopped().then_some(1),
                needs_no_log: config.leaving || config.cut_off,
            })
        });
        let (others, holds) = (others.collect::<Vec<_>>(), self.holds());
        let role = TruncationRole::Active {
            established: true,
            others: &others,
            circular_logging: true,
            backed_up: None,
        };
        let decided = self.decide(self.active, role, &holds);
        let order = TruncationOrder::new(self.epoch, &decided, decided.up_to);
        self.logs[self.active].truncated = decided.up_to;
        let kept = self.logs[self.active].end.generation.0 - decided.up_to.generation.0;
        self.held = self.held.max(if self.is_seeded() { 0 } else { kept });
        for index in (0..3).filter(|index| self.follows(*index)).collect::<Vec<_>>() {
            self.logs[index].order = Some(order);
            let sealed = self.logs[index].sealed;
            let role = TruncationRole::Passive { order: Some(order), sealed };
            self.logs[index].truncated = self.decide(index, role, &holds).up_to;
        }
    }

    /// One action of the seed, or the end of a pause.
    fn seed(&mut self) {
        if self.todo.is_empty() {
            let now = Tick(self.turns * TURN_MS * 1_000_000);
            if self.machine.next_wake().is_some_and(|at| at <= now) {
                self.tell(SeedEvent::Wake);
            }
            return;
        }
        let action = self.todo.remove(0);
        match action {
            SeedAction::Look => {
                let looked = SeedEvent::Looked(self.staging.record, self.staging.installed);
                self.tell(looked);
            }
            SeedAction::Clear(_) => {
                self.staging = Staging::default();
                self.tell(SeedEvent::Cleared);
            }
            SeedAction::Save(record) => {
                self.staging.record = Some(record);
                self.tell(SeedEvent::Saved);
            }
            SeedAction::Open(from, _, wanted) => self.open(from, wanted),
            SeedAction::Transfer(from, checkpoint) => self.transfer(from, checkpoint),
            SeedAction::Install(record) => {
                self.staging.record = Some(record);
                self.staging.installed = true;
                self.tell(SeedEvent::Installed);
            }
            SeedAction::Report { .. } => self.report(),
            SeedAction::Finish => self.finish(),
            SeedAction::Abort(refused) => panic!("the seed gave up: {refused:?}"),
        }
    }

    fn source(&self, from: MemberId) -> Option<usize> {
        (0..2).find(|index| member(*index) == from && !self.is_away(*index))
    }

    fn unreachable(&mut self) {
        self.tell(SeedEvent::SourceFailed(SourceFailure::Unreachable, "no answer".into()));
    }

    fn open(&mut self, from: MemberId, wanted: Option<CheckpointId>) {
        let Some(source) = self.source(from) else { return self.unreachable() };
        let found = self.checkpoint.get(&source).copied();
        if let Some(wanted) = wanted
            && found.is_none_or(|found| found.id != wanted)
        {
            let gone = SourceFailure::CheckpointGone;
            return self.tell(SeedEvent::SourceFailed(gone, "it is gone".into()));
        }
        let checkpoint = found.filter(|_| wanted.is_some()).unwrap_or_else(|| {
            let log = &self.logs[source];
            let id = CheckpointId::from_u128(self.made.len() as u128 + 1);
            Checkpoint { id, at: log.checkpointed, end: log.end }
        });
        self.checkpoint.insert(source, checkpoint);
        self.made.insert(checkpoint.id, checkpoint);
        self.from = Some(checkpoint.at);
        self.report();
        let room = (1, SPACE);
        let checkpoint = checkpoint.id;
        self.tell(SeedEvent::Offered(Offered {
            checkpoint,
            store: room,
            log: room,
            one_volume: true,
        }));
    }

    fn transfer(&mut self, from: MemberId, checkpoint: CheckpointId) {
        let Some(source) = self.source(from) else { return self.unreachable() };
        if self.checkpoint.get(&source).is_none_or(|found| found.id != checkpoint) {
            let gone = SourceFailure::CheckpointGone;
            return self.tell(SeedEvent::SourceFailed(gone, "it is gone".into()));
        }
        if self.staging.files == FILES {
            return self.tell(SeedEvent::Transferred);
        }
        (self.staging.files, self.sent) = (self.staging.files + 1, self.sent + 1);
        self.machine.progressed();
        self.todo.push(SeedAction::Transfer(from, checkpoint));
    }

    fn report(&mut self) {
        let (operation, progress) = (OPERATION, SeedProgress::default());
        let (copy, from) = (copy(TARGET), self.from);
        let epoch = Some(self.state.databases[&DB].epoch);
        self.apply(Command::ReportSeed { database: DB, copy, operation, progress, from, epoch });
    }

    /// Consensus takes the new copy in: its log is that of the checkpoint.
    fn finish(&mut self) {
        let Some(record) = self.staging.record else { panic!("nothing was recorded") };
        let Some((_, _, checkpoint)) = record.staged.checkpoint() else {
            panic!("nothing is staged")
        };
        let Checkpoint { at, end, .. } = self.made[&checkpoint];
        let (truncated, checkpointed) = (start_of(at.generation.0), at);
        let sealed = self.epoch;
        self.logs[TARGET] =
            Log { copy: copy(9), truncated, checkpointed, end, sealed, order: None };
        let (copy, operation, result) = (copy(TARGET), OPERATION, Ok(()));
        self.apply(Command::EndSeed { database: DB, copy, operation, result });
    }

    pub(crate) fn is_seeded(&self) -> bool {
        self.state.databases[&DB].copies.contains_key(&copy(9))
    }

    /// Where a copy's log ended and the active's began, with nothing in between.
    pub(crate) const fn gap(&self) -> Option<(Position, Position)> {
        self.gap
    }

    pub(crate) const fn files_sent_again(&self) -> u64 {
        self.sent.saturating_sub(FILES)
    }

    /// Most generations that the active kept while the seed ran.
    pub(crate) const fn held_back(&self) -> u64 {
        self.held
    }

    pub(crate) fn generations_kept(&self) -> u64 {
        let log = &self.logs[self.active];
        log.end.generation.0 - log.truncated.generation.0
    }

    pub(crate) fn state(&self) -> String {
        format!("{:?}, {} files, {:?}", self.logs, self.staging.files, self.machine)
    }
}

//! The scale run: how long the active manager plans, what it moves and how evenly, when a cluster
//! of many members and databases loses a site (issue 5).
//!
//! Consensus and copies answer at once, so what is measured is the manager and the replicated state
//! alone. Every decision on the way is decided again from its record (G8).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use keelson_cluster_core::{
    ClusterState, Command, CopyHealth, CopyKind, DatabaseSettings, DecisionRecord, Manager,
    ManagerAction, ManagerConfig, ManagerEvent, MemberConfig, NewCopy, SealAnswer, SealItem,
    SealReply, explain,
};
use keelson_types::{
    ClusterId, CopyId, DatabaseId, DatabaseName, DatabaseState, IncarnationId, LogEnd, MemberId,
    MemberName, Position, SiteName, StreamId, Tick, Weakness,
};

/// Sites of the cluster; one of them is lost.
const SITES: usize = 4;
/// Copies of each database, each in another site.
const COPIES: usize = 3;
/// Wake-ups in a row without anything to do, after which the run is over.
const IDLE_WAKES_MAX: usize = 100;

/// What came of it.
#[derive(Clone, Debug)]
pub struct ScaleReport {
    members: usize,
    databases: usize,
    formed: Phase,
    lost: Phase,
    /// Databases that were active in the lost site.
    hit: usize,
    /// Databases that no copy serves afterwards.
    closed: usize,
    /// Fewest, most, and the mean of active databases of a surviving member.
    actives: (u32, u32, f64),
    decisions: usize,
    /// Decisions whose record gives another verdict.
    differing: usize,
}

impl ScaleReport {
    /// Whether every database is served, none moved that need not, and every decision explained.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.closed == 0 && self.differing == 0 && self.lost.activated == self.hit
    }
}

/// One part of the run.
#[derive(Clone, Copy, Debug, Default)]
struct Phase {
    activated: usize,
    steps: usize,
    commands: usize,
    /// In the manager.
    planning: Duration,
    /// The longest single step of it.
    longest: Duration,
    /// In the replicated state.
    applying: Duration,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} activations in {} commands; planning {:.2} s in {} steps (longest {:.1} ms), \
             applying {:.2} s",
            self.activated,
            self.commands,
            self.planning.as_secs_f64(),
            self.steps,
            self.longest.as_secs_f64() * 1e3,
            self.applying.as_secs_f64(),
        )
    }
}

impl fmt::Display for ScaleReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fewest, most, mean) = self.actives;
        writeln!(f, "{} members in {SITES} sites, {} databases", self.members, self.databases)?;
        writeln!(f, "forming: {}", self.formed)?;
        writeln!(f, "loss of a site: {}", self.lost)?;
        writeln!(
            f,
            "{} databases were active there, {} moved, {} are closed",
            self.hit, self.lost.activated, self.closed
        )?;
        writeln!(f, "actives of a surviving member: {fewest} to {most}, mean {mean:.1}")?;
        write!(f, "{} decisions decided again, {} differ", self.decisions, self.differing)
    }
}

/// Forms a cluster, takes one of its sites away, and tells what the manager did.
#[must_use]
pub fn lose_a_site(members: usize, databases: usize) -> ScaleReport {
    run((members, databases), false)
}

fn run((members, databases): (usize, usize), compared: bool) -> ScaleReport {
    let mut world = Scale::formed((members, databases), compared);
    let formed = std::mem::take(&mut world.phase);
    let lost: Vec<_> = (0..members).filter(|member| site_of(*member) == 0).collect();
    let hit = lost.iter().map(|member| world.state.assignments(member_id(*member)).count()).sum();
    world.lost = lost.iter().map(|member| member_id(*member)).collect();
    for member in lost {
        world.tell(ManagerEvent::LeaseExpired { member: member_id(member) });
    }
    world.run();
    let counts = world.state.active_counts();
    let survivors = (0..members).filter(|member| site_of(*member) != 0).map(member_id);
    let actives: Vec<_> = survivors.map(|id| counts.get(&id).copied().unwrap_or(0)).collect();
    let sum: u32 = actives.iter().sum();
    let bounds = (actives.iter().min().copied(), actives.iter().max().copied());
    let established = |state: &DatabaseState| *state == DatabaseState::Established;
    let closed = world.state.databases.values().filter(|d| !established(&d.state)).count();
    ScaleReport {
        members,
        databases,
        formed,
        lost: world.phase,
        hit,
        closed,
        actives: (
            bounds.0.unwrap_or(0),
            bounds.1.unwrap_or(0),
            f64::from(sum) / actives.len().max(1) as f64,
        ),
        decisions: world.decisions,
        differing: world.differing,
    }
}

/// A manager beside its replicated state, and copies that answer at once.
struct Scale {
    manager: Manager,
    state: ClusterState,
    index: u64,
    now: Tick,
    wake: Option<Tick>,
    events: VecDeque<ManagerEvent>,
    lost: BTreeSet<MemberId>,
    ends: BTreeMap<DatabaseId, LogEnd>,
    phase: Phase,
    decisions: usize,
    differing: usize,
    /// Each step is taken a second time by a manager that looks at every database.
    compared: bool,
}

impl Scale {
    fn formed((members, databases): (usize, usize), compared: bool) -> Self {
        let mut world = Self {
            compared,
            manager: Manager::new(ManagerConfig::default(), Weakness::None),
            state: ClusterState::default(),
            index: 0,
            now: Tick(0).after(Duration::from_secs(1)),
            wake: None,
            events: VecDeque::new(),
            lost: BTreeSet::new(),
            ends: BTreeMap::new(),
            phase: Phase::default(),
            decisions: 0,
            differing: 0,
        };
        world.apply(&Command::InitCluster { cluster: ClusterId::from_u128(1) });
        for member in 0..members {
            world.apply(&Command::AddMember { member: config(member) });
            let (member, incarnation) = (member_id(member), life(member));
            world.apply(&Command::StartIncarnation { member, incarnation });
        }
        for database in 0..databases {
            world.apply(&create(database, members));
        }
        world.phase = Phase::default();
        world.tell(ManagerEvent::BecameLeader { term: 1 });
        for member in 0..members {
            let (member, incarnation) = (member_id(member), life(member));
            world.tell(ManagerEvent::MemberAlive { member, incarnation });
        }
        world.run();
        world
    }

    fn apply(&mut self, command: &Command) -> keelson_cluster_core::Outcome {
        self.index += 1;
        let began = Instant::now();
        let outcome = self.state.apply(self.index, command);
        self.phase.applying += began.elapsed();
        self.phase.commands += 1;
        outcome
    }

    fn tell(&mut self, event: ManagerEvent) {
        self.events.push_back(event);
    }

    /// Until nothing is left to do.
    fn run(&mut self) {
        let mut idle = 0;
        while idle < IDLE_WAKES_MAX {
            match (self.events.pop_front(), self.wake) {
                (Some(event), _) => {
                    idle = 0;
                    self.step(event);
                }
                (None, Some(at)) => {
                    idle += 1;
                    (self.now, self.wake) = (self.now.max(at), None);
                    self.step(ManagerEvent::Timer);
                }
                (None, None) => return,
            }
        }
    }

    fn step(&mut self, event: ManagerEvent) {
        let thorough = self.compared.then(|| (self.manager.clone(), event.clone()));
        let (began, mut actions) = (Instant::now(), Vec::new());
        self.manager.step(self.now, &self.state, event, &mut actions);
        let took = began.elapsed();
        if let Some((mut manager, event)) = thorough {
            let mut plain = Vec::new();
            manager.look_at_everything();
            manager.step(self.now, &self.state, event, &mut plain);
            assert_eq!(actions, plain, "the work list left nothing out");
        }
        self.phase.steps += 1;
        self.phase.planning += took;
        self.phase.longest = self.phase.longest.max(took);
        for action in actions {
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: ManagerAction) {
        match action {
            ManagerAction::Propose { tag, command } => {
                self.look_at(&command);
                let outcome = self.apply(&command);
                self.tell(ManagerEvent::CommandDone { tag, outcome });
            }
            ManagerAction::SealMany { member, .. } if self.lost.contains(&member) => {
                self.tell(ManagerEvent::SealFailed { member });
            }
            ManagerAction::SealMany { member, items } => {
                let answers = items.iter().filter_map(|item| self.sealed(member, *item)).collect();
                self.tell(ManagerEvent::SealReplies { member, answers });
            }
            ManagerAction::Mount { order, .. } => {
                let (database, epoch) = (order.database, order.epoch);
                let position = Position::new(epoch.counter, 100);
                self.ends.insert(database, LogEnd { epoch, position });
                self.tell(ManagerEvent::MountResult { database, epoch, result: Ok(()) });
                self.tell(ManagerEvent::EstablishedReported { database, epoch });
            }
            ManagerAction::Wake { at } => self.wake = Some(at),
            ManagerAction::Dismount { .. } | ManagerAction::FinishOperation { .. } => {}
        }
    }

    fn sealed(&self, member: MemberId, item: SealItem) -> Option<SealAnswer> {
        let end = self.ends.get(&item.database).copied().unwrap_or(LogEnd::ZERO);
        let reply = SealReply {
            copy: self.state.databases.get(&item.database)?.copy_on(member)?,
            member,
            sealed: item.epoch,
            end,
            committed: end.position,
            replayed: end.position,
            fault: None,
            may_have_lost: false,
            ha: true,
            health: CopyHealth::default(),
        };
        let SealItem { database, epoch } = item;
        Some(SealAnswer { database, epoch, result: Ok(reply) })
    }

    /// G8: every decision is decided again from its record.
    fn look_at(&mut self, command: &Command) {
        match command {
            Command::Batch(commands) => commands.iter().for_each(|command| self.look_at(command)),
            Command::Activate(items) => {
                self.phase.activated += items.len();
                items.iter().for_each(|item| self.explained(&item.decision));
            }
            Command::RecordDecision(record) => self.explained(record),
            _ => {}
        }
    }

    fn explained(&mut self, record: &DecisionRecord) {
        self.decisions += 1;
        let same = explain(record, &[])
            .is_ok_and(|again| again.differences.is_empty() && !again.incomplete);
        self.differing += usize::from(!same);
    }
}

const fn site_of(member: usize) -> usize {
    member % SITES
}

fn member_id(member: usize) -> MemberId {
    MemberId::from_u128(member as u128 + 1)
}

fn life(member: usize) -> IncarnationId {
    IncarnationId::from_u128(member as u128 + 1_000_001)
}

fn config(member: usize) -> MemberConfig {
    MemberConfig {
        id: member_id(member),
        node: member as u64 + 1,
        name: MemberName::new(format!("m{member}")).expect("a valid name"),
        site: SiteName::new(format!("s{}", site_of(member))).expect("a valid name"),
        control_address: format!("m{member}:7400"),
        data_address: format!("m{member}:7401"),
        replication_addresses: Vec::new(),
        voter: member < 7,
    }
}

/// A database whose copies stand in sites of their own; neighbours on one member have their other
/// copies on different ones, so that its loss is spread.
fn create(database: usize, members: usize) -> Command {
    let per_site = (members / SITES).max(1);
    let (first, round) = (database % members, database / members);
    let copy = |number: usize| {
        let place = (first / SITES + number * (round + 1)) % per_site;
        // The other sites, beginning with another one each time.
        let site = match number {
            0 => site_of(first),
            _ => (site_of(first) + 1 + (number - 1 + first / SITES + round) % (SITES - 1)) % SITES,
        };
        NewCopy {
            copy: CopyId::from_u128((database * COPIES + number) as u128 + 1),
            member: member_id(place * SITES + site),
            preference: number as u32 + 1,
            kind: CopyKind::Ha,
        }
    };
    Command::CreateDatabase {
        id: DatabaseId::from_u128(database as u128 + 1),
        name: DatabaseName::new(format!("DB{database}")).expect("a valid name"),
        stream: StreamId::from_u128(database as u128 + 1),
        settings: DatabaseSettings::default(),
        copies: (0..COPIES).map(copy).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small one: every database of the lost site is served again, nothing else moved, every
    /// decision can be explained, and a manager that looks at every database does the same.
    #[test]
    fn the_loss_of_a_site_moves_what_was_active_there_and_nothing_else() {
        let report = run((12, 120), true);
        assert!(report.is_well(), "{report}");
        assert_eq!(report.hit, 30, "{report}");
        // Second preferences decide before the number of actives: nobody gets more than twice.
        let (fewest, most, mean) = report.actives;
        assert!(fewest >= 10 && f64::from(most) <= 2.0 * mean, "{report}");
    }
}

//! What the leader does by itself, twice a second: the drivers of the rules in the core, as thin as
//! those of the real member.

use keelson_cluster_core::autoreseed::{
    CopySeen, ReseedOrder, ReseedStep, ReseedVerdict, ReseedWish, Seen, SeenPlaces,
};
use keelson_cluster_core::redistribute::{Balance, WantedMove, keep_left, redistribute};
use keelson_cluster_core::schedule::{Due, carried_out_by, due, too_late};
use keelson_cluster_core::{
    ClusterState, Command, ManagerEvent, MoveOptions, OperationKind, OperationState, suppression,
};
use keelson_types::{Automation, CopyId, CopyStatus, DatabaseId, OperationId, SeedOrder, Setting};

use super::consensus::Origin;
use super::copies::{CopyFile, Log};
use super::leader::Message;
use super::{Happening, ManagerWorld};
use crate::checkers::Violation;
use crate::params::MS;

/// Moves that the system has under way at a time.
const MOVES_MAX: usize = 6;

impl ManagerWorld {
    fn leader_state(&self, leader: usize) -> Option<&ClusterState> {
        self.machines[leader].control.as_ref().map(|control| &control.state)
    }

    /// Records an operation, and tells the manager once it is.
    pub(super) fn ask(
        &mut self,
        leader: usize,
        (id, kind): (OperationId, OperationKind),
        event: ManagerEvent,
    ) {
        let Some(term) = self.leading_term(leader) else { return };
        let life = self.machines[leader].control_life;
        let origin = Origin::Ask { leader, life, term, event: Box::new(event) };
        self.propose(leader, Command::PutOperation { id, kind }, origin);
    }

    pub(super) fn fresh_operation(&mut self) -> OperationId {
        OperationId::from_u128(0x7_0000_0000 + (u128::from(self.fresh()) << 16))
    }

    pub(super) fn move_database(
        &mut self,
        leader: usize,
        operation: OperationId,
        (database, to): (DatabaseId, keelson_types::MemberId),
        options: MoveOptions,
    ) {
        let comment = String::new();
        let kind = OperationKind::Switchover { database, to, comment, options };
        let event = ManagerEvent::MoveRequested { operation, database, to, options };
        self.ask(leader, (operation, kind), event);
    }

    pub(super) fn automation(&mut self, leader: usize) {
        self.record_ends(leader);
        self.appointments(leader);
        self.preferences(leader);
        self.leave_members(leader);
        self.reseeds(leader);
    }

    fn record_ends(&mut self, leader: usize) {
        let Some(control) = &mut self.machines[leader].control else { return };
        let Some(leading) = &mut control.leading else { return };
        let state = &control.state;
        let over = |id: &OperationId| state.operations.get(id).is_none_or(|o| o.is_finished());
        leading.finished.retain(|id, _| !over(id));
        for (id, state) in leading.finished.clone() {
            let (progress_percent, message) = (100, String::new());
            let command = Command::UpdateOperation { id, state, progress_percent, message };
            self.propose(leader, command, Origin::None);
        }
    }

    /// Scheduled moves.
    fn appointments(&mut self, leader: usize) {
        let wall = self.wall_ms(leader);
        let Some(state) = self.leader_state(leader) else { return };
        for (id, order, verdict) in due(state, wall) {
            let database = order.database;
            let Some(state) = self.leader_state(leader) else { return };
            let found = state.databases.get(&database);
            let other = found.and_then(|d| {
                let target = d.target;
                d.copies.iter().find(|(id, _)| Some(**id) != target).map(|(_, c)| c.member)
            });
            let to = order.to.or(other);
            let state = match (verdict, to) {
                (Due::Begin, Some(to)) => {
                    self.fire("appointment");
                    let begun = carried_out_by(id);
                    self.move_database(leader, begun, (database, to), order.options);
                    OperationState::Succeeded
                }
                _ => OperationState::Failed(too_late().into()),
            };
            let (progress_percent, message) = (100, String::new());
            let command = Command::UpdateOperation { id, state, progress_percent, message };
            self.propose(leader, command, Origin::None);
        }
    }

    fn begin_moves(&mut self, leader: usize, moves: Vec<WantedMove>, what: &'static str) {
        let wall = self.wall_ms(leader);
        let Some(control) = &self.machines[leader].control else { return };
        let under_way = control.manager.activations().count();
        let calm = |wanted: &WantedMove| {
            let database = control.state.databases.get(&wanted.database);
            let found = database.map(|d| suppression(&control.state.settings, d, wall));
            found.is_none_or(|found| found.until_unix_ms.is_none())
        };
        let moves: Vec<_> =
            moves.into_iter().filter(calm).take(MOVES_MAX.saturating_sub(under_way)).collect();
        for wanted in moves {
            self.fire(what);
            let operation = self.fresh_operation();
            let to = (wanted.database, wanted.to);
            self.move_database(leader, operation, to, MoveOptions::default());
        }
    }

    /// Databases go to the copy that they prefer, if that is switched on.
    fn preferences(&mut self, leader: usize) {
        let Some(state) = self.leader_state(leader) else { return };
        let period = state.settings.number(Setting::PreferenceMovePeriod);
        if period == 0 || !(self.now / (500 * MS)).is_multiple_of((period / 500).max(1)) {
            return;
        }
        let (balance, mover) = match self.random.chance(1, 4) {
            true => (Balance::BySite { deviation: 20 }, Automation::Redistribution),
            false => (Balance::ByPreference, Automation::PreferenceMoves),
        };
        let Some(state) = self.leader_state(leader) else { return };
        let moves = redistribute(state, balance, mover);
        let switched = |wanted: &&WantedMove| {
            let database = &state.databases[&wanted.database];
            !database.settings.automations.is_on(mover)
        };
        assert!(moves.iter().find(switched).is_none(), "moved against its switch");
        self.begin_moves(leader, moves, "preference move");
    }

    /// Databases leave members under maintenance, and those that an operator empties.
    fn leave_members(&mut self, leader: usize) {
        let Some(state) = self.leader_state(leader) else { return };
        if !(self.now / (500 * MS)).is_multiple_of(4) {
            return;
        }
        let moves = keep_left(state);
        self.begin_moves(leader, moves, "left member");
    }

    /// What members say of their copies.
    fn seen(&self, leader: usize) -> Seen {
        let mut seen = Seen::new();
        for (member, machine) in self.machines.iter().enumerate() {
            let up = machine.data.is_some() && machine.paused.is_none() && machine.hung.is_none();
            if !up || !(member == leader || self.both_ways(leader, member)) {
                continue;
            }
            for (database, file) in &machine.copies {
                let stopped = self.config(member, *database).is_some_and(|c| c.is_stopped());
                let status = match (file.failure.is_some(), stopped) {
                    (true, true) => CopyStatus::FailedAndSuspended,
                    (true, false) => CopyStatus::Failed,
                    (false, true) => CopyStatus::Suspended,
                    (false, false) if self.active(member, *database).is_some() => {
                        CopyStatus::Mounted
                    }
                    (false, false) => CopyStatus::Healthy,
                };
                seen.insert(file.copy, CopySeen { status, tag: file.failure });
            }
        }
        seen
    }

    fn reseeds(&mut self, leader: usize) {
        let (wall, seen) = (self.wall_ms(leader), self.seen(leader));
        let Some(control) = &mut self.machines[leader].control else { return };
        let Some(leading) = &mut control.leading else { return };
        // A simulated member has one volume.
        let places = SeenPlaces::default();
        let orders = leading.watch.look(&control.state, (&seen, &places), wall);
        for order in orders {
            self.reseed(leader, order, &seen);
        }
    }

    fn reseed(&mut self, leader: usize, order: ReseedOrder, seen: &Seen) {
        let ReseedOrder { database, copy, wish, facts } = order;
        let again = match facts.verdict() {
            ReseedVerdict::Act(wish) => Ok(wish),
            ReseedVerdict::Blocked(why) => Err(why),
            other => Err(format!("{other:?}")),
        };
        if again != wish {
            let what = format!("{copy} of {database}: {wish:?}, and again {again:?}");
            self.check(Err(Violation::new("the same facts give the same verdict (G8)", what)));
        }
        let Ok(wish) = wish else { return self.fire("reseed blocked") };
        let Some(state) = self.leader_state(leader) else { return };
        let Some(found) = state.databases.get(&database).cloned() else { return };
        let Some(config) = found.copies.get(&copy).cloned() else { return };
        let on = state.settings.is_on(Setting::Autoreseed) && found.settings.autoreseed;
        if !on && !matches!(wish, ReseedWish::Done) {
            let what = format!("{copy} of {database}: {wish:?}");
            self.check(Err(Violation::new("automation that is off does nothing (F128)", what)));
        }
        let steps = config.autoreseed.map_or(0, |progress| progress.steps());
        let step = match wish {
            ReseedWish::Suspend(tag) => {
                let (comment, needs_seed) = ("simulated".to_owned(), false);
                let (resumes, tag) = (config.resumes, Some(tag));
                let command =
                    Command::SuspendFailed { database, copy, resumes, comment, needs_seed, tag };
                self.fire("failed copy suspended");
                return self.propose(leader, command, Origin::None);
            }
            ReseedWish::Resume => ReseedStep::Resume,
            ReseedWish::Stop => ReseedStep::Stop,
            ReseedWish::Reset => ReseedStep::Reset,
            ReseedWish::Done => ReseedStep::Done,
            ReseedWish::AssignSpare(spare) => {
                let violation = Violation::new("no spare is assigned without one", spare.leaves);
                return self.check(Err(violation));
            }
            ReseedWish::Seed(old_files) => {
                let source = found.copies.keys().find(|other| {
                    **other != copy && seen.get(*other).is_some_and(|s| s.tag.is_none())
                });
                if source.is_none() {
                    let what = format!("{copy} of {database} has no source");
                    let violation = Violation::new("a seed has a healthy source (F130)", what);
                    self.check(Err(violation));
                }
                self.fire("automatic seed");
                let operation = self.fresh_operation();
                let copy = CopyId::from_u128(0x5_0000_0000 + u128::from(self.fresh()));
                ReseedStep::Seed(SeedOrder {
                    operation,
                    copy,
                    scope: keelson_types::SeedScope::Everything,
                    source: None,
                    old_files,
                    manual_resume: false,
                    no_throttle: false,
                    network: None,
                    compression: None,
                    spare: None,
                })
            }
        };
        self.propose(leader, Command::ReseedStep { database, copy, steps, step }, Origin::None);
    }

    /// The member of a copy carries its seed out; the old copy's file becomes the new one's.
    pub(super) fn seed_if_asked(&mut self, member: usize) {
        let machine = &self.machines[member];
        let (Some(control), Some(data)) = (&machine.control, &machine.data) else { return };
        let life = data.incarnation;
        let mut asked = Vec::new();
        for (id, database) in &control.state.databases {
            let Some(copy) = database.copy_on(machine.id) else { continue };
            let config = &database.copies[&copy];
            if let Some(file) = machine.copies.get(id)
                && file.copy != copy
                && !config.is_remade()
            {
                // Seeded, and recorded: this life finds the file that it made.
                asked.push((*id, copy, None));
            } else if let Some(order) = &config.seeding {
                asked.push((*id, copy, Some(order.clone())));
            }
        }
        for (database, copy, order) in asked {
            let file = self.machines[member].copies.get(&database);
            let made = file
                .is_some_and(|file| order.as_ref().is_some_and(|order| file.copy == order.copy));
            match order {
                Some(order) if made => {
                    let (operation, result) = (order.operation, Ok(()));
                    let command = Command::EndSeed { database, copy, operation, result };
                    self.say_to_leader(member, Message::Propose { command: Box::new(command) });
                }
                Some(_) if self.random.chance(1, 6) => {
                    let delay = self.between(200, 1_500) * MS;
                    self.after(delay, Happening::Seeded { member, life, database, copy });
                }
                Some(_) => {}
                None => {
                    // Another copy is recorded here than the one on disk: it begins empty.
                    self.machines[member].copies.insert(database, CopyFile::new(copy));
                }
            }
        }
    }

    pub(super) fn seeded(
        &mut self,
        member: usize,
        life: keelson_types::IncarnationId,
        database: DatabaseId,
        copy: CopyId,
    ) {
        let machine = &self.machines[member];
        if machine.data.as_ref().is_none_or(|data| data.incarnation != life) {
            return;
        }
        let order = self.config(member, database).and_then(|config| config.seeding.clone());
        let old = self.machines[member].copies.get(&database);
        let Some(order) = order.filter(|_| old.is_some_and(|old| old.copy == copy)) else { return };
        let sealed = old.map(|old| old.sealed).unwrap_or_default();
        let others = (0..self.params.members).filter(|other| *other != member);
        let log: Option<Log> = others
            .filter(|other| self.both_ways(member, *other) && self.by_data(member, *other))
            .filter_map(|other| self.machines[other].copies.get(&database))
            .filter(|file| file.failure.is_none())
            .map(|file| file.log.clone())
            .max_by_key(Log::end);
        let Some(log) = log else { return };
        self.note(format_args!("m{member} {database} is seeded as {}", order.copy));
        let file = CopyFile { log, sealed, ..CopyFile::new(order.copy) };
        self.machines[member].copies.insert(database, file);
    }

    /// Faults of copies that come and go.
    pub(super) fn failures(&mut self, member: usize) {
        let heals = self.healing;
        let ids: Vec<_> = self.machines[member].copies.keys().copied().collect();
        for id in ids {
            let resumes = self.config(member, id).map_or(0, |config| config.resumes);
            let luck = self.random.chance(1, 40);
            let Some(file) = self.machines[member].copies.get_mut(&id) else { continue };
            // Each resume gives the fault another try.
            if file.failure.is_some() && (heals || (luck && resumes > 0)) {
                file.failure = None;
            }
        }
    }
}

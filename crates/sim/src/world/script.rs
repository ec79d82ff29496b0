//! Scripted histories: a world in which only happens what the script orders.

use keelson_cluster_core::Command;
use keelson_env::{MemStoreOpener, SimDisk, SplitMix64};
use keelson_types::{CopyId, Epoch};

use super::consensus::Origin;
use super::{Happening, Pair, World, database_id, member_id};
use crate::checkers::Violation;
use crate::copy_node::CopyNode;
use crate::messages::Operation;
use crate::params::{MS, Params, SEC};
use crate::probes::Probe;

/// The key that scripts write and read.
const KEY: u32 = 0;

impl World {
    /// A cluster without clients, whose members start together.
    #[must_use]
    pub fn scripted(params: Params) -> Self {
        let mut world = Self::bare(params, std::env::var_os("KEELSON_SIM_TRACE").is_some());
        for member in 0..world.params.members {
            world.at(0, Happening::StartControl { member });
        }
        world.begin();
        world
    }

    /// Lets time pass.
    pub fn pass(&mut self, nanos: u64) {
        let until = self.now + nanos;
        while self.violation.is_none()
            && self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= until)
        {
            self.advance();
        }
        self.now = self.now.max(until);
    }

    /// Lets time pass until something holds; false if it does not within the limit.
    pub fn until(&mut self, limit: u64, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while self.now < end && self.violation.is_none() {
            if holds(self) {
                return true;
            }
            if !self.advance() {
                break;
            }
        }
        holds(self)
    }

    /// What did not hold, if anything.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// The member whose copy serves a database.
    #[must_use]
    pub fn serves(&self, database: usize) -> Option<usize> {
        self.active(database)
    }

    /// The database's newest epoch in consensus.
    #[must_use]
    pub fn epoch(&self, database: usize) -> Epoch {
        self.reference.databases[&database_id(database)].epoch
    }

    /// The member bound to the newest epoch.
    #[must_use]
    pub fn bound(&self, database: usize) -> Option<usize> {
        let target = self.reference.databases[&database_id(database)].target_member();
        target.map(super::member_index)
    }

    /// Members in the recorded rule.
    #[must_use]
    pub fn participants(&self, database: usize) -> Vec<usize> {
        let rule = self.reference.databases[&database_id(database)].rule.as_ref();
        let participants = rule.into_iter().flat_map(|rule| &rule.participants);
        participants.map(|participant| super::member_index(participant.member)).collect()
    }

    /// Waits for the first active with everybody in the rule, and one write that all copies hold.
    ///
    /// # Panics
    /// It does not come to that.
    pub fn settle(&mut self) {
        let copies = self.params.copies;
        for database in 0..self.params.databases {
            let ready = self.until(20 * SEC, |world| {
                world.serves(database).is_some() && world.participants(database).len() == copies
            });
            assert!(ready, "db{database} does not begin");
        }
        // The lease that covers the epoch comes a little later.
        self.pass(500 * MS);
        let write = self.write(self.serves(0).expect("it serves"));
        assert!(self.until(SEC, |world| world.is_acknowledged(write)), "the first write");
        self.pass(100 * MS);
    }

    /// A client writes the next version at a member.
    pub fn write(&mut self, member: usize) -> u64 {
        let version = self.fresh();
        self.registers.issued(0, KEY, version);
        let operation = Operation { id: self.fresh(), key: KEY, write: Some(version) };
        self.request(member, operation);
        version
    }

    /// A client writes at whoever serves until it is acknowledged; false if it is not within the
    /// limit.
    pub fn insist(&mut self, limit: u64) -> bool {
        let end = self.now + limit;
        while self.now < end && self.violation.is_none() {
            let write = self.serves(0).map(|member| self.write(member));
            self.pass(100 * MS);
            if write.is_some_and(|write| self.is_acknowledged(write)) {
                return true;
            }
        }
        false
    }

    /// A client reads at a member.
    pub fn read(&mut self, member: usize) {
        let id = self.fresh();
        let floor = self.registers.read_begins(0, KEY);
        self.floors.insert(id, floor);
        self.request(member, Operation { id, key: KEY, write: None });
    }

    fn request(&mut self, member: usize, operation: Operation) {
        let client = usize::MAX;
        self.after(MS / 10, Happening::ClientRequest { member, client, database: 0, operation });
    }

    /// Whether a write was acknowledged.
    #[must_use]
    pub fn is_acknowledged(&self, version: u64) -> bool {
        self.acknowledged.has(0, (KEY, version))
    }

    /// Frames from one member to another wait, after so many messages more.
    pub fn hold(&mut self, from: usize, to: usize, after: usize) {
        self.network.held.insert((from, to), after);
    }

    /// Held frames go on.
    pub fn release(&mut self, from: usize, to: usize) {
        self.network.held.remove(&(from, to));
        let held = std::mem::take(&mut self.network.held_messages);
        for (a, b, happening) in held {
            if (a, b) == (from, to) {
                self.after(MS / 10, happening);
            } else {
                self.network.held_messages.push((a, b, happening));
            }
        }
    }

    /// The session between two members breaks.
    pub fn reconnect(&mut self, a: usize, b: usize) {
        let pair = Pair::new(a, b);
        let Some(id) = self.session_id(pair) else { return };
        self.break_session(pair, id);
    }

    /// Nothing passes between two members.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.network.cut.extend([(a, b), (b, a)]);
        self.reconnect(a, b);
    }

    /// No session passes between two members; their control processes go on.
    pub fn cut_sessions(&mut self, a: usize, b: usize) {
        self.network.data_cut.extend([(a, b), (b, a)]);
        self.reconnect(a, b);
    }

    /// Sessions pass again between all members.
    pub fn mend_sessions(&mut self) {
        self.network.data_cut.clear();
    }

    /// How often a rare event was met.
    #[must_use]
    pub fn met(&self, probe: Probe) -> u64 {
        self.probes.count(probe)
    }

    /// Nothing passes from one member to another.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.network.cut.insert((from, to));
    }

    /// Everything passes again between two members.
    pub fn mend_link(&mut self, a: usize, b: usize) {
        self.network.cut.remove(&(a, b));
        self.network.cut.remove(&(b, a));
    }

    /// Nothing passes between the sides.
    pub fn split(&mut self, left: &[usize], right: &[usize]) {
        for a in left {
            right.iter().for_each(|b| self.cut(*a, *b));
        }
    }

    /// Messages of this name from a member's control process are lost.
    pub fn mute(&mut self, member: usize, name: &'static str) {
        self.network.mute.insert((member, name));
    }

    /// A member's disk does nothing.
    pub fn stall(&mut self, member: usize) {
        self.machines[member].stalled = true;
    }

    /// It does what it owes.
    pub fn go_on(&mut self, member: usize) {
        self.machines[member].stalled = false;
        let owed = std::mem::take(&mut self.machines[member].stalled_jobs);
        owed.into_iter().for_each(|job| self.after(MS / 10, job));
    }

    /// A machine is gone for good.
    pub fn kill(&mut self, member: usize) {
        self.end_member(member);
        self.machines[member].down_for_good = true;
    }

    /// A machine loses power, everything that was not synced, and starts again at once.
    pub fn power_cycle(&mut self, member: usize) {
        self.end_member(member);
        let all_lost = |seed: &u64| SplitMix64::new(*seed).below(5) == 0;
        let seed = (0..).find(all_lost).expect("one in five");
        let machine = &mut self.machines[member];
        machine.disk.crash(seed);
        machine.stores.crash(0);
        machine.stalled = false;
        machine.stalled_jobs.clear();
        self.after(MS, Happening::StartControl { member });
    }

    /// A member's disk is replaced by an empty one, and its copy gets a new id.
    pub fn replace_disk(&mut self, member: usize) {
        let id = member_id(member);
        let incarnation = self.machines[member].data.as_ref().map(|data| data.incarnation);
        self.end_data(member);
        if let Some(incarnation) = incarnation {
            self.control_reaps(member, incarnation);
        }
        self.machines[member].disk = SimDisk::new();
        self.machines[member].stores = MemStoreOpener::new();
        let databases = self.reference.databases.values();
        let lost: Vec<_> = databases.filter_map(|database| database.copy_on(id)).collect();
        self.machines[member].lost_copies.extend(lost);
        let staged = self.staged_copies(member);
        self.machines[member].lost_copies.extend(staged);
        self.rename_lost_copies(member);
        self.after(50 * MS, Happening::StartData { member });
    }

    /// A member asks for new ids of copies whose files are gone, or that lost log which they may
    /// have acknowledged (R4); again until consensus takes it, for it does not while such a copy is
    /// bound as the active.
    pub(crate) fn rename_lost_copies(&mut self, member: usize) {
        let lost: Vec<_> = (0..self.params.databases)
            .filter_map(|database| Some((database_id(database), self.lost_copy(member, database)?)))
            .collect();
        let Some(leader) = self.ready_leader().filter(|_| !lost.is_empty()) else { return };
        for (database, old) in lost {
            self.fire(Probe::Reseeded);
            let new = CopyId::from_u128(0x1000 + u128::from(self.fresh()));
            self.not_kept.insert(new);
            let command = Command::ReplaceCopy { database, old, new };
            self.propose(leader, command, Origin::None);
        }
    }

    /// The recorded copy of a database on this member, if it forgot.
    fn lost_copy(&self, member: usize, database: usize) -> Option<CopyId> {
        let recorded = &self.reference.databases[&database_id(database)];
        let old =
            recorded.copy_on(member_id(member)).filter(|old| recorded.target != Some(*old))?;
        let opened = self.copy(member, database).filter(|copy| copy.copy == old);
        let forgot = self.machines[member].lost_copies.contains(&old)
            || opened.is_some_and(CopyNode::may_have_lost);
        forgot.then_some(old)
    }

    /// A member's volume takes nothing new.
    pub fn fill_disk(&mut self, member: usize) {
        self.machines[member].disk.set_quota(Some(0));
        self.machines[member].stores.set_full(true);
    }

    /// An operator moves the first database.
    pub fn move_to(&mut self, member: usize) {
        self.switch_over(database_id(0), member_id(member));
    }
}

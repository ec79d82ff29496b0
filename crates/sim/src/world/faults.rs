//! What goes wrong, by chance.

use std::path::PathBuf;

use keelson_cluster_core::{AcceptedLoss, Command};
use keelson_env::{Disk, SplitMix64};
use keelson_format::{Chunk, Item};
use keelson_types::{DatabaseId, DatabaseState, LagSettings, Position, Span, StoreKey};

use super::consensus::Origin;
use super::{Happening, World, database_id, member_id};
use crate::copy_node::{CopyNode, key_bytes};
use crate::params::{MS, SEC};
use crate::probes::Probe;

/// Something that is set right later.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A data process whose copies cannot go on is restarted.
    BrokenProcess { member: usize },
    /// A process is paused.
    Paused { member: usize, control: bool },
    /// Directions are cut.
    Cut { links: Vec<(usize, usize)> },
    /// Directions are cut for sessions only.
    DataCut { links: Vec<(usize, usize)> },
    /// A volume is full.
    Full { member: usize },
    /// A disk does nothing.
    Stalled { member: usize },
    /// A database is closed.
    Closed { database: usize },
    /// A copy is suspended.
    Suspended { database: usize, member: usize },
    /// A copy lags.
    Lagged { database: usize, member: usize },
    /// Little of a log volume is free.
    Short { member: usize },
    /// Copies hold a discarded timeline.
    Held { database: usize },
}

impl World {
    pub(crate) fn world_tick(&mut self) {
        if self.now < self.params.run && !self.healing {
            self.strike();
        }
        if self.healing {
            self.mend();
        } else if self.params.truncation {
            self.seed_lost_copies();
        }
        for member in 0..self.params.members {
            self.rename_lost_copies(member);
            if !self.machines[member].lost_copies.is_empty() {
                self.start_data(member);
            }
        }
        self.check_contents();
        self.after(100 * MS, Happening::WorldTick);
    }

    /// Rolls the dice of every kind of fault, ten times a second.
    fn strike(&mut self) {
        let faults = self.params.faults.clone();
        let mut hits = |rate: u64| self.random.chance(rate, 1_000);
        let rolled = [
            hits(faults.data_crash),
            hits(faults.member_crash),
            hits(faults.power_loss),
            hits(faults.pause),
            hits(faults.partition),
            hits(faults.disk_full),
            hits(faults.sync_failure),
            hits(faults.bit_flip),
            hits(faults.clock_jump),
            hits(faults.switchover),
            hits(faults.dismount),
            hits(faults.constraint),
            hits(faults.stall),
            hits(faults.disk_loss),
            hits(faults.suspend),
            hits(faults.lag),
            hits(faults.accept_loss),
            hits(faults.store_rot),
        ];
        let strikes: [fn(&mut Self, usize); 18] = [
            Self::crash_data,
            Self::crash_member,
            Self::lose_power,
            Self::pause,
            Self::partition,
            Self::fill,
            Self::fail_a_sync,
            Self::flip_a_bit,
            Self::jump_clock,
            Self::order_switchover,
            Self::order_dismount,
            Self::change_constraint,
            Self::stall_disk,
            Self::lose_disk,
            Self::suspend_copy,
            Self::let_copy_lag,
            Self::accept_loss,
            Self::rot_a_store,
        ];
        for (hit, strike) in rolled.into_iter().zip(strikes) {
            if hit {
                let member = self.random.below(self.params.members as u64) as usize;
                strike(self, member);
            }
        }
        if faults.short_of_space > 0 && self.random.chance(faults.short_of_space, 1_000) {
            let member = self.random.below(self.params.members as u64) as usize;
            self.run_short(member);
        }
        if faults.reseed > 0 && self.random.chance(faults.reseed, 1_000) {
            let member = self.random.below(self.params.members as u64) as usize;
            self.order_seed(member);
        }
        if faults.instant > 0 && self.random.chance(faults.instant, 1_000) {
            let member = self.random.below(self.params.members as u64) as usize;
            self.take_back(member);
        }
    }

    pub(crate) fn crash_data(&mut self, member: usize) {
        let Some(incarnation) = self.machines[member].data.as_ref().map(|d| d.incarnation) else {
            return;
        };
        self.end_data(member);
        let seed = self.random.next_u64();
        self.machines[member].disk.restart_process();
        self.machines[member].stores.crash(seed);
        self.control_reaps(member, incarnation);
        let delay = self.between((10 * MS, 3 * SEC));
        self.after(delay, Happening::StartData { member });
    }

    /// Both processes die; what the volume was given is kept.
    pub(crate) fn crash_member(&mut self, member: usize) {
        self.end_member(member);
        let seed = self.random.next_u64();
        self.machines[member].disk.restart_process();
        self.machines[member].stores.crash(seed);
        let delay = self.between((100 * MS, 5 * SEC));
        self.after(delay, Happening::StartControl { member });
    }

    pub(crate) fn lose_power(&mut self, member: usize) {
        self.end_member(member);
        let (disk, stores) = (self.random.next_u64(), self.random.next_u64());
        self.machines[member].disk.crash(disk);
        self.machines[member].stores.crash(stores);
        self.note(format_args!("m{member} loses power"));
        let delay = self.between((100 * MS, 6 * SEC));
        self.after(delay, Happening::StartControl { member });
    }

    fn pause(&mut self, member: usize) {
        let control = self.random.chance(1, 2);
        let machine = &mut self.machines[member];
        if machine.data.is_none() || machine.data_paused || machine.control_paused {
            return;
        }
        machine.data_paused = true;
        machine.control_paused = control;
        self.note(format_args!("m{member} pauses"));
        let delay = self.between((50 * MS, 4 * SEC));
        self.after(delay, Happening::Undo(Fault::Paused { member, control }));
    }

    fn partition(&mut self, member: usize) {
        let members = self.params.members;
        let one_way = self.random.chance(1, 3);
        let side: Vec<_> =
            (0..members).filter(|m| *m == member || self.random.chance(1, 3)).collect();
        let mut links = Vec::new();
        for inside in &side {
            for outside in (0..members).filter(|m| !side.contains(m)) {
                links.push((*inside, outside));
                if !one_way {
                    links.push((outside, *inside));
                }
            }
        }
        let delay = self.between((100 * MS, 6 * SEC));
        if self.random.chance(1, 3) {
            self.note(format_args!("cut sessions {links:?}"));
            self.network.data_cut.extend(links.iter().copied());
            self.after(delay, Happening::Undo(Fault::DataCut { links }));
        } else {
            self.note(format_args!("cut {links:?}"));
            self.network.cut.extend(links.iter().copied());
            self.after(delay, Happening::Undo(Fault::Cut { links }));
        }
    }

    fn fill(&mut self, member: usize) {
        self.machines[member].disk.set_quota(Some(0));
        self.machines[member].stores.set_full(true);
        self.note(format_args!("m{member}: the volume is full"));
        let delay = self.between((200 * MS, 4 * SEC));
        self.after(delay, Happening::Undo(Fault::Full { member }));
    }

    fn run_short(&mut self, member: usize) {
        self.machines[member].short_of_space = true;
        self.note(format_args!("m{member}: the log volume is short of space"));
        let delay = self.between((300 * MS, 5 * SEC));
        self.after(delay, Happening::Undo(Fault::Short { member }));
    }

    fn fail_a_sync(&mut self, member: usize) {
        let nth = 1 + self.random.below(3);
        self.machines[member].disk.fail_sync(nth);
    }

    /// Rot in one log file; only ever on one member of a run, and only where a later frame says
    /// that the bytes were durable: behind that, rot and a torn write cannot be told apart.
    fn flip_a_bit(&mut self, _: usize) {
        let member = (self.params.seed % self.params.members as u64) as usize;
        let database = self.random.below(self.params.databases as u64) as usize;
        let node = self.copy(member, database);
        let Some((copy, witnessed)) = node.map(|node| (node.copy, witnessed(node))) else { return };
        let directory = PathBuf::from("/data")
            .join(database_id(database).to_string())
            .join(copy.to_string())
            .join("log");
        let disk = self.machines[member].disk.clone();
        let Ok(entries) = disk.list(&directory) else { return };
        let files: Vec<_> = entries.into_iter().filter(|e| e.name.len() == 21).collect();
        if files.is_empty() {
            return;
        }
        let file = &files[self.random.below(files.len() as u64) as usize];
        let path = directory.join(&file.name);
        let length = disk.bytes(&path).map_or(0, |bytes| bytes.len() as u64);
        let (offset, bit) = (self.random.below(length), self.random.below(8) as u8);
        let generation = u64::from_str_radix(&file.name[..16], 16).unwrap_or(u64::MAX);
        if Position::new(generation, offset) < witnessed && disk.flip_bit(&path, offset, bit) {
            self.fire(Probe::BitFlipped);
            self.note(format_args!("m{member}: a bit flips in {}", path.display()));
            self.rotten.insert((member, database));
            if self.random.below(2) == 0 {
                self.scrub_rotten();
            }
        }
    }

    /// Rot in a store file, of some keys or of all; met when the store is opened the next time.
    fn rot_a_store(&mut self, _: usize) {
        let member = (self.params.seed % self.params.members as u64) as usize;
        let database = self.random.below(self.params.databases as u64) as usize;
        let keys = match self.random.below(4) {
            0 => Span::all(),
            _ => some_keys(&mut self.random),
        };
        let Some(node) = self.copy(member, database) else { return };
        let directory = node.store_directory();
        self.machines[member].stores.rot_keys(&directory, keys);
        self.fire(Probe::StoreRotted);
        self.note(format_args!("m{member}: a store of db{database} rots"));
        if self.random.chance(1, 2) {
            self.crash_data(member);
        }
    }

    fn jump_clock(&mut self, member: usize) {
        let jump = self.random.below(4_000);
        let machine = &mut self.machines[member];
        machine.wall_offset_ms = machine.wall_offset_ms + jump - 2_000;
    }

    fn order_switchover(&mut self, member: usize) {
        let database = self.random.below(self.params.databases as u64) as usize;
        self.switch_over(database_id(database), member_id(member));
    }

    fn order_dismount(&mut self, _: usize) {
        let database = self.random.below(self.params.databases as u64) as usize;
        self.dismount(database_id(database));
        let delay = self.between((200 * MS, 3 * SEC));
        self.after(delay, Happening::Undo(Fault::Closed { database }));
    }

    /// An operator has no patience with a database that waits for a missing copy.
    fn accept_loss(&mut self, member: usize) {
        for database in (0..self.params.databases).map(database_id) {
            if self.waits(database) {
                let on = self.random.chance(1, 3).then(|| member_id(member));
                self.mount(database, Some(AcceptedLoss { on }));
            }
        }
    }

    /// No copy could be bound to the newest epoch.
    fn waits(&self, id: DatabaseId) -> bool {
        let recorded = &self.reference.databases[&id];
        let mut decisions = self.reference.decisions.iter().rev();
        let newest = decisions.find(|entry| entry.record.database == id);
        recorded.state == DatabaseState::Sealing
            && newest.is_some_and(|entry| {
                entry.record.epoch == recorded.epoch && entry.record.chosen.is_none()
            })
    }

    fn change_constraint(&mut self, _: usize) {
        let database = self.random.below(self.params.databases as u64) as usize;
        let constraint = crate::params::any_constraint(&mut self.random);
        let settings = self.settings(Some(constraint));
        self.note(format_args!("an operator wants {constraint} for db{database}"));
        let command = Command::SetDatabase { database: database_id(database), settings };
        if let Some(leader) = self.ready_leader() {
            self.propose(leader, command, Origin::None);
        }
    }

    fn stall_disk(&mut self, member: usize) {
        self.stall(member);
        let delay = self.between((50 * MS, 3 * SEC));
        self.after(delay, Happening::Undo(Fault::Stalled { member }));
    }

    /// Only ever on one member of a run, and not the one whose bits flip.
    fn lose_disk(&mut self, _: usize) {
        let member = ((self.params.seed + 1) % self.params.members as u64) as usize;
        if self.machines[member].data.is_some() && self.ready_leader().is_some() {
            for database in 0..self.params.databases {
                let recorded = &self.reference.databases[&database_id(database)];
                if recorded.copy_on(member_id(member)).is_some() {
                    self.waived.insert(database);
                }
            }
            self.note(format_args!("m{member} gets an empty disk"));
            self.fire(Probe::DiskLost);
            self.replace_disk(member);
        }
    }

    pub(crate) fn undo(&mut self, fault: &Fault) {
        match fault {
            Fault::BrokenProcess { member } => {
                if self.machines[*member].data.as_ref().is_some_and(|data| data.broken) {
                    self.crash_data(*member);
                }
            }
            Fault::Paused { member, control } => self.resume(*member, *control),
            Fault::Cut { links } => {
                self.network.cut.retain(|link| !links.contains(link));
            }
            Fault::DataCut { links } => {
                self.network.data_cut.retain(|link| !links.contains(link));
            }
            Fault::Stalled { member } => self.go_on(*member),
            Fault::Closed { database } => self.mount(database_id(*database), None),
            Fault::Suspended { database, member } => self.resume_copy(*database, *member),
            Fault::Lagged { database, member } => {
                self.set_copy_lag(*database, *member, LagSettings::default());
            }
            Fault::Held { database } => self.release_holders(*database),
            Fault::Short { member } => self.machines[*member].short_of_space = false,
            Fault::Full { member } => {
                self.machines[*member].disk.set_quota(None);
                self.machines[*member].stores.set_full(false);
            }
        }
    }

    pub(crate) fn resume(&mut self, member: usize, control: bool) {
        let machine = &mut self.machines[member];
        machine.data_paused = false;
        if control {
            machine.control_paused = false;
        }
        let parked = std::mem::take(&mut machine.parked);
        self.note(format_args!("m{member} goes on"));
        parked.into_iter().for_each(|happening| self.after(0, happening));
    }
}

/// A few of the keys that clients write.
fn some_keys(random: &mut SplitMix64) -> Span {
    let from = key_bytes(random.below(20) as u32);
    let to = [&from[..], b"~"].concat();
    Span::new(StoreKey::User(from.into()), Some(StoreKey::User(to.into())))
        .unwrap_or_else(Span::all)
}

/// Up to where the frames of a log say that it was durable.
fn witnessed(copy: &CopyNode) -> Position {
    let (mut at, end) = (copy.log_begins(), copy.log.durable_end().position);
    let (mut reader, mut witnessed) = (copy.log.reader(), Position::ZERO);
    while let Ok(chunks) = reader.read(at, end, 1024 * 1024) {
        let Some(last) = chunks.last() else { break };
        at = last.end;
        for item in chunks.iter().flat_map(Chunk::items) {
            if let Ok(Item::Frame(frame)) = item {
                witnessed = witnessed.max(frame.header.durable);
            }
        }
    }
    witnessed
}

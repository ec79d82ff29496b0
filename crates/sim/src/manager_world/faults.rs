//! What goes wrong, and how it ends.

use super::{Happening, ManagerWorld};
use crate::params::MS;
use keelson_types::FailureTag;

/// A fault that ends by itself.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// A server is down.
    Member(usize),
    /// A data process died; it starts again.
    Process(usize),
    /// A disk does not answer.
    Hung(usize),
    /// A server stands still.
    Paused(usize),
    /// The data address of a member is cut off.
    Data(usize),
    /// These directed links are cut.
    Links(Vec<(usize, usize)>),
}

impl ManagerWorld {
    /// Every 250 ms: faults and operators, by chance.
    pub(super) fn world_tick(&mut self) {
        if self.healing {
            self.heal();
        } else {
            if self.random.chance(1, 5) {
                self.fault();
            }
            if self.random.chance(2, 5) {
                self.operator();
            }
        }
        self.after(250 * MS, Happening::WorldTick);
    }

    fn lasts(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.between(50, 400) * MS,
            1 | 2 => self.between(400, 3_000) * MS,
            _ => self.between(3_000, 12_000) * MS,
        }
    }

    fn down(&self) -> usize {
        self.machines.iter().filter(|machine| machine.control.is_none()).count()
    }

    fn fault(&mut self) {
        let member = self.pick(self.params.machines());
        let holder = self.pick(self.params.members);
        match self.random.below(16) {
            // Now and then more than half of them.
            0 | 1 if self.down() < 2 || self.random.chance(1, 6) => self.crash(member),
            2 => {
                if let Some(leader) = self.ready_leader() {
                    self.crash(leader);
                }
            }
            3..=5 => self.kill(holder),
            6 => self.hang(holder),
            7 => self.pause(member),
            8 => {
                if let Some(leader) = self.ready_leader() {
                    self.pause(leader);
                }
            }
            9 | 10 => self.isolate(member),
            11 => self.split(),
            12 => self.one_way(member),
            13 | 14 => self.cut_data(holder),
            _ => self.copy_fails(holder),
        }
        if self.random.chance(1, 6) {
            // A wall clock jumps, up to ten minutes ahead or behind.
            let jump = i64::try_from(self.random.below(1_200_000)).expect("small") - 600_000;
            self.machines[member].wall_offset_ms = jump;
            self.fire("clock jump");
        }
    }

    fn until(&mut self, fault: Fault) {
        let lasts = self.lasts();
        self.note(format_args!("{fault:?} for {} ms", lasts / MS));
        self.after(lasts, Happening::Undo(fault));
    }

    fn crash(&mut self, member: usize) {
        if self.machines[member].control.is_none() {
            return;
        }
        self.fire("member lost");
        self.until(Fault::Member(member));
        self.end_member(member);
    }

    fn kill(&mut self, member: usize) {
        if self.machines[member].data.is_none() {
            return;
        }
        self.fire("process died");
        self.until(Fault::Process(member));
        self.end_data(member);
    }

    fn hang(&mut self, member: usize) {
        let now = self.now;
        let machine = &mut self.machines[member];
        if machine.data.is_none() || machine.hung.is_some() {
            return;
        }
        machine.hung = Some(now);
        self.fire("hung disk");
        self.until(Fault::Hung(member));
    }

    fn pause(&mut self, member: usize) {
        let now = self.now;
        let machine = &mut self.machines[member];
        if machine.control.is_none() || machine.paused.is_some() {
            return;
        }
        machine.paused = Some(now);
        self.fire("server stands still");
        self.until(Fault::Paused(member));
    }

    fn isolate(&mut self, member: usize) {
        let others = (0..self.params.machines()).filter(|other| *other != member);
        let links: Vec<_> = others.flat_map(|other| [(member, other), (other, member)]).collect();
        self.cut(links);
    }

    /// A site is cut off from the rest.
    fn split(&mut self) {
        let site = self.pick(self.params.sites);
        let of = |member: usize| self.machines[member].site;
        let all = 0..self.params.machines();
        let pairs = all.clone().flat_map(|a| all.clone().map(move |b| (a, b)));
        let links: Vec<_> = pairs.filter(|(a, b)| (of(*a) == site) != (of(*b) == site)).collect();
        self.cut(links);
    }

    fn one_way(&mut self, member: usize) {
        let other = self.pick(self.params.machines());
        if other != member {
            self.cut(vec![(member, other)]);
        }
    }

    fn cut(&mut self, links: Vec<(usize, usize)>) {
        self.fire("links cut");
        self.cut.extend(&links);
        self.until(Fault::Links(links));
    }

    fn cut_data(&mut self, member: usize) {
        if self.data_cut.contains_key(&member) {
            return;
        }
        self.data_cut.insert(member, self.now);
        self.fire("data address cut off");
        self.until(Fault::Data(member));
    }

    fn copy_fails(&mut self, member: usize) {
        let ids: Vec<_> = self.machines[member].copies.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.pick(ids.len())];
        let tags = [FailureTag::Store, FailureTag::StoreDamaged, FailureTag::NoSpace];
        let tag = tags[self.pick(3)];
        if let Some(file) = self.machines[member].copies.get_mut(&id) {
            file.failure = Some(tag);
        }
        // An active whose store failed gives its epoch up.
        if let Some(data) = &mut self.machines[member].data
            && tag != FailureTag::NoSpace
        {
            data.actives.remove(&id);
        }
        self.fire("copy failed");
        self.note(format_args!("m{member} {id} fails: {tag:?}"));
    }

    pub(super) fn undo(&mut self, fault: &Fault) {
        match fault {
            Fault::Member(member) => self.start_control(*member),
            Fault::Process(member) => {
                if self.machines[*member].control.is_some() {
                    self.start_data(*member);
                }
            }
            Fault::Hung(member) => {
                self.machines[*member].hung = None;
                let parked = std::mem::take(&mut self.machines[*member].parked);
                parked.into_iter().for_each(|happening| self.after(1, happening));
            }
            Fault::Paused(member) => {
                self.machines[*member].paused = None;
                let waiting = std::mem::take(&mut self.machines[*member].waiting);
                waiting.into_iter().for_each(|happening| self.after(1, happening));
            }
            Fault::Data(member) => drop(self.data_cut.remove(member)),
            Fault::Links(links) => links.iter().for_each(|link| {
                self.cut.remove(link);
            }),
        }
        self.note(format_args!("over: {fault:?}"));
    }

    /// Everything that is broken is mended.
    pub(super) fn mend(&mut self) {
        self.cut.clear();
        self.data_cut.clear();
        for member in 0..self.params.machines() {
            self.undo(&Fault::Paused(member));
            self.undo(&Fault::Hung(member));
            self.machines[member].wall_offset_ms = 0;
            self.start_control(member);
            if member < self.params.members {
                self.start_data(member);
            }
        }
    }
}

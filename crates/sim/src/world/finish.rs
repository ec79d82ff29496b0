//! The end of a run: faults stop, operators mend, and everything must become well in bounded time.

use std::collections::BTreeSet;

use keelson_format::Item;
use keelson_types::{CopyStatus, LogEnd, MountIntent};

use super::{Fault, World, database_id};
use crate::checkers::{Violation, Write};
use crate::copy_node::{CopyNode, write_of};
use crate::params::SEC;
use crate::probes::Probe;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The first property that did not hold.
    pub violation: Option<Violation>,
    /// Figures.
    pub counts: super::Counts,
    /// Rare events.
    pub probes: crate::probes::Probes,
    /// Hash of everything that happened.
    pub trace: u64,
    /// Databases that rightly wait for an operator: their log was damaged.
    pub waiting: usize,
}

impl World {
    /// The whole run: faults, healing, quiet.
    pub fn run(mut self, steps: Option<u64>) -> Report {
        let end = self.params.run;
        let limit = steps.unwrap_or(u64::MAX);
        let go = |world: &mut Self, until: u64, quiet: bool| {
            while world.violation.is_none() && world.now < until && world.counts.events < limit {
                if quiet && world.counts.events.is_multiple_of(64) && world.unwell().is_none() {
                    return;
                }
                if !world.advance() {
                    return;
                }
            }
        };
        go(&mut self, end, false);
        self.heal();
        let until = end + 3 * SEC;
        go(&mut self, until, false);
        self.clients_stop = true;
        let until = until + self.params.heal;
        go(&mut self, until, true);
        let mut waiting = 0;
        if self.violation.is_none() && self.counts.events < limit {
            if let Some((database, why)) = self.unwell() {
                self.fail("liveness", format!("db{database} does not become well: {why}"));
            }
            waiting = self.waived.iter().filter(|d| self.illness(**d).is_some()).count();
            self.check_end();
        }
        Report {
            violation: self.violation,
            counts: self.counts,
            probes: self.probes,
            trace: self.trace.hash(),
            waiting,
        }
    }

    /// No fault any more; everything that is broken is set right.
    pub(crate) fn heal(&mut self) {
        self.note(format_args!("healing"));
        self.healing = true;
        self.network.cut.clear();
        self.network.data_cut.clear();
        for member in 0..self.params.members {
            self.undo(&Fault::Full { member });
            self.undo(&Fault::Short { member });
            self.undo(&Fault::Stalled { member });
            self.machines[member].disk.fail_sync(u64::MAX);
            let (data, control) =
                (self.machines[member].data_paused, self.machines[member].control_paused);
            if data || control {
                self.resume(member, control);
            }
        }
    }

    /// What an operator does: a copy that cannot go on is seeded anew.
    pub(crate) fn mend(&mut self) {
        self.scrub_rotten();
        self.excuse_lone_rot();
        self.seed_lost_copies();
        if self.ready_leader().is_none() {
            return;
        }
        for database in 0..self.params.databases {
            let recorded = &self.reference.databases[&database_id(database)];
            if recorded.intent == MountIntent::Dismounted && self.now % SEC < 200_000_000 {
                self.mount(database_id(database), None);
            }
            if self.now % SEC < 200_000_000 {
                self.release_copies(database);
            }
        }
    }

    /// The member whose copy serves, and that copy.
    pub(crate) fn active(&self, database: usize) -> Option<usize> {
        (0..self.params.members).find(|member| {
            let copy = self.copy(*member, database);
            copy.is_some_and(|c| c.machine.view().status == CopyStatus::Mounted && c.is_serving())
        })
    }

    /// The store of the only copy of a timeline rotted, since all others hold one that an operator
    /// discarded: nobody can give it what is missing, and an operator has to choose.
    fn excuse_lone_rot(&mut self) {
        for database in 0..self.params.databases {
            if self.active(database).is_some() || self.waived.contains(&database) {
                continue;
            }
            let copies = (0..self.params.members).filter_map(|m| self.copy(m, database));
            let mut copies: Vec<_> =
                copies.map(|c| (c.machine.end().epoch, c.is_whole())).collect();
            copies.sort_by_key(|(epoch, _)| std::cmp::Reverse(*epoch));
            let turned = self.reference.databases[&database_id(database)].turned_back.is_some();
            if let [(newest, false), (next, _), ..] = copies.as_slice()
                && turned
                && newest > next
            {
                self.note(format_args!("db{database}: the only copy of its timeline rotted"));
                self.waived.insert(database);
            }
        }
    }

    /// A database that is not well although nothing excuses it.
    fn unwell(&self) -> Option<(usize, String)> {
        let left = self.rotten.iter().find(|(_, database)| !self.waived.contains(database));
        if let Some((member, database)) = left {
            return Some((*database, format!("rot on m{member} is not mended")));
        }
        let databases = (0..self.params.databases).filter(|d| !self.waived.contains(d));
        databases.filter_map(|database| Some((database, self.illness(database)?))).next()
    }

    /// Why a database is not yet as it should be at the end.
    fn illness(&self, database: usize) -> Option<String> {
        let Some(active) = self.active(database) else { return Some("nobody serves it".into()) };
        let end = self.copy(active, database)?.log.durable_end();
        let recorded = &self.reference.databases[&database_id(database)];
        for copy in recorded.copies.values() {
            let member = super::member_index(copy.member);
            let Some(node) = self.copy(member, database) else {
                return Some(format!("m{member} has no copy"));
            };
            let view = node.machine.view();
            if !matches!(view.status, CopyStatus::Healthy | CopyStatus::Mounted) {
                return Some(format!("m{member} is {} ({:?})", view.status, view.fault));
            }
            let here = node.log.durable_end();
            if here != end || node.store.replayed() != end {
                let replayed = node.store.replayed();
                return Some(format!("m{member} is at {here}, {replayed}; m{active} at {end}"));
            }
        }
        let participants = recorded.rule.as_ref().map_or(0, |rule| rule.participants.len());
        (participants != recorded.copies.len()).then(|| {
            let peers = self.copy(active, database).map(|copy| copy.machine.view().peers);
            let copies = recorded.copies.len();
            format!("{participants} of {copies} copies take part; m{active} sees {peers:?}")
        })
    }

    /// G1 and equal content once more, over the final logs.
    fn check_end(&mut self) {
        for database in 0..self.params.databases {
            if let Some(member) = self.active(database) {
                self.check_log(member, database);
            }
        }
        self.check_contents();
    }

    /// G1: the log of a copy that serves holds every acknowledged write.
    pub(crate) fn check_log(&mut self, member: usize, database: usize) {
        let Some(copy) = self.copy(member, database) else { return };
        match writes_in(copy) {
            Ok(mut log) => {
                log.extend(self.truncated_writes(copy));
                let who = format!("m{member}, which serves,");
                let verdict = self.acknowledged.check(database, &log, &self.given_up, &who);
                self.check(verdict);
            }
            Err(what) => {
                let rotten = self.rotten.contains(&(member, database));
                if !rotten && !self.waived.contains(&database) {
                    self.fail("log", format!("m{member} db{database}: {what}"));
                }
            }
        }
    }

    /// Writes of log that the copy has truncated: it, or the copy that it was made of, replayed
    /// them.
    fn truncated_writes(&self, copy: &CopyNode) -> impl Iterator<Item = Write> + use<'_> {
        let gone = ..=copy.log_from();
        let replayed = self.replayed.get(&copy.copy).into_iter();
        replayed.flat_map(move |frames| frames.range(gone).flat_map(|(_, writes)| writes).copied())
    }

    /// A copy replays a committed frame: if its log goes on where an operator accepted loss, what
    /// the receipt names is given up from now on.
    pub(crate) fn note_losses(&mut self, member: usize, database: usize, end: LogEnd) {
        let recorded = &self.reference.databases[&database_id(database)].receipts;
        let Some(copy) = self.copy(member, database) else { return };
        let table = copy.machine.table();
        let in_log = |epoch| table.rows().iter().any(|row| row.epoch == epoch);
        let receipts = recorded.iter().filter(|r| r.epoch <= end.epoch && in_log(r.epoch));
        let receipts: Vec<_> = receipts.cloned().collect();
        for receipt in receipts {
            let (epoch, kept) = (receipt.epoch, receipt.kept);
            if !self.given_up.add(database, receipt) {
                continue;
            }
            // A log that rots at this moment cannot be read: then nothing is expected of reads that
            // nobody has seen since. What its scrub mends is checked at the end.
            let log = self.copy(member, database).and_then(|copy| {
                let mut log = writes_in(copy).ok()?;
                log.extend(self.truncated_writes(copy));
                Some(log)
            });
            self.expect_no_more(database, &log.unwrap_or_default());
            let turned = self.reference.databases[&database_id(database)].turned_back.as_ref();
            let turned = turned.is_some_and(|turned| turned.epoch == epoch);
            self.fire(if turned { Probe::TurnedBack } else { Probe::LossAccepted });
            self.note(format_args!("db{database} goes on in {epoch} behind {kept}, with loss"));
        }
    }

    /// Equal stores at equal positions.
    pub(crate) fn check_contents(&mut self) {
        for member in 0..self.params.members {
            for database in 0..self.params.databases {
                let Some(copy) = self.copy(member, database) else { continue };
                if !copy.is_whole() {
                    continue;
                }
                let store = copy.store.clone();
                let snapshot = store.snapshot().and_then(|s| Ok((s.at(), s.digest()?)));
                let Ok((at, digest)) = snapshot else { continue };
                if at == LogEnd::ZERO {
                    continue;
                }
                let verdict = self.contents.check(database, at, digest, &format!("m{member}"));
                self.check(verdict);
            }
        }
    }
}

/// Every write in a log.
fn writes_in(copy: &CopyNode) -> Result<BTreeSet<(u32, u64)>, String> {
    let mut writes = BTreeSet::new();
    let (mut at, end) = (copy.log_begins(), copy.log.end().position);
    let mut reader = copy.log.reader();
    while at < end {
        let chunks = reader.read(at, end, 1024 * 1024).map_err(|error| error.to_string())?;
        let Some(last) = chunks.last() else { break };
        at = last.end;
        for item in chunks.iter().flat_map(keelson_format::Chunk::items) {
            let Ok(Item::Frame(frame)) = item else { continue };
            let frame = frame.decode().map_err(|error| error.to_string())?;
            writes.extend(frame.records.iter().filter_map(write_of));
        }
    }
    Ok(writes)
}

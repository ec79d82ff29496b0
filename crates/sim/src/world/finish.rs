//! The end of a run: faults stop, operators mend, and everything must become well in bounded time.

use std::collections::BTreeSet;

use keelson_cluster_core::Command;
use keelson_format::Item;
use keelson_types::{CopyFault, CopyId, CopyStatus, LogEnd, MountIntent, Position, Record};

use super::consensus::Origin;
use super::{Fault, World, database_id};
use crate::checkers::Violation;
use crate::copy_node::{CopyNode, key_number, version_of};
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
        let Some(leader) = (0..self.params.members)
            .find(|m| self.leads(*m) && self.leading_term(*m) == Some(self.consensus.term))
        else {
            return;
        };
        for database in 0..self.params.databases {
            let recorded = &self.reference.databases[&database_id(database)];
            // With `degrade_after` = never an epoch may wait for a copy that only a seed brings
            // back.
            let bound = recorded.target.is_some();
            if recorded.intent == MountIntent::Dismounted && self.now % SEC < 200_000_000 {
                self.mount(database_id(database), None);
            }
            if self.now % SEC < 200_000_000 {
                self.release_copies(database);
            }
            let broken = (0..self.params.members).find_map(|member| {
                let copy = self.copy(member, database)?;
                is_lost(copy).then_some(copy.copy)
            });
            if let Some(old) = broken.filter(|old| bound && self.is_recorded(database, *old)) {
                let new = CopyId::from_u128(0x1000 + u128::from(self.fresh()));
                self.fire(Probe::Reseeded);
                let database = database_id(database);
                let command = Command::ReplaceCopy { database, old, new };
                self.propose(leader, command, Origin::None);
            }
        }
    }

    fn is_recorded(&self, database: usize, copy: CopyId) -> bool {
        let database = &self.reference.databases[&database_id(database)];
        database.copies.contains_key(&copy) && database.target != Some(copy)
    }

    /// The member whose copy serves, and that copy.
    pub(crate) fn active(&self, database: usize) -> Option<usize> {
        (0..self.params.members).find(|member| {
            let copy = self.copy(*member, database);
            copy.is_some_and(|c| c.machine.view().status == CopyStatus::Mounted && c.is_serving())
        })
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
            Ok(log) => {
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
            let log = self.copy(member, database).and_then(|copy| writes_in(copy).ok());
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

fn is_lost(copy: &CopyNode) -> bool {
    let view = copy.machine.view();
    let fault = view.fault;
    matches!(
        fault,
        Some(CopyFault::Diverged(_) | CopyFault::MissingLog(_) | CopyFault::LogDamaged(_))
    )
}

/// Every write in a log.
fn writes_in(copy: &CopyNode) -> Result<BTreeSet<(u32, u64)>, String> {
    let mut writes = BTreeSet::new();
    let (mut at, end) = (Position::ZERO, copy.log.end().position);
    let mut reader = copy.log.reader();
    while at < end {
        let chunks = reader.read(at, end, 1024 * 1024).map_err(|error| error.to_string())?;
        let Some(last) = chunks.last() else { break };
        at = last.end;
        for item in chunks.iter().flat_map(keelson_format::Chunk::items) {
            let Ok(Item::Frame(frame)) = item else { continue };
            let frame = frame.decode().map_err(|error| error.to_string())?;
            for record in frame.records {
                if let Record::Put { key, value } = record {
                    writes.insert((key_number(&key), version_of(&value)));
                }
            }
        }
    }
    Ok(writes)
}

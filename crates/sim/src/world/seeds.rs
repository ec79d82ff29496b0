//! Seeds, as operators order them: a copy that only a seed helps is made anew of another one's
//! files.
//!
//! The steps that matter for the log are real ones: a hold in consensus, a checkpoint behind it,
//! files of the new copy that are durable before its id is bound, and the end of the hold after
//! that. The machine of a seed and its transfers are in a small world of their own (H11).

use std::path::Path;

use keelson_cluster_core::{Command, CopyConfig};
use keelson_env::{Disk, StoreOpener};
use keelson_format::ControlRecord;
use keelson_log::{ControlFile, generation_path};
use keelson_types::{
    CopyFault, CopyId, DatabaseState, Generation, HoldKind, LogEnd, LogHold, LogId, OperationId,
    Position, StoreId,
};

use super::consensus::Origin;
use super::{World, database_id, member_id, stream_id};
use crate::copy_node::CopyNode;
use crate::probes::Probe;

/// Looks, of 100 ms, after which a seed that does not come about is given up.
const LOOKS_MAX: u32 = 50;
/// Of a hold; this world's seeds end them themselves.
const FAR_UNIX_MS: u64 = 1 << 50;

/// A seed under way.
pub(crate) struct Seed {
    old: CopyId,
    /// Names the hold.
    operation: OperationId,
    /// The hold at the checkpoint, until the one behind the log that came is recorded.
    former: Option<OperationId>,
    source: Option<Source>,
    /// The new copy, whose files are there.
    new: Option<CopyId>,
    /// The look at which its id is bound: transfers take time.
    binds_at: u32,
    looks: u32,
}

/// Whose files are taken.
#[derive(Clone, Copy)]
struct Source {
    donor: usize,
    held_from: Position,
}

type Failure = Box<dyn std::error::Error>;

impl World {
    /// Begins seeds where one is needed, and drives those that are under way.
    pub(crate) fn seed_lost_copies(&mut self) {
        for member in 0..self.params.members {
            for database in 0..self.params.databases {
                match self.seeds.remove(&(member, database)) {
                    None if self.copy(member, database).is_some_and(is_lost) => {
                        self.begin_seed(member, database);
                    }
                    None => {}
                    Some(seed) => self.drive_seed(member, database, seed),
                }
            }
        }
    }

    /// An operator has a copy made anew that may be well.
    pub(crate) fn order_seed(&mut self, member: usize) {
        let database = self.random.below(self.params.databases as u64) as usize;
        if !self.seeds.contains_key(&(member, database)) {
            self.begin_seed(member, database);
        }
    }

    /// The copy is suspended, as its member does when only a seed helps: no log is kept for it.
    fn begin_seed(&mut self, member: usize, database: usize) {
        let Some(old) = self.copy(member, database).map(|c| c.copy) else { return };
        let id = database_id(database);
        let Some(config) = self.reference.databases[&id].copies.get(&old) else { return };
        let (resumes, comment) = (config.resumes, "needs a seed".to_owned());
        self.note(format_args!("m{member}: db{database} is to be seeded"));
        self.not_kept.insert(old);
        let (copy, needs_seed, tag) = (old, true, None);
        let suspend =
            Command::SuspendFailed { database: id, copy, resumes, comment, needs_seed, tag };
        self.order(suspend);
        let operation = OperationId::from_u128(0x7000 + u128::from(self.fresh()));
        let (source, new, former) = (None, None, None);
        let seed = Seed { old, operation, former, source, new, binds_at: 0, looks: 0 };
        self.seeds.insert((member, database), seed);
    }

    /// F46, F59: another copy serves, and the old one does not count.
    fn may_be_seeded(&self, database: usize, old: CopyId) -> bool {
        let recorded = &self.reference.databases[&database_id(database)];
        let counts = recorded.rule.as_ref().is_some_and(|rule| rule.has(old));
        let stopped = recorded.copies.get(&old).is_some_and(CopyConfig::is_stopped);
        let serves = recorded.state == DatabaseState::Established && recorded.target != Some(old);
        serves && stopped && !counts
    }

    /// Chooses a source, and has the log behind its checkpoint held.
    fn hold_log(
        &mut self,
        member: usize,
        database: usize,
        operation: OperationId,
    ) -> Option<Source> {
        let donor = self.any_donor(member, database)?;
        let from = self.copy(donor, database)?.recovers_from();
        self.order_hold(database, operation, from);
        Some(Source { donor, held_from: from })
    }

    fn order_hold(&mut self, database: usize, operation: OperationId, from: Position) {
        let hold = LogHold {
            operation,
            kind: HoldKind::Seed,
            from,
            taken_unix_ms: 0,
            expires_unix_ms: FAR_UNIX_MS,
        };
        self.order(Command::HoldLog { database: database_id(database), hold });
    }

    fn any_donor(&mut self, member: usize, database: usize) -> Option<usize> {
        let fit = |other: &usize| {
            let copy = self.copy(*other, database);
            *other != member && copy.is_some_and(CopyNode::may_be_a_source)
        };
        let fit: Vec<_> = (0..self.params.members).filter(fit).collect();
        let pick = self.random.below(fit.len().max(1) as u64) as usize;
        fit.get(pick).copied()
    }

    fn drive_seed(&mut self, member: usize, database: usize, mut seed: Seed) {
        let id = database_id(database);
        let recorded = &self.reference.databases[&id];
        let here = recorded.copy_on(member_id(member));
        let held = recorded.holds.iter().any(|hold| hold.operation == seed.operation);
        seed.looks += 1;
        let bound = here.is_some() && here == seed.new;
        if bound || here != Some(seed.old) || seed.looks > LOOKS_MAX {
            if bound {
                self.fire(Probe::Seeded);
            }
            for operation in seed.former.into_iter().chain([seed.operation]) {
                self.order(Command::ReleaseLog { database: id, operation });
            }
            return;
        }
        if let (true, Some(operation)) = (held, seed.former) {
            self.order(Command::ReleaseLog { database: id, operation });
            seed.former = None;
        }
        if seed.source.is_none() && self.may_be_seeded(database, seed.old) {
            seed.source = self.hold_log(member, database, seed.operation);
        }
        if let (Some(source), true, None) = (seed.source, held, seed.new) {
            let new = CopyId::from_u128(0x1000 + u128::from(self.fresh()));
            match self.stage(member, database, source, new) {
                Ok(end) => {
                    self.note(format_args!("m{member}: db{database}: {new} is staged at {end}"));
                    seed.new = Some(new);
                    // As the log in staging grows, less is held for it.
                    let operation = OperationId::from_u128(0x7000 + u128::from(self.fresh()));
                    self.order_hold(database, operation, end);
                    seed.former = Some(std::mem::replace(&mut seed.operation, operation));
                    self.seeded.insert(new);
                    seed.binds_at = seed.looks + self.random.below(u64::from(LOOKS_MAX / 3)) as u32;
                }
                Err(why) => self.note(format_args!("m{member}: db{database}: no seed: {why}")),
            }
        }
        if let Some(new) = seed.new.filter(|_| seed.looks >= seed.binds_at && seed.former.is_none())
        {
            self.order(Command::ReplaceCopy { database: id, old: seed.old, new });
        }
        self.seeds.insert((member, database), seed);
    }

    fn order(&mut self, command: Command) {
        if let Some(leader) = self.ready_leader() {
            self.propose(leader, command, Origin::None);
        }
    }

    /// Puts the files of the new copy in place: the donor's store as it stands, its log up to
    /// there, some of what another copy knows to be committed behind it, and a control file that
    /// says so, as `replication` installs a seed. Says where the log ends.
    fn stage(
        &mut self,
        member: usize,
        database: usize,
        source: Source,
        new: CopyId,
    ) -> Result<Position, Failure> {
        let other = self.any_donor(member, database);
        let follows = self.random.below(4) > 0;
        let donor = self.copy(source.donor, database).ok_or("the source is gone")?;
        if !donor.may_be_a_source() {
            return Err("the source is not well".into());
        }
        let place =
            Path::new("/data").join(database_id(database).to_string()).join(new.to_string());
        let (sources, target) = (&self.machines[source.donor].stores, &self.machines[member]);
        let checkpoint = place.join("seed-source");
        let at = donor.store.create_checkpoint(&checkpoint)?;
        if at.position < source.held_from {
            return Err("the source fell behind its hold".into());
        }
        let store = StoreId::from_u128(1);
        sources.send(&checkpoint, &target.stores, &place.join(format!("store-{store}")))?;
        sources.destroy(&checkpoint)?;
        let other = other.and_then(|other| self.copy(other, database));
        let other = other.filter(|other| has_log_behind(other, donor, at)).unwrap_or(donor);
        let committed = other.machine.committed().min(other.machine.durable().position);
        let end = if follows { committed.max(at.position) } else { at.position };
        copy_log(other, &target.disk, &place.join("log"), (at.position.generation, end))?;
        let mut record = ControlRecord::new(
            new,
            database_id(database),
            stream_id(database),
            LogId::from_u128(1),
            store,
        );
        record.epoch_table = other.machine.table().clone();
        record.epoch_table.cut(end);
        record.sealed = record.epoch_table.last_epoch().max(at.epoch);
        record.committed = at.position;
        record.durable_floor = end;
        let (mut control, _) = ControlFile::open(&target.disk, &place.join("control"))?;
        control.write(&record)?;
        let replayed = self.replayed.get(&donor.copy).cloned().unwrap_or_default();
        self.replayed.insert(new, replayed);
        if end > at.position {
            self.fire(Probe::SeededWithLogBehind);
        }
        Ok(end)
    }

    /// Whether a seed put files of copies there that no state knows yet.
    pub(crate) fn staged_copies(&self, member: usize) -> Vec<CopyId> {
        let here = self.seeds.iter().filter(|((target, _), _)| *target == member);
        here.filter_map(|(_, seed)| seed.new).collect()
    }
}

/// Whether a copy can send the log behind a checkpoint of another one: both share it up to there.
fn has_log_behind(copy: &CopyNode, donor: &CopyNode, at: LogEnd) -> bool {
    let table = donor.machine.table();
    let shared = copy.machine.table().common(copy.machine.durable().position, table, at.position);
    let first = copy.log.first_generation();
    shared == at && first.is_some_and(|first| first <= at.position.generation)
}

/// The log of a seed: from the beginning of a generation up to a position.
fn copy_log(
    holder: &CopyNode,
    disk: &dyn Disk,
    directory: &Path,
    (first, to): (Generation, Position),
) -> Result<(), Failure> {
    disk.create_dir_all(directory)?;
    let mut generation = first;
    while generation > Generation(0) && generation <= to.generation {
        let file = disk.create(&generation_path(directory, generation))?;
        let next = Position { generation: generation.next(), offset: 0 };
        let (mut at, end) = (Position { generation, offset: 0 }, to.min(next));
        let mut reader = holder.log.reader();
        loop {
            let chunks = reader.read(at, end, 64 * 1024)?;
            for chunk in &chunks {
                file.write_at(chunk.position.offset, &chunk.bytes)?;
            }
            match chunks.last() {
                Some(last) => at = last.end,
                None if at < to && generation == to.generation => {
                    return Err("the log ends early".into());
                }
                None => break,
            }
        }
        file.sync()?;
        generation = generation.next();
    }
    for directory in directory.ancestors().take(4) {
        disk.sync_dir(directory)?;
    }
    Ok(())
}

/// Only a seed helps.
fn is_lost(copy: &CopyNode) -> bool {
    matches!(
        copy.machine.view().fault,
        Some(CopyFault::Diverged(_) | CopyFault::MissingLog(_) | CopyFault::LogDamaged(_))
    )
}

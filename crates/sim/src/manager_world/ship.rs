//! What an active does for its log: ships it, commits it, keeps its rule and its ceiling.

use std::collections::BTreeSet;

use keelson_cluster_core::{Command, Database};
use keelson_types::{
    CEILING_AHEAD_BYTES, Ceiling, CommitRule, CopyId, DatabaseId, DatabaseState, Epoch, LogEnd,
    MountIntent, Participant, Position,
};

use super::copies::OPENING;
use super::data::Active;
use super::leader::Message;
use super::{Ack, Append, Happening, ManagerWorld, member_id, member_index};
use crate::params::MS;

/// A participant that said nothing for so long leaves the rule.
const DEGRADE_AFTER: u64 = 2_000 * MS;

/// What an active promised of what it commits, and asked to promise.
#[derive(Clone, Debug, Default)]
pub(super) struct KeptCeiling {
    number: u64,
    recorded: Option<Ceiling>,
    asked: Option<(u64, Ceiling)>,
}

impl KeptCeiling {
    pub(super) const fn recorded(number: u64, recorded: Option<Ceiling>) -> Self {
        Self { number, recorded, asked: None }
    }

    /// The lower one of what may be recorded counts.
    fn allows(&self, epoch: Epoch, position: Position) -> bool {
        let of = |ceiling: Option<Ceiling>| ceiling.is_none_or(|c| c.allows(epoch, position));
        of(self.recorded) && of(self.asked.map(|(_, ceiling)| ceiling))
    }
}

impl ManagerWorld {
    /// A client writes to whoever serves the database, and reads there.
    pub(super) fn write(&mut self, database: usize) {
        let pause = self.between(40, 160) * MS;
        self.after(pause, Happening::Write { database });
        if !self.writing {
            return;
        }
        let id = super::database_id(database);
        let bytes = match self.random.chance(1, 30) {
            true => self.between(1, 3) * 1024 * 1024,
            false => self.between(100, 200_000),
        };
        for member in 0..self.params.members {
            let Some(active) = self.active(member, id).cloned() else { continue };
            if active.committed < OPENING || !self.covered(member, id, active.epoch) {
                continue;
            }
            self.serve(member, id, &active);
            if self.machines[member].hung.is_some() {
                continue;
            }
            if let Some(file) = self.machines[member].copies.get_mut(&id)
                && file.sealed <= active.epoch
                && file.failure.is_none()
            {
                file.log.write(bytes);
            }
            self.ship(member, id);
            self.commit(member, id);
        }
    }

    pub(super) fn active(&self, member: usize, id: DatabaseId) -> Option<&Active> {
        self.machines[member].data.as_ref()?.actives.get(&id)
    }

    fn active_mut(&mut self, member: usize, id: DatabaseId) -> Option<&mut Active> {
        self.machines[member].data.as_mut()?.actives.get_mut(&id)
    }

    /// It answers, with all that it committed.
    fn serve(&mut self, member: usize, id: DatabaseId, active: &Active) {
        let log = self.machines[member].copies.get(&id).map(|file| file.log.clone());
        let Some(log) = log else { return };
        let verdict = self.truth.serves(id, (active.epoch, active.copy), &log, active.committed);
        self.check(verdict);
    }

    /// Sends the log to every other copy that takes it.
    pub(super) fn ship(&mut self, member: usize, id: DatabaseId) {
        let Some(active) = self.active(member, id).cloned() else { return };
        let Some((_, database)) = self.known(member, id) else { return };
        let others = database.copies.iter().filter(|(copy, config)| {
            **copy != active.copy && !config.is_stopped() && !config.is_remade()
        });
        let others: Vec<_> = others.map(|(copy, c)| (*copy, member_index(c.member))).collect();
        let Some(file) = self.machines[member].copies.get(&id) else { return };
        let (log, epoch) = (file.log.clone(), active.epoch);
        for (copy, to) in others {
            let (database, log) = (id, log.clone());
            let append = Box::new(Append { database, copy, epoch, log });
            self.send_data((member, to), Happening::Append { from: member, to, append });
        }
    }

    pub(super) fn append(&mut self, from: usize, to: usize, append: Append) {
        let Append { database, copy, epoch, log, .. } = append;
        if self.machines[to].data.is_none() {
            return;
        }
        if self.config(to, database).is_none_or(|config| config.is_stopped()) {
            return;
        }
        let Some(file) = self.file(to, database) else { return };
        if file.copy != copy || file.sealed > epoch || file.failure.is_some() {
            return;
        }
        file.sealed = epoch;
        // Nothing of what this epoch wrote here is older than what came.
        let behind = log.is_beginning_of(&file.log) && file.log.end().epoch == epoch;
        if !behind {
            file.log = log;
        }
        let bytes = file.log.of(epoch);
        let ack = Ack { database, copy, epoch, bytes };
        self.step_down(to, database, epoch);
        self.send_data((to, from), Happening::Ack { to: from, ack });
    }

    pub(super) fn acked(&mut self, to: usize, ack: Ack) {
        let now = self.now;
        let Some(active) = self.active_mut(to, ack.database) else { return };
        if active.epoch != ack.epoch {
            return;
        }
        let known = active.acked.entry(ack.copy).or_insert((0, now));
        *known = (known.0.max(ack.bytes), now);
        self.commit(to, ack.database);
    }

    /// Commits what the rules allow, and answers what the lease allows.
    pub(super) fn commit(&mut self, member: usize, id: DatabaseId) {
        let Some(active) = self.active(member, id).cloned() else { return };
        let Some(file) = self.machines[member].copies.get(&id) else { return };
        if file.sealed > active.epoch || self.machines[member].hung.is_some() {
            return;
        }
        let own = file.log.of(active.epoch);
        let mut ends: Vec<_> = active.acked.values().map(|(bytes, _)| *bytes).collect();
        ends.extend([own, OPENING]);
        ends.retain(|bytes| *bytes <= own && *bytes > active.committed);
        ends.sort_unstable();
        let allowed = |bytes: &&u64| {
            let held =
                |(copy, (acked, _)): (&CopyId, &(u64, u64))| (*acked >= **bytes).then_some(*copy);
            let mut durable: BTreeSet<_> = active.acked.iter().filter_map(held).collect();
            durable.insert(active.copy);
            let rules = std::iter::once(&active.recorded).chain(&active.pending);
            let position = file.log.position(active.epoch, **bytes);
            rules.into_iter().all(|rule| rule.satisfied_by(&durable))
                && position.is_some_and(|at| active.ceiling.allows(active.epoch, at))
        };
        let Some(bytes) = ends.iter().rev().find(allowed).copied() else { return };
        let log = file.log.clone();
        let position = log.position(active.epoch, bytes).expect("it holds them");
        if let Some(active) = self.active_mut(member, id) {
            active.committed = bytes;
        }
        if let Some(file) = self.machines[member].copies.get_mut(&id) {
            file.committed = position;
        }
        self.truth.committed(id, active.epoch, bytes);
        if self.covered(member, id, active.epoch) {
            let active = Active { committed: bytes, ..active };
            self.serve(member, id, &active);
        }
    }

    /// What the active keeps in order: its rule, its ceiling, that it is known to be open.
    pub(super) fn keep(&mut self, member: usize, id: DatabaseId) {
        self.ship(member, id);
        self.learn(member, id);
        self.commit(member, id);
        let Some(active) = self.active(member, id).cloned() else { return };
        let Some((state, database)) = self.known(member, id) else { return };
        if database.epoch != active.epoch || database.intent == MountIntent::Dismounted {
            return;
        }
        let (established, bounded) =
            (database.state == DatabaseState::Established, state.is_bounded(database, active.copy));
        let wanted = self.wanted_rule(member, database, &active);
        let epoch = active.epoch;
        if active.committed >= OPENING && !established {
            self.say_to_leader(member, Message::Established { database: id, epoch });
        }
        // Whatever was asked for may be recorded, until another version is.
        let asked = active.pending.last().cloned();
        let wanted = wanted.filter(|wanted| match &asked {
            Some(asked) => wanted.participants != asked.participants,
            None => {
                wanted.participants != active.recorded.participants
                    || wanted.constraint != active.recorded.constraint
            }
        });
        if let Some(rule) = &wanted
            && let Some(active) = self.active_mut(member, id)
        {
            active.pending.push(rule.clone());
        }
        if let Some(rule) = wanted.or(asked) {
            let expected_version = rule.version - 1;
            let command = Command::ChangeRule { database: id, epoch, expected_version, rule };
            self.report(member, command);
        }
        self.raise_ceiling(member, id, bounded);
    }

    /// Has something recorded, as this life.
    pub(super) fn report(&mut self, member: usize, command: Command) {
        let Some(data) = &self.machines[member].data else { return };
        let incarnation = data.incarnation;
        let (member_id, command) = (member_id(member), Box::new(command));
        let command = Command::OfLife { member: member_id, incarnation, command };
        self.say_to_leader(member, Message::Propose { command: Box::new(command) });
    }

    /// What was recorded of it.
    fn learn(&mut self, member: usize, id: DatabaseId) {
        let Some((_, database)) = self.known(member, id) else { return };
        let (epoch, rule) = (database.epoch, database.rule.clone());
        let ceiling = database.newest_ceiling().map(|r| (r.ceiling_number, r.ceiling));
        let Some(active) = self.active_mut(member, id) else { return };
        if active.epoch != epoch {
            return;
        }
        if let Some(rule) = rule.filter(|rule| rule.version > active.recorded.version) {
            active.recorded = rule;
            // Whatever was asked for is recorded, or never will be.
            active.pending.clear();
        }
        let kept = &mut active.ceiling;
        if let Some((number, recorded)) = ceiling.filter(|(number, _)| *number > kept.number) {
            (kept.number, kept.recorded) = (number, recorded);
            kept.asked = kept.asked.take().filter(|(asked, _)| *asked > number);
        }
    }

    fn wanted_rule(
        &self,
        member: usize,
        database: &Database,
        active: &Active,
    ) -> Option<CommitRule> {
        let (state, _) = self.known(member, database.id)?;
        let now = self.now;
        let holds = |copy: &CopyId, bytes| active.acked.get(copy).is_some_and(|a| a.0 >= bytes);
        let own = self.machines[member].copies.get(&database.id)?.log.of(active.epoch);
        let counts = |copy: &CopyId, config: &keelson_cluster_core::CopyConfig| {
            let gone = state.members.get(&config.member).is_none_or(|member| member.is_gone());
            let silent = active.acked.get(copy).is_none_or(|(_, at)| now - at > DEGRADE_AFTER);
            let counted = active.recorded.has(*copy);
            let fresh = self.truth.since_opening(database.id, active.epoch, now) < DEGRADE_AFTER;
            let keeps = counted && (!silent || fresh);
            let joins = !counted && !silent && holds(copy, own.saturating_sub(4 * 1024 * 1024));
            config.may_count() && !gone && (keeps || joins)
        };
        let chosen = database
            .copies
            .iter()
            .filter(|(copy, config)| **copy == active.copy || counts(copy, config));
        let participants: Vec<_> = chosen
            .filter_map(|(copy, config)| {
                let site = state.members.get(&config.member)?.config.site.clone();
                Some(Participant { copy: *copy, member: config.member, site })
            })
            .collect();
        let constraint = database.wanted_constraint();
        let old = &active.recorded;
        let version = old.version + 1;
        let rule = CommitRule { version, active: active.copy, constraint, participants };
        // All that is acknowledged must satisfy it before it is asked for (R1).
        let joined = rule.participants.iter().filter(|p| !old.has(p.copy));
        let ready = joined.into_iter().all(|p| holds(&p.copy, active.committed));
        let mut durable: BTreeSet<_> =
            active.acked.keys().filter(|copy| holds(copy, active.committed)).copied().collect();
        durable.insert(active.copy);
        (ready && rule.satisfied_by(&durable)).then_some(rule)
    }

    /// Keeps the ceiling ahead of the log.
    fn raise_ceiling(&mut self, member: usize, id: DatabaseId, bounded: bool) {
        let Some(active) = self.active(member, id).cloned() else { return };
        let Some(file) = self.machines[member].copies.get(&id) else { return };
        let alone = active.recorded.satisfied_by(&BTreeSet::from([active.copy]))
            || active.pending.iter().any(|rule| rule.satisfied_by(&BTreeSet::from([active.copy])));
        let needed = (bounded && alone) || active.ceiling.recorded.is_some();
        if !needed && active.ceiling.asked.is_none() {
            return;
        }
        let epoch = active.epoch;
        let (number, ceiling) = match active.ceiling.asked {
            Some(asked) => asked,
            None => {
                let border = LogEnd { epoch, position: file.log.end().position };
                let room = active.ceiling.recorded.is_some_and(|ceiling| {
                    let offset = border.position.offset + CEILING_AHEAD_BYTES / 2;
                    ceiling.allows(epoch, Position { offset, ..border.position })
                });
                if room || file.log.end().epoch != epoch {
                    return;
                }
                let previous_end = file.log.previous_end();
                let ahead_bytes = CEILING_AHEAD_BYTES;
                (active.ceiling.number + 1, Ceiling { border, previous_end, ahead_bytes })
            }
        };
        if let Some(active) = self.active_mut(member, id) {
            active.ceiling.asked = Some((number, ceiling));
        }
        let command = Command::SetCeiling { database: id, epoch, number, ceiling: Some(ceiling) };
        self.report(member, command);
    }
}

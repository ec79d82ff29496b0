//! Commands of activations: epochs, targets, rules.

use std::collections::BTreeSet;

use keelson_types::{
    Ceiling, CommitRule, CopyId, DatabaseId, DatabaseState, Epoch, MountIntent, RefusalReason,
    Weakness,
};

use super::{Applied, refuse};
use crate::command::{
    ActivateItem, ActivatedTarget, AllocateItem, AllocatedEpoch, Answer, Refusal,
};
use crate::decision::{
    ActivationReason, ActivationStep, DecisionEntry, DecisionRecord, StepTiming,
};
use crate::event::EventKind;
use crate::loss::LossReceipt;
use crate::point_in_time::TurnedBack;
use crate::select::{Mark, set_by_operators};
use crate::state::{Binding, ClusterState, CopyKind, Database, EpochRecord, RuleRecord};
use crate::suppression::{Suppression, suppression};

#[cfg(test)]
mod tests;

impl ClusterState {
    pub(super) fn allocate_epochs(&mut self, index: u64, items: &[AllocateItem]) -> Answer {
        let allocated = items.iter().map(|item| AllocatedEpoch {
            database: item.database,
            result: self.allocate_expected(index, item),
        });
        Answer::Epochs(allocated.collect())
    }

    fn allocate_expected(&mut self, index: u64, item: &AllocateItem) -> Result<Epoch, Refusal> {
        let database = self.database(item.database)?;
        if database.epoch != item.expected {
            let message = format!("the epoch is {}, not {}", database.epoch, item.expected);
            return refuse(RefusalReason::StaleEpoch, message);
        }
        if database.intent == MountIntent::Dismounted {
            return refuse(RefusalReason::Dismounted, "the database is wanted closed");
        }
        self.allocate(index, item.database, &item.reason)
    }

    /// Begins an attempt: a new epoch without a target. The old active's pair is gone with it (R9).
    pub(super) fn allocate(
        &mut self,
        index: u64,
        id: DatabaseId,
        reason: &ActivationReason,
    ) -> Result<Epoch, Refusal> {
        self.touch_assignments(index, id);
        let recovery = self.recovery_generation;
        let database = self.database_mut(id)?;
        let epoch = database.epoch.next(recovery);
        database.epoch = epoch;
        database.assigned_at = index;
        database.state = DatabaseState::Sealing;
        database.target = None;
        database.binding = None;
        let record =
            EpochRecord { epoch, target: None, reason: reason.clone(), index, bound_unix_ms: 0 };
        database.history.push(record);
        let released = database.take_back_turn();
        for (member, copy) in released {
            self.event(index, Some(member), Some(id), EventKind::CopyResumed(copy));
        }
        let kind = EventKind::EpochAllocated { epoch, reason: reason.clone() };
        self.event(index, None, Some(id), kind);
        Ok(epoch)
    }

    pub(super) fn activate(
        &mut self,
        index: u64,
        items: &[ActivateItem],
        weakness: Weakness,
    ) -> Answer {
        let bound = items.iter().map(|item| ActivatedTarget {
            database: item.database,
            result: self.bind(index, item, weakness),
        });
        Answer::Activated(bound.collect())
    }

    /// Tells it once, with the move that made them too many.
    fn note_suppression(&mut self, index: u64, id: DatabaseId, now_unix_ms: u64) {
        let Some(database) = self.databases.get(&id) else { return };
        let found = suppression(&self.settings, database, now_unix_ms);
        let Suppression { moves, most, until_unix_ms } = found;
        let Some(until_unix_ms) = until_unix_ms.filter(|_| most == Some(moves)) else { return };
        let moves = u32::try_from(moves).unwrap_or(u32::MAX);
        self.event(index, None, Some(id), EventKind::MovesSuppressed { moves, until_unix_ms });
    }

    fn bind(&mut self, index: u64, item: &ActivateItem, weakness: Weakness) -> Result<(), Refusal> {
        self.check_binding(item, weakness)?;
        let now = self.clock_unix_ms;
        let database = self.database_mut(item.database)?;
        let record = RuleRecord {
            begins: Some(item.required_end),
            ceiling: item.ceiling,
            ..RuleRecord::new(item.epoch, item.incarnation, item.rule.clone())
        };
        let before = database.rule.iter().flat_map(|rule| &rule.participants);
        let left = before.map(|p| p.copy).filter(|copy| !item.rule.has(*copy));
        let degraded = item.rule.is_degraded().then(|| left.collect::<Vec<_>>());
        push_rule(&mut database.unestablished, record);
        database.rule = Some(item.rule.clone());
        database.target = Some(item.target);
        database.binding = Some(Binding {
            incarnation: item.incarnation,
            required_end: item.required_end,
            sources: item.sources.clone(),
        });
        database.state = DatabaseState::Activating;
        database.assigned_at = index;
        if let Some(receipt) = &item.decision.loss {
            database.receipts.push(receipt.clone());
            // What a backup holds behind it is of another timeline.
            let kept = receipt.kept.position;
            database.backed_up = database.backed_up.map(|at| at.min(kept));
            // Nor is what the target of a seed holds behind it of use.
            for hold in &mut database.holds {
                hold.from = hold.from.min(kept);
            }
        }
        database.turn(item, now);
        let member = database.target_member();
        let mut reason = item.decision.reason.clone();
        if let Some(last) = database.history.last_mut() {
            (last.target, last.bound_unix_ms) = (member, now);
            reason = last.reason.clone();
        }
        self.touch_assignments(index, item.database);
        let unix_ms = self.clock_unix_ms;
        let record = item.decision.clone();
        self.decisions.push(DecisionEntry { index, unix_ms, record });
        let (epoch, target) = (item.epoch, item.target);
        let kind = EventKind::Activated { epoch, target, reason };
        self.event(index, member, Some(item.database), kind);
        self.note_suppression(index, item.database, unix_ms);
        if let Some(receipt) = item.decision.loss.clone() {
            let LossReceipt { kept, certain, unreached, missing_logs, dial, .. } = receipt;
            let kind = match &item.turn {
                None => EventKind::ActivatedWithLoss {
                    epoch,
                    kept,
                    certain,
                    unreached,
                    missing_logs,
                    dial,
                },
                Some(turn) => {
                    let holders = turn.holders.clone();
                    EventKind::ActivatedAtInstant { epoch, kept, certain, holders }
                }
            };
            self.event(index, member, Some(item.database), kind);
        }
        if let Some(dropped) = degraded {
            let kind = EventKind::Degraded { dropped };
            self.event(index, member, Some(item.database), kind);
        }
        Ok(())
    }

    fn check_binding(&self, item: &ActivateItem, weakness: Weakness) -> Result<(), Refusal> {
        let database = self.database(item.database)?;
        if database.epoch != item.epoch {
            let message = format!("the epoch is {}, not {}", database.epoch, item.epoch);
            return refuse(RefusalReason::StaleEpoch, message);
        }
        if database.intent == MountIntent::Dismounted {
            return refuse(RefusalReason::Dismounted, "the database is wanted closed");
        }
        // H7: a second attempt in the epoch of the first may find the first one's target at work
        // (S11).
        let rebind = weakness == Weakness::AttemptsShareEpoch;
        if database.target.is_some() && !rebind {
            return refuse(RefusalReason::Precondition, "the epoch has a target");
        }
        let Some(copy) = database.copies.get(&item.target) else {
            return refuse(RefusalReason::UnknownCopy, format!("no copy {}", item.target));
        };
        let recorded = self.members.get(&copy.member).and_then(|member| member.incarnation);
        if recorded != Some(item.incarnation) {
            let message = "the target's data process is not the one that was sealed";
            return refuse(RefusalReason::TargetUnfit, message);
        }
        // What an operator said between the seal and this entry holds for this entry.
        let marks = self.marks_of(database, item.target);
        if let Some(mark) = marks.difference(&item.marks).next() {
            let message = format!("since it was sealed the target is marked: {}", mark.name());
            return refuse(RefusalReason::TargetUnfit, message);
        }
        let version = database.rule.as_ref().map_or(0, |rule| rule.version);
        check_rule(database, item.target, version, &item.rule)
    }

    /// What operators set that speaks against a copy as the target of an activation.
    pub(crate) fn marks_of(&self, database: &Database, copy: CopyId) -> BTreeSet<Mark> {
        let copy = database.copies.get(&copy);
        copy.map(|copy| set_by_operators(self.members.get(&copy.member), copy)).unwrap_or_default()
    }

    pub(super) fn established(&mut self, index: u64, id: DatabaseId, epoch: Epoch) -> Applied {
        let database = self.database_mut(id)?;
        if database.epoch != epoch {
            let message = format!("the epoch is {}, not {epoch}", database.epoch);
            return refuse(RefusalReason::StaleEpoch, message);
        }
        match database.state {
            DatabaseState::Established => return Ok(Answer::Done),
            DatabaseState::Activating => {}
            DatabaseState::New | DatabaseState::Sealing => {
                return refuse(RefusalReason::Precondition, "the epoch has no target");
            }
        }
        database.state = DatabaseState::Established;
        // The opening frame is committed under this epoch's rule and stands behind everything
        // older, so whatever satisfied an older rule is held by every set that satisfies this one
        // (R2).
        database.unestablished.retain(|record| record.epoch >= epoch);
        database.turn_established();
        let member = database.target_member();
        self.complete_decision(id, epoch);
        self.event(index, member, Some(id), EventKind::Established(epoch));
        Ok(Answer::Done)
    }

    /// The end of the activation belongs into the record of its decision, if that is kept still. It
    /// is as exact as the clocks of those who proposed.
    fn complete_decision(&mut self, id: DatabaseId, epoch: Epoch) {
        let history = self.databases.get(&id).and_then(|database| database.history.last());
        let bound = history.map_or(self.clock_unix_ms, |row| row.bound_unix_ms);
        let opening = self.clock_unix_ms.saturating_sub(bound);
        let mut records = self.decisions.iter_mut().rev().map(|entry| &mut entry.record);
        let of_it = |record: &&mut DecisionRecord| {
            record.database == id && record.epoch == epoch && record.is_activation()
        };
        if let Some(found) = records.find(of_it) {
            let decided = found.steps.last().map_or(0, |timing| timing.at_ms);
            let (step, at_ms) = (ActivationStep::Established, decided + opening);
            found.steps.push(StepTiming { step, at_ms });
        }
    }

    /// G3: what whoever goes on without this active knows of its acknowledgements. A repeated or
    /// late proposal changes nothing.
    pub(super) fn set_ceiling(
        &mut self,
        id: DatabaseId,
        epoch: Epoch,
        number: u64,
        ceiling: Option<Ceiling>,
    ) -> Applied {
        let database = self.database_mut(id)?;
        if database.epoch != epoch {
            let message = format!("the epoch is {}, not {epoch}", database.epoch);
            return refuse(RefusalReason::StaleEpoch, message);
        }
        match database.unestablished.last_mut().filter(|record| record.epoch == epoch) {
            None => refuse(RefusalReason::Precondition, "the epoch has no target"),
            Some(record) if record.ceiling_number >= number => Ok(Answer::Done),
            Some(record) => {
                (record.ceiling, record.ceiling_number) = (ceiling, number);
                Ok(Answer::Done)
            }
        }
    }

    pub(super) fn change_rule(
        &mut self,
        index: u64,
        id: DatabaseId,
        epoch: Epoch,
        expected_version: u64,
        rule: &CommitRule,
    ) -> Applied {
        let database = self.database_mut(id)?;
        if database.epoch != epoch {
            let message = format!("the epoch is {}, not {epoch}", database.epoch);
            return refuse(RefusalReason::StaleEpoch, message);
        }
        let (Some(target), Some(old)) = (database.target, database.rule.clone()) else {
            return refuse(RefusalReason::Precondition, "the epoch has no target");
        };
        if old == *rule {
            return Ok(Answer::Done);
        }
        if old.version != expected_version {
            let message = format!("the rule has version {}, not {expected_version}", old.version);
            return refuse(RefusalReason::Precondition, message);
        }
        check_rule(database, target, old.version, rule)?;
        // The active has required old AND new since before it proposed: what it acknowledged in
        // this epoch satisfies the new rule, so the old one can be forgotten (R1).
        match database.unestablished.last_mut() {
            Some(record) if record.epoch == epoch => record.rule = rule.clone(),
            _ => return refuse(RefusalReason::Internal, "the epoch's rule is not recorded"),
        }
        database.rule = Some(rule.clone());
        let alone = |turned: &TurnedBack| rule.participants.iter().all(|p| p.copy == turned.copy);
        database.turned_back.take_if(|turned| turned.established && !alone(turned));
        for participant in &rule.participants {
            // It holds everything that was committed: it came back before its log went.
            if let Some(config) = database.copies.get_mut(&participant.copy) {
                config.cut_off = false;
            }
        }
        self.rule_events(index, id, &old, rule);
        Ok(Answer::Done)
    }

    fn rule_events(&mut self, index: u64, id: DatabaseId, old: &CommitRule, new: &CommitRule) {
        let copies = |rule: &CommitRule| -> Vec<CopyId> {
            rule.participants.iter().map(|participant| participant.copy).collect()
        };
        let (before, after) = (copies(old), copies(new));
        let kind = EventKind::RuleChanged {
            version: new.version,
            constraint: new.constraint,
            participants: after.clone(),
        };
        self.event(index, None, Some(id), kind);
        if new.is_degraded() && !old.is_degraded() {
            let dropped = before.iter().copied().filter(|copy| !after.contains(copy)).collect();
            self.event(index, None, Some(id), EventKind::Degraded { dropped });
        }
        for copy in after.into_iter().filter(|copy| !before.contains(copy)) {
            self.event(index, None, Some(id), EventKind::Readmitted(copy));
        }
    }
}

/// A rule that may follow version `version` in the epoch of `target`.
fn check_rule(
    database: &Database,
    target: CopyId,
    version: u64,
    rule: &CommitRule,
) -> Result<(), Refusal> {
    if rule.version != version + 1 {
        let message = format!("rule version {} does not follow {version}", rule.version);
        return refuse(RefusalReason::Precondition, message);
    }
    if rule.active != target || !rule.has(target) {
        return refuse(RefusalReason::BadArgument, "the target must be the rule's active");
    }
    let distinct: BTreeSet<_> = rule.participants.iter().map(|p| p.copy).collect();
    let known = rule.participants.iter().all(|p| {
        let copy = database.copies.get(&p.copy);
        let ha = |copy: &&_| -> bool { is_ha(copy) || p.copy == target };
        copy.filter(ha).is_some_and(|copy| copy.member == p.member)
    });
    if distinct.len() != rule.participants.len() || !known {
        let message = "participants must be different HA copies of the database";
        return refuse(RefusalReason::BadArgument, message);
    }
    Ok(())
}

fn is_ha(copy: &crate::state::CopyConfig) -> bool {
    copy.kind == CopyKind::Ha
}

/// Adds the rule of a newly bound epoch. Rules that are settled by now and equal another settled
/// one in everything but their epoch are kept once, so that many failed attempts do not pile up:
/// the newest of them, since a log that ends in its epoch says nothing of what that epoch
/// acknowledged behind it, but would say everything of an older one. The newest of all is never
/// merged: its active may still change it.
fn push_rule(rules: &mut Vec<RuleRecord>, record: RuleRecord) {
    let same = |a: &RuleRecord, b: &RuleRecord| {
        a.incarnation == b.incarnation
            && a.rule.active == b.rule.active
            && a.rule.constraint == b.rule.constraint
            && a.rule.participants == b.rule.participants
            && (a.begins, a.ceiling) == (b.begins, b.ceiling)
    };
    if let Some(settled) = rules.pop() {
        rules.retain(|older| !same(older, &settled));
        rules.push(settled);
    }
    rules.push(record);
}

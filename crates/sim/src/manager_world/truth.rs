//! What must hold, in true time: who serves, what was acknowledged, what every activation gave up,
//! what policies and limits allow.

use std::collections::BTreeMap;

use keelson_cluster_core::{
    ActivateItem, Answer, ClusterState, Command, CopyKind, LossReceipt, MemberActivation, Outcome,
};
use keelson_types::{
    ActivationPolicy, CopyId, DatabaseId, Epoch, LogEnd, MemberId, Weakness, missing_logs,
};

use super::ManagerWorld;
use super::copies::Log;
use crate::checkers::{Verdict, Violation};
use crate::params::MS;

/// What leaders may not know yet of a change of policies.
const SETTLES: u64 = 1_500 * MS;

/// What really happened.
#[derive(Default)]
pub(super) struct Truth {
    acknowledged: BTreeMap<DatabaseId, BTreeMap<Epoch, u64>>,
    committed: BTreeMap<DatabaseId, BTreeMap<Epoch, u64>>,
    serving: BTreeMap<DatabaseId, (Epoch, CopyId)>,
    receipts: BTreeMap<DatabaseId, Vec<LossReceipt>>,
    opened: BTreeMap<(DatabaseId, Epoch), u64>,
    /// When policies of a member or of a database's copies changed last.
    changed: BTreeMap<MemberId, u64>,
    known: BTreeMap<MemberId, (MemberActivation, bool)>,
}

/// The state before a command, as far as it is looked at.
pub(super) struct Before {
    incumbents: BTreeMap<DatabaseId, Option<CopyId>>,
}

impl Truth {
    pub(super) fn before(&self, state: &ClusterState) -> Before {
        let incumbents = state.databases.iter().map(|(id, d)| (*id, d.incumbent()));
        Before { incumbents: incumbents.collect() }
    }

    pub(super) fn opened(&mut self, id: DatabaseId, epoch: Epoch, _copy: CopyId, now: u64) {
        self.opened.insert((id, epoch), now);
    }

    pub(super) fn since_opening(&self, id: DatabaseId, epoch: Epoch, now: u64) -> u64 {
        self.opened.get(&(id, epoch)).map_or(0, |at| now - at)
    }

    pub(super) fn committed(&mut self, id: DatabaseId, epoch: Epoch, bytes: u64) {
        let known = self.committed.entry(id).or_default().entry(epoch).or_default();
        *known = (*known).max(bytes);
    }

    /// Who served last.
    pub(super) fn serving(&self, id: DatabaseId) -> Option<(Epoch, CopyId)> {
        self.serving.get(&id).copied()
    }

    /// A copy answers with what it committed (G1, G2).
    pub(super) fn serves(
        &mut self,
        id: DatabaseId,
        (epoch, copy): (Epoch, CopyId),
        log: &Log,
        committed: u64,
    ) -> Verdict {
        if let Some((highest, server)) = self.serving.get(&id)
            && (*highest > epoch || (*highest == epoch && *server != copy))
        {
            let what = format!("{id}: {copy} answers in {epoch} after {server} did in {highest}");
            return Err(Violation::new("one active serves, in the newest epoch (G2)", what));
        }
        if self.serving.insert(id, (epoch, copy)).is_none_or(|(before, _)| before < epoch)
            && let Some((lost, bytes)) = self.lost_by(id, log).first()
        {
            let what = format!("{id}: {copy} serves in {epoch} without {bytes} bytes of {lost}");
            return Err(Violation::new("no acknowledged write is lost (G1)", what));
        }
        let known = self.acknowledged.entry(id).or_default().entry(epoch).or_default();
        *known = (*known).max(committed);
        Ok(())
    }

    /// Acknowledged bytes that a log lacks and that no receipt it contains gave up.
    fn lost_by(&self, id: DatabaseId, log: &Log) -> Vec<(Epoch, u64)> {
        let acknowledged = self.acknowledged.get(&id).into_iter().flatten();
        let receipts = self.receipts.get(&id);
        let lost = acknowledged.filter_map(|(epoch, bytes)| {
            let mut needed = *bytes;
            let speaking = receipts.into_iter().flatten().filter(|r| log.of(r.epoch) > 0);
            for receipt in speaking.filter(|receipt| receipt.epoch > *epoch) {
                let kept = receipt.kept;
                needed = match kept.epoch.cmp(epoch) {
                    std::cmp::Ordering::Less => 0,
                    std::cmp::Ordering::Equal => needed.min(kept.position.offset),
                    std::cmp::Ordering::Greater => needed,
                };
            }
            let lacks = needed.saturating_sub(log.of(*epoch));
            (lacks > 0).then_some((*epoch, lacks))
        });
        lost.collect()
    }
}

impl ManagerWorld {
    /// A command was recorded.
    pub(super) fn recorded(&mut self, before: &Before, command: &Command, outcome: &Outcome) {
        let now = self.now;
        for (id, member) in &self.reference.members {
            let known = (member.activation, member.maintenance.is_some());
            if self.truth.known.insert(*id, known).is_some_and(|before| before != known) {
                self.truth.changed.insert(*id, now);
            }
        }
        let mut bound = Vec::new();
        activated(command, outcome, &mut bound);
        for item in bound {
            self.fire("activation");
            let verdicts = [self.of_policies(before, item), self.of_loss(item)];
            verdicts.into_iter().for_each(|verdict| self.check(verdict));
            if let Some(receipt) = &item.decision.loss {
                let by = if receipt.dial.is_some() { "loss by a dial" } else { "accepted loss" };
                self.fire(by);
                self.truth.receipts.entry(item.database).or_default().push(receipt.clone());
            }
        }
    }

    /// Limits and policies (F25-F28), from the state alone.
    fn of_policies(&self, before: &Before, item: &ActivateItem) -> Verdict {
        let wrong = |what: &str| {
            let what =
                format!("{} of {} is bound in {}: {what}", item.target, item.database, item.epoch);
            Err(Violation::new("policies and limits hold (F25-F28)", what))
        };
        let Some(database) = self.reference.databases.get(&item.database) else { return Ok(()) };
        let Some(copy) = database.copies.get(&item.target) else { return wrong("no such copy") };
        let Some(member) = self.reference.members.get(&copy.member) else { return Ok(()) };
        if copy.kind == CopyKind::Lagged || copy.leaving || copy.is_stopped() {
            return wrong("it lags, leaves, or is suspended");
        }
        let fresh = self.truth.changed.get(&copy.member).is_some_and(|at| self.now - at < SETTLES);
        if fresh {
            return Ok(());
        }
        let actives = self.reference.active_counts().get(&copy.member).copied().unwrap_or(0);
        if member.activation.max_active.is_some_and(|most| actives > most) {
            return wrong("its member has more than its maximum");
        }
        let incumbent = before.incumbents.get(&item.database).copied().flatten();
        let free = item.decision.requested == Some(item.target) || incumbent == Some(item.target);
        if free {
            return Ok(());
        }
        let from = incumbent.and_then(|copy| database.copies.get(&copy));
        let from = from.and_then(|copy| self.reference.members.get(&copy.member));
        let elsewhere = from.is_some_and(|from| from.config.site != member.config.site);
        match copy.policy.max(member.activation.policy) {
            ActivationPolicy::Blocked if self.now > 0 => wrong("its policy is blocked"),
            ActivationPolicy::IntrasiteOnly if elsewhere => wrong("it is in another site"),
            _ if member.maintenance.is_some() => wrong("its member is under maintenance"),
            _ => Ok(()),
        }
    }

    /// What an activation gives up, against what was acknowledged (G1, G3).
    fn of_loss(&self, item: &ActivateItem) -> Verdict {
        let id = item.database;
        let wrong = |what: String| {
            let what = format!("{id} in {}: {what}", item.epoch);
            Err(Violation::new("what is given up has a receipt that is right (G3)", what))
        };
        let copies: Vec<_> = self.machines.iter().filter_map(|m| m.copies.get(&id)).collect();
        let kept = copies.iter().find_map(|file| file.log.cut_at(item.required_end));
        let Some(kept) = kept else {
            return match self.params.weakness {
                Weakness::None => wrong(format!("nobody holds {}", item.required_end)),
                _ => Ok(()),
            };
        };
        let lost = self.truth.lost_by(id, &kept);
        let Some(receipt) = &item.decision.loss else {
            return match lost.first() {
                None => Ok(()),
                Some((epoch, bytes)) => wrong(format!("{bytes} bytes of {epoch} without a word")),
            };
        };
        if receipt.kept != item.required_end || receipt.epoch != item.epoch {
            return wrong(format!("it goes on behind {}, not {}", item.required_end, receipt.kept));
        }
        let bytes = lost.iter().map(|(_, bytes)| bytes).sum();
        let logs = missing_logs(Some(bytes)).unwrap_or(0);
        if receipt.missing_logs.is_some_and(|most| logs > most) {
            return wrong(format!("{logs} logs are lost, {:?} told", receipt.missing_logs));
        }
        if let Some(dial) = receipt.dial
            && (!dial.allows(receipt.missing_logs) || !dial.allows(Some(logs)))
        {
            return wrong(format!(
                "{logs} logs are lost, {:?} told, by {dial}",
                receipt.missing_logs
            ));
        }
        let committed = self.truth.committed.get(&id);
        let certain = receipt.certain.filter(|certain| {
            // The bytes of an epoch are bytes of a generation of its own.
            let ends = committed.into_iter().flatten().map(|(_, bytes)| *bytes);
            !ends.into_iter().any(|bytes| bytes >= certain.offset)
        });
        if let Some(certain) = certain {
            return wrong(format!("{certain} was never committed"));
        }
        for file in copies {
            let holds = lost.iter().any(|(epoch, _)| file.log.of(*epoch) > kept.of(*epoch));
            if holds && item.decision.reached.contains(&file.copy) && !was_cut(file, item) {
                return wrong(format!("{} was reached and holds what is given up", file.copy));
            }
        }
        Ok(())
    }
}

/// Whether the log of a reached copy ends behind what is kept by epoch, so that it lost.
fn was_cut(file: &super::copies::CopyFile, item: &ActivateItem) -> bool {
    let end: LogEnd = file.log.end();
    end <= item.required_end
}

/// The targets that a command really bound.
fn activated<'a>(command: &'a Command, outcome: &Outcome, bound: &mut Vec<&'a ActivateItem>) {
    match (command, outcome) {
        (Command::Stamped { command, .. } | Command::OfLife { command, .. }, outcome) => {
            activated(command, outcome, bound);
        }
        (Command::Batch(all), Outcome::Ok(Answer::Batch(outcomes))) => {
            all.iter().zip(outcomes).for_each(|(one, outcome)| activated(one, outcome, bound));
        }
        (Command::Activate(items), Outcome::Ok(Answer::Activated(results))) => {
            let done = items.iter().zip(results).filter(|(_, result)| result.result.is_ok());
            bound.extend(done.map(|(item, _)| item));
        }
        _ => {}
    }
}

//! Counts what was decided about active copies, and how long it took until they served, for
//! metrics.
//!
//! Read from the decisions in the applied state, so every member counts all of them, from the time
//! on that it is up to date: what happened while it was down is not counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keelson_cluster_core::{
    ActivationReason, ActivationStep, Besides, ClusterState, DecisionEntry, DecisionRecord,
};
use keelson_net::Histogram;
use keelson_wire::v1::{ActivationCount, Timings};

use crate::context::Context;

/// How often decisions are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// First bound of the times; the last one is 131 s.
const FIRST_BOUND: Duration = Duration::from_millis(1);

/// Kind, reason, outcome.
type Key = (&'static str, String, &'static str);

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Activations(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    counts: BTreeMap<Key, Count>,
    times: BTreeMap<&'static str, Histogram>,
    /// Decisions that were ever made, as of the last look.
    seen: u64,
    /// Indexes of decisions whose copy does not serve yet.
    open: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Count {
    decided: u64,
    /// Of those with loss: logs that can be missing at most.
    lost_logs: u64,
    /// Losses of which nobody knows how large they are.
    unknown: u64,
}

impl Activations {
    /// Everything so far is old.
    fn skip(&self, state: &ClusterState) {
        self.lock().seen = state.decisions.pushed();
    }

    fn look(&self, state: &ClusterState) {
        let mut counts = self.lock();
        let made = state.decisions.pushed();
        let new = usize::try_from(made.saturating_sub(counts.seen)).unwrap_or(usize::MAX);
        counts.seen = made;
        for entry in state.decisions.iter().rev().take(new) {
            counts.decided(entry);
        }
        if counts.open.is_empty() {
            return;
        }
        let oldest = counts.open.first().copied().unwrap_or_default();
        let recent = state.decisions.iter().rev().take_while(|entry| entry.index >= oldest);
        for entry in recent {
            counts.served(entry);
        }
        // What the ring has dropped never gets an end.
        let kept = state.decisions.iter().next().map_or(u64::MAX, |entry| entry.index);
        counts.open.retain(|index| *index >= kept);
    }

    /// As messages: counts, and times by kind.
    pub(crate) fn told(&self) -> (Vec<ActivationCount>, Vec<Timings>) {
        let counts = self.lock();
        let count = |((kind, reason, outcome), count): (&Key, &Count)| ActivationCount {
            kind: (*kind).to_owned(),
            reason: reason.clone(),
            outcome: (*outcome).to_owned(),
            count: count.decided,
            lost_logs: count.lost_logs,
            unknown_losses: count.unknown,
        };
        let times = counts.times.iter().map(|(kind, times)| times.told(kind));
        (counts.counts.iter().map(count).collect(), times.collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn decided(&mut self, entry: &DecisionEntry) {
        let record = &entry.record;
        let Some(outcome) = outcome_of(record) else { return };
        let (kind, reason) = kind_of(&record.reason);
        let count = self.counts.entry((kind, reason, outcome)).or_default();
        count.decided += 1;
        match record.loss.as_ref().map(|loss| loss.missing_logs) {
            Some(Some(logs)) => count.lost_logs += logs,
            Some(None) => count.unknown += 1,
            None => {}
        }
        if record.chosen.is_some() {
            self.open.insert(entry.index);
        }
    }

    fn served(&mut self, entry: &DecisionEntry) {
        let record = &entry.record;
        let established = |timing: &&_| {
            let timing: &keelson_cluster_core::StepTiming = timing;
            timing.step == ActivationStep::Established
        };
        let Some(end) = record.steps.iter().find(established) else { return };
        if self.open.remove(&entry.index) {
            let (kind, _) = kind_of(&record.reason);
            let times = self.times.entry(kind).or_insert_with(|| Histogram::from(FIRST_BOUND));
            times.took(Duration::from_millis(end.at_ms));
        }
    }
}

/// Nothing for a record that is not about who becomes active.
fn outcome_of(record: &DecisionRecord) -> Option<&'static str> {
    match (record.besides.as_deref(), &record.chosen, &record.loss) {
        (Some(Besides::Reseed(_)), ..) => None,
        (Some(Besides::RefusedMove(_)), ..) => Some("refused"),
        (None, None, _) => Some("closed"),
        (None, Some(_), Some(_)) => Some("with_loss"),
        (None, Some(_), None) => Some("lossless"),
    }
}

/// What people call it, and the reason by its name.
pub(crate) fn kind_of(reason: &ActivationReason) -> (&'static str, String) {
    use ActivationReason as R;
    let kind = match reason {
        R::Switchover { .. } => "switchover",
        R::NewDatabase | R::Mount => "mount",
        R::PointInTime { .. } => "point_in_time",
        _ => "failover",
    };
    let name = match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    (kind, name)
}

/// Looks until the control plane stops.
pub(crate) async fn run(context: Arc<Context>) {
    let mut applied = context.applied.watch();
    loop {
        // An idle cluster is not looked at, a busy one now and then.
        if applied.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(LOOK).await;
        applied.mark_unchanged();
        let caught_up = *context.caught_up.borrow();
        context.applied.read(|state| match caught_up {
            true => context.activations.look(state),
            false => context.activations.skip(state),
        });
    }
}

#[cfg(test)]
mod tests {
    use keelson_cluster_core::{LossReceipt, StepTiming, Verdict};
    use keelson_types::{CopyId, Epoch, LogEnd, MemberId};

    use super::*;

    fn entry(index: u64, reason: &str, chosen: bool) -> DecisionEntry {
        let epoch = serde_json::json!({ "recovery": 0, "counter": index });
        let id = |number: u128| serde_json::to_value(MemberId::from_u128(number)).unwrap();
        let copy = serde_json::to_value(CopyId::from_u128(7)).unwrap();
        let reason: serde_json::Value = match reason {
            "switchover" => serde_json::json!({ "switchover": { "to": id(2) } }),
            name => name.into(),
        };
        let record = serde_json::json!({
            "format": 1, "code_version": "x", "database": id(9), "epoch": epoch, "attempt": 1,
            "reason": reason, "operation": null, "rules": [], "replies": [], "alive": [],
            "reached": [], "verdict": "lossless", "candidates": [],
            "chosen": if chosen { copy } else { serde_json::Value::Null },
            "required_end": { "epoch": epoch, "position": { "generation": 1, "offset": 96 } },
            "steps": [], "omitted": 0,
        });
        let record = serde_json::from_value(record).unwrap();
        DecisionEntry { index, unix_ms: 0, record }
    }

    #[test]
    fn lost_logs_are_added_up_and_unknown_losses_counted() {
        let (activations, mut state) = (Activations::default(), ClusterState::default());
        activations.skip(&state);
        for (index, logs) in [(1, Some(3)), (2, None), (3, Some(4))] {
            let (epoch, kept) = (Epoch::new(0, index), LogEnd::default());
            let loss = LossReceipt::new(epoch, kept, &[], &Verdict::Lossless, None).of_size(logs);
            let mut lossy = entry(index, "lease_expired", true);
            lossy.record.loss = Some(loss);
            state.decisions.push(lossy);
        }
        activations.look(&state);
        activations.look(&state);
        let (counts, _) = activations.told();
        let told: Vec<_> = counts
            .iter()
            .map(|it| (it.outcome.as_str(), it.count, it.lost_logs, it.unknown_losses))
            .collect();
        assert_eq!(told, [("with_loss", 3, 7, 1)]);
    }

    fn counted(activations: &Activations) -> Vec<(String, String, String, u64)> {
        let (counts, _) = activations.told();
        counts.into_iter().map(|it| (it.kind, it.reason, it.outcome, it.count)).collect()
    }

    #[test]
    fn decisions_are_counted_once_and_timed_when_their_copy_serves() {
        let (activations, mut state) = (Activations::default(), ClusterState::default());
        state.decisions.push(entry(1, "mount", true));
        activations.skip(&state);
        state.decisions.push(entry(2, "death_certified", true));
        state.decisions.push(entry(3, "lease_expired", false));
        state.decisions.push(entry(4, "switchover", true));
        activations.look(&state);
        activations.look(&state);
        let line = |kind: &str, reason: &str, outcome: &str| {
            (kind.to_owned(), reason.to_owned(), outcome.to_owned(), 1)
        };
        let expected = [
            line("failover", "death_certified", "lossless"),
            line("failover", "lease_expired", "closed"),
            line("switchover", "switchover", "lossless"),
        ];
        assert_eq!(counted(&activations), expected);
        assert_eq!(activations.told().1, []);
        let served = StepTiming { step: ActivationStep::Established, at_ms: 40 };
        state.decisions.last_mut().unwrap().record.steps.push(served);
        activations.look(&state);
        activations.look(&state);
        let (_, times) = activations.told();
        assert_eq!(times.len(), 1);
        assert_eq!((times[0].of.as_str(), times[0].sum_micros), ("switchover", 40_000));
        assert_eq!(counted(&activations), expected);
    }
}

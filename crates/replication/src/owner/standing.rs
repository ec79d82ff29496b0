//! The status of the copy as others see it: what changed is told, and the page for whoever asks.
//! The status itself is derived by `copy_core::copy_state`.

use std::sync::atomic::Ordering;

use keelson_copy_core::SealAnswer;
use keelson_copy_core::copy_state::{StatusReason, Transition, copy_queue, replay_queue};
use keelson_copy_core::expanded_truncation::CutCandidate;
use keelson_types::{CopyFault, CopyRole, CopyStatus, News, Position, Queue, Setting, Watermarks};

use crate::gate::boottime_now;
use crate::message::{OwnerView, SealedCopy};
use crate::owner::{Owner, unix_millis};

/// Whether an operator cares for it: a copy failed, or is over it.
fn is_news(step: &Transition) -> bool {
    let bad = |status| matches!(status, CopyStatus::Failed | CopyStatus::FailedAndSuspended);
    bad(step.to) != step.from.is_some_and(bad) || bad(step.to) && step.from != Some(step.to)
}

/// Whether the copy is to stay stopped over restarts until an operator resumes it. A divergence is
/// not among them: what can be done about it is found out anew at every connect.
fn stays_stopped(fault: &CopyFault) -> bool {
    matches!(fault, CopyFault::MissingLog(_) | CopyFault::CrashLoop)
}

impl Owner {
    /// Tells the transitions since the last turn.
    pub(super) fn tell_status(&mut self) {
        let steps = self.machine.transitions(&mut self.status);
        if !steps.is_empty() {
            self.shared.keep_status(&self.status);
        }
        for step in steps {
            let (database, from, to, reason) =
                (&self.shared.name, step.from, step.to, step.reason.to_string());
            tracing::info!(%database, ?from, %to, %reason, "copy status");
            if is_news(&step) {
                let tag = match &step.reason {
                    StatusReason::Fault(fault) => Some(fault.tag()),
                    _ => None,
                };
                if matches!(to, CopyStatus::Failed | CopyStatus::FailedAndSuspended) {
                    self.context.places.volumes.suspect(self.shared.database);
                }
                let news = News::CopyStatusChanged { from, to, reason, tag };
                self.context.tell(Some(self.shared.database), &news);
            }
        }
        if self.status.last().is_some_and(|(s, _)| s == CopyStatus::FailedAndSuspended) {
            self.tell_stopped();
        }
        self.tell_forgotten();
    }

    /// R4: asks consensus for an id under which this copy is another one. Once for each owner: what
    /// is refused, since the copy is still the one to be mounted, is asked for again by the next.
    /// The word may wait long for a leader: an owner that finds the files again takes it back.
    fn tell_forgotten(&mut self) {
        if self.files.is_some() && self.shared.forgotten.swap(false, Ordering::Relaxed) {
            self.context.report_forgotten(&self.shared, true);
        }
        let forgot = !self.forgotten_told && self.fault() == Some(CopyFault::Forgotten);
        let Some(assigned) = self.assigned.as_ref().filter(|_| forgot) else { return };
        if assigned.assignment.active != Some(self.shared.copy) {
            self.forgotten_told = true;
            self.shared.forgotten.store(true, Ordering::Relaxed);
            self.context.report_forgotten(&self.shared, false);
        }
    }

    /// F47: asks consensus to keep a passive copy suspended whose fault does not heal, once for
    /// each try that an operator gave it.
    fn tell_stopped(&mut self) {
        if self.reopen_at.is_some() {
            // It was resumed: what the fault of the last try says does not count for the next one.
            return;
        }
        let Some(fault) = self.fault().filter(stays_stopped) else { return };
        let Some(assigned) = &self.assigned else { return };
        let active = assigned.assignment.active == Some(self.shared.copy);
        let told = self.stopped_told == Some(assigned.resumes);
        if active || told || assigned.assignment.suspension.replication.is_some() {
            return;
        }
        let (resumes, fault) = (assigned.resumes, fault.clone());
        self.stopped_told = Some(resumes);
        self.context.report_stopped(&self.shared, resumes, &fault);
    }

    /// Where the copy is with everything.
    pub(super) fn marks(&self) -> Watermarks {
        let core = self.machine.view();
        Watermarks {
            truncated: self.truncation.first,
            checkpointed: self.shared.checkpointed.load().min(core.replayed),
            replayed: core.replayed,
            inspected: core.inspected,
            generated: self.generated.max(self.machine.end().position),
            committed: core.committed,
        }
    }

    /// Whether it is seeded, or feeds a seed.
    pub(super) fn seed_standing(&mut self) {
        let target = self.shared.seeded.load(Ordering::Relaxed);
        let source = self.shared.feeding.is_read();
        self.event(keelson_copy_core::Event::Seeding { target, source });
    }

    pub(super) fn view(&mut self) -> OwnerView {
        // What depends on time is as of now.
        self.seed_standing();
        self.event(keelson_copy_core::Event::Wake);
        let store = self.shared.store.get();
        let store_bytes = store.map_or_else(
            || self.shared.store_bytes.load(Ordering::Relaxed),
            |store| store.size_bytes(),
        );
        let (core, marks) = (self.machine.view(), self.marks());
        let (copy_queue, replay_queue) = self.queues(&marks);
        let since = self.status.last().map(|(_, since)| boottime_now().since(since));
        let since = since.map_or(0, |age| age.as_millis() as u64);
        let lag_status = self.lag_status();
        let volumes = self.context.volumes_of(self.shared.database);
        let settings = self.context.settings.borrow().clone();
        let on = settings.number(Setting::ExpandedCopies) > 0;
        let floor = if on { settings.number(Setting::ExpandedLowSpace) } else { 0 };
        let cut = self.would_be_cut().filter(|_| on).map(|(copy, member)| CutCandidate {
            database: self.shared.database,
            copy,
            member,
            seed_bytes: store_bytes + replay_behind_checkpoint(&marks, self.generation_bytes),
        });
        OwnerView {
            view: core,
            marks,
            copy_queue,
            replay_queue,
            status_since_unix_millis: unix_millis().saturating_sub(since),
            opened_unix_millis: self.opened_unix_millis,
            last_inspected_unix_millis: self.cursor.state().time.unix_millis(),
            last_replayed_unix_millis: self.last_replayed_millis,
            store_bytes,
            log_bytes: self.shared.log_bytes.load(Ordering::Relaxed),
            replayed: self.reported.iter().map(|(copy, r)| (*copy, r.replayed)).collect(),
            actual_lag: self.actual_lag(),
            lag_status,
            forecast: volumes.log.history.forecast(floor, cut.as_slice()),
            volumes,
            blockers: self.blockers(),
            holds: self.holds(),
            cut_off: self.has_cut_off(),
            undoing: self.undoing(),
        }
    }

    /// What the copy has not inspected, and what it has not replayed.
    fn queues(&self, marks: &Watermarks) -> (Queue, Queue) {
        let role = match self.machine.own_epoch() {
            Some(_) => CopyRole::Active,
            None => CopyRole::Passive,
        };
        let index = self.shared.index();
        (copy_queue(role, marks, &index.sizes), replay_queue(marks, &index.sizes))
    }

    /// The answer to a seal with the queues of the copy.
    pub(super) fn sealed(&self, answer: SealAnswer) -> SealedCopy {
        let (copy_queue, replay_queue) = self.queues(&self.marks());
        let (copy_queue_bytes, replay_queue_bytes) = (copy_queue.bytes, replay_queue.bytes);
        SealedCopy { answer, copy_queue_bytes, replay_queue_bytes }
    }
}

/// What a seed sends beside the store: the log behind its checkpoint.
fn replay_behind_checkpoint(marks: &Watermarks, generation_bytes: u64) -> u64 {
    let from = marks.checkpointed.max(Position::new(1, 0));
    Watermarks::distance_bytes(from, marks.inspected, generation_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_types::Tick;

    /// F47: an event for a failure and its end, not for what comes and goes with a connection.
    #[test]
    fn failures_and_their_end_are_news() {
        use CopyStatus as S;
        let step = |from, to| Transition { from, to, reason: StatusReason::Starting, at: Tick(0) };
        for (from, to, news) in [
            (None, S::Initializing, false),
            (Some(S::Healthy), S::DisconnectedAndHealthy, false),
            (Some(S::Healthy), S::Failed, true),
            (None, S::FailedAndSuspended, true),
            (Some(S::Failed), S::FailedAndSuspended, true),
            (Some(S::Failed), S::Initializing, true),
        ] {
            assert_eq!(is_news(&step(from, to)), news, "{from:?} {to:?}");
        }
    }
}

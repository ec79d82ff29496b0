//! The steps of the automatic reseed of a copy (F129), as commands.

use keelson_types::{CopyId, DatabaseId, RefusalReason, SeedOrder, SuspendedBy};

use super::databases::known_copy;
use super::{Applied, refuse};
use crate::autoreseed::{AutoReseed, ReseedStep};
use crate::command::Answer;
use crate::event::{EventKind, ReseedEvent};
use crate::state::ClusterState;

impl ClusterState {
    /// `steps` is the number of steps that this one follows: a repeated command changes nothing.
    pub(super) fn reseed_step(
        &mut self,
        index: u64,
        (id, copy): (DatabaseId, CopyId),
        steps: u32,
        step: &ReseedStep,
    ) -> Applied {
        let config = known_copy(self.database_mut(id)?, copy)?;
        let before = config.autoreseed.unwrap_or_default();
        if before.steps() != steps {
            let message = format!("{} steps were taken, not {steps}", before.steps());
            return refuse(RefusalReason::Precondition, message);
        }
        let by_system = config.is_stopped() && config.suspension.by == SuspendedBy::Fault;
        let ends = matches!(step, ReseedStep::Reset | ReseedStep::Done);
        if !ends && !by_system {
            let message = "the copy is not suspended for a failure any more";
            return refuse(RefusalReason::Precondition, message);
        }
        match step {
            ReseedStep::Resume => self.reseed_resume(index, id, copy, before),
            ReseedStep::Seed(order) => self.reseed_seed(index, id, copy, (before, order)),
            ReseedStep::Stop => {
                let stopped = AutoReseed { stopped: true, ..before };
                self.reseed_note(index, id, copy, (Some(stopped), ReseedEvent::Stopped))
            }
            ReseedStep::Reset => self.reseed_note(index, id, copy, (None, ReseedEvent::Reset)),
            ReseedStep::Done => self.reseed_note(index, id, copy, (None, ReseedEvent::Done)),
        }
    }

    fn reseed_resume(
        &mut self,
        index: u64,
        id: DatabaseId,
        copy: CopyId,
        before: AutoReseed,
    ) -> Applied {
        let config = known_copy(self.database_mut(id)?, copy)?;
        if config.is_remade() {
            let message = "the copy is being seeded, which resumes it";
            return refuse(RefusalReason::SeedInProgress, message);
        }
        config.suspension = config.suspension.when_replication_goes_on();
        config.resumes += 1;
        config.cut_off = false;
        config.failure = None;
        let after = AutoReseed { resumes: before.resumes + 1, ..before };
        let event = ReseedEvent::Resumed { attempt: after.resumes };
        self.reseed_note(index, id, copy, (Some(after), event))
    }

    fn reseed_seed(
        &mut self,
        index: u64,
        id: DatabaseId,
        copy: CopyId,
        (before, order): (AutoReseed, &SeedOrder),
    ) -> Applied {
        self.begin_seed(index, (id, copy), order)?;
        let operation = order.operation;
        let (after, event) = match &order.spare {
            None => {
                let attempt = before.seeds + 1;
                let event = ReseedEvent::Seeding { attempt, operation };
                (AutoReseed { seeds: attempt, ..before }, event)
            }
            Some(spare) => {
                let (attempt, volume) = (before.spares + 1, spare.leaves.clone());
                let event = ReseedEvent::AssigningSpare { attempt, volume, operation };
                (AutoReseed { spares: attempt, ..before }, event)
            }
        };
        self.reseed_note(index, id, copy, (Some(after), event))
    }

    fn reseed_note(
        &mut self,
        index: u64,
        id: DatabaseId,
        copy: CopyId,
        (after, step): (Option<AutoReseed>, ReseedEvent),
    ) -> Applied {
        let now = self.clock_unix_ms;
        let config = known_copy(self.database_mut(id)?, copy)?;
        config.autoreseed = after.map(|after| AutoReseed {
            began_unix_ms: if after.began_unix_ms == 0 { now } else { after.began_unix_ms },
            last_unix_ms: now,
            ..after
        });
        let member = config.member;
        self.event(index, Some(member), Some(id), EventKind::AutoReseed { copy, step });
        Ok(Answer::Done)
    }
}

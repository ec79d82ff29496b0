//! Commands about the lag of copies, their failures, and the log that copies and operations need.

use keelson_types::{
    CopyId, DatabaseId, Epoch, FailureTag, LagSwitch, LogHold, MountIntent, OperationId,
    RefusalReason, SuspendedBy,
};

use super::{Applied, refuse};
use crate::command::{Answer, Refusal};
use crate::event::EventKind;
use crate::state::{ClusterState, Database};

#[cfg(test)]
mod tests;

/// Holds of one database at a time.
const HOLDS_MAX: usize = 64;

impl ClusterState {
    /// F44: an operator plays the log of a copy down, or lets it lag again.
    pub(super) fn switch_lag(
        &mut self,
        index: u64,
        (id, copy): (DatabaseId, CopyId),
        switch: &LagSwitch,
    ) -> Applied {
        let config = super::databases::known_copy(self.database_mut(id)?, copy)?;
        if !config.lag.is_lagged() && switch.disabled().is_some() {
            return refuse(RefusalReason::Precondition, "the copy has no replay lag");
        }
        if config.lag_switch != *switch {
            config.lag_switch = switch.clone();
            let (member, disabled) = (config.member, switch.disabled().map(str::to_owned));
            let kind = EventKind::CopyLagSwitched { copy, disabled };
            self.event(index, Some(member), Some(id), kind);
        }
        Ok(Answer::Done)
    }

    /// F47: a copy whose fault does not heal stays stopped, over restarts too, until it is resumed
    /// or seeded. What the copy said before its newest resume counts no more.
    pub(super) fn suspend_failed(
        &mut self,
        index: u64,
        (id, copy): (DatabaseId, CopyId),
        resumes: u64,
        (comment, tag, needs_seed): (&str, Option<FailureTag>, bool),
    ) -> Applied {
        let now = self.clock_unix_ms;
        let database = self.database_mut(id)?;
        if database.target == Some(copy) && database.intent == MountIntent::Mounted {
            return refuse(RefusalReason::Precondition, "the copy is the active one");
        }
        let config = super::databases::known_copy(database, copy)?;
        if config.resumes != resumes {
            return refuse(RefusalReason::Precondition, "the copy was resumed since");
        }
        config.cut_off |= needs_seed;
        config.failure = tag.or(config.failure);
        if config.is_stopped() {
            return Ok(Answer::Done);
        }
        config.suspension = config.suspension.suspended_by_system(SuspendedBy::Fault, comment, now);
        let (member, comment) = (config.member, config.suspension.comment.clone());
        let kind = EventKind::CopyFailed { copy, needs_seed, comment, tag };
        self.event(index, Some(member), Some(id), kind);
        Ok(Answer::Done)
    }

    /// The active of the epoch says which copies expanded truncation will cut off and which holds
    /// it gives up, before any log goes (review S16.4).
    pub(super) fn mark_cut_off(
        &mut self,
        index: u64,
        (id, epoch): (DatabaseId, Epoch),
        copies: &[CopyId],
        operations: &[OperationId],
    ) -> Applied {
        let database = self.database_in(id, epoch)?;
        let counts = |copy: &CopyId| database.rule.as_ref().is_some_and(|rule| rule.has(*copy));
        if let Some(copy) = copies.iter().find(|copy| counts(copy)) {
            let message = format!("copy {copy} counts in the commit rule");
            return refuse(RefusalReason::Precondition, message);
        }
        database.holds.retain(|hold| !operations.contains(&hold.operation));
        let mut marked = Vec::new();
        for copy in copies {
            if let Some(config) = database.copies.get_mut(copy).filter(|config| !config.cut_off) {
                config.cut_off = true;
                marked.push((*copy, config.member));
            }
        }
        for (copy, member) in marked {
            self.event(index, Some(member), Some(id), EventKind::CopyCutOff(copy));
        }
        Ok(Answer::Done)
    }

    /// The active of the epoch says that a copy came back before log that it needs had gone. What
    /// failed in the meantime stays as it is.
    pub(super) fn clear_cut_off(&mut self, id: DatabaseId, epoch: Epoch, copy: CopyId) -> Applied {
        let database = self.database_in(id, epoch)?;
        let config = database.copies.get_mut(&copy).filter(|config| !config.is_stopped());
        if let Some(config) = config {
            config.cut_off = false;
        }
        Ok(Answer::Done)
    }

    /// A database whose active of this epoch says something.
    fn database_in(&mut self, id: DatabaseId, epoch: Epoch) -> Result<&mut Database, Refusal> {
        let database = self.database_mut(id)?;
        if database.epoch != epoch {
            let message = format!("the epoch is {}, not {epoch}", database.epoch);
            return Err(Refusal::new(RefusalReason::StaleEpoch, message));
        }
        Ok(database)
    }

    /// An operation needs log, or needs it longer (review S16.3). The hold stays where it was first
    /// taken; holds that have run out are forgotten.
    pub(super) fn hold_log(&mut self, id: DatabaseId, hold: &LogHold) -> Applied {
        let now = self.clock_unix_ms;
        let database = self.database_mut(id)?;
        database.holds.retain(|known| known.is_live(now));
        let room = database.holds.len() < HOLDS_MAX;
        match database.holds.iter_mut().find(|known| known.operation == hold.operation) {
            Some(known) => known.expires_unix_ms = hold.expires_unix_ms,
            None if !room => {
                let message = format!("{HOLDS_MAX} operations hold log of {}", database.name);
                return refuse(RefusalReason::Overloaded, message);
            }
            None => database.holds.push(hold.clone()),
        }
        Ok(Answer::Done)
    }

    pub(super) fn release_log(&mut self, id: DatabaseId, operation: OperationId) -> Applied {
        self.database_mut(id)?.holds.retain(|hold| hold.operation != operation);
        Ok(Answer::Done)
    }
}

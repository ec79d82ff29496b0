//! Commands about seeds. A seed is an operation, an order in the copy's configuration and a hold on
//! the log, which begin and end together.

use keelson_types::{
    CopyId, DatabaseId, Epoch, HoldKind, LogEnd, LogHold, OperationId, Position, RefusalReason,
    SeedOrder, SeedProgress, SeedScope,
};

use super::{Applied, refuse};
use crate::command::{Answer, Command, Refusal};
use crate::event::EventKind;
use crate::operation::{OperationKind, OperationState};
use crate::seed::{first_failure, seed_checks};
use crate::state::ClusterState;

#[cfg(test)]
mod tests;

/// A target that says nothing for so long loses its hold.
const HOLD_MS: u64 = 15 * 60 * 1_000;

/// What is said of a hold that is gone.
const HOLD_GONE: &str = "the log behind the checkpoint was given up, or was not asked for in time";

impl ClusterState {
    pub(super) fn apply_seed(&mut self, index: u64, command: &Command) -> Applied {
        match command {
            Command::BeginSeed { database, copy, order } => {
                self.begin_seed(index, (*database, *copy), order)
            }
            Command::ReportSeed { database, copy, operation, progress, from, epoch } => {
                let from = self.needed_from(*database, *from, *epoch)?;
                self.report_seed(index, (*database, *copy, *operation), progress, from)
            }
            Command::EndSeed { database, copy, operation, result } => {
                self.end_seed(index, (*database, *copy, *operation), result)
            }
            _ => refuse(RefusalReason::Internal, "not a command about seeds"),
        }
    }

    pub(super) fn begin_seed(
        &mut self,
        index: u64,
        (id, copy): (DatabaseId, CopyId),
        order: &SeedOrder,
    ) -> Applied {
        let kind = OperationKind::Seed { database: id, copy };
        if self.operations.contains_key(&order.operation) {
            return self.put_operation(index, order.operation, &kind);
        }
        if let Some(refusal) = first_failure(&seed_checks(self, (id, copy), order)) {
            return Err(refusal);
        }
        let answer = self.put_operation(index, order.operation, &kind)?;
        if let Some(operation) = self.operations.get_mut(&order.operation) {
            let progress = SeedProgress { scope: order.scope, ..SeedProgress::default() };
            operation.seed = Some(Box::new(progress));
        }
        let now = self.clock_unix_ms;
        let database = self.database_mut(id)?;
        database.holds.retain(|known| known.is_live(now));
        database.holds.push(LogHold {
            operation: order.operation,
            kind: HoldKind::Seed,
            // Whatever there is, until the checkpoint is known.
            from: Position::ZERO,
            taken_unix_ms: now,
            expires_unix_ms: now + HOLD_MS,
        });
        let config = super::databases::known_copy(database, copy)?;
        config.seeding = Some(order.clone());
        let (member, operation, scope) = (config.member, order.operation, order.scope);
        self.event(index, Some(member), Some(id), EventKind::SeedBegun { copy, operation, scope });
        Ok(answer)
    }

    /// Where log is needed from: a target may hold some that a lossy activation gave up.
    fn needed_from(
        &self,
        id: DatabaseId,
        from: Option<Position>,
        epoch: Option<Epoch>,
    ) -> Result<Option<Position>, Refusal> {
        let Some((position, epoch)) = from.zip(epoch) else { return Ok(from) };
        let end = LogEnd { epoch, position };
        let receipts = self.database(id)?.receipts.iter();
        let kept = receipts.filter(|receipt| receipt.covers(end)).map(|r| r.kept.position);
        Ok(Some(kept.min().unwrap_or(position)))
    }

    fn report_seed(
        &mut self,
        index: u64,
        (id, copy, operation): (DatabaseId, CopyId, OperationId),
        progress: &SeedProgress,
        from: Option<Position>,
    ) -> Applied {
        let now = self.clock_unix_ms;
        self.check_seeding(id, copy, operation)?;
        let database = self.database_mut(id)?;
        let cut_off = database.copies.get(&copy).is_some_and(|config| config.cut_off);
        let hold = database.holds.iter_mut().find(|hold| hold.operation == operation);
        // For a copy that was cut off nothing else holds log: what ran out does not come back, and
        // the checkpoint of another source may lie before what was held. For any other one log is
        // kept as long as it is away, so that it goes on whatever happened to its hold but that it
        // was given up.
        let holds = |hold: &&mut LogHold| {
            let before = from.is_some_and(|from| from < hold.from);
            !cut_off || hold.is_live(now) && !before
        };
        let Some(hold) = hold.filter(holds) else {
            let gone = Refusal::new(RefusalReason::Truncated, HOLD_GONE);
            return self.end_seed(index, (id, copy, operation), &Err(gone));
        };
        hold.expires_unix_ms = now + HOLD_MS;
        hold.from = from.unwrap_or(hold.from);
        if let Some(known) = self.operations.get_mut(&operation) {
            known.progress_percent = progress.percent();
            known.message.clone_from(&progress.note);
            known.seed = Some(Box::new(progress.clone()));
            known.updated_unix_ms = now;
        }
        Ok(Answer::Done)
    }

    fn check_seeding(
        &self,
        id: DatabaseId,
        copy: CopyId,
        operation: OperationId,
    ) -> Result<(), Refusal> {
        let config = self.database(id)?.copies.get(&copy);
        let order = config.and_then(|config| config.seeding.as_ref());
        if order.is_some_and(|order| order.operation == operation) {
            return Ok(());
        }
        refuse(RefusalReason::Precondition, "the copy is not being seeded by this operation")
    }

    fn end_seed(
        &mut self,
        index: u64,
        (id, copy, operation): (DatabaseId, CopyId, OperationId),
        result: &Result<(), Refusal>,
    ) -> Applied {
        self.check_seeding(id, copy, operation)?;
        let database = self.database(id)?;
        let counts = database.rule.as_ref().is_some_and(|rule| rule.has(copy));
        let Some(config) = database.copies.get(&copy).cloned() else {
            return refuse(RefusalReason::UnknownCopy, "no such copy");
        };
        if result.is_ok() && counts && config.is_remade() {
            let message = "the old copy counts in the commit rule still; ask again";
            return refuse(RefusalReason::Precondition, message);
        }
        let scope = config.seeding.as_ref().map(|order| order.scope).unwrap_or_default();
        if let (Ok(()), Some(order), true) = (result, &config.seeding, scope.makes_copy()) {
            self.replace_copy(index, id, copy, order.copy)?;
            let fresh = super::databases::known_copy(self.database_mut(id)?, order.copy)?;
            fresh.seeding = None;
            if !order.manual_resume {
                fresh.suspension = fresh.suspension.when_replication_goes_on();
                fresh.resumes += 1;
            }
        } else {
            super::databases::known_copy(self.database_mut(id)?, copy)?.seeding = None;
        }
        self.database_mut(id)?.holds.retain(|hold| hold.operation != operation);
        self.finish_seed(operation, scope, result);
        let failure = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let kind = EventKind::SeedEnded { copy, operation, scope, failure };
        self.event(index, Some(config.member), Some(id), kind);
        Ok(Answer::Done)
    }

    /// An index is seeded for the files of one copy: it ends with them.
    pub(super) fn end_index_seed(
        &mut self,
        index: u64,
        id: DatabaseId,
        copy: CopyId,
    ) -> Result<(), Refusal> {
        let config = self.database(id)?.copies.get(&copy);
        let order = config.filter(|c| !c.is_remade()).and_then(|config| config.seeding.as_ref());
        let Some(operation) = order.map(|order| order.operation) else { return Ok(()) };
        let gone = Refusal::new(RefusalReason::UnknownCopy, "the copy lost its files");
        self.end_seed(index, (id, copy, operation), &Err(gone)).map(drop)
    }

    fn finish_seed(
        &mut self,
        operation: OperationId,
        scope: SeedScope,
        result: &Result<(), Refusal>,
    ) {
        let now = self.clock_unix_ms;
        let Some(known) = self.operations.get_mut(&operation).filter(|o| !o.is_finished()) else {
            return;
        };
        known.updated_unix_ms = now;
        match result {
            Ok(()) => {
                (known.state, known.progress_percent) = (OperationState::Succeeded, 100);
                let what = if scope.makes_copy() { "copy" } else { "content index" };
                known.message = format!("the {what} is in place");
            }
            Err(refusal) => {
                known.message.clone_from(&refusal.message);
                known.state = OperationState::Failed(refusal.clone());
            }
        }
    }

    /// Seeds of a database that is removed end with it.
    pub(super) fn forget_seeds(&mut self, id: DatabaseId) {
        let copies = self.databases.get(&id).into_iter().flat_map(|d| d.copies.values());
        let orders = copies.filter_map(|config| config.seeding.as_ref());
        let orders: Vec<_> = orders.map(|order| (order.operation, order.scope)).collect();
        for (operation, scope) in orders {
            let gone = Refusal::new(RefusalReason::UnknownDatabase, "the database was removed");
            self.finish_seed(operation, scope, &Err(gone));
        }
    }
}

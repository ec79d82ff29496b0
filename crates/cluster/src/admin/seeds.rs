//! Adding copies, with a seed if the log does not reach back, and seeding copies on request (F39 to
//! F41, F46, F52 to F60): the checks before it, the order, and its end by an operator's word.
//!
//! What is decided lies in the replicated state; here it is asked what only the members know.

use std::collections::BTreeSet;
use std::sync::Arc;

use keelson_cluster_core::{
    Answer, Command, Database, NewCopy, Outcome, SeedCheck, first_failure, seed_checks,
    unfit_source,
};
use keelson_types::{
    ContentIndexState, CopyId, CopyStatus, DatabaseId, DatabaseState, LagSettings, MemberId,
    MountIntent, OldFiles, OperationId, RefusalReason, SEED_LOG_BYTES_MAX, SEED_RESERVE_BYTES,
    SeedOrder, SeedScope, SuspendRequest,
};
use keelson_wire::v1::{
    AddCopyRequest, AddCopyResponse, ContentIndexFacts, CopyFacts, SeedCheckRow, SeedCopyRequest,
    SeedCopyResponse,
};
use keelson_wire::{Refusal, ids};
use uuid::Uuid;

use super::copies::check_preference;
use super::databases::fresh_copy;
use super::networks::check_encryption;
use super::refusal;
use crate::context::Context;
use crate::facts::{AllFacts, of_copy};
use crate::operations::not_cancelled;

/// What a copy that waits for its seed says.
const POSTPONED: &str = "the copy has to be seeded: keelson copy seed";
/// What a copy that is seeded at once says.
const SEEDED: &str = "new, being seeded";
/// Healthy copies that must be left, beside the one that loses its old files (F67).
const SAFE_OTHERS_MIN: usize = 2;

/// What is known of a seed that is asked for.
struct Asked {
    database: Database,
    copy: CopyId,
    member: MemberId,
    order: SeedOrder,
    safe: bool,
}

impl Context {
    pub(super) async fn admin_add_copy(
        self: &Arc<Self>,
        request: AddCopyRequest,
    ) -> Result<AddCopyResponse, Refusal> {
        self.require_leader()?;
        let database = self.database_called(&request.database)?;
        let member = self.member_called(&request.member)?;
        let copy = added_copy(&database, member.id, &request)?;
        // What the state refuses, whatever the members say.
        self.rehearse(Command::AddCopy { database: database.id, copy: copy.clone() })?;
        self.check_named_source(&database, &request.source)?;
        let repeated = database.copies.contains_key(&copy.copy);
        let asks_nobody = request.configuration_only || request.seeding_postponed || repeated;
        let order = self.order(operation(&request.operation)?, &request.source)?;
        let (order, checks) = match asks_nobody {
            true => (None, Vec::new()),
            false => self.addition(&database, &copy, order).await?,
        };
        let (seeds, operation) = (order.is_some(), order.as_ref().map(|order| order.operation));
        let rows = checks.iter().map(row).collect();
        let commands = additions(&database, &copy, &request, order)?;
        let id = copy.copy;
        if request.what_if {
            first_refused(self.rehearsed(Command::Batch(commands))?)?;
            let (copy, operation) = (ids::bytes(id), bytes::Bytes::new());
            return Ok(AddCopyResponse { copy, operation, checks: rows, seeds });
        }
        // Before anything is recorded: what is added would come to nothing (F41).
        if let Some(failed) = first_failure(&checks) {
            return Err(Refusal::new(failed.reason, failed.message));
        }
        let (_, answer) = self.propose_here(Command::Batch(commands)).await?.answer()?;
        if let Err(refusal) = first_refused(answer) {
            // The commands stand alone: what was recorded of a new copy goes again.
            if !database.copies.contains_key(&id) {
                let undo = Command::RemoveCopy { database: database.id, copy: id };
                if let Err(undo) =
                    self.propose_here(undo).await.and_then(|it| it.answer().map(drop))
                {
                    tracing::warn!(%undo, "what a refused addition recorded stays");
                }
            }
            return Err(refusal);
        }
        let operation = operation.map(ids::bytes).unwrap_or_default();
        Ok(AddCopyResponse { copy: ids::bytes(id), operation, checks: rows, seeds })
    }

    /// The seed that a new copy needs, if it does, and what the members say to it (F41).
    async fn addition(
        self: &Arc<Self>,
        database: &Database,
        copy: &NewCopy,
        order: SeedOrder,
    ) -> Result<(Option<SeedOrder>, Vec<SeedCheck>), Refusal> {
        let seeds = self.needs_seed(database).await?;
        let database = database.clone();
        let (copy, member) = (copy.copy, copy.member);
        let asked = Asked { database, copy, member, order, safe: false };
        let mut checks = self.checks_of_members(&asked).await;
        if !seeds {
            // It takes the log from its start.
            checks.retain(|check| check.name == "target");
        }
        Ok((seeds.then_some(asked.order), checks))
    }

    /// A source that cannot be one is refused before anything is changed.
    fn check_named_source(&self, database: &Database, source: &str) -> Result<(), Refusal> {
        if source.is_empty() {
            return Ok(());
        }
        let member = self.member_called(source)?.id;
        let config = database.copy_on(member).and_then(|copy| database.copies.get(&copy));
        let config = config.ok_or_else(|| {
            let what = format!("{source} holds no copy of {}", database.name);
            refusal(RefusalReason::UnknownCopy, what)
        })?;
        unfit_source(config, SeedScope::Everything).map_or(Ok(()), |why| {
            let what = format!("the copy on {source} {why}");
            Err(refusal(RefusalReason::SourceUnfit, what))
        })
    }

    /// Whether the log of the active begins behind its start, so that a new copy cannot be made of
    /// it. Refused while no copy serves: only an active one tells.
    async fn needs_seed(self: &Arc<Self>, database: &Database) -> Result<bool, Refusal> {
        let name = &database.name;
        if database.intent == MountIntent::Dismounted {
            let what = format!(
                "{name} is dismounted: mount it first; --seeding-postponed and \
                 --configuration-only add the copy all the same"
            );
            // Callers wait for the end of a dismount that is one of a move; this is an operator's.
            return Err(refusal(RefusalReason::Precondition, what));
        }
        let (Some(active), DatabaseState::Established) = (database.target_member(), database.state)
        else {
            let what = format!("{name} is being activated: a copy is added once one serves");
            return Err(refusal(RefusalReason::Activating, what));
        };
        let facts = self.facts_of([active], &[database.id]).await;
        let known = copy_facts(&facts, active, database.id);
        let first = known.and_then(|facts| facts.watermarks?.truncated);
        let first = first.ok_or_else(|| {
            let name = self.name_of_member(active);
            let what = format!(
                "{name}, which has the active copy, does not say from where its log reaches; \
                 --seeding-postponed and --configuration-only ask nobody"
            );
            refusal(RefusalReason::Unreachable, what)
        })?;
        Ok(first.generation > 1)
    }

    fn order(&self, operation: OperationId, source: &str) -> Result<SeedOrder, Refusal> {
        let source = match source {
            "" => None,
            name => Some(self.member_called(name)?.id),
        };
        Ok(SeedOrder {
            operation,
            copy: CopyId::new(Uuid::new_v4()),
            scope: SeedScope::Everything,
            source,
            // A copy that was just added has nothing.
            old_files: OldFiles::Delete,
            manual_resume: false,
            no_throttle: false,
            network: None,
            compression: None,
            spare: None,
        })
    }

    pub(super) async fn admin_seed_copy(
        self: &Arc<Self>,
        request: SeedCopyRequest,
    ) -> Result<SeedCopyResponse, Refusal> {
        self.require_leader()?;
        let asked = self.asked(&request)?;
        let (id, copy, operation) = (asked.database.id, asked.copy, asked.order.operation);
        if self.applied.read(|state| state.operations.contains_key(&operation)) {
            return Ok(SeedCopyResponse { checks: Vec::new(), operation: ids::bytes(operation) });
        }
        let stopped = asked.database.copies.get(&copy).is_some_and(|config| config.is_stopped());
        if stopped && asked.order.scope.makes_copy() {
            self.left_rule(id, copy, &request.database).await?;
        }
        let mut checks = self.applied.read(|state| seed_checks(state, (id, copy), &asked.order));
        let answerable = checks.iter().all(|check| check.name != "database");
        if answerable {
            checks.extend(self.checks_of_members(&asked).await);
        }
        let rows = checks.iter().map(row).collect();
        if request.what_if {
            return Ok(SeedCopyResponse { checks: rows, operation: bytes::Bytes::new() });
        }
        if let Some(failed) = first_failure(&checks) {
            return Err(Refusal::new(failed.reason, failed.message));
        }
        let command = Command::BeginSeed { database: id, copy, order: asked.order };
        self.propose_here(command).await?.answer()?;
        Ok(SeedCopyResponse { checks: rows, operation: ids::bytes(operation) })
    }

    /// A network that a seed is to use; nothing for the best one.
    fn network_called(&self, name: &str) -> Result<Option<String>, Refusal> {
        if name.is_empty() {
            return Ok(None);
        }
        if self.applied.read(|state| state.networks.by_name.contains_key(name)) {
            return Ok(Some(name.to_owned()));
        }
        let what = format!("there is no network {name:?}; keelson network list shows them");
        Err(refusal(RefusalReason::BadArgument, what))
    }

    fn asked(&self, request: &SeedCopyRequest) -> Result<Asked, Refusal> {
        check_encryption(&request.encryption)?;
        let database = self.database_called(&request.database)?;
        let member = self.member_called(&request.member)?;
        let copy = database.copy_on(member.id).ok_or_else(|| {
            let what = format!("{} holds no copy of {}", member.name, database.name);
            refusal(RefusalReason::UnknownCopy, what)
        })?;
        let scope = scope(request)?;
        let deletes = request.delete_existing_files || request.safe_delete_existing_files;
        let order = SeedOrder {
            scope,
            old_files: if deletes { OldFiles::Delete } else { OldFiles::Keep },
            manual_resume: request.manual_resume,
            no_throttle: request.no_throttle,
            network: self.network_called(&request.network)?,
            compression: compression(&request.compression)?,
            ..self.order(operation(&request.operation)?, &request.source)?
        };
        let safe = request.safe_delete_existing_files;
        Ok(Asked { database, copy, member: member.id, order, safe })
    }

    /// What only the members know: whether they answer, health, space.
    async fn checks_of_members(self: &Arc<Self>, asked: &Asked) -> Vec<SeedCheck> {
        let mut holders: BTreeSet<_> = asked.database.copies.values().map(|c| c.member).collect();
        holders.insert(asked.member);
        let facts = self.facts_of(holders, &[asked.database.id]).await;
        let target = facts.get(&asked.member).and_then(|facts| facts.as_ref().ok());
        let mut checks = Vec::new();
        checks.push(match target {
            Some(facts) if facts.data_process_up => {
                SeedCheck::passed("target", "its member answers")
            }
            _ => {
                let found = format!("{} does not answer", self.name_of_member(asked.member));
                SeedCheck::failed("target", RefusalReason::Unreachable, found)
            }
        });
        let healthy = self.healthy_sources(asked, &facts);
        checks.push(self.check_health(asked, &facts, &healthy));
        let own = copy_facts(&facts, asked.member, asked.database.id);
        let named = |member: &MemberId| asked.order.source.is_none_or(|named| named == *member);
        let read = healthy.iter().filter(|(member, _)| named(member)).map(|(_, source)| *source);
        if let (Some(own), Some(source)) = (own, read.max_by_key(|source| source.store_bytes)) {
            checks.push(check_space(asked.order.scope, own, source));
        }
        if asked.safe {
            checks.push(check_redundancy(healthy.len()));
        }
        checks.extend(own.map(|own| existing_files(asked, own)));
        checks
    }

    /// The other copies that are healthy, and what they say.
    fn healthy_sources<'a>(
        &self,
        asked: &Asked,
        facts: &'a AllFacts,
    ) -> Vec<(MemberId, &'a CopyFacts)> {
        let others = asked.database.copies.iter().filter(|(id, _)| **id != asked.copy);
        let scope = asked.order.scope;
        let fit = others.filter(|(_, config)| unfit_source(config, scope).is_none());
        let known = fit.filter_map(|(_, config)| {
            let known = copy_facts(facts, config.member, asked.database.id)?;
            let healthy = is_healthy(&known.status) && (scope.makes_copy() || has_index(known));
            healthy.then_some((config.member, known))
        });
        known.collect()
    }

    fn check_health(
        &self,
        asked: &Asked,
        facts: &AllFacts,
        healthy: &[(MemberId, &CopyFacts)],
    ) -> SeedCheck {
        let what = if asked.order.scope.makes_copy() { "copy" } else { "content index" };
        let Some(source) = asked.order.source else {
            return match healthy.len() {
                0 => {
                    let found = format!("no other {what} is healthy");
                    SeedCheck::failed("source health", RefusalReason::SourceUnfit, found)
                }
                some => SeedCheck::passed("source health", format!("{some} of the other copies")),
            };
        };
        let name = self.name_of_member(source);
        if healthy.iter().any(|(member, _)| *member == source) {
            return SeedCheck::passed("source health", format!("the {what} on {name} is healthy"));
        }
        let known = copy_facts(facts, source, asked.database.id);
        let found = match known {
            Some(known) if is_healthy(&known.status) => {
                format!("the content index on {name} is {}", index_of(known).state)
            }
            Some(known) => format!("the copy on {name} is {}", known.status),
            None => format!("the copy on {name} does not answer"),
        };
        SeedCheck::failed("source health", RefusalReason::SourceUnfit, found)
    }

    /// Ends a seed at an operator's word: the copy stays suspended, as it was. Refused for other
    /// operations.
    pub(crate) async fn cancel_seed(self: &Arc<Self>, id: OperationId) -> Result<(), Refusal> {
        let found = self.applied.read(|state| {
            let seeds = state.databases.values().flat_map(|database| {
                database.copies.iter().filter_map(|(copy, config)| {
                    let order = config.seeding.as_ref()?;
                    Some((database.id, *copy, order.operation))
                })
            });
            let mut seeds = seeds.filter(|(_, _, operation)| *operation == id);
            let kind = state.operations.get(&id).map(|operation| operation.kind.clone());
            (seeds.next(), kind)
        });
        let (Some((database, copy, operation)), _) = found else {
            let kind = found.1.map(|kind| super::databases::label(&kind)).unwrap_or_default();
            return Err(not_cancelled(&kind));
        };
        let what = "cancelled by an operator; the copy stays suspended, its files are untouched";
        let cancelled = keelson_cluster_core::Refusal::new(RefusalReason::Cancelled, what);
        let command = Command::EndSeed { database, copy, operation, result: Err(cancelled) };
        let (index, _) = self.propose_here(command).await?.answer()?;
        self.reached(index, super::databases::LEAVE_DEADLINE).await
    }
}

fn operation(asked: &[u8]) -> Result<OperationId, Refusal> {
    match asked.is_empty() {
        true => Ok(OperationId::new(Uuid::new_v4())),
        false => Ok(ids::operation(asked)?),
    }
}

/// Whether one seed is compressed; nothing for what the policy says.
fn compression(asked: &str) -> Result<Option<bool>, Refusal> {
    match asked {
        "" => Ok(None),
        "enabled" => Ok(Some(true)),
        "disabled" => Ok(Some(false)),
        other => {
            let what = format!("compression of a seed is enabled or disabled, not {other:?}");
            Err(refusal(RefusalReason::BadArgument, what))
        }
    }
}

/// The copy that a request adds.
fn added_copy(
    database: &Database,
    member: MemberId,
    request: &AddCopyRequest,
) -> Result<NewCopy, Refusal> {
    let last = database.copies.values().map(|copy| copy.preference).max().unwrap_or(0);
    let preference = request.preference.unwrap_or(last + 1);
    check_preference(Some(preference))?;
    let mut copy = fresh_copy(member, preference);
    if !request.copy.is_empty() {
        copy.copy = ids::copy(&request.copy)?;
    }
    Ok(copy)
}

/// The commands that add a copy, applied together.
fn additions(
    database: &Database,
    copy: &NewCopy,
    request: &AddCopyRequest,
    order: Option<SeedOrder>,
) -> Result<Vec<Command>, Refusal> {
    let (id, new) = (database.id, copy.copy);
    let mut commands = vec![Command::AddCopy { database: id, copy: copy.clone() }];
    if database.copies.contains_key(&new) {
        return Ok(commands); // The request is repeated.
    }
    let lags = (request.replay_lag_seconds, request.truncation_lag_seconds);
    if lags != (0, 0) {
        let lag = LagSettings::from_seconds(lags.0, lags.1);
        let lag = lag.map_err(|refused| Refusal::new(refused.reason, refused.message))?;
        commands.push(Command::SetCopy {
            database: id,
            copy: new,
            preference: None,
            leaving: None,
            lag: Some(lag),
        });
    }
    let comment = match (&order, request.seeding_postponed || request.configuration_only) {
        (Some(_), _) => SEEDED,
        (None, true) => POSTPONED,
        (None, false) => return Ok(commands),
    };
    let suspend = SuspendRequest { comment: comment.into(), ..SuspendRequest::default() };
    commands.push(Command::SuspendCopy { database: id, copy: new, request: suspend });
    commands.extend(order.map(|order| Command::BeginSeed { database: id, copy: new, order }));
    Ok(commands)
}

/// The commands of a batch stand alone; the first refusal is the answer.
pub(super) fn first_refused(answer: Answer) -> Result<(), Refusal> {
    let Answer::Batch(outcomes) = answer else { return Ok(()) };
    let refused = outcomes.into_iter().find_map(|outcome| match outcome {
        Outcome::Ok(_) => None,
        Outcome::Refused(refused) => Some(refused),
    });
    refused.map_or(Ok(()), |refused| Err(Refusal::new(refused.reason, refused.message)))
}

fn copy_facts(facts: &AllFacts, member: MemberId, database: DatabaseId) -> Option<&CopyFacts> {
    of_copy(facts.get(&member)?.as_ref().ok()?, database)
}

/// What of a copy a request wants made anew.
fn scope(request: &SeedCopyRequest) -> Result<SeedScope, Refusal> {
    let deletes = request.delete_existing_files || request.safe_delete_existing_files;
    match (request.database_only, request.catalog_only) {
        (true, true) => {
            let what = "either the database only, or the content index only";
            Err(refusal(RefusalReason::BadArgument, what))
        }
        (false, true) if deletes => {
            let what = "the old content index is always replaced; no other file is deleted with it";
            Err(refusal(RefusalReason::BadArgument, what))
        }
        (false, true) => Ok(SeedScope::Catalog),
        (true, false) => Ok(SeedScope::Database),
        (false, false) => Ok(SeedScope::Everything),
    }
}

fn index_of(facts: &CopyFacts) -> ContentIndexFacts {
    facts.content_index.clone().unwrap_or_default()
}

fn has_index(facts: &CopyFacts) -> bool {
    index_of(facts).state == ContentIndexState::Healthy.to_string()
}

fn is_healthy(status: &str) -> bool {
    let healthy = [CopyStatus::Mounted, CopyStatus::Healthy, CopyStatus::SeedingSource];
    healthy.iter().any(|known| known.to_string() == status)
}

/// The size of the source beside the free space of the target, before anything is asked of either.
fn check_space(scope: SeedScope, own: &CopyFacts, source: &CopyFacts) -> SeedCheck {
    let store = if scope.makes_copy() { source.store_bytes } else { 0 };
    let index = if scope.takes_catalog() { index_of(source).bytes } else { 0 };
    let log = if scope.makes_copy() { source.log_bytes.min(SEED_LOG_BYTES_MAX) } else { 0 };
    let volumes = [
        ("data", own.data_free_bytes, store.saturating_add(index)),
        ("log", own.log_free_bytes, log),
    ];
    let volumes = volumes.into_iter().filter(|(name, _, _)| *name == "data" || scope.makes_copy());
    let (mut all, mut short) = (Vec::new(), false);
    for (name, free, bytes) in volumes {
        all.push(format!("{name} volume: {free} bytes free, about {bytes} needed"));
        short |= free < bytes.saturating_add(SEED_RESERVE_BYTES);
    }
    let found = all.join("; ");
    if short {
        let found =
            format!("{found}; the old files and {SEED_RESERVE_BYTES} bytes free stay beside it");
        return SeedCheck::failed("space", RefusalReason::NoSpaceForSeed, found);
    }
    SeedCheck::passed("space", found)
}

/// F67: old files go only if the data would survive the loss of one more copy meanwhile.
fn check_redundancy(healthy: usize) -> SeedCheck {
    let found = format!("{healthy} other healthy copies, {SAFE_OTHERS_MIN} wanted");
    match healthy >= SAFE_OTHERS_MIN {
        true => SeedCheck::passed("redundancy", found),
        false => SeedCheck::failed("redundancy", RefusalReason::Precondition, found),
    }
}

fn existing_files(asked: &Asked, own: &CopyFacts) -> SeedCheck {
    if !asked.order.scope.makes_copy() {
        let found = format!("{} bytes of content index are replaced", index_of(own).bytes);
        return SeedCheck::passed("existing files", found);
    }
    let fate = match asked.order.old_files {
        OldFiles::Keep => "stay beside the new ones",
        OldFiles::Delete => "are deleted once the new ones are in place",
    };
    let salvage = match asked.order.old_files {
        OldFiles::Keep => "salvage of the old log stays there",
        OldFiles::Delete => "salvage of the old log is not deleted: the new copy lists it",
    };
    let (store, log) = (own.store_bytes, own.log_bytes);
    let found = format!("{store} bytes of store, {log} bytes of log {fate}; {salvage}");
    SeedCheck::passed("existing files", found)
}

fn row(check: &SeedCheck) -> SeedCheckRow {
    SeedCheckRow {
        name: check.name.into(),
        passed: check.failure.is_none(),
        found: check.found.clone(),
        code: check.failure.map(|reason| reason.code().0.to_owned()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F59: space is a check, with numbers, on the volumes of stores and of log.
    #[test]
    fn space_is_checked_against_the_source() {
        let facts = |free, store| CopyFacts {
            data_free_bytes: free,
            log_free_bytes: u64::MAX,
            store_bytes: store,
            ..CopyFacts::default()
        };
        for (free, store, fits) in [
            (SEED_RESERVE_BYTES + 10, 10, true),
            (SEED_RESERVE_BYTES + 9, 10, false),
            (0, 0, false),
        ] {
            let check = check_space(SeedScope::Database, &facts(free, 0), &facts(0, store));
            assert_eq!(check.failure.is_none(), fits, "{}", check.found);
        }
        let source = CopyFacts { log_bytes: 5, ..facts(0, 10) };
        for (log_free_bytes, fits) in
            [(SEED_RESERVE_BYTES + 5, true), (SEED_RESERVE_BYTES + 4, false)]
        {
            let own = CopyFacts { log_free_bytes, ..facts(u64::MAX, 0) };
            let check = check_space(SeedScope::Everything, &own, &source);
            assert_eq!(check.failure.is_none(), fits, "{}", check.found);
            assert!(check_space(SeedScope::Catalog, &own, &source).failure.is_none());
        }
        let index = ContentIndexFacts { bytes: 7, ..ContentIndexFacts::default() };
        let source = CopyFacts { content_index: Some(index), ..facts(0, 10) };
        for (scope, needed) in
            [(SeedScope::Everything, 17), (SeedScope::Database, 10), (SeedScope::Catalog, 7)]
        {
            let fits = |free| check_space(scope, &facts(free, 0), &source).failure.is_none();
            let bound = SEED_RESERVE_BYTES + needed;
            assert!(fits(bound) && !fits(bound - 1), "{scope}");
        }
    }

    /// F67: one other copy is not enough to delete what may be needed.
    #[test]
    fn old_files_are_safe_to_delete_beside_two_healthy_copies() {
        assert_eq!(check_redundancy(1).failure, Some(RefusalReason::Precondition));
        assert_eq!(check_redundancy(2).failure, None);
    }
}

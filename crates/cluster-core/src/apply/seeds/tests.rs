//! Tests of the commands about seeds.

use std::collections::BTreeSet;

use keelson_types::{
    DatabaseState, MemberId, OldFiles, ResumeRequest, SeedPhase, SeedScope, SuspendRequest,
    SuspendedBy,
};

use super::*;
use crate::LossReceipt;
use crate::apply::tests::{activate, allocate, binding, three_copies, without_third};
use crate::state::CopyConfig;
use crate::testing::{DB, Log, copy, epoch, member};

const SEED: OperationId = OperationId::from_u128(7);
const NEW: CopyId = CopyId::from_u128(77);

fn order(source: Option<MemberId>) -> SeedOrder {
    SeedOrder {
        operation: SEED,
        copy: NEW,
        source,
        old_files: OldFiles::Keep,
        scope: SeedScope::Everything,
        manual_resume: false,
        no_throttle: false,
        network: None,
        compression: None,
        spare: None,
    }
}

fn begin(n: u128, order: SeedOrder) -> Command {
    Command::BeginSeed { database: DB, copy: copy(n), order }
}

fn end(result: Result<(), Refusal>) -> Command {
    Command::EndSeed { database: DB, copy: copy(3), operation: SEED, result }
}

fn report(from: Option<u64>) -> Command {
    let progress = SeedProgress { phase: SeedPhase::Transferring, ..SeedProgress::default() };
    let from = from.map(|generation| Position::new(generation, 0));
    let (copy, epoch) = (copy(3), Some(epoch(1)));
    Command::ReportSeed { database: DB, copy, operation: SEED, progress, from, epoch }
}

fn suspend(n: u128) -> Command {
    let request = SuspendRequest { comment: "disk".into(), ..SuspendRequest::default() };
    Command::SuspendCopy { database: DB, copy: copy(n), request }
}

/// Copy 1 is active, 2 counts, 3 is suspended and does not.
fn suspended() -> Log {
    let mut log = three_copies();
    activate(&mut log, 1);
    log.ok(&suspend(3));
    without_third(&mut log);
    log
}

fn config(log: &Log, copy: CopyId) -> Option<&CopyConfig> {
    log.state.databases[&DB].copies.get(&copy)
}

/// The seed of a copy gives it a new id itself, so nothing else does meanwhile.
#[test]
fn a_copy_that_is_seeded_gets_no_other_new_id() {
    let mut log = suspended();
    let replace = |n| Command::ReplaceCopy { database: DB, old: copy(n), new: copy(n + 30) };
    log.ok(&begin(3, order(None)));
    log.refused(RefusalReason::SeedInProgress, &replace(3));
    log.ok(&replace(2));
    log.ok(&end(Ok(())));
    assert!(config(&log, NEW).is_some());
}

/// F46: each refusal has its own code, and changes nothing.
#[test]
fn what_cannot_be_seeded_is_refused() {
    use RefusalReason as R;
    let mut log = suspended();
    log.refused(R::Precondition, &begin(1, order(None)));
    log.refused(R::NotSuspended, &begin(2, order(None)));
    log.refused(R::UnknownCopy, &begin(9, order(None)));
    log.refused(R::BadArgument, &begin(3, order(Some(member(3)))));
    log.refused(R::UnknownCopy, &begin(3, order(Some(member(9)))));
    log.ok(&suspend(2));
    log.refused(R::SourceUnfit, &begin(3, order(Some(member(2)))));
    log.ok(&begin(3, order(Some(member(1)))));
    log.ok(&begin(3, order(Some(member(1)))));
    let other = SeedOrder { operation: OperationId::from_u128(8), ..order(None) };
    log.refused(R::SeedInProgress, &begin(3, other));
    log.refused(R::SeedInProgress, &Command::RemoveCopy { database: DB, copy: copy(3) });
    let request = ResumeRequest::default();
    log.refused(R::Precondition, &Command::ResumeCopy { database: DB, copy: copy(3), request });
}

/// A copy that counts could have acknowledged something: it is dropped from the rule first.
#[test]
fn a_copy_that_counts_is_not_seeded() {
    let mut log = three_copies();
    activate(&mut log, 1);
    log.ok(&suspend(3));
    log.refused(RefusalReason::Precondition, &begin(3, order(None)));
    without_third(&mut log);
    log.ok(&begin(3, order(None)));
}

/// G4: while the database is being activated the old copy may hold log that the new active needs.
#[test]
fn nothing_is_seeded_while_no_copy_serves() {
    let mut log = suspended();
    log.state.databases.get_mut(&DB).unwrap().state = DatabaseState::Activating;
    log.refused(RefusalReason::Activating, &begin(3, order(None)));
    log.state.databases.get_mut(&DB).unwrap().state = DatabaseState::Established;
    log.ok(&begin(3, order(None)));
}

/// R4, F58: the seed makes another copy, which has neither the fault nor the suspension of the old
/// one and counts only when the active has admitted it; the hold ends with the operation.
#[test]
fn a_seed_gives_a_new_copy_that_resumes() {
    let mut log = suspended();
    log.state.databases.get_mut(&DB).unwrap().copies.get_mut(&copy(3)).unwrap().cut_off = true;
    log.ok(&begin(3, order(None)));
    assert_eq!(log.state.databases[&DB].holds.len(), 1);
    assert_eq!(log.state.databases[&DB].holds[0].from, Position::ZERO, "all log, at first");
    log.ok(&report(Some(4)));
    log.ok(&report(None));
    assert_eq!(log.state.databases[&DB].holds[0].from, Position::new(4, 0));
    assert_eq!(log.state.operations[&SEED].phase(None), "transferring");
    log.ok(&end(Ok(())));
    assert_eq!(config(&log, copy(3)), None);
    let fresh = config(&log, NEW).unwrap();
    assert!(fresh.suspension.is_none() && !fresh.cut_off && fresh.seeding.is_none());
    assert_eq!(fresh.member, member(3));
    let database = &log.state.databases[&DB];
    assert!(database.holds.is_empty() && !database.rule.as_ref().unwrap().has(NEW));
    assert_eq!(log.state.operations[&SEED].state, OperationState::Succeeded);
    log.refused(RefusalReason::Precondition, &end(Ok(())));
}

/// F25: what an operator blocked by itself is blocked after a seed, too, and after the copy became
/// another one because it forgot; the other half of a plain suspend goes with it.
#[test]
fn a_block_of_activation_survives_a_seed_and_a_replacement() {
    let block = |n, activation_only| {
        let request = SuspendRequest {
            activation_only,
            comment: "standby".into(),
            ..SuspendRequest::default()
        };
        Command::SuspendCopy { database: DB, copy: copy(n), request }
    };
    for (blocked, seeded) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut log = suspended();
        if blocked {
            log.ok(&block(3, true));
        }
        if seeded {
            log.ok(&begin(3, order(None)));
            log.ok(&end(Ok(())));
        } else {
            let copies = &mut log.state.databases.get_mut(&DB).unwrap().copies;
            copies.get_mut(&copy(3)).unwrap().suspension.by = SuspendedBy::Fault;
            log.ok(&Command::ReplaceCopy { database: DB, old: copy(3), new: NEW });
        }
        let fresh = &config(&log, NEW).unwrap().suspension;
        assert!(fresh.replication.is_none());
        assert_eq!(fresh.stops_activation().is_some(), blocked, "seeded: {seeded}");
        assert_eq!(fresh.comment, if blocked { "standby" } else { "" });
    }
}

/// An index is seeded for the files of one copy: a copy that lost them becomes another one, and
/// the seed ends.
#[test]
fn a_copy_that_forgets_ends_the_seed_of_its_index() {
    let mut log = three_copies();
    activate(&mut log, 1);
    log.ok(&begin(3, index_order()));
    log.ok(&Command::ReplaceCopy { database: DB, old: copy(3), new: NEW });
    assert!(config(&log, NEW).is_some_and(|fresh| fresh.seeding.is_none()));
    assert!(log.state.operations[&SEED].is_finished());
    assert!(log.state.databases[&DB].holds.is_empty());
}

/// F58: with manual resume the new copy waits.
#[test]
fn a_manual_resume_leaves_the_new_copy_suspended() {
    let mut log = suspended();
    log.ok(&begin(3, SeedOrder { manual_resume: true, ..order(None) }));
    log.ok(&end(Ok(())));
    assert!(config(&log, NEW).unwrap().is_stopped());
}

/// F66: a seed that fails or is cancelled leaves the copy as it was.
#[test]
fn a_seed_without_success_changes_nothing_of_the_copy() {
    let mut log = suspended();
    let before = config(&log, copy(3)).cloned();
    log.ok(&begin(3, order(None)));
    let cancelled = Refusal::new(RefusalReason::Cancelled, "an operator's word");
    log.ok(&end(Err(cancelled.clone())));
    assert_eq!(config(&log, copy(3)).cloned(), before);
    assert!(log.state.databases[&DB].holds.is_empty());
    assert_eq!(log.state.operations[&SEED].state, OperationState::Failed(cancelled));
}

/// Review S16.3: a hold that gave way under disk pressure ends the seed with a reason; one that a
/// target did not renew in time ends.
#[test]
fn a_hold_that_is_gone_ends_the_seed() {
    let mut log = suspended();
    log.ok(&begin(3, order(None)));
    let taken = log.state.databases[&DB].holds[0].expires_unix_ms;
    let stamped = |unix_ms, command| Command::Stamped { unix_ms, command: Box::new(command) };
    log.ok(&stamped(5_000, report(Some(4))));
    assert_eq!(log.state.databases[&DB].holds[0].expires_unix_ms, taken + 5_000);
    log.ok(&Command::MarkCutOff {
        database: DB,
        epoch: epoch(1),
        copies: Vec::new(),
        operations: vec![SEED],
    });
    log.ok(&report(Some(4)));
    let state = &log.state.operations[&SEED].state;
    assert!(matches!(state, OperationState::Failed(why) if why.reason == RefusalReason::Truncated));
    assert!(config(&log, copy(3)).is_some_and(|config| config.seeding.is_none()));
}

/// What a hold kept may be gone when its target reports again after it ran out, or with a
/// checkpoint before it; only a copy for which log is kept anyway goes on then.
#[test]
fn a_hold_that_ran_out_or_lies_behind_the_checkpoint_ends_the_seed() {
    let stamped = |unix_ms, command| Command::Stamped { unix_ms, command: Box::new(command) };
    let truncated = |log: &Log| {
        let state = &log.state.operations[&SEED].state;
        matches!(state, OperationState::Failed(why) if why.reason == RefusalReason::Truncated)
    };
    for cut_off in [false, true] {
        let mut log = suspended();
        let copies = &mut log.state.databases.get_mut(&DB).unwrap().copies;
        copies.get_mut(&copy(3)).unwrap().cut_off = cut_off;
        log.ok(&begin(3, order(None)));
        log.ok(&report(Some(4)));
        log.ok(&report(Some(2)));
        assert_eq!(truncated(&log), cut_off);
        if !cut_off {
            assert_eq!(log.state.databases[&DB].holds[0].from, Position::new(2, 0));
            let over = log.state.databases[&DB].holds[0].expires_unix_ms;
            log.ok(&stamped(over - 1, report(None)));
            assert!(!truncated(&log));
            let over = log.state.databases[&DB].holds[0].expires_unix_ms;
            log.ok(&stamped(over + 5, report(None)));
            assert!(!truncated(&log), "its log is kept anyway");
            assert!(log.state.databases[&DB].holds[0].is_live(over + 6), "and held anew");
        }
    }
    let mut log = suspended();
    log.state.databases.get_mut(&DB).unwrap().copies.get_mut(&copy(3)).unwrap().cut_off = true;
    log.ok(&begin(3, order(None)));
    log.ok(&report(Some(4)));
    let over = log.state.databases[&DB].holds[0].expires_unix_ms;
    log.ok(&stamped(over, report(None)));
    assert!(truncated(&log), "it ran out, and nothing else kept its log");
}

/// A lossy activation gives log up that the target of a seed holds already: it needs log from
/// where the two part, however often it tells the end of what it holds.
#[test]
fn a_seed_needs_log_from_where_a_loss_was_accepted() {
    let mut log = suspended();
    log.state.databases.get_mut(&DB).unwrap().copies.get_mut(&copy(3)).unwrap().cut_off = true;
    log.ok(&begin(3, order(None)));
    log.ok(&report(Some(4)));
    allocate(&mut log, 1);
    let mut lossy = binding(&log, 1, 2);
    let kept = LogEnd { epoch: epoch(1), position: Position::new(3, 70) };
    lossy.decision.loss = Some(LossReceipt {
        epoch: epoch(2),
        kept,
        certain: None,
        unreached: BTreeSet::new(),
        operation: None,
        missing_logs: None,
        dial: None,
    });
    log.ok(&Command::Activate(vec![lossy]));
    let held = |log: &Log| log.state.databases[&DB].holds[0].from;
    assert_eq!(held(&log), kept.position);
    log.ok(&report(Some(4)));
    assert_eq!(held(&log), kept.position, "it holds what was given up");
    let Command::ReportSeed { database, copy, operation, progress, from, .. } = report(Some(5))
    else {
        panic!("not a report");
    };
    let epoch = Some(epoch(2));
    log.ok(&Command::ReportSeed { database, copy, operation, progress, from, epoch });
    assert_eq!(held(&log), Position::new(5, 0), "it follows the new timeline");
}

/// G4: the holder of a discarded timeline may be the last; a seed puts its files aside, no more.
#[test]
fn the_files_of_a_discarded_timeline_are_not_deleted() {
    let mut log = suspended();
    let copies = &mut log.state.databases.get_mut(&DB).unwrap().copies;
    let suspension = &mut copies.get_mut(&copy(3)).unwrap().suspension;
    suspension.by = SuspendedBy::DiscardedTimeline;
    suspension.held.push(keelson_types::HeldTimeline {
        discard: keelson_types::Discard { epoch: epoch(1), kept: keelson_types::LogEnd::ZERO },
        since_unix_ms: 0,
        told: false,
    });
    let delete = SeedOrder { old_files: OldFiles::Delete, ..order(None) };
    log.refused(RefusalReason::Precondition, &begin(3, delete));
    log.ok(&begin(3, SeedOrder { manual_resume: true, ..order(None) }));
    log.ok(&end(Ok(())));
    let fresh = &config(&log, NEW).unwrap().suspension;
    assert!(fresh.replication.is_some() && fresh.held.is_empty(), "it holds nothing of it");
    assert_eq!(fresh.by, SuspendedBy::Operator);
}

fn index_order() -> SeedOrder {
    SeedOrder { scope: SeedScope::Catalog, ..order(None) }
}

/// F53, F64: an index is seeded while its copy counts and goes on; the copy stays what it is.
#[test]
fn an_index_is_seeded_beside_a_copy_that_goes_on() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let before = config(&log, copy(3)).cloned().unwrap();
    log.ok(&begin(3, index_order()));
    let seeded = config(&log, copy(3)).unwrap();
    assert!(seeded.seeding.is_some() && !seeded.is_remade() && seeded.may_count());
    assert_eq!(log.state.operations[&SEED].seed.as_ref().unwrap().scope, SeedScope::Catalog);
    assert_eq!(log.state.databases[&DB].holds.len(), 1, "log from the index on is kept");
    // An operator may do with the copy what he likes, but for removing it.
    log.ok(&suspend(3));
    let request = ResumeRequest::default();
    log.ok(&Command::ResumeCopy { database: DB, copy: copy(3), request });
    log.refused(
        RefusalReason::SeedInProgress,
        &begin(3, SeedOrder { operation: OperationId::from_u128(8), ..index_order() }),
    );
    log.refused(
        RefusalReason::SeedInProgress,
        &Command::RemoveCopy { database: DB, copy: copy(3) },
    );
    log.ok(&report(Some(4)));
    log.ok(&end(Ok(())));
    let after = config(&log, copy(3)).cloned().unwrap();
    assert_eq!(after.resumes, before.resumes + 1, "the operator's, not the seed's");
    assert_eq!((after.seeding, after.suspension), (None, before.suspension));
    assert!(log.state.databases[&DB].holds.is_empty() && config(&log, NEW).is_none());
    assert_eq!(log.state.operations[&SEED].state, OperationState::Succeeded);
}

/// F46, F53: what has no index, or whose index rests, gets none; a copy that gets one is no source
/// of another index.
#[test]
fn an_index_that_cannot_be_seeded_is_refused() {
    use RefusalReason as R;
    let mut log = three_copies();
    activate(&mut log, 1);
    log.refused(R::Precondition, &begin(1, index_order()));
    log.ok(&begin(3, index_order()));
    let of_third = SeedOrder {
        operation: OperationId::from_u128(8),
        source: Some(member(3)),
        ..index_order()
    };
    log.refused(R::SourceUnfit, &begin(2, of_third.clone()));
    log.ok(&end(Ok(())));
    let database = log.state.databases.get_mut(&DB).unwrap();
    database.copies.get_mut(&copy(2)).unwrap().kind = crate::state::CopyKind::Lagged;
    log.refused(R::NoCatalog, &begin(2, of_third.clone()));
    log.state.databases.get_mut(&DB).unwrap().settings.content_index.enabled = false;
    log.refused(R::NoCatalog, &begin(3, SeedOrder { source: Some(member(1)), ..of_third }));
}

/// A seed of a database that is removed ends with it.
#[test]
fn a_removed_database_ends_its_seeds() {
    let mut log = suspended();
    log.ok(&begin(3, order(None)));
    log.ok(&Command::RemoveDatabase { database: DB, force: true });
    assert!(log.state.operations[&SEED].is_finished());
}

//! Tests of the commands of activations: epochs, targets, rules.

use keelson_types::{CommitConstraint, SuspendRequest};

use super::*;
use crate::apply::tests::{
    activate, allocate, allocation, bind_refused, binding, change, three_copies,
};
use crate::command::Command;
use crate::state::EPOCH_HISTORY_MAX;
use crate::testing::{DB, Log, copy, create, epoch, life, member, rule};

#[test]
fn allocating_takes_the_pair_away_and_counts_up() {
    let mut log = three_copies();
    activate(&mut log, 1);
    assert_eq!(log.state.assignments(member(1)).count(), 1);
    allocate(&mut log, 1);
    let database = &log.state.databases[&DB];
    assert_eq!((database.epoch, database.state), (epoch(2), DatabaseState::Sealing));
    assert_eq!((database.target, database.assigned_at), (None, log.index));
    assert_eq!(log.state.members[&member(1)].assignment_revision, log.index);
    assert_eq!(log.state.assignments(member(1)).count(), 0);
}

#[test]
fn each_allocation_stands_for_itself() {
    let mut log = three_copies();
    log.ok(&create(2, &[1, 2]));
    let item = |n, expected| AllocateItem {
        database: DatabaseId::from_u128(n),
        expected,
        reason: ActivationReason::LeaseExpired,
    };
    let items = vec![item(1, epoch(5)), item(2, Epoch::ZERO), item(9, Epoch::ZERO)];
    let Answer::Epochs(answers) = log.ok(&Command::AllocateEpochs(items)) else {
        panic!("not an answer to AllocateEpochs");
    };
    let results: Vec<_> =
        answers.into_iter().map(|answer| answer.result.map_err(|r| r.reason)).collect();
    let expected =
        [Err(RefusalReason::StaleEpoch), Ok(epoch(1)), Err(RefusalReason::UnknownDatabase)];
    assert_eq!(results, expected);
}

#[test]
fn epochs_carry_the_recovery_generation() {
    let mut log = three_copies();
    log.state.recovery_generation = 1;
    allocate(&mut log, 1);
    assert_eq!(log.state.databases[&DB].epoch, Epoch::new(1, 1));
}

#[test]
fn a_target_is_bound_once_per_epoch_r5() {
    let mut log = three_copies();
    allocate(&mut log, 1);
    let first = binding(&log, 1, 1);
    log.ok(&Command::Activate(vec![first.clone()]));
    let second = binding(&log, 1, 2);
    assert_eq!(second.rule.version, 2, "nothing but the target speaks against it");
    bind_refused(&mut log, RefusalReason::Precondition, second.clone());
    let mut weak = log.clone();
    let rebind = Command::Activate(vec![second]);
    weak.state.apply_with(99, &rebind, Weakness::AttemptsShareEpoch);
    assert_eq!(weak.state.databases[&DB].target, Some(copy(2)), "with the rule off it is rebound");
    allocate(&mut log, 1);
    bind_refused(&mut log, RefusalReason::StaleEpoch, first);
}

#[test]
fn a_target_must_be_the_life_that_was_sealed_and_its_rule_must_fit() {
    let mut log = three_copies();
    allocate(&mut log, 1);
    let good = binding(&log, 1, 1);
    let other_life = ActivateItem { incarnation: life(9), ..good.clone() };
    bind_refused(&mut log, RefusalReason::TargetUnfit, other_life);
    let unknown = ActivateItem { target: copy(9), ..good.clone() };
    bind_refused(&mut log, RefusalReason::UnknownCopy, unknown);
    let mut foreign = good.clone();
    foreign.rule.active = copy(2);
    bind_refused(&mut log, RefusalReason::BadArgument, foreign);
    let mut twice = good.clone();
    twice.rule.participants.push(twice.rule.participants[0].clone());
    bind_refused(&mut log, RefusalReason::BadArgument, twice);
    let mut skipped = good;
    skipped.rule.version = 7;
    bind_refused(&mut log, RefusalReason::Precondition, skipped);
}

/// F43: an operator's word that is recorded before the target is holds, though the copy was sealed
/// and chosen before it.
#[test]
fn a_target_that_was_suspended_while_it_was_sealed_is_not_bound() {
    let mut log = three_copies();
    allocate(&mut log, 1);
    let chosen = binding(&log, 1, 2);
    let request = SuspendRequest { comment: "disk".into(), ..SuspendRequest::default() };
    log.ok(&Command::SuspendCopy { database: DB, copy: copy(2), request });
    bind_refused(&mut log, RefusalReason::TargetUnfit, chosen.clone());
    let marks = log.state.marks_of(&log.state.databases[&DB], copy(2));
    assert_eq!(marks, BTreeSet::from([Mark::Stopped, Mark::Blocked]));
    log.ok(&Command::Activate(vec![ActivateItem { marks, ..chosen }]));
}

#[test]
fn established_drops_the_rules_of_older_epochs_r2() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let established = |n| Command::Established { database: DB, epoch: epoch(n) };
    allocate(&mut log, 1);
    log.refused(RefusalReason::Precondition, &established(2));
    let item = binding(&log, 1, 2);
    log.ok(&Command::Activate(vec![item]));
    let epochs = |log: &Log| -> Vec<Epoch> {
        log.state.databases[&DB].unestablished.iter().map(|record| record.epoch).collect()
    };
    assert_eq!(epochs(&log), [epoch(1), epoch(2)]);
    log.refused(RefusalReason::StaleEpoch, &established(1));
    log.ok(&established(2));
    log.ok(&established(2));
    assert_eq!(epochs(&log), [epoch(2)]);
    assert_eq!(log.state.databases[&DB].state, DatabaseState::Established);
}

#[test]
fn repeated_failures_do_not_pile_up_rules_or_history() {
    let mut log = three_copies();
    activate(&mut log, 1);
    for n in 0..200 {
        allocate(&mut log, 1);
        let item = binding(&log, 1, 2 + n % 2);
        log.ok(&Command::Activate(vec![item]));
    }
    let database = &log.state.databases[&DB];
    let actives: Vec<_> = database.unestablished.iter().map(|record| record.rule.active).collect();
    assert_eq!(actives, [copy(1), copy(3), copy(2), copy(3)]);
    let epochs: Vec<_> = database.unestablished.iter().map(|record| record.epoch).collect();
    let newest = database.epoch.counter;
    assert_eq!(
        epochs[1..],
        [newest - 2, newest - 1, newest].map(epoch),
        "of equal ones the newest"
    );
    assert_eq!(database.history.len(), EPOCH_HISTORY_MAX);
}

#[test]
fn only_the_active_of_the_newest_epoch_changes_the_rule_r1() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let constraint = CommitConstraint::SecondCopy;
    let smaller = rule(2, 1, constraint, &[1, 3]);
    log.ok(&change(1, 1, smaller.clone()));
    log.ok(&change(1, 1, smaller.clone()));
    let database = &log.state.databases[&DB];
    assert_eq!(database.rule.as_ref(), Some(&smaller));
    assert_eq!(database.unestablished.last().map(|record| &record.rule), Some(&smaller));
    log.refused(RefusalReason::Precondition, &change(1, 1, rule(2, 1, constraint, &[1])));
    log.refused(RefusalReason::BadArgument, &change(1, 2, rule(3, 2, constraint, &[1, 2])));
    log.refused(RefusalReason::BadArgument, &change(1, 2, rule(3, 1, constraint, &[1, 9])));
    log.refused(RefusalReason::StaleEpoch, &change(2, 2, rule(3, 1, constraint, &[1])));
    log.ok(&change(1, 2, rule(3, 1, constraint, &[1])));
    let kinds: Vec<_> = log.state.events.iter().rev().take(2).map(|e| e.kind.clone()).collect();
    assert_eq!(kinds[0], EventKind::Degraded { dropped: vec![copy(3)] });
    allocate(&mut log, 1);
    log.refused(RefusalReason::StaleEpoch, &change(1, 3, rule(4, 1, constraint, &[1, 2])));
    log.refused(RefusalReason::Precondition, &change(2, 3, rule(4, 1, constraint, &[1, 2])));
}

#[test]
fn every_mount_is_a_new_epoch_r5() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let set = |intent| Command::SetMountIntent { database: DB, intent };
    log.ok(&set(MountIntent::Dismounted));
    let database = &log.state.databases[&DB];
    assert_eq!((database.epoch, database.target), (epoch(1), Some(copy(1))));
    assert_eq!(log.state.members[&member(1)].assignment_revision, log.index);
    let Answer::Epochs(answers) = log.ok(&allocation(&log.clone(), 1, ActivationReason::Wedged))
    else {
        panic!("not an answer to AllocateEpochs");
    };
    let reason = answers[0].result.as_ref().expect_err("refused").reason;
    assert_eq!(reason, RefusalReason::Dismounted);
    log.ok(&set(MountIntent::Mounted));
    log.ok(&set(MountIntent::Mounted));
    let database = &log.state.databases[&DB];
    assert_eq!((database.epoch, database.state), (epoch(2), DatabaseState::Sealing));
}

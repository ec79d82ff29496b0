//! Tests of `apply`.

use std::collections::BTreeSet;

use keelson_types::{
    ClusterId, CommitConstraint, DatabaseName, Epoch, LagSettings, LogEnd, OperationId,
    SuspendRequest,
};

use super::*;
use crate::command::{ActivateItem, AllocateItem};
use crate::decision::{ActivationReason, DecisionRecord};
use crate::operation::{OperationKind, OperationState};
use crate::state::{
    CERTIFIED_DEAD_MAX, ConstraintSetting, CopyKind, DatabaseSettings, OPERATIONS_MAX,
};
use crate::testing::{
    DB, Log, copy, copy_of, create, epoch, life, member, member_config, new_copy, rule,
};

pub(crate) fn decision(database: DatabaseId, epoch: Epoch) -> DecisionRecord {
    DecisionRecord::blank("test", (database, epoch), ActivationReason::NewDatabase)
}

pub(crate) fn allocation(log: &Log, database: u128, reason: ActivationReason) -> Command {
    let database = DatabaseId::from_u128(database);
    let expected = log.state.databases[&database].epoch;
    Command::AllocateEpochs(vec![AllocateItem { database, expected, reason }])
}

pub(crate) fn allocate(log: &mut Log, database: u128) {
    let command = allocation(log, database, ActivationReason::Wedged);
    log.ok(&command);
}

/// Binds member `n`'s copy of the newest epoch, with all copies in the rule.
pub(crate) fn binding(log: &Log, database: u128, n: u128) -> ActivateItem {
    let id = DatabaseId::from_u128(database);
    let recorded = &log.state.databases[&id];
    let version = recorded.rule.as_ref().map_or(1, |rule| rule.version + 1);
    let members: Vec<u128> = recorded
        .copies
        .values()
        .map(|copy| u128::from_be_bytes(copy.member.into_bytes()))
        .collect();
    let mut rule = rule(version, n, CommitConstraint::SecondCopy, &members);
    rule.active = copy_of(database, n);
    for (participant, n) in rule.participants.iter_mut().zip(&members) {
        participant.copy = copy_of(database, *n);
    }
    ActivateItem {
        database: id,
        epoch: recorded.epoch,
        target: copy_of(database, n),
        incarnation: life(n),
        marks: BTreeSet::new(),
        rule,
        required_end: LogEnd::ZERO,
        sources: Vec::new(),
        decision: decision(id, recorded.epoch),
        ceiling: None,
        turn: None,
    }
}

/// Allocates an epoch of [`DB`] and binds and establishes member `n` in it.
pub(crate) fn activate(log: &mut Log, n: u128) {
    activate_database(log, 1, n);
}

pub(crate) fn activate_database(log: &mut Log, database: u128, n: u128) {
    allocate(log, database);
    let item = binding(log, database, n);
    let (database, epoch) = (item.database, item.epoch);
    log.ok(&Command::Activate(vec![item]));
    log.ok(&Command::Established { database, epoch });
}

#[track_caller]
pub(crate) fn bind_refused(log: &mut Log, reason: RefusalReason, item: ActivateItem) {
    let before = log.state.clone();
    let Answer::Activated(answers) = log.ok(&Command::Activate(vec![item])) else {
        panic!("not an answer to Activate");
    };
    let refusal = answers[0].result.clone().expect_err("the item is refused");
    assert_eq!(refusal.reason, reason, "{}", refusal.message);
    assert_eq!(log.state, before);
}

/// Copy 3 counts no longer in the rule of epoch 1.
pub(crate) fn without_third(log: &mut Log) {
    let version = log.state.databases[&DB].rule.as_ref().map_or(0, |rule| rule.version);
    log.ok(&Command::ChangeRule {
        database: DB,
        epoch: epoch(1),
        expected_version: version,
        rule: rule(version + 1, 1, CommitConstraint::SecondCopy, &[1, 2]),
    });
}

pub(crate) fn change(
    counter: u64,
    expected_version: u64,
    rule: keelson_types::CommitRule,
) -> Command {
    Command::ChangeRule { database: DB, epoch: epoch(counter), expected_version, rule }
}

pub(crate) fn three_copies() -> Log {
    let mut log = Log::with_members(3);
    log.ok(&create(1, &[1, 2, 3]));
    log
}

#[test]
fn a_cluster_is_named_once() {
    let mut log = Log::default();
    let init = |n| Command::InitCluster { cluster: ClusterId::from_u128(n) };
    log.ok(&init(1));
    log.ok(&init(1));
    log.refused(RefusalReason::ForeignCluster, &init(2));
}

#[test]
fn members_are_added_changed_and_removed() {
    let mut log = Log::with_members(2);
    log.ok(&Command::AddMember { member: member_config(1) });
    let renamed = crate::MemberConfig { voter: false, ..member_config(1) };
    log.refused(RefusalReason::AlreadyExists, &Command::AddMember { member: renamed });
    let twin = crate::MemberConfig { id: member(9), ..member_config(1) };
    log.refused(RefusalReason::AlreadyExists, &Command::AddMember { member: twin });
    let set = |n| Command::SetMember {
        member: member(n),
        control_address: None,
        data_address: Some("elsewhere:1".into()),
        replication_addresses: Some(vec!["10.1.0.1:1".into()]),
        site: Some(crate::testing::site("there")),
        voter: None,
    };
    log.ok(&set(1));
    let config = &log.state.members[&member(1)].config;
    assert_eq!((config.data_address.as_str(), config.site.as_str()), ("elsewhere:1", "there"));
    assert_eq!((config.control_address.as_str(), config.voter), ("m1:7001", true));
    log.refused(RefusalReason::UnknownMember, &set(9));
    log.ok(&create(1, &[1]));
    log.refused(RefusalReason::InUse, &Command::RemoveMember { member: member(1) });
    log.ok(&Command::RemoveMember { member: member(2) });
    log.refused(RefusalReason::UnknownMember, &Command::RemoveMember { member: member(2) });
}

#[test]
fn a_new_life_waits_for_the_one_that_may_hold_a_lease() {
    let mut log = Log::with_members(1);
    let start = |n| Command::StartIncarnation { member: member(1), incarnation: life(n) };
    let confirm = |n| Command::ConfirmIncarnation { member: member(1), previous: life(n) };
    log.ok(&start(1));
    assert_eq!(log.state.members[&member(1)].previous, None, "the same life again");
    log.ok(&start(2));
    log.ok(&start(3));
    let m1 = &log.state.members[&member(1)];
    assert_eq!((m1.incarnation, m1.previous), (Some(life(3)), Some(life(1))), "2 had no lease");
    log.refused(RefusalReason::SecondHolder, &start(1));
    log.refused(RefusalReason::Precondition, &confirm(2));
    log.ok(&confirm(1));
    log.ok(&confirm(1));
    log.ok(&start(4));
    assert_eq!(log.state.members[&member(1)].previous, Some(life(3)));
}

#[test]
fn a_certified_life_never_comes_back() {
    let mut log = Log::with_members(1);
    let certify = |n| Command::CertifyDeath { member: member(1), incarnation: life(n) };
    let start = |n| Command::StartIncarnation { member: member(1), incarnation: life(n) };
    log.ok(&certify(1));
    assert!(log.state.members[&member(1)].holds_no_lease());
    log.refused(RefusalReason::Precondition, &start(1));
    log.ok(&start(2));
    assert_eq!(log.state.members[&member(1)].previous, None, "nobody to wait for");
    log.ok(&start(3));
    log.ok(&certify(2));
    let m1 = &log.state.members[&member(1)];
    assert_eq!((m1.incarnation, m1.previous), (Some(life(3)), None));
    let before = log.state.events.pushed();
    log.ok(&certify(2));
    assert_eq!(log.state.events.pushed(), before, "a repetition is no event");
    (10..200).for_each(|n| drop(log.ok(&certify(n))));
    assert_eq!(log.state.members[&member(1)].certified_dead.len(), CERTIFIED_DEAD_MAX);
}

#[test]
fn a_released_life_leaves_nothing_to_wait_for() {
    let mut log = Log::with_members(1);
    log.ok(&Command::ReleaseIncarnation { member: member(1), incarnation: life(1) });
    let m1 = &log.state.members[&member(1)];
    assert!(m1.holds_no_lease() && m1.is_over(life(1)) && m1.certified_dead.is_empty());
}

#[test]
fn creating_a_database_again_is_the_same_request() {
    let mut log = three_copies();
    let before = log.state.databases.clone();
    log.ok(&create(1, &[1, 2, 3]));
    assert_eq!(log.state.databases, before);
    let Command::CreateDatabase { stream, settings, copies, name, .. } = create(1, &[1]) else {
        panic!("create makes CreateDatabase");
    };
    let other = |id, name: &str, copies: &[crate::NewCopy]| Command::CreateDatabase {
        id: DatabaseId::from_u128(id),
        name: DatabaseName::new(name).expect("a valid name"),
        stream,
        settings: settings.clone(),
        copies: copies.to_vec(),
    };
    log.refused(RefusalReason::AlreadyExists, &other(1, "DB9", &copies));
    log.refused(RefusalReason::AlreadyExists, &other(2, name.as_str(), &copies));
    log.refused(RefusalReason::BadArgument, &other(2, "DB2", &[]));
    log.refused(RefusalReason::UnknownMember, &other(2, "DB2", &[new_copy(2, 9)]));
    let twice = [new_copy(2, 1), crate::NewCopy { copy: copy(77), ..new_copy(2, 1) }];
    log.refused(RefusalReason::AlreadyExists, &other(2, "DB2", &twice));
    let witness = crate::MemberConfig { data_address: String::new(), ..member_config(7) };
    log.ok(&Command::AddMember { member: witness });
    log.refused(RefusalReason::Precondition, &other(2, "DB2", &[new_copy(2, 7)]));
}

#[test]
fn settings_are_checked_against_the_copies() {
    let mut log = Log::with_members(2);
    log.ok(&create(1, &[1]));
    let set = |settings| Command::SetDatabase { database: DB, settings };
    let constraint = ConstraintSetting::Explicit(CommitConstraint::SecondCopy);
    let second = DatabaseSettings { constraint, ..DatabaseSettings::default() };
    log.refused(RefusalReason::Precondition, &set(second.clone()));
    let small = DatabaseSettings { generation_bytes: 5, ..DatabaseSettings::default() };
    log.refused(RefusalReason::BadArgument, &set(small));
    log.ok(&Command::AddCopy { database: DB, copy: new_copy(1, 2) });
    log.ok(&set(second));
    let remove = Command::RemoveCopy { database: DB, copy: copy(2) };
    log.refused(RefusalReason::Precondition, &remove);
}

#[test]
fn copies_are_added_replaced_and_removed() {
    let mut log = three_copies();
    activate(&mut log, 1);
    log.ok(&Command::AddCopy { database: DB, copy: new_copy(1, 3) });
    let again = crate::NewCopy { copy: copy(77), ..new_copy(1, 3) };
    log.refused(RefusalReason::AlreadyExists, &Command::AddCopy { database: DB, copy: again });
    let remove = |n| Command::RemoveCopy { database: DB, copy: copy(n) };
    log.refused(RefusalReason::Precondition, &remove(1));
    log.refused(RefusalReason::Precondition, &remove(3));
    log.refused(RefusalReason::UnknownCopy, &remove(9));
    let leaving = |n| Command::SetCopy {
        database: DB,
        copy: copy(n),
        preference: None,
        leaving: Some(true),
        lag: None,
    };
    log.refused(RefusalReason::Precondition, &leaving(1));
    log.ok(&leaving(3));
    let smaller = rule(2, 1, CommitConstraint::SecondCopy, &[1, 2]);
    log.ok(&change(1, 1, smaller));
    log.ok(&remove(3));
    let replace = Command::ReplaceCopy { database: DB, old: copy(2), new: copy(20) };
    log.ok(&replace);
    log.ok(&replace);
    let database = &log.state.databases[&DB];
    assert_eq!(database.copy_on(member(2)), Some(copy(20)));
    assert!(database.rule.as_ref().expect("bound").has(copy(2)), "the old id stays in the rule");
    let active = Command::ReplaceCopy { database: DB, old: copy(1), new: copy(10) };
    log.refused(RefusalReason::Precondition, &active);
}

/// A server on a copy of a member's directory has a life of its own, which is never recorded while
/// the member lives.
#[test]
fn only_the_recorded_life_of_a_member_speaks_for_it() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let recorded = log.state.members[&member(1)].incarnation.expect("it lives");
    let of_life = |log: &Log, incarnation| Command::OfLife {
        member: member(1),
        incarnation,
        command: Box::new(allocation(log, 1, ActivationReason::Wedged)),
    };
    let before = log.state.databases[&DB].epoch;
    let foreign = of_life(&log, keelson_types::IncarnationId::from_u128(4711));
    log.refused(RefusalReason::Precondition, &foreign);
    assert_eq!(log.state.databases[&DB].epoch, before);
    let own = of_life(&log, recorded);
    log.ok(&own);
    assert!(log.state.databases[&DB].epoch > before);
}

/// F43, F44: what an operator suspends is recorded, ends by itself, and never the active copy.
#[test]
fn copies_are_suspended_and_resumed() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let suspend = |n, comment: &str, lasting| Command::SuspendCopy {
        database: DB,
        copy: copy(n),
        request: SuspendRequest { activation_only: false, comment: comment.into(), lasting },
    };
    let at = |unix_ms, command| Command::Stamped { unix_ms, command: Box::new(command) };
    log.refused(RefusalReason::Precondition, &suspend(1, "active", None));
    log.refused(RefusalReason::BadArgument, &suspend(2, &"x".repeat(513), None));
    log.refused(RefusalReason::UnknownCopy, &suspend(9, "", None));
    log.ok(&at(1_000, suspend(2, "disk change", Some(std::time::Duration::from_secs(60)))));
    let config = |log: &Log| log.state.databases[&DB].copies[&copy(2)].clone();
    assert!(config(&log).is_stopped() && !config(&log).may_count());
    log.ok(&at(60_999, Command::EndSuspensions));
    assert!(config(&log).is_stopped(), "its time is not over");
    log.ok(&at(61_000, Command::EndSuspensions));
    assert!(!config(&log).is_stopped());
    log.ok(&suspend(2, "again", None));
    let request = keelson_types::ResumeRequest { replication_only: true, ..Default::default() };
    log.ok(&Command::ResumeCopy { database: DB, copy: copy(2), request });
    assert!(!config(&log).is_stopped() && config(&log).suspension.activation.is_some());
    assert_eq!(config(&log).resumes, 1);
}

/// F87, F89: a replay lag makes a lagged copy, which is no HA copy; the last HA copy stays one.
#[test]
fn a_replay_lag_makes_a_lagged_copy() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let lag = |n, hours: i64| Command::SetCopy {
        database: DB,
        copy: copy(n),
        preference: None,
        leaving: None,
        lag: LagSettings::from_seconds(hours * 3_600, 0).ok(),
    };
    log.refused(RefusalReason::Precondition, &lag(1, 1));
    log.ok(&lag(2, 24));
    assert_eq!(log.state.databases[&DB].copies[&copy(2)].kind, CopyKind::Lagged);
    assert_eq!(log.state.databases[&DB].ha_copy_count(), 2);
    log.ok(&lag(2, 0));
    assert_eq!(log.state.databases[&DB].copies[&copy(2)].kind, CopyKind::Ha);
}

#[test]
fn a_database_wanted_open_is_removed_only_by_force() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let remove = |force| Command::RemoveDatabase { database: DB, force };
    log.refused(RefusalReason::Precondition, &remove(false));
    log.ok(&remove(true));
    assert_eq!(log.state.members[&member(1)].assignment_revision, log.index);
    log.refused(RefusalReason::UnknownDatabase, &remove(true));
}

#[test]
fn operations_are_one_request_per_id() {
    let mut log = Log::default();
    let id = OperationId::from_u128;
    let put = |n| Command::PutOperation { id: id(n), kind: OperationKind::Other("x".into()) };
    let finish = |n| Command::UpdateOperation {
        id: id(n),
        state: OperationState::Succeeded,
        progress_percent: 200,
        message: "é".repeat(400),
    };
    log.ok(&put(1));
    log.ok(&put(1));
    let other = OperationKind::Mount { database: DB, accept_loss: None };
    let clash = Command::PutOperation { id: id(1), kind: other };
    log.refused(RefusalReason::AlreadyExists, &clash);
    log.refused(RefusalReason::UnknownOperation, &finish(2));
    (2..=OPERATIONS_MAX as u128).for_each(|n| drop(log.ok(&put(n))));
    log.refused(RefusalReason::Overloaded, &put(9_999));
    log.ok(&finish(5));
    assert_eq!(log.state.operations[&id(5)].progress_percent, 100);
    assert_eq!(log.state.operations[&id(5)].message.len(), 512);
    log.ok(&put(9_999));
    assert!(!log.state.operations.contains_key(&id(5)), "the finished one made place");
}

#[test]
fn a_stamp_dates_events_and_a_batch_answers_each_command() {
    let mut log = Log::default();
    let add = |n| Command::AddMember { member: member_config(n) };
    let batch = Command::Batch(vec![add(1), Command::RemoveMember { member: member(9) }, add(2)]);
    let stamped = Command::Stamped { unix_ms: 77, command: Box::new(batch) };
    let Answer::Batch(outcomes) = log.ok(&stamped) else { panic!("not an answer to Batch") };
    let accepted: Vec<_> = outcomes.iter().map(|o| matches!(o, Outcome::Ok(_))).collect();
    assert_eq!(accepted, [true, false, true]);
    assert_eq!(log.state.events.last().map(|event| event.unix_ms), Some(77));
    assert_eq!(log.state.members.len(), 2);
}

#[test]
fn the_state_survives_json() {
    let mut log = three_copies();
    activate(&mut log, 1);
    allocate(&mut log, 1);
    log.ok(&Command::CertifyDeath { member: member(3), incarnation: life(3) });
    let put = OperationKind::Switchover {
        database: DB,
        to: member(2),
        comment: "why".into(),
        options: crate::MoveOptions::default(),
    };
    log.ok(&Command::PutOperation { id: OperationId::from_u128(1), kind: put });
    let record = decision(DB, epoch(2));
    log.ok(&Command::RecordDecision(Box::new(record)));
    let json = serde_json::to_string(&log.state).expect("serializes");
    let read: ClusterState = serde_json::from_str(&json).expect("deserializes");
    assert_eq!(read, log.state);
    let command = Command::Activate(vec![binding(&log, 1, 2)]);
    let json = serde_json::to_string(&command).expect("serializes");
    assert_eq!(serde_json::from_str::<Command>(&json).expect("deserializes"), command);
}

//! What a recovery records, and what ends it.

use std::collections::BTreeSet;

use keelson_types::{DatabaseId, Epoch, Weakness};

use super::*;
use crate::apply::tests::{activate, activate_database, allocate, three_copies};
use crate::command::Command;
use crate::proof::{Verdict, lossless};
use crate::testing::{DB, Log, copy_of, create, life, member};

fn recovery(generation: u32, lost: &[u128]) -> Command {
    Command::RecoverSite(Box::new(SiteRecovery {
        generation,
        lost: lost.iter().map(|n| member(*n)).collect(),
        comment: "the north burns".into(),
    }))
}

fn proof(log: &Log, database: u128, reached: &[u128]) -> Verdict {
    let reached: BTreeSet<_> = reached.iter().map(|n| copy_of(database, *n)).collect();
    let rules = &log.state.databases[&DatabaseId::from_u128(database)].unestablished;
    lossless(rules, &reached, Weakness::None)
}

#[test]
fn the_generation_rises_and_is_in_every_epoch_from_then_on() {
    let mut log = three_copies();
    activate(&mut log, 1);
    log.refused(RefusalReason::Precondition, &recovery(0, &[1]));
    log.ok(&recovery(1, &[1]));
    log.refused(RefusalReason::Precondition, &recovery(1, &[1]));
    let database = &log.state.databases[&DB];
    assert_eq!((database.epoch, database.target), (Epoch::new(1, 2), None));
    assert_eq!(database.newest_reason(), Some(&ActivationReason::SiteRecovered));
    log.ok(&recovery(7, &[1]));
    assert_eq!(log.state.databases[&DB].epoch, Epoch::new(7, 3));
}

/// The rule that this state knows says that copy 3 has every acknowledged write; the lost members
/// may have changed it since.
#[test]
fn what_lost_copies_may_have_acknowledged_stands_against_every_proof() {
    let mut log = three_copies();
    activate(&mut log, 1);
    assert!(proof(&log, 1, &[2, 3]).is_lossless(), "without a recovery it would pass");
    log.ok(&recovery(1, &[1, 2]));
    assert!(!proof(&log, 1, &[3]).is_lossless());
    assert!(!proof(&log, 1, &[2, 3]).is_lossless(), "one lost copy is enough");
    assert!(proof(&log, 1, &[1, 2, 3]).is_lossless(), "all are back");
}

#[test]
fn a_database_without_a_lost_copy_opens_by_itself() {
    let mut log = Log::with_members(4);
    log.ok(&create(1, &[2, 3]));
    activate_database(&mut log, 1, 2);
    log.ok(&recovery(1, &[1, 4]));
    assert!(proof(&log, 1, &[3]).is_lossless());
}

#[test]
fn the_doubts_end_with_the_next_epoch_that_is_established() {
    let mut log = three_copies();
    activate(&mut log, 1);
    log.ok(&recovery(1, &[1]));
    activate(&mut log, 3);
    let database = &log.state.databases[&DB];
    assert_eq!(database.unestablished.len(), 1);
    assert_eq!(database.unestablished[0].rule.active, copy_of(1, 3));
}

#[test]
fn lost_members_are_stopped_and_the_others_serve() {
    let mut log = three_copies();
    let members = BTreeSet::from([member(3)]);
    log.ok(&Command::StopMembers { members, comment: Some("power".into()) });
    log.refused(RefusalReason::Precondition, &recovery(1, &[1, 2, 3]));
    log.ok(&recovery(1, &[1, 2]));
    let stopped = |n| log.state.members[&member(n)].stopped.clone().map(|why| why.comment);
    assert_eq!(stopped(1).as_deref(), Some("the north burns"));
    assert_eq!((stopped(2).is_some(), stopped(3)), (true, None));
    let told = log.state.events.iter().last().map(|event| event.kind.clone());
    let lost = BTreeSet::from([member(1), member(2)]);
    let comment = "the north burns".to_owned();
    assert_eq!(told, Some(EventKind::SiteRecovered { generation: 1, lost, comment }));
}

#[test]
fn a_database_that_is_closed_stays_closed_and_in_doubt() {
    let mut log = three_copies();
    activate(&mut log, 1);
    log.ok(&Command::SetMountIntent { database: DB, intent: MountIntent::Dismounted });
    let before = log.state.databases[&DB].epoch;
    log.ok(&recovery(1, &[1]));
    assert_eq!(log.state.databases[&DB].epoch, before, "its next mount allocates");
    assert!(!proof(&log, 1, &[2, 3]).is_lossless());
    log.ok(&Command::SetMountIntent { database: DB, intent: MountIntent::Mounted });
    allocate(&mut log, 1);
    assert_eq!(log.state.databases[&DB].epoch.recovery, 1);
}

#[test]
fn the_record_of_a_lost_copy_names_the_life_that_may_still_serve() {
    let mut log = three_copies();
    activate(&mut log, 2);
    log.ok(&recovery(1, &[1]));
    let doubt = &log.state.databases[&DB].unestablished[0];
    assert_eq!((doubt.rule.active, doubt.incarnation), (copy_of(1, 1), life(1)));
}

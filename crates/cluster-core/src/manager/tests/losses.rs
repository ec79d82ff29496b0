//! An operator accepts loss where the proof fails (G3, design §6).

use keelson_types::RefusalReason;

use super::moves::{finished, mount_requested};
use super::*;
use crate::loss::AcceptedLoss;

const ANY: Option<AcceptedLoss> = Some(AcceptedLoss { on: None });

fn on(n: u128) -> Option<AcceptedLoss> {
    Some(AcceptedLoss { on: Some(member(n)) })
}

/// Members 1 and 2 are gone; the rule of epoch 1 let them acknowledge without copy 3.
fn stuck() -> World {
    let mut world = World::established();
    for n in [1, 2] {
        let (member, incarnation) = (member(n), life(n));
        world.step(ManagerEvent::DeathCertified { member, incarnation });
    }
    world.sealed(3, 2, end(1, 30));
    assert_eq!(world.database().target, None, "the proof fails");
    world
}

/// The activation goes through the one path: the copy is sealed again, then bound in the epoch,
/// with a receipt that says where the log goes on and who might hold more.
#[test]
fn an_accepted_loss_binds_what_is_reached_and_leaves_a_receipt_g3() {
    let mut world = stuck();
    let actions = world.step(mount_requested(ANY));
    assert_eq!(others(&actions), [seal(3, 2)]);
    let actions = world.sealed(3, 2, end(1, 30));
    let item = bound(&actions);
    assert_eq!((item.target, item.required_end, item.epoch), (copy(3), end(1, 30), epoch(2)));
    let receipt = item.decision.loss.expect("a receipt");
    assert_eq!((receipt.epoch, receipt.kept, receipt.certain), (epoch(2), end(1, 30), None));
    assert_eq!(receipt.unreached, [copy(1), copy(2)].into());
    assert!(!item.decision.verdict.is_lossless(), "the record still says that the proof failed");
    let recorded: Vec<_> = world.database().receipts.iter().collect();
    assert_eq!(recorded, [&receipt]);
    assert_eq!(finished(&world.mounted(2)), [Ok(())]);
    let rules: Vec<_> = world.database().unestablished.iter().map(|rule| rule.epoch).collect();
    assert_eq!(rules, [epoch(2)], "older timelines have no rule to be proved by any more");
}

/// Nothing is given up without a word, also not by an ordinary mount.
#[test]
fn without_an_accepted_loss_the_database_waits() {
    let mut world = stuck();
    world.step(mount_requested(None));
    let actions = world.sealed(3, 2, end(1, 30));
    assert_eq!(finished(&actions), [Err(RefusalReason::NoLosslessCopy)]);
    assert_eq!((world.database().target, world.database().receipts.len()), (None, 0));
}

/// R6: a copy that proves to hold everything is taken, also if another one was named.
#[test]
fn a_lossless_way_comes_before_the_accepted_one_r6() {
    let mut world = stuck();
    let incarnation = life(12);
    world.log.ok(&Command::StartIncarnation { member: member(2), incarnation });
    world.step(mount_requested(on(3)));
    world.alive(2);
    world.sealed(3, 2, end(1, 30));
    let item = bound(&world.sealed(2, 2, end(1, 40)));
    assert_eq!((item.target, item.required_end), (copy(2), end(1, 40)));
    assert_eq!(item.decision.loss, None);
}

/// The named copy takes over what the others that are reached hold.
#[test]
fn only_the_named_copy_is_opened_and_fetches_what_others_hold() {
    let mut world = stuck();
    let all = rule(1, 1, CommitConstraint::None, &[1]);
    let database = world.log.state.databases.get_mut(&DB).expect("exists");
    database.unestablished[0].rule = all;
    world.log.ok(&Command::StartIncarnation { member: member(2), incarnation: life(12) });
    world.alive(2);
    world.step(mount_requested(on(3)));
    world.sealed(2, 2, end(1, 40));
    let item = bound(&world.sealed(3, 2, end(1, 30)));
    assert_eq!((item.target, item.required_end), (copy(3), end(1, 40)));
    assert_eq!(item.sources.iter().map(|s| s.copy).collect::<Vec<_>>(), [copy(2)]);
    assert_eq!(item.decision.loss.expect("a receipt").unreached, [copy(1)].into());
}

/// A copy that is not reached, has forgotten or has failed is not opened, whatever is accepted.
#[test]
fn an_unfit_copy_is_not_opened_with_loss_either() {
    let mut world = stuck();
    world.step(mount_requested(on(2)));
    let actions = world.sealed(3, 2, end(1, 30));
    assert_eq!(finished(&actions), [Err(RefusalReason::TargetUnfit)], "2 does not answer");
    let mut world = stuck();
    world.step(mount_requested(ANY));
    let forgetful = crate::SealReply { may_have_lost: true, ..reply(3, epoch(2), end(1, 30)) };
    let answers = vec![answer(2, Ok(forgetful))];
    let actions = world.step(ManagerEvent::SealReplies { member: member(3), answers });
    assert_eq!(finished(&actions), [Err(RefusalReason::TargetUnfit)], "R4");
}

/// R9: the old active is not overtaken while its lease may run.
#[test]
fn an_earlier_active_is_fenced_before_a_loss_is_taken_r9() {
    let mut world = World::established();
    world.step(ManagerEvent::DeathCertified { member: member(2), incarnation: life(2) });
    world.step(ManagerEvent::Wedged { database: DB, epoch: epoch(1) });
    let failed = ManagerEvent::SealFailed { member: member(1) };
    world.log.state.databases.get_mut(&DB).expect("exists").unestablished[0].rule =
        rule(1, 1, CommitConstraint::None, &[1]);
    world.step(failed.clone());
    world.sealed(3, 2, end(1, 30));
    world.step(mount_requested(ANY));
    world.step(failed);
    let actions = world.sealed(3, 2, end(1, 30));
    assert_eq!(proposals(&actions), [], "member 1 holds a lease and has not sealed");
    let actions = world.later(ms(1_010)).step(ManagerEvent::Timer);
    assert_eq!(bound(&actions).target, copy(3));
}

/// Until the opening frame is committed nothing was acknowledged in the new epoch, and the older
/// rules stay in every proof (R2): the next attempt needs the word again.
#[test]
fn an_epoch_that_was_not_established_gives_nothing_up_r2() {
    let mut world = stuck();
    world.step(mount_requested(ANY));
    world.sealed(3, 2, end(1, 30));
    let epochs: Vec<_> = world.database().unestablished.iter().map(|rule| rule.epoch).collect();
    assert_eq!(epochs, [epoch(1), epoch(2)]);
    for n in [1, 2] {
        world.log.ok(&Command::StartIncarnation { member: member(n), incarnation: life(10 + n) });
        world.alive(n);
    }
    world.step(ManagerEvent::DeathCertified { member: member(3), incarnation: life(3) });
    world.sealed(1, 3, end(1, 90));
    let item = bound(&world.sealed(2, 3, end(1, 90)));
    assert_eq!(item.required_end, end(1, 90), "the old timeline goes on");
    assert_eq!(item.decision.loss.expect("by the word that still stands").unreached.len(), 1);
}

/// The word is part of the recorded operation: a new leader goes on with it.
#[test]
fn a_new_leader_keeps_the_accepted_loss() {
    let mut world = stuck();
    let kind = crate::OperationKind::Mount { database: DB, accept_loss: ANY };
    world.log.ok(&Command::PutOperation { id: moves::OPERATION, kind });
    world.lead(2);
    world.alive(3);
    let item = bound(&world.sealed(3, 2, end(1, 30)));
    assert!(item.decision.loss.is_some());
}

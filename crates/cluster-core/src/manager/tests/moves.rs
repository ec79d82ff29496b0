//! What operators ask for.

use keelson_types::{CopyFault, MountDial, MountIntent, OperationId, RefusalReason};

use super::*;

pub(super) const OPERATION: OperationId = OperationId::from_u128(7);

pub(super) fn mount_requested(accept_loss: Option<crate::AcceptedLoss>) -> ManagerEvent {
    ManagerEvent::MountRequested { operation: OPERATION, database: DB, accept_loss }
}

fn move_with(n: u128, options: crate::MoveOptions) -> ManagerEvent {
    ManagerEvent::MoveRequested { operation: OPERATION, database: DB, to: member(n), options }
}

fn move_to(n: u128) -> ManagerEvent {
    move_with(n, crate::MoveOptions::default())
}

pub(super) fn finished(actions: &[ManagerAction]) -> Vec<Result<(), RefusalReason>> {
    let finished = actions.iter().filter_map(|action| match action {
        ManagerAction::FinishOperation { operation, result } => {
            assert_eq!(*operation, OPERATION);
            Some(result.clone().map_err(|refusal| refusal.reason))
        }
        _ => None,
    });
    finished.collect()
}

#[test]
fn a_switchover_seals_the_old_active_and_binds_the_requested_copy() {
    let mut world = World::established();
    let actions = world.step(move_to(3));
    let reason = ActivationReason::Switchover { to: member(3) };
    assert_eq!(proposals(&actions), [allocate(1, reason)]);
    assert_eq!(others(&actions), [seal(1, 2), seal(2, 2), seal(3, 2)]);
    world.sealed(3, 2, end(1, 10));
    world.sealed(2, 2, end(1, 10));
    let actions = world.sealed(1, 2, end(1, 20));
    let item = bound(&actions);
    assert_eq!((item.target, item.required_end), (copy(3), end(1, 20)));
    assert_eq!(item.decision.operation, Some(OPERATION));
    assert_eq!(item.rule, rule(2, 3, CommitConstraint::SecondCopy, &[1, 2, 3]));
    assert_eq!(mount(&actions).1.sources[0].copy, copy(1), "the old active has the rest");
    assert_eq!(finished(&world.mount_result(2, Ok(()))), []);
    let event = ManagerEvent::EstablishedReported { database: DB, epoch: epoch(2) };
    assert_eq!(finished(&world.step(event)), [Ok(())]);
}

#[test]
fn without_its_seal_the_old_active_is_waited_out_r9() {
    let mut world = World::established();
    world.log.state.databases.get_mut(&DB).expect("exists").unestablished[0].rule =
        rule(1, 1, CommitConstraint::AllCopies, &[1, 2, 3]);
    world.step(move_to(3));
    world.sealed(2, 2, end(1, 10));
    world.sealed(3, 2, end(1, 10));
    assert_eq!(world.step(ManagerEvent::SealFailed { member: member(1) }), []);
    assert_eq!(world.later(ms(1_009)).step(ManagerEvent::Timer), [], "its grants may still run");
    let mut certified = world.clone();
    let actions = world.later(ms(1)).step(ManagerEvent::Timer);
    assert_eq!(bound(&actions).target, copy(3));
    let actions = certified.step(ManagerEvent::LeaseExpired { member: member(1) });
    assert_eq!(bound(&actions).target, copy(3), "or its lease is known to be over");
}

#[test]
fn a_switchover_whose_target_fails_goes_on_with_any_copy() {
    let mut world = World::established();
    world.step(move_to(3));
    world.run_seals(&[(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))], 2);
    let actions = world.mount_result(2, Err(MountFailure::LogNotFetched));
    let reason = ActivationReason::MountFailed { copy: copy(3) };
    assert_eq!(proposals(&actions), [allocate(2, reason)], "at once: clients wait");
    let actions = world.run_seals(&[(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))], 3);
    assert_eq!(bound(&actions).target, copy(1));
    assert_eq!(finished(&world.mounted(3)), [Err(RefusalReason::TargetUnfit)]);
}

#[test]
fn a_switchover_whose_target_cannot_be_sealed_goes_on_in_its_epoch() {
    let mut world = World::established();
    world.step(move_to(3));
    world.sealed(1, 2, end(1, 5));
    world.sealed(2, 2, end(1, 5));
    let refused = answer(2, Err(SealRefusal::NotPersisted));
    let event = ManagerEvent::SealReplies { member: member(3), answers: vec![refused] };
    let actions = world.step(event);
    assert_eq!(bound(&actions).target, copy(1));
}

#[test]
fn a_switchover_is_checked_before_anything_changes() {
    let world = World::established();
    let check = |arrange: &dyn Fn(&mut World), to: u128, expected: RefusalReason| {
        let mut world = world.clone();
        arrange(&mut world);
        let actions = world.step(move_to(to));
        assert_eq!(finished(&actions), [Err(expected)]);
        assert_eq!(proposals(&actions), []);
    };
    let leaving = |world: &mut World| {
        let (copy, leaving) = (copy(2), Some(true));
        world.log.ok(&Command::SetCopy {
            database: DB,
            copy,
            preference: None,
            leaving,
            lag: None,
        });
    };
    check(&|_| {}, 9, RefusalReason::UnknownMember);
    check(&leaving, 2, RefusalReason::TargetUnfit);
    let gone =
        |world: &mut World| drop(world.step(ManagerEvent::LeaseExpired { member: member(2) }));
    check(&gone, 2, RefusalReason::TargetUnfit);
    let failing = |world: &mut World| {
        drop(world.step(ManagerEvent::LeaseExpired { member: member(1) }));
    };
    check(&failing, 2, RefusalReason::Activating);
    let closed = |world: &mut World| {
        let intent = MountIntent::Dismounted;
        world.log.ok(&Command::SetMountIntent { database: DB, intent });
    };
    check(&closed, 2, RefusalReason::Dismounted);
}

/// A fault that a seal told of holds for that seal: the copy may be whole a moment later, and
/// nobody would say so. The checks of a switchover ask the copy itself.
#[test]
fn what_an_earlier_seal_said_of_a_copy_does_not_hinder_a_later_move() {
    let mut world = World::established();
    world.step(move_to(3));
    let told =
        crate::SealReply { fault: Some(CopyFault::DiskFull), ..reply(2, epoch(2), end(1, 5)) };
    let answers = vec![answer(2, Ok(told))];
    world.step(ManagerEvent::SealReplies { member: member(2), answers });
    world.run_seals(&[(3, end(1, 5)), (1, end(1, 5))], 2);
    world.mounted(2);
    assert_eq!(world.database().target, Some(copy(3)));
    let actions = world.step(move_to(2));
    assert_eq!(finished(&actions), [], "it is tried");
}

/// F22: the mount dial `best_effort` of a switchover, where the old active took what it had along;
/// without it the database waits.
#[test]
fn a_dial_of_best_effort_opens_the_target_with_loss() {
    let moved = |accept_loss| {
        let mut world = World::established();
        let dial = if accept_loss { MountDial::BestEffort } else { MountDial::Lossless };
        let options = crate::MoveOptions::of_dial(Some(dial));
        world.log.state.databases.get_mut(&DB).expect("exists").unestablished[0].rule =
            rule(1, 1, CommitConstraint::None, &[1, 2, 3]);
        world.step(move_with(3, options));
        world.step(ManagerEvent::SealFailed { member: member(1) });
        world.step(ManagerEvent::LeaseExpired { member: member(1) });
        world.sealed(2, 2, end(1, 10));
        world.sealed(3, 2, end(1, 10))
    };
    let actions = moved(true);
    let item = bound(&actions);
    assert_eq!((item.target, item.decision.loss.is_some()), (copy(3), true));
    let closed = moved(false);
    assert!(!proposals(&closed).iter().any(|c| matches!(c, Command::Activate(_))), "{closed:?}");
}

/// F27: the maximum of a member holds for moves that name it.
#[test]
fn a_move_beyond_the_maximum_is_refused() {
    let mut world = World::established();
    let activation = crate::MemberActivation { max_active: Some(0), ..Default::default() };
    world.log.ok(&Command::SetActivation { member: member(2), activation });
    assert_eq!(finished(&world.step(move_to(2))), [Err(RefusalReason::ActiveLimit)]);
}

/// F37: where a database was and is stands in its operation.
#[test]
fn the_result_of_a_move_is_kept() {
    let mut world = World::established();
    let kind = crate::OperationKind::Switchover {
        database: DB,
        to: member(2),
        comment: String::new(),
        options: crate::MoveOptions::default(),
    };
    world.log.ok(&Command::PutOperation { id: OPERATION, kind });
    world.step(move_to(2));
    world.run_seals(&[(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))], 2);
    world.mounted(2);
    let (state, message) = (crate::OperationState::Succeeded, String::new());
    let ended = Command::UpdateOperation { id: OPERATION, state, progress_percent: 100, message };
    world.log.ok(&ended);
    let moved = world.log.state.operations[&OPERATION].moved.clone().expect("a move");
    let end = moved.end.expect("ended");
    assert_eq!((moved.start.active, end.active), (Some(member(1)), Some(member(2))));
    assert_eq!((moved.start.mounted, end.mounted, moved.receipt), (true, true, None));
}

#[test]
fn a_move_to_where_the_database_is_succeeds_at_once() {
    let mut world = World::established();
    let actions = world.step(move_to(1));
    assert_eq!((finished(&actions), proposals(&actions)), (vec![Ok(())], vec![]));
}

#[test]
fn dismount_then_mount_is_a_new_epoch() {
    let mut world = World::established();
    let event = ManagerEvent::DismountRequested { operation: OPERATION, database: DB };
    let actions = world.step(event);
    let dismount = ManagerAction::Dismount { member: member(1), database: DB, epoch: epoch(1) };
    assert_eq!(others(&actions), [dismount]);
    let actions = world.step(ManagerEvent::Dismounted { database: DB, epoch: epoch(1) });
    assert_eq!(finished(&actions), [Ok(())]);
    let actions = world.step(ManagerEvent::LeaseExpired { member: member(1) });
    assert_eq!(proposals(&actions), [silence(1, true)], "nothing is activated");
    world.alive(1);
    let event = mount_requested(None);
    let actions = world.step(event);
    let (database, intent) = (DB, MountIntent::Mounted);
    assert_eq!(proposals(&actions), [Command::SetMountIntent { database, intent }]);
    assert_eq!(others(&actions), [seal(1, 2), seal(2, 2), seal(3, 2)]);
    world.run_seals(&[(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))], 2);
    assert_eq!(finished(&world.mounted(2)), [Ok(())]);
}

#[test]
fn a_refused_wish_ends_its_operation() {
    let mut world = World::established();
    let event = ManagerEvent::DismountRequested { operation: OPERATION, database: DB };
    let actions = world.raw(event);
    let ManagerAction::Propose { tag, .. } = actions[0] else { panic!("it proposes") };
    let refusal = crate::Refusal::new(RefusalReason::NoLeader, "lost");
    let outcome = Outcome::Refused(refusal);
    let actions = world.step(ManagerEvent::CommandDone { tag, outcome });
    assert_eq!(finished(&actions), [Err(RefusalReason::NoLeader)]);
}

#[test]
fn a_new_leader_finishes_the_operations_of_its_predecessor() {
    let mut world = World::established();
    let kind = crate::OperationKind::Switchover {
        database: DB,
        to: member(2),
        comment: String::new(),
        options: crate::MoveOptions::default(),
    };
    world.log.ok(&Command::PutOperation { id: OPERATION, kind });
    world.step(move_to(2));
    world.run_seals(&[(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))], 2);
    assert_eq!(finished(&world.lead(2)), []);
    world.all_alive();
    assert_eq!(finished(&world.mounted(2)), [Ok(())]);
}

/// F35: a target that does not open the database within the budget of a switchover gives it back
/// to the copy that served before, at once and in an epoch of its own (R5), also if another copy is
/// preferred; only if that one cannot serve is any other taken.
#[test]
fn a_switchover_over_its_budget_is_undone() {
    let ends = [(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))];
    let over_budget = || {
        let mut world = World::established();
        let (copy, preference, leaving, lag) = (copy(1), Some(9), None, None);
        world.log.ok(&Command::SetCopy { database: DB, copy, preference, leaving, lag });
        let (name, value) = ("switchover_budget".to_owned(), Some(1_000));
        world.log.ok(&Command::ChangeSetting { name, value });
        world.step(move_to(2));
        assert_eq!(bound(&world.run_seals(&ends, 2)).target, super::copy(2));
        let early = world.later(ms(900)).step(ManagerEvent::Timer);
        assert!(proposals(&early).is_empty(), "{early:?}");
        let actions = world.later(ms(101)).step(ManagerEvent::Timer);
        let reason = ActivationReason::MountFailed { copy: super::copy(2) };
        assert_eq!(proposals(&actions), [allocate(2, reason)]);
        world
    };
    let mut world = over_budget();
    assert_eq!(bound(&world.run_seals(&ends, 3)).target, copy(1));
    // The copy from before has the time that every mount has.
    assert_eq!(proposals(&world.later(ms(2_000)).step(ManagerEvent::Timer)), []);
    assert_eq!(finished(&world.mounted(3)), [Err(RefusalReason::TargetUnfit)]);
    let mut world = over_budget();
    world.step(ManagerEvent::DeathCertified { member: member(1), incarnation: life(1) });
    let actions = world.run_seals(&ends[1..], 3);
    assert_eq!(bound(&actions).target, copy(3), "anybody before nobody");
}

/// Whatever ends the attempt of a switchover, the copy that served before is tried next, though
/// another one is preferred: the mount fails, its opening frame is not committed within the budget,
/// the target gives its epoch up by itself before or after it answered, or it dies.
#[test]
fn every_end_of_a_switchover_gives_the_database_back() {
    let ends = [(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))];
    let given_up = |world: &mut World| {
        let tag = keelson_types::FailureTag::LogIo;
        let reason = ActivationReason::Failed { tag };
        world.log.ok(&allocate(2, reason));
        drop(world.step(ManagerEvent::Applied));
    };
    type Ending<'a> = (&'a str, &'a dyn Fn(&mut World));
    let table: [Ending<'_>; 6] = [
        ("mount failed", &|w| drop(w.mount_result(2, Err(MountFailure::LogNotFetched)))),
        ("mount failed late", &|w| {
            w.mount_result(2, Ok(()));
            drop(w.mount_result(2, Err(MountFailure::Timeout)));
        }),
        ("not established in time", &|w| {
            w.mount_result(2, Ok(()));
            drop(w.later(ms(10_000)).step(ManagerEvent::Timer));
        }),
        ("given up while mounting", &given_up),
        ("given up while opening", &|w| {
            w.mount_result(2, Ok(()));
            given_up(w);
        }),
        ("certified dead", &|w| {
            let (member, incarnation) = (member(3), life(3));
            drop(w.step(ManagerEvent::DeathCertified { member, incarnation }));
        }),
    ];
    for (what, ending) in table {
        let mut world = World::established();
        let (copy, preference, leaving, lag) = (copy(1), Some(9), None, None);
        world.log.ok(&Command::SetCopy { database: DB, copy, preference, leaving, lag });
        world.step(move_to(3));
        assert_eq!(bound(&world.run_seals(&ends, 2)).target, super::copy(3), "{what}");
        ending(&mut world);
        assert_eq!(world.database().epoch, epoch(3), "{what}");
        let actions = world.run_seals(&ends, 3);
        assert_eq!(bound(&actions).target, super::copy(1), "{what}");
        assert_eq!(finished(&world.mounted(3)), [Err(RefusalReason::TargetUnfit)], "{what}");
    }
}

/// The budget counts from the mount: what mounting took is not there for the opening frame.
#[test]
fn the_budget_of_a_switchover_bounds_mounting_and_opening_together() {
    let ends = [(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))];
    let mut world = World::established();
    let (name, value) = ("switchover_budget".to_owned(), Some(1_000));
    world.log.ok(&Command::ChangeSetting { name, value });
    world.step(move_to(2));
    world.run_seals(&ends, 2);
    world.later(ms(900)).mount_result(2, Ok(()));
    assert_eq!(proposals(&world.later(ms(99)).step(ManagerEvent::Timer)), []);
    let actions = world.later(ms(1)).step(ManagerEvent::Timer);
    let reason = ActivationReason::MountFailed { copy: copy(2) };
    assert_eq!(proposals(&actions), [allocate(2, reason)]);
}

/// A move to member 3 of a database on member 1, which is the last choice of all but the move.
fn moving() -> World {
    let mut world = World::established();
    let (copy, preference, leaving, lag) = (copy(1), Some(9), None, None);
    world.log.ok(&Command::SetCopy { database: DB, copy, preference, leaving, lag });
    let kind = crate::OperationKind::Switchover {
        database: DB,
        to: member(3),
        comment: String::new(),
        options: crate::MoveOptions::default(),
    };
    world.log.ok(&Command::PutOperation { id: OPERATION, kind });
    world.step(move_to(3));
    world
}

/// The plan of a move is in the history of epochs: whoever leads when it fails, or becomes the
/// leader then, gives the database back to the copy from before.
#[test]
fn a_new_leader_gives_a_failed_move_back() {
    let ends = [(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))];
    let next = |world: &mut World| {
        drop(world.lead(2));
        world.all_alive();
    };
    let fails = |world: &mut World| drop(world.mount_result(2, Err(MountFailure::LogNotFetched)));
    type Course<'a> = (&'a str, &'a dyn Fn(&mut World));
    let table: [Course<'_>; 5] = [
        ("the leader changes once the move failed", &|w| {
            fails(w);
            next(w);
        }),
        ("while the target mounts, which then fails", &|w| {
            next(w);
            fails(w);
        }),
        ("while the target mounts, which is not in time", &|w| {
            next(w);
            drop(w.later(ms(10_000)).step(ManagerEvent::Timer));
        }),
        ("while the target mounts, which then dies", &|w| {
            next(w);
            let (member, incarnation) = (member(3), life(3));
            drop(w.step(ManagerEvent::DeathCertified { member, incarnation }));
        }),
        ("the target died before there was a new leader", &|w| {
            let (member, incarnation) = (member(3), life(3));
            w.log.ok(&Command::CertifyDeath { member, incarnation });
            drop(w.lead(2));
            (1..=2).for_each(|n| drop(w.alive(n)));
        }),
    ];
    for (what, course) in table {
        let mut world = moving();
        assert_eq!(bound(&world.run_seals(&ends, 2)).target, copy(3), "{what}");
        course(&mut world);
        assert_eq!(world.database().epoch, epoch(3), "{what}");
        let actions = world.run_seals(&ends, 3);
        assert_eq!(bound(&actions).target, copy(1), "{what}");
        assert_eq!(finished(&world.mounted(3)), [Err(RefusalReason::TargetUnfit)], "{what}");
    }
}

/// Before the target was bound, the move goes on to where it was asked to go.
#[test]
fn a_new_leader_goes_on_with_a_move_that_is_not_bound() {
    let ends = [(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))];
    let mut world = moving();
    drop(world.lead(2));
    world.all_alive();
    assert_eq!(bound(&world.run_seals(&ends, 2)).target, copy(3), "it is the third choice");
    assert_eq!(finished(&world.mounted(2)), [Ok(())]);
}

/// Only the first attempt behind a move gives back, and only while the move was not established.
#[test]
fn what_follows_a_move_that_came_to_serve_is_no_give_back() {
    let ends = [(1, end(1, 5)), (2, end(1, 5)), (3, end(1, 5))];
    // The give-back fails, too: the next leader takes whoever is best.
    let mut world = moving();
    world.run_seals(&ends, 2);
    world.mount_result(2, Err(MountFailure::LogNotFetched));
    assert_eq!(bound(&world.run_seals(&ends, 3)).target, copy(1));
    drop(world.lead(2));
    world.all_alive();
    world.mount_result(3, Err(MountFailure::LogNotFetched));
    world.later(ms(10_000)).step(ManagerEvent::Timer);
    assert_eq!(world.database().epoch, epoch(4));
    assert_eq!(bound(&world.run_seals(&ends, 4)).target, copy(2), "the best by preference");
    // The move served; then its active dies, and a new leader finds the next epoch allocated.
    let mut world = moving();
    world.run_seals(&ends, 2);
    assert_eq!(finished(&world.mounted(2)), [Ok(())]);
    let (member, incarnation) = (member(3), life(3));
    world.step(ManagerEvent::DeathCertified { member, incarnation });
    assert_eq!(world.database().epoch, epoch(3));
    drop(world.lead(2));
    (1..=2).for_each(|n| drop(world.alive(n)));
    assert_eq!(bound(&world.run_seals(&ends[..2], 3)).target, copy(2), "the best by preference");
}

//! An operator makes an instant of a lagged copy the truth (design §7, review S13).

use std::collections::BTreeSet;

use keelson_types::{
    LagSettings, OperationId, Position, RefusalReason, ResumeRequest, SuspendedBy,
};

use super::moves::{OPERATION, finished};
use super::*;
use crate::event::EventKind;
use crate::point_in_time::ActivateAt;

const HOUR: Duration = Duration::from_hours(1);

fn at(n: u128, kept: LogEnd) -> ActivateAt {
    ActivateAt { on: member(n), kept, resync_others: false }
}

fn asked(order: ActivateAt) -> ManagerEvent {
    ManagerEvent::InstantRequested { operation: OPERATION, database: DB, order }
}

/// Copy 3 lags.
fn lagging() -> World {
    let mut world = World::established();
    let lag = Some(LagSettings::new(HOUR, Duration::ZERO).expect("within bounds"));
    let (preference, leaving) = (None, None);
    let command = Command::SetCopy { database: DB, copy: copy(3), preference, leaving, lag };
    // The active leaves it out of its rule.
    let database = world.log.state.databases.get_mut(&DB).expect("exists");
    let without = rule(2, 1, CommitConstraint::SecondCopy, &[1, 2]);
    database.rule = Some(without.clone());
    database.unestablished[0].rule = without;
    world.log.ok(&command);
    world
}

impl World {
    /// Seals the three copies; copies 1 and 2 hold epoch 1 up to 30, copy 3 as it says.
    fn seals(&mut self, counter: u64, third: LogEnd, replayed: u64) -> Vec<ManagerAction> {
        self.sealed(1, counter, end(1, 30));
        self.sealed(2, counter, end(1, 30));
        let replayed = Position::new(1, replayed);
        let reply = crate::SealReply { replayed, ..reply(3, epoch(counter), third) };
        let answers = vec![answer(counter, Ok(reply))];
        self.step(ManagerEvent::SealReplies { member: member(3), answers })
    }

    fn holders(&self) -> BTreeSet<u128> {
        let by = SuspendedBy::DiscardedTimeline;
        let held = |n: &u128| {
            let suspension = &self.database().copies[&copy(*n)].suspension;
            suspension.replication.is_some() && suspension.by == by
        };
        (1..=3).filter(held).collect()
    }
}

#[test]
fn an_instant_is_opened_under_a_new_epoch_and_the_others_keep_what_is_discarded() {
    let mut world = lagging();
    let actions = world.step(asked(at(3, end(1, 10))));
    let reason = ActivationReason::PointInTime { on: member(3) };
    assert_eq!(proposals(&actions), [allocate(1, reason)]);
    let actions = world.seals(2, end(1, 28), 5);
    let item = bound(&actions);
    assert_eq!((item.target, item.required_end, item.epoch), (copy(3), end(1, 10), epoch(2)));
    assert_eq!(item.rule.participants.len(), 1, "nobody else counts");
    let receipt = item.decision.loss.clone().expect("a receipt");
    assert_eq!((receipt.kept, receipt.operation), (end(1, 10), Some(OPERATION)));
    assert!(receipt.covers(end(1, 11)) && !receipt.covers(end(1, 10)));
    assert_eq!(world.holders(), [1, 2].into(), "before the target can offer them anything");
    assert_eq!(finished(&world.mounted(2)), [Ok(())]);
    let turned = world.database().turned_back.as_ref().expect("recorded");
    assert!(turned.established);
    let resume = |request| Command::ResumeCopy { database: DB, copy: copy(1), request };
    let ordinary = ResumeRequest::default();
    world.log.refused(RefusalReason::Precondition, &resume(ordinary));
    world.log.ok(&resume(ResumeRequest { release_discarded: true, ..ordinary }));
    assert_eq!(world.holders(), [2].into());
}

fn release(n: u128, before_retention: bool) -> Command {
    let replication_only = false;
    let request = ResumeRequest { release_discarded: true, replication_only, before_retention };
    Command::ResumeCopy { database: DB, copy: copy(n), request }
}

/// Copy 3 is activated at an instant; copies 1 and 2 hold what that discards.
fn turned() -> World {
    let mut world = lagging();
    world.step(asked(at(3, end(1, 10))));
    world.seals(2, end(1, 28), 5);
    world.mounted(2);
    assert_eq!(world.holders(), [1, 2].into());
    world
}

/// S13: at least one copy keeps it for seven days; after that it is told, and kept all the same.
#[test]
fn the_last_holder_is_released_by_a_word_or_after_its_retention() {
    let retained = RefusalReason::DiscardedRetained;
    let mut world = turned();
    world.log.ok(&release(1, false));
    world.log.refused(retained, &release(2, false));
    world.log.refused(retained, &Command::RemoveCopy { database: DB, copy: copy(2) });
    let mut by_word = world.log.clone();
    by_word.ok(&release(2, true));
    assert!(!by_word.state.databases[&DB].copies[&copy(2)].is_stopped());

    let week = world.log.state.clock_unix_ms + 7 * 24 * 3_600_000;
    let told = |log: &crate::testing::Log| {
        let over = |kind: &EventKind| match kind {
            EventKind::DiscardedRetentionOver { copy: of, .. } => *of == copy(2),
            _ => false,
        };
        log.state.events.iter().filter(|event| over(&event.kind)).count()
    };
    for (unix_ms, events) in [(week - 1, 0), (week, 1), (week + 1, 1)] {
        let command = Box::new(Command::EndSuspensions);
        world.log.ok(&Command::Stamped { unix_ms, command });
        assert_eq!(told(&world.log), events);
    }
    assert_eq!(world.holders(), [2].into(), "nothing is given up by itself (G4)");
    world.log.ok(&release(2, false));
    assert_eq!(world.holders(), BTreeSet::new());
}

/// What is made the truth again need not be kept for its own sake; an attempt that comes to nothing
/// changes nothing of it.
#[test]
fn a_timeline_that_is_the_truth_again_is_kept_by_nobody() {
    let mut world = turned();
    let held = |world: &World, n| world.database().copies[&copy(n)].suspension.held.len();
    assert_eq!((held(&world, 1), held(&world, 2), held(&world, 3)), (1, 1, 0));
    let order = ActivateAt { resync_others: true, ..at(2, end(1, 30)) };
    let operation = OperationId::from_u128(8);
    world.step(ManagerEvent::InstantRequested { operation, database: DB, order });
    assert_eq!(bound(&world.seals(3, end(2, 14), 10)).target, copy(2));
    assert_eq!((held(&world, 1), held(&world, 2)), (1, 0), "not before it is established");
    world.mounted(3);
    assert_eq!(held(&world, 1), 0);
    world.log.ok(&release(1, false));
    assert_eq!(world.holders(), BTreeSet::new());
}

#[test]
fn others_that_hold_nothing_of_it_or_shall_follow_at_once_go_on() {
    let mut world = lagging();
    world.step(asked(at(3, end(1, 10))));
    world.sealed(1, 2, end(1, 30));
    world.sealed(2, 2, end(1, 10));
    let item = bound(&world.sealed(3, 2, end(1, 28)));
    assert_eq!(world.holders(), [1].into());
    assert_eq!(item.rule.participants.len(), 2, "copy 2 has nothing to undo");

    let mut world = lagging();
    world.step(asked(ActivateAt { resync_others: true, ..at(3, end(1, 10)) }));
    let item = bound(&world.seals(2, end(1, 28), 0));
    assert_eq!((world.holders(), item.rule.participants.len()), (BTreeSet::new(), 1));
}

/// A copy whose member is silent may hold what is discarded, so it is suspended, too.
#[test]
fn a_copy_that_does_not_answer_is_a_holder() {
    let mut world = lagging();
    world.step(asked(at(3, end(1, 10))));
    world.sealed(1, 2, end(1, 30));
    world.sealed(3, 2, end(1, 28));
    let actions = world.later(ms(300)).step(ManagerEvent::Timer);
    assert_eq!(bound(&actions).target, copy(3));
    assert_eq!(world.holders(), [1, 2].into());
}

/// Nothing is given up, and the database is open again in the epoch that was begun.
#[test]
fn an_instant_that_the_store_has_passed_is_refused() {
    for (third, replayed) in [(end(1, 28), 11), (end(1, 9), 5)] {
        let mut world = lagging();
        world.step(asked(at(3, end(1, 10))));
        let actions = world.seals(2, third, replayed);
        assert_eq!(finished(&actions), [Err(RefusalReason::InstantOutOfReach)]);
        let item = bound(&actions);
        assert_eq!((item.target, item.required_end), (copy(1), end(1, 30)));
        assert_eq!((world.database().receipts.len(), world.holders()), (0, BTreeSet::new()));
    }
}

#[test]
fn impossible_orders_are_refused_before_anything_is_begun() {
    let gone =
        |world: &mut World| drop(world.step(ManagerEvent::LeaseExpired { member: member(3) }));
    for (order, arrange, reason) in [
        (at(1, end(1, 10)), None, RefusalReason::Precondition),
        (at(9, end(1, 10)), None, RefusalReason::UnknownCopy),
        (at(3, end(1, 10)), Some(gone), RefusalReason::TargetUnfit),
    ] {
        let mut world = lagging();
        arrange.into_iter().for_each(|arrange| arrange(&mut world));
        let actions = world.step(asked(order));
        assert_eq!(finished(&actions), [Err(reason)]);
        assert_eq!(world.database().epoch, epoch(1));
    }
}

/// A failed mount gives nothing up: the next epoch begins with what was stopped before.
#[test]
fn a_copy_that_does_not_mount_is_tried_again_and_then_given_up() {
    let mut world = lagging();
    world.step(asked(at(3, end(1, 10))));
    for counter in 2..=4 {
        world.seals(counter, end(1, 28), 0);
        assert_eq!(world.holders(), [1, 2].into(), "epoch {counter}");
        world.mount_result(counter, Err(MountFailure::LogNotFetched));
        world.later(ms(5_000)).step(ManagerEvent::Timer);
        assert_eq!((world.database().epoch, world.holders()), (epoch(counter + 1), [].into()));
    }
    let actions = world.seals(5, end(1, 28), 0);
    assert_eq!(finished(&actions), [Err(RefusalReason::TargetUnfit)]);
    assert_eq!(bound(&actions).target, copy(1));
    assert_eq!(world.database().turned_back, None, "an older timeline goes on");
}

#[test]
fn a_new_leader_goes_on_with_it() {
    let kind = crate::OperationKind::ActivateAt { database: DB, order: at(3, end(1, 10)) };
    let recorded = |world: &mut World| {
        let put = Command::PutOperation { id: OPERATION, kind: kind.clone() };
        world.log.ok(&put);
    };
    // It dies before the target is bound, and the next one before it is mounted.
    let mut world = lagging();
    recorded(&mut world);
    world.step(asked(at(3, end(1, 10))));
    world.lead(2);
    world.all_alive();
    let item = bound(&world.seals(2, end(1, 28), 0));
    assert_eq!((item.target, item.required_end), (copy(3), end(1, 10)));
    world.lead(3);
    world.all_alive();
    assert_eq!(finished(&world.mounted(2)), [Ok(())]);
    // It dies before anything is begun: nothing is.
    let mut world = lagging();
    recorded(&mut world);
    assert_eq!(finished(&world.lead(2)), [Err(RefusalReason::TargetUnfit)]);
    assert_eq!(world.database().epoch, epoch(1));
    // The copy became active by itself meanwhile, with all that was to be discarded.
    let mut world = lagging();
    let kind = crate::OperationKind::ActivateAt { database: DB, order: at(1, end(1, 10)) };
    world.log.ok(&Command::PutOperation { id: OPERATION, kind });
    assert_eq!(finished(&world.lead(2)), [Err(RefusalReason::Precondition)]);
}

/// The opening frame is durable on the target, and its life ends: somebody may have been answered.
#[test]
fn an_attempt_that_was_opened_is_gone_on_with_by_its_copy() {
    let mut world = lagging();
    world.step(asked(at(3, end(1, 10))));
    world.seals(2, end(1, 28), 0);
    world.mount_result(2, Ok(()));
    let (member, incarnation) = (member(3), life(3));
    world.step(ManagerEvent::DeathCertified { member, incarnation });
    assert_eq!((world.database().epoch, world.holders()), (epoch(3), [].into()));
    // Without it nobody is opened: it may have acknowledged.
    world.sealed(1, 3, end(1, 30));
    world.sealed(2, 3, end(1, 30));
    assert_eq!(world.database().target, None);
    world.log.ok(&Command::StartIncarnation { member, incarnation: life(13) });
    world.alive(3);
    let item = bound(&world.seals(3, end(2, 14), 0));
    assert_eq!((item.target, item.required_end), (copy(3), end(2, 14)));
    assert_eq!(item.decision.loss, None, "it was given up before");
    assert_eq!(world.holders(), [1, 2].into());
    world.mounted(3);
    assert!(world.database().turned_back.as_ref().is_some_and(|turned| turned.established));
}

/// Nobody else has the truth: the copy is activated again although it lags, until another counts.
#[test]
fn the_copy_that_is_the_truth_is_a_candidate_although_it_lags() {
    let mut world = lagging();
    world.step(asked(at(3, end(1, 10))));
    world.seals(2, end(1, 28), 0);
    world.mounted(2);
    let (member, incarnation) = (member(3), life(13));
    world.log.ok(&Command::StartIncarnation { member, incarnation });
    world.step(ManagerEvent::DeathCertified { member, incarnation: life(3) });
    world.alive(3);
    let item = bound(&world.seals(3, end(2, 14), 10));
    assert_eq!((item.target, item.required_end), (copy(3), end(2, 14)));
    assert_eq!(world.holders(), [1, 2].into(), "they stay as they are");
    world.mounted(3);
    let with = rule(5, 3, CommitConstraint::SecondCopy, &[3, 1]);
    let expected_version = world.database().rule.as_ref().expect("bound").version;
    let with = keelson_types::CommitRule { version: expected_version + 1, ..with };
    let change =
        Command::ChangeRule { database: DB, epoch: epoch(3), expected_version, rule: with };
    world.log.ok(&change);
    assert_eq!(world.database().turned_back, None);
}

/// A wrong instant can be taken back: a holder is activated at its own end.
#[test]
fn a_holder_is_made_the_truth_again() {
    let mut world = lagging();
    world.step(asked(at(3, end(1, 10))));
    world.seals(2, end(1, 28), 0);
    world.mounted(2);
    let (operation, order) = (OperationId::from_u128(8), at(1, end(1, 30)));
    world.step(ManagerEvent::InstantRequested { operation, database: DB, order });
    let item = bound(&world.seals(3, end(2, 14), 10));
    assert_eq!((item.target, item.required_end), (copy(1), end(1, 30)));
    assert!(item.decision.loss.as_ref().is_some_and(|receipt| receipt.covers(end(2, 14))));
    assert_eq!(world.holders(), [2, 3].into(), "copy 2 was suspended before; copy 3 holds epoch 2");
    // It does not mount: the instant from before is the truth as it was.
    for counter in 3..=5 {
        world.mount_result(counter, Err(MountFailure::LogNotFetched));
        world.later(ms(5_000)).step(ManagerEvent::Timer);
        assert_eq!(world.holders(), [1, 2].into());
        world.seals(counter + 1, end(2, 14), 10);
    }
    let turned = world.database().turned_back.as_ref().expect("still there");
    assert_eq!((turned.copy, turned.established), (copy(3), true));
    assert_eq!(world.database().target, Some(copy(3)));
}

/// A store that holds what was given up cannot be opened with the log that went on: its copy has to
/// be set right by an active first, so it is no candidate (found by the simulator, seed 1518).
#[test]
fn a_copy_whose_store_holds_what_was_given_up_is_no_candidate() {
    let mut world = lagging();
    world.step(asked(ActivateAt { resync_others: true, ..at(3, end(1, 10)) }));
    world.seals(2, end(1, 28), 0);
    world.mounted(2);
    world.step(ManagerEvent::DeathCertified { member: member(3), incarnation: life(3) });
    let sealed = |n: u128, ends, replayed, fault| {
        let replayed = Position::new(1, replayed);
        let reply = crate::SealReply { replayed, fault, ..reply(n, epoch(3), ends) };
        let answers = vec![answer(3, Ok(reply))];
        ManagerEvent::SealReplies { member: member(n), answers }
    };
    let (member, incarnation) = (member(3), life(13));
    world.log.ok(&Command::StartIncarnation { member, incarnation });
    world.alive(3);
    world.step(sealed(3, end(2, 14), 10, Some(keelson_types::CopyFault::DiskFull)));
    world.step(sealed(1, end(1, 30), 30, None));
    let mut other = world.clone();
    let actions = world.step(sealed(2, end(1, 30), 30, None));
    assert!(!proposals(&actions).iter().any(|c| matches!(c, Command::Activate(_))), "{actions:?}");
    // One that has replayed no further than the instant takes the log that went on.
    let item = bound(&other.step(sealed(2, end(1, 30), 10, None)));
    assert_eq!((item.target, item.required_end), (copy(2), end(2, 14)));
}

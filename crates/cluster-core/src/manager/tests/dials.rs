//! Mount dials: an activation by itself with a loss that is known and small enough (F22-F24, G3).

use keelson_types::{Ceiling, MountDial, OperationId, RefusalReason};

use super::moves::finished;
use super::*;
use crate::event::EventKind;

const MIB: u64 = 1024 * 1024;

/// One database that its active acknowledges alone; members 2 and 3 have this dial, and the active
/// promised to commit no more than so many MiB behind 1/10.
fn alone(dial: MountDial, ceiling_mib: Option<u64>) -> World {
    let mut world = World::established();
    for n in [2, 3] {
        let activation = crate::MemberActivation { dial, ..Default::default() };
        world.log.ok(&Command::SetActivation { member: member(n), activation });
    }
    let database = world.log.state.databases.get_mut(&DB).expect("exists");
    let record = &mut database.unestablished[0];
    record.rule = rule(1, 1, CommitConstraint::None, &[1, 2, 3]);
    let ceiling = ceiling_mib.map(|mib| Ceiling {
        border: end(1, 10),
        previous_end: None,
        ahead_bytes: mib * MIB,
    });
    let (database, epoch) = (DB, epoch(1));
    world.log.ok(&Command::SetCeiling { database, epoch, number: 1, ceiling });
    world
}

/// The member of the active is lost, and copies 2 and 3 are sealed at 1/10.
fn lost(world: &mut World) -> Vec<ManagerAction> {
    world.step(ManagerEvent::LeaseExpired { member: member(1) });
    world.step(ManagerEvent::SealFailed { member: member(1) });
    world.sealed(2, 2, end(1, 10));
    world.sealed(3, 2, end(1, 10))
}

/// F23 and the default: without a dial the database waits, and the record says why.
#[test]
fn dials_activate_with_a_loss_that_is_known_and_small_enough() {
    use MountDial::{BestAvailability, GoodAvailability, Lossless};
    for (dial, ceiling, activated) in [
        (Lossless, Some(1), false),
        (GoodAvailability, Some(6), true),
        (GoodAvailability, Some(7), false),
        (BestAvailability, Some(12), true),
        (BestAvailability, Some(13), false),
        (BestAvailability, None, false),
    ] {
        let what = format!("{dial}, {ceiling:?} MiB");
        let mut world = alone(dial, ceiling);
        let actions = lost(&mut world);
        let record = world.log.state.decisions.last().expect("recorded").record.clone();
        let asked = record.dial.expect("the dials were asked");
        assert_eq!(asked.missing_logs, ceiling, "{what}");
        if !activated {
            assert_eq!(record.chosen, None, "{what}");
            let beyond = crate::Exclusion::BeyondDial { dial, missing_logs: ceiling };
            assert_eq!(record.candidates[0].excluded, [beyond], "{what}");
            assert_eq!(world.database().receipts.len(), 0, "{what}");
            continue;
        }
        let item = bound(&actions);
        assert_eq!((item.target, item.required_end), (copy(2), end(1, 10)), "{what}");
        let receipt = item.decision.loss.clone().expect("a receipt");
        assert_eq!((receipt.missing_logs, receipt.dial), (ceiling, Some(dial)), "{what}");
        assert_eq!((receipt.operation, receipt.kept), (None, end(1, 10)), "{what}");
        assert!(receipt.unreached.contains(&copy(1)), "{what}");
        assert!(!item.decision.verdict.is_lossless(), "the record says that the proof failed");
        let told = |event: &crate::Event| {
            matches!(event.kind, EventKind::ActivatedWithLoss { missing_logs, dial: Some(by), .. }
                if missing_logs == ceiling && by == dial)
        };
        assert_eq!(world.log.state.events.iter().filter(|event| told(event)).count(), 1, "{what}");
        world.mounted(2);
        assert_eq!(world.database().receipts.len(), 1, "{what}");
    }
}

/// R6: what comes without loss comes first, whatever the dials allow.
#[test]
fn a_lossless_way_comes_before_a_dial() {
    let mut world = alone(MountDial::BestAvailability, Some(2));
    world.step(ManagerEvent::LeaseExpired { member: member(1) });
    world.sealed(2, 2, end(1, 10));
    world.sealed(3, 2, end(1, 10));
    // The former active answers in time: its lease is over, and it has everything.
    let actions = world.sealed(1, 2, end(1, 900));
    assert_eq!(bound(&actions).decision.loss, None);
    assert_eq!(bound(&actions).required_end, end(1, 900));
}

/// A process that died is started again by its member, with everything: it is waited for, but not
/// for ever.
#[test]
fn a_process_that_died_is_waited_for_before_anything_is_given_up() {
    let died = |world: &mut World| {
        world.step(ManagerEvent::DeathCertified { member: member(1), incarnation: life(1) });
        world.sealed(2, 2, end(1, 10));
        world.sealed(3, 2, end(1, 10))
    };
    let mut world = alone(MountDial::BestAvailability, Some(2));
    let actions = died(&mut world);
    assert!(!proposals(&actions).iter().any(|c| matches!(c, Command::Activate(_))), "{actions:?}");
    let record = &world.log.state.decisions.last().expect("recorded").record;
    assert_eq!(record.candidates[0].excluded, [crate::Exclusion::ProcessExpected]);
    let mut gone = world.clone();
    world.log.ok(&Command::StartIncarnation { member: member(1), incarnation: life(11) });
    world.alive(1);
    for (n, at) in [(2, 10), (3, 10)] {
        world.sealed(n, 2, end(1, at));
    }
    assert_eq!(bound(&world.sealed(1, 2, end(1, 900))).decision.loss, None);

    gone.later(ms(10_000)).step(ManagerEvent::Timer);
    gone.sealed(2, 2, end(1, 10));
    let item = bound(&gone.sealed(3, 2, end(1, 10)));
    assert_eq!(item.decision.loss.and_then(|receipt| receipt.missing_logs), Some(2));
}

/// F22, F23: a switchover is lossless unless its override says otherwise, whatever the dials of
/// members; `none` means the dial of the target's member. A switchover whose target may not be
/// opened becomes a failover, for which the members' dials count.
#[test]
fn the_dial_of_a_switchover_counts_instead_of_those_of_members() {
    use MountDial::{BestAvailability, GoodAvailability, Lossless};
    for (own, over, missing, chosen, by) in [
        (Lossless, Some(GoodAvailability), 6, Some(3), Some(GoodAvailability)),
        (Lossless, Some(GoodAvailability), 7, None, None),
        (BestAvailability, None, 12, Some(3), Some(BestAvailability)),
        (Lossless, None, 1, None, None),
        (BestAvailability, Some(Lossless), 12, Some(2), Some(BestAvailability)),
    ] {
        let what = format!("{own}, over {over:?}, {missing}");
        let mut world = alone(own, Some(missing));
        let options = crate::MoveOptions::of_dial(over);
        let (operation, to) = (OperationId::from_u128(7), member(3));
        world.step(ManagerEvent::MoveRequested { operation, database: DB, to, options });
        world.step(ManagerEvent::SealFailed { member: member(1) });
        world.step(ManagerEvent::LeaseExpired { member: member(1) });
        world.sealed(2, 2, end(1, 10));
        let actions = world.sealed(3, 2, end(1, 10));
        let Some(chosen) = chosen else {
            assert_eq!(finished(&actions), [Err(RefusalReason::NoLosslessCopy)], "{what}");
            continue;
        };
        let item = bound(&actions);
        assert_eq!(item.target, copy(chosen), "{what}");
        assert_eq!(item.decision.loss.expect("a receipt").dial, by, "{what}");
    }
}

/// The active keeps a ceiling from its first frame on, if somebody would go on without it.
#[test]
fn an_epoch_that_acknowledges_alone_begins_with_a_ceiling_if_a_dial_asks_for_it() {
    for (dial, constraint, expected) in [
        (MountDial::BestAvailability, CommitConstraint::None, true),
        (MountDial::Lossless, CommitConstraint::None, false),
        (MountDial::BestAvailability, CommitConstraint::SecondCopy, false),
    ] {
        let mut world = alone(dial, None);
        let database = world.log.state.databases.get_mut(&DB).expect("exists");
        database.settings.constraint = crate::ConstraintSetting::Explicit(constraint);
        world.step(ManagerEvent::LeaseExpired { member: member(1) });
        for n in [2, 3] {
            world.sealed(n, 2, end(1, 10));
        }
        let item = bound(&world.sealed(1, 2, end(1, 10)));
        assert_eq!(item.ceiling.is_some(), expected, "{dial} {constraint}");
        let order = world.log.state.mount_order(DB).expect("bound");
        assert_eq!(order.ceiling, item.ceiling);
        if let Some(ceiling) = item.ceiling {
            assert_eq!(ceiling, Ceiling::first(end(1, 10)));
        }
    }
}

/// A late proposal of a lower ceiling must not take the place of a higher one.
#[test]
fn ceilings_are_recorded_in_the_order_of_their_numbers() {
    let mut world = alone(MountDial::BestAvailability, Some(9));
    let set = |number, mib: Option<u64>| {
        let ceiling = mib.map(|mib| Ceiling {
            border: end(1, 10),
            previous_end: None,
            ahead_bytes: mib * MIB,
        });
        Command::SetCeiling { database: DB, epoch: epoch(1), number, ceiling }
    };
    let recorded = |world: &World| {
        let record = world.database().unestablished[0].clone();
        (record.ceiling_number, record.ceiling.map(|ceiling| ceiling.ahead_bytes / MIB))
    };
    for (number, mib, expected) in [
        (3, Some(5), (3, Some(5))),
        (2, Some(1), (3, Some(5))),
        (3, Some(1), (3, Some(5))),
        (4, None, (4, None)),
        (3, Some(5), (4, None)),
    ] {
        world.log.ok(&set(number, mib));
        assert_eq!(recorded(&world), expected);
    }
    world.step(ManagerEvent::LeaseExpired { member: member(1) });
    world.log.refused(RefusalReason::StaleEpoch, &set(5, Some(1)));
}

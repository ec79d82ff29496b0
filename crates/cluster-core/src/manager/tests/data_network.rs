//! A member that is cut off by data alone: who is left, with what proof, and who is not.

use std::collections::BTreeSet;

use keelson_types::{CommitRule, FailureTag, MountDial};

use super::*;
use crate::Exclusion;

const REASON: ActivationReason = ActivationReason::Failed { tag: FailureTag::DataNetwork };

fn says(world: &mut World, n: u128, members: &[u128]) -> Vec<ManagerAction> {
    let members: BTreeSet<_> = members.iter().map(|n| member(*n)).collect();
    world.step(ManagerEvent::Unreached { member: member(n), members })
}

/// Member 1 is reached by nobody, and reaches nobody.
fn cut_off(world: &mut World) -> Vec<ManagerAction> {
    let told = [says(world, 2, &[1]), says(world, 3, &[1])].concat();
    assert_eq!(told, [], "it has not said so itself");
    says(world, 1, &[2, 3])
}

fn set_rule(world: &mut World, rule: CommitRule) {
    let database = world.log.state.databases.get_mut(&DB).expect("exists");
    database.unestablished[0].rule = rule.clone();
    database.rule = Some(rule);
}

/// The copy that is left is sealed with more log than the others; none of it was acknowledged, for
/// that needs another copy. So the others are enough, and it is neither source nor participant.
#[test]
fn a_database_leaves_a_member_that_is_cut_off_by_data() {
    let mut world = World::established();
    let actions = cut_off(&mut world);
    assert_eq!(proposals(&actions), [allocate(1, REASON)]);
    assert_eq!(others(&actions), [seal(1, 2), seal(2, 2), seal(3, 2)]);
    assert_eq!(says(&mut world, 1, &[2, 3]), [], "once");
    let early = [world.sealed(2, 2, end(1, 5)), world.sealed(3, 2, end(1, 5))].concat();
    assert_eq!(early, [], "it lives, so its seal is waited for (R9)");
    let actions = world.sealed(1, 2, end(1, 10));
    let item = bound(&actions);
    assert_eq!((item.target, item.required_end), (copy(2), end(1, 5)));
    let order = mount(&actions).1;
    assert!(order.sources.iter().all(|source| source.copy != copy(1)), "{order:?}");
    let participants: Vec<_> = item.rule.participants.iter().map(|p| p.copy).collect();
    assert_eq!(participants, [copy(2), copy(3)]);
    let left = item.decision.candidates.iter().find(|c| c.copy == copy(1)).expect("named");
    assert_eq!(left.excluded, [Exclusion::DataCut]);
    world.mounted(2);
    assert_eq!(says(&mut world, 1, &[2, 3]), []);
    assert_eq!(says(&mut world, 2, &[1]), [], "the new active reaches the third copy");
}

/// Without its seal the copy that is left is fenced by time, like any other active that is wedged.
#[test]
fn without_its_seal_every_grant_is_waited_out() {
    let mut world = World::established();
    cut_off(&mut world);
    assert_eq!(world.run_seals(&[(2, end(1, 5)), (3, end(1, 5))], 2), []);
    assert_eq!(world.later(ms(1_000)).step(ManagerEvent::Timer), []);
    let actions = world.later(ms(20)).step(ManagerEvent::Timer);
    assert_eq!(bound(&actions).target, copy(2));
}

#[test]
fn who_is_cut_off_takes_two_witnesses_and_its_own_word() {
    let mut world = World::established();
    says(&mut world, 2, &[1]);
    assert_eq!(says(&mut world, 1, &[2, 3]), [], "one witness may be cut off itself");
    says(&mut world, 3, &[1]);
    assert_eq!(says(&mut world, 1, &[2]), [], "it reaches a copy");
    says(&mut world, 2, &[]);
    assert_eq!(says(&mut world, 1, &[2, 3]), [], "a witness took it back");
    says(&mut world, 2, &[1]);
    world.step(ManagerEvent::LeaseExpired { member: member(3) });
    assert_eq!(says(&mut world, 1, &[2, 3]), [], "a witness is gone");
}

/// Where all data links are down no member is better than another.
#[test]
fn with_the_whole_data_network_down_nothing_moves() {
    let mut world = World::established();
    says(&mut world, 2, &[1, 3]);
    says(&mut world, 3, &[1, 2]);
    assert_eq!(says(&mut world, 1, &[2, 3]), []);
}

/// A degraded active, or one under `none`, acknowledges what only it holds: it stays.
#[test]
fn who_acknowledges_alone_is_not_left() {
    use CommitConstraint::{None, SecondCopy};
    for rule in [rule(2, 1, SecondCopy, &[1]), rule(2, 1, None, &[1, 2, 3])] {
        let mut world = World::established();
        set_rule(&mut world, rule);
        assert_eq!(cut_off(&mut world), []);
    }
}

/// It degrades between the report and the epoch: its log is needed, whatever the dials allow, and
/// it gets the database back.
#[test]
fn a_database_that_degrades_just_before_it_leaves_comes_back() {
    let mut world = World::established();
    for n in [2, 3] {
        let dial = MountDial::BestAvailability;
        let activation = crate::MemberActivation { dial, ..Default::default() };
        world.log.ok(&Command::SetActivation { member: member(n), activation });
    }
    says(&mut world, 2, &[1]);
    says(&mut world, 3, &[1]);
    let told = [member(2), member(3)].into();
    let asked = world.raw(ManagerEvent::Unreached { member: member(1), members: told });
    set_rule(&mut world, rule(2, 1, CommitConstraint::SecondCopy, &[1]));
    for action in asked {
        let ManagerAction::Propose { tag, command } = action else { continue };
        let outcome = world.log.apply(&command);
        world.step(ManagerEvent::CommandDone { tag, outcome });
    }
    let actions = world.run_seals(&[(1, end(1, 10)), (2, end(1, 5)), (3, end(1, 5))], 2);
    let item = bound(&actions);
    assert_eq!((item.target, item.required_end), (copy(1), end(1, 10)));
    assert_eq!(item.decision.loss, Option::None);
    assert_eq!(says(&mut world, 1, &[2, 3]), [], "not before it serves again");
}

/// A new leader knows of it from the state alone, and takes no log that cannot be fetched.
#[test]
fn a_new_leader_goes_on_in_the_same_way() {
    let mut world = World::established();
    cut_off(&mut world);
    world.lead(2);
    world.all_alive();
    let actions = world.run_seals(&[(1, end(1, 10)), (2, end(1, 5)), (3, end(1, 5))], 2);
    assert_eq!((bound(&actions).target, bound(&actions).required_end), (copy(2), end(1, 5)));
    world.mount_result(2, Err(MountFailure::Timeout));
    world.later(ms(200)).step(ManagerEvent::Timer);
    let actions = world.run_seals(&[(1, end(1, 10)), (2, end(1, 5)), (3, end(1, 5))], 3);
    assert_eq!((bound(&actions).target, bound(&actions).required_end), (copy(3), end(1, 5)));
}

/// With `degrade_after` = never one copy alone would serve no more than the one that is left.
#[test]
fn two_copies_that_never_degrade_stay_where_they_are() {
    for (degrade_after_ms, moves) in [(Some(10_000), true), (Option::None, false)] {
        let mut world = World::established();
        set_rule(&mut world, rule(2, 1, CommitConstraint::SecondCopy, &[1, 2]));
        let database = world.log.state.databases.get_mut(&DB).expect("exists");
        database.settings.degrade_after_ms = degrade_after_ms;
        database.copies.remove(&copy(3));
        assert_eq!(!cut_off(&mut world).is_empty(), moves);
    }
}

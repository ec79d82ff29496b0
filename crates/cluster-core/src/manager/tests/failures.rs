//! What goes wrong: targets, leaders, seals, whole clusters.

use keelson_types::CopyFault;

use super::*;
use crate::event::EventKind;

const ALL: [(u128, LogEnd); 3] = {
    let end = LogEnd { epoch: Epoch::new(0, 1), position: keelson_types::Position::new(1, 5) };
    [(1, end), (2, end), (3, end)]
};

/// Member 1 died; copies 2 and 3 are sealed; copy 2 is told to mount in epoch 2.
fn mounting(weakness: Weakness) -> World {
    let mut world = World::established_with(weakness);
    world.step(ManagerEvent::DeathCertified { member: member(1), incarnation: life(1) });
    let actions = world.run_seals(&ALL[1..], 2);
    assert_eq!(mount(&actions).0, member(2));
    world
}

pub(super) fn restart(world: &mut World, n: u128, incarnation: u128) {
    let incarnation = life(incarnation);
    world.log.ok(&Command::StartIncarnation { member: member(n), incarnation });
}

#[test]
fn a_failed_target_is_followed_by_another_in_its_own_epoch() {
    let mut world = mounting(Weakness::None);
    let fault = MountFailure::Fault(CopyFault::CrashLoop);
    assert_eq!(world.mount_result(2, Err(fault)), []);
    assert_eq!(world.later(ms(99)).step(ManagerEvent::Timer), []);
    let actions = world.later(ms(1)).step(ManagerEvent::Timer);
    let reason = ActivationReason::MountFailed { copy: copy(2) };
    assert_eq!(proposals(&actions), [allocate(2, reason)]);
    let actions = world.run_seals(&ALL[1..], 3);
    let item = bound(&actions);
    assert_eq!((item.target, item.epoch, item.decision.attempt), (copy(3), epoch(3), 2));
    assert_eq!(item.decision.rules.len(), 2, "epoch 2 may have acknowledged something too");
}

#[test]
fn a_late_success_of_the_failed_target_changes_nothing() {
    let mut world = mounting(Weakness::None);
    world.later(ms(10_000)).step(ManagerEvent::Timer);
    let actions = world.later(ms(100)).step(ManagerEvent::Timer);
    assert_eq!(proposals(&actions).len(), 1, "the deadline passed");
    assert_eq!(world.mounted(2), []);
    assert_eq!(world.database().epoch, epoch(3));
}

#[test]
fn with_the_rule_off_a_second_attempt_shares_the_epoch_h7() {
    let mut world = mounting(Weakness::AttemptsShareEpoch);
    world.mount_result(2, Err(MountFailure::Timeout));
    let actions = world.later(ms(100)).step(ManagerEvent::Timer);
    assert_eq!(proposals(&actions), []);
    let actions = world.run_seals(&ALL[1..], 2);
    assert_eq!((bound(&actions).target, mount(&actions).1.epoch), (copy(3), epoch(2)));
}

#[test]
fn pauses_double_up_to_their_bound() {
    let manager = Manager::new(ManagerConfig::default(), Weakness::None);
    let pauses: Vec<_> = (1..=8).map(|n| manager.backoff(n)).collect();
    let expected = [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000];
    assert_eq!(pauses, expected.map(ms));
    assert_eq!(manager.backoff(u32::MAX), ms(5_000));
}

#[test]
fn a_target_that_dies_while_mounting_is_followed_at_once() {
    let mut world = mounting(Weakness::None);
    let event = ManagerEvent::DeathCertified { member: member(2), incarnation: life(2) };
    let actions = world.step(event);
    assert_eq!(others(&actions), [seal(3, 3)]);
    let actions = world.sealed(3, 3, end(1, 5));
    assert!(proposals(&actions).iter().all(|c| !matches!(c, Command::Activate(_))));
    let decision = world.log.state.decisions.last().expect("recorded").record.clone();
    assert!(!decision.verdict.is_lossless(), "copies 1 and 2 could have acknowledged");
}

#[test]
fn a_leader_change_while_sealing_seals_the_same_epoch_again() {
    let mut world = World::established();
    world.step(ManagerEvent::DeathCertified { member: member(1), incarnation: life(1) });
    world.sealed(2, 2, end(1, 5));
    assert_eq!(world.lead(2), [], "an incumbent must show first that this is no cold start");
    let actions = world.alive(2);
    assert_eq!(proposals(&actions), []);
    assert_eq!(others(&actions), [seal(2, 2), seal(3, 2)]);
    world.alive(3);
    let actions = world.run_seals(&ALL[1..], 2);
    assert_eq!((bound(&actions).target, bound(&actions).epoch), (copy(2), epoch(2)));
}

#[test]
fn a_leader_change_while_activating_repeats_the_order() {
    let mut world = mounting(Weakness::None);
    let order = world.log.state.mount_order(DB).expect("bound");
    assert_eq!(world.lead(2), []);
    assert_eq!(world.alive(3), []);
    assert_eq!(world.alive(2), [ManagerAction::Mount { member: member(2), order }]);
    assert_eq!(proposals(&world.mounted(2)).len(), 1);
}

#[test]
fn a_leader_change_does_not_let_another_life_go_on_in_the_epoch() {
    let mut world = mounting(Weakness::None);
    restart(&mut world, 2, 12);
    let actions = world.lead(2);
    assert_eq!(proposals(&actions), [allocate(2, ActivationReason::Restarted)]);
}

#[test]
fn a_leader_change_moves_nothing_while_incumbents_renew_l1() {
    let mut world = World::established();
    assert_eq!(world.lead(2), []);
    world.all_alive();
    assert_eq!(world.later(ms(60_000)).step(ManagerEvent::Timer), []);
    assert_eq!(world.database().epoch, epoch(1));
}

#[test]
fn a_cold_start_is_over_when_everybody_is_here() {
    let mut world = World::established();
    world.lead(2);
    for n in [2, 3] {
        restart(&mut world, n, 10 + n);
        world.alive(n);
    }
    assert!(world.manager.is_cold(), "member 1 may only be slow");
    let told = world.step(ManagerEvent::LeaseExpired { member: member(1) });
    assert_eq!(proposals(&told), [silence(1, true)], "its database stays where it is");
    restart(&mut world, 1, 11);
    world.alive(1);
    assert!(!world.manager.is_cold());
}

#[test]
fn a_new_cluster_waits_for_nobody() {
    let mut manager = Manager::new(ManagerConfig::default(), Weakness::None);
    let empty = ClusterState::default();
    manager.step(Tick(0), &empty, ManagerEvent::BecameLeader { term: 1 }, &mut Vec::new());
    assert!(!manager.is_cold());
}

#[test]
fn a_restarted_active_gets_a_new_epoch_once_its_earlier_life_is_over_s9_3() {
    let mut world = World::established();
    restart(&mut world, 1, 11);
    let actions = world.step(ManagerEvent::Applied);
    assert_eq!(proposals(&actions), [allocate(1, ActivationReason::Restarted)]);
    let actions = world.run_seals(&ALL, 2);
    assert_eq!(actions, [], "a seal of the new life says nothing about the old one");
    let actions = world.step(ManagerEvent::LeaseExpired { member: member(1) });
    let confirm = Command::ConfirmIncarnation { member: member(1), previous: life(1) };
    assert_eq!(proposals(&actions)[0], confirm);
    assert_eq!(bound(&actions).target, copy(2));
}

#[test]
fn with_the_rule_off_a_restarted_active_goes_on_h8() {
    let mut world = World::established_with(Weakness::ResumeAfterRestart);
    restart(&mut world, 1, 11);
    assert_eq!(world.step(ManagerEvent::Applied), []);
}

#[test]
fn a_wedged_active_on_a_live_member_loses_its_epoch_s8() {
    let mut world = World::established();
    let wedged = ManagerEvent::Wedged { database: DB, epoch: epoch(1) };
    let actions = world.step(wedged.clone());
    assert_eq!(proposals(&actions), [allocate(1, ActivationReason::Wedged)]);
    assert_eq!(world.step(wedged), [], "a report about an epoch that is gone");
    let actions = world.run_seals(&ALL, 2);
    assert_eq!(bound(&actions).target, copy(2), "the wedged copy comes last");
}

/// F13: an active that hangs is left only for a copy that could serve instead.
#[test]
fn a_wedged_active_is_not_left_where_no_other_copy_can_serve() {
    let wedged = ManagerEvent::Wedged { database: DB, epoch: epoch(1) };
    let mut world = World::established();
    for n in [2, 3] {
        world.step(ManagerEvent::DeathCertified { member: member(n), incarnation: life(n) });
    }
    assert_eq!(world.step(wedged.clone()), []);
    assert_eq!(world.database().epoch, epoch(1));
    restart(&mut world, 3, 13);
    world.alive(3);
    let actions = world.step(wedged);
    assert_eq!(proposals(&actions), [allocate(1, ActivationReason::Wedged)]);
}

/// F126: a stopped member is no candidate, though it answers.
#[test]
fn nothing_is_activated_in_a_stopped_site() {
    let mut world = World::established();
    let (members, comment) = ([member(2)].into(), Some("flood".to_owned()));
    world.log.ok(&Command::StopMembers { members, comment });
    world.step(ManagerEvent::Applied);
    let dead = ManagerEvent::DeathCertified { member: member(1), incarnation: life(1) };
    world.step(dead);
    // What it says of its log counts all the same.
    world.sealed(2, 2, end(1, 5));
    let actions = world.sealed(3, 2, end(1, 5));
    assert_eq!(bound(&actions).target, copy(3), "2 is preferred, and stopped");
}

#[test]
fn without_enough_seals_the_database_waits_and_says_why() {
    let mut world = World::established();
    for n in [1, 3] {
        world.step(ManagerEvent::DeathCertified { member: member(n), incarnation: life(n) });
    }
    let actions = world.sealed(2, 2, end(1, 5));
    assert!(matches!(
        &proposals(&actions)[..],
        [Command::RecordDecision(_), Command::AppendEvent { .. }]
    ));
    let record = &world.log.state.decisions.last().expect("recorded").record;
    let unreached = [copy(1), copy(3)].into();
    let verdict = crate::Verdict::PossibleLoss { epoch: epoch(1), rule_version: 1, unreached };
    assert_eq!((&record.verdict, record.chosen), (&verdict, None));
    let actions = world.later(ms(100)).step(ManagerEvent::Timer);
    assert_eq!(actions, [seal(2, 2)], "the same epoch is sealed again");
    assert_eq!(world.sealed(2, 2, end(1, 5)), [], "an unchanged picture is recorded once");
    restart(&mut world, 3, 13);
    let actions = world.alive(3);
    assert_eq!(actions, [seal(2, 2), seal(3, 2)], "a member came back");
    let actions = world.run_seals(&ALL[1..], 2);
    assert_eq!(bound(&actions).target, copy(2));
}

#[test]
fn a_refused_proposal_is_made_again_after_a_pause() {
    let mut world = World::established();
    let actions = world.raw(ManagerEvent::LeaseExpired { member: member(1) });
    let ManagerAction::Propose { tag, .. } = actions[0] else { panic!("it proposes") };
    let refusal = crate::Refusal::new(keelson_types::RefusalReason::NoLeader, "lost");
    let outcome = Outcome::Refused(refusal);
    assert_eq!(world.step(ManagerEvent::CommandDone { tag, outcome }), []);
    let actions = world.later(ms(100)).step(ManagerEvent::Timer);
    assert_eq!(proposals(&actions), [allocate(1, ActivationReason::LeaseExpired)]);
}

#[test]
fn a_cold_start_gives_members_time_to_come() {
    let mut world = World::established();
    let (mut warm, mut certified) = (world.clone(), world.clone());
    world.lead(2);
    for n in [2, 3] {
        world.step(ManagerEvent::LeaseExpired { member: member(n) });
        restart(&mut world, n, n + 10);
        assert_eq!(world.step(ManagerEvent::LeaseExpired { member: member(n) }).len(), 1);
        assert_eq!(world.alive(n), []);
    }
    let actions = world.step(ManagerEvent::LeaseExpired { member: member(1) });
    assert_eq!(proposals(&actions), [silence(1, true)]);
    assert_eq!(world.later(ms(14_999)).step(ManagerEvent::Timer), []);
    let actions = world.later(ms(1)).step(ManagerEvent::Timer);
    assert_eq!(proposals(&actions), [allocate(1, ActivationReason::LeaseExpired)]);

    warm.lead(2);
    warm.alive(2);
    let actions = warm.step(ManagerEvent::LeaseExpired { member: member(1) });
    assert_eq!(proposals(&actions).len(), 1, "an incumbent renewed: only member 1 is gone");

    certified.lead(2);
    let event = ManagerEvent::DeathCertified { member: member(1), incarnation: life(1) };
    assert_eq!(proposals(&certified.step(event)).len(), 1, "a certificate is no guess");
}

#[test]
fn a_seal_of_a_member_that_restarts_meanwhile_is_asked_again() {
    let mut world = World::established();
    world.step(ManagerEvent::DeathCertified { member: member(1), incarnation: life(1) });
    world.sealed(3, 2, end(1, 9));
    world.step(ManagerEvent::DeathCertified { member: member(3), incarnation: life(3) });
    restart(&mut world, 3, 13);
    assert_eq!(world.alive(3), [seal(3, 2)]);
    assert_eq!(world.sealed(2, 2, end(1, 5)), [], "the old answer of member 3 does not count");
    let actions = world.sealed(3, 2, end(1, 9));
    assert_eq!((bound(&actions).target, bound(&actions).incarnation), (copy(3), life(13)));
}

/// Certificates have moved the database twice, in a minute; it is active on member 1 again, in
/// epoch 3. Then its process dies a third time.
fn certified_too_often(patience_ms: u64) -> (World, Vec<ManagerAction>) {
    let mut world = World::established();
    let (name, value) = ("certificate_patience".to_owned(), Some(patience_ms));
    let command = Box::new(Command::ChangeSetting { name, value });
    world.log.ok(&Command::Stamped { unix_ms: 1_700_000_000_000, command });
    for (from, to, counter) in [(1, 2, 2), (2, 1, 3)] {
        let (member, incarnation) = (member(from), life(from));
        world.step(ManagerEvent::DeathCertified { member, incarnation });
        let others = ALL.iter().filter(|(n, _)| *n != from);
        let actions: Vec<_> = others.flat_map(|(n, end)| world.sealed(*n, counter, *end)).collect();
        assert_eq!(bound(&actions).target, copy(to));
        world.mounted(counter);
        if from == 1 {
            restart(&mut world, 1, 11);
            world.alive(1);
        }
    }
    let died = ManagerEvent::DeathCertified { member: member(1), incarnation: life(11) };
    let actions = world.step(died);
    (world, actions)
}

/// Design §6: certificates move a database at most twice in five minutes. Then it waits for its
/// process, which is activated again when it is back.
#[test]
fn a_database_that_certificates_moved_too_often_waits_for_its_process() {
    let (mut world, actions) = certified_too_often(10_000);
    assert_eq!(others(&actions), [], "nobody is sealed yet");
    let told = |event: &crate::Event| {
        matches!(event.kind, EventKind::WaitsForProcess { moves: 2, patience_ms: 10_000 })
    };
    assert_eq!(world.log.state.events.iter().filter(|event| told(event)).count(), 1);
    restart(&mut world, 1, 21);
    let actions = world.alive(1);
    assert_eq!(others(&actions), [seal(1, 4), seal(3, 4)]);
    world.sealed(3, 4, end(3, 5));
    assert_eq!(bound(&world.sealed(1, 4, end(3, 5))).target, copy(1));
    world.mounted(4);
    // An activation of the same copy is no move: the next certificate waits, too.
    let died = ManagerEvent::DeathCertified { member: member(1), incarnation: life(21) };
    assert_eq!(others(&world.step(died)), []);
}

/// A loss of service that lasts breaks through: the process does not come back in time, or cannot
/// open the copy.
#[test]
fn a_database_does_not_wait_for_ever_for_its_process() {
    let (mut world, _) = certified_too_often(10_000);
    assert_eq!(others(&world.later(ms(9_999)).step(ManagerEvent::Timer)), []);
    restart(&mut world, 2, 22);
    assert_eq!(others(&world.alive(2)), [], "another member changes nothing");
    let actions = world.later(ms(1)).step(ManagerEvent::Timer);
    assert_eq!(others(&actions), [seal(2, 4), seal(3, 4)]);

    let (mut world, _) = certified_too_often(10_000);
    restart(&mut world, 1, 21);
    world.alive(1);
    restart(&mut world, 2, 22);
    world.alive(2);
    world.sealed(2, 4, end(3, 5));
    world.sealed(3, 4, end(3, 5));
    let told =
        crate::SealReply { fault: Some(CopyFault::CrashLoop), ..reply(1, epoch(4), end(3, 5)) };
    let answers = vec![answer(4, Ok(told))];
    let actions = world.step(ManagerEvent::SealReplies { member: member(1), answers });
    assert_eq!(bound(&actions).target, copy(2));
}

/// What the operator switched off holds nothing back.
#[test]
fn without_patience_certificates_move_as_ever() {
    let (_, actions) = certified_too_often(0);
    assert_eq!(others(&actions), [seal(3, 4)]);
}

/// Found by the simulator of the whole manager: nothing changes any more after the record, so the
/// loss must be seen with it.
#[test]
fn a_target_that_is_gone_when_it_is_recorded_is_not_waited_for() {
    let mut world = World::established();
    world.step(ManagerEvent::LeaseExpired { member: member(1) });
    world.sealed(2, 2, end(1, 10));
    let answers = vec![answer(2, Ok(reply(3, epoch(2), end(1, 20))))];
    let actions = world.raw(ManagerEvent::SealReplies { member: member(3), answers });
    let bound = actions.into_iter().find_map(|action| match action {
        ManagerAction::Propose { tag, command: Command::Activate(items) } => Some((tag, items)),
        _ => None,
    });
    let (tag, items) = bound.expect("copy 3 is bound");
    world.step(ManagerEvent::LeaseExpired { member: member(3) });
    let outcome = world.log.apply(&Command::Activate(items));
    let actions = world.step(ManagerEvent::CommandDone { tag, outcome });
    let again = allocate(2, ActivationReason::LeaseExpired);
    assert!(proposals(&actions).contains(&again), "{actions:?}");
}

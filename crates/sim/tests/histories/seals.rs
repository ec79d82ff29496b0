//! H5, H7, H8, H15: seals, attempts, restarts, full disks.

use keelson_sim::{MS, Params, Probe, SEC, World};
use keelson_types::Weakness;

use crate::red_and_green;

fn world(weakness: Weakness) -> World {
    let params = Params { degrade_after_ms: Some(1_000), ..Params::scripted(5, 3, weakness) };
    let mut world = World::scripted(params);
    world.settle();
    assert_eq!(world.serves(0), Some(0));
    world
}

/// m1 has P appended and its sync in flight when it is sealed; m0 hears of the new epoch too late.
fn h05(weakness: Weakness) -> World {
    let mut world = world(weakness);
    world.hold(0, 2, 0);
    world.stall(1);
    world.write(0);
    world.pass(5 * MS);
    world.cut_one_way(3, 0);
    world.cut_one_way(4, 0);
    world.move_to(2);
    world.pass(60 * MS);
    world.go_on(1);
    world.pass(8 * SEC);
    world
}

#[test]
fn h05_a_seal_reports_while_a_sync_is_in_flight() {
    red_and_green(h05, Weakness::SealBeforeSync, "G1");
}

/// m1 lacks log, cannot fetch it in time, and its answers are lost; the next candidate is tried.
fn h07(weakness: Weakness) -> World {
    let mut world = world(weakness);
    world.hold(0, 1, 0);
    world.hold(2, 1, 0);
    world.write(0);
    world.pass(50 * MS);
    for name in ["mount result", "established"] {
        world.mute(1, name);
    }
    world.move_to(1);
    world.pass(12 * SEC);
    world
}

#[test]
fn h07_a_second_attempt_shares_the_epoch_of_the_first() {
    red_and_green(h07, Weakness::AttemptsShareEpoch, "one binding per epoch");
}

/// m0 streamed frames to m1 that it never synced. Everybody loses power and starts again; m0 and m1
/// do not see each other; m0 goes on with m2; then m0 dies.
fn h08(weakness: Weakness) -> World {
    let mut world = world(weakness);
    world.hold(0, 2, 0);
    world.stall(0);
    for _ in 0..4 {
        world.write(0);
    }
    world.pass(20 * MS);
    world.cut(0, 1);
    (0..5).for_each(|member| world.power_cycle(member));
    world.release(0, 2);
    assert!(world.insist(20 * SEC) || world.violation().is_some());
    world.kill(0);
    world.pass(8 * SEC);
    world
}

#[test]
fn h08_a_restarted_active_goes_on_in_its_epoch() {
    red_and_green(h08, Weakness::ResumeAfterRestart, "prefix");
}

/// The volume of m1 is full when m0 dies: its seal needs no space and makes the proof pass. Saved
/// in a new file it would: then nobody takes over.
#[test]
fn h15_a_full_disk_does_not_keep_a_copy_from_being_sealed() {
    for saves_need_space in [true, false] {
        let params = Params {
            degrade_after_ms: Some(1_000),
            saves_need_space,
            ..Params::scripted(5, 3, Weakness::None)
        };
        let mut world = World::scripted(params);
        world.settle();
        world.fill_disk(1);
        world.kill(0);
        let taken_over = world.until(10 * SEC, |world| world.serves(0) == Some(2));
        assert_eq!(taken_over, !saves_need_space, "saves need space: {saves_need_space}");
        assert_eq!(world.violation(), None);
    }
}

/// m0 has a fork from the time it was cut off, and is asked to become active again before it could
/// connect.
#[test]
fn a_target_cuts_its_fork_before_it_fetches() {
    let mut world = world(Weakness::None);
    world.split(&[0], &[1, 2, 3, 4]);
    for _ in 0..5 {
        world.write(0);
    }
    assert!(world.until(10 * SEC, |world| world.serves(0) == Some(1)));
    world.pass(SEC);
    assert!(world.insist(SEC));
    world.cut_sessions(0, 1);
    world.cut_sessions(0, 2);
    (1..5).for_each(|other| world.mend_link(0, other));
    world.pass(2 * SEC);
    world.move_to(0);
    assert!(world.until(5 * SEC, |world| world.bound(0) == Some(0)));
    world.mend_sessions();
    assert!(world.until(10 * SEC, |world| world.serves(0) == Some(0)), "m0 serves again");
    assert_eq!(world.met(Probe::TargetCut), 1);
    assert_eq!(world.met(Probe::SecondSource), 1, "the first one was not connected");
    assert_eq!(world.violation(), None);
}

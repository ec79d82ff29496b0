//! A restarted process never resumes an epoch (R5), and what it replays at first.

use keelson_copy_core::{Action, Event, MountFailure, Recovered, StopReason};
use keelson_types::{CopyStatus, Position, Weakness};

use crate::support::{Bench, assignment, at, end, epoch, order, rule, start, table};

/// It was active in epoch 2 before the restart.
fn found() -> Recovered {
    Recovered {
        sealed: epoch(2),
        table: table(&[start(2, Position::ZERO)]),
        end: end(2, at(1, 300)),
        committed: at(1, 200),
        replayed: at(1, 100),
        ..Recovered::default()
    }
}

#[test]
fn a_restarted_active_asks_for_a_new_epoch_once() {
    let mut bench = Bench::new(found());
    let mut news = assignment(epoch(2), Some(0));
    news.rule = Some(rule(1, 0, &[0, 1, 2]));
    let give_up = Action::GiveUp { epoch: epoch(2), reason: StopReason::Restarted };
    let replay = Action::ReplayTo(at(1, 200));
    bench.check(Event::Assigned(news.clone()), &[give_up, replay]);
    bench.check(Event::Assigned(news), &[]);
    assert_eq!(bench.machine.own_epoch(), None);
    assert_eq!(bench.machine.view().status, CopyStatus::Dismounted);
}

#[test]
fn a_copy_that_was_sealed_in_this_life_waits_for_its_order() {
    let mut bench = Bench::new(found());
    bench.seal(3);
    let actions = bench.step(Event::Assigned(assignment(epoch(3), Some(0))));
    assert_eq!(actions, []);
}

#[test]
fn the_mount_order_of_an_earlier_life_is_refused() {
    // H8 by another door: the leader repeats its order to the restarted process.
    let mut bench = Bench::new(found());
    let refused =
        Action::MountReply { request: 1, answer: Err(MountFailure::SealedHigher(epoch(2))) };
    let order = order(2, end(2, at(1, 300)), &[]);
    let actions = bench.step(Event::Mount { request: 1, order: order.clone() });
    assert_eq!(actions[0], refused);
    // Nor after a late repetition of the seal, as long as the log shows the epoch.
    bench.seal(2);
    let again = bench.step(Event::Mount { request: 1, order });
    assert_eq!(again, [refused]);
    assert_eq!(bench.machine.own_epoch(), None);
}

#[test]
fn the_naive_restart_goes_on_in_its_epoch() {
    let mut bench = Bench::weak(found(), Weakness::ResumeAfterRestart);
    let mut news = assignment(epoch(2), Some(0));
    news.rule = Some(rule(1, 0, &[0, 1, 2]));
    bench.step(Event::Assigned(news));
    assert_eq!(bench.machine.own_epoch(), Some(epoch(2)));
}

#[test]
fn after_a_start_only_what_is_known_to_be_committed_is_replayed() {
    let mut bench = Bench::new(found());
    bench.check(Event::Wake, &[Action::ReplayTo(at(1, 200))]);
    bench.check(Event::Wake, &[]);
    let mut ahead = Bench::new(Recovered { committed: at(1, 900), ..found() });
    ahead.check(Event::Wake, &[Action::ReplayTo(at(1, 300))]);
}

#[test]
fn an_epoch_whose_frames_were_streamed_and_lost_is_not_opened_again() {
    // H8: the log shows nothing of epoch 2, but its promise was saved before it was opened.
    let mut bench = Bench::new(Recovered { sealed: epoch(2), ..Recovered::default() });
    let refused =
        Action::MountReply { request: 1, answer: Err(MountFailure::SealedHigher(epoch(2))) };
    let order = order(2, keelson_types::LogEnd::ZERO, &[]);
    bench.check(Event::Mount { request: 1, order }, &[refused]);
}

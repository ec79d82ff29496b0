//! Lease lost: hold, resume in the same epoch, dismount at last (R8).

use std::time::Duration;

use keelson_copy_core::{Action, Event, Recovered, StopReason};
use keelson_types::{CopyStatus, LogEnd, Position, Weakness};

use crate::support::{Bench, assignment, at, copy, epoch, order, start};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_lease_that_comes_back_resumes_the_same_epoch() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.check(Event::LeaseLost, &[]);
    assert_eq!(bench.machine.view().status, CopyStatus::Held);
    // The log and shipping go on.
    bench.write(2, at(1, 200));
    let committed = [Action::Commit(at(1, 200)), Action::ReplayTo(at(1, 200))];
    assert_eq!(bench.acked(1, 2, at(1, 200)), committed);
    bench.acked(2, 2, at(1, 200));
    bench.wait(29 * SECOND);
    bench.check(Event::LeaseBack, &[]);
    bench.wait(60 * SECOND);
    bench.step(Event::Wake);
    assert_eq!(bench.machine.own_epoch(), Some(epoch(2)));
    assert_eq!(bench.machine.view().status, CopyStatus::Mounted);
}

#[test]
fn a_hold_that_lasts_too_long_dismounts_and_gives_up() {
    let mut bench = Bench::serving(2, &[1, 2]);
    let lost = bench.now;
    bench.step(Event::LeaseLost);
    bench.wait(SECOND);
    bench.check(Event::LeaseLost, &[]);
    assert_eq!(bench.machine.next_wake(), Some(lost.after(30 * SECOND)));
    bench.wait(29 * SECOND);
    let reason = StopReason::LeaseGone;
    let expected = [
        Action::StopServing { epoch: epoch(2), reason: reason.clone() },
        Action::ClosePeer { copy: copy(1) },
        Action::ClosePeer { copy: copy(2) },
        Action::GiveUp { epoch: epoch(2), reason },
    ];
    bench.check(Event::Wake, &expected);
    assert_eq!(bench.machine.own_epoch(), None);
    bench.check(Event::LeaseBack, &[]);
    assert_eq!(bench.machine.own_epoch(), None, "an epoch is never resumed after its end");
}

#[test]
fn a_lease_lost_during_the_activation_counts_from_then_on() {
    let mut bench = Bench::empty();
    bench.step(Event::Assigned(assignment(epoch(2), None)));
    bench.seal(2);
    bench.step(Event::Mount { request: 1, order: order(2, LogEnd::ZERO, &[]) });
    bench.step(Event::LeaseLost);
    bench.step(Event::EpochBegun { start: start(2, Position::ZERO), end: at(1, 100) });
    assert_eq!(bench.machine.next_wake(), Some(bench.now.after(30 * SECOND)));
}

#[test]
fn the_naive_answer_to_a_blink_is_a_dismount() {
    let mut bench = Bench::weak(Recovered::default(), Weakness::ExpiryDismounts);
    bench.step(Event::Assigned(assignment(epoch(2), None)));
    bench.seal(2);
    bench.step(Event::Mount { request: 1, order: order(2, LogEnd::ZERO, &[]) });
    bench.step(Event::EpochBegun { start: start(2, Position::ZERO), end: at(1, 100) });
    let actions = bench.step(Event::LeaseLost);
    let gone = Action::GiveUp { epoch: epoch(2), reason: StopReason::LeaseGone };
    assert_eq!(actions.last(), Some(&gone));
}

#[test]
fn an_ordered_dismount_of_a_lower_epoch_does_nothing() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.check(Event::Dismount { epoch: epoch(1) }, &[]);
    let actions = bench.step(Event::Dismount { epoch: epoch(2) });
    let stopped = Action::StopServing { epoch: epoch(2), reason: StopReason::Dismounted };
    assert_eq!(actions[0], stopped);
}

#[test]
fn a_lease_that_is_back_before_the_epoch_is_opened_holds_nothing_up() {
    let mut bench = Bench::empty();
    bench.step(Event::Assigned(assignment(epoch(2), None)));
    bench.seal(2);
    bench.step(Event::Mount { request: 1, order: order(2, LogEnd::ZERO, &[]) });
    bench.step(Event::LeaseLost);
    bench.step(Event::LeaseBack);
    bench.step(Event::EpochBegun { start: start(2, Position::ZERO), end: at(1, 100) });
    assert_eq!(bench.machine.next_wake(), None);
    assert_eq!(bench.machine.view().status, CopyStatus::Mounting);
}

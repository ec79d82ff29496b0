//! Becoming active: the log is completed from the sources before the epoch is opened.

use keelson_copy_core::{Action, Event, LogSource, MountFailure, Recovered, StopReason};
use keelson_types::{CopyFault, LogEnd, Position};

use crate::support::{Bench, assignment, at, copy, end, epoch, member, offer, order, start, table};

/// Sealed for epoch 5, with a log of epoch 1 up to 1:500 of which 1:200 is committed.
fn sealed() -> Bench {
    let mut bench = Bench::new(Recovered {
        sealed: epoch(1),
        table: table(&[start(1, Position::ZERO)]),
        end: end(1, at(1, 500)),
        committed: at(1, 200),
        ..Recovered::default()
    });
    bench.step(Event::Wake);
    bench.step(Event::Replayed { to: at(1, 200) });
    bench.step(Event::Assigned(assignment(epoch(5), None)));
    bench.seal(5);
    bench
}

fn mount(request: u64, required_end: LogEnd, sources: &[u128]) -> Event {
    Event::Mount { request, order: order(5, required_end, sources) }
}

fn fetch(n: u128, wanted: LogEnd) -> Action {
    let source = LogSource { member: member(n), copy: copy(n), end: wanted };
    Action::Fetch { epoch: epoch(5), source, wanted }
}

fn failed(request: u64, failure: MountFailure) -> Action {
    Action::MountReply { request, answer: Err(failure) }
}

#[test]
fn a_complete_log_opens_the_epoch_at_once() {
    let mut bench = sealed();
    bench.check(mount(1, end(1, at(1, 500)), &[]), &[Action::BeginEpoch { epoch: epoch(5) }]);
}

#[test]
fn an_epoch_that_rises_is_promised_before_it_is_opened() {
    let mut bench = Bench::empty();
    let saved = Action::SaveControl { save: 1, sealed: epoch(5), table: table(&[]) };
    bench.check(mount(1, LogEnd::ZERO, &[]), &[saved]);
    bench.check(Event::ControlSaved { save: 1 }, &[Action::BeginEpoch { epoch: epoch(5) }]);
}

#[test]
fn missing_log_is_fetched_and_durable_before_the_epoch_is_opened() {
    let mut bench = sealed();
    let wanted = end(1, at(2, 90));
    bench.check(mount(1, wanted, &[1]), &[fetch(1, wanted)]);
    assert_eq!(bench.machine.expects(epoch(5)), None);
    let matched = Event::FetchMatched { epoch: epoch(5), matched: at(1, 500) };
    bench.check(matched, &[Action::PullFetch]);
    assert_eq!(bench.machine.expects(epoch(5)), Some(at(1, 500)));
    let received =
        |position| Event::Received { epoch: epoch(5), end: end(1, position), starts: vec![] };
    bench.check(received(at(1, 900)), &[Action::Append]);
    bench.check(received(at(2, 90)), &[Action::Append]);
    bench.check(Event::Logged { end: end(1, at(1, 900)) }, &[]);
    let begin = Action::BeginEpoch { epoch: epoch(5) };
    bench.check(Event::Logged { end: end(1, at(2, 90)) }, &[begin]);
}

#[test]
fn a_longer_fork_of_a_lower_epoch_is_cut_before_the_fetch() {
    let mut bench = sealed();
    let wanted = end(3, at(1, 400));
    bench.step(mount(1, wanted, &[1]));
    let matched = Event::FetchMatched { epoch: epoch(5), matched: at(1, 300) };
    bench.check(matched, &[Action::CutLog { to: at(1, 300) }]);
    bench.check(Event::LogCut { end: end(1, at(1, 300)) }, &[Action::PullFetch]);
    let received =
        Event::Received { epoch: epoch(5), end: wanted, starts: vec![start(3, at(1, 300))] };
    assert_eq!(bench.settle(received), [Action::Append]);
    let begin = Action::BeginEpoch { epoch: epoch(5) };
    bench.check(Event::Logged { end: wanted }, &[begin]);
}

#[test]
fn a_source_that_contradicts_what_is_committed_is_not_followed() {
    let mut bench = sealed();
    bench.step(mount(1, end(3, at(2, 90)), &[1]));
    let matched = Event::FetchMatched { epoch: epoch(5), matched: at(1, 100) };
    bench.check(matched, &[failed(1, MountFailure::Diverged)]);
    assert_eq!(bench.machine.own_epoch(), None);
}

#[test]
fn the_next_source_is_asked_when_one_fails() {
    let mut bench = sealed();
    let wanted = end(1, at(2, 90));
    bench.step(mount(1, wanted, &[1, 2]));
    bench.check(Event::FetchFailed { epoch: epoch(5) }, &[fetch(2, wanted)]);
    bench.step(Event::FetchMatched { epoch: epoch(5), matched: at(1, 500) });
    let received = Event::Received { epoch: epoch(5), end: end(1, at(1, 900)), starts: vec![] };
    bench.step(received);
    bench.check(Event::FetchFailed { epoch: epoch(5) }, &[failed(1, MountFailure::NoSource)]);
    assert_eq!(bench.machine.own_epoch(), None);
}

#[test]
fn a_fetch_of_another_epoch_changes_nothing() {
    let mut bench = sealed();
    bench.step(mount(1, end(1, at(2, 90)), &[1]));
    bench.check(Event::FetchFailed { epoch: epoch(4) }, &[]);
    bench.check(Event::FetchMatched { epoch: epoch(4), matched: at(1, 500) }, &[]);
}

#[test]
fn a_cut_of_a_former_session_delays_the_opening() {
    for save_first in [true, false] {
        let mut bench = sealed();
        let rows = [start(1, Position::ZERO), start(5, at(1, 300))];
        bench.step(Event::Open(offer(5, &rows, at(2, 80))));
        // Epoch 6 is mounted without a seal, while the cut is still under way.
        let order = order(6, end(1, at(1, 300)), &[]);
        let actions = bench.step(Event::Mount { request: 1, order });
        let [Action::SaveControl { save, .. }] = actions[..] else { panic!("{actions:?}") };
        let steps = [Event::ControlSaved { save }, Event::LogCut { end: end(1, at(1, 300)) }];
        let [saved, cut] = steps;
        let (first, second) = if save_first { (saved, cut) } else { (cut, saved) };
        assert_eq!(bench.step(first), []);
        assert_eq!(bench.step(second), [Action::BeginEpoch { epoch: epoch(6) }]);
    }
}

#[test]
fn a_repeated_order_joins_the_first() {
    let mut bench = sealed();
    bench.step(mount(1, end(1, at(1, 500)), &[]));
    bench.check(mount(2, end(1, at(1, 500)), &[]), &[]);
    bench.settle(Event::EpochBegun { start: start(5, at(1, 500)), end: at(2, 100) });
    bench.check(mount(3, end(1, at(1, 500)), &[]), &[]);
    bench.step(Event::Logged { end: end(5, at(2, 100)) });
    bench.acked(1, 5, at(2, 100));
    let served = bench.step(Event::Replayed { to: at(2, 100) });
    let ok = |request| Action::MountReply { request, answer: Ok(()) };
    assert_eq!(served, [Action::Serve { epoch: epoch(5) }, ok(1), ok(2), ok(3)]);
    bench.check(mount(4, end(1, at(1, 500)), &[]), &[ok(4)]);
}

#[test]
fn an_epoch_is_never_opened_twice() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.step(Event::Dismount { epoch: epoch(2) });
    let again = Event::Mount { request: 7, order: order(2, LogEnd::ZERO, &[]) };
    bench.check(again, &[failed(7, MountFailure::SealedHigher(epoch(2)))]);
}

#[test]
fn an_order_of_a_lower_epoch_is_refused() {
    let mut bench = sealed();
    let low = Event::Mount { request: 1, order: order(4, LogEnd::ZERO, &[]) };
    bench.check(low, &[failed(1, MountFailure::SealedHigher(epoch(5)))]);
}

#[test]
fn a_seal_ends_the_activation() {
    let mut bench = sealed();
    bench.step(mount(1, end(1, at(2, 90)), &[1]));
    let actions = bench.step(Event::Seal { request: 2, epoch: epoch(6) });
    let stopped = Action::StopServing { epoch: epoch(5), reason: StopReason::Deposed(epoch(6)) };
    assert_eq!(actions[..2], [stopped, failed(1, MountFailure::Stopped)]);
    assert_eq!(bench.machine.expects(epoch(5)), None);
}

#[test]
fn a_failed_copy_is_not_mounted() {
    let mut bench = sealed();
    let fault = CopyFault::Store("gone".into());
    bench.step(Event::StoreFailed { fault: fault.clone() });
    bench.check(mount(1, LogEnd::ZERO, &[]), &[failed(1, MountFailure::Failed(fault))]);
}

#[test]
fn a_log_that_fails_under_the_activation_ends_it() {
    let mut bench = sealed();
    bench.step(mount(1, end(1, at(2, 90)), &[1]));
    let fault = CopyFault::LogIo("write".into());
    let reason = StopReason::Failed(fault.clone());
    let expected = [
        Action::StopServing { epoch: epoch(5), reason: reason.clone() },
        failed(1, MountFailure::Failed(fault.clone())),
        Action::GiveUp { epoch: epoch(5), reason },
    ];
    bench.check(Event::LogFailed { fault }, &expected);
}

#[test]
fn a_sync_in_flight_delays_the_opening() {
    let mut bench = Bench::passive(1);
    bench.received(1, at(1, 500));
    let order = order(6, end(1, at(1, 500)), &[]);
    assert_eq!(bench.settle(Event::Mount { request: 1, order }), []);
    let begin = Action::BeginEpoch { epoch: epoch(6) };
    bench.check(Event::Logged { end: end(1, at(1, 500)) }, &[begin]);
}

#[test]
fn a_failed_attempt_is_not_repeated_in_its_epoch() {
    let mut bench = sealed();
    bench.step(mount(1, end(1, at(2, 90)), &[1]));
    bench.check(Event::FetchFailed { epoch: epoch(5) }, &[failed(1, MountFailure::NoSource)]);
    let again = mount(2, end(1, at(1, 500)), &[]);
    bench.check(again, &[failed(2, MountFailure::SealedHigher(epoch(5)))]);
}

/// Design §7: the log goes on behind the instant that an operator makes the truth. What the store
/// has not replayed is cut before the epoch is opened.
#[test]
fn log_that_was_given_up_is_cut_before_the_epoch_is_opened() {
    let mut bench = sealed();
    let cut = Action::CutLog { to: at(1, 300) };
    bench.check(mount(1, end(1, at(1, 300)), &[]), &[cut]);
    let begun = Action::BeginEpoch { epoch: epoch(5) };
    bench.check(Event::LogCut { end: end(1, at(1, 300)) }, &[begun]);
    assert_eq!(bench.machine.committed(), at(1, 200));
}

#[test]
fn what_is_known_to_be_committed_and_not_replayed_may_be_given_up() {
    let mut bench = Bench::new(Recovered {
        sealed: epoch(1),
        table: table(&[start(1, Position::ZERO)]),
        end: end(1, at(1, 500)),
        committed: at(1, 500),
        replayed: at(1, 200),
        ..Recovered::default()
    });
    bench.step(Event::ReplayLimit(Some(at(1, 200))));
    bench.step(Event::Assigned(assignment(epoch(5), None)));
    bench.seal(5);
    bench.check(mount(1, end(1, at(1, 300)), &[]), &[Action::CutLog { to: at(1, 300) }]);
    assert_eq!(bench.machine.committed(), at(1, 300), "the rest is committed no more");
}

/// The order comes before this copy has promised its epoch: nothing behind the instant is replayed
/// while the promise is saved, although the lag counts no more.
#[test]
fn nothing_behind_the_instant_is_replayed_before_the_cut() {
    let mut bench = Bench::new(Recovered {
        sealed: epoch(1),
        table: table(&[start(1, Position::ZERO)]),
        end: end(1, at(1, 500)),
        committed: at(1, 500),
        replayed: at(1, 200),
        ..Recovered::default()
    });
    bench.step(Event::ReplayLimit(Some(at(1, 200))));
    let actions = bench.step(mount(1, end(1, at(1, 300)), &[]));
    assert!(matches!(actions[0], Action::SaveControl { .. }), "{actions:?}");
    assert_eq!(actions[1..], [Action::ReplayTo(at(1, 300))]);
}

/// A store that holds some of it, or a log of another epoch at the place: nothing is cut.
#[test]
fn a_store_beyond_the_instant_is_no_target() {
    for kept in [end(1, at(1, 199)), end(2, at(1, 300))] {
        let mut bench = sealed();
        let actions = bench.step(mount(1, kept, &[]));
        let expected = match kept.epoch == epoch(1) {
            true => failed(1, MountFailure::Diverged),
            false => failed(1, MountFailure::NoSource),
        };
        assert_eq!(actions, [expected], "{kept:?}");
    }
}

/// A copy that heard that log is committed which it lacks, and which is given up: it goes on alone
/// (seed 30043 of the simulator).
fn behind_what_is_committed() -> Bench {
    let mut bench = Bench::passive(1);
    bench.received(1, at(1, 500));
    bench.step(Event::Logged { end: end(1, at(1, 500)) });
    bench.step(Event::CommittedUpTo { epoch: epoch(1), committed: at(9, 0) });
    assert_eq!(bench.machine.committed(), at(9, 0));
    bench
}

#[test]
fn an_epoch_begins_with_nothing_committed_beyond_its_start() {
    let mut bench = behind_what_is_committed();
    bench.step(Event::Assigned(assignment(epoch(5), None)));
    bench.seal(5);
    let kept = bench.machine.end();
    bench.step(mount(1, kept, &[]));
    bench.step(Event::EpochBegun { start: start(5, kept.position), end: at(2, 100) });
    assert_eq!(bench.machine.committed(), kept.position);
}

#[test]
fn a_passive_forgets_what_another_epoch_called_committed_beyond_its_log() {
    let mut bench = behind_what_is_committed();
    let kept = bench.machine.end().position;
    let rows = [start(1, Position::ZERO), start(5, kept)];
    bench.step(Event::SourceDown { member: member(0) });
    bench.step(Event::Open(offer(5, &rows, at(3, 0))));
    assert_eq!(bench.machine.committed(), kept);
}

/// The active manager seals every copy before anybody offers: the promise is not new any more.
#[test]
fn a_sealed_passive_forgets_what_another_epoch_called_committed_beyond_its_log() {
    let mut bench = behind_what_is_committed();
    let kept = bench.machine.end().position;
    let rows = [start(1, Position::ZERO), start(5, kept)];
    bench.seal(5);
    bench.step(Event::Open(offer(5, &rows, at(3, 0))));
    assert_eq!(bench.machine.committed(), kept);
    // What follows is replayed once its epoch is committed, not before.
    bench.step(Event::Matched { epoch: epoch(5) });
    bench.received(5, at(3, 0));
    let actions = bench.step(Event::Logged { end: end(5, at(3, 0)) });
    assert!(!actions.contains(&Action::ReplayTo(at(3, 0))), "{actions:?}");
}

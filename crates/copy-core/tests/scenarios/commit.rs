//! What is committed when, and what only then is served (R2).

use keelson_copy_core::{Action, Event};
use keelson_types::CopyStatus;

use crate::support::{Bench, at, copy, end, epoch, member};

#[test]
fn nothing_is_committed_before_the_opening_frame() {
    let mut bench = Bench::active(2, &[1, 2]);
    assert_eq!(bench.acked(1, 2, at(1, 60)), [], "inside what former epochs wrote");
    let committed = bench.acked(1, 2, at(1, 100));
    let expected = [
        Action::Commit(at(1, 100)),
        Action::Established { epoch: epoch(2) },
        Action::ReplayTo(at(1, 100)),
    ];
    assert_eq!(committed, expected);
    let served =
        [Action::Serve { epoch: epoch(2) }, Action::MountReply { request: 1, answer: Ok(()) }];
    bench.check(Event::Replayed { to: at(1, 100) }, &served);
    assert_eq!(bench.machine.view().status, CopyStatus::Mounted);
}

#[test]
fn the_own_log_is_always_required() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.step(Event::Appended { end: at(1, 200) });
    assert_eq!(bench.acked(1, 2, at(1, 200)), []);
    let logged = Event::Logged { end: end(2, at(1, 200)) };
    bench.check(logged, &[Action::Commit(at(1, 200)), Action::ReplayTo(at(1, 200))]);
}

#[test]
fn acknowledgements_of_another_epoch_do_not_count() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.write(2, at(1, 200));
    assert_eq!(bench.acked(1, 1, at(1, 200)), []);
    assert_eq!(bench.acked(1, 3, at(1, 200)), []);
    let counted = bench.acked(1, 2, at(1, 200));
    assert_eq!(counted, [Action::Commit(at(1, 200)), Action::ReplayTo(at(1, 200))]);
}

#[test]
fn acknowledgements_of_a_copy_outside_the_rule_do_not_count() {
    let mut bench = Bench::serving(2, &[1, 2]);
    assert_eq!(bench.acked(9, 2, at(1, 200)), []);
    bench.write(2, at(1, 200));
    assert_eq!(bench.acked(9, 2, at(1, 200)), []);
    assert_eq!(bench.machine.committed(), at(1, 100));
}

#[test]
fn what_a_passive_holds_still_counts_after_its_session_broke() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.step(Event::Appended { end: at(1, 200) });
    bench.acked(1, 2, at(1, 200));
    bench.step(Event::PeerDown { member: member(1) });
    let logged = Event::Logged { end: end(2, at(1, 200)) };
    bench.check(logged, &[Action::Commit(at(1, 200)), Action::ReplayTo(at(1, 200))]);
}

#[test]
fn a_passive_that_is_ahead_of_the_own_sync_commits_only_what_is_durable_here() {
    let mut bench = Bench::serving(2, &[1]);
    bench.step(Event::Appended { end: at(1, 200) });
    bench.step(Event::Appended { end: at(1, 300) });
    bench.acked(1, 2, at(1, 300));
    let logged = Event::Logged { end: end(2, at(1, 200)) };
    bench.check(logged, &[Action::Commit(at(1, 200)), Action::ReplayTo(at(1, 200))]);
    assert_eq!(bench.machine.view().peers[0].copy, copy(1));
}

#[test]
fn a_late_acknowledgement_takes_nothing_back() {
    let mut bench = Bench::serving(2, &[1]);
    bench.step(Event::Appended { end: at(1, 300) });
    bench.acked(1, 2, at(1, 300));
    bench.acked(1, 2, at(1, 200));
    let logged = Event::Logged { end: end(2, at(1, 300)) };
    bench.check(logged, &[Action::Commit(at(1, 300)), Action::ReplayTo(at(1, 300))]);
}

//! The passive side of a session: match, cut, refuse; nothing counts before `Matched` (R3).

use keelson_copy_core::{Action, Event, OpenRefusal, Recovered, SealRefusal};
use keelson_types::{CopyFault, CopyStatus, LogEnd, Position, StreamId};

use crate::support::{Bench, at, end, epoch, member, offer, start, table};

fn opened(counter: u64, matched: LogEnd) -> Action {
    Action::SendOpened { member: member(1), epoch: epoch(counter), matched }
}

fn refused(counter: u64, refusal: OpenRefusal) -> Action {
    Action::SendRefused { member: member(1), epoch: epoch(counter), refusal }
}

fn acknowledged(counter: u64, durable: Position) -> Action {
    Action::SendAck { member: member(1), epoch: epoch(counter), durable }
}

/// A log of epoch 1 up to 1:500 of which 1:200 is committed and replayed.
fn with_log() -> Bench {
    let mut bench = Bench::new(Recovered {
        sealed: epoch(1),
        table: table(&[start(1, Position::ZERO)]),
        end: end(1, at(1, 500)),
        committed: at(1, 200),
        ..Recovered::default()
    });
    bench.check(Event::Wake, &[Action::ReplayTo(at(1, 200))]);
    bench.step(Event::Replayed { to: at(1, 200) });
    bench
}

#[test]
fn an_offer_of_a_higher_epoch_is_promised_before_it_is_accepted() {
    let mut bench = Bench::empty();
    let rows = [start(1, Position::ZERO)];
    let saved = Action::SaveControl { save: 1, sealed: epoch(1), table: table(&[]) };
    bench.check(Event::Open(offer(1, &rows, at(1, 100))), &[saved]);
    bench.check(Event::ControlSaved { save: 1 }, &[opened(1, LogEnd::ZERO)]);
    assert_eq!(bench.machine.expects(epoch(1)), None, "not before the chains are compared");
    bench.check(Event::Matched { epoch: epoch(1) }, &[acknowledged(1, Position::ZERO)]);
    assert_eq!(bench.machine.expects(epoch(1)), Some(Position::ZERO));
}

#[test]
fn an_offer_of_the_promised_epoch_is_accepted_at_once() {
    let mut bench = with_log();
    let rows = [start(1, Position::ZERO)];
    bench.check(Event::Open(offer(1, &rows, at(1, 900))), &[opened(1, end(1, at(1, 500)))]);
}

#[test]
fn a_fork_is_cut_and_the_cut_saved_before_the_offer_is_accepted() {
    let mut bench = with_log();
    let rows = [start(1, Position::ZERO), start(2, at(1, 300))];
    bench.check(Event::Open(offer(2, &rows, at(2, 80))), &[Action::CutLog { to: at(1, 300) }]);
    let saved = Action::SaveControl {
        save: 1,
        sealed: epoch(2),
        table: table(&[start(1, Position::ZERO)]),
    };
    bench.check(Event::LogCut { end: end(1, at(1, 300)) }, &[saved]);
    bench.check(Event::ControlSaved { save: 1 }, &[opened(2, end(1, at(1, 300)))]);
    bench.check(Event::Matched { epoch: epoch(2) }, &[acknowledged(2, at(1, 300))]);
}

#[test]
fn what_is_committed_is_never_cut() {
    let mut bench = with_log();
    let rows = [start(1, Position::ZERO), start(2, at(1, 150))];
    bench.check(Event::Open(offer(2, &rows, at(2, 80))), &[refused(2, OpenRefusal::Diverged)]);
    assert_eq!(bench.machine.view().status, CopyStatus::FailedAndSuspended);
    assert!(matches!(bench.machine.view().fault, Some(CopyFault::Diverged(_))));
    // It stays so for every later offer.
    bench.check(Event::Open(offer(3, &rows, at(2, 80))), &[refused(3, OpenRefusal::Diverged)]);
}

#[test]
fn an_offer_of_another_stream_or_a_lower_epoch_is_refused() {
    let mut bench = with_log();
    let rows = [start(1, Position::ZERO)];
    let foreign = keelson_copy_core::OpenOffer {
        stream: StreamId::from_u128(8),
        ..offer(1, &rows, at(1, 900))
    };
    bench.check(Event::Open(foreign), &[refused(1, OpenRefusal::Diverged)]);
    bench.seal(4);
    bench.check(
        Event::Open(offer(3, &rows, at(1, 900))),
        &[refused(3, OpenRefusal::SealedHigher(epoch(4)))],
    );
}

#[test]
fn an_offer_while_a_cut_is_under_way_comes_too_early() {
    let mut bench = with_log();
    let rows = [start(1, Position::ZERO), start(2, at(1, 300))];
    bench.step(Event::Open(offer(2, &rows, at(2, 80))));
    bench.step(Event::SourceDown { member: member(1) });
    bench.check(Event::Open(offer(2, &rows, at(2, 80))), &[refused(2, OpenRefusal::Busy)]);
    bench.check(Event::LogCut { end: end(1, at(1, 300)) }, &[]);
    let actions = bench.settle(Event::Open(offer(2, &rows, at(2, 80))));
    assert_eq!(actions, [opened(2, end(1, at(1, 300)))]);
}

#[test]
fn a_failed_copy_refuses() {
    let mut bench = with_log();
    bench.step(Event::StoreFailed { fault: CopyFault::Store("gone".into()) });
    let rows = [start(1, Position::ZERO)];
    bench.check(Event::Open(offer(1, &rows, at(1, 900))), &[refused(1, OpenRefusal::Failed)]);
}

#[test]
fn a_match_of_another_epoch_opens_nothing() {
    let mut bench = Bench::empty();
    bench.settle(Event::Open(offer(2, &[start(2, Position::ZERO)], at(1, 100))));
    bench.check(Event::Matched { epoch: epoch(1) }, &[]);
    assert_eq!(bench.machine.expects(epoch(2)), None);
}

#[test]
fn a_cut_is_saved_although_the_promise_is_not_new() {
    let mut bench = with_log();
    bench.seal(5);
    let rows = [start(1, Position::ZERO), start(5, at(1, 300))];
    bench.check(Event::Open(offer(5, &rows, at(2, 80))), &[Action::CutLog { to: at(1, 300) }]);
    let saved = Action::SaveControl {
        save: 2,
        sealed: epoch(5),
        table: table(&[start(1, Position::ZERO)]),
    };
    bench.check(Event::LogCut { end: end(1, at(1, 300)) }, &[saved]);
}

#[test]
fn what_is_committed_and_not_replayed_yet_is_never_cut() {
    let mut bench = Bench::new(Recovered {
        sealed: epoch(1),
        table: table(&[start(1, Position::ZERO)]),
        end: end(1, at(1, 500)),
        committed: at(1, 200),
        ..Recovered::default()
    });
    let rows = [start(1, Position::ZERO), start(2, at(1, 150))];
    let actions = bench.step(Event::Open(offer(2, &rows, at(2, 80))));
    assert_eq!(actions, [refused(2, OpenRefusal::Diverged)]);
}

#[test]
fn a_late_seal_of_a_lower_epoch_does_not_undo_an_offer_that_is_being_accepted() {
    let mut bench = with_log();
    let rows = [start(1, Position::ZERO), start(6, at(1, 300))];
    bench.step(Event::Open(offer(6, &rows, at(2, 80))));
    let late = Action::SealReply { request: 1, answer: Err(SealRefusal::SealedHigher(epoch(6))) };
    bench.check(Event::Seal { request: 1, epoch: epoch(4) }, &[late]);
    let accepted = bench.settle(Event::LogCut { end: end(1, at(1, 300)) });
    assert_eq!(accepted, [opened(6, end(1, at(1, 300)))]);
}

#[test]
fn nothing_is_replayed_and_no_cut_epoch_is_kept_while_a_fork_goes() {
    let mut bench = Bench::new(Recovered {
        sealed: epoch(2),
        table: table(&[start(1, Position::ZERO), start(2, at(1, 400))]),
        end: end(2, at(2, 90)),
        committed: at(1, 200),
        ..Recovered::default()
    });
    let rows = [start(1, Position::ZERO), start(3, at(1, 300))];
    bench.check(Event::Open(offer(3, &rows, at(2, 80))), &[Action::CutLog { to: at(1, 300) }]);
    let kept = table(&[start(1, Position::ZERO)]);
    let saved = Action::SaveControl { save: 1, sealed: epoch(3), table: kept };
    bench.check(Event::LogCut { end: end(1, at(1, 300)) }, &[saved, Action::ReplayTo(at(1, 200))]);
}

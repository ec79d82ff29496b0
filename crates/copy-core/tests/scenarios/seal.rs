//! Seals: stop, wait for the sync in flight, save, then report (review S5).

use keelson_copy_core::{
    Action, Event, OpenRefusal, Recovered, SealAnswer, SealRefusal, StopReason,
};
use keelson_types::{CopyFault, EpochTable, LogEnd, Position, Weakness};

use crate::support::{Bench, at, end, epoch, member, offer, start, table};

fn answer(end: LogEnd) -> Result<SealAnswer, SealRefusal> {
    Ok(SealAnswer {
        end,
        committed: Position::ZERO,
        replayed: Position::ZERO,
        may_have_lost: false,
        fault: None,
    })
}

fn seal(request: u64, counter: u64) -> Event {
    Event::Seal { request, epoch: epoch(counter) }
}

#[test]
fn a_seal_is_saved_before_it_is_answered() {
    let mut bench = Bench::empty();
    let saved = Action::SaveControl { save: 1, sealed: epoch(3), table: EpochTable::new() };
    bench.check(seal(1, 3), &[saved]);
    assert_eq!(bench.machine.sealed(), epoch(3));
    let reply = Action::SealReply { request: 1, answer: answer(LogEnd::ZERO) };
    bench.check(Event::ControlSaved { save: 1 }, &[reply]);
}

#[test]
fn a_seal_waits_for_the_sync_in_flight_and_the_late_sync_is_not_acknowledged() {
    let mut bench = Bench::passive(1);
    bench.received(1, at(1, 100));
    bench.check(seal(1, 2), &[]);
    let rows = table(&[start(1, Position::ZERO)]);
    let saved = Action::SaveControl { save: 3, sealed: epoch(2), table: rows };
    bench.check(Event::Logged { end: end(1, at(1, 100)) }, &[saved]);
    let reply = Action::SealReply { request: 1, answer: answer(end(1, at(1, 100))) };
    bench.check(Event::ControlSaved { save: 3 }, &[reply]);
}

#[test]
fn the_naive_seal_reports_while_a_sync_is_in_flight() {
    let mut bench = Bench::weak(Recovered::default(), Weakness::SealBeforeSync);
    let offer = offer(1, &[start(1, Position::ZERO)], at(1, 100));
    bench.settle(Event::Open(offer));
    bench.step(Event::Matched { epoch: epoch(1) });
    bench.received(1, at(1, 100));
    let replies = bench.settle(seal(1, 2));
    assert_eq!(replies, [Action::SealReply { request: 1, answer: answer(LogEnd::ZERO) }]);
}

#[test]
fn a_sealed_passive_takes_no_frames_and_refuses_offers_until_it_is_saved() {
    let mut bench = Bench::passive(1);
    bench.step(seal(1, 2));
    assert_eq!(bench.machine.expects(epoch(1)), None);
    bench.check(Event::Received { epoch: epoch(1), end: end(1, at(1, 100)), starts: vec![] }, &[]);
    let busy = |counter, refusal| Action::SendRefused {
        member: member(1),
        epoch: epoch(counter),
        refusal,
    };
    let rows = [start(1, Position::ZERO)];
    bench.check(
        Event::Open(offer(1, &rows, at(1, 100))),
        &[busy(1, OpenRefusal::SealedHigher(epoch(2)))],
    );
    bench.check(Event::Open(offer(2, &rows, at(1, 100))), &[busy(2, OpenRefusal::Busy)]);
}

#[test]
fn a_higher_seal_supersedes_one_that_is_not_saved_yet() {
    let mut bench = Bench::empty();
    bench.step(seal(1, 3));
    let superseded =
        Action::SealReply { request: 1, answer: Err(SealRefusal::Superseded(epoch(4))) };
    let saved = Action::SaveControl { save: 2, sealed: epoch(4), table: EpochTable::new() };
    bench.check(seal(2, 4), &[superseded, saved]);
    bench.check(Event::ControlSaved { save: 1 }, &[]);
    let reply = Action::SealReply { request: 2, answer: answer(LogEnd::ZERO) };
    bench.check(Event::ControlSaved { save: 2 }, &[reply]);
}

#[test]
fn a_lower_seal_is_refused_and_changes_nothing() {
    let mut bench = Bench::empty();
    bench.seal(3);
    let refused =
        |request| Action::SealReply { request, answer: Err(SealRefusal::SealedHigher(epoch(3))) };
    bench.check(seal(1, 2), &[refused(1)]);
    assert_eq!(bench.machine.sealed(), epoch(3));
}

#[test]
fn the_same_seal_again_is_answered_at_once() {
    let mut bench = Bench::empty();
    bench.seal(3);
    let reply = Action::SealReply { request: 2, answer: answer(LogEnd::ZERO) };
    bench.check(seal(2, 3), &[reply]);
}

#[test]
fn a_seal_of_an_earlier_life_is_saved_again_before_it_is_answered() {
    let mut bench = Bench::new(Recovered { sealed: epoch(3), ..Recovered::default() });
    let saved = Action::SaveControl { save: 1, sealed: epoch(3), table: EpochTable::new() };
    bench.check(seal(1, 3), &[saved]);
}

#[test]
fn a_seal_deposes_the_active_of_a_lower_epoch() {
    let mut bench = Bench::serving(1, &[1]);
    let actions = bench.step(seal(5, 2));
    let stopped = Action::StopServing { epoch: epoch(1), reason: StopReason::Deposed(epoch(2)) };
    assert_eq!(actions[0], stopped);
    assert!(
        matches!(actions.last(), Some(Action::SaveControl { sealed, .. }) if *sealed == epoch(2))
    );
    assert_eq!(bench.machine.own_epoch(), None);
}

#[test]
fn an_epoch_in_use_is_not_sealed() {
    let in_use = Action::SealReply { request: 9, answer: Err(SealRefusal::EpochInUse(epoch(1))) };
    let mut active = Bench::serving(1, &[1]);
    active.check(seal(9, 1), std::slice::from_ref(&in_use));
    assert_eq!(active.machine.own_epoch(), Some(epoch(1)));
    // A repeated request must not cut a passive off from the active of the same epoch.
    let mut passive = Bench::passive(1);
    passive.check(seal(9, 1), &[in_use]);
    assert_eq!(passive.machine.expects(epoch(1)), Some(Position::ZERO));
}

#[test]
fn a_seal_during_a_cut_reports_the_end_after_it() {
    let mut bench = Bench::passive(1);
    bench.received(1, at(1, 300));
    bench.step(Event::Logged { end: end(1, at(1, 300)) });
    let fork = offer(2, &[start(1, Position::ZERO), start(2, at(1, 200))], at(2, 100));
    bench.check(Event::Open(fork), &[Action::CutLog { to: at(1, 200) }]);
    bench.check(seal(1, 3), &[]);
    let actions = bench.settle(Event::LogCut { end: end(1, at(1, 200)) });
    let reply = Action::SealReply { request: 1, answer: answer(end(1, at(1, 200))) };
    assert_eq!(actions, [reply]);
}

#[test]
fn a_copy_with_a_broken_log_refuses_and_says_why() {
    let mut bench = Bench::passive(1);
    bench.received(1, at(1, 100));
    bench.step(seal(1, 2));
    let fault = CopyFault::LogIo("sync".into());
    let refused = Action::SealReply { request: 1, answer: Err(SealRefusal::Failed(fault.clone())) };
    bench.check(Event::LogFailed { fault: fault.clone() }, &[refused]);
    let again = Action::SealReply { request: 2, answer: Err(SealRefusal::Failed(fault)) };
    bench.check(seal(2, 3), &[again]);
}

#[test]
fn a_copy_with_a_failed_store_is_sealed_and_reports_the_fault() {
    let mut bench = Bench::empty();
    let fault = CopyFault::Store("gone".into());
    bench.step(Event::StoreFailed { fault: fault.clone() });
    let replies = bench.settle(seal(1, 2));
    let [Action::SealReply { answer: Ok(answer), .. }] = &replies[..] else {
        panic!("{replies:?}")
    };
    assert_eq!(answer.fault, Some(fault));
}

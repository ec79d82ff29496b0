//! Frames and acknowledgements of a matched session, at both ends, and the replay target.

use keelson_copy_core::copy_state::INITIALIZING_MAX;
use keelson_copy_core::{Action, Event, OpenRefusal, PeerCopy};
use keelson_types::{CopyStatus, EpochTable, Position, Stop};

use crate::support::{Bench, assignment, at, copy, end, epoch, member, start, table};

fn acknowledged(counter: u64, durable: Position) -> Action {
    Action::SendAck { member: member(1), epoch: epoch(counter), durable }
}

#[test]
fn frames_are_acknowledged_once_durable() {
    let mut bench = Bench::passive(1);
    let received = Event::Received {
        epoch: epoch(1),
        end: end(1, at(1, 100)),
        starts: vec![start(1, Position::ZERO)],
    };
    let rows = table(&[start(1, Position::ZERO)]);
    let saved = Action::SaveControl { save: 2, sealed: epoch(1), table: rows };
    bench.check(received, &[Action::Append, saved]);
    bench.check(Event::Logged { end: end(1, at(1, 100)) }, &[acknowledged(1, at(1, 100))]);
}

#[test]
fn frames_of_another_epoch_are_ignored() {
    let mut bench = Bench::passive(2);
    let late = Event::Received { epoch: epoch(1), end: end(1, at(1, 100)), starts: vec![] };
    bench.check(late, &[]);
    assert_eq!(bench.machine.end().position, Position::ZERO);
}

#[test]
fn a_passive_replays_what_is_committed_and_durable_here() {
    let mut bench = Bench::passive(1);
    let up_to = |committed| Event::CommittedUpTo { epoch: epoch(1), committed };
    bench.received(1, at(1, 100));
    bench.check(up_to(at(1, 200)), &[]);
    let logged = Event::Logged { end: end(1, at(1, 100)) };
    bench.check(logged, &[acknowledged(1, at(1, 100)), Action::ReplayTo(at(1, 100))]);
    bench.received(1, at(1, 300));
    let logged = Event::Logged { end: end(1, at(1, 300)) };
    bench.check(logged, &[acknowledged(1, at(1, 300)), Action::ReplayTo(at(1, 200))]);
    bench.check(up_to(at(1, 300)), &[Action::ReplayTo(at(1, 300))]);
    // An older figure, or one of another epoch, changes nothing.
    bench.check(up_to(at(1, 250)), &[]);
    bench.received(1, at(1, 400));
    bench.step(Event::Logged { end: end(1, at(1, 400)) });
    bench.check(Event::CommittedUpTo { epoch: epoch(2), committed: at(1, 400) }, &[]);
}

#[test]
fn a_passive_without_its_source_takes_nothing_more() {
    let mut bench = Bench::passive(1);
    bench.received(1, at(1, 100));
    bench.check(Event::SourceDown { member: member(2) }, &[]);
    assert_eq!(bench.machine.expects(epoch(1)), Some(at(1, 100)));
    bench.check(Event::SourceDown { member: member(1) }, &[]);
    assert_eq!(bench.machine.expects(epoch(1)), None);
    bench.check(Event::Logged { end: end(1, at(1, 100)) }, &[]);
}

#[test]
fn the_active_offers_to_connected_peers_and_ships_from_the_match() {
    let mut bench = Bench::active(3, &[1]);
    let open = Action::OpenPeer { copy: copy(2), member: member(2), epoch: epoch(3) };
    bench.check(Event::PeerUp { member: member(2) }, &[open]);
    let shipped = bench.opened(2, 3, at(1, 40));
    let ship =
        Action::ShipFrom { copy: copy(2), member: member(2), epoch: epoch(3), from: at(1, 40) };
    assert_eq!(shipped, [ship]);
    assert_eq!(bench.opened(2, 3, at(1, 40)), [], "once only");
}

#[test]
fn a_passive_whose_chain_differs_is_not_shipped_to() {
    let mut bench = Bench::active(3, &[1]);
    bench.step(Event::PeerUp { member: member(2) });
    let opened =
        Event::Opened { copy: copy(2), epoch: epoch(3), matched: at(1, 40), chain_matches: false };
    bench.check(opened, &[]);
    let view = bench.machine.view();
    assert!(view.peers.iter().all(|peer| peer.copy != copy(2) || !peer.matched));
}

#[test]
fn a_refused_offer_is_made_again_after_a_while() {
    let mut bench = Bench::active(3, &[1]);
    bench.step(Event::PeerUp { member: member(2) });
    let refused = Event::Refused { copy: copy(2), epoch: epoch(3), refusal: OpenRefusal::Busy };
    bench.check(refused, &[]);
    let again = bench.machine.next_wake().expect("the offer is made again");
    bench.check(Event::Wake, &[]);
    bench.now = again;
    let open = Action::OpenPeer { copy: copy(2), member: member(2), epoch: epoch(3) };
    bench.check(Event::Wake, &[open]);
}

/// The pause between offers grows while a copy refuses, has a bound, and is short again for a copy
/// that is only busy or comes anew.
#[test]
fn a_copy_that_refuses_again_and_again_is_asked_less_often() {
    let mut bench = Bench::active(3, &[1]);
    bench.step(Event::PeerUp { member: member(2) });
    let pause = |bench: &mut Bench, refusal| {
        let before = bench.now;
        bench.step(Event::Refused { copy: copy(2), epoch: epoch(3), refusal });
        bench.now = bench.machine.next_wake().expect("the offer is made again");
        bench.step(Event::Wake);
        bench.now.since(before).as_millis()
    };
    let failed = [200, 400, 800, 1_600, 3_200, 3_200];
    assert_eq!(failed.map(|_| pause(&mut bench, OpenRefusal::Failed)), failed);

    // Anew, before the silence of the copy wakes the machine for another reason.
    let mut bench = Bench::active(3, &[1]);
    bench.step(Event::PeerUp { member: member(2) });
    for (refusal, expected) in
        [(OpenRefusal::Failed, 200), (OpenRefusal::Failed, 400), (OpenRefusal::Busy, 200)]
    {
        assert_eq!(pause(&mut bench, refusal), expected);
    }
    assert_eq!(pause(&mut bench, OpenRefusal::Failed), 200);
    assert_eq!(pause(&mut bench, OpenRefusal::Failed), 400);
    bench.step(Event::PeerDown { member: member(2) });
    bench.step(Event::PeerUp { member: member(2) });
    assert_eq!(pause(&mut bench, OpenRefusal::Failed), 200);
}

/// A copy to which the log cannot be read takes every offer, in vain: the pause grows, too, until
/// it acknowledges more than before.
#[test]
fn a_copy_that_takes_offers_in_vain_is_asked_less_often() {
    let mut bench = Bench::active(3, &[1]);
    bench.step(Event::PeerUp { member: member(2) });
    bench.opened(2, 3, at(1, 40));
    bench.acked(2, 3, at(1, 40));
    let pause = |bench: &mut Bench| {
        let before = bench.now;
        let refusal = OpenRefusal::Failed;
        bench.step(Event::Refused { copy: copy(2), epoch: epoch(3), refusal });
        bench.now = bench.machine.next_wake().expect("the offer is made again");
        bench.step(Event::Wake);
        bench.opened(2, 3, at(1, 40));
        bench.acked(2, 3, at(1, 40));
        bench.now.since(before).as_millis()
    };
    let growing = [200, 400, 800, 1_600, 3_200, 3_200];
    assert_eq!(growing.map(|_| pause(&mut bench)), growing);
    bench.acked(2, 3, at(1, 60));
    assert_eq!(pause(&mut bench), 200);
}

#[test]
fn a_refusal_in_the_middle_stops_the_stream() {
    let mut bench = Bench::active(3, &[1]);
    let refused = Event::Refused { copy: copy(1), epoch: epoch(3), refusal: OpenRefusal::Busy };
    bench.check(refused, &[Action::ClosePeer { copy: copy(1) }]);
}

#[test]
fn a_copy_that_is_removed_is_closed_and_a_new_one_offered_to() {
    let mut bench = Bench::active(3, &[1, 2]);
    let mut fewer = assignment(epoch(3), Some(0));
    fewer.copies.retain(|c| c.copy != copy(2));
    let actions = bench.step(Event::Assigned(fewer));
    assert_eq!(actions[0], Action::ClosePeer { copy: copy(2) });
    let open = Action::OpenPeer { copy: copy(2), member: member(2), epoch: epoch(3) };
    let actions = bench.step(Event::Assigned(assignment(epoch(3), Some(0))));
    assert_eq!(actions[0], open);
}

/// F47: queues do not decide the status; a lost contact and a comparison under way do.
#[test]
fn a_passive_shows_its_contact_and_whether_logs_are_compared() {
    let mut bench = Bench::passive(1);
    assert_eq!(bench.machine.view().status, CopyStatus::Healthy);
    bench.step(Event::CommittedUpTo { epoch: epoch(1), committed: at(3, 0) });
    assert_eq!(bench.machine.view().status, CopyStatus::Healthy);
    assert_eq!(bench.machine.table(), &EpochTable::new());
    bench.step(Event::SourceDown { member: member(1) });
    assert_eq!(bench.machine.view().status, CopyStatus::DisconnectedAndHealthy);
    assert!(bench.machine.view().generated_is_stale);
    bench.step(Event::Open(crate::support::offer(1, &[start(1, Position::ZERO)], at(1, 200))));
    assert_eq!(bench.machine.view().status, CopyStatus::Resynchronizing);
    bench.step(Event::SourceDown { member: member(1) });
    assert_eq!(bench.machine.view().status, CopyStatus::DisconnectedAndResynchronizing);
}

/// F47: a copy that was opened looks for its source for 30 s, then it is disconnected.
#[test]
fn a_copy_without_a_source_is_initializing_for_half_a_minute() {
    let mut bench = Bench::empty();
    bench.step(Event::Wake);
    assert_eq!(bench.machine.view().status, CopyStatus::Initializing);
    bench.wait(INITIALIZING_MAX);
    bench.step(Event::Wake);
    assert_eq!(bench.machine.view().status, CopyStatus::DisconnectedAndHealthy);
}

/// F43: a suspended copy takes no log and replays nothing; F44: it goes on where it was.
#[test]
fn a_suspended_passive_takes_nothing_until_it_is_resumed() {
    let mut bench = Bench::passive(1);
    bench.received(1, at(1, 100));
    bench.step(Event::Logged { end: end(1, at(1, 100)) });
    let mut news = assignment(epoch(1), Some(1));
    news.suspension.replication = Some(Stop { since_unix_ms: 7, until_unix_ms: None });
    let refused =
        Action::SendRefused { member: member(1), epoch: epoch(1), refusal: OpenRefusal::Suspended };
    bench.check(Event::Assigned(news), std::slice::from_ref(&refused));
    assert_eq!(bench.machine.expects(epoch(1)), None);
    assert_eq!(bench.machine.view().status, CopyStatus::Suspended);
    let offer = crate::support::offer(1, &[start(1, Position::ZERO)], at(1, 200));
    bench.check(Event::Open(offer.clone()), &[refused]);
    bench.step(Event::Assigned(assignment(epoch(1), Some(1))));
    let opened = bench.step(Event::Open(offer));
    assert!(matches!(opened[..], [Action::SendOpened { .. }]), "{opened:?}");
}

/// F43: the active offers a suspended copy nothing, and offers again once it is resumed.
#[test]
fn the_active_leaves_a_suspended_peer_alone() {
    let mut bench = Bench::active(3, &[1, 2]);
    let mut news = assignment(epoch(3), Some(0));
    news.copies[2] = PeerCopy { may_count: false, suspended: true, ..news.copies[2].clone() };
    let actions = bench.step(Event::Assigned(news));
    assert_eq!(actions[0], Action::ClosePeer { copy: copy(2) });
    let proposed =
        |action: &Action| matches!(action, Action::ProposeRule { rule, .. } if !rule.has(copy(2)));
    assert!(actions.iter().any(proposed), "it leaves the rule at once: {actions:?}");
    assert_eq!(bench.step(Event::PeerUp { member: member(2) }), []);
    let actions = bench.step(Event::Assigned(assignment(epoch(3), Some(0))));
    let open = Action::OpenPeer { copy: copy(2), member: member(2), epoch: epoch(3) };
    assert_eq!(actions[0], open);
}

/// F87: a lagged copy replays only what is old enough.
#[test]
fn a_lagged_passive_replays_up_to_its_limit() {
    let mut bench = Bench::passive(1);
    bench.step(Event::ReplayLimit(Some(at(1, 50))));
    bench.received(1, at(1, 100));
    bench.step(Event::Logged { end: end(1, at(1, 100)) });
    let committed = Event::CommittedUpTo { epoch: epoch(1), committed: at(1, 100) };
    bench.check(committed, &[Action::ReplayTo(at(1, 50))]);
    bench.check(Event::ReplayLimit(Some(at(1, 70))), &[Action::ReplayTo(at(1, 70))]);
    bench.check(Event::ReplayLimit(None), &[Action::ReplayTo(at(1, 100))]);
}

/// F107: a copy that misses log which is gone waits for an operator, and says what it misses.
#[test]
fn a_passive_whose_log_is_gone_at_the_active_waits_for_a_seed() {
    let mut bench = Bench::empty();
    let offer = crate::support::offer(1, &[start(1, Position::ZERO)], at(9, 200));
    bench.step(Event::Open(offer.clone()));
    bench.step(Event::ControlSaved { save: 1 });
    bench.check(Event::LogGone { epoch: epoch(1), begins: at(7, 0) }, &[]);
    assert_eq!(bench.machine.view().status, CopyStatus::FailedAndSuspended);
    let refused = bench.step(Event::Open(offer));
    let failed = OpenRefusal::Failed;
    assert!(
        matches!(&refused[..], [Action::SendRefused { refusal, .. }] if *refusal == failed),
        "{refused:?}"
    );
}

//! The ladder of divergence, taken step by step: a copy that replayed a fork comes back (S14).

use keelson_copy_core::divergence::{Rung, SeedReason, Touched};
use keelson_copy_core::range_fetch::FetchCost;
use keelson_copy_core::{
    Action, Assignment, Event, Ground, Marking, MountFailure, OpenOffer, OpenRefusal, Recovered,
};
use keelson_types::{CopyFault, CopyStatus, Discard, FailureTag, LogEnd, Position};

use crate::support::{Bench, assignment, at, end, epoch, member, offer, order, start, table};

/// A log of epoch 1 up to 1:500, all of it committed and replayed. Epoch 2 went on behind 1:300 and
/// the rest was given up on an operator's word.
fn bereft() -> Bench {
    let mut bench = Bench::new(Recovered {
        sealed: epoch(1),
        table: table(&[start(1, Position::ZERO)]),
        end: end(1, at(1, 500)),
        committed: at(1, 500),
        replayed: at(1, 500),
        ..Recovered::default()
    });
    let discards = vec![Discard { epoch: epoch(2), kept: end(1, at(1, 300)) }];
    bench.step(Event::Assigned(Assignment { discards, ..assignment(epoch(2), Some(1)) }));
    bench
}

fn offered() -> Event {
    Event::Open(offer(2, &[start(1, Position::ZERO), start(2, at(1, 300))], at(2, 80)))
}

fn ground(checkpointed: u64) -> Event {
    let checkpointed = at(1, checkpointed);
    Event::Ground(Ground { checkpointed, ..Ground::default() })
}

fn counted(bytes: u64) -> Event {
    Event::ForkCounted(Touched::Counted(FetchCost { keys: 3, bytes }))
}

fn accepted(bench: &mut Bench) {
    let opened =
        Action::SendOpened { member: member(1), epoch: epoch(2), matched: end(1, at(1, 300)) };
    let actions = bench.settle(Event::LogCut { end: end(1, at(1, 300)) });
    assert_eq!(actions.last(), Some(&opened));
    bench.step(Event::Matched { epoch: epoch(2) });
}

fn rungs(bench: &Bench) -> Vec<&Rung> {
    bench.verdicts.iter().map(|verdict| &verdict.rung).collect()
}

#[test]
fn a_replayed_fork_in_memory_goes_by_a_reopen_and_a_cut() {
    let mut bench = bereft();
    bench.step(ground(200));
    bench.check(offered(), &[Action::ReopenStore]);
    assert_eq!(bench.machine.view().status, CopyStatus::Resynchronizing);
    bench.check(Event::Replayed { to: at(1, 500) }, &[]);
    bench.step(ground(250));
    let cut = Action::CutLog { to: at(1, 300) };
    bench.check(Event::StoreReopened { replayed: at(1, 250) }, &[cut]);
    assert_eq!(bench.machine.view().replayed, at(1, 250));
    assert_eq!(bench.machine.committed(), at(1, 300), "the rest is committed no more");
    accepted(&mut bench);
    bench.check(Event::CommittedUpTo { epoch: epoch(2), committed: at(1, 300) }, &[]);
    assert!(matches!(rungs(&bench)[..], [Rung::ReopenAtCheckpoint { .. }, Rung::CutFork { .. }]));
    assert_eq!(bench.verdicts[0].cost.salvage_bytes, 200);
}

#[test]
fn a_store_that_comes_back_on_the_fork_is_resynced() {
    let mut bench = bereft();
    bench.step(ground(200));
    bench.step(offered());
    bench.step(ground(400));
    let count = Action::CountFork { from: at(1, 300), to: at(1, 500) };
    bench.check(Event::StoreReopened { replayed: at(1, 400) }, &[count]);
}

#[test]
fn a_fork_in_the_files_is_counted_marked_cut_and_set_back() {
    let mut bench = bereft();
    bench.step(ground(400));
    bench.check(offered(), &[Action::CountFork { from: at(1, 300), to: at(1, 500) }]);
    let (fork, estimated) = (end(1, at(1, 300)), FetchCost { keys: 3, bytes: 90 });
    bench.check(counted(90), &[Action::BeginResync { epoch: epoch(2), fork, estimated }]);
    bench.check(Event::Replayed { to: at(1, 500) }, &[]);
    let marking = Marking { resync: true, replay_limit: Some(at(1, 300)) };
    bench.step(Event::Marked(Some(marking)));
    // Not before the mark is durable.
    let cut = Action::CutLog { to: at(1, 300) };
    bench.check(Event::ResyncBegun { fork: at(1, 300) }, &[cut]);
    bench.check(Event::Replayed { to: at(1, 500) }, &[]);
    assert_eq!(bench.machine.view().replayed, at(1, 300), "what was ordered before is old");
    accepted(&mut bench);
    bench.received(2, at(2, 80));
    bench.step(Event::Logged { end: end(2, at(2, 80)) });
    bench.check(Event::CommittedUpTo { epoch: epoch(2), committed: at(2, 80) }, &[]);
    bench.check(Event::StoreRewound { to: at(1, 300) }, &[]);
    let limited = Marking { replay_limit: Some(at(2, 40)), ..marking };
    bench.check(Event::Marked(Some(limited)), &[Action::ReplayTo(at(2, 40))]);
    bench.check(Event::Marked(None), &[Action::ReplayTo(at(2, 80))]);
}

#[test]
fn a_copy_with_a_mark_is_a_source_of_log_and_no_candidate() {
    let mut bench = bereft();
    bench.step(Event::Marked(Some(Marking { resync: true, replay_limit: None })));
    let actions = bench.settle(Event::Seal { request: 1, epoch: epoch(3) });
    let [Action::SealReply { answer: Ok(answer), .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert!(matches!(answer.fault, Some(CopyFault::Untrusted(_))), "{answer:?}");
    assert!(!answer.may_have_lost);
    let mounted = bench.step(Event::Mount { request: 2, order: order(3, LogEnd::ZERO, &[]) });
    let [Action::MountReply { answer: Err(MountFailure::Failed(fault)), .. }] = &mounted[..] else {
        panic!("{mounted:?}")
    };
    assert!(matches!(fault, CopyFault::Untrusted(_)));
    assert_eq!(bench.machine.view().status, CopyStatus::DisconnectedAndResynchronizing);
}

#[test]
fn what_cannot_be_resynced_waits_for_a_seed_and_says_why() {
    for (event, why) in [
        (counted(u64::MAX), SeedReason::NoCheaper),
        (Event::ForkCounted(Touched::TooLarge), SeedReason::TouchedTooLarge),
    ] {
        let mut bench = bereft();
        bench.step(ground(400));
        bench.step(offered());
        let (member, epoch) = (member(1), epoch(2));
        let refused = Action::SendRefused { member, epoch, refusal: OpenRefusal::Diverged };
        bench.check(event, &[refused]);
        let view = bench.machine.view();
        assert_eq!(view.status, CopyStatus::FailedAndSuspended);
        let fault = view.fault.expect("failed").to_string();
        assert!(fault.contains(&why.to_string()), "{fault}");
        assert_eq!(bench.verdicts.last().map(|v| &v.rung), Some(&Rung::Seed { why }));
    }
}

/// F107: what the active has truncated is missing; a copy that left its log has diverged, whatever
/// is truncated besides, and may follow again if its own log becomes the truth.
#[test]
fn log_that_the_active_lacks_is_missing_for_a_copy_that_is_behind_only() {
    let (member, epoch) = (member(1), epoch(2));
    for (forks_at, log_from, behind) in [(300, 301, false), (500, 501, true)] {
        let mut bench = bereft();
        let rows = [start(1, Position::ZERO), start(2, at(1, forks_at))];
        let offer = OpenOffer { log_from: at(1, log_from), ..offer(2, &rows, at(2, 80)) };
        let refusal = if behind { OpenRefusal::Failed } else { OpenRefusal::Diverged };
        bench.check(Event::Open(offer), &[Action::SendRefused { member, epoch, refusal }]);
        let why = SeedReason::LogGone;
        assert_eq!(bench.verdicts.last().map(|v| &v.rung), Some(&Rung::Seed { why }));
        let view = bench.machine.view();
        assert_eq!(view.status, CopyStatus::FailedAndSuspended);
        let tag = view.fault.expect("failed").tag();
        let expected = if behind { FailureTag::MissingLog } else { FailureTag::Diverged };
        assert_eq!(tag, expected, "forks at {forks_at}");
        // Another active, whose log contains this one: nothing is missing then.
        bench.step(Event::Assigned(assignment(crate::support::epoch(3), Some(2))));
        assert_eq!(bench.machine.view().fault.is_some(), behind);
    }
}

#[test]
fn a_word_of_another_history_covers_nothing() {
    let discard = |counter, kept| Discard { epoch: epoch(counter), kept: end(1, at(1, kept)) };
    // Of an epoch that the offered log does not contain; of the own one; of less than is given up.
    for discard in [discard(3, 300), discard(1, 300), discard(2, 301)] {
        let mut bench = bereft();
        let discards = vec![discard];
        bench.step(Event::Assigned(Assignment { discards, ..assignment(epoch(2), Some(1)) }));
        bench.step(ground(200));
        bench.step(offered());
        assert!(matches!(rungs(&bench)[..], [Rung::Wait { .. }]), "{discard:?}");
        assert!(matches!(bench.machine.view().fault, Some(CopyFault::Diverged(_))));
    }
}

#[test]
fn a_seal_in_the_middle_leaves_the_log_uncut_and_the_store_set_back() {
    let mut bench = bereft();
    bench.step(ground(400));
    bench.step(offered());
    bench.step(counted(90));
    bench.seal(3);
    bench.step(Event::Marked(Some(Marking { resync: true, replay_limit: Some(at(1, 300)) })));
    bench.check(Event::ResyncBegun { fork: at(1, 300) }, &[]);
    bench.check(Event::StoreRewound { to: at(1, 300) }, &[]);
    let replayed_later = Marking { resync: true, replay_limit: Some(at(2, 10)) };
    bench.check(Event::Marked(Some(replayed_later)), &[]);
    assert_eq!(bench.machine.end(), end(1, at(1, 500)), "nobody said which log to follow");
    let rows = [start(1, Position::ZERO), start(3, at(1, 300))];
    bench.check(Event::Open(offer(3, &rows, at(2, 80))), &[Action::CutLog { to: at(1, 300) }]);
}

#[test]
fn no_offer_is_taken_while_the_store_is_away() {
    let mut bench = bereft();
    bench.step(ground(200));
    bench.step(offered());
    bench.step(Event::SourceDown { member: member(1) });
    let busy =
        Action::SendRefused { member: member(1), epoch: epoch(2), refusal: OpenRefusal::Busy };
    bench.check(offered(), &[busy]);
    bench.check(Event::StoreReopened { replayed: at(1, 250) }, &[Action::ReplayTo(at(1, 500))]);
}

/// An offer may come before this member has applied the receipt of what the new epoch gave up.
#[test]
fn a_copy_that_waits_for_a_word_looks_again_when_it_comes() {
    let mut bench = bereft();
    bench.step(Event::Assigned(assignment(epoch(1), Some(1))));
    bench.step(ground(200));
    bench.step(offered());
    assert!(matches!(bench.machine.view().fault, Some(CopyFault::Diverged(_))));
    bench.step(Event::Assigned(assignment(epoch(1), Some(1))));
    assert!(bench.machine.view().fault.is_some(), "nothing new was said");
    let discards = vec![Discard { epoch: epoch(2), kept: end(1, at(1, 300)) }];
    bench.step(Event::Assigned(Assignment { discards, ..assignment(epoch(2), Some(1)) }));
    assert_eq!(bench.machine.view().fault, None);
    bench.check(offered(), &[Action::ReopenStore]);
}

/// R3: a timeline of a higher epoch is given up for an older one that goes on beyond it.
#[test]
fn a_younger_timeline_is_undone_for_an_older_one_that_goes_further() {
    let mut bench = Bench::new(Recovered {
        sealed: epoch(2),
        table: table(&[start(1, Position::ZERO), start(2, at(1, 300))]),
        end: end(2, at(1, 400)),
        committed: at(1, 400),
        replayed: at(1, 400),
        ..Recovered::default()
    });
    let discards = vec![Discard { epoch: epoch(3), kept: end(1, at(1, 900)) }];
    bench.step(Event::Assigned(Assignment { discards, ..assignment(epoch(3), Some(1)) }));
    bench.step(ground(200));
    let rows = [start(1, Position::ZERO), start(3, at(1, 900))];
    bench.check(Event::Open(offer(3, &rows, at(2, 80))), &[Action::ReopenStore]);
}

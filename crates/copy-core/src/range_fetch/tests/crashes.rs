//! Rule 6: whatever was durable when the process ended is where it goes on.

use super::*;

/// Small progress steps, so that each chunk is recorded.
fn bench() -> Bench {
    Bench::with(FetchConfig { progress_bytes: 1, ..FetchConfig::default() })
}

#[test]
fn before_the_mark_is_durable_nothing_happened() {
    let mut bench = bench();
    bench.step(FetchEvent::Begin(resync(&[key("k")])));
    bench.restart(1_000);
    assert!(bench.machine.is_whole());
}

#[test]
fn before_the_position_went_back_it_goes_back_again() {
    let mut bench = bench();
    let saved = bench.step(FetchEvent::Begin(resync(&[key("k")])));
    let [FetchAction::SaveMark { number, mark }] = &saved[..] else { panic!("{saved:?}") };
    bench.disk = Some(mark.clone());
    bench.step(FetchEvent::MarkSaved { number: *number });
    // The store names a position on the fork, which means nothing.
    bench.restart(1_000);
    assert_eq!(bench.machine.replay_limit(), Some(at(600)));
    assert_eq!(bench.follow(2), ["rewind", "fetch"]);
}

#[test]
fn recorded_progress_is_not_fetched_again() {
    let mut bench = bench();
    bench.begin(resync(&[key("a"), key("k")]));
    let rest = ["save Q", "apply", "checkpoint", "save Q", "fetch"];
    assert_eq!(bench.chunk(end(2, 900), Some(user("k"))), rest);
    bench.restart(700);
    assert_eq!(bench.machine.replay_limit(), Some(at(700)));
    let donors = vec![donor(2)];
    let asked = bench.step(FetchEvent::EpochChanged { epoch: epoch(2), donors });
    let [FetchAction::Fetch { donor: second, request, .. }] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!((*second, &request.spans[..]), (donor(2), &[key("k")][..]));
    assert_eq!((request.snapshot, request.not_before), (None, at(900)), "not before Q");
    assert_eq!(bench.machine.replay_limit(), Some(at(900)));
}

#[test]
fn what_was_applied_and_not_recorded_is_fetched_again() {
    let mut bench = Bench::new();
    bench.begin(resync(&[key("a"), key("k")]));
    assert_eq!(bench.chunk(end(2, 900), Some(user("k"))), ["save Q", "apply", "fetch"]);
    bench.restart(600);
    let donors = vec![donor(1)];
    let asked = bench.step(FetchEvent::EpochChanged { epoch: epoch(2), donors });
    let [FetchAction::Fetch { request, .. }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(request.spans, [key("a"), key("k")]);
    assert_eq!(request.not_before, at(900), "data of that Q may be there");
}

#[test]
fn a_store_that_kept_more_than_was_recorded_wants_a_newer_snapshot() {
    let mut bench = Bench::new();
    bench.begin(resync(&[key("k")]));
    let number = bench.asked();
    let chunk = Chunk { at: end(2, 900), next: None, cost: cost(1, 1) };
    let recorded = bench.step(FetchEvent::ChunkFetched { number, chunk });
    let [FetchAction::SaveMark { mark, .. }] = &recorded[..] else { panic!("{recorded:?}") };
    bench.disk = Some(mark.clone());
    // All was applied and replayed beyond Q, only the mark does not know.
    bench.restart(950);
    bench.follow(2);
    assert_eq!(bench.chunk(end(2, 949), None), ["fetch"], "the next donor");
    assert_eq!(bench.chunk(end(2, 950), None)[..2], ["save Q", "apply"]);
}

#[test]
fn between_trust_and_the_end_of_the_mark_it_is_earned_again() {
    let mut bench = Bench::new();
    bench.begin(resync(&[key("k")]));
    bench.chunk(end(2, 1_500), None);
    bench.step(FetchEvent::Replayed { to: at(1_500) });
    // The store fell back behind Q.
    bench.restart(1_400);
    assert!(!bench.machine.may_read(&user("k")));
    assert_eq!(bench.follow(2), [""; 0]);
    assert_eq!(bench.replay(1_500), ["trust", "checkpoint", "clear", "finished"]);
}

#[test]
fn without_donors_it_waits_for_some() {
    let mut bench = Bench::new();
    let order = FetchOrder { donors: Vec::new(), ..repair(&[key("k")]) };
    assert_eq!(bench.begin(order), ["save", "begun"]);
    assert_eq!(bench.phase(), Some(FetchPhase::Waiting));
    assert_eq!(bench.follow(2), ["fetch"]);
}

//! Rule 2: who may read, and when the mark goes. Rule 4: snapshots and replay.

use super::*;

/// Everything is fetched at Q = 2/1:1500, replay has not come there.
fn fetched(order: FetchOrder) -> Bench {
    let mut bench = Bench::new();
    bench.begin(order);
    bench.chunk(end(2, 1_500), None);
    assert_eq!(bench.phase(), Some(FetchPhase::Replaying));
    bench
}

#[test]
fn a_fork_makes_everything_unreadable_and_damage_only_the_marked_keys() {
    let cases = [
        (resync(&[key("k")]), "k", false),
        (resync(&[key("k")]), "z", false),
        (repair(&[key("k")]), "k", false),
        (repair(&[key("k")]), "z", true),
    ];
    for (order, name, readable) in cases {
        let mut bench = Bench::new();
        assert!(bench.machine.may_read(&user(name)));
        // From the order on, not only from the durable mark on.
        bench.step(FetchEvent::Begin(order.clone()));
        assert_eq!(bench.machine.may_read(&user(name)), readable, "{order:?}");
        assert!(!bench.machine.is_whole());
        let mut bench = fetched(order.clone());
        assert_eq!(bench.machine.may_read(&user(name)), readable, "{order:?}");
        bench.replay(1_500);
        assert!(bench.machine.may_read(&user(name)) && bench.machine.is_whole());
    }
}

#[test]
fn the_mark_outlives_the_trust_until_a_checkpoint_reaches_q() {
    let mut bench = fetched(resync(&[key("k")]));
    let trusted = bench.step(FetchEvent::Replayed { to: at(1_500) });
    let [FetchAction::Trust, FetchAction::Checkpoint { number }] = trusted[..] else {
        panic!("{trusted:?}")
    };
    assert!(bench.machine.may_read(&user("k")));
    assert!(!bench.machine.is_whole(), "it could fall back behind Q");
    bench.check(FetchEvent::Checkpointed { number, to: at(1_499) }, &[]);
    assert_eq!(bench.phase(), Some(FetchPhase::Waiting), "asked for again later");
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.settle(FetchEvent::Wake), ["checkpoint", "clear", "finished"]);
}

#[test]
fn replay_stays_behind_every_snapshot_that_may_still_be_applied() {
    let mut bench = Bench::new();
    assert_eq!(bench.machine.replay_limit(), None);
    bench.begin(resync(&[key("a"), key("k")]));
    assert_eq!(bench.machine.replay_limit(), Some(at(600)), "no Q yet");
    bench.chunk(end(2, 900), Some(user("k")));
    assert_eq!(bench.machine.replay_limit(), Some(at(900)));
    bench.replay(800);
    bench.chunk(end(2, 900), None);
    assert_eq!(bench.machine.replay_limit(), None, "everything is there");
}

#[test]
fn a_snapshot_before_what_was_replayed_is_refused() {
    let mut bench = Bench::new();
    bench.begin(repair(&[key("a"), key("k")]));
    let view = |bench: &Bench| bench.machine.view().expect("a mark stands");
    assert_eq!(bench.chunk(end(2, 999), None), ["fetch"], "the next donor");
    assert_eq!(view(&bench).last_failure, Some(FetchFailure::Behind));
    bench.chunk(end(2, 1_100), Some(user("k")));
    bench.replay(1_100);
    let number = bench.asked();
    let chunk = Chunk { at: end(2, 1_099), next: None, cost: cost(1, 1) };
    bench.step(FetchEvent::ChunkFetched { number, chunk });
    assert_eq!(view(&bench).last_failure, Some(FetchFailure::Behind), "Q only rises");
}

#[test]
fn q_is_the_highest_of_several_snapshots() {
    let mut bench = Bench::new();
    bench.begin(resync(&[key("a"), key("k")]));
    bench.chunk(end(2, 900), Some(user("k")));
    let gone =
        FetchEvent::FetchFailed { number: bench.asked(), failure: FetchFailure::SnapshotGone };
    let asked = bench.step(gone);
    let [FetchAction::Fetch { donor: same, request, .. }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((*same, request.snapshot, request.not_before), (donor(1), None, at(900)));
    let rest = ["save Q", "apply", "checkpoint", "save all"];
    assert_eq!(bench.chunk(end(2, 950), None), rest);
    assert_eq!(bench.replay(900), [""; 0]);
    assert_eq!(bench.replay(950)[0], "trust");
}

#[test]
fn a_snapshot_of_a_newer_epoch_is_refused() {
    let mut bench = Bench::new();
    bench.begin(resync(&[key("a")]));
    assert_eq!(bench.chunk(end(3, 900), None), ["fetch"]);
    let view = bench.machine.view().expect("a mark stands");
    assert_eq!(view.last_failure, Some(FetchFailure::OtherEpoch));
}

#[test]
fn donors_are_tried_in_turn_and_pauses_grow_to_a_bound() {
    let config = FetchConfig { retry_max: Duration::from_millis(700), ..FetchConfig::default() };
    let mut bench = Bench::with(config);
    bench.begin(repair(&[key("k")]));
    for pause in [200, 400, 700, 700] {
        for last in [false, true] {
            let number = bench.asked();
            let failure = FetchFailure::Unreachable;
            let asked = bench.settle(FetchEvent::FetchFailed { number, failure });
            assert_eq!(asked.is_empty(), last);
        }
        let until = bench.now.after(Duration::from_millis(pause));
        assert_eq!(bench.machine.next_wake(), Some(until));
        bench.check(FetchEvent::Wake, &[]);
        bench.now = until;
        assert_eq!(bench.settle(FetchEvent::Wake), ["fetch"]);
    }
}

#[test]
fn a_full_volume_is_waited_for_at_every_step_of_the_store() {
    let mut bench = Bench::new();
    let mut todo = bench.step(FetchEvent::Begin(resync(&[key("k")])));
    let mut waits = 0;
    while let Some(action) = (!todo.is_empty()).then(|| todo.remove(0)) {
        let number = match &action {
            FetchAction::Rewind { number, .. }
            | FetchAction::ApplyChunk { number, .. }
            | FetchAction::Checkpoint { number } => Some(*number),
            _ => None,
        };
        if let Some(number) = number.filter(|_| waits < 4) {
            waits += 1;
            bench.check(FetchEvent::StoreFull { number }, &[]);
            assert_eq!(bench.phase(), Some(FetchPhase::Waiting));
            bench.wait(Duration::from_secs(60));
            todo = bench.step(FetchEvent::Wake);
            // Once more, and now it works.
            let done = match todo.remove(0) {
                FetchAction::Rewind { number, .. } => FetchEvent::Rewound { number },
                FetchAction::Checkpoint { number } => {
                    FetchEvent::Checkpointed { number, to: bench.machine.replayed }
                }
                FetchAction::Fetch { number, .. } => {
                    let chunk = Chunk { at: end(2, 900), next: None, cost: cost(1, 1) };
                    let applied = bench.step(FetchEvent::ChunkFetched { number, chunk });
                    let [FetchAction::ApplyChunk { number, .. }] = applied[..] else {
                        panic!("Q is recorded already: {applied:?}")
                    };
                    FetchEvent::Applied { number }
                }
                other => panic!("{other:?}"),
            };
            todo = bench.step(done);
        } else {
            let done = match action {
                FetchAction::SaveMark { number, .. } => FetchEvent::MarkSaved { number },
                FetchAction::ClearMark { number } => FetchEvent::MarkCleared { number },
                FetchAction::Fetch { number, .. } => {
                    let chunk = Chunk { at: end(2, 900), next: None, cost: cost(1, 1) };
                    FetchEvent::ChunkFetched { number, chunk }
                }
                _ => continue,
            };
            todo.extend(bench.step(done));
        }
        if bench.phase() == Some(FetchPhase::Replaying) {
            todo.extend(bench.step(FetchEvent::Replayed { to: at(900) }));
        }
    }
    assert_eq!(waits, 4, "rewind, chunk, two checkpoints");
    assert!(bench.machine.is_whole());
}

#[test]
fn cost_is_shown_before_and_after() {
    let mut bench = Bench::new();
    bench.begin(resync(&[key("a"), key("k")]));
    let shown = |bench: &Bench| {
        let view = bench.machine.view().expect("a mark stands");
        (view.percent(), view.costs.round, view.costs.spent, view.rounds)
    };
    assert_eq!(shown(&bench), (0, cost(0, 0), cost(0, 0), 1));
    bench.chunk(end(2, 900), Some(user("k")));
    assert_eq!(shown(&bench), (50, cost(1, 100), cost(1, 100), 1));
    bench.follow(3);
    assert_eq!(shown(&bench), (0, cost(0, 0), cost(1, 100), 2));
    bench.chunk(end(3, 900), None);
    assert_eq!(shown(&bench), (100, cost(1, 100), cost(2, 200), 2));
    let mut last = bench.step(FetchEvent::Replayed { to: at(900) });
    while let Some(action) = last.pop() {
        match action {
            FetchAction::Checkpoint { number } => {
                last = bench.step(FetchEvent::Checkpointed { number, to: at(900) });
            }
            FetchAction::ClearMark { number } => {
                last = bench.step(FetchEvent::MarkCleared { number });
            }
            FetchAction::Finished { spent, rounds } => {
                assert_eq!((spent, rounds), (cost(2, 200), 2));
                return;
            }
            _ => {}
        }
    }
    panic!("it never finished");
}

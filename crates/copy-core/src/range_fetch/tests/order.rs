//! Rules 1, 3 and 5: what must be durable before what; a chunk is exact; the position goes back.

use super::*;

#[test]
fn mark_then_position_then_q_then_data() {
    let mut bench = Bench::new();
    let order = resync(&[key("k")]);
    let saved = bench.step(FetchEvent::Begin(order));
    let [FetchAction::SaveMark { number: 1, mark }] = &saved[..] else { panic!("{saved:?}") };
    assert_eq!((mark.q, mark.epoch, mark.rounds), (None, epoch(2), 1));
    let begun =
        [FetchAction::Begun { request: 7 }, FetchAction::Rewind { number: 2, to: end(1, 600) }];
    bench.check(FetchEvent::MarkSaved { number: 1 }, &begun);
    let asked = bench.step(FetchEvent::Rewound { number: 2 });
    let [FetchAction::Fetch { number: 3, request, .. }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((request.not_before, request.snapshot), (at(600), None));
    let chunk = Chunk { at: end(2, 900), next: None, cost: cost(1, 100) };
    let recorded = bench.step(FetchEvent::ChunkFetched { number: 3, chunk });
    let [FetchAction::SaveMark { number: 4, mark }] = &recorded[..] else { panic!("{recorded:?}") };
    assert_eq!(mark.q, Some(end(2, 900)));
    let spans = vec![key("k")];
    let applied = FetchAction::ApplyChunk { number: 4 + 1, fetched: 3, spans, at: end(2, 900) };
    bench.check(FetchEvent::MarkSaved { number: 4 }, &[applied]);
}

#[test]
fn a_repair_goes_the_same_way_without_a_rewind() {
    let mut bench = Bench::new();
    assert_eq!(bench.begin(repair(&[range("b", "d")])), ["save", "begun", "fetch"]);
    let rest = ["save Q", "apply", "checkpoint", "save all"];
    assert_eq!(bench.chunk(end(2, 1_500), None), rest);
    assert_eq!(bench.replay(1_499), [""; 0]);
    assert_eq!(bench.replay(1_500), ["trust", "checkpoint", "clear", "finished"]);
    assert!(bench.machine.is_whole() && bench.disk.is_none());
}

#[test]
fn a_chunk_answers_a_prefix_of_what_was_asked() {
    let mut bench = Bench::new();
    bench.begin(repair(&[key("a"), range("b", "d"), key("f")]));
    let number = bench.asked();
    let chunk = Chunk { at: end(2, 1_500), next: Some(user("c")), cost: cost(2, 10) };
    bench.step(FetchEvent::ChunkFetched { number, chunk });
    let Step::RecordingQ(save, _) = bench.machine.step else { panic!("records Q") };
    let applied = bench.step(FetchEvent::MarkSaved { number: save });
    let [FetchAction::ApplyChunk { number, spans, .. }] = &applied[..] else {
        panic!("{applied:?}")
    };
    assert_eq!(*spans, [key("a"), range("b", "c")]);
    let asked = bench.step(FetchEvent::Applied { number: *number });
    let [FetchAction::Fetch { request, .. }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(request.spans, [range("c", "d"), key("f")]);
    assert_eq!(request.snapshot, Some(end(2, 1_500)), "the same snapshot, if it is still there");
}

#[test]
fn requests_and_answers_are_bounded() {
    let config = FetchConfig { chunk_spans_max: 2, chunk_keys_max: 2, ..FetchConfig::default() };
    let mut bench = Bench::with(config);
    let asked = bench.begin(repair(&[key("a"), key("c"), key("e")]));
    assert_eq!(asked, ["save", "begun", "fetch"]);
    assert_eq!(bench.chunk(end(2, 1_500), None), ["save Q", "apply", "fetch"]);
    let number = bench.asked();
    let chunk = Chunk { at: end(2, 1_500), next: None, cost: cost(3, 30) };
    bench.step(FetchEvent::ChunkFetched { number, chunk });
    let view = bench.machine.view().expect("a mark stands");
    assert_eq!(view.last_failure, Some(FetchFailure::Malformed), "three keys for two");
    assert_eq!(bench.chunk(end(2, 1_500), None), ["apply", "checkpoint", "save all"]);
}

#[test]
fn an_answer_reaches_no_further_than_the_question() {
    let config = FetchConfig { chunk_spans_max: 1, ..FetchConfig::default() };
    let mut bench = Bench::with(config);
    bench.begin(repair(&[key("a"), key("e")]));
    assert_eq!(bench.chunk(end(2, 1_500), Some(user("z"))), ["save Q", "apply", "fetch"]);
    let rest = ["apply", "checkpoint", "save all"];
    assert_eq!(bench.chunk(end(2, 1_500), Some(user("z"))), rest);
}

#[test]
fn an_answer_that_brings_nothing_forward_is_refused() {
    let mut bench = Bench::new();
    bench.begin(repair(&[range("b", "d")]));
    for next in [user("a"), user("b")] {
        let (number, pending) = (bench.asked(), cost(0, 0));
        let chunk = Chunk { at: end(2, 1_500), next: Some(next), cost: pending };
        let asked = bench.step(FetchEvent::ChunkFetched { number, chunk });
        assert!(!asked.iter().any(|a| matches!(a, FetchAction::SaveMark { .. })), "{asked:?}");
        bench.wait(Duration::from_secs(1));
    }
    assert_eq!(bench.phase(), Some(FetchPhase::Waiting), "both donors were tried");
    assert_eq!(bench.settle(FetchEvent::Wake), ["fetch"]);
}

#[test]
fn refusals_change_nothing() {
    let mut bench = Bench::new();
    let mut check = |order: FetchOrder, refusal| {
        bench.check(FetchEvent::Begin(order), &[FetchAction::Refused { request: 7, refusal }]);
        assert!(bench.machine.is_whole());
    };
    let active = FetchOrder { role: CopyRole::Active, ..repair(&[key("k")]) };
    check(active, FetchRefusal::Active);
    check(repair(&[]), FetchRefusal::Empty);
    let big = |n: u32| {
        let mut bytes = vec![7; 60_000];
        bytes.extend_from_slice(&n.to_be_bytes());
        Span::key(StoreKey::User(bytes.into()))
    };
    check(repair(&(0..200).map(big).collect::<Vec<_>>()), FetchRefusal::TooMany);
}

#[test]
fn late_completions_of_a_former_round_change_nothing() {
    let mut bench = Bench::new();
    bench.begin(resync(&[key("k")]));
    let asked = bench.asked();
    bench.step(FetchEvent::EpochChanged { epoch: epoch(3), donors: vec![donor(1)] });
    let chunk = Chunk { at: end(2, 900), next: None, cost: cost(1, 1) };
    bench.check(FetchEvent::ChunkFetched { number: asked, chunk }, &[]);
    for number in 1..=asked {
        bench.check(FetchEvent::MarkSaved { number }, &[]);
        bench.check(FetchEvent::Rewound { number }, &[]);
        bench.check(FetchEvent::Applied { number }, &[]);
        bench.check(FetchEvent::MarkCleared { number }, &[]);
        bench.check(FetchEvent::Checkpointed { number, to: at(9_000) }, &[]);
    }
}

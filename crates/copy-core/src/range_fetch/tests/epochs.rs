//! Rules 4 and 6: another epoch begins anew; orders are added up.

use keelson_types::{Position, Weakness};

use super::*;

fn resumed(weakness: Weakness) -> Bench {
    let mut bench = Bench::with(FetchConfig { weakness, ..FetchConfig::default() });
    bench.begin(resync(&[key("k")]));
    bench.chunk(end(2, 1_500), None);
    bench.restart(800);
    bench
}

#[test]
fn an_epoch_change_fetches_everything_again_wherever_the_round_was() {
    let begun = |stage: usize| {
        let mut bench = Bench::new();
        bench.begin(resync(&[key("a"), key("k")]));
        if stage > 0 {
            bench.chunk(end(2, 1_500), Some(user("k")));
        }
        if stage > 1 {
            bench.chunk(end(2, 1_500), None);
            bench.replay(1_499);
        }
        bench
    };
    for (stage, floor) in [(0, 600), (1, 600), (2, 1_499)] {
        let mut bench = begun(stage);
        assert_eq!(bench.follow(3), ["save", "fetch"], "stage {stage}");
        let mark = bench.disk.clone().expect("a mark stands");
        assert_eq!((mark.q, mark.epoch, mark.rounds), (None, epoch(3), 2));
        assert_eq!(mark.fetched, Fetched::Before(StoreKey::FIRST));
        assert_eq!(mark.floor, at(floor), "other keys are as new as replay");
        assert_eq!(bench.replay(1_600), [""; 0], "the Q of the former timeline counts for nothing");
        assert!(!bench.machine.may_read(&user("k")));
    }
}

#[test]
fn a_late_word_of_a_lower_epoch_is_ignored() {
    let mut bench = Bench::new();
    bench.begin(resync(&[key("k")]));
    assert_eq!(bench.follow(1), [""; 0]);
    assert_eq!(bench.machine.view().map(|view| view.epoch), Some(epoch(2)));
    let late = FetchOrder { epoch: epoch(1), ..resync(&[key("k")]) };
    let refusal = FetchRefusal::StaleEpoch;
    bench.check(FetchEvent::Begin(late), &[FetchAction::Refused { request: 7, refusal }]);
}

#[test]
fn after_a_start_nothing_goes_on_before_the_epoch_is_known() {
    let mut bench = resumed(Weakness::None);
    assert_eq!(bench.machine.replay_limit(), Some(at(800)));
    assert_eq!(bench.replay(2_000), [""; 0]);
    assert!(!bench.machine.may_read(&user("k")));
    assert_eq!(bench.follow(2), ["trust", "checkpoint", "clear", "finished"]);
}

#[test]
fn an_epoch_that_changed_during_the_crash_fetches_again() {
    let mut bench = resumed(Weakness::None);
    assert_eq!(bench.follow(3), ["save", "fetch"]);
    assert_eq!(bench.replay(2_000), [""; 0]);
    let mut naive = resumed(Weakness::KeepFetchedAcrossEpochs);
    assert_eq!(naive.follow(3), [""; 0]);
    assert_eq!(naive.replay(2_000)[0], "trust", "the rule is needed");
}

#[test]
fn without_the_wait_for_q_it_trusts_at_once() {
    let mut bench =
        Bench::with(FetchConfig { weakness: Weakness::TrustBeforeQ, ..FetchConfig::default() });
    bench.begin(resync(&[key("k")]));
    assert!(bench.chunk(end(2, 1_500), None).contains(&"trust"), "the rule is needed");
}

#[test]
fn trust_survives_an_epoch_change_and_the_mark_goes() {
    let mut bench = Bench::new();
    bench.begin(resync(&[key("k")]));
    bench.chunk(end(2, 1_500), None);
    let trusted = bench.step(FetchEvent::Replayed { to: at(1_500) });
    assert_eq!(trusted.len(), 2);
    assert_eq!(bench.follow(3), [""; 0]);
    assert!(bench.machine.may_read(&user("k")), "the store is exact where it stands");
    let Step::Settling(number) = bench.machine.step else { panic!("settles") };
    let done = FetchEvent::Checkpointed { number, to: at(1_500) };
    assert_eq!(bench.settle(done), ["clear", "finished"]);
}

#[test]
fn a_second_fork_is_added_to_the_first() {
    let second = |fork: Position| FetchOrder {
        request: 8,
        cause: Cause::Resync {
            fork: LogEnd { epoch: epoch(2), position: fork },
            salvage: LogId::from_u128(6),
        },
        spans: [key("z")].into_iter().collect(),
        epoch: epoch(3),
        ..resync(&[])
    };
    let salvages = vec![LogId::from_u128(5), LogId::from_u128(6)];
    // Set back already: the rest of the store follows the common log up to the second fork.
    let mut bench = Bench::new();
    bench.begin(resync(&[key("k")]));
    bench.chunk(end(2, 1_500), None);
    bench.replay(1_200);
    assert_eq!(bench.begin(second(at(1_100))), ["save", "begun", "rewind", "fetch"]);
    let mark = bench.disk.clone().expect("a mark stands");
    assert_eq!(mark.spans, [key("k"), key("z")].into_iter().collect());
    let fork = end(2, 1_100);
    let purpose = Purpose::Resync { fork, rewound: false, salvages: salvages.clone() };
    assert_eq!((mark.purpose, mark.floor), (purpose, at(1_100)));
    assert_eq!(bench.machine.replay_limit(), Some(at(1_100)));
    // Not set back yet: the rest of the store still stands at the first fork.
    let mut bench = Bench::new();
    bench.step(FetchEvent::Begin(resync(&[key("k")])));
    let names = bench.begin(second(at(1_100)));
    assert_eq!(names, ["save", "begun", "begun", "rewind", "fetch"]);
    let mark = bench.disk.clone().expect("a mark stands");
    let purpose = Purpose::Resync { fork: end(1, 600), rewound: false, salvages };
    assert_eq!((mark.purpose, mark.floor), (purpose, at(1_100)));
    assert_eq!(bench.machine.holds_log_from(), Some(at(600)));
}

#[test]
fn damage_found_during_a_resync_is_added_and_nothing_is_readable() {
    let mut bench = Bench::new();
    bench.begin(resync(&[key("k")]));
    bench.chunk(end(2, 1_500), None);
    bench.replay(1_200);
    assert_eq!(bench.begin(repair(&[range("a", "c")])), ["save", "begun", "fetch"]);
    assert!(!bench.machine.may_read(&user("z")));
    let mark = bench.disk.clone().expect("a mark stands");
    assert_eq!(mark.floor, at(1_200));
    assert_eq!(mark.spans, [range("a", "c"), key("k")].into_iter().collect());
}

#[test]
fn an_addition_that_does_not_fit_covers_everything_between() {
    let big = |n: u8| {
        let list = (0..100_u8).map(|m| {
            let mut bytes = vec![n; 60_000];
            bytes.push(m);
            Span::key(StoreKey::User(bytes.into()))
        });
        list.collect::<Vec<_>>()
    };
    let mut bench = Bench::new();
    bench.begin(repair(&big(1)));
    bench.begin(repair(&big(3)));
    let mark = bench.disk.clone().expect("a mark stands");
    assert!(mark.fits());
    assert_eq!(mark.spans.list().len(), 1);
    assert!(mark.spans.covers(&StoreKey::User(vec![2].into())));
    assert!(!mark.spans.covers(&StoreKey::User(vec![4].into())));
}

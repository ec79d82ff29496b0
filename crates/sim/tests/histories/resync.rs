//! H10: a resync crashes between the data and Q, and the epoch changes before it goes on.
//!
//! `a` served epoch 1 alone and replayed a fork of it. `b` serves epoch 2, from which `a` fetches
//! what its fork touched. Then `c` serves epoch 3, with loss: it never had the last frames of epoch
//! 2, Q among them.

mod world;

use keelson_types::{Epoch, LogEnd, Record, Weakness};

use world::{Crash, Frame, Pace, Scene, World};

/// A frame of one put or delete; frames are 100 bytes long.
fn frame(counter: u64, number: u64, text: &str) -> Frame {
    let words: Vec<_> = text.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    let record = match &words[..] {
        [key, value] => Record::Put { key: key.clone().into(), value: value.clone().into() },
        [key] => Record::Delete { key: key.clone().into() },
        [_, from, to] => Record::DeleteRange { from: from.clone().into(), to: to.clone().into() },
        _ => panic!("{text:?}"),
    };
    let epoch = Epoch::new(0, counter);
    let position = keelson_types::Position::new(1, number * 100);
    Frame { end: LogEnd { epoch, position }, records: vec![record] }
}

/// Frames of an epoch from a number on.
fn frames(counter: u64, first: u64, texts: &[&str]) -> Vec<Frame> {
    (first..).zip(texts).map(|(number, text)| frame(counter, number, text)).collect()
}

fn scene() -> Scene {
    let common = frames(1, 1, &["k1 a", "k2 a", "k3 a", "k4 a", "k5 a", "x a"]);
    // New keys, changed ones, deleted ones, a deleted range; nobody else knows of "w".
    let fork = frames(1, 7, &["k2 fork", "new fork", "k3", "range k4 k6", "w fork", "x fork"]);
    let second = frames(2, 7, &["y b", "k2 b", "k5 b", "x b", "new b", "k3 b", "k2 c", "k4 b"]);
    let third = frames(3, 10, &["y c", "z c", "y d", "z d", "y e", "z e", "y f"]);
    let with = |start: &[Frame], rest: Vec<Frame>| [start, &rest].concat();
    let second = with(&common, second);
    let third = with(&second[..9], third);
    Scene { first: with(&common, fork), second, third }
}

/// Runs epochs 2 and 3 with crashes, each at its place, and lets everything come to its end.
fn run(mut world: World, in_second: Crash, in_third: Crash) -> World {
    world.follow(2);
    world.go_on(in_second);
    world.follow(3);
    world.go_on(in_third);
    world.follow(3);
    world.go_on(Crash::Never);
    world
}

/// The crash of the history: all data is there and recorded, Q is not replayed.
fn h10(weakness: Weakness) -> World {
    let world = World::new(scene(), weakness, Pace::ReplayLast, 1);
    run(world, Crash::BetweenDataAndQ, Crash::Never)
}

#[track_caller]
fn red_and_green(weakness: Weakness) {
    assert_eq!(h10(weakness).violated(), Some("equal content"), "without its rule it goes wrong");
    let green = h10(Weakness::None);
    assert_eq!(green.violated(), None, "with all rules on");
    assert!(green.has_crashed_in(2) && green.is_done());
}

#[test]
fn h10_what_was_fetched_before_the_epoch_changed_counts_after_it() {
    red_and_green(Weakness::KeepFetchedAcrossEpochs);
}

#[test]
fn h10_fetched_keys_are_trusted_before_q() {
    red_and_green(Weakness::TrustBeforeQ);
}

/// What each crash leaves of store and disk is drawn so often.
const SEEDS: u64 = 4;

/// Runs with a crash at every place in both epochs, until a place is not reached any more. Returns
/// the number of runs.
fn crash_everywhere(place: fn(u64) -> Crash, pace: Pace) -> u64 {
    let mut runs = 0;
    let (mut first, mut reached) = (1, true);
    while reached {
        let (mut second, mut reached_again) = (1, true);
        while reached_again {
            for seed in 0..SEEDS {
                let world = World::new(scene(), Weakness::None, pace, seed);
                let world = run(world, place(first), place(second));
                let places = (pace, first, second, seed);
                assert_eq!(world.violation(), None, "crashes at {places:?}");
                assert!(world.is_done(), "crashes at {places:?} end in {}", world.state());
                reached = world.has_crashed_in(2);
                reached_again = world.has_crashed_in(3);
                runs += 1;
            }
            second += 1;
        }
        first += 1;
    }
    runs
}

#[test]
fn h10_a_crash_at_every_step_of_both_rounds() {
    for pace in [Pace::ReplayFirst, Pace::ReplayLast] {
        let runs = crash_everywhere(Crash::AtStep, pace);
        assert!(runs > 1_000, "{runs} runs");
    }
}

#[test]
fn h10_a_crash_at_every_write_of_the_mark() {
    for pace in [Pace::ReplayFirst, Pace::ReplayLast] {
        let runs = crash_everywhere(Crash::AtDiskCall, pace);
        assert!(runs > 1_000, "{runs} runs");
    }
}

//! A seed is the whole run: the same one gives the same events; and a few seeds as a smoke test.

use keelson_sim::{Params, SEC, World};

fn short(seed: u64) -> Params {
    Params { run: 8 * SEC, ..Params::from_seed(seed) }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 54] {
        let [one, two] = [0, 1].map(|_| World::new(short(seed), false).run(None));
        assert_eq!(one.trace, two.trace, "seed {seed}");
        assert_eq!(one.counts.events, two.counts.events);
    }
    let [one, other] = [3, 4].map(|seed| World::new(short(seed), false).run(None).trace);
    assert_ne!(one, other, "different seeds are different runs");
}

#[test]
fn a_few_seeds_hold_every_property() {
    for seed in 1..=12 {
        let report = World::new(short(seed), false).run(None);
        assert_eq!(report.violation, None, "cargo run -p keelson-sim -- --replay {seed}");
        assert!(report.counts.acknowledged > 0, "seed {seed} wrote something");
    }
}

#[test]
fn a_run_can_be_cut_short() {
    let report = World::new(short(1), false).run(Some(500));
    assert_eq!((report.violation, report.counts.events), (None, 500));
}

//! Seeds of the world, and rules that are switched off.

use super::*;

fn run(seed: u64, weakness: Weakness) -> ManagerReport {
    let compared = weakness == Weakness::None;
    let params = ManagerParams { weakness, compared, ..ManagerParams::from_seed(seed) };
    ManagerWorld::new(params, false).run()
}

#[test]
fn some_seeds_hold_everything() {
    for seed in 1..=4 {
        let report = run(seed, Weakness::None);
        assert_eq!(report.violation, None, "keelson-sim --managers 1 --replay {seed} --trace");
    }
}

#[test]
fn a_seed_is_one_history() {
    let runs = [run(3, Weakness::None), run(3, Weakness::None)];
    assert_eq!(runs[0].hash, runs[1].hash);
}

/// The checkers see what the rules prevent: each of these rules is switched off in turn.
#[test]
fn a_rule_that_is_switched_off_is_noticed() {
    for (weakness, from) in
        [(Weakness::RenewWithoutQuorum, 5), (Weakness::ProofWithNewestRuleOnly, 6)]
    {
        let red = (from..from + 30).any(|seed| run(seed, weakness).violation.is_some());
        assert!(red, "{weakness:?}");
    }
}

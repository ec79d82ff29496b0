//! H1, H2, H3, H4, H9: commit rules, proofs, log ends, forgetful copies.

use keelson_sim::{MS, Params, SEC, World};
use keelson_types::Weakness;

use crate::red_and_green;

fn world(weakness: Weakness) -> World {
    let mut world = World::scripted(Params::scripted(5, 3, weakness));
    world.settle();
    assert_eq!(world.serves(0), Some(0));
    world
}

/// P is durable on m0 and m2 only. m2 dies, the rule shrinks to m0 and m1 before m1 has P, m0 dies.
fn h01(weakness: Weakness) -> World {
    let mut world = world(weakness);
    world.hold(0, 1, 0);
    let p = world.write(0);
    assert!(world.until(SEC, |world| world.is_acknowledged(p)));
    world.kill(2);
    world.pass(2 * SEC);
    world.kill(0);
    world.pass(6 * SEC);
    world
}

#[test]
fn h01_a_rule_change_takes_effect_at_once() {
    red_and_green(h01, Weakness::RuleChangeAtOnce, "G1");
}

/// P is committed by m0 and m1 in the first epoch. m1 takes over, and dies before m2 has received
/// P.
fn h02(weakness: Weakness) -> World {
    let mut world = world(weakness);
    world.hold(0, 2, 0);
    world.hold(1, 2, 0);
    let p = world.write(0);
    assert!(world.until(SEC, |world| world.is_acknowledged(p)));
    world.pass(100 * MS);
    world.kill(0);
    assert!(world.until(5 * SEC, |world| world.bound(0) == Some(1)));
    world.pass(20 * MS);
    world.kill(1);
    world.pass(6 * SEC);
    world
}

#[test]
fn h02_a_proof_looks_at_the_newest_rule_only() {
    red_and_green(h02, Weakness::ProofWithNewestRuleOnly, "G1");
}

/// m0 writes a long fork while it is cut off; m1 and m2 go on without it; m1 dies and m0 returns.
fn h03(weakness: Weakness) -> World {
    let params = Params {
        generation_bytes: 2_000,
        degrade_after_ms: Some(1_000),
        ..Params::scripted(5, 3, weakness)
    };
    let mut world = World::scripted(params);
    world.settle();
    world.split(&[0], &[1, 2, 3, 4]);
    for _ in 0..80 {
        world.write(0);
    }
    assert!(world.until(8 * SEC, |world| world.bound(0) == Some(1)));
    world.pass(SEC);
    let q = world.write(1);
    assert!(world.until(SEC, |world| world.is_acknowledged(q)));
    world.kill(1);
    [1, 2, 3, 4].into_iter().for_each(|other| world.mend_link(0, other));
    world.pass(8 * SEC);
    if weakness == Weakness::None {
        assert!(world.serves(0).is_some(), "the copies that are left can go on");
    }
    world
}

#[test]
fn h03_log_ends_compare_by_position() {
    red_and_green(h03, Weakness::EndsByPosition, "prefix");
}

/// P is committed by m0 and m1. The disk of m1 is replaced by an empty one, then m0 dies.
fn h04(weakness: Weakness) -> World {
    let mut world = world(weakness);
    world.hold(0, 2, 0);
    let p = world.write(0);
    assert!(world.until(SEC, |world| world.is_acknowledged(p)));
    world.hold(0, 1, 0);
    world.replace_disk(1);
    world.pass(300 * MS);
    world.kill(0);
    world.pass(6 * SEC);
    world
}

#[test]
fn h04_a_replaced_disk_counts_under_its_old_name() {
    red_and_green(h04, Weakness::ForgetfulCopyCounts, "G1");
}

/// m0 acknowledges alone while m1 is silent. m1 is back, has the first of four frames, and m0 dies.
fn h09(weakness: Weakness) -> World {
    let params = Params { degrade_after_ms: Some(1_000), ..Params::scripted(5, 2, weakness) };
    let mut world = World::scripted(params);
    world.settle();
    world.hold(0, 1, 0);
    let writes: Vec<_> = (0..4).map(|_| world.write(0)).collect();
    let all = |world: &World| writes.iter().all(|write| world.is_acknowledged(*write));
    assert!(world.until(5 * SEC, all), "degraded");
    world.hold(0, 1, 1);
    world.reconnect(0, 1);
    world.pass(500 * MS);
    world.kill(0);
    world.pass(6 * SEC);
    world
}

#[test]
fn h09_a_copy_is_admitted_one_frame_too_early() {
    red_and_green(h09, Weakness::AdmitBeforeCaughtUp, "G1");
}

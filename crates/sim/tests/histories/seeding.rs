//! H11: a copy is seeded while the database moves, and the new active truncates (review S16.3).
//!
//! `m0` is the first active, `m1` the other copy and the source, `m2` is seeded. What the seed
//! needs of the log is held in consensus; a hold that only the active of its beginning knows is
//! gone when the database moves, and the log behind the checkpoint with it.

mod world;

use world::{Fault, HoldKept, World};

/// Enough turns for a seed with two faults, and some more in which log goes away.
const TURNS: u64 = 80;

fn run(kept: HoldKept, faults: &[(u64, Fault)]) -> World {
    let mut world = World::new(kept);
    for turn in 1..=TURNS {
        faults.iter().filter(|(at, _)| *at == turn).for_each(|(_, fault)| world.strike(*fault));
        world.turn();
    }
    world
}

#[test]
fn h11_a_hold_that_the_new_active_does_not_know_costs_the_log() {
    let gaps = |kept| {
        let runs = (1..TURNS / 2).map(|turn| run(kept, &[(turn, Fault::Move)]));
        runs.filter(|world| world.gap().is_some()).count()
    };
    assert!(gaps(HoldKept::ByTheActive) > 0, "without its rule the history must go wrong");
    assert_eq!(gaps(HoldKept::InConsensus), 0, "with all rules on");
}

/// The seed ends, with no gap behind it and no file sent twice but those under way in a crash,
/// whatever happens in the middle of it.
#[test]
fn h11_a_fault_at_every_turn_beside_a_move_at_every_turn() {
    let mut runs = 0;
    for fault in [Fault::TargetCrash, Fault::SourceDown, Fault::SourceLosesCheckpoint] {
        for (moved, struck) in (1..30).flat_map(|turn| (1..30).map(move |at| (turn, at))) {
            let world = run(HoldKept::InConsensus, &[(moved, Fault::Move), (struck, fault)]);
            let place = (fault, moved, struck);
            assert_eq!(world.gap(), None, "{place:?}");
            assert!(world.is_seeded(), "{place:?}: {}", world.state());
            let again = world.files_sent_again();
            let most = if fault == Fault::SourceLosesCheckpoint { 2 * world::FILES } else { 1 };
            assert!(again <= most, "{place:?}: {again} files were sent again");
            runs += 1;
        }
    }
    assert_eq!(runs, 3 * 29 * 29);
}

/// Log is held while the seed needs it, and goes once it does not.
#[test]
fn h11_the_hold_ends_with_the_seed() {
    let world = run(HoldKept::InConsensus, &[]);
    assert!(world.is_seeded() && world.held_back() > 1, "{}", world.state());
    assert!(world.generations_kept() <= 3, "{}", world.state());
}

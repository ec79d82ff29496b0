//! The failing histories of the protocol's review, each with the rule that prevents it switched
//! off, where a checker must turn red, and with all rules on, where none may.
//!
//! In all of them `m0` is the first active, `m1` and `m2` hold the other copies, and further
//! members vote.

mod leases;
mod resync;
mod rules;
mod seals;
mod seeding;

use keelson_sim::World;
use keelson_types::Weakness;

/// Runs a history both ways.
#[track_caller]
fn red_and_green(history: fn(Weakness) -> World, weakness: Weakness, property: &str) {
    let red = history(weakness);
    let violated = red.violation().map(|violation| violation.property);
    assert_eq!(violated, Some(property), "without its rule the history must go wrong");
    let green = history(Weakness::None);
    assert_eq!(green.violation(), None, "with all rules on");
}

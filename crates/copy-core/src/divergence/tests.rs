//! One row per rung, and the costs.

use keelson_types::Epoch;

use super::*;

fn at(offset: u64) -> Position {
    Position::new(1, offset)
}

fn end(counter: u64, offset: u64) -> LogEnd {
    LogEnd { epoch: Epoch::new(0, counter), position: at(offset) }
}

/// A fork of 400 bytes behind 600, of which the store has seen nothing.
fn forked() -> Standing {
    Standing {
        own_end: end(1, 1_000),
        common: end(1, 600),
        own_log_from: Position::ZERO,
        donor_log_from: Position::ZERO,
        donor_opens_here: false,
        replayed: at(500),
        checkpointed: at(400),
        committed: at(500),
        discard_allowed: false,
        touched: Touched::Unknown,
        store_bytes: 10_000,
        resync_percent_max: 50,
        generation_bytes: 16 << 20,
    }
}

/// The same after a lossy activation elsewhere: a part of the fork was committed and replayed.
fn replayed(to: u64, checkpointed: u64) -> Standing {
    Standing {
        replayed: at(to),
        committed: at(to),
        checkpointed: at(checkpointed),
        discard_allowed: true,
        ..forked()
    }
}

fn counted(bytes: u64) -> Touched {
    Touched::Counted(FetchCost { keys: 3, bytes })
}

#[track_caller]
fn check(standing: Standing, rung: Rung) {
    assert_eq!(climb(&standing).rung, rung, "{standing:?}");
}

#[track_caller]
fn seeds(standing: Standing, why: SeedReason) {
    check(standing, Rung::Seed { why });
}

#[test]
fn a_log_that_is_a_part_of_the_other_needs_nothing() {
    check(Standing { common: end(1, 1_000), ..forked() }, Rung::Nothing);
    let behind = Standing { common: LogEnd::ZERO, own_end: LogEnd::ZERO, ..forked() };
    let new = Standing { replayed: Position::ZERO, checkpointed: Position::ZERO, ..behind };
    check(new, Rung::Nothing);
}

#[test]
fn a_fork_that_the_store_never_saw_is_cut() {
    check(forked(), Rung::CutFork { to: at(600) });
    check(Standing { replayed: at(600), ..forked() }, Rung::CutFork { to: at(600) });
}

#[test]
fn a_fork_that_lies_only_in_memory_is_forgotten_by_a_reopen() {
    let reopen = |at_offset| Rung::ReopenAtCheckpoint { at: at(at_offset), cut: at(600) };
    check(replayed(601, 400), reopen(400));
    check(replayed(1_000, 600), reopen(600));
    let gap = Standing { own_log_from: at(401), ..replayed(601, 400) };
    seeds(gap, SeedReason::OwnLogIncomplete);
}

#[test]
fn a_fork_in_the_files_is_counted_and_then_fetched() {
    let counting = Rung::CountFork { from: at(600), to: at(1_000) };
    check(replayed(700, 601), counting);
    let known = Standing { touched: counted(300), ..replayed(700, 601) };
    let estimated = FetchCost { keys: 3, bytes: 300 };
    check(known, Rung::Resync { fork: end(1, 600), estimated });
}

/// A log without a file can go on only where a generation begins (simulator seed 1476).
#[test]
fn a_cut_that_would_leave_no_log_is_a_seed_unless_a_generation_begins_there() {
    for standing in [forked(), replayed(601, 400), replayed(700, 601)] {
        let oldest = Standing { own_log_from: at(600), checkpointed: at(600), ..standing };
        seeds(oldest, SeedReason::OwnLogIncomplete);
        let opens = climb(&Standing { donor_opens_here: true, ..oldest }).rung;
        assert!(!matches!(opens, Rung::Seed { .. }), "{opens:?}");
    }
}

#[test]
fn a_resync_that_cannot_be_or_does_not_pay_is_a_seed() {
    let known = Standing { touched: counted(300), ..replayed(700, 601) };
    seeds(Standing { own_log_from: at(601), ..known }, SeedReason::ForkIncomplete);
    seeds(Standing { touched: Touched::TooLarge, ..known }, SeedReason::TouchedTooLarge);
    seeds(Standing { touched: counted(5_001), ..known }, SeedReason::NoCheaper);
    let rung = climb(&Standing { touched: counted(5_000), ..known }).rung;
    assert!(matches!(rung, Rung::Resync { .. }), "{rung:?}");
}

#[test]
fn no_rung_helps_without_log_or_with_a_store_beyond_it() {
    for standing in [forked(), replayed(601, 400), replayed(700, 601)] {
        seeds(Standing { donor_log_from: at(601), ..standing }, SeedReason::LogGone);
    }
    seeds(replayed(1_001, 400), SeedReason::StoreBeyondLog);
}

#[test]
fn committed_frames_are_discarded_only_with_a_receipt_or_a_word() {
    for standing in [forked(), replayed(601, 400), replayed(700, 601), replayed(1_001, 601)] {
        let lossy = Standing { discard_allowed: false, committed: at(700), ..standing };
        check(lossy, Rung::Wait { from: at(600), to: at(700) });
    }
    // What is committed and not in this log is not discarded here.
    let behind = Standing { committed: at(9_000), common: end(1, 1_000), ..forked() };
    check(behind, Rung::Nothing);
}

#[test]
fn costs_follow_the_size_of_the_fork() {
    let cost = |standing: Standing| climb(&standing).cost;
    let nothing = RungCost::default();
    let cut = RungCost { salvage_bytes: 400, ..nothing };
    assert_eq!(cost(Standing { common: end(1, 1_000), ..forked() }), nothing);
    assert_eq!(cost(forked()), cut);
    assert_eq!(cost(replayed(601, 400)), RungCost { replay_bytes: 200, ..cut });
    let fetch = FetchCost { keys: 3, bytes: 300 };
    let resync = Standing { touched: Touched::Counted(fetch), ..replayed(700, 601) };
    assert_eq!(cost(resync), RungCost { fetch, ..cut });
    let larger = Standing { store_bytes: 1 << 40, ..resync };
    assert_eq!(cost(larger), cost(resync), "the store's size does not matter");
    let seed = Standing { touched: Touched::TooLarge, ..resync };
    assert_eq!(cost(seed), RungCost { seed_bytes: 10_000, ..cut });
}

//! Tests of truncation: one case for each sentence of the reference, sections 8.1 and 8.2.

use std::time::Duration;

use super::*;

/// The log of copy 1: generations 4 to 20 exist, 20 is open; checkpoint in 18.
const OWN: OwnLog = OwnLog {
    copy: CopyId::from_u128(1),
    member: MemberId::from_u128(1),
    truncated: Position::new(4, 0),
    checkpointed: Position::new(18, 7),
    end: Position::new(20, 99),
};

const fn at(generation: u64) -> Position {
    Position::new(generation, 50)
}

/// An HA copy that has inspected and checkpointed into these generations.
const fn ha(n: u128, inspected: u64, checkpointed: u64) -> OtherCopy {
    OtherCopy {
        copy: CopyId::from_u128(n),
        member: MemberId::from_u128(n),
        lagged: false,
        inspected: Some(at(inspected)),
        checkpointed: Some(at(checkpointed)),
        suspended_since_unix_ms: None,
        needs_no_log: false,
    }
}

const fn lagged(n: u128, inspected: u64, checkpointed: u64) -> OtherCopy {
    OtherCopy { lagged: true, ..ha(n, inspected, checkpointed) }
}

fn who(n: u128) -> Holder {
    Holder::Copy(CopyId::from_u128(n), MemberId::from_u128(n))
}

fn hold(n: u128, kind: HoldKind, from: u64, expires_unix_ms: u64) -> LogHold {
    let operation = OperationId::from_u128(n);
    LogHold { operation, kind, from: at(from), taken_unix_ms: 5, expires_unix_ms }
}

fn active(others: &[OtherCopy]) -> TruncationRole<'_> {
    TruncationRole::Active { established: true, others, circular_logging: true, backed_up: None }
}

fn backup(others: &[OtherCopy], backed_up: Option<Position>) -> TruncationRole<'_> {
    TruncationRole::Active { established: true, others, circular_logging: false, backed_up }
}

fn inputs<'a>(role: TruncationRole<'a>, holds: &'a [LogHold]) -> TruncationInputs<'a> {
    let lags = LagSettings::default();
    TruncationInputs { own: OWN, role, lags, aged_out: Position::ZERO, holds, now_unix_ms: 1_000 }
}

/// Checks the first generation kept, and holder and reason of the lowest blocker.
#[track_caller]
fn check(inputs: &TruncationInputs<'_>, first: u64, expected: (Holder, BlockReason)) {
    let found = truncation_point(inputs);
    assert_eq!(found.up_to, Position::new(first, 0), "{:?}", found.blockers);
    let lowest = found.blockers.first().map(|blocker| (blocker.who, blocker.why));
    assert_eq!(lowest, Some(expected));
}

#[track_caller]
fn check_role(role: TruncationRole<'_>, first: u64, expected: (Holder, BlockReason)) {
    check(&inputs(role, &[]), first, expected);
}

/// F99 (1): log that was backed up, or any log with circular logging.
#[test]
fn log_was_backed_up_or_circular_logging_is_on() {
    let others = [ha(2, 20, 19)];
    let not_backed_up = (Holder::Database, BlockReason::NotBackedUp);
    check_role(active(&others), 18, (who(1), BlockReason::NotCheckpointed));
    check_role(backup(&others, Some(at(9))), 9, not_backed_up);
    check_role(backup(&others, Some(at(19))), 18, (who(1), BlockReason::NotCheckpointed));
}

/// F102, 8.2: without backups and without circular logging nothing is ever truncated.
#[test]
fn without_backup_and_circular_logging_nothing_goes() {
    check_role(backup(&[], None), 4, (Holder::Database, BlockReason::NotBackedUp));
}

/// F99 (2): log below the copy's own checkpoint; whole generations, so the one with the checkpoint
/// stays.
#[test]
fn log_is_below_the_own_checkpoint() {
    let others = [ha(2, 20, 20)];
    check_role(active(&others), 18, (who(1), BlockReason::NotCheckpointed));
    let mut behind = inputs(active(&others), &[]);
    behind.own.checkpointed = at(6);
    check(&behind, 6, (who(1), BlockReason::NotCheckpointed));
}

/// F99 (3): every other lagged copy has inspected it; what it has replayed does not matter.
#[test]
fn every_other_lagged_copy_has_inspected_it() {
    let others = [ha(2, 20, 20), lagged(3, 11, 5)];
    check_role(active(&others), 11, (who(3), BlockReason::NotInspected));
    check_role(active(&[lagged(3, 19, 5)]), 18, (who(1), BlockReason::NotCheckpointed));
}

/// F99 (4) with the deviation of the design: every other non-lagged copy has *checkpointed* it;
/// inspected, or replayed into memory, is not enough.
#[test]
fn every_other_non_lagged_copy_has_checkpointed_it() {
    let others = [ha(2, 20, 12), ha(3, 20, 15)];
    check_role(active(&others), 12, (who(2), BlockReason::NotCheckpointed));
}

/// F99: a copy that never reported holds everything.
#[test]
fn an_unknown_position_holds_everything() {
    let silent = OtherCopy { inspected: None, checkpointed: None, ..ha(2, 0, 0) };
    check_role(active(&[silent]), 4, (who(2), BlockReason::PositionUnknown));
}

/// F101: while one or more passives are suspended the active truncates nothing, whatever they have
/// replayed.
#[test]
fn a_suspended_passive_stops_truncation_on_the_active() {
    let suspended = OtherCopy { suspended_since_unix_ms: Some(77), ..ha(2, 20, 20) };
    let others = [ha(3, 20, 20), suspended];
    check_role(active(&others), 4, (who(2), BlockReason::Suspended));
    let found = truncation_point(&inputs(active(&others), &[]));
    assert_eq!(found.blockers[0].since_unix_ms, Some(77));
}

/// F107: a copy that will be seeded anyway, or is leaving, holds nothing, suspended or not.
#[test]
fn a_copy_that_needs_no_log_holds_nothing() {
    let cut_off =
        OtherCopy { needs_no_log: true, suspended_since_unix_ms: Some(77), ..ha(2, 4, 4) };
    check_role(active(&[cut_off, ha(3, 20, 16)]), 16, (who(3), BlockReason::NotCheckpointed));
}

/// 8.1: a copy that goes offline makes logs pile up on all other copies: the order stands still.
#[test]
fn an_offline_copy_holds_log_on_the_others() {
    let others = [ha(2, 9, 9), ha(3, 20, 20)];
    let decided = truncation_point(&inputs(active(&others), &[]));
    let order = TruncationOrder::new(Epoch::new(0, 5), &decided, decided.up_to);
    let passive = TruncationRole::Passive { order: Some(order), sealed: Epoch::new(0, 5) };
    check_role(passive, 9, (Holder::Database, BlockReason::NotOrdered));
}

fn passive(order: (u64, u64, u64), sealed: u64) -> TruncationRole<'static> {
    let (epoch, up_to, truncated) = order;
    let order = TruncationOrder {
        epoch: Epoch::new(0, epoch),
        up_to: Position::new(up_to, 0),
        truncated: Position::new(truncated, 0),
        short_of_space: false,
    };
    TruncationRole::Passive { order: Some(order), sealed: Epoch::new(0, sealed) }
}

/// 8.1: the decision is the active's, passives follow it as far as their own checkpoint.
#[test]
fn a_passive_follows_the_order_up_to_its_checkpoint() {
    check_role(passive((5, 12, 4), 5), 12, (Holder::Database, BlockReason::NotOrdered));
    check_role(passive((5, 19, 4), 5), 18, (who(1), BlockReason::NotCheckpointed));
}

/// Review S16.2: orders carry the epoch, a copy sealed higher refuses them, and an active that is
/// not established issues none.
#[test]
fn orders_of_given_up_or_young_epochs_count_for_nothing() {
    check_role(passive((5, 12, 12), 6), 4, (Holder::Database, BlockReason::NotOrdered));
    check_role(passive((6, 12, 12), 5), 12, (Holder::Database, BlockReason::NotOrdered));
    let none = TruncationRole::Passive { order: None, sealed: Epoch::ZERO };
    check_role(none, 4, (Holder::Database, BlockReason::NotOrdered));
    let young = TruncationRole::Active {
        established: false,
        others: &[],
        circular_logging: true,
        backed_up: None,
    };
    check_role(young, 4, (who(1), BlockReason::NotEstablished));
}

fn late(role: TruncationRole<'static>, aged_out: u64) -> TruncationInputs<'static> {
    let lags = LagSettings::new(Duration::from_hours(24), Duration::from_hours(1));
    let lags = lags.expect("valid");
    TruncationInputs { lags, aged_out: at(aged_out), ..inputs(role, &[]) }
}

/// F100: on a lagged copy log is (1) below its checkpoint, (2) older than both lags, (3) already
/// truncated on the active; the order's point alone is not enough.
#[test]
fn a_lagged_copy_has_three_conditions() {
    check(&late(passive((5, 20, 20), 5), 20), 18, (who(1), BlockReason::NotCheckpointed));
    check(&late(passive((5, 20, 20), 5), 7), 7, (who(1), BlockReason::Lag));
    check(&late(passive((5, 20, 10), 5), 20), 10, (Holder::Database, BlockReason::OnActive));
}

/// F88, F100: a truncation lag alone is enough for these conditions; on the active no lag counts.
#[test]
fn truncation_lag_alone_truncates_late_and_the_active_has_no_lag() {
    let lags = LagSettings::new(Duration::ZERO, Duration::from_hours(1)).expect("valid");
    let only = TruncationInputs { lags, ..late(passive((5, 20, 20), 5), 7) };
    check(&only, 7, (who(1), BlockReason::Lag));
    let others = [ha(2, 20, 12)];
    let on_active = TruncationInputs { lags, aged_out: at(7), ..inputs(active(&others), &[]) };
    check(&on_active, 12, (who(2), BlockReason::NotCheckpointed));
}

/// Review S16.3: holds keep log on every copy until they expire, and are told with kind and start.
#[test]
fn holds_keep_log_until_they_expire() {
    let others = [ha(2, 20, 15)];
    let holds = [hold(8, HoldKind::Seed, 9, 1_001), hold(9, HoldKind::Fork, 6, 1_000)];
    let held = (Holder::Operation(OperationId::from_u128(8)), BlockReason::Hold(HoldKind::Seed));
    check(&inputs(active(&others), &holds), 9, held);
    let found = truncation_point(&inputs(active(&others), &holds));
    assert_eq!(found.blockers[0].since_unix_ms, Some(5));
    check(&inputs(passive((5, 15, 15), 5), &holds), 9, held);
}

/// 8.2: the current log is never removed; a single copy without backups keeps its open generation.
#[test]
fn the_open_generation_always_stays() {
    let mut idle = inputs(active(&[]), &[]);
    idle.own.checkpointed = idle.own.end;
    let expected = Truncation { up_to: Position::new(20, 0), blockers: Vec::new() };
    assert_eq!(truncation_point(&idle), expected);
}

/// Part 2: everyone who keeps a closed generation is told, lowest first.
#[test]
fn all_blockers_are_told_lowest_first() {
    let others = [ha(2, 20, 15), ha(3, 20, 12), lagged(4, 19, 5), ha(5, 20, 20)];
    let found = truncation_point(&inputs(active(&others), &[]));
    let told: Vec<_> = found.blockers.iter().map(|b| (b.from, b.who, b.why)).collect();
    let expected = [
        (at(12), who(3), BlockReason::NotCheckpointed),
        (at(15), who(2), BlockReason::NotCheckpointed),
        (Position::new(18, 7), who(1), BlockReason::NotCheckpointed),
        (at(19), who(4), BlockReason::NotInspected),
    ];
    assert_eq!(told, expected);
}

/// The point never goes back before what is gone already, for instance when a hold came too late.
#[test]
fn the_point_never_goes_back() {
    let late_hold = [hold(8, HoldKind::Seed, 2, 9_999)];
    let found = truncation_point(&inputs(active(&[]), &late_hold));
    assert_eq!(found.up_to, Position::new(4, 0));
    assert_eq!(found.blockers[0].from, at(2));
}

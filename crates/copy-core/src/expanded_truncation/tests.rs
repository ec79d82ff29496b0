//! Tests of expanded truncation: one case for each sentence of the reference, section 8.3.

use std::time::Duration;

use keelson_types::{ClusterSettings, DatabaseId, Generation, Tick};

use super::*;

const MIB: u64 = LOG_UNIT_BYTES;

/// A log of generations 1 to `open - 1` of 1 MiB each, and the open one.
fn sizes(open: u64) -> LogSizes {
    let mut sizes = LogSizes::new(MIB);
    for generation in 1..open {
        sizes.set(Generation(generation), MIB);
    }
    sizes
}

const fn start(generation: u64) -> Position {
    Position::new(generation, 0)
}

/// A passive that needs log from this generation on.
const fn needs(n: u128, generation: u64) -> PassiveFacts {
    PassiveFacts {
        copy: CopyId::from_u128(n),
        member: MemberId::from_u128(n),
        ha: true,
        needs_from: start(generation),
        heard: true,
        marked: false,
    }
}

const fn marked(n: u128, generation: u64) -> PassiveFacts {
    PassiveFacts { marked: true, ..needs(n, generation) }
}

const fn lagged(n: u128, generation: u64) -> PassiveFacts {
    PassiveFacts { ha: false, ..needs(n, generation) }
}

/// The default of the setting: 204,800 MiB.
const MIN_FREE_BYTES: u64 = 204_800 * 1024 * 1024;

/// Protect one copy, keep 50 logs.
const SHORT: ExpandedSettings = ExpandedSettings {
    min_copies_to_protect: 1,
    min_free_bytes: MIN_FREE_BYTES,
    min_logs_to_protect: Some(50),
};

/// Generations 100 to 1,000 exist; ordinary truncation is stuck at 100, the checkpoint is in 990.
fn inputs<'a>(sizes: &'a LogSizes, role: ExpandedRole<'a>) -> ExpandedInputs<'a> {
    ExpandedInputs {
        settings: SHORT,
        free_bytes: MIN_FREE_BYTES / 2,
        ordinary: start(100),
        truncated: start(100),
        required_low: start(990),
        newest: start(1_000),
        sizes,
        role,
        circular_logging: true,
        backed_up: None,
        holds: &[],
        local_hold: None,
        now_unix_ms: 1_000,
    }
}

const fn active(passives: &[PassiveFacts]) -> ExpandedRole<'_> {
    ExpandedRole::Active { passives, serving_for: REPORTS_AFTER }
}

/// What the active with these passives does.
#[track_caller]
fn check_active(passives: &[PassiveFacts], expected: &Expanded) {
    let sizes = sizes(1_000);
    let found = expanded_truncation(&inputs(&sizes, active(passives)));
    assert_eq!(found, *expected);
}

fn mark(n: u128, generation: u64) -> Expanded {
    let copies = vec![CopyId::from_u128(n)];
    Expanded::MarkFirst { copies, operations: Vec::new(), up_to: start(generation) }
}

fn truncate(generation: u64) -> Expanded {
    Expanded::Truncate { up_to: start(generation) }
}

fn stuck(cut: CutRefusal) -> Expanded {
    Expanded::Stuck { cut: Some(cut) }
}

/// F104: off by default (0 copies), 204,800 MiB, 100,000 logs on a passive, 10,000 on the active.
#[test]
fn defaults_are_those_of_the_model() {
    let settings = ExpandedSettings::from(&ClusterSettings::default());
    assert_eq!(settings.min_copies_to_protect, 0);
    assert_eq!(settings.min_free_bytes, 200 * 1024 * MIB);
    assert_eq!(settings.min_logs_to_protect, None);
    assert_eq!((LOGS_ON_PASSIVE, LOGS_ON_ACTIVE), (100_000, 10_000));
}

/// F104: 0 copies to protect = off, on active and passive, however little space there is.
#[test]
fn zero_copies_to_protect_switches_it_off() {
    let sizes = sizes(1_000);
    let passives = [needs(2, 100), needs(3, 900)];
    let passive = ExpandedRole::Passive { established_start: start(999) };
    for role in [active(&passives), passive] {
        let mut off = inputs(&sizes, role);
        off.settings = ExpandedSettings::from(&ClusterSettings::default());
        off.free_bytes = 0;
        assert_eq!(expanded_truncation(&off), Expanded::Off);
        // The switch of the database alone is off.
        let switches = Automations::default().with(Automation::ExpandedTruncation, false);
        let settings = SHORT.of_database(&switches);
        let switched = ExpandedInputs { settings, ..inputs(&sizes, role) };
        assert_eq!(expanded_truncation(&switched), Expanded::Off);
        assert_eq!(SHORT.of_database(&Automations::default()), SHORT);
    }
}

/// F104, 13.1 (a): it starts when free space falls *below* the threshold, for each copy by itself.
#[test]
fn it_starts_below_the_threshold() {
    let sizes = sizes(1_000);
    let passives = [needs(2, 100), needs(3, 900)];
    let mut inputs = inputs(&sizes, active(&passives));
    for (free_bytes, starts) in
        [(MIN_FREE_BYTES + 1, false), (MIN_FREE_BYTES, false), (MIN_FREE_BYTES - 1, true)]
    {
        inputs.free_bytes = free_bytes;
        assert_eq!(expanded_truncation(&inputs) != Expanded::Enough, starts, "{free_bytes}");
    }
}

/// F105: the active ignores the oldest straggler and respects the next oldest of the others, with
/// the protected logs kept before what that one needs. The straggler is marked first.
#[test]
fn the_active_ignores_the_oldest_straggler() {
    let others = [needs(3, 900), needs(4, 800)];
    check_active(&[others[0], needs(2, 100), others[1]], &mark(2, 750));
    check_active(&[others[0], marked(2, 100), others[1]], &truncate(750));
}

/// F105: only the *single* oldest straggler, whatever number of copies to protect suggests: with
/// one to protect of four, the second straggler is respected, and its logs stay.
#[test]
fn only_one_straggler_is_ignored() {
    let rest = [needs(3, 200), needs(4, 900), needs(5, 900)];
    check_active(&[needs(2, 100), rest[0], rest[1], rest[2]], &mark(2, 150));
    check_active(&[marked(2, 100), rest[0], rest[1], rest[2]], &truncate(150));
}

/// F105: the second straggler stays respected as long as the first is cut off and not seeded.
#[test]
fn no_second_copy_is_cut_before_the_first_is_seeded() {
    let passives = [marked(2, 50), needs(3, 120), needs(4, 900)];
    check_active(&passives, &stuck(CutRefusal::OneAtATime));
}

/// F104, F105: no more passives than are to be protected: none is ignored.
#[test]
fn protected_copies_are_never_ignored() {
    let sizes = sizes(1_000);
    let passives = [needs(2, 100), needs(3, 900)];
    let mut inputs = inputs(&sizes, active(&passives));
    for (protect, expected) in
        [(1, mark(2, 850)), (2, stuck(CutRefusal::Protected)), (9, stuck(CutRefusal::Protected))]
    {
        inputs.settings.min_copies_to_protect = protect;
        assert_eq!(expanded_truncation(&inputs), expected, "protect {protect}");
    }
}

/// Review S16.4: the last other HA copy is never cut; lagged copies do not stand in for it, and a
/// lagged straggler may go.
#[test]
fn the_last_other_ha_copy_is_never_cut() {
    check_active(&[needs(2, 100), lagged(3, 900)], &stuck(CutRefusal::LastOther));
    check_active(&[needs(2, 900), lagged(3, 100)], &mark(3, 850));
    check_active(&[], &truncate(940));
}

/// F105: what is kept on the active counts back from the lowest of (what protected passives need,
/// own required range); by default 10,000 logs.
#[test]
fn protected_logs_count_back_from_the_lower_need() {
    let sizes = sizes(30_000);
    let check = |required_low: u64, needed: u64, logs: Option<u64>, expected: u64| {
        let passives = [marked(2, 100), needs(3, needed)];
        let mut inputs = inputs(&sizes, active(&passives));
        inputs.required_low = start(required_low);
        inputs.newest = start(30_000);
        inputs.settings.min_logs_to_protect = logs;
        assert_eq!(expanded_truncation(&inputs), truncate(expected));
    };
    check(29_000, 28_000, Some(50), 27_950);
    check(27_000, 28_000, Some(50), 26_950);
    check(29_000, 28_000, None, 18_000);
}

/// F106: a passive truncates on its own: logs counted back from the newest, and a tenth of the
/// number before its required range; by default 100,000 and 10,000.
#[test]
fn a_passive_keeps_the_newest_and_a_tenth_before_its_range() {
    let sizes = sizes(300_000);
    let check = |required_low: u64, logs: Option<u64>, expected: u64| {
        let established_start = start(299_999);
        let mut inputs = inputs(&sizes, ExpandedRole::Passive { established_start });
        inputs.required_low = start(required_low);
        inputs.newest = start(300_000);
        inputs.settings.min_logs_to_protect = logs;
        assert_eq!(expanded_truncation(&inputs), truncate(expected));
    };
    check(299_990, Some(50), 299_950);
    check(299_953, Some(50), 299_948);
    check(299_990, None, 200_000);
    check(150_000, None, 140_000);
}

/// F106: a lagged passive has a very long required range, which is why two limits exist: it never
/// cuts what its own recovery needs.
#[test]
fn a_passive_never_cuts_its_own_recovery() {
    let sizes = sizes(1_000);
    let passive = ExpandedRole::Passive { established_start: start(999) };
    let mut long_range = inputs(&sizes, passive);
    long_range.required_low = start(200);
    assert_eq!(expanded_truncation(&long_range), truncate(195));
    long_range.required_low = start(104);
    assert_eq!(expanded_truncation(&long_range), Expanded::Stuck { cut: None });
}

/// Review S16.4: a passive never cuts what the commit rule counts on.
#[test]
fn a_passive_keeps_log_from_the_established_epoch_on() {
    let sizes = sizes(1_000);
    let passive = ExpandedRole::Passive { established_start: start(300) };
    assert_eq!(expanded_truncation(&inputs(&sizes, passive)), truncate(300));
}

/// 8.3, 13.14: with circular logging off, log that was never backed up stays.
#[test]
fn backups_are_respected_with_circular_logging_off() {
    let sizes = sizes(1_000);
    let passives = [marked(2, 50), needs(3, 900)];
    let mut inputs = inputs(&sizes, active(&passives));
    inputs.circular_logging = false;
    for (backed_up, expected) in [
        (Some(start(700)), truncate(700)),
        (Some(start(950)), truncate(850)),
        (None, stuck(CutRefusal::OneAtATime)),
    ] {
        inputs.backed_up = backed_up;
        assert_eq!(expanded_truncation(&inputs), expected, "{backed_up:?}");
    }
}

fn hold(n: u128, kind: HoldKind, from: u64) -> LogHold {
    let (taken_unix_ms, expires_unix_ms) = (1, 2_000);
    let operation = OperationId::from_u128(n);
    LogHold { operation, kind, from: start(from), taken_unix_ms, expires_unix_ms }
}

/// The copies and operations that have to be recorded, and the first generation kept.
fn sacrifices(passives: &[PassiveFacts], holds: &[LogHold]) -> (Vec<u128>, Vec<u128>, u64) {
    let sizes = sizes(1_000);
    let mut inputs = inputs(&sizes, active(passives));
    inputs.holds = holds;
    let number = |bytes: [u8; 16]| u128::from_be_bytes(bytes);
    match expanded_truncation(&inputs) {
        Expanded::MarkFirst { copies, operations, up_to } => (
            copies.into_iter().map(|copy| number(copy.into_bytes())).collect(),
            operations.into_iter().map(|operation| number(operation.into_bytes())).collect(),
            up_to.generation.0,
        ),
        Expanded::Truncate { up_to } => (Vec::new(), Vec::new(), up_to.generation.0),
        other @ (Expanded::Off | Expanded::Enough | Expanded::Stuck { .. }) => {
            panic!("nothing goes: {other:?}")
        }
    }
}

/// Review S16.3: holds give way in a stated order, after forks and backups the straggler, then the
/// work that restores copies; no more than needed, and an expired hold counts for nothing.
#[test]
fn holds_and_copies_give_way_in_order() {
    use HoldKind as H;
    let fresh = [needs(2, 900), needs(3, 900)];
    let behind = [needs(2, 100), needs(3, 900)];
    let fork = |from| hold(7, H::Fork, from);
    let seed = |from| hold(8, H::Seed, from);
    assert_eq!(sacrifices(&fresh, &[fork(500)]), (vec![], vec![], 500), "room before the hold");
    assert_eq!(sacrifices(&fresh, &[fork(100)]), (vec![], vec![7], 850));
    assert_eq!(
        sacrifices(&behind, &[fork(500)]),
        (vec![2], vec![], 500),
        "the fork is not in the way"
    );
    assert_eq!(sacrifices(&behind, &[fork(100)]), (vec![2], vec![7], 850));
    assert_eq!(sacrifices(&behind, &[seed(300)]), (vec![2], vec![], 300));
    assert_eq!(sacrifices(&fresh, &[seed(100), fork(200)]), (vec![], vec![8], 200));
    let repair = [hold(9, H::RangeRepair, 100), hold(6, H::Resync, 200)];
    assert_eq!(sacrifices(&fresh, &repair), (vec![], vec![9], 200));
    let expired = LogHold { expires_unix_ms: 1_000, ..seed(100) };
    assert_eq!(sacrifices(&fresh, &[expired]), (vec![], vec![], 850));
}

/// Nothing is given up while the ordinary rules let log go: it may be enough, and the next look at
/// the volume shows it.
#[test]
fn what_goes_by_the_ordinary_rules_goes_first() {
    let sizes = sizes(1_000);
    let passives = [needs(2, 500), needs(3, 900)];
    let mut inputs = inputs(&sizes, active(&passives));
    inputs.ordinary = start(500);
    assert_eq!(expanded_truncation(&inputs), Expanded::Enough);
    inputs.truncated = start(500);
    assert_eq!(expanded_truncation(&inputs), mark(2, 850));
}

/// F105: who is furthest behind is known when every copy has reported to this active, or had time
/// to; a copy that was never heard is not taken for it before.
#[test]
fn a_young_active_cuts_nobody_off_whom_it_has_not_heard() {
    let sizes = sizes(1_000);
    let silent = PassiveFacts { heard: false, needs_from: Position::ZERO, ..lagged(3, 0) };
    let passives = [needs(2, 900), silent];
    let young = REPORTS_AFTER - Duration::from_millis(1);
    for (serving_for, expected) in
        [(young, stuck(CutRefusal::TooYoung)), (REPORTS_AFTER, mark(3, 850))]
    {
        let role = ExpandedRole::Active { passives: &passives, serving_for };
        assert_eq!(expanded_truncation(&inputs(&sizes, role)), expected, "{serving_for:?}");
    }
}

/// F106: a passive decides on its own log only; holds are of the database, and stay.
#[test]
fn a_passive_gives_no_hold_up() {
    let sizes = sizes(1_000);
    let passive = ExpandedRole::Passive { established_start: start(999) };
    for (kind, from, expected) in
        [(HoldKind::Fork, 300, truncate(300)), (HoldKind::Seed, 100, Expanded::Stuck { cut: None })]
    {
        let holds = [hold(7, kind, from)];
        let held = ExpandedInputs { holds: &holds, ..inputs(&sizes, passive) };
        assert_eq!(expanded_truncation(&held), expected, "{kind:?}");
    }
}

/// A straggler that is heard keeps its mark until it has caught up: else it would be marked again,
/// and its log would go under it.
#[test]
fn a_mark_goes_when_the_copy_has_caught_up() {
    let newest = Position::new(9, 700);
    for (inspected, truncated, back) in [
        (Position::new(9, 0), start(4), true),
        (Position::new(8, 9_000), start(4), false),
        (Position::new(4, 0), start(4), false),
        (Position::new(3, 0), start(4), false),
        (Position::new(9, 1), Position::new(9, 2), false),
    ] {
        assert_eq!(came_back(inspected, truncated, newest), back, "{inspected}");
    }
}

/// What this process reads itself never goes, on active and passive.
#[test]
fn a_checkpoint_that_is_being_made_keeps_its_log() {
    let sizes = sizes(1_000);
    let passives = [needs(2, 900), needs(3, 900)];
    let passive = ExpandedRole::Passive { established_start: start(999) };
    for role in [active(&passives), passive] {
        let mut inputs = inputs(&sizes, role);
        inputs.local_hold = Some(start(400));
        assert_eq!(expanded_truncation(&inputs), truncate(400));
    }
}

/// F105: a suspended passive that stops ordinary truncation does not stop this: log that everybody
/// is through with goes, without a mark.
#[test]
fn log_that_nobody_needs_goes_without_a_sacrifice() {
    check_active(&[needs(2, 900), needs(3, 950)], &truncate(850));
}

fn history(samples: &[(u64, u64)]) -> SpaceHistory {
    let mut history = SpaceHistory::default();
    for (seconds, free_mib) in samples {
        let at = Tick(0).after(Duration::from_secs(*seconds));
        history.push(SpaceSample { at, free_bytes: free_mib * MIB });
    }
    history
}

const CANDIDATE: CutCandidate = CutCandidate {
    database: DatabaseId::from_u128(1),
    copy: CopyId::from_u128(2),
    member: MemberId::from_u128(2),
    seed_bytes: 70 * MIB,
};

/// Part 2, design 7: time to full, who would be cut off, and the price.
#[test]
fn a_filling_volume_is_forecast() {
    let filling = history(&[(0, 1_000), (60, 940), (120, 880)]);
    assert_eq!(filling.fill_rate(), Some(MIB));
    let forecast = filling.forecast(400 * MIB, &[CANDIDATE, CANDIDATE]);
    assert_eq!(forecast.time_to_floor, Some(Duration::from_secs(480)));
    assert_eq!(forecast.time_to_full, Some(Duration::from_secs(880)));
    assert_eq!((forecast.who_would_be_cut.len(), forecast.price_bytes), (2, 140 * MIB));
}

#[test]
fn a_volume_that_does_not_fill_cuts_nobody_off_unless_it_is_short() {
    let steady = history(&[(0, 900), (60, 900), (120, 901)]);
    assert_eq!(steady.forecast(400 * MIB, &[CANDIDATE]), Forecast::default());
    let short = steady.forecast(1_000 * MIB, &[CANDIDATE]);
    assert_eq!((short.time_to_floor, short.time_to_full), (Some(Duration::ZERO), None));
    assert_eq!(short.who_would_be_cut, [CANDIDATE]);
    assert_eq!(history(&[(0, 900)]).forecast(0, &[CANDIDATE]), Forecast::default());
    let off = history(&[(0, 900), (60, 800)]).forecast(0, &[CANDIDATE]);
    assert_eq!((off.time_to_full, off.price_bytes), (off.time_to_floor, 0));
}

#[test]
fn the_history_is_bounded_and_one_removal_does_not_turn_it_around() {
    let mut samples: Vec<_> = (0..200).map(|n| (n * 60, 100_000 - n * 60)).collect();
    samples[198].1 += 300;
    let history = history(&samples);
    let rate = history.fill_rate().expect("it fills");
    assert!((MIB * 8 / 10..MIB * 11 / 10).contains(&rate), "{rate}");
    let mut newest = SpaceHistory::default();
    for (seconds, free_mib) in &samples[200 - SPACE_SAMPLES_MAX..] {
        let at = Tick(0).after(Duration::from_secs(*seconds));
        newest.push(SpaceSample { at, free_bytes: free_mib * MIB });
    }
    assert_eq!(history, newest);
}

/// The look at a volume does not wait for its time when log comes faster.
#[test]
fn a_volume_is_looked_at_again_when_a_share_of_what_is_left_has_gone() {
    let off = ExpandedSettings { min_copies_to_protect: 0, ..SHORT };
    let reserve = RESERVE_BYTES;
    for (settings, free, below) in [
        (off, 10 * MIB, 0),
        (SHORT, MIN_FREE_BYTES + 1, MIN_FREE_BYTES),
        (SHORT, MIN_FREE_BYTES, MIN_FREE_BYTES),
        (SHORT, reserve + 160 * MIB, reserve + 150 * MIB),
        (SHORT, reserve, reserve - MIB),
        (SHORT, 0, 0),
    ] {
        assert_eq!(settings.look_below(free), below, "{free}");
    }
}

//! Tests of lag settings, the inspection clock and the status line.

use keelson_types::RefusalReason;

use super::*;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn at(generation: u64, offset: u64) -> Position {
    Position::new(generation, offset)
}

fn tick(time: Duration) -> Tick {
    Tick(0).after(time)
}

fn lagged(replay: Duration, truncation: Duration) -> LagSettings {
    LagSettings::new(replay, truncation).expect("valid")
}

/// A clock over log that was inspected at these times.
fn clock(inspected: &[(Position, Duration)]) -> InspectionClock {
    let mut clock = InspectionClock::new(Position::ZERO, tick(Duration::ZERO));
    for (end, time) in inspected {
        clock.inspected(*end, tick(*time));
    }
    clock
}

fn limit(clock: &InspectionClock, lag: Duration, now: Duration) -> Position {
    let settings = lagged(lag, Duration::ZERO);
    replay_limit(clock, &settings, true, at(99, 0), tick(now)).up_to
}

/// F87, F88: both lags default to 0. F97: a play-down is deferred for at most 24 h by default.
#[test]
fn lags_default_to_zero_and_deferral_to_a_day() {
    let settings = LagSettings::default();
    assert_eq!(
        (settings.replay_lag(), settings.truncation_lag()),
        (Duration::ZERO, Duration::ZERO)
    );
    assert_eq!(settings.play_down_max_delay(), DAY);
}

/// F87, F88, F151: each lag is 0 to 14 days; anything else is refused with a message.
#[test]
fn lags_are_zero_to_fourteen_days() {
    let (max, over) = (14 * 86_400, 14 * 86_400 + 1);
    for (replay, truncation, accepted) in [
        (0, 0, true),
        (max, max, true),
        (over, 0, false),
        (0, over, false),
        (-1, 0, false),
        (0, -1, false),
        (i64::MAX, i64::MIN, false),
    ] {
        let result = LagSettings::from_seconds(replay, truncation);
        assert_eq!(result.is_ok(), accepted, "{replay} {truncation}");
    }
    let refused = LagSettings::from_seconds(0, over).expect_err("over 14 days");
    assert_eq!(refused.reason, RefusalReason::BadArgument);
    assert_eq!(refused.message, "truncation lag of 1209601 s is over 14 days");
    let negative = LagSettings::from_seconds(-5, 0).expect_err("negative");
    assert_eq!(negative.message, "replay lag of -5 s is negative");
    let delay = LagSettings::default().with_play_down_max_delay(LAG_MAX + HOUR);
    assert_eq!(delay.expect_err("over 14 days").reason, RefusalReason::BadArgument);
}

/// F89: a copy with replay lag above 0 is a lagged copy; truncation lag alone does not make one.
#[test]
fn replay_lag_makes_a_lagged_copy() {
    for (replay, truncation, is_lagged, late) in [
        (Duration::ZERO, Duration::ZERO, false, false),
        (HOUR, Duration::ZERO, true, true),
        (Duration::ZERO, HOUR, false, true),
    ] {
        let settings = lagged(replay, truncation);
        assert_eq!((settings.is_lagged(), settings.truncates_late()), (is_lagged, late));
    }
}

/// F87: the clock of the replay lag starts when the log was inspected.
#[test]
fn log_is_replayed_a_lag_after_its_inspection() {
    let clock = clock(&[(at(1, 500), Duration::ZERO), (at(2, 100), HOUR), (at(2, 900), 2 * HOUR)]);
    for (now, expected) in [
        (23 * HOUR, Position::ZERO),
        (24 * HOUR, at(1, 500)),
        (25 * HOUR - Duration::from_secs(1), at(1, 500)),
        (25 * HOUR, at(2, 100)),
        (26 * HOUR, at(2, 900)),
    ] {
        assert_eq!(limit(&clock, DAY, now), expected, "{now:?}");
    }
}

/// F87: without a lag, or with the lag set aside, everything inspected is replayed.
#[test]
fn without_a_lag_in_force_everything_inspected_is_replayed() {
    // Not at a full second, to which marks are rounded up.
    let now = HOUR + Duration::from_millis(1);
    let (clock, now) = (clock(&[(at(2, 100), now)]), tick(now));
    for (lag, in_force, expected) in
        [(Duration::ZERO, true, at(2, 100)), (DAY, false, at(2, 100)), (DAY, true, Position::ZERO)]
    {
        let settings = lagged(lag, Duration::ZERO);
        let limit = replay_limit(&clock, &settings, in_force, at(2, 100), now);
        assert_eq!(limit.up_to, expected, "{lag:?} in force: {in_force}");
        assert_eq!(limit.wake.is_some(), expected == Position::ZERO);
    }
}

/// F87: the next wake is when the oldest waiting log is old enough.
#[test]
fn the_wake_comes_when_the_next_log_matures() {
    let clock = clock(&[(at(1, 500), HOUR), (at(2, 100), 3 * HOUR)]);
    let settings = lagged(DAY, Duration::ZERO);
    let limit = replay_limit(&clock, &settings, true, at(2, 100), tick(26 * HOUR));
    assert_eq!(limit, ReplayLimit { up_to: at(1, 500), wake: Some(tick(27 * HOUR)) });
    let all = replay_limit(&clock, &settings, true, at(2, 100), tick(27 * HOUR));
    assert_eq!(all, ReplayLimit { up_to: at(2, 100), wake: None });
}

fn moment(boot: u128, boottime: Duration, unix_ms: u64) -> Moment {
    Moment { boot: BootId(boot), tick: tick(boottime), unix_ms }
}

/// A clock with log inspected at hour 0, saved at hour 1 with the wall clock at `T`, read again.
fn restarted(now: &Moment) -> InspectionClock {
    let clock = clock(&[(at(1, 500), Duration::ZERO)]);
    let bytes = clock.encode(&moment(1, HOUR, T));
    InspectionClock::decode(&bytes, at(1, 500), now).expect("just encoded")
}

const T: u64 = 1_700_000_000_000;
const HOUR_MS: u64 = 3_600_000;

/// F87, S20: the lag clock survives a restart of the process; wall clocks do not matter then.
#[test]
fn a_process_restart_goes_by_the_monotonic_clock() {
    for wall in [T + HOUR_MS, T + 1_000 * HOUR_MS, T - 1_000 * HOUR_MS] {
        let clock = restarted(&moment(1, 3 * HOUR, wall));
        assert_eq!(clock.time(tick(3 * HOUR)), LagTime(3 * HOUR_MS), "wall {wall}");
    }
}

/// F87, S20: across a reboot the wall clock counts, forwards up to a bound and never backwards.
#[test]
fn a_reboot_credits_the_wall_clock_within_bounds() {
    let start = Duration::from_secs(9);
    for (wall, expected_ms) in [
        (T + HOUR_MS / 2, HOUR_MS + HOUR_MS / 2),
        (T + HOUR_MS, 2 * HOUR_MS),
        (T + 1_000 * HOUR_MS, 2 * HOUR_MS),
        (T - 1_000 * HOUR_MS, HOUR_MS),
    ] {
        let clock = restarted(&moment(2, start, wall));
        assert_eq!(clock.time(tick(start)), LagTime(expected_ms), "wall {wall}");
    }
}

/// F87, S20: after a jump forwards no log is replayed earlier than the bound allows.
#[test]
fn a_jump_forwards_releases_log_early_by_the_bound_at_most() {
    let clock = restarted(&moment(2, Duration::ZERO, T + 10_000 * HOUR_MS));
    let wait = DAY - HOUR - REBOOT_CREDIT_MAX;
    assert_eq!(limit(&clock, DAY, wait - Duration::from_secs(1)), Position::ZERO);
    assert_eq!(limit(&clock, DAY, wait), at(1, 500));
}

/// F87, S20: after a jump backwards log is released a lag after the reboot at the latest.
#[test]
fn a_jump_backwards_never_blocks_for_ever() {
    let clock = restarted(&moment(2, Duration::ZERO, 0));
    assert_eq!(limit(&clock, DAY, DAY - HOUR - Duration::from_secs(1)), Position::ZERO);
    assert_eq!(limit(&clock, DAY, DAY - HOUR), at(1, 500));
}

/// S20: log inspected after the last save counts as inspected at the restart, log that a crash took
/// away is forgotten.
#[test]
fn a_crash_makes_unsaved_log_younger_never_older() {
    let mut before = clock(&[(at(1, 500), Duration::ZERO), (at(1, 700), HOUR)]);
    let bytes = before.encode(&moment(1, HOUR, T));
    before.inspected(at(2, 50), tick(2 * HOUR));
    let now = moment(1, 5 * HOUR, T);
    let longer = InspectionClock::decode(&bytes, at(2, 50), &now).expect("just encoded");
    assert_eq!(limit(&longer, DAY, 5 * HOUR + DAY - Duration::from_secs(1)), at(1, 700));
    assert_eq!(limit(&longer, DAY, 5 * HOUR + DAY), at(2, 50));
    let shorter = InspectionClock::decode(&bytes, at(1, 600), &now).expect("just encoded");
    assert_eq!(limit(&shorter, DAY, 10 * DAY), at(1, 600));
}

/// A cut takes the marks of the fork with it; what is received afterwards is young.
#[test]
fn a_cut_forgets_the_fork() {
    let mut clock = clock(&[(at(1, 500), Duration::ZERO), (at(3, 0), HOUR)]);
    clock.cut(at(2, 10));
    clock.inspected(at(2, 99), tick(5 * HOUR));
    assert_eq!(limit(&clock, DAY, DAY + HOUR), at(2, 10));
    assert_eq!(limit(&clock, DAY, DAY + 5 * HOUR), at(2, 99));
    clock.cut(Position::ZERO);
    assert_eq!(limit(&clock, DAY, 99 * DAY), Position::ZERO);
    let now = moment(1, HOUR, T);
    let found = InspectionClock::decode(&clock.encode(&now), Position::ZERO, &now);
    assert_eq!(found.map(|clock| clock.marks()), Ok(0), "no mark stays below the cut");
}

/// F87: the list of marks is bounded; coarser marks make log younger, by a thousandth at most.
#[test]
fn full_marks_get_coarser_and_never_release_early() {
    let mut clock = clock(&[]);
    let (step, count) = (Duration::from_secs(60), 14 * 24 * 60);
    for n in 0..count {
        clock.inspected(at(1, u64::from(n) + 1), tick(step * n));
    }
    assert!(clock.marks() <= MARKS_MAX, "{} marks", clock.marks());
    let slack = LAG_MAX / 1_000;
    for n in [1, 77, 5_000, 20_000] {
        let inspected = step * n;
        let early = limit(&clock, LAG_MAX, inspected + LAG_MAX - Duration::from_secs(1));
        assert!(early.offset <= u64::from(n), "mark {n} early: {early}");
        let late = limit(&clock, LAG_MAX, inspected + LAG_MAX + slack);
        assert!(late.offset > u64::from(n), "mark {n} late: {late}");
    }
}

/// Marks that no limit depends on are dropped; those of log that waits for replay stay, for the
/// status shows the real lag.
#[test]
fn settled_marks_are_dropped_once_replayed_and_old() {
    let settings = lagged(DAY, HOUR);
    let mut clock = clock(&[(at(1, 500), Duration::ZERO), (at(2, 100), HOUR)]);
    clock.settle(&settings, tick(50 * HOUR));
    assert_eq!(clock.marks(), 2);
    assert_eq!(clock.waiting_for(at(1, 500), tick(50 * HOUR)), 49 * HOUR);
    clock.replayed(at(1, 500), tick(50 * HOUR));
    clock.settle(&settings, tick(50 * HOUR));
    assert_eq!(clock.marks(), 1);
    assert_eq!(limit(&clock, DAY, 50 * HOUR), at(2, 100));
}

/// F88, F100: truncation lag counts from replay, and log is kept for both lags together.
#[test]
fn log_is_kept_a_truncation_lag_after_its_replay() {
    let settings = lagged(DAY, 2 * HOUR);
    let mut clock = clock(&[(at(1, 500), Duration::ZERO)]);
    assert_eq!(clock.aged_out(&settings, tick(99 * HOUR)), Position::ZERO, "not replayed");
    clock.replayed(at(1, 500), tick(30 * HOUR));
    assert_eq!(clock.aged_out(&settings, tick(31 * HOUR)), Position::ZERO);
    assert_eq!(clock.aged_out(&settings, tick(32 * HOUR)), at(1, 500));
}

/// F88: an early replay (a play-down) does not shorten what the two lags promise together.
#[test]
fn an_early_replay_does_not_age_log() {
    let settings = lagged(DAY, 2 * HOUR);
    let mut clock = clock(&[(at(1, 500), Duration::ZERO)]);
    clock.replayed(at(1, 500), tick(HOUR));
    assert_eq!(clock.aged_out(&settings, tick(25 * HOUR)), Position::ZERO);
    assert_eq!(clock.aged_out(&settings, tick(26 * HOUR)), at(1, 500));
}

#[test]
fn stored_clocks_come_back_and_damage_is_refused() {
    let mut saved = clock(&[(at(1, 500), Duration::ZERO), (at(2, 100), HOUR)]);
    saved.replayed(at(1, 200), tick(HOUR));
    let now = moment(1, HOUR, T);
    let bytes = saved.encode(&now);
    let found = InspectionClock::decode(&bytes, at(2, 100), &now).expect("just encoded");
    assert_eq!(found.encode(&now), bytes);
    for length in 0..bytes.len() {
        assert!(InspectionClock::decode(&bytes[..length], at(2, 100), &now).is_err(), "{length}");
    }
    let newer = [&[2], &bytes[1..]].concat();
    let refused = InspectionClock::decode(&newer, at(2, 100), &now);
    assert_eq!(refused, Err(crate::DecodeError::Version(2)));
}

/// A play-down for damaged ranges that waits since hour 1.
fn deferred() -> PlayDown {
    let since = LagTime(0).after(HOUR);
    PlayDown::Deferred { causes: vec![PlayDownCause::RangeRepair], since, until: since.after(DAY) }
}

/// F44: an operator sets the lag aside with a reason of at most 512 characters, and back.
#[test]
fn an_operator_sets_the_lag_aside() {
    let switch = LagSwitch::disable(&"é".repeat(512)).expect("512 characters");
    assert!(!lag_in_force(&switch, &PlayDown::No));
    assert!(lag_in_force(&LagSwitch::enable(), &PlayDown::No));
    assert!(lag_in_force(&LagSwitch::enable(), &deferred()));
    assert!(!lag_in_force(&LagSwitch::enable(), &PlayDown::Yes(Vec::new())));
    let refused = LagSwitch::disable(&"x".repeat(513)).expect_err("too long");
    assert_eq!(refused.reason, RefusalReason::BadArgument);
}

/// F98: the status line, with the example of the reference.
#[test]
fn the_status_line_has_the_form_of_the_model() {
    let actual = Duration::from_secs(((141 * 24 + 22) * 60 + 54) * 60 + 54);
    let switch = LagSwitch::default();
    let none = LagStatus::new(&LagSettings::default(), &switch, &PlayDown::No, actual);
    assert_eq!(
        none.to_string(),
        "Enabled:False; PlayDownReason:None; ReplaySuspendReason:None; Percentage:0; \
         Configured:00:00:00; MaxDelay:1.00:00:00; Actual:141.22:54:54"
    );
    let week = lagged(7 * DAY, Duration::ZERO);
    let half = LagStatus::new(&week, &switch, &deferred(), 84 * HOUR);
    assert_eq!(
        half.to_string(),
        "Enabled:True; PlayDownReason:RangeRepair; ReplaySuspendReason:DiskLatency; \
         Percentage:50; Configured:7.00:00:00; MaxDelay:1.00:00:00; Actual:3.12:00:00"
    );
    assert_eq!(LagStatus::new(&week, &switch, &PlayDown::No, 8 * DAY).percent(), 100);
    let disabled = LagSwitch::disable("audit").expect("short");
    let status = LagStatus::new(&week, &disabled, &PlayDown::No, HOUR);
    assert!(status.to_string().starts_with("Enabled:False; PlayDownReason:LagDisabled;"));
}

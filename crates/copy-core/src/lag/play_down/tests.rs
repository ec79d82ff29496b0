//! Tests of the play-down: one case for each sentence of the reference, sections 7.3 and 7.4.

use super::*;

const MIB: u64 = 1024 * 1024;
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn inputs(now: Duration) -> PlayDownInputs {
    PlayDownInputs {
        now: LagTime(0).after(now),
        lagged: true,
        max_delay: DAY,
        free_bytes: Some(500_000 * MIB),
        range_repair: false,
        available_copies: Some(3),
        read_latency: Some(Duration::from_millis(5)),
    }
}

fn verdict(monitor: &mut PlayDownMonitor, inputs: PlayDownInputs) -> PlayDown {
    monitor.check(&PlayDownSettings::from(&ClusterSettings::default()), &inputs).verdict
}

/// F90-F92, F97: the defaults of the reference.
#[test]
fn play_down_defaults_are_those_of_the_model() {
    let settings = PlayDownSettings::from(&ClusterSettings::default());
    assert!(settings.enabled);
    assert_eq!((settings.available_copies_min, settings.available_for), (3, DAY));
    assert_eq!(settings.low_space_bytes, Some(10_000 * MIB));
    let millis = [settings.defer_above.as_millis(), settings.resume_below.as_millis()];
    assert_eq!(millis, [35, 25]);
}

/// F90: low space plays the log down; it ends only with a quarter more, not at the threshold.
#[test]
fn low_space_plays_down_with_hysteresis() {
    let mut monitor = PlayDownMonitor::default();
    let low = PlayDown::Yes(vec![PlayDownCause::LowSpace]);
    for (free_mib, expected) in [
        (10_000, PlayDown::No),
        (9_999, low.clone()),
        (12_499, low.clone()),
        (12_500, PlayDown::No),
        (10_001, PlayDown::No),
    ] {
        let now = PlayDownInputs { free_bytes: Some(free_mib * MIB), ..inputs(HOUR) };
        assert_eq!(verdict(&mut monitor, now), expected, "{free_mib} MiB");
    }
}

/// F91: damaged ranges play the log down at once.
#[test]
fn a_range_repair_plays_down() {
    let now = PlayDownInputs { range_repair: true, ..inputs(HOUR) };
    let expected = PlayDown::Yes(vec![PlayDownCause::RangeRepair]);
    assert_eq!(verdict(&mut PlayDownMonitor::default(), now), expected);
}

/// F92 and the worked example of 7.3: 3 HA copies and a lagged one; with one HA copy gone 2 remain,
/// and after more than 24 hours the lagged copy plays down, until the third is back.
#[test]
fn too_few_copies_for_more_than_a_day_play_down() {
    let mut monitor = PlayDownMonitor::default();
    let few = PlayDown::Yes(vec![PlayDownCause::FewCopies]);
    for (hours, available, expected) in [
        (0, 3, PlayDown::No),
        (1, 2, PlayDown::No),
        (25, 2, PlayDown::No),
        (26, 2, few.clone()),
        (27, 3, PlayDown::No),
        (28, 2, PlayDown::No),
        (52, 2, PlayDown::No),
        (53, 1, few),
    ] {
        let now = PlayDownInputs { available_copies: Some(available), ..inputs(HOUR * hours) };
        assert_eq!(verdict(&mut monitor, now), expected, "hour {hours}");
    }
}

/// F92, 13.16: with N = 1 only the loss of every HA copy counts.
#[test]
fn with_a_threshold_of_one_the_lagged_copy_must_be_the_only_one() {
    let settings = PlayDownSettings {
        available_copies_min: 1,
        ..PlayDownSettings::from(&ClusterSettings::default())
    };
    for (available, plays) in [(1, false), (0, true)] {
        let mut monitor = PlayDownMonitor::default();
        let at =
            |hours| PlayDownInputs { available_copies: Some(available), ..inputs(HOUR * hours) };
        monitor.check(&settings, &at(0));
        let verdict = monitor.check(&settings, &at(25)).verdict;
        assert_eq!(verdict != PlayDown::No, plays, "{available} copies");
    }
}

/// F92: what is not known starts nothing, ends nothing, and does not stop the clock.
#[test]
fn unknown_inputs_change_nothing() {
    let mut monitor = PlayDownMonitor::default();
    let few = |hours| PlayDownInputs { available_copies: Some(2), ..inputs(HOUR * hours) };
    let blind = |hours| PlayDownInputs {
        available_copies: None,
        free_bytes: None,
        read_latency: None,
        ..inputs(HOUR * hours)
    };
    verdict(&mut monitor, few(0));
    assert_eq!(verdict(&mut monitor, blind(30)), PlayDown::No);
    let expected = PlayDown::Yes(vec![PlayDownCause::FewCopies]);
    assert_eq!(verdict(&mut monitor, few(31)), expected);
    assert_eq!(verdict(&mut monitor, blind(32)), expected);
}

/// F92, F93: the switch of the cluster; a copy without lag has nothing to play down.
#[test]
fn the_manager_can_be_switched_off() {
    let off =
        PlayDownSettings { enabled: false, ..PlayDownSettings::from(&ClusterSettings::default()) };
    let damaged = PlayDownInputs { range_repair: true, ..inputs(HOUR) };
    assert_eq!(PlayDownMonitor::default().check(&off, &damaged).verdict, PlayDown::No);
    let unlagged = PlayDownInputs { lagged: false, ..damaged };
    assert_eq!(verdict(&mut PlayDownMonitor::default(), unlagged), PlayDown::No);
    let no_space_trigger = PlayDownSettings {
        low_space_bytes: None,
        ..PlayDownSettings::from(&ClusterSettings::default())
    };
    let full = PlayDownInputs { free_bytes: Some(0), ..inputs(HOUR) };
    assert_eq!(PlayDownMonitor::default().check(&no_space_trigger, &full).verdict, PlayDown::No);
}

/// The switch of one database counts as that of the cluster does, and takes back what went on.
#[test]
fn one_database_has_it_off() {
    let off = Automations::default().with(Automation::PlayDown, false);
    let other = Automations::default().with(Automation::ExpandedTruncation, false);
    let all = PlayDownSettings::from(&ClusterSettings::default());
    assert_eq!(all.of_database(&other), all);
    let mut monitor = PlayDownMonitor::default();
    let damaged = PlayDownInputs { range_repair: true, ..inputs(HOUR) };
    let yes = PlayDown::Yes(vec![PlayDownCause::RangeRepair]);
    assert_eq!(monitor.check(&all, &damaged).verdict, yes);
    let ended = monitor.check(&all.of_database(&off), &damaged);
    assert_eq!((ended.verdict, ended.event.map(|event| event.from)), (PlayDown::No, Some(yes)));
}

fn busy(hours: u32, millis: u64) -> PlayDownInputs {
    let read_latency = Some(Duration::from_millis(millis));
    PlayDownInputs { range_repair: true, read_latency, ..inputs(HOUR * hours) }
}

fn deferred(since: u32) -> PlayDown {
    let since = LagTime(0).after(HOUR * since);
    PlayDown::Deferred { causes: vec![PlayDownCause::RangeRepair], since, until: since.after(DAY) }
}

/// F97, 13.9: deferred above 35 ms, on again below 25 ms, unchanged between.
#[test]
fn a_busy_disk_defers_with_hysteresis() {
    let mut monitor = PlayDownMonitor::default();
    let yes = PlayDown::Yes(vec![PlayDownCause::RangeRepair]);
    for (millis, expected) in [
        (35, yes.clone()),
        (36, deferred(1)),
        (30, deferred(1)),
        (25, deferred(1)),
        (24, yes.clone()),
        (30, yes),
    ] {
        assert_eq!(verdict(&mut monitor, busy(1, millis)), expected, "{millis} ms");
    }
}

/// F97: the deferral ends after the copy's bound, for good; 0 never defers.
#[test]
fn deferral_is_bounded() {
    let mut monitor = PlayDownMonitor::default();
    let yes = PlayDown::Yes(vec![PlayDownCause::RangeRepair]);
    assert_eq!(verdict(&mut monitor, busy(1, 90)), deferred(1));
    assert_eq!(verdict(&mut monitor, busy(24, 90)), deferred(1));
    assert_eq!(verdict(&mut monitor, busy(25, 90)), yes);
    assert_eq!(verdict(&mut monitor, busy(26, 20)), yes);
    assert_eq!(verdict(&mut monitor, busy(27, 90)), yes);
    let never = PlayDownInputs { max_delay: Duration::ZERO, ..busy(1, 90) };
    assert_eq!(verdict(&mut PlayDownMonitor::default(), never), yes);
}

/// F97: deferral is ignored when the disk is almost full.
#[test]
fn low_space_is_never_deferred() {
    let full = PlayDownInputs { free_bytes: Some(1), ..busy(1, 90) };
    let expected = PlayDown::Yes(vec![PlayDownCause::LowSpace, PlayDownCause::RangeRepair]);
    assert_eq!(verdict(&mut PlayDownMonitor::default(), full), expected);
}

/// Part 2: every start and stop of a play-down is an event with its inputs, once.
#[test]
fn each_change_is_one_event_with_its_inputs() {
    let mut monitor = PlayDownMonitor::default();
    let settings = PlayDownSettings::from(&ClusterSettings::default());
    let mut events = Vec::new();
    let calm = PlayDownInputs { range_repair: false, ..busy(3, 5) };
    for inputs in [busy(1, 90), busy(2, 90), busy(3, 5), busy(3, 5), calm, calm] {
        events.extend(monitor.check(&settings, &inputs).event);
    }
    let yes = PlayDown::Yes(vec![PlayDownCause::RangeRepair]);
    let changes = [
        (PlayDown::No, deferred(1), busy(1, 90)),
        (deferred(1), yes.clone(), busy(3, 5)),
        (yes, PlayDown::No, calm),
    ];
    let expected = changes.map(|(from, to, inputs)| PlayDownEvent { from, to, inputs });
    assert_eq!(events, expected);
}

/// F92: the 24 hours survive a restart.
#[test]
fn the_monitor_survives_a_restart() {
    let mut monitor = PlayDownMonitor::default();
    let few = |hours| PlayDownInputs { available_copies: Some(2), ..inputs(HOUR * hours) };
    verdict(&mut monitor, few(0));
    let mut found = PlayDownMonitor::decode(&monitor.encode()).expect("just encoded");
    assert_eq!(verdict(&mut found, few(25)), PlayDown::Yes(vec![PlayDownCause::FewCopies]));
    assert!(PlayDownMonitor::decode(&monitor.encode()[..5]).is_err());
}

//! Tests of the commands about failures, holds and lags.

use keelson_types::{
    HoldKind, LagSettings, LagSwitch, NetworkConfig, Networks, Position, ResumeRequest,
    TrafficPolicy,
};

use super::*;
use crate::apply::tests::{activate, allocate, change, three_copies};
use crate::command::Command;
use crate::state::CopyConfig;
use crate::testing::{DB, Log, copy, epoch, rule};
use keelson_types::CommitConstraint;

fn config(log: &Log, n: u128) -> &CopyConfig {
    &log.state.databases[&DB].copies[&copy(n)]
}

fn failed(n: u128, resumes: u64, needs_seed: bool) -> Command {
    let comment = "log is missing".to_owned();
    let tag = needs_seed.then_some(keelson_types::FailureTag::MissingLog);
    Command::SuspendFailed { database: DB, copy: copy(n), resumes, comment, needs_seed, tag }
}

/// F47: FailedAndSuspended does not heal by itself, only a resume gives it another try. F107: no
/// log is kept for a copy that misses some.
#[test]
fn a_failed_copy_stays_suspended_until_it_is_resumed() {
    let mut log = three_copies();
    activate(&mut log, 1);
    log.refused(RefusalReason::Precondition, &failed(1, 0, false));
    log.ok(&failed(2, 0, true));
    let found = config(&log, 2);
    assert!(found.is_stopped() && found.cut_off && !found.may_count());
    assert_eq!(found.suspension.by, SuspendedBy::Fault);
    assert_eq!(found.failure, Some(keelson_types::FailureTag::MissingLog));
    let events = log.state.events.len();
    log.ok(&failed(2, 0, true));
    assert_eq!(log.state.events.len(), events, "said twice, told once");
    let request = ResumeRequest::default();
    log.ok(&Command::ResumeCopy { database: DB, copy: copy(2), request });
    assert!(!config(&log, 2).is_stopped() && !config(&log, 2).cut_off);
    assert_eq!(config(&log, 2).failure, None, "another try");
    log.refused(RefusalReason::Precondition, &failed(2, 0, true));
    log.ok(&failed(2, 1, false));
    assert!(!config(&log, 2).cut_off);
}

/// F105, review S16.4: a copy is marked before its log goes, never one that counts, and only by the
/// active of the epoch; the mark ends when the copy counts again.
#[test]
fn a_copy_is_marked_as_cut_off_first() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let mark = |counter| Command::MarkCutOff {
        database: DB,
        epoch: epoch(counter),
        copies: vec![copy(3)],
        operations: Vec::new(),
    };
    log.refused(RefusalReason::Precondition, &mark(1));
    let version = log.state.databases[&DB].rule.as_ref().map_or(0, |rule| rule.version);
    let change = |version: u64, members: &[u128]| Command::ChangeRule {
        database: DB,
        epoch: epoch(1),
        expected_version: version,
        rule: rule(version + 1, 1, CommitConstraint::SecondCopy, members),
    };
    log.ok(&change(version, &[1, 2]));
    log.refused(RefusalReason::StaleEpoch, &mark(9));
    log.ok(&mark(1));
    assert!(config(&log, 3).cut_off);
    let clear =
        |counter| Command::ClearCutOff { database: DB, epoch: epoch(counter), copy: copy(3) };
    log.refused(RefusalReason::StaleEpoch, &clear(9));
    log.ok(&clear(1));
    assert!(!config(&log, 3).cut_off, "it came back in time");
    log.ok(&mark(1));
    log.ok(&change(version + 1, &[1, 2, 3]));
    assert!(!config(&log, 3).cut_off);
}

/// Review S16.3: a hold is renewed where it was first taken, given back, or given up.
#[test]
fn holds_are_taken_renewed_and_released() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let hold = |n: u128, generation: u64, expires_unix_ms: u64| Command::HoldLog {
        database: DB,
        hold: LogHold {
            operation: OperationId::from_u128(n),
            kind: HoldKind::Fork,
            from: Position::new(generation, 0),
            taken_unix_ms: 0,
            expires_unix_ms,
        },
    };
    log.ok(&hold(1, 4, 1_000));
    log.ok(&hold(1, 9, 2_000));
    let holds = |log: &Log| log.state.databases[&DB].holds.clone();
    assert_eq!(holds(&log).len(), 1);
    assert_eq!((holds(&log)[0].from, holds(&log)[0].expires_unix_ms), (Position::new(4, 0), 2_000));
    let command = Box::new(hold(2, 5, 9_000));
    log.ok(&Command::Stamped { unix_ms: 3_000, command });
    assert_eq!(holds(&log)[0].operation, OperationId::from_u128(2), "the first one ran out");
    log.ok(&Command::ReleaseLog { database: DB, operation: OperationId::from_u128(2) });
    log.ok(&hold(3, 5, 9_000));
    let operations = vec![OperationId::from_u128(3)];
    let copies = Vec::new();
    log.ok(&Command::MarkCutOff { database: DB, epoch: epoch(1), copies, operations });
    assert_eq!(holds(&log), []);
}

/// F44: only a lag can be set aside; it comes back.
#[test]
fn an_operator_sets_a_lag_aside() {
    let mut log = three_copies();
    activate(&mut log, 1);
    let switch = |switch| Command::SwitchLag { database: DB, copy: copy(2), switch };
    let disabled = LagSwitch::disable("audit").expect("short");
    log.refused(RefusalReason::Precondition, &switch(disabled.clone()));
    let lag = LagSettings::from_seconds(3_600, 0).ok();
    let (preference, leaving) = (None, None);
    log.ok(&Command::SetCopy { database: DB, copy: copy(2), preference, leaving, lag });
    log.ok(&switch(disabled));
    assert_eq!(config(&log, 2).lag_switch.disabled(), Some("audit"));
    log.ok(&switch(LagSwitch::enable()));
    assert_eq!(config(&log, 2).lag_switch.disabled(), None);
}

/// Settings are checked where they are recorded; what does not change is no event.
#[test]
fn settings_are_recorded_with_an_event() {
    let mut log = three_copies();
    let set = |name: &str, value| Command::ChangeSetting { name: name.into(), value };
    log.refused(RefusalReason::UnknownSetting, &set("colour", Some(1)));
    log.refused(RefusalReason::BadArgument, &set("play_down", Some(2)));
    log.ok(&set("play_down_copies", Some(2)));
    let events = log.state.events.len();
    log.ok(&set("play_down_copies", Some(2)));
    assert_eq!(log.state.events.len(), events);
    log.ok(&set("play_down_copies", None));
    let (from, to) = (Some(2), Some(3));
    let kind = EventKind::SettingChanged { name: "play_down_copies".into(), from, to };
    assert_eq!(log.state.events.last().map(|event| event.kind.clone()), Some(kind));
}

/// F114: networks are checked where they are recorded, and survive the JSON of the state.
#[test]
fn networks_are_recorded_with_an_event() {
    let mut log = three_copies();
    let network = |subnet: &str| {
        Some(NetworkConfig { subnets: vec![subnet.parse().unwrap()], ..NetworkConfig::default() })
    };
    let set = |name: &str, network| Command::SetNetwork { name: name.into(), network };
    log.ok(&set("repl", network("10.1.0.0/16")));
    log.refused(RefusalReason::BadArgument, &set("other", network("10.1.7.0/24")));
    log.ok(&set("other", network("fd00::/64")));
    log.ok(&Command::SetCompression { policy: TrafficPolicy::SeedOnly });
    let kind = EventKind::NetworksChanged { what: "compression".into() };
    assert_eq!(log.state.events.last().map(|event| event.kind.clone()), Some(kind));
    let json = serde_json::to_string(&log.state.networks).unwrap();
    assert_eq!(serde_json::from_str::<Networks>(&json).unwrap(), log.state.networks);
    log.ok(&set("repl", None));
    log.refused(RefusalReason::BadArgument, &set("repl", None));
}

/// C14: a copy that counts goes only while a copy is open that can drop it from the rule; what was
/// acknowledged may be on it alone. A refused removal leaves no mark.
#[test]
fn a_copy_that_may_hold_the_last_of_something_is_not_removed() {
    let mut log = three_copies();
    activate(&mut log, 1);
    log.ok(&change(1, 1, rule(2, 1, CommitConstraint::SecondCopy, &[1, 2])));
    let leaving = |n, leaves| Command::SetCopy {
        database: DB,
        copy: copy(n),
        preference: None,
        leaving: Some(leaves),
        lag: None,
    };
    allocate(&mut log, 1);
    log.refused(RefusalReason::Precondition, &leaving(2, true));
    assert!(!log.state.databases[&DB].copies[&copy(2)].leaving);
    log.ok(&leaving(3, true));
    let dismount = Command::SetMountIntent { database: DB, intent: MountIntent::Dismounted };
    log.ok(&dismount);
    for n in [1, 2] {
        let remove = Command::RemoveCopy { database: DB, copy: copy(n) };
        log.refused(RefusalReason::Precondition, &remove);
    }
    log.ok(&leaving(3, false));
    log.ok(&leaving(3, true));
    let resume = ResumeRequest::default();
    log.ok(&Command::ResumeCopy { database: DB, copy: copy(3), request: resume });
    assert!(!log.state.databases[&DB].copies[&copy(3)].leaving, "a resume takes it back");
    log.ok(&Command::RemoveCopy { database: DB, copy: copy(3) });
}

//! Who rehearses, what is kept of it, and how a pause adds up.

use keelson_types::{LagSettings, MountIntent, OperationId, ResumeRequest, SuspendRequest};

use super::*;
use crate::command::Command;
use crate::event::EventKind;
use crate::operation::OperationState;
use crate::testing::{DB, Log, copy, create, end, member};

const MIB: u64 = 1024 * 1024;

fn id(n: u128) -> OperationId {
    OperationId::from_u128(n)
}

fn put(operation: u128, on: u128) -> Command {
    let kind = OperationKind::Rehearsal { database: DB, copy: copy(on) };
    Command::PutOperation { id: id(operation), kind }
}

fn passed() -> Rehearsal {
    let took_ms = 400;
    Rehearsal { unix_ms: 0, took_ms, failure: None, at: end(1, 700), keys: 900, pause_ms: 30 }
}

fn ended(operation: u128, result: Rehearsal, unix_ms: u64) -> Command {
    let command = Command::EndRehearsal { operation: id(operation), result: Box::new(result) };
    Command::Stamped { unix_ms, command: Box::new(command) }
}

/// DB1 with copies on members 1 to 3, active on the first.
fn scene() -> Log {
    let mut log = Log::with_members(4);
    log.ok(&create(1, &[1, 2, 3]));
    let database = log.state.databases.get_mut(&DB).expect("created");
    database.target = Some(copy(1));
    log
}

fn checked(log: &Log, on: u128) -> Result<CopyId, RefusalReason> {
    let database = &log.state.databases[&DB];
    check_rehearsal(&log.state, database, member(on)).map_err(|refusal| refusal.reason)
}

#[test]
fn only_a_copy_that_a_move_could_activate_rehearses() {
    let mut log = scene();
    let database = DB;
    assert_eq!(checked(&log, 2), Ok(copy(2)));
    assert_eq!(checked(&log, 1), Err(RefusalReason::BadArgument), "the active itself");
    assert_eq!(checked(&log, 4), Err(RefusalReason::UnknownCopy));
    assert_eq!(checked(&log, 9), Err(RefusalReason::UnknownCopy));
    let request = SuspendRequest { comment: "disk".into(), ..SuspendRequest::default() };
    log.ok(&Command::SuspendCopy { database, copy: copy(2), request });
    assert_eq!(checked(&log, 2), Err(RefusalReason::Suspended));
    let request = ResumeRequest::default();
    log.ok(&Command::ResumeCopy { database, copy: copy(2), request });
    assert_eq!(checked(&log, 2), Ok(copy(2)));
    let blocked = SuspendRequest { activation_only: true, ..SuspendRequest::default() };
    log.ok(&Command::SuspendCopy { database, copy: copy(2), request: blocked });
    assert_eq!(checked(&log, 2), Ok(copy(2)), "a block warns whoever names the copy");
    let lag = LagSettings::from_seconds(3_600, 0).unwrap();
    log.ok(&Command::SetCopy {
        database,
        copy: copy(3),
        preference: None,
        leaving: None,
        lag: Some(lag),
    });
    assert_eq!(checked(&log, 3), Err(RefusalReason::TargetUnfit), "it lags");
    let config = |log: &mut Log, change: fn(&mut crate::CopyConfig)| {
        let database = log.state.databases.get_mut(&DB).unwrap();
        change(database.copies.get_mut(&copy(2)).unwrap());
    };
    config(&mut log, |copy| copy.cut_off = true);
    assert_eq!(checked(&log, 2), Err(RefusalReason::TargetUnfit), "it misses log");
    config(&mut log, |copy| (copy.cut_off, copy.leaving) = (false, true));
    assert_eq!(checked(&log, 2), Err(RefusalReason::TargetUnfit), "it leaves");
    config(&mut log, |copy| copy.leaving = false);
    log.state.databases.get_mut(&DB).unwrap().intent = MountIntent::Dismounted;
    assert_eq!(checked(&log, 2), Err(RefusalReason::Dismounted));
}

#[test]
fn one_rehearsal_of_a_database_runs_at_a_time() {
    let mut log = scene();
    log.ok(&put(7, 2));
    log.ok(&put(7, 2));
    log.refused(RefusalReason::Precondition, &put(8, 2));
    log.refused(RefusalReason::Precondition, &put(8, 3));
    log.refused(RefusalReason::AlreadyExists, &put(7, 3));
    log.ok(&ended(7, passed(), 5_000));
    log.ok(&put(8, 3));
    log.refused(RefusalReason::UnknownCopy, &put(9, 4));
}

/// The copy keeps the last result, an event tells each, and nothing else changes.
#[test]
fn a_copy_keeps_its_last_result_with_its_date() {
    let mut log = scene();
    let before = log.state.databases[&DB].clone();
    log.ok(&put(7, 2));
    log.ok(&ended(7, passed(), 5_000));
    let kept = |log: &Log| log.state.databases[&DB].copies[&copy(2)].rehearsal.clone();
    assert_eq!(kept(&log).as_deref(), Some(&Rehearsal { unix_ms: 5_000, ..passed() }));
    let operation = &log.state.operations[&id(7)];
    assert_eq!((&operation.state, operation.progress_percent), (&OperationState::Succeeded, 100));
    let sentence = "passed at 1:700: 900 keys read and right, pause of a move about 30 ms";
    assert_eq!(operation.message, sentence);

    log.ok(&put(8, 2));
    let long = "ä".repeat(REHEARSAL_MESSAGE_BYTES_MAX);
    let refusal = Refusal::new(RefusalReason::ForkBudget, long);
    log.ok(&ended(8, Rehearsal::failed(refusal, Duration::from_millis(12)), 6_000));
    let failed = kept(&log).expect("a result");
    assert_eq!((failed.unix_ms, failed.took_ms, failed.keys), (6_000, 12, 0));
    let message = failed.failure.expect("it failed").message;
    assert_eq!(message.len(), REHEARSAL_MESSAGE_BYTES_MAX, "cut to what is kept");
    assert!(matches!(log.state.operations[&id(8)].state, OperationState::Failed(_)));
    let told: Vec<_> = log
        .state
        .events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Rehearsed { copy, pause_ms, failure, .. } => {
                Some((event.member, *copy, *pause_ms, failure.is_empty()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(told, [(Some(member(2)), copy(2), 30, true), (Some(member(2)), copy(2), 0, false)]);
    let mut after = log.state.databases[&DB].clone();
    after.copies.get_mut(&copy(2)).unwrap().rehearsal = None;
    assert_eq!(after, before, "nothing else changed");
    let json = serde_json::to_string(&kept(&log)).unwrap();
    assert!(json.len() < 512, "{} bytes", json.len());
}

#[test]
fn a_rehearsal_ends_once_and_one_that_was_cancelled_leaves_nothing() {
    let mut log = scene();
    log.refused(RefusalReason::UnknownOperation, &ended(7, passed(), 0));
    log.ok(&put(7, 2));
    let cancelled = Refusal::new(RefusalReason::Cancelled, "an operator");
    log.ok(&Command::UpdateOperation {
        id: id(7),
        state: OperationState::Failed(cancelled),
        progress_percent: 0,
        message: String::new(),
    });
    log.refused(RefusalReason::Precondition, &ended(7, passed(), 0));
    assert_eq!(log.state.databases[&DB].copies[&copy(2)].rehearsal, None);
    let kind = OperationKind::Dismount { database: DB };
    log.ok(&Command::PutOperation { id: id(8), kind });
    log.refused(RefusalReason::BadArgument, &ended(8, passed(), 0));
    // A copy that went meanwhile keeps nothing; the operation ends all the same.
    log.ok(&put(9, 3));
    log.state.databases.get_mut(&DB).unwrap().copies.remove(&copy(3));
    log.ok(&ended(9, passed(), 0));
    assert!(log.state.operations[&id(9)].is_finished());
}

#[test]
fn the_result_goes_with_its_copy() {
    let mut log = scene();
    log.ok(&put(7, 2));
    log.ok(&ended(7, passed(), 5_000));
    log.ok(&Command::ReplaceCopy { database: DB, old: copy(2), new: copy(20) });
    assert_eq!(log.state.databases[&DB].copies[&copy(20)].rehearsal, None, "another copy");
}

#[test]
fn a_new_leader_ends_what_its_predecessor_left() {
    let mut log = scene();
    log.ok(&put(7, 2));
    let none = BTreeSet::new();
    assert_eq!(orphaned(&log.state, &none), [(id(7), DB, copy(2))]);
    assert_eq!(orphaned(&log.state, &[id(7)].into()), [], "its own");
    log.ok(&ended(7, Rehearsal::failed(orphan_ends(), Duration::ZERO), 0));
    assert_eq!(orphaned(&log.state, &none), []);
    log.ok(&put(8, 2));
}

#[test]
fn deadlines_have_a_default_and_a_bound() {
    let minutes = Duration::from_mins;
    for (asked, given) in [
        (Duration::ZERO, Some(minutes(1))),
        (Duration::from_secs(5), Some(Duration::from_secs(5))),
        (minutes(10), Some(minutes(10))),
        (minutes(11), None),
    ] {
        assert_eq!(deadline(asked).ok(), given, "{asked:?}");
    }
}

/// Parts of a pause in microseconds, and all of it in milliseconds.
#[test]
fn a_pause_is_the_sum_of_what_happens_one_after_another() {
    let quiet = PauseInput {
        consensus_write_micros: 4_000,
        log_sync_micros: 1_000,
        round_trip_micros: 500,
        ..PauseInput::default()
    };
    let behind = |copy_queue_bytes, replay_queue_bytes| PauseInput {
        copy_queue_bytes,
        replay_queue_bytes,
        ..quiet
    };
    assert!(Advance::of_work(MIB, 1).busy && !Advance::of_work(MIB - 1, 1).busy);
    let advance = |bytes, busy| Advance { bytes, micros: 1_000_000, busy };
    let slow = PauseInput { replayed: advance(MIB, true), ..behind(0, 2 * MIB) };
    let idle = PauseInput { replayed: advance(MIB, false), ..slow };
    let fast = PauseInput { replayed: advance(512 * MIB, false), ..slow };
    let stuck = PauseInput { copied: advance(0, true), ..behind(10, 0) };
    let cases = [
        (PauseInput::default(), (0, 0, 0, 0), 0),
        (quiet, (8_000, 4_500, 0, 0), 13),
        (behind(0, 32 * MIB), (8_000, 4_500, 0, 1_000_000), 1_013),
        // What comes over is replayed, too.
        (behind(64 * MIB, 0), (8_000, 4_500, 1_000_000, 2_000_000), 3_013),
        (slow, (8_000, 4_500, 0, 2_000_000), 2_013),
        // As fast as log came says little of how fast it could be.
        (idle, (8_000, 4_500, 0, 62_500), 75),
        (fast, (8_000, 4_500, 0, 3_906), 17),
        (stuck, (8_000, 4_500, 10_000_000, 0), 10_013),
        (behind(u64::MAX, u64::MAX), (8_000, 4_500, u64::MAX, u64::MAX), u64::MAX / 1_000 + 1),
    ];
    for (input, (consensus, logs, copy, replay), millis) in cases {
        let found = pause(&input);
        let huge = input.copy_queue_bytes == u64::MAX;
        if !huge {
            assert_eq!(found, Pause { consensus, logs, copy, replay }, "{input:?}");
        }
        let all = found.millis();
        assert!(all == millis || huge && all > u64::MAX / 1_000_000_000, "{all}: {input:?}");
    }
}

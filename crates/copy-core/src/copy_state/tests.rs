//! Tests of the copy status, one case per row of the reference's table.

use keelson_types::{Generation, LOG_UNIT_BYTES, Position};

use super::*;
use keelson_types::{SuspendFacts, SuspendRequest};

use CopyStatus as S;

static NOT_SUSPENDED: Suspension = Suspension::NONE;

/// A passive copy in good order.
fn healthy(suspension: &Suspension) -> StateFacts<'_> {
    StateFacts {
        reach: Reach::Answers,
        role: CopyRole::Passive,
        active: ActiveStep::Closed,
        connection: Connection::Up,
        verified: true,
        running_for: Duration::from_secs(60),
        resynchronizing: false,
        seeding: false,
        seeding_source: false,
        range_repair: false,
        suspension,
        fault: None,
    }
}

#[track_caller]
fn check<'a>(expected: CopyStatus, change: impl FnOnce(&mut StateFacts<'a>)) {
    let mut facts = healthy(&NOT_SUSPENDED);
    change(&mut facts);
    let (status, reason) = derive_status(&facts);
    assert_eq!(status, expected, "{reason}");
}

fn suspension(activation_only: bool) -> Suspension {
    let comment = "work".to_string();
    let request = SuspendRequest { activation_only, comment, lasting: None };
    Suspension::default().suspend(&request, &SuspendFacts::default()).expect("accepted")
}

/// F47 Healthy: copying and replaying, or everything available is already replayed.
#[test]
fn a_connected_passive_is_healthy() {
    check(S::Healthy, |_| ());
}

/// F47: Mounted, Dismounted, Mounting, Dismounting are states of the active copy only; Held is our
/// own.
#[test]
fn the_active_copy_shows_whether_it_serves() {
    for (step, expected) in [
        (ActiveStep::Serving, S::Mounted),
        (ActiveStep::Closed, S::Dismounted),
        (ActiveStep::Opening, S::Mounting),
        (ActiveStep::Closing, S::Dismounting),
        (ActiveStep::Held, S::Held),
    ] {
        check(expected, |facts| (facts.role, facts.active) = (CopyRole::Active, step));
        check(S::Healthy, |facts| facts.active = step);
        check(expected, |facts| {
            (facts.role, facts.active, facts.seeding_source) = (CopyRole::Active, step, true);
        });
    }
}

/// F47 Failed: not suspended, but cannot copy or replay; also a closed active copy shows its fault.
#[test]
fn faults_show_as_failed() {
    let full = CopyFault::DiskFull;
    check(S::Failed, |facts| facts.fault = Some(&full));
    for (step, expected) in [(ActiveStep::Closed, S::Failed), (ActiveStep::Serving, S::Mounted)] {
        check(expected, |facts| {
            (facts.role, facts.active, facts.fault) = (CopyRole::Active, step, Some(&full));
        });
    }
}

/// F47, F73, F82, F107: which faults heal by themselves and which do not.
#[test]
fn faults_heal_by_themselves_or_wait_for_an_operator() {
    let text = String::new;
    for (fault, expected) in [
        (CopyFault::DiskFull, S::Failed),
        (CopyFault::LogIo(text()), S::Failed),
        (CopyFault::Store(text()), S::Failed),
        (CopyFault::NeedsVersion(9), S::Failed),
        (CopyFault::Forgotten, S::Failed),
        (CopyFault::LogDamaged(text()), S::Failed),
        (CopyFault::MissingLog(text()), S::FailedAndSuspended),
        (CopyFault::Diverged(text()), S::FailedAndSuspended),
        (CopyFault::CrashLoop, S::FailedAndSuspended),
    ] {
        check(expected, |facts| facts.fault = Some(&fault));
    }
}

/// F43, F44, F47 Suspended: an administrator suspended it; an activation block alone is no status.
#[test]
fn a_suspended_copy_says_so() {
    let (full, block) = (suspension(false), suspension(true));
    assert_eq!(derive_status(&healthy(&full)).0, S::Suspended);
    assert_eq!(derive_status(&healthy(&full)).1.to_string(), "suspended: work");
    assert_eq!(derive_status(&healthy(&block)).0, S::Healthy);
}

/// F47 FailedAndSuspended: set by the system, and kept when the fault itself is no longer in
/// memory; a healing fault under an operator's suspension stays Suspended.
#[test]
fn the_systems_suspension_is_failed_and_suspended() {
    let none = Suspension::default();
    let system = |by| none.suspended_by_system(by, "log is missing", 7);
    let by_fault = system(SuspendedBy::Fault);
    assert_eq!(derive_status(&healthy(&by_fault)).0, S::FailedAndSuspended);
    let holder = system(SuspendedBy::DiscardedTimeline);
    let (status, reason) = derive_status(&healthy(&holder));
    assert_eq!(status, S::Suspended);
    assert_eq!(reason.to_string(), "holds the discarded timeline: log is missing");
    let (operator, full, gone) =
        (suspension(false), CopyFault::DiskFull, CopyFault::MissingLog(String::new()));
    let with = |fault| StateFacts { fault: Some(fault), ..healthy(&operator) };
    assert_eq!(derive_status(&with(&full)).0, S::Suspended);
    assert_eq!(derive_status(&with(&gone)).0, S::FailedAndSuspended);
}

/// F47 Seeding: whatever else holds, a target of a seed is Seeding.
#[test]
fn a_seeding_target_is_seeding() {
    let gone = CopyFault::MissingLog(String::new());
    check(S::Seeding, |facts| facts.seeding = true);
    let full = suspension(false);
    let facts = StateFacts { seeding: true, fault: Some(&gone), ..healthy(&full) };
    assert_eq!(derive_status(&facts).0, S::Seeding);
}

/// F47, F69 SeedingSource: a passive copy that is read as the source of a seed.
#[test]
fn a_seeding_source_says_so() {
    check(S::SeedingSource, |facts| facts.seeding_source = true);
    check(S::SeedingSource, |facts| {
        (facts.seeding_source, facts.connection) = (true, Connection::Lost);
    });
}

/// F86 RangeRepair (SinglePageRestore in the model): ranges are being restored.
#[test]
fn a_copy_under_repair_says_so() {
    check(S::RangeRepair, |facts| facts.range_repair = true);
}

/// F47 Initializing: after start and until log and store are verified; never over 30 s for want of
/// a source.
#[test]
fn initializing_ends_after_thirty_seconds() {
    let start = |verified, connection, seconds| {
        move |facts: &mut StateFacts<'_>| {
            (facts.verified, facts.connection) = (verified, connection);
            facts.running_for = Duration::from_secs(seconds);
        }
    };
    check(S::Initializing, start(false, Connection::Up, 3));
    check(S::Initializing, start(true, Connection::Never, 29));
    check(S::DisconnectedAndHealthy, start(true, Connection::Never, 30));
    check(S::Healthy, start(true, Connection::Up, 1));
}

/// F47, F80 Resynchronizing: being compared with the active; lost contact keeps which of the two it
/// was.
#[test]
fn lost_contact_keeps_what_the_copy_was() {
    for (connection, resynchronizing, expected) in [
        (Connection::Up, true, S::Resynchronizing),
        (Connection::Lost, true, S::DisconnectedAndResynchronizing),
        (Connection::Lost, false, S::DisconnectedAndHealthy),
    ] {
        check(expected, |facts| {
            (facts.connection, facts.resynchronizing) = (connection, resynchronizing);
        });
    }
}

/// F47 ServiceDown: the member does not answer; Unknown: nobody could be asked. Both hold for any
/// role.
#[test]
fn silence_hides_everything_else() {
    for role in [CopyRole::Active, CopyRole::Passive] {
        check(S::ServiceDown, |facts| (facts.reach, facts.role) = (Reach::Down, role));
        check(S::Unknown, |facts| (facts.reach, facts.role) = (Reach::Unknown, role));
    }
}

/// F20: four statuses may be activated. F92: what counts as an available copy.
#[test]
fn only_some_statuses_may_be_activated_or_counted() {
    for (status, eligible, available) in [
        (S::Healthy, true, true),
        (S::DisconnectedAndHealthy, true, false),
        (S::DisconnectedAndResynchronizing, true, false),
        (S::SeedingSource, true, true),
        (S::Mounted, false, true),
        (S::Resynchronizing, false, false),
        (S::Suspended, false, false),
        (S::Failed, false, false),
        (S::Initializing, false, false),
        (S::ServiceDown, false, false),
    ] {
        let found = (is_activation_eligible(status), is_available(status));
        assert_eq!(found, (eligible, available), "{status}");
    }
}

/// F48, F49: queues are differences, over generations of any size; the copy queue of the active is
/// 0, and one log is 1 MiB.
#[test]
fn queues_are_differences_of_positions() {
    let marks = Watermarks {
        replayed: Position::new(3, 500),
        inspected: Position::new(5, 100),
        generated: Position::new(6, 50),
        ..Watermarks::default()
    };
    let mut sizes = LogSizes::new(LOG_UNIT_BYTES);
    sizes.set(Generation(3), 700);
    let copy = copy_queue(CopyRole::Passive, &marks, &sizes);
    assert_eq!(copy, Queue { bytes: LOG_UNIT_BYTES - 50, generations: 1 });
    assert_eq!(copy.logs(), 1);
    assert_eq!(copy_queue(CopyRole::Active, &marks, &sizes), Queue::default());
    let replay = replay_queue(&marks, &sizes);
    assert_eq!(replay, Queue { bytes: 200 + LOG_UNIT_BYTES + 100, generations: 2 });
    assert_eq!(replay.logs(), 2);
}

/// F47: Suspended, ServiceDown, Failed, Seeding and RangeRepair are left through Initializing;
/// contact lost and found is one step. Every step is told once, with its time.
#[test]
fn transitions_pass_through_initializing() {
    for (before, steps) in [
        (S::Suspended, vec![S::Initializing, S::Healthy]),
        (S::FailedAndSuspended, vec![S::Initializing, S::Healthy]),
        (S::Failed, vec![S::Initializing, S::Healthy]),
        (S::ServiceDown, vec![S::Initializing, S::Healthy]),
        (S::Seeding, vec![S::Initializing, S::Healthy]),
        (S::RangeRepair, vec![S::Initializing, S::Healthy]),
        (S::DisconnectedAndHealthy, vec![S::Healthy]),
        (S::Mounted, vec![S::Healthy]),
        (S::Healthy, vec![]),
    ] {
        let none = Suspension::default();
        let mut tracker = StatusTracker { last: Some(before), since: Tick(1) };
        let found = tracker.update(Tick(9), &healthy(&none));
        let to: Vec<_> = found.iter().map(|step| step.to).collect();
        assert_eq!(to, steps, "from {before}");
        assert!(found.iter().all(|step| step.at == Tick(9)));
        assert_eq!(found.first().and_then(|step| step.from), found.first().map(|_| before));
    }
}

/// F49: the time of the last transition.
#[test]
fn the_tracker_tells_since_when() {
    let none = Suspension::default();
    let mut tracker = StatusTracker::default();
    let mut facts = healthy(&none);
    facts.verified = false;
    assert_eq!(tracker.update(Tick(5), &facts).len(), 1);
    assert_eq!(tracker.update(Tick(6), &facts), []);
    assert_eq!(tracker.last(), Some((S::Initializing, Tick(5))));
    facts.verified = true;
    let steps = tracker.update(Tick(7), &facts);
    let (from, to, reason) = (Some(S::Initializing), S::Healthy, StatusReason::Replicating);
    assert_eq!(steps, [Transition { from, to, reason, at: Tick(7) }]);
    let down = StateFacts { reach: Reach::Down, ..healthy(&none) };
    tracker.update(Tick(8), &down);
    assert_eq!(tracker.last(), Some((S::ServiceDown, Tick(8))));
}

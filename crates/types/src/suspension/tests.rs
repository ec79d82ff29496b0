//! Tests of suspend, resume and expiry.

use crate::RefusalReason;

use super::*;

const NOW: u64 = 1_700_000_000_000;

fn facts(now_unix_ms: u64) -> SuspendFacts {
    SuspendFacts { now_unix_ms, ..SuspendFacts::default() }
}

fn full(comment: &str) -> SuspendRequest {
    SuspendRequest { comment: comment.to_string(), ..SuspendRequest::default() }
}

fn activation_only() -> SuspendRequest {
    SuspendRequest { activation_only: true, ..full("policy") }
}

fn for_hours(hours: u64) -> SuspendRequest {
    SuspendRequest { lasting: Some(Duration::from_hours(hours)), ..full("work") }
}

fn suspended(request: &SuspendRequest) -> Suspension {
    Suspension::default().suspend(request, &facts(NOW)).expect("accepted")
}

/// Which of replication and activation is stopped.
fn stops(suspension: &Suspension) -> (bool, bool) {
    (suspension.replication.is_some(), suspension.stops_activation().is_some())
}

/// F43, F44: suspend stops copying, replay and activation; activation-only blocks just that.
#[test]
fn suspend_stops_replication_unless_activation_only() {
    assert_eq!(stops(&suspended(&full("work"))), (true, true));
    assert_eq!(stops(&suspended(&activation_only())), (false, true));
    let both = suspended(&activation_only()).suspend(&full("work"), &facts(NOW + 9));
    let both = both.expect("accepted");
    assert_eq!(stops(&both), (true, true));
    assert_eq!(both.activation.map(|stop| stop.since_unix_ms), Some(NOW), "the start stays");
    assert_eq!(both.along.map(|stop| stop.since_unix_ms), Some(NOW + 9));
    assert_eq!(both.replication.map(|stop| stop.since_unix_ms), Some(NOW + 9));
    assert_eq!(both.comment, "work");
}

/// F44: activation-only on a suspended copy does not resume its replication.
#[test]
fn activation_only_keeps_a_stopped_replication() {
    let after = suspended(&full("work")).suspend(&activation_only(), &facts(NOW + 9));
    assert_eq!(stops(&after.expect("accepted")), (true, true));
}

/// F44: resume clears both, replication-only keeps the activation block; resuming what is not
/// suspended changes nothing.
#[test]
fn resume_clears_both_unless_replication_only() {
    let keep = ResumeRequest { replication_only: true, ..ResumeRequest::default() };
    let all = ResumeRequest::default();
    for (before, request, expected) in [
        (suspended(&full("work")), all, (false, false)),
        (suspended(&full("work")), keep, (false, true)),
        (suspended(&activation_only()), all, (false, false)),
        (suspended(&activation_only()), keep, (false, true)),
        (Suspension::default(), all, (false, false)),
        (Suspension::default(), keep, (false, false)),
    ] {
        let after = before.resume(&request, &facts(NOW)).expect("accepted");
        assert_eq!(stops(&after), expected, "{before:?} {request:?}");
        assert_eq!(after.is_none(), expected == (false, false));
    }
}

/// F44, F47, F151: suspend of the active copy, of one being seeded, with a comment over 512
/// characters or a senseless time is refused with a code; 512 characters of any script are fine.
#[test]
fn senseless_suspends_are_refused() {
    let none = Suspension::default();
    let active = SuspendFacts { active: true, ..facts(NOW) };
    let seeding = SuspendFacts { seeding: true, ..facts(NOW) };
    let long = full(&"é".repeat(513));
    for (request, facts, reason) in [
        (full("work"), active, RefusalReason::Precondition),
        (activation_only(), active, RefusalReason::Precondition),
        (full("work"), seeding, RefusalReason::Precondition),
        (long, facts(NOW), RefusalReason::BadArgument),
        (for_hours(0), facts(NOW), RefusalReason::BadArgument),
        (for_hours(366 * 24), facts(NOW), RefusalReason::BadArgument),
    ] {
        let refused = none.suspend(&request, &facts).expect_err("refused");
        assert_eq!(refused.reason, reason, "{request:?}");
        assert!(!refused.message.is_empty());
    }
    assert_eq!(suspended(&full(&"é".repeat(512))).comment.chars().count(), 512);
}

/// F25, F44: what an operator blocked by itself survives a seed, another try of the system and the
/// end of a plain suspend, with its comment; the activation half of a plain suspend goes with
/// replication.
#[test]
fn only_a_block_of_its_own_outlives_the_stop_of_replication() {
    const HOUR: u64 = 3_600_000;
    let fault = |s: Suspension| s.suspended_by_system(SuspendedBy::Fault, "log gone", NOW);
    let plain = |s: Suspension| s.suspend(&for_hours(1), &facts(NOW)).expect("accepted");
    let block = |s: Suspension| s.suspend(&activation_only(), &facts(NOW)).expect("accepted");
    let none = Suspension::NONE;
    for (before, survives, what) in [
        (plain(none.clone()), false, "a plain suspend"),
        (fault(none.clone()), false, "a fault"),
        (block(none.clone()), true, "a block"),
        (plain(block(none.clone())), true, "a plain suspend on a block"),
        (block(plain(none.clone())), true, "a block on a plain suspend"),
        (fault(block(none.clone())), true, "a fault on a block"),
        // Nobody but the operator ends what he said of a failed copy.
        (plain(fault(none.clone())), true, "a plain suspend on a fault"),
    ] {
        let after = before.when_replication_goes_on();
        assert_eq!(stops(&after), (false, survives), "{what}");
        let comment =
            if what.starts_with("a plain suspend on a fault") { "work" } else { "policy" };
        assert!(!survives || after.comment == comment, "{what}: {}", after.comment);
    }
    let later = plain(block(none)).at(NOW + HOUR);
    assert_eq!((stops(&later), later.comment.as_str()), ((false, true), "policy"));
    assert_eq!(later.stops_activation().and_then(|stop| stop.until_unix_ms), None);
}

/// F61: a copy being seeded is resumed by the end of the seed only.
#[test]
fn a_copy_being_seeded_is_not_resumed() {
    let seeding = SuspendFacts { seeding: true, ..facts(NOW) };
    let refused = suspended(&full("seed")).resume(&ResumeRequest::default(), &seeding);
    assert_eq!(refused.expect_err("refused").reason, RefusalReason::Precondition);
}

/// F47, F107: what the system suspended for a fault is resumed by an operator, has no end, and an
/// operator's suspend on top does not give it one.
#[test]
fn a_fault_suspends_without_end() {
    let failed = Suspension::default().suspended_by_system(SuspendedBy::Fault, "log gone", NOW);
    assert_eq!((stops(&failed), failed.by), ((true, false), SuspendedBy::Fault));
    let on_top = failed.suspend(&for_hours(1), &facts(NOW)).expect("accepted");
    let later = on_top.at(NOW + 9_000_000);
    assert_eq!((stops(&later), later.by), ((true, false), SuspendedBy::Fault));
    let resumed = failed.resume(&ResumeRequest::default(), &facts(NOW)).expect("accepted");
    assert_eq!(resumed, Suspension::default());
    let long = "x".repeat(600);
    let cut = Suspension::default().suspended_by_system(SuspendedBy::Fault, &long, NOW);
    assert_eq!(cut.comment.len(), 512);
}

/// Review S13: the holder of a discarded timeline is released by name only.
#[test]
fn a_discarded_timeline_is_released_explicitly() {
    let by = SuspendedBy::DiscardedTimeline;
    let holder = Suspension::default().suspended_by_system(by, "receipt 7", NOW);
    let plain = holder.resume(&ResumeRequest::default(), &facts(NOW));
    assert_eq!(plain.expect_err("refused").reason, RefusalReason::Precondition);
    let failed = holder.suspended_by_system(SuspendedBy::Fault, "and broken", NOW);
    assert_eq!(failed.by, by, "a later fault does not lift the protection");
    let release = ResumeRequest { release_discarded: true, ..ResumeRequest::default() };
    let released = failed.resume(&release, &facts(NOW)).expect("accepted");
    assert_eq!(released, Suspension::default());
}

/// Review S22: `suspend --for` ends by itself, each part at its own time.
#[test]
fn a_suspension_for_a_time_ends_by_itself() {
    const HOUR: u64 = 3_600_000;
    let block = SuspendRequest { lasting: None, ..activation_only() };
    let timed = suspended(&for_hours(2));
    assert_eq!(timed.next_end_unix_ms(), Some(NOW + 2 * HOUR));
    assert_eq!(stops(&timed.at(NOW + 2 * HOUR - 1)), (true, true));
    assert_eq!(timed.at(NOW + 2 * HOUR), Suspension::default());
    let mixed = timed.suspend(&block, &facts(NOW + HOUR)).expect("accepted");
    assert_eq!(stops(&mixed.at(NOW + 2 * HOUR)), (false, true));
    assert_eq!(mixed.at(NOW + 2 * HOUR).next_end_unix_ms(), None);
    let renewed = timed.suspend(&for_hours(2), &facts(NOW + HOUR)).expect("accepted");
    assert_eq!(renewed.next_end_unix_ms(), Some(NOW + 3 * HOUR));
    assert_eq!(renewed.replication.map(|stop| stop.since_unix_ms), Some(NOW));
}

/// S13: a copy may hold several discarded timelines; each is kept once, the newest are remembered,
/// and only a resume forgets them.
#[test]
fn held_timelines_are_kept_until_a_resume() {
    use crate::{Epoch, LogEnd};
    let discard = |counter| Discard { epoch: Epoch::new(0, counter), kept: LogEnd::ZERO };
    let mut holder = suspended(&full("work"));
    for counter in [5, 6, 5] {
        holder = holder.holding(discard(counter), "given up", NOW + counter);
    }
    let held: Vec<_> = holder.held.iter().map(|h| (h.discard, h.since_unix_ms)).collect();
    assert_eq!(held, [(discard(6), NOW + 6), (discard(5), NOW + 5)]);
    assert_eq!((holder.by, holder.comment.as_str()), (SuspendedBy::DiscardedTimeline, "given up"));
    let suspended_again = holder.suspend(&full("more"), &facts(NOW + 9)).expect("accepted");
    assert_eq!(suspended_again.held, holder.held, "an operator's comment changes nothing of it");
    assert_eq!(holder.at(NOW + 1_000_000).held, holder.held);
    let request = ResumeRequest { release_discarded: true, ..ResumeRequest::default() };
    assert_eq!(holder.resume(&request, &facts(NOW + 9)), Ok(Suspension::NONE));
    for counter in 10..30 {
        holder = holder.holding(discard(counter), "given up", NOW);
    }
    assert_eq!(holder.held.len(), HELD_TIMELINES_MAX);
    assert_eq!(holder.held.last().map(|held| held.discard), Some(discard(29)));
}

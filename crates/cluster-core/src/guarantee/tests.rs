//! Tests of the data guarantee: one case for each sentence of the reference, section 8.4.

use keelson_types::RefusalReason;

use super::*;

use GuaranteeConstraint as C;
use GuaranteeReason as R;

/// A copy in good order, replayed up to 1:1000 at second 100.
fn copy(n: u128, site: &str, status: CopyStatus) -> GuaranteeCopy {
    GuaranteeCopy {
        copy: CopyId::from_u128(n),
        member: MemberId::from_u128(n),
        site: SiteName::new(site).expect("a valid name"),
        facts: Some(GuaranteeFacts {
            status,
            copy_queue_logs: 0,
            replay_behind: Duration::ZERO,
            replay_lag: Duration::ZERO,
            replayed: Position::new(1, 1_000),
            replayed_time: HybridTime::from_unix_millis(100_000),
            catalog_current: true,
        }),
    }
}

fn active() -> GuaranteeCopy {
    copy(1, "a", CopyStatus::Mounted)
}

fn passive(n: u128, site: &str) -> GuaranteeCopy {
    copy(n, site, CopyStatus::Healthy)
}

fn bad(n: u128, site: &str) -> GuaranteeCopy {
    copy(n, site, CopyStatus::Failed)
}

fn silent(n: u128, site: &str) -> GuaranteeCopy {
    GuaranteeCopy { facts: None, ..passive(n, site) }
}

fn with(mut copy: GuaranteeCopy, change: impl FnOnce(&mut GuaranteeFacts)) -> GuaranteeCopy {
    change(copy.facts.as_mut().expect("the copy has facts"));
    copy
}

fn ask(constraint: C, active: &GuaranteeCopy, passives: &[GuaranteeCopy]) -> Guarantee {
    let inputs = GuaranteeInputs { constraint, active, passives };
    health(&inputs)
}

/// `Some(satisfied)`, or nothing for "retry".
fn known(answer: &Guarantee) -> Option<bool> {
    match answer {
        Guarantee::Retry(_) => None,
        Guarantee::Satisfied => Some(true),
        Guarantee::NotSatisfied(_) => Some(false),
    }
}

#[track_caller]
fn check(constraint: C, passives: &[GuaranteeCopy], expected: Option<bool>) {
    let answer = ask(constraint, &active(), passives);
    assert_eq!(known(&answer), expected, "{constraint}: {answer:?}");
}

/// F108: a database that is not replicated satisfies every constraint.
#[test]
fn an_unreplicated_database_is_satisfied() {
    for constraint in C::ALL {
        check(constraint, &[], Some(true));
    }
}

/// F110 None: nothing is required, checks are skipped.
#[test]
fn none_asks_nothing() {
    check(C::None, &[bad(2, "a"), silent(3, "b")], Some(true));
}

/// F110 SecondCopy: at least one passive.
#[test]
fn second_copy_asks_for_one_passive() {
    check(C::SecondCopy, &[bad(2, "a"), passive(3, "a")], Some(true));
    check(C::SecondCopy, &[bad(2, "a"), bad(3, "a")], Some(false));
}

/// F110 SecondDatacenter: at least one passive in another site.
#[test]
fn second_datacenter_asks_for_another_site() {
    check(C::SecondDatacenter, &[passive(2, "a"), passive(3, "b")], Some(true));
    check(C::SecondDatacenter, &[passive(2, "a"), bad(3, "b")], Some(false));
    let answer = ask(C::SecondDatacenter, &active(), &[passive(2, "a")]);
    let nobody = Objection { copy: None, reason: R::NoOtherSite };
    assert_eq!(answer, Guarantee::NotSatisfied(vec![nobody]));
}

/// F110 AllDatacenters: active mounted and one passive in every site.
#[test]
fn all_datacenters_asks_for_one_in_every_site() {
    let all = [passive(2, "a"), passive(3, "b"), bad(4, "b")];
    check(C::AllDatacenters, &all, Some(true));
    check(C::AllDatacenters, &[passive(2, "a"), bad(3, "b"), passive(4, "c")], Some(false));
    let dismounted = copy(1, "a", CopyStatus::Dismounted);
    assert_eq!(known(&ask(C::AllDatacenters, &dismounted, &all)), Some(false));
}

/// F110 AllCopies: active mounted and all passives. The weaker values do not ask for a mounted
/// active.
#[test]
fn all_copies_asks_for_every_passive_and_a_mounted_active() {
    let all = [passive(2, "a"), passive(3, "b")];
    check(C::AllCopies, &all, Some(true));
    check(C::AllCopies, &[passive(2, "a"), bad(3, "b")], Some(false));
    let dismounted = copy(1, "a", CopyStatus::Dismounted);
    let answer = ask(C::AllCopies, &dismounted, &all);
    let closed = Objection { copy: Some(CopyId::from_u128(1)), reason: R::NotMounted };
    assert_eq!(answer, Guarantee::NotSatisfied(vec![closed]));
    assert_eq!(known(&ask(C::SecondCopy, &dismounted, &all)), Some(true));
}

/// F113: variants with index check: the namesake, plus a current catalog.
#[test]
fn catalog_variants_ask_for_current_catalogs_too() {
    let stale = |copy| with(copy, |facts| facts.catalog_current = false);
    let stale_active = stale(active());
    let (fresh, old) = ([passive(2, "b")], [stale(passive(2, "b"))]);
    for (constraint, needs_passive) in [
        (C::CatalogNoReplication, false),
        (C::CatalogSecondCopy, true),
        (C::CatalogSecondDatacenter, true),
    ] {
        check(constraint, &fresh, Some(true));
        check(constraint, &old, Some(!needs_passive));
        assert_eq!(known(&ask(constraint, &stale_active, &fresh)), Some(false), "{constraint}");
        assert_eq!(known(&ask(constraint, &stale_active, &[])), Some(false), "{constraint}");
    }
    check(C::CatalogSecondDatacenter, &[passive(2, "a")], Some(false));
    check(C::SecondCopy, &old, Some(true));
}

/// F111: None on creation, SecondCopy when the second copy is added; an operator's value stays.
#[test]
fn the_second_copy_sets_second_copy() {
    assert_eq!(C::default(), C::None);
    for (before, copies, after) in [
        (C::None, 1, C::None),
        (C::None, 2, C::SecondCopy),
        (C::AllCopies, 2, C::AllCopies),
        (C::SecondCopy, 3, C::SecondCopy),
    ] {
        assert_eq!(before.after_copy_added(copies), after);
    }
}

/// F110: every value has a name and is read back from it; others are refused with the list.
#[test]
fn constraints_are_read_back_from_their_names() {
    for constraint in C::ALL {
        assert_eq!(constraint.to_string().parse(), Ok(constraint));
        let json = serde_json::to_string(&constraint).expect("a name");
        assert_eq!(json, format!("\"{constraint}\""));
    }
    let refused = "two".parse::<C>().expect_err("unknown");
    assert!(refused.contains("second_copy"), "{refused}");
}

/// F112: a passive qualifies if it is healthy, its replay queue is within 10 minutes of its lag,
/// and its copy queue is below 10.
#[test]
fn a_passive_must_be_healthy_and_close() {
    let minutes = Duration::from_mins;
    let lag = |lag, behind| {
        with(passive(2, "a"), |facts| {
            (facts.replay_lag, facts.replay_behind) = (minutes(lag), minutes(behind));
        })
    };
    let queue = |logs| with(passive(2, "a"), |facts| facts.copy_queue_logs = logs);
    let status = |status| copy(2, "a", status);
    for (passive, expected) in [
        (passive(2, "a"), vec![]),
        (status(CopyStatus::SeedingSource), vec![]),
        (status(CopyStatus::Suspended), vec![R::NotHealthy(CopyStatus::Suspended)]),
        (
            status(CopyStatus::DisconnectedAndHealthy),
            vec![R::NotHealthy(CopyStatus::DisconnectedAndHealthy)],
        ),
        (lag(0, 10), vec![]),
        (lag(0, 11), vec![R::ReplayBehind(minutes(11))]),
        (lag(60, 70), vec![]),
        (lag(60, 71), vec![R::ReplayBehind(minutes(11))]),
        (lag(60, 5), vec![]),
        (queue(9), vec![]),
        (queue(10), vec![R::CopyQueue(10)]),
    ] {
        let copy = Some(CopyId::from_u128(2));
        let reasons: Vec<_> =
            expected.into_iter().map(|reason| Objection { copy, reason }).collect();
        let expected = if reasons.is_empty() {
            Guarantee::Satisfied
        } else {
            Guarantee::NotSatisfied(reasons)
        };
        assert_eq!(ask(C::SecondCopy, &active(), &[passive]), expected);
    }
}

/// F108 Retry: a transient error prevented the check; only if the answer hangs on it.
#[test]
fn silence_means_retry_only_if_the_answer_hangs_on_it() {
    check(C::SecondCopy, &[silent(2, "a"), passive(3, "a")], Some(true));
    check(C::SecondCopy, &[silent(2, "a"), bad(3, "a")], None);
    check(C::AllCopies, &[silent(2, "a"), bad(3, "a")], Some(false));
    check(C::AllCopies, &[silent(2, "a"), passive(3, "a")], None);
    check(C::SecondDatacenter, &[silent(2, "a"), bad(3, "b")], Some(false));
    let nobody = silent(1, "a");
    assert_eq!(known(&ask(C::AllCopies, &nobody, &[passive(2, "a")])), None);
    let answer = ask(C::SecondCopy, &active(), &[silent(2, "a")]);
    let unknown = Objection { copy: Some(CopyId::from_u128(2)), reason: R::NoAnswer };
    assert_eq!(answer, Guarantee::Retry(vec![unknown]));
}

#[track_caller]
fn check_flush(passives: &[GuaranteeCopy], target: FlushTarget, expected: Option<bool>) {
    let active = active();
    let inputs = GuaranteeInputs { constraint: C::SecondCopy, active: &active, passives };
    assert_eq!(known(&flush(&inputs, target)), expected, "{target:?}");
}

/// F109, 13.1 (c): satisfied if the last *replayed* log is more than 5 s later than the caller's
/// commit; equality is not.
#[test]
fn flush_allows_five_seconds_of_skew() {
    for (commit_ms, expected) in
        [(94_999, true), (95_000, false), (95_001, false), (200_000, false), (0, true)]
    {
        let (written, later) = (HybridTime::from_unix_millis(commit_ms), Position::new(9, 0));
        let target = FlushTarget::Time { written, committed: later };
        check_flush(&[passive(2, "a")], target, Some(expected));
        // Nothing came later: whoever replayed everything has it.
        let target = FlushTarget::Time { written, committed: Position::new(1, 1_000) };
        check_flush(&[passive(2, "a")], target, Some(true));
    }
}

/// F109: with a commit token's position the answer is exact and needs no later frame.
#[test]
fn flush_by_position_is_exact() {
    for (offset, expected) in [(999, true), (1_000, true), (1_001, false)] {
        let target = FlushTarget::Position(Position::new(1, offset));
        check_flush(&[passive(2, "a")], target, Some(expected));
    }
}

/// F109: the flush check looks at what was replayed, not at health; silence is retried.
#[test]
fn flush_looks_at_replay_only() {
    let target = FlushTarget::Position(Position::new(1, 1_000));
    check_flush(&[bad(2, "a")], target, Some(true));
    check_flush(&[silent(2, "a")], target, None);
    let behind = with(passive(2, "a"), |facts| facts.replayed = Position::new(1, 1));
    check_flush(&[behind.clone(), silent(3, "a")], target, None);
    check_flush(std::slice::from_ref(&behind), target, Some(false));
    check_flush(&[], target, Some(true));
    check_flush(&[behind, passive(3, "a")], target, Some(true));
}

/// F113: caller's figures and bounds.
#[test]
fn pacing_has_the_models_figures_and_bounds() {
    let pacing = CallerPacing::default();
    assert_eq!(pacing.validate(), Ok(()));
    let figures = [
        (pacing.check_period, 5),
        (pacing.health_retry, 30),
        (pacing.requeue_after, 1_800),
        (pacing.retry_interval, 900),
        (pacing.max_wait, 86_400),
    ];
    assert!(figures.iter().all(|(value, seconds)| value.as_secs() == *seconds));
    let (hour, milli) = (Duration::from_hours(1), Duration::from_millis(1));
    for pacing in [
        CallerPacing { check_period: Duration::from_millis(999), ..pacing },
        CallerPacing { check_period: 2 * hour + milli, ..pacing },
        CallerPacing { max_wait: 7 * 24 * hour + milli, ..pacing },
    ] {
        let refused = pacing.validate().expect_err("out of bounds");
        assert_eq!(refused.reason, RefusalReason::BadArgument);
    }
}

/// F113: back-pressure: go on, stall and ask every 30 s, queue anew after 30 minutes, give up after
/// a day.
#[test]
fn a_writer_stalls_then_gives_its_turn_up() {
    let pacing = CallerPacing::default();
    let (no, minutes) = (Guarantee::NotSatisfied(Vec::new()), Duration::from_mins);
    for (answer, stalled, waited, expected) in [
        (Guarantee::Satisfied, 0, 9_999, CallerStep::Proceed(pacing.check_period)),
        (no.clone(), 0, 0, CallerStep::Stall(pacing.health_retry)),
        (Guarantee::Retry(Vec::new()), 29, 29, CallerStep::Stall(pacing.check_period)),
        (no.clone(), 29, 29, CallerStep::Stall(pacing.health_retry)),
        (no.clone(), 30, 30, CallerStep::Requeue(pacing.retry_interval)),
        (no, 5, 24 * 60, CallerStep::GiveUp),
    ] {
        assert_eq!(pacing.after_health(&answer, minutes(stalled), minutes(waited)), expected);
    }
}

fn end(counter: u64, offset: u64) -> LogEnd {
    LogEnd { epoch: Epoch::new(0, counter), position: Position::new(1, offset) }
}

fn receipt(counter: u64, kept: LogEnd) -> LossReceipt {
    LossReceipt::new(Epoch::new(0, counter), kept, &[], &crate::Verdict::Lossless, None)
}

#[test]
fn an_activation_that_never_opened_gave_nothing_up() {
    // Epoch 3 was to go on at 100 and never did; epoch 5 goes on at 900.
    let receipts = [receipt(3, end(1, 100)), receipt(5, end(1, 900))];
    let given_up = given_up(&receipts, &[Epoch::new(0, 5)]);
    assert_eq!(kept_of(&given_up, end(1, 800)), None, "kept by the one that opened");
    assert_eq!(kept_of(&given_up, end(1, 950)), Some(Position::new(1, 900)));
    assert_eq!(kept_of(&given_up, end(5, 950)), None, "the heir itself");
}

#[test]
fn without_the_active_nothing_is_known_to_be_given_up() {
    assert_eq!(given_up(&[receipt(3, end(1, 100))], &[]), Vec::new());
    let silent = GuaranteeCopy { facts: None, ..active() };
    let passives = [passive(2, "a"), passive(3, "a")];
    let inputs =
        GuaranteeInputs { constraint: C::SecondCopy, active: &silent, passives: &passives };
    let target = FlushTarget::Position(Position::ZERO);
    assert!(matches!(flush(&inputs, target), Guarantee::Retry(_)), "and it does not pass");
}

//! Changes of the commit rule: old AND new until recorded (R1).

use std::time::Duration;

use keelson_copy_core::{Action, Event, PeerCopy};
use keelson_types::{CommitConstraint, CommitRule, Position};

use crate::support::{Bench, assignment, at, copy, epoch, member, rule};

const SECOND: Duration = Duration::from_secs(1);

fn propose(expected_version: u64, rule: CommitRule) -> Action {
    Action::ProposeRule { epoch: epoch(2), expected_version, rule }
}

fn recorded(version: u64, rule: CommitRule) -> Event {
    Event::RuleRecorded { epoch: epoch(2), version, rule }
}

fn commit(position: Position) -> [Action; 2] {
    [Action::Commit(position), Action::ReplayTo(position)]
}

#[test]
fn a_dead_participant_is_dropped_at_once() {
    let mut bench = Bench::serving(2, &[1, 2]);
    assert_eq!(bench.dead(&[2]), [propose(1, rule(2, 0, &[0, 1]))]);
    bench.check(Event::Wake, &[]);
    bench.check(recorded(2, rule(2, 0, &[0, 1])), &[]);
    assert_eq!(bench.machine.view().rule, Some(rule(2, 0, &[0, 1])));
}

#[test]
fn until_the_change_is_recorded_old_and_new_are_required() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.dead(&[2]);
    bench.write(2, at(1, 200));
    assert_eq!(bench.acked(2, 2, at(1, 200)), [], "satisfies the old rule only");
    assert_eq!(bench.acked(1, 2, at(1, 200)), commit(at(1, 200)));
    bench.check(recorded(2, rule(2, 0, &[0, 1])), &[]);
    bench.write(2, at(1, 300));
    assert_eq!(bench.acked(2, 2, at(1, 300)), []);
    assert_eq!(bench.acked(1, 2, at(1, 300)), commit(at(1, 300)));
}

#[test]
fn a_change_waits_until_everything_acknowledged_satisfies_it() {
    // H1: P is durable on 0 and 2 only; dropping 2 must wait for 1.
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.write(2, at(1, 200));
    assert_eq!(bench.acked(2, 2, at(1, 200)), commit(at(1, 200)));
    assert_eq!(bench.dead(&[2]), []);
    assert_eq!(bench.acked(1, 2, at(1, 150)), []);
    assert_eq!(bench.acked(1, 2, at(1, 200)), [propose(1, rule(2, 0, &[0, 1]))]);
}

#[test]
fn a_silent_participant_is_dropped_after_the_patience_of_the_database() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.write(2, at(1, 200));
    bench.acked(1, 2, at(1, 200));
    assert_eq!(bench.machine.next_wake(), Some(bench.now.after(10 * SECOND)));
    bench.wait(9 * SECOND);
    bench.check(Event::Wake, &[]);
    bench.wait(SECOND);
    bench.check(Event::Wake, &[propose(1, rule(2, 0, &[0, 1]))]);
    assert_eq!(bench.machine.next_wake(), None, "the outcome is waited for, not the clock");
}

#[test]
fn progress_renews_the_patience() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.write(2, at(1, 200));
    bench.acked(1, 2, at(1, 200));
    bench.wait(9 * SECOND);
    bench.acked(2, 2, at(1, 150));
    bench.wait(9 * SECOND);
    bench.check(Event::Wake, &[]);
    bench.wait(SECOND);
    bench.check(Event::Wake, &[propose(1, rule(2, 0, &[0, 1]))]);
}

#[test]
fn without_patience_writes_block_for_ever() {
    let mut bench = Bench::serving(2, &[1, 2]);
    let mut patient = assignment(epoch(2), Some(0));
    patient.degrade_after = None;
    bench.step(Event::Assigned(patient));
    bench.write(2, at(1, 200));
    bench.wait(100 * SECOND);
    bench.check(Event::Wake, &[]);
    assert_eq!(bench.machine.next_wake(), None);
}

#[test]
fn the_last_other_participant_dropped_leaves_the_active_degraded() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.dead(&[1, 2]);
    bench.step(recorded(2, rule(2, 0, &[0])));
    assert!(bench.machine.view().degraded);
    assert_eq!(bench.write(2, at(1, 200)), commit(at(1, 200)));
}

#[test]
fn a_copy_is_admitted_again_when_it_is_close_and_counts_before_it_is_recorded() {
    let mut bench = Bench::serving(2, &[1]);
    bench.dead(&[2]);
    bench.step(recorded(2, rule(2, 0, &[0, 1])));
    bench.dead(&[]);
    bench.step(Event::PeerUp { member: member(2) });
    bench.opened(2, 2, Position::ZERO);
    // Within one log: the change begins, and both rules hold from here on.
    let proposed = bench.acked(2, 2, at(1, 40));
    assert_eq!(proposed, [propose(2, rule(3, 0, &[0, 1, 2]))]);
    bench.write(2, at(1, 200));
    assert_eq!(bench.acked(2, 2, at(1, 200)), [], "the old rule asks for copy 1");
    assert_eq!(bench.acked(1, 2, at(1, 200)), commit(at(1, 200)));
    bench.step(recorded(3, rule(3, 0, &[0, 1, 2])));
    bench.write(2, at(1, 300));
    assert_eq!(bench.acked(2, 2, at(1, 300)), commit(at(1, 300)));
}

#[test]
fn under_all_copies_admission_waits_for_what_was_acknowledged_alone() {
    // H9: admitted one frame too early, the copy would count for a frame it does not have.
    let mut bench = Bench::serving(2, &[1]);
    let mut all = assignment(epoch(2), Some(0));
    all.constraint = CommitConstraint::AllCopies;
    let all_copies = |version, copies: &[u128]| CommitRule {
        constraint: CommitConstraint::AllCopies,
        ..rule(version, 0, copies)
    };
    bench.dead(&[2]);
    bench.step(recorded(2, rule(2, 0, &[0, 1])));
    let actions = bench.step(Event::Assigned(all));
    assert_eq!(actions, [propose(2, all_copies(3, &[0, 1]))]);
    bench.step(recorded(3, all_copies(3, &[0, 1])));
    bench.dead(&[]);
    bench.step(Event::PeerUp { member: member(2) });
    bench.opened(2, 2, Position::ZERO);
    assert_eq!(bench.acked(2, 2, at(1, 99)), [], "one frame is missing");
    assert_eq!(bench.acked(2, 2, at(1, 100)), [propose(3, all_copies(4, &[0, 1, 2]))]);
}

#[test]
fn a_change_that_is_not_wanted_any_more_is_abandoned_before_it_is_proposed() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.write(2, at(1, 200));
    bench.acked(2, 2, at(1, 200));
    assert_eq!(bench.dead(&[2]), [], "waits for copy 1");
    assert_eq!(bench.dead(&[]), []);
    assert_eq!(bench.acked(1, 2, at(1, 200)), [], "nothing to propose");
    bench.write(2, at(1, 300));
    assert_eq!(bench.acked(2, 2, at(1, 300)), commit(at(1, 300)), "the old rule alone");
}

#[test]
fn a_proposed_change_is_not_abandoned() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.dead(&[2]);
    bench.check(Event::MembersDead([].into()), &[]);
    bench.write(2, at(1, 200));
    assert_eq!(bench.acked(2, 2, at(1, 200)), [], "it may be recorded by now");
    // Once it is known to be recorded, the way back is a change of its own.
    let actions = bench.step(recorded(2, rule(2, 0, &[0, 1])));
    assert_eq!(actions, [propose(2, rule(3, 0, &[0, 1, 2]))]);
    assert_eq!(bench.acked(1, 2, at(1, 200)), commit(at(1, 200)));
}

#[test]
fn a_refused_proposal_ends_and_the_old_rule_goes_on_alone() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.dead(&[2]);
    bench.write(2, at(1, 200));
    bench.acked(2, 2, at(1, 200));
    bench.step(Event::MembersDead([].into()));
    let actions = bench.step(recorded(2, rule(1, 0, &[0, 1, 2])));
    assert_eq!(actions, commit(at(1, 200)));
}

#[test]
fn a_refused_proposal_that_is_still_wanted_is_made_anew() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.dead(&[2]);
    let again = [propose(1, rule(2, 0, &[0, 1]))];
    bench.check(recorded(2, rule(1, 0, &[0, 1, 2])), &again);
}

#[test]
fn the_late_outcome_of_an_earlier_proposal_does_not_end_the_present_one() {
    let mut bench = Bench::serving(2, &[1]);
    bench.dead(&[1, 2]);
    let mut news = assignment(epoch(2), Some(0));
    news.rule = Some(rule(2, 0, &[0]));
    bench.step(Event::Assigned(news));
    // Copy 1 is admitted: it counts from the proposal on.
    assert_eq!(bench.dead(&[2]), [propose(2, rule(3, 0, &[0, 1]))]);
    bench.check(recorded(2, rule(2, 0, &[0])), &[]);
    assert_eq!(bench.write(2, at(1, 200)), [], "the proposal may be recorded by now");
    assert_eq!(bench.acked(1, 2, at(1, 200)), commit(at(1, 200)));
}

#[test]
fn news_of_the_old_rule_does_not_end_a_proposal() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.dead(&[2]);
    let mut news = assignment(epoch(2), Some(0));
    news.rule = Some(rule(1, 0, &[0, 1, 2]));
    bench.check(Event::Assigned(news), &[]);
    bench.write(2, at(1, 200));
    assert_eq!(bench.acked(2, 2, at(1, 200)), []);
}

#[test]
fn an_outcome_of_another_epoch_is_ignored() {
    let mut bench = Bench::serving(2, &[1, 2]);
    bench.dead(&[2]);
    let other = Event::RuleRecorded { epoch: epoch(1), version: 2, rule: rule(2, 0, &[0]) };
    bench.check(other, &[]);
    assert_eq!(bench.machine.view().rule, Some(rule(1, 0, &[0, 1, 2])));
}

#[test]
fn a_copy_that_may_not_count_is_dropped_and_never_admitted() {
    let mut bench = Bench::serving(2, &[1, 2]);
    let mut news = assignment(epoch(2), Some(0));
    news.copies[2] = PeerCopy { may_count: false, ..news.copies[2].clone() };
    bench.check(Event::Assigned(news), &[propose(1, rule(2, 0, &[0, 1]))]);
    bench.check(recorded(2, rule(2, 0, &[0, 1])), &[]);
    bench.write(2, at(1, 200));
    assert_eq!(bench.acked(2, 2, at(1, 200)), []);
}

#[test]
fn a_slow_copy_under_admission_does_not_block_writes_for_ever() {
    let mut bench = Bench::serving(2, &[1, 2]);
    let mut all = assignment(epoch(2), Some(0));
    all.constraint = CommitConstraint::AllCopies;
    bench.dead(&[2]);
    bench.step(recorded(2, rule(2, 0, &[0, 1])));
    bench.write(2, at(1, 200));
    bench.acked(1, 2, at(1, 200));
    bench.step(Event::Assigned(all));
    let all_copies = CommitRule { constraint: CommitConstraint::AllCopies, ..rule(3, 0, &[0, 1]) };
    bench.step(recorded(3, all_copies.clone()));
    bench.dead(&[]);
    // Copy 2 is close, so that its admission begins, and then never acknowledges again.
    bench.write(2, at(1, 300));
    assert_eq!(bench.acked(1, 2, at(1, 300)), [], "held up by the admission of copy 2");
    bench.wait(10 * SECOND);
    bench.check(Event::Wake, &commit(at(1, 300)));
    assert_eq!(bench.machine.view().rule, Some(all_copies));
    assert!(bench.machine.view().peers.iter().any(|peer| peer.copy == copy(2)));
}

#[test]
fn before_the_opening_frame_is_committed_a_dead_participant_is_dropped_too() {
    let mut bench = Bench::active(2, &[1, 2]);
    assert_eq!(bench.dead(&[1, 2]), [propose(1, rule(2, 0, &[0]))]);
    let expected = [
        Action::Commit(at(1, 100)),
        Action::Established { epoch: epoch(2) },
        Action::ReplayTo(at(1, 100)),
    ];
    bench.check(recorded(2, rule(2, 0, &[0])), &expected);
}

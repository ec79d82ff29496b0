//! The ceiling of an active that acknowledges alone: nothing is committed behind it (G3).

use keelson_copy_core::{Action, Assignment, Event, MountOrder, RecordedCeiling};
use keelson_types::{
    CEILING_AHEAD_BYTES, Ceiling, CommitConstraint, CommitRule, EpochStart, LogEnd, Position,
};

use crate::support::{Bench, assignment, at, copy, epoch, order, rule};

const AHEAD: u64 = CEILING_AHEAD_BYTES;

fn none_rule() -> CommitRule {
    CommitRule { constraint: CommitConstraint::None, ..rule(1, 0, &[0, 1, 2]) }
}

fn told(bounded: bool, ceiling: RecordedCeiling) -> Event {
    let constraint = CommitConstraint::None;
    let rule = Some(none_rule());
    Event::Assigned(Assignment {
        bounded,
        ceiling,
        rule,
        constraint,
        ..assignment(epoch(1), Some(0))
    })
}

fn durable(position: Position) -> [Event; 2] {
    let end = LogEnd { epoch: epoch(1), position };
    [Event::Appended { end: position }, Event::Logged { end }]
}

/// Copy 0 is active in epoch 1 with constraint `none`; its opening frame ends at 1:100.
fn active(bounded: bool, ceiling: Option<Ceiling>) -> (Bench, Vec<Action>) {
    let mut bench = Bench::empty();
    bench.step(Event::Assigned(assignment(epoch(1), None)));
    bench.seal(1);
    let order = MountOrder { ceiling, rule: none_rule(), ..order(1, LogEnd::ZERO, &[]) };
    bench.settle(Event::Mount { request: 1, order });
    bench.step(told(bounded, RecordedCeiling::default()));
    let start = EpochStart { epoch: epoch(1), previous_end: Position::ZERO, chain: 1 };
    let mut actions = bench.settle(Event::EpochBegun { start, end: at(1, 100) });
    actions.extend(
        bench.settle(Event::Logged { end: LogEnd { epoch: epoch(1), position: at(1, 100) } }),
    );
    (bench, actions)
}

fn commits(actions: &[Action]) -> Vec<Position> {
    let commits = actions.iter().filter_map(|action| match action {
        Action::Commit(to) => Some(*to),
        _ => None,
    });
    commits.collect()
}

fn proposed(actions: &[Action]) -> Vec<RecordedCeiling> {
    let proposed = actions.iter().filter_map(|action| match action {
        Action::ProposeCeiling { proposal, .. } => Some(*proposal),
        _ => None,
    });
    proposed.collect()
}

fn write(bench: &mut Bench, position: Position) -> Vec<Action> {
    durable(position).into_iter().flat_map(|event| bench.settle(event)).collect()
}

fn first() -> Ceiling {
    Ceiling::first(LogEnd::ZERO)
}

fn raised(position: Position) -> Ceiling {
    let border = LogEnd { epoch: epoch(1), position };
    Ceiling { border, previous_end: Some(0), ahead_bytes: AHEAD }
}

/// The ceiling is raised before it is reached, and commits wait where it is not.
#[test]
fn nothing_is_committed_behind_the_ceiling() {
    let (mut bench, actions) = active(true, Some(first()));
    assert_eq!((commits(&actions), proposed(&actions)), (vec![at(1, 100)], vec![]));
    let half = AHEAD / 2 + 1;
    let actions = write(&mut bench, at(1, half));
    assert_eq!(commits(&actions), [at(1, half)]);
    let asked = RecordedCeiling { number: 1, ceiling: Some(raised(at(1, half))) };
    assert_eq!(proposed(&actions), [asked]);
    let actions = write(&mut bench, at(1, AHEAD));
    assert_eq!(
        (commits(&actions), proposed(&actions)),
        (vec![at(1, AHEAD)], vec![]),
        "one at a time"
    );
    let actions = write(&mut bench, at(1, AHEAD + 1));
    assert_eq!(commits(&actions), [], "beyond it");
    // The outcome is known: up to here it may go.
    let actions = bench.settle(told(true, asked));
    assert_eq!(commits(&actions), [at(1, AHEAD + 1)]);
}

/// However far the log is ahead: what was durable when it was asked for is committed at least.
#[test]
fn a_log_far_beyond_its_ceiling_goes_on_step_by_step() {
    let (mut bench, _) = active(true, Some(first()));
    let actions = write(&mut bench, at(1, 3 * AHEAD));
    assert_eq!(commits(&actions), []);
    let asked = proposed(&actions);
    assert_eq!(asked[0].ceiling, Some(raised(at(1, 3 * AHEAD))));
    assert_eq!(commits(&write(&mut bench, at(1, 9 * AHEAD))), []);
    let actions = bench.settle(told(true, asked[0]));
    assert_eq!(commits(&actions), [at(1, 3 * AHEAD)]);
    let next = proposed(&actions);
    assert_eq!(next, [RecordedCeiling { number: 2, ceiling: Some(raised(at(1, 9 * AHEAD))) }]);
    // What is said of the earlier proposal says nothing of this one.
    assert_eq!(commits(&bench.settle(told(true, asked[0]))), []);
    assert_eq!(commits(&bench.settle(told(true, next[0]))), [at(1, 9 * AHEAD)]);
}

/// Bytes cannot be counted across the end of a generation: a new one needs a new ceiling, which
/// knows where the old one ended.
#[test]
fn a_new_generation_asks_for_a_ceiling_of_its_own() {
    let (mut bench, _) = active(true, Some(first()));
    write(&mut bench, at(1, 500));
    let actions = write(&mut bench, at(2, 80));
    assert_eq!(commits(&actions), []);
    let border = LogEnd { epoch: epoch(1), position: at(2, 80) };
    let ceiling = Ceiling { border, previous_end: Some(500), ahead_bytes: AHEAD };
    let asked = RecordedCeiling { number: 1, ceiling: Some(ceiling) };
    assert_eq!(proposed(&actions), [asked]);
    assert_eq!(commits(&bench.settle(told(true, asked))), [at(2, 80)]);
}

/// Nobody asks for a ceiling: none is kept. When somebody does, it holds at once; when nobody does
/// any more, it holds until consensus knows.
#[test]
fn a_ceiling_is_set_and_given_up_safely() {
    let (mut bench, actions) = active(false, None);
    assert_eq!(proposed(&actions), []);
    assert_eq!(commits(&write(&mut bench, at(1, 9 * AHEAD))), [at(1, 9 * AHEAD)]);
    let asked = proposed(&bench.settle(told(true, RecordedCeiling::default())));
    assert_eq!(asked[0].ceiling, Some(raised(at(1, 9 * AHEAD))));
    assert_eq!(commits(&write(&mut bench, at(1, 10 * AHEAD + 1))), [], "it holds already");
    let actions = bench.settle(told(false, asked[0]));
    let none = RecordedCeiling { number: 2, ceiling: None };
    assert_eq!((commits(&actions), proposed(&actions)), (vec![], vec![none]));
    assert_eq!(commits(&bench.settle(told(false, none))), [at(1, 10 * AHEAD + 1)]);
}

/// Where other copies have to hold what is committed the loss is not bounded by a ceiling: it is
/// given up.
#[test]
fn an_active_that_does_not_acknowledge_alone_keeps_no_ceiling() {
    let (mut bench, _) = active(true, Some(first()));
    let rule = CommitRule { constraint: CommitConstraint::SecondCopy, ..rule(2, 0, &[0, 1, 2]) };
    let constraint = CommitConstraint::SecondCopy;
    let second = |ceiling| {
        let rule = Some(rule.clone());
        Event::Assigned(Assignment {
            bounded: true,
            ceiling,
            rule,
            constraint,
            ..assignment(epoch(1), Some(0))
        })
    };
    let asked = proposed(&bench.settle(second(RecordedCeiling::default())));
    assert_eq!(asked, [RecordedCeiling { number: 1, ceiling: None }]);
    write(&mut bench, at(1, 3 * AHEAD));
    let acked = Event::Acked { copy: copy(1), epoch: epoch(1), durable: at(1, 3 * AHEAD) };
    assert_eq!(commits(&bench.settle(acked)), [], "still in force");
    assert_eq!(commits(&bench.settle(second(asked[0]))), [at(1, 3 * AHEAD)]);
}

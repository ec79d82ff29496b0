//! Histories of registers and the question whether one order explains them.
//!
//! The search is the published algorithm of Wing and Gong with Lowe's cache, from the crate
//! `todc-utils`. A write whose outcome is unknown may have happened at any time after it was asked
//! for, also after everything else: its answer is put at the end. A read without an answer says
//! nothing and is left out.

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

/// An operation on a register; 0 is a register that was never written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Read(u64),
    Write(u64),
}

struct Register;

impl Specification for Register {
    type State = u64;
    type Operation = Operation;

    fn init() -> u64 {
        0
    }

    fn apply(operation: &Operation, state: &u64) -> (bool, u64) {
        match operation {
            Operation::Read(value) => (value == state, *state),
            Operation::Write(value) => (true, *value),
        }
    }
}

/// What happened to one register, in the order in which this process saw it.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    /// Number of the operation, and what it is: asked first, answered later.
    events: Vec<(usize, Event)>,
    operations: usize,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Asked(Operation),
    Answered(Operation),
}

impl Recorded {
    pub(super) fn len(&self) -> usize {
        self.operations
    }

    /// An operation begins; gives its number.
    pub(super) fn asked(&mut self, operation: Operation) -> usize {
        let number = self.operations;
        self.operations += 1;
        self.events.push((number, Event::Asked(operation)));
        number
    }

    /// It was answered; a read with what it saw.
    pub(super) fn answered(&mut self, number: usize, operation: Operation) {
        self.events.push((number, Event::Answered(operation)));
    }

    /// Whether one order of the operations, in keeping with the order in time, explains all
    /// answers.
    pub(super) fn is_linearizable(&self) -> bool {
        let answered = |number: usize| {
            let mut events = self.events.iter();
            events.any(|(of, event)| *of == number && matches!(event, Event::Answered(_)))
        };
        let mut actions = Vec::with_capacity(self.events.len() + 1);
        let mut open = Vec::new();
        for (number, event) in &self.events {
            match event {
                Event::Asked(Operation::Read(_)) if !answered(*number) => {}
                Event::Asked(operation) => {
                    actions.push((*number, Action::Call(*operation)));
                    if !answered(*number) {
                        open.push((*number, Action::Response(*operation)));
                    }
                }
                Event::Answered(operation) => {
                    actions.push((*number, Action::Response(*operation)));
                }
            }
        }
        actions.extend(open);
        actions.is_empty()
            || WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
    }
}

#[cfg(test)]
mod tests {
    use super::Operation::{Read, Write};
    use super::*;

    /// A history from pairs: number, and the answer, or what was asked for with `None`.
    fn check(events: &[(usize, Operation, bool)], expected: bool) {
        let mut recorded = Recorded::default();
        for (number, operation, answer) in events {
            match answer {
                false => assert_eq!(recorded.asked(*operation), *number),
                true => recorded.answered(*number, *operation),
            }
        }
        assert_eq!(recorded.is_linearizable(), expected, "{events:?}");
    }

    #[test]
    fn a_stale_read_is_found_and_an_overlapping_one_is_not_one() {
        let written = [(0, Write(1), false), (0, Write(1), true)];
        let stale = [(1, Read(0), false), (1, Read(0), true)];
        check(&[written, stale].concat(), false);
        check(&[written[0], stale[0], stale[1], written[1]], true);
        check(&[], true);
    }

    #[test]
    fn an_unknown_write_may_have_happened_later_or_never_but_not_twice() {
        let unknown = (0, Write(1), false);
        let read = |number, value| [(number, Read(value), false), (number, Read(value), true)];
        check(&[&[unknown][..], &read(1, 0), &read(2, 1)].concat(), true);
        check(&[&[unknown][..], &read(1, 0), &read(2, 0)].concat(), true);
        let other = [(1, Write(2), false), (1, Write(2), true)];
        let twice = [&read(2, 1)[..], &[(3, Write(3), false), (3, Write(3), true)], &read(4, 1)];
        check(&[&[unknown][..], &other, &twice.concat()].concat(), false);
    }

    #[test]
    fn a_read_without_an_answer_says_nothing() {
        check(&[(0, Read(0), false), (1, Write(1), false), (1, Write(1), true)], true);
    }
}

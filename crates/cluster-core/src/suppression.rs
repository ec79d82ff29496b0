//! Move suppression: a database that is moved by failures again and again is not moved on purpose,
//! too (F35, review L6).
//!
//! What counts are activations that nobody asked for, within a window. While they are too many, a
//! switchover by an operator is refused unless its flag skips the check, and the moves of the
//! system (to a preferred copy, away from a member, redistribution) leave the database alone. It
//! ends by itself, when enough of them are older than the window. A failover is never suppressed:
//! where no copy serves, the next one is activated whatever happened before.

use keelson_types::{DatabaseId, Setting};

use crate::decision::ActivationReason;
use crate::event::EventKind;
use crate::state::ClusterState;

/// How often a database was moved by failures, and what follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suppression {
    /// Moves within the window.
    pub moves: usize,
    /// So many are too many; nothing if no number is.
    pub most: Option<usize>,
    /// While it is suppressed: when it ends if nothing more happens, in Unix milliseconds.
    pub until_unix_ms: Option<u64>,
}

/// Whether a move is one of those that are counted: nobody asked for it.
const fn by_itself(reason: &ActivationReason) -> bool {
    !matches!(
        reason,
        ActivationReason::NewDatabase
            | ActivationReason::Mount
            | ActivationReason::Switchover { .. }
            | ActivationReason::PointInTime { .. }
    )
}

/// The moves of a database as the events tell them, which go back far enough unless the ring of
/// events runs over within the window; then fewer are counted.
#[must_use]
pub fn suppression(state: &ClusterState, database: DatabaseId, now_unix_ms: u64) -> Suppression {
    let window = state.settings.number(Setting::MoveSuppressionWindow);
    let since = now_unix_ms.saturating_sub(window);
    let events = state.events.iter().rev().take_while(|event| event.unix_ms > since);
    let moved = events.filter(|event| {
        event.database == Some(database)
            && matches!(&event.kind, EventKind::Activated { reason, .. } if by_itself(reason))
    });
    // Newest first.
    let times: Vec<_> = moved.map(|event| event.unix_ms).collect();
    let most = state.settings.number(Setting::MoveSuppressionMoves);
    let most = usize::try_from(most).ok().filter(|most| *most > 0);
    // It ends when the one goes that makes them as many as are too many.
    let last = most.and_then(|most| times.get(most - 1));
    let until_unix_ms = last.map(|at| at.saturating_add(window));
    Suppression { moves: times.len(), most, until_unix_ms }
}

#[cfg(test)]
mod tests {
    use keelson_types::{Epoch, MemberId};

    use super::*;
    use crate::event::Event;
    use crate::testing::{DB, copy, member};

    const WINDOW: u64 = 600_000;

    fn moved(unix_ms: u64, database: DatabaseId, reason: ActivationReason) -> Event {
        let kind = EventKind::Activated { epoch: Epoch::new(0, 1), target: copy(1), reason };
        let member: Option<MemberId> = Some(member(1));
        Event { index: 1, unix_ms, member, database: Some(database), kind }
    }

    /// Moves by failures at these times, with two that count not.
    fn state(times: &[u64]) -> ClusterState {
        let mut state = ClusterState::default();
        for unix_ms in times {
            state.events.push(moved(*unix_ms, DB, ActivationReason::Wedged));
            let asked = ActivationReason::Switchover { to: member(2) };
            state.events.push(moved(*unix_ms, DB, asked));
            let other = DatabaseId::from_u128(77);
            state.events.push(moved(*unix_ms, other, ActivationReason::Wedged));
        }
        state
    }

    /// F35: five moves in ten minutes are too many; it ends when the fifth last is old.
    #[test]
    fn too_many_moves_by_failures_suppress_others_until_they_are_old() {
        let five = [0, 100_000, 200_000, 300_000, 400_000];
        let six = [0, 100_000, 200_000, 300_000, 400_000, 500_000];
        for (times, now, moves, until) in [
            (&five[..4], 400_000, 4, None),
            (&five[..], 400_000, 5, Some(WINDOW)),
            (&five[..], WINDOW - 1, 5, Some(WINDOW)),
            (&five[..], WINDOW, 4, None),
            (&six[..], 500_000, 6, Some(100_000 + WINDOW)),
            (&six[..], 100_000 + WINDOW, 4, None),
        ] {
            // Events begin some time after the epoch of the clock.
            let start = 1_700_000_000_000;
            let times: Vec<_> = times.iter().map(|at| start + at).collect();
            let found = suppression(&state(&times), DB, start + now);
            let until_unix_ms = until.map(|at| start + at);
            assert_eq!(found, Suppression { moves, most: Some(5), until_unix_ms }, "at {now}");
        }
    }

    #[test]
    fn a_bound_of_zero_suppresses_nothing() {
        let mut state = state(&[1_000_000; 50]);
        let (setting, none) = (Setting::MoveSuppressionMoves, Some(0));
        state.settings = state.settings.with(setting, none).expect("in bounds");
        let found = suppression(&state, DB, 1_000_001);
        assert_eq!((found.moves, found.most, found.until_unix_ms), (50, None, None));
    }
}

//! Move suppression: a database that is moved by failures again and again is not moved on purpose,
//! too (F35, review L6).
//!
//! What counts are activations that nobody asked for, within a window. While they are too many, a
//! switchover by an operator is refused unless its flag skips the check, and the moves of the
//! system (to a preferred copy, away from a member, redistribution) leave the database alone. It
//! ends by itself, when enough of them are older than the window. A failover is never suppressed:
//! where no copy serves, the next one is activated whatever happened before.
//!
//! Death certificates are counted apart, with the same mechanism (design §6): a process that dies
//! again and again takes its databases around the cluster, and mostly it is back in a moment. One
//! that certificates moved too often waits for it, for `certificate_patience`; if the process does
//! not come back by then, or cannot open the copy (a crash loop), any other copy is taken.

use keelson_types::{CopyId, DatabaseId, Setting};

use crate::decision::ActivationReason;
use crate::event::{Event, EventKind};
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
    let limits = (Setting::MoveSuppressionMoves, Setting::MoveSuppressionWindow);
    let failed = |activation: &Activation<'_>| by_itself(activation.reason);
    counted(state, database, limits, now_unix_ms, failed)
}

/// The moves of a database from one member to another by death certificates. While they are too
/// many the next certificate moves it only if its process does not come back.
#[must_use]
pub fn certificates(state: &ClusterState, database: DatabaseId, now_unix_ms: u64) -> Suppression {
    let limits = (Setting::CertificateMoves, Setting::CertificateWindow);
    let moved = |activation: &Activation<'_>| {
        *activation.reason == ActivationReason::DeathCertified
            && activation.before != Some(activation.target)
    };
    counted(state, database, limits, now_unix_ms, moved)
}

/// An activation, as its event tells of it.
struct Activation<'a> {
    reason: &'a ActivationReason,
    target: CopyId,
    /// The copy that was activated before, if the events go back so far.
    before: Option<CopyId>,
    unix_ms: u64,
}

/// All activations of a database that are remembered, newest first.
fn activations(
    state: &ClusterState,
    database: DatabaseId,
) -> impl Iterator<Item = Activation<'_>> + '_ {
    let of_database = move |event: &&Event| event.database == Some(database);
    let events = state.events.iter().rev().filter(of_database);
    let mut found = events.filter_map(|event| match &event.kind {
        EventKind::Activated { reason, target, .. } => {
            Some(Activation { reason, target: *target, before: None, unix_ms: event.unix_ms })
        }
        _ => None,
    });
    let mut next = found.next();
    std::iter::from_fn(move || {
        let newest = next.take()?;
        next = found.next();
        Some(Activation { before: next.as_ref().map(|older| older.target), ..newest })
    })
}

fn counted(
    state: &ClusterState,
    database: DatabaseId,
    (moves, window): (Setting, Setting),
    now_unix_ms: u64,
    counts: impl Fn(&Activation<'_>) -> bool,
) -> Suppression {
    let window = state.settings.number(window);
    let since = now_unix_ms.saturating_sub(window);
    let recent = activations(state, database).take_while(|one| one.unix_ms > since);
    // Newest first.
    let times: Vec<_> = recent.filter(|one| counts(one)).map(|one| one.unix_ms).collect();
    let most = state.settings.number(moves);
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

    /// Design §6: twice in five minutes; an activation of the same copy is no move, and neither is
    /// one for another reason.
    #[test]
    fn certificates_move_a_database_twice_in_five_minutes() {
        let start = 1_700_000_000_000;
        let died = ActivationReason::DeathCertified;
        let steps = [
            (0, 1, ActivationReason::NewDatabase),
            (1_000, 2, died.clone()),
            (2_000, 2, died.clone()),
            (3_000, 1, ActivationReason::LeaseExpired),
            (4_000, 3, died),
        ];
        let activated = |(at, target, reason): &(u64, u128, ActivationReason)| {
            let target = copy(*target);
            let kind =
                EventKind::Activated { epoch: Epoch::new(0, 1), target, reason: reason.clone() };
            Event { index: 1, unix_ms: start + at, member: None, database: Some(DB), kind }
        };
        for (known, now, moves, until) in [
            (2, 1_000, 1, None),
            (3, 2_000, 1, None),
            (5, 4_000, 2, Some(1_000 + 300_000)),
            (5, 300_999, 2, Some(1_000 + 300_000)),
            (5, 301_000, 1, None),
        ] {
            let mut state = ClusterState::default();
            steps[..known].iter().map(activated).for_each(|event| state.events.push(event));
            let found = certificates(&state, DB, start + now);
            let until_unix_ms = until.map(|at| start + at);
            assert_eq!(found, Suppression { moves, most: Some(2), until_unix_ms }, "at {now}");
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

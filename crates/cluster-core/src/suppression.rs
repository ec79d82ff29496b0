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

use keelson_types::{ClusterSettings, MemberId, Setting};

use crate::decision::ActivationReason;
use crate::state::{Database, EpochRecord};

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

/// The moves of a database by failures, as its own history of epochs tells them. A database with
/// more attempts within the window than the history has rows is counted short.
#[must_use]
pub fn suppression(settings: &ClusterSettings, database: &Database, now_ms: u64) -> Suppression {
    let limits = (Setting::MoveSuppressionMoves, Setting::MoveSuppressionWindow);
    let times = bound(database).filter(|(row, _)| by_itself(&row.reason));
    counted(settings, limits, now_ms, times.map(|(row, _)| row.bound_unix_ms))
}

/// The moves of a database from one member to another by death certificates. While they are too
/// many the next certificate moves it only if its process does not come back.
#[must_use]
pub fn certificates(settings: &ClusterSettings, database: &Database, now_ms: u64) -> Suppression {
    let limits = (Setting::CertificateMoves, Setting::CertificateWindow);
    let moved = |(row, before): &(&EpochRecord, Option<MemberId>)| {
        row.reason == ActivationReason::DeathCertified && *before != row.target
    };
    let times = bound(database).filter(moved);
    counted(settings, limits, now_ms, times.map(|(row, _)| row.bound_unix_ms))
}

/// The epochs of a database that got a target, newest first, each with the target before it, if
/// the history goes back so far.
fn bound(database: &Database) -> impl Iterator<Item = (&EpochRecord, Option<MemberId>)> {
    let mut rows = database.history.iter().rev().filter(|row| row.target.is_some()).peekable();
    std::iter::from_fn(move || {
        let row = rows.next()?;
        Some((row, rows.peek().and_then(|before| before.target)))
    })
}

/// `times` are those of the moves, newest first.
fn counted(
    settings: &ClusterSettings,
    (moves, window): (Setting, Setting),
    now_unix_ms: u64,
    times: impl Iterator<Item = u64>,
) -> Suppression {
    let window = settings.number(window);
    let since = now_unix_ms.saturating_sub(window);
    let times: Vec<_> = times.take_while(|time| *time > since).collect();
    let most = usize::try_from(settings.number(moves)).ok().filter(|most| *most > 0);
    // It ends when the one goes that makes them as many as are too many.
    let last = most.and_then(|most| times.get(most - 1));
    let until_unix_ms = last.map(|at| at.saturating_add(window));
    Suppression { moves: times.len(), most, until_unix_ms }
}

#[cfg(test)]
mod tests {
    use keelson_types::Epoch;

    use super::*;
    use crate::apply::tests::three_copies;
    use crate::testing::{DB, member};

    const WINDOW: u64 = 600_000;

    /// A database with these activations: time, number of the member, reason.
    fn database(steps: &[(u64, u128, ActivationReason)]) -> Database {
        let mut database = three_copies().state.databases[&DB].clone();
        for (bound_unix_ms, target, reason) in steps {
            let (target, reason) = (Some(member(*target)), reason.clone());
            let (epoch, index) = (Epoch::new(0, 1), 1);
            database.history.push(EpochRecord {
                epoch,
                target,
                reason,
                index,
                bound_unix_ms: *bound_unix_ms,
            });
        }
        database
    }

    /// Moves by failures at these times, each with one that was asked for.
    fn failing(times: &[u64]) -> Database {
        let asked = ActivationReason::Switchover { to: member(2) };
        let steps = times
            .iter()
            .flat_map(|at| [(*at, 1, ActivationReason::Wedged), (*at, 2, asked.clone())]);
        database(&steps.collect::<Vec<_>>())
    }

    fn settings() -> ClusterSettings {
        ClusterSettings::default()
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
            let found = suppression(&settings(), &failing(&times), start + now);
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
            (start, 1, ActivationReason::NewDatabase),
            (start + 1_000, 2, died.clone()),
            (start + 2_000, 2, died.clone()),
            (start + 3_000, 1, ActivationReason::LeaseExpired),
            (start + 4_000, 3, died),
        ];
        for (known, now, moves, until) in [
            (2, 1_000, 1, None),
            (3, 2_000, 1, None),
            (5, 4_000, 2, Some(1_000 + 300_000)),
            (5, 300_999, 2, Some(1_000 + 300_000)),
            (5, 301_000, 1, None),
        ] {
            let found = certificates(&settings(), &database(&steps[..known]), start + now);
            let until_unix_ms = until.map(|at| start + at);
            assert_eq!(found, Suppression { moves, most: Some(2), until_unix_ms }, "at {now}");
        }
    }

    #[test]
    fn a_bound_of_zero_suppresses_nothing() {
        let (setting, none) = (Setting::MoveSuppressionMoves, Some(0));
        let settings = settings().with(setting, none).expect("in bounds");
        let found = suppression(&settings, &failing(&[1_000_000; 30]), 1_000_001);
        assert_eq!((found.moves, found.most, found.until_unix_ms), (30, None, None));
    }
}

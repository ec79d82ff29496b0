//! Moves at an appointed time (`switchover --at`): when one is due, and when it is too late for it.
//!
//! A scheduled move is an operation that waits. When its time has come the leader checks it like
//! any other move and begins that as an operation of its own, whose id follows from this one's: so
//! a leader that goes on where another ended begins nothing twice. The appointment is by the wall
//! clock, which is what the operator's is. One that nobody could keep, because there was no leader,
//! is dropped rather than kept hours later.

use std::time::Duration;

use keelson_types::{DatabaseId, MemberId, OperationId, RefusalReason, Refused};
use serde::{Deserialize, Serialize};

use crate::operation::{MoveOptions, Operation, OperationKind};
use crate::state::ClusterState;

/// Longest time until an appointment: 365 days.
pub const SCHEDULE_MAX: Duration = Duration::from_hours(365 * 24);
/// A move is dropped if it could not begin within so long.
const LATE_MAX_MS: u64 = 15 * 60 * 1_000;

/// A move that waits for its time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScheduledMove {
    /// The database.
    pub database: DatabaseId,
    /// Where to; nothing for the best copy at that time.
    pub to: Option<MemberId>,
    /// When, in Unix milliseconds.
    pub at_unix_ms: u64,
    /// Names of the checks that are left out.
    pub skip: Vec<String>,
    /// What the operator's word allows beyond an ordinary move.
    pub options: MoveOptions,
    /// What was left out or outweighed counts as failed.
    pub terminate_on_warning: bool,
    /// Why.
    pub comment: String,
}

/// What is to be done now about a scheduled move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Check it, and begin it.
    Begin,
    /// Nobody was there in time.
    TooLate,
}

/// Whether an appointment can be made.
///
/// # Errors
/// `bad_argument` for one that is over, or more than [`SCHEDULE_MAX`] away.
pub fn check_appointment(at_unix_ms: u64, now_unix_ms: u64) -> Result<(), Refused> {
    let away = at_unix_ms.saturating_sub(now_unix_ms);
    if at_unix_ms <= now_unix_ms {
        return Err(Refused::bad_argument("the time is over; leave --at out to move now"));
    }
    if Duration::from_millis(away) > SCHEDULE_MAX {
        return Err(Refused::bad_argument("a move is scheduled for at most 365 days ahead"));
    }
    Ok(())
}

fn scheduled(operation: &Operation) -> Option<&ScheduledMove> {
    match &operation.kind {
        OperationKind::ScheduledMove(order) if !operation.is_finished() => Some(order),
        _ => None,
    }
}

/// The scheduled moves whose time has come, in the order of their times.
#[must_use]
pub fn due(state: &ClusterState, now_unix_ms: u64) -> Vec<(OperationId, ScheduledMove, Due)> {
    let waiting = state.operations.values().filter_map(|known| Some((known.id, scheduled(known)?)));
    let come = waiting.filter(|(_, order)| order.at_unix_ms <= now_unix_ms);
    let mut due: Vec<_> = come
        .map(|(id, order)| {
            let late = now_unix_ms - order.at_unix_ms > LATE_MAX_MS;
            (id, order.clone(), if late { Due::TooLate } else { Due::Begin })
        })
        .collect();
    due.sort_by_key(|(id, order, _)| (order.at_unix_ms, *id));
    due
}

/// When the next one is due, in Unix milliseconds.
#[must_use]
pub fn next_unix_ms(state: &ClusterState) -> Option<u64> {
    state.operations.values().filter_map(scheduled).map(|order| order.at_unix_ms).min()
}

/// The operation by which a scheduled move is carried out.
#[must_use]
pub fn carried_out_by(scheduled: OperationId) -> OperationId {
    let mut bytes = scheduled.into_bytes();
    bytes[15] ^= 0xff;
    OperationId::from_bytes(bytes)
}

/// What is said of one that is too late.
#[must_use]
pub fn too_late() -> Refused {
    let text = "there was no leader at that time, nor soon after; nothing was moved";
    Refused::new(RefusalReason::DeadlineExceeded, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::operation::OperationState;
    use crate::testing::{DB, Log, create};

    const MINUTE: u64 = 60_000;

    fn order(at_unix_ms: u64) -> ScheduledMove {
        ScheduledMove {
            database: DB,
            to: None,
            at_unix_ms,
            skip: Vec::new(),
            options: MoveOptions::default(),
            terminate_on_warning: false,
            comment: String::new(),
        }
    }

    fn put(log: &mut Log, id: u128, at_unix_ms: u64) {
        let kind = OperationKind::ScheduledMove(Box::new(order(at_unix_ms)));
        log.ok(&Command::PutOperation { id: OperationId::from_u128(id), kind });
    }

    #[test]
    fn appointments_lie_ahead_and_not_too_far() {
        let year = 365 * 24 * 60 * MINUTE;
        for (at, now, possible) in [
            (1_001, 1_000, true),
            (1_000, 1_000, false),
            (999, 1_000, false),
            (1_000 + year, 1_000, true),
            (1_001 + year, 1_000, false),
        ] {
            assert_eq!(check_appointment(at, now).is_ok(), possible, "{at} at {now}");
        }
    }

    /// In the order of their times, once, and not hours later.
    #[test]
    fn a_move_is_due_at_its_time_and_dropped_when_nobody_was_there() {
        let mut log = Log::with_members(2);
        log.ok(&create(1, &[1, 2]));
        for (id, at) in [(7, 20 * MINUTE), (8, 10 * MINUTE), (9, 90 * MINUTE)] {
            put(&mut log, id, at);
        }
        let found = |log: &Log, now| {
            let due = due(&log.state, now).into_iter();
            due.map(|(id, _, due)| (id, due)).collect::<Vec<_>>()
        };
        let id = OperationId::from_u128;
        assert_eq!(next_unix_ms(&log.state), Some(10 * MINUTE));
        assert_eq!(found(&log, 10 * MINUTE - 1), []);
        assert_eq!(found(&log, 20 * MINUTE), [(id(8), Due::Begin), (id(7), Due::Begin)]);
        assert_eq!(found(&log, 25 * MINUTE)[0], (id(8), Due::Begin));
        assert_eq!(found(&log, 25 * MINUTE + 1)[0], (id(8), Due::TooLate));
        let (state, message) = (OperationState::Succeeded, String::new());
        for ended in [id(7), id(8)] {
            let (state, message) = (state.clone(), message.clone());
            log.ok(&Command::UpdateOperation { id: ended, state, progress_percent: 100, message });
        }
        assert_eq!(
            (found(&log, 30 * MINUTE), next_unix_ms(&log.state)),
            (vec![], Some(90 * MINUTE))
        );
    }

    #[test]
    fn the_move_itself_has_an_id_that_every_leader_knows() {
        let (one, other) = (OperationId::from_u128(7), OperationId::from_u128(8));
        assert_eq!(carried_out_by(one), carried_out_by(one));
        assert_ne!(carried_out_by(one), one);
        assert_ne!(carried_out_by(one), carried_out_by(other));
    }
}

//! How long a discarded timeline is kept (review S13), as far as anybody but its holder decides.
//!
//! An activation at an instant leaves the other copies suspended as holders of what it discarded.
//! Nothing but an operator's word ever releases one: what may be the last copy of some data is
//! never given up by automation (G4), neither before its retention is over nor after it. Before,
//! the *last* holder is released only by a word that says so; afterwards any release will do, and
//! the end of the retention is an event. A release does not delete: the copy cuts its log, and what
//! it cuts stays as salvage until an operator deletes the file. What it costs is the store that
//! showed the discarded timeline, and so the way back by an activation of that copy.

use keelson_types::{ClusterSettings, CopyId, HeldTimeline, RefusalReason, Setting};

use crate::command::Refusal;
use crate::state::{CopyConfig, Database};

/// Until when the timeline is kept by somebody, in Unix milliseconds.
#[must_use]
pub fn kept_until(held: &HeldTimeline, settings: &ClusterSettings) -> u64 {
    held.since_unix_ms.saturating_add(settings.number(Setting::DiscardedRetention))
}

/// Whether the copy may be released from what it holds, without a word that gives the timeline up
/// for good.
///
/// # Errors
/// `discarded_retained`, with the time, if it is the last holder of a timeline whose retention is
/// not over.
pub fn may_release(
    database: &Database,
    copy: CopyId,
    settings: &ClusterSettings,
    now_unix_ms: u64,
) -> Result<(), Refusal> {
    let Some(config) = database.copies.get(&copy) else { return Ok(()) };
    let alone = |held: &&HeldTimeline| {
        let others = database.copies.iter().filter(|(id, _)| **id != copy);
        !others.into_iter().any(|(_, other)| keeps(other, held))
    };
    let last = config.suspension.held.iter().filter(alone);
    let until = last.map(|held| (kept_until(held, settings), held)).max_by_key(|(until, _)| *until);
    match until {
        Some((until, held)) if until > now_unix_ms => {
            let message = format!(
                "no other copy of {} holds what epoch {} discarded behind {}; it is kept for {} s \
                 still",
                database.name,
                held.discard.epoch,
                held.discard.kept,
                (until - now_unix_ms).div_ceil(1_000),
            );
            Err(Refusal::new(RefusalReason::DiscardedRetained, message))
        }
        _ => Ok(()),
    }
}

/// Whether another copy goes on holding the timeline: one that leaves, or is made anew, does not.
fn keeps(other: &CopyConfig, held: &HeldTimeline) -> bool {
    let same = |theirs: &HeldTimeline| theirs.discard.epoch == held.discard.epoch;
    !other.leaving && !other.is_remade() && other.suspension.held.iter().any(same)
}

/// The timelines whose retention has run out and was not told yet; they are marked as told.
pub(crate) fn take_over(
    config: &mut CopyConfig,
    settings: &ClusterSettings,
    now_unix_ms: u64,
) -> Vec<HeldTimeline> {
    let over = |held: &&mut HeldTimeline| !held.told && kept_until(held, settings) <= now_unix_ms;
    let due = config.suspension.held.iter_mut().filter(over);
    due.map(|held| {
        held.told = true;
        *held
    })
    .collect()
}

/// When the next retention runs out, in Unix milliseconds.
#[must_use]
pub fn next_end_unix_ms(config: &CopyConfig, settings: &ClusterSettings) -> Option<u64> {
    let untold = config.suspension.held.iter().filter(|held| !held.told);
    untold.map(|held| kept_until(held, settings)).min()
}

#[cfg(test)]
mod tests {
    use keelson_types::{Discard, Epoch, LogEnd, OperationId, Position, SeedScope};

    use super::*;
    use crate::testing::{DB, Log, copy, create, epoch};

    const DAY: u64 = 24 * 3_600 * 1_000;

    fn discard(counter: u64) -> Discard {
        let kept = LogEnd { epoch: Epoch::new(0, 1), position: Position::new(1, 10) };
        Discard { epoch: epoch(counter), kept }
    }

    /// A database whose copies 1 and 2 hold what these epochs discarded, at these times.
    fn holding(first: &[(u64, u64)], second: &[(u64, u64)]) -> Log {
        let mut log = Log::with_members(3);
        log.ok(&create(1, &[1, 2, 3]));
        let database = log.state.databases.get_mut(&DB).expect("exists");
        for (id, timelines) in [(1, first), (2, second)] {
            let config = database.copies.get_mut(&copy(id)).expect("exists");
            for (counter, at) in timelines {
                config.suspension = config.suspension.holding(discard(*counter), "held", *at);
            }
        }
        log
    }

    /// S13: at least one copy keeps it, seven days by default, then whoever asks is released.
    #[test]
    fn the_last_holder_is_not_released_before_its_time() {
        let retained = Some(RefusalReason::DiscardedRetained);
        for (what, first, second, retention, now, refused) in [
            ("nothing is held", &[][..], &[][..], None, 0, None),
            ("another copy holds it", &[(5, 0)], &[(5, 0)], None, DAY, None),
            ("the last holder", &[(5, 0)], &[], None, DAY, retained),
            ("a moment before", &[(5, 0)], &[], None, 7 * DAY - 1, retained),
            ("its time is over", &[(5, 0)], &[], None, 7 * DAY, None),
            ("it counts from the discard", &[(5, DAY)], &[], None, 7 * DAY, retained),
            ("the other holds another one", &[(5, 0)], &[(6, 0)], None, DAY, retained),
            ("one of two is held elsewhere", &[(5, 0), (6, 0)], &[(5, 0)], None, DAY, retained),
            ("the rest is old", &[(5, 0), (6, DAY)], &[(6, DAY)], None, 7 * DAY, None),
            ("a longer retention", &[(5, 0)], &[], Some(30 * DAY), 29 * DAY, retained),
            ("no retention", &[(5, 0)], &[], Some(0), 0, None),
        ] {
            let log = holding(first, second);
            let settings = log.state.settings.with(Setting::DiscardedRetention, retention);
            let database = &log.state.databases[&DB];
            let result = may_release(database, copy(1), &settings.expect("in bounds"), now);
            assert_eq!(result.err().map(|refusal| refusal.reason), refused, "{what}");
        }
    }

    /// A holder that is about to go counts as none.
    #[test]
    fn a_holder_that_leaves_keeps_nothing() {
        let mut log = holding(&[(5, 0)], &[(5, 0)]);
        let database = log.state.databases.get_mut(&DB).expect("exists");
        database.copies.get_mut(&copy(2)).expect("exists").leaving = true;
        let settings = ClusterSettings::default();
        assert!(may_release(database, copy(1), &settings, DAY).is_err());
        assert!(may_release(database, copy(2), &settings, DAY).is_ok(), "copy 1 stays");
        // One that is made anew keeps nothing; one whose index alone is seeded goes on as it is.
        for (scope, kept) in [(SeedScope::Everything, false), (SeedScope::Catalog, true)] {
            let mut log = holding(&[(5, 0)], &[(5, 0)]);
            let database = log.state.databases.get_mut(&DB).expect("exists");
            let (operation, fresh) = (OperationId::from_u128(9), CopyId::from_u128(99));
            let order = crate::autoreseed::order(operation, fresh, keelson_types::OldFiles::Keep);
            let other = database.copies.get_mut(&copy(2)).expect("exists");
            other.seeding = Some(keelson_types::SeedOrder { scope, ..order });
            assert_eq!(may_release(database, copy(1), &settings, DAY).is_ok(), kept, "{scope:?}");
        }
    }

    /// The end of a retention is told once; nothing else happens by itself (G4).
    #[test]
    fn the_end_of_a_retention_is_told_once() {
        let mut log = holding(&[(5, 0), (6, DAY)], &[]);
        let settings = ClusterSettings::default();
        let database = log.state.databases.get_mut(&DB).expect("exists");
        let config = database.copies.get_mut(&copy(1)).expect("exists");
        assert_eq!(next_end_unix_ms(config, &settings), Some(7 * DAY));
        assert_eq!(take_over(config, &settings, 7 * DAY - 1), []);
        let told = take_over(config, &settings, 7 * DAY);
        assert_eq!(told.iter().map(|held| held.discard).collect::<Vec<_>>(), [discard(5)]);
        assert_eq!(next_end_unix_ms(config, &settings), Some(8 * DAY));
        assert_eq!(take_over(config, &settings, 9 * DAY).len(), 1);
        assert_eq!(next_end_unix_ms(config, &settings), None);
        assert!(config.is_stopped() && config.suspension.held.len() == 2, "it holds all of it");
    }
}

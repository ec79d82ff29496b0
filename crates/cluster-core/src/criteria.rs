//! The criteria of best copy selection: how well a copy and its member fit, beyond being allowed.
//!
//! The lossless proof and the exclusions of [`crate::select()`] say which copies *may* become
//! active; what is here only puts those in order. The model's ten criteria sets (F18) look at
//! content index, copy queue and replay queue; its health constraints (F19) at the member. A
//! criterion of which nothing is known counts as not met.

use std::cmp::Ordering;

use keelson_types::{ContentIndexState, LOG_UNIT_BYTES};
use serde::{Deserialize, Serialize};

/// A copy queue below so many logs is short (F18).
pub(crate) const COPY_QUEUE_LOGS: u64 = 10;
/// A replay queue below so many logs is short (F18).
pub(crate) const REPLAY_QUEUE_LOGS: u64 = 50;
/// Mean latency of disk reads from which a disk counts as slow.
pub(crate) const SLOW_READ_MICROS: u64 = 1_000_000;

/// What a copy says of itself and of its member's volumes when it answers a seal, or a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CopyHealth {
    /// Its content index.
    pub content_index: ContentIndexState,
    /// Log that it knows of and has not inspected.
    pub copy_queue_bytes: u64,
    /// Log that it has inspected and not replayed.
    pub replay_queue_bytes: u64,
    /// A volume of its member is too full for it.
    pub short_of_space: bool,
    /// Mean latency of reads from the volumes of its member; unknown while nobody reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_latency_micros: Option<u64>,
}

impl CopyHealth {
    /// Whether the copy queue is below the model's bound.
    #[must_use]
    pub const fn copy_queue_is_short(&self) -> bool {
        self.copy_queue_bytes < COPY_QUEUE_LOGS * LOG_UNIT_BYTES
    }

    /// Whether the replay queue is below the model's bound.
    #[must_use]
    pub const fn replay_queue_is_short(&self) -> bool {
        self.replay_queue_bytes < REPLAY_QUEUE_LOGS * LOG_UNIT_BYTES
    }

    /// What the content index is worth to clients.
    #[must_use]
    pub const fn index(&self) -> IndexFit {
        match self.content_index {
            // Where there is none, none is missed.
            ContentIndexState::Healthy | ContentIndexState::Disabled => IndexFit::Healthy,
            ContentIndexState::Crawling => IndexFit::Crawling,
            ContentIndexState::Seeding
            | ContentIndexState::Suspended
            | ContentIndexState::AutoSuspended
            | ContentIndexState::Failed
            | ContentIndexState::FailedAndSuspended
            | ContentIndexState::Unknown => IndexFit::Unfit,
        }
    }

    const fn slow(&self) -> bool {
        matches!(self.read_latency_micros, Some(latency) if latency >= SLOW_READ_MICROS)
    }

    /// Trouble of each part of the member, in the order of their priority.
    const fn troubles(&self) -> [bool; 2] {
        [self.short_of_space, self.slow()]
    }
}

/// What a content index is worth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexFit {
    /// It follows, or there is none.
    Healthy,
    /// It is being made.
    Crawling,
    /// Anything else.
    #[default]
    Unfit,
}

/// The first of the health constraints that a member meets, the strictest first (F19). The model
/// stops at `SameAsSource`; here a member that is worse is still better than a closed database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberFit {
    /// Space and speed of its volumes are well.
    AllHealthy,
    /// The part of normal priority is: there is space.
    NormalHealthy,
    /// No part is worse than at the former active, and one is better.
    BetterThanSource,
    /// No part is worse.
    SameAsSource,
    /// Worse, or nothing is known of it.
    #[default]
    Any,
}

impl MemberFit {
    /// The fit of a member beside that of the former active; one that says nothing is worst.
    #[must_use]
    pub fn of(target: Option<&CopyHealth>, source: Option<&CopyHealth>) -> Self {
        let Some(target) = target.map(CopyHealth::troubles) else { return Self::Any };
        let source = source.map_or([true; 2], CopyHealth::troubles);
        match target {
            [false, false] => Self::AllHealthy,
            [false, true] => Self::NormalHealthy,
            [true, _] => {
                let parts: Vec<_> = target.iter().zip(&source).map(|(t, s)| t.cmp(s)).collect();
                match (parts.contains(&Ordering::Greater), parts.contains(&Ordering::Less)) {
                    (true, _) => Self::Any,
                    (false, true) => Self::BetterThanSource,
                    (false, false) => Self::SameAsSource,
                }
            }
        }
    }
}

/// The verdicts of the criteria on one copy. Compares by what decides: the better fit is less.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Fit {
    /// Nobody wants databases away from its member, and the preferred maximum leaves room.
    pub wanted: bool,
    /// The first health constraint that its member meets.
    pub member: MemberFit,
    /// The first criteria set that it meets, 1 to 10.
    pub set: u8,
    /// Its content index.
    pub index: IndexFit,
    /// Its copy queue is short.
    pub copy_queue: bool,
    /// Its replay queue is short.
    pub replay_queue: bool,
}

impl Fit {
    /// Judges a copy. `empty` says that the database holds nothing yet, so that no index can be
    /// behind.
    #[must_use]
    pub fn judge(
        wanted: bool,
        health: Option<&CopyHealth>,
        source: Option<&CopyHealth>,
        empty: bool,
    ) -> Self {
        let index = match health {
            Some(_) if empty => IndexFit::Healthy,
            Some(health) => health.index(),
            None => IndexFit::Unfit,
        };
        let copy_queue = health.is_some_and(CopyHealth::copy_queue_is_short);
        let replay_queue = health.is_some_and(CopyHealth::replay_queue_is_short);
        let set = criteria_set(index, copy_queue, replay_queue);
        let member = MemberFit::of(health, source);
        Self { wanted, member, set, index, copy_queue, replay_queue }
    }

    /// Ascending from the best: wanted ones, then by health constraint, then by criteria set.
    #[must_use]
    pub const fn rank(&self) -> (bool, MemberFit, u8) {
        (!self.wanted, self.member, self.set)
    }
}

/// The first criteria set met (F18). The sets with a short replay queue come before those with a
/// short copy queue: the time to serve counts more, and the loss is bounded elsewhere.
#[must_use]
pub(crate) const fn criteria_set(index: IndexFit, copy_queue: bool, replay_queue: bool) -> u8 {
    match (index, copy_queue, replay_queue) {
        (IndexFit::Healthy, true, true) => 1,
        (IndexFit::Crawling, true, true) => 2,
        (IndexFit::Healthy, false, true) => 3,
        (IndexFit::Crawling, false, true) => 4,
        (IndexFit::Unfit, _, true) => 5,
        (IndexFit::Healthy, true, false) => 6,
        (IndexFit::Crawling, true, false) => 7,
        (IndexFit::Healthy, false, false) => 8,
        (IndexFit::Crawling, false, false) => 9,
        (IndexFit::Unfit, _, false) => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F18: the table of the model, read as "the first set that is met".
    #[test]
    fn the_ten_sets_are_tried_in_order() {
        use IndexFit::{Crawling, Healthy, Unfit};
        let table = [
            (Healthy, true, true, 1),
            (Crawling, true, true, 2),
            (Healthy, false, true, 3),
            (Crawling, false, true, 4),
            (Unfit, true, true, 5),
            (Unfit, false, true, 5),
            (Healthy, true, false, 6),
            (Crawling, true, false, 7),
            (Healthy, false, false, 8),
            (Crawling, false, false, 9),
            (Unfit, true, false, 10),
            (Unfit, false, false, 10),
        ];
        for (index, copy_queue, replay_queue, set) in table {
            assert_eq!(criteria_set(index, copy_queue, replay_queue), set, "{index:?}");
        }
    }

    /// F18: 10 and 50 logs of 1 MiB are too many, one byte less is not.
    #[test]
    fn queues_are_counted_in_logs() {
        let (copy, replay) = (10 * LOG_UNIT_BYTES, 50 * LOG_UNIT_BYTES);
        for (copy_queue_bytes, replay_queue_bytes, short) in [
            (0, 0, (true, true)),
            (copy - 1, replay - 1, (true, true)),
            (copy, replay, (false, false)),
        ] {
            let health =
                CopyHealth { copy_queue_bytes, replay_queue_bytes, ..CopyHealth::default() };
            assert_eq!((health.copy_queue_is_short(), health.replay_queue_is_short()), short);
        }
    }

    /// F19: from strict to lenient; a former active of which nothing is known is the worst.
    #[test]
    fn health_constraints_compare_with_the_former_active() {
        let health = |short_of_space, slow: bool| CopyHealth {
            short_of_space,
            read_latency_micros: slow.then_some(SLOW_READ_MICROS),
            ..CopyHealth::default()
        };
        let check = |target, source: Option<CopyHealth>, fit| {
            assert_eq!(MemberFit::of(Some(&target), source.as_ref()), fit, "{target:?} {source:?}");
        };
        check(health(false, false), Some(health(false, false)), MemberFit::AllHealthy);
        check(health(false, true), Some(health(false, false)), MemberFit::NormalHealthy);
        check(health(true, false), Some(health(true, true)), MemberFit::BetterThanSource);
        check(health(true, false), None, MemberFit::BetterThanSource);
        check(health(true, true), Some(health(true, true)), MemberFit::SameAsSource);
        check(health(true, true), Some(health(false, true)), MemberFit::Any);
        check(health(true, false), Some(health(false, true)), MemberFit::Any);
        assert_eq!(MemberFit::of(None, None), MemberFit::Any);
    }

    #[test]
    fn an_empty_database_misses_no_index() {
        let unknown = CopyHealth::default();
        assert_eq!(Fit::judge(true, Some(&unknown), None, false).set, 5);
        assert_eq!(Fit::judge(true, Some(&unknown), None, true).set, 1);
        assert_eq!(Fit::judge(true, None, None, true).set, 10);
    }
}

//! What to do about the catalog (the content index) of a copy: follow the log, crawl, or rest, and
//! why (F51).
//!
//! A catalog is derived from the store and the log of its own copy, so every state has an exit:
//! what cannot be followed is crawled, what is damaged is made anew. It never holds log back and
//! never delays a write: it falls behind, and its backlog says by how much.

use std::time::Duration;

use keelson_types::{ContentIndexState, LogEnd, Position};

/// After so many failures in a row it waits for an operator.
pub const FAILURES_MAX: u32 = 6;
/// First pause after a failure; doubled each time.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A commit costs the same for one record as for thousands, so a copy that is written to all the
/// time rests so many times as long as its last piece took: a tenth of the time is spent on it.
const RESTS_PER_PIECE: u32 = 9;
/// Bounds of that rest.
const REST_MIN: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(20);

/// What lies in the catalog's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing, or nothing that was ever committed.
    Nothing,
    /// Files that are wrong.
    Damaged(String),
    /// An index of the log up to there.
    Reflects {
        /// The end of the log that it reflects.
        end: LogEnd,
        /// Whether it holds the fields that are wanted now.
        wanted_fields: bool,
    },
}

/// Everything that the decision depends on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogInputs {
    /// Whether the database has an index.
    pub enabled: bool,
    /// Whether the copy lags on purpose.
    pub lagged: bool,
    /// Whether replication to the copy is suspended.
    pub suspended: bool,
    /// Whether keys of the store are in doubt (a range fetch, a rebuild).
    pub in_doubt: bool,
    /// Whether the volume is so full that what is left is for recovery.
    pub no_room: bool,
    /// What is there.
    pub found: Found,
    /// Whether `found` lies on the timeline of the copy's log.
    pub on_timeline: bool,
    /// Where the copy's log begins.
    pub log_from: Position,
    /// What the store holds.
    pub replayed: Position,
    /// Where the copy's log ends.
    pub log_end: Position,
    /// Failures since the last success.
    pub failures: u32,
}

/// Why an index is made anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CrawlReason {
    /// There is none.
    New,
    /// It is damaged.
    Damaged(String),
    /// Other fields are wanted.
    Fields,
    /// It reflects log that was given up, or more than the store holds.
    OtherTimeline,
    /// The log behind it was truncated.
    LogGone,
}

impl std::fmt::Display for CrawlReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::New => f.write_str("there was none"),
            Self::Damaged(what) => write!(f, "it was damaged: {what}"),
            Self::Fields => f.write_str("other fields are indexed now"),
            Self::OtherTimeline => f.write_str("it reflected log that is not the database's"),
            Self::LogGone => f.write_str("the log behind it was truncated"),
        }
    }
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatalogPlan {
    /// Nothing, in this state. `remove`: what is there is of no use any more and must not be
    /// followed later.
    Rest {
        /// What status shows.
        state: ContentIndexState,
        /// Why.
        reason: String,
        /// Whether the files go.
        remove: bool,
    },
    /// Index the log from there on.
    Follow {
        /// Where the index stands.
        from: Position,
    },
    /// Remove what is there and index everything that the store holds.
    Crawl(CrawlReason),
}

fn rest(state: ContentIndexState, reason: &str) -> CatalogPlan {
    CatalogPlan::Rest { state, reason: reason.into(), remove: false }
}

/// Decides; see the module page.
#[must_use]
pub fn plan(inputs: &CatalogInputs) -> CatalogPlan {
    use ContentIndexState as State;
    let nothing = inputs.found == Found::Nothing;
    if !inputs.enabled {
        let reason = "the database has no content index".into();
        return CatalogPlan::Rest { state: State::Disabled, reason, remove: !nothing };
    }
    if inputs.in_doubt {
        // Keys change without log now: what the index says of them would never be put right.
        let reason = "keys of the store are in doubt".into();
        return CatalogPlan::Rest { state: State::Suspended, reason, remove: !nothing };
    }
    if inputs.suspended {
        return rest(State::Suspended, "the copy is suspended");
    }
    if inputs.lagged {
        return rest(State::AutoSuspended, "the copy has a replay lag");
    }
    if inputs.failures >= FAILURES_MAX {
        return rest(State::FailedAndSuspended, "it failed again and again");
    }
    let planned = work(inputs);
    match planned {
        CatalogPlan::Follow { .. } | CatalogPlan::Crawl(_) if inputs.no_room => {
            rest(State::Failed, "its volume is full")
        }
        planned => planned,
    }
}

/// What there is to do for an index that may work.
fn work(inputs: &CatalogInputs) -> CatalogPlan {
    use ContentIndexState as State;
    let (end, wanted_fields) = match &inputs.found {
        Found::Nothing => return CatalogPlan::Crawl(CrawlReason::New),
        Found::Damaged(what) => return CatalogPlan::Crawl(CrawlReason::Damaged(what.clone())),
        Found::Reflects { end, wanted_fields } => (end.position, *wanted_fields),
    };
    if !wanted_fields {
        return CatalogPlan::Crawl(CrawlReason::Fields);
    }
    if !inputs.on_timeline || end > inputs.log_end {
        return CatalogPlan::Crawl(CrawlReason::OtherTimeline);
    }
    if end > inputs.replayed {
        // After a crash the store is back at its checkpoint; the same log brings it here again.
        return rest(State::Healthy, "its copy replays again what it reflects");
    }
    if end == inputs.replayed {
        return rest(State::Healthy, "it reflects everything that was replayed");
    }
    if end < inputs.log_from {
        return CatalogPlan::Crawl(CrawlReason::LogGone);
    }
    CatalogPlan::Follow { from: end }
}

/// How long to rest after a piece of work that took so long, waiting for a thread included. With
/// `more` to do, what was done was worth its commit, and half of the time is spent on the backlog.
#[must_use]
pub fn rest_after(took: Duration, more: bool) -> Duration {
    match more {
        true => took.min(REST_MAX),
        false => (took * RESTS_PER_PIECE).clamp(REST_MIN, REST_MAX),
    }
}

/// How long to wait after so many failures in a row.
#[must_use]
pub fn retry_pause(failures: u32) -> Duration {
    RETRY_PAUSE * 2_u32.saturating_pow(failures.saturating_sub(1).min(6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_types::Epoch;

    fn at(offset: u64) -> Position {
        Position::new(3, offset)
    }

    fn inputs() -> CatalogInputs {
        let end = LogEnd { epoch: Epoch::new(0, 2), position: at(500) };
        CatalogInputs {
            enabled: true,
            lagged: false,
            suspended: false,
            in_doubt: false,
            no_room: false,
            found: Found::Reflects { end, wanted_fields: true },
            on_timeline: true,
            log_from: at(100),
            replayed: at(900),
            log_end: at(950),
            failures: 0,
        }
    }

    fn planned(change: impl FnOnce(&mut CatalogInputs)) -> CatalogPlan {
        let mut inputs = inputs();
        change(&mut inputs);
        plan(&inputs)
    }

    fn rests(change: impl FnOnce(&mut CatalogInputs)) -> (ContentIndexState, bool) {
        match planned(change) {
            CatalogPlan::Rest { state, remove, .. } => (state, remove),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn small_pieces_take_a_tenth_of_the_time_and_a_backlog_half() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        assert_eq!(rest_after(ms(1), false), REST_MIN);
        assert_eq!(rest_after(ms(200), false), ms(1_800));
        assert_eq!(rest_after(s(60), false), REST_MAX);
        assert_eq!((rest_after(ms(200), true), rest_after(s(60), true)), (ms(200), REST_MAX));
    }

    #[test]
    fn an_index_follows_the_log_while_it_can() {
        assert_eq!(planned(|_| {}), CatalogPlan::Follow { from: at(500) });
        assert_eq!(planned(|i| i.log_from = at(500)), CatalogPlan::Follow { from: at(500) });
        let crawl = |change: fn(&mut CatalogInputs)| match planned(change) {
            CatalogPlan::Crawl(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(crawl(|i| i.log_from = at(501)), CrawlReason::LogGone);
        assert_eq!(crawl(|i| i.log_end = at(499)), CrawlReason::OtherTimeline);
        assert_eq!(crawl(|i| i.on_timeline = false), CrawlReason::OtherTimeline);
        assert_eq!(crawl(|i| i.found = Found::Nothing), CrawlReason::New);
        let damaged = crawl(|i| i.found = Found::Damaged("x.idx".into()));
        assert_eq!(damaged, CrawlReason::Damaged("x.idx".into()));
        let other_fields = |i: &mut CatalogInputs| {
            if let Found::Reflects { wanted_fields, .. } = &mut i.found {
                *wanted_fields = false;
            }
        };
        assert_eq!(crawl(other_fields), CrawlReason::Fields);
    }

    /// F51: the states of the model, each with its cause.
    #[test]
    fn states_of_an_index_that_rests() {
        use ContentIndexState as State;
        assert_eq!(rests(|i| i.replayed = at(500)), (State::Healthy, false));
        assert_eq!(rests(|i| i.replayed = at(100)), (State::Healthy, false), "after a crash");
        assert_eq!(rests(|i| i.lagged = true), (State::AutoSuspended, false));
        assert_eq!(rests(|i| i.suspended = true), (State::Suspended, false));
        assert_eq!(rests(|i| i.enabled = false), (State::Disabled, true));
        assert_eq!(rests(|i| i.in_doubt = true), (State::Suspended, true));
        assert_eq!(rests(|i| i.no_room = true), (State::Failed, false));
        let full = |i: &mut CatalogInputs| (i.no_room, i.replayed) = (true, at(500));
        assert_eq!(rests(full), (State::Healthy, false));
        assert_eq!(rests(|i| i.failures = FAILURES_MAX), (State::FailedAndSuspended, false));
        let gone = |i: &mut CatalogInputs| (i.enabled, i.found) = (false, Found::Nothing);
        assert_eq!(rests(gone), (State::Disabled, false));
        // An index that is up to date needs no log, so truncation cannot hurt it.
        let truncated = |i: &mut CatalogInputs| (i.replayed, i.log_from) = (at(500), at(800));
        assert_eq!(rests(truncated), (State::Healthy, false));
    }

    #[test]
    fn pauses_grow_and_have_a_bound() {
        let pauses: Vec<_> = (1..=8).map(|failures| retry_pause(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64]);
    }
}

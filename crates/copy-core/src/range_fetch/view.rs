//! What status pages show of a range fetch: derived from the machine, never kept beside it.

use keelson_types::{Epoch, LogEnd, Position};

use super::event::FetchFailure;
use super::mark::{CostBook, Purpose};
use super::{RangeFetch, Step};

/// What a fetch is about to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchPhase {
    /// The mark is being made durable, or the store's position set back.
    Marking,
    /// It waits for an epoch or a donor, or for space.
    Waiting,
    /// Data comes.
    Fetching,
    /// Everything is there; the log is replayed up to Q.
    Replaying,
    /// The keys are trusted; that is being made durable.
    Settling,
}

/// A snapshot of a fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchView {
    /// The phase.
    pub phase: FetchPhase,
    /// Why.
    pub purpose: Purpose,
    /// The timeline it fetches from.
    pub epoch: Epoch,
    /// Number of spans.
    pub spans: usize,
    /// Keys and bytes: what was expected, this round, all rounds.
    pub costs: CostBook,
    /// How often it was begun.
    pub rounds: u32,
    /// The position at which the keys are right again.
    pub q: Option<LogEnd>,
    /// Where replay stands.
    pub replayed: Position,
    /// Why the last donor did not help, until one does.
    pub last_failure: Option<FetchFailure>,
}

impl FetchView {
    /// Progress of the data, in percent of the estimate: 100 only when everything is there.
    #[must_use]
    pub fn percent(&self) -> u8 {
        match self.phase {
            FetchPhase::Replaying | FetchPhase::Settling => 100,
            FetchPhase::Marking | FetchPhase::Waiting | FetchPhase::Fetching => {
                let (done, all) = (self.costs.round.bytes, self.costs.estimate.bytes.max(1));
                u8::try_from((u128::from(done) * 100 / u128::from(all)).min(99)).unwrap_or(99)
            }
        }
    }
}

impl RangeFetch {
    /// A snapshot for status pages; `None` if no mark stands.
    #[must_use]
    pub fn view(&self) -> Option<FetchView> {
        let mark = self.mark.as_ref()?;
        Some(FetchView {
            phase: self.phase(),
            purpose: mark.purpose.clone(),
            epoch: mark.epoch,
            spans: mark.spans.list().len(),
            costs: mark.costs,
            rounds: mark.rounds,
            q: mark.q,
            replayed: self.replayed,
            last_failure: self.last_failure,
        })
    }

    fn phase(&self) -> FetchPhase {
        match self.step {
            Step::Marking(_) | Step::Rewinding(_) => FetchPhase::Marking,
            Step::Whole | Step::EpochUnknown | Step::Pausing(_) => FetchPhase::Waiting,
            Step::Asking(_)
            | Step::RecordingQ(..)
            | Step::Applying(..)
            | Step::Checkpointing(_)
            | Step::RecordingProgress(_) => FetchPhase::Fetching,
            Step::Replaying => FetchPhase::Replaying,
            Step::Settling(_) | Step::Clearing(_) => FetchPhase::Settling,
        }
    }
}

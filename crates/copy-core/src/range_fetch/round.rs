//! One round: from the mark over the data to the end of the mark. Every step is decided anew from
//! the mark and what is known to be in the store ([`RangeFetch::go_on`]), so that a crash, a pause
//! and a completion all go on the same way.

use keelson_types::{Epoch, LogEnd, Position, Span, StoreKey, Tick, Weakness};

use super::event::{Chunk, FetchAction, FetchFailure, FetchRequest};
use super::mark::{Fetched, Purpose};
use super::spans::FetchCost;
use super::{RangeFetch, Step};

/// A chunk on its way into the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pending {
    fetched: u64,
    at: LogEnd,
    spans: Vec<Span>,
    end: Fetched,
    cost: FetchCost,
}

impl RangeFetch {
    /// Begins again from nothing, in the timeline of `epoch`.
    pub(super) fn new_round(&mut self, epoch: Epoch, out: &mut Vec<FetchAction>) {
        let Some(mark) = &mut self.mark else { return };
        mark.epoch = epoch;
        mark.q = None;
        mark.fetched = Fetched::Before(StoreKey::FIRST);
        mark.rounds = mark.rounds.saturating_add(1);
        mark.costs.round = FetchCost::default();
        // Keys outside the spans may have been replayed up to here in the meantime.
        let rewound = !matches!(mark.purpose, Purpose::Resync { rewound: false, .. });
        if rewound {
            mark.floor = mark.floor.max(self.replayed);
        }
        self.cursor = mark.fetched.clone();
        self.unsaved_bytes = 0;
        self.trusted = false;
        self.donor_index = 0;
        self.snapshot = None;
        self.failures = 0;
        self.last_failure = None;
        let number = self.save(out);
        self.step = Step::Marking(number);
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn save(&mut self, out: &mut Vec<FetchAction>) -> u64 {
        let number = self.number();
        let mark = self.mark.clone();
        out.extend(mark.map(|mark| FetchAction::SaveMark { number, mark }));
        number
    }

    /// Does what is due next.
    pub(super) fn go_on(&mut self, out: &mut Vec<FetchAction>) {
        let Some(mark) = &self.mark else { return };
        if let Purpose::Resync { fork, rewound: false, .. } = mark.purpose {
            let number = self.number();
            self.step = Step::Rewinding(number);
            out.push(FetchAction::Rewind { number, to: fork });
        } else if mark.fetched == Fetched::All {
            self.trust_at_q(out);
        } else if self.cursor == Fetched::All || self.unsaved_bytes >= self.config.progress_bytes {
            let number = self.number();
            self.step = Step::Checkpointing(number);
            out.push(FetchAction::Checkpoint { number });
        } else {
            self.ask(out);
        }
    }

    fn ask(&mut self, out: &mut Vec<FetchAction>) {
        let number = self.number();
        let (Some(mark), Fetched::Before(from)) = (&self.mark, &self.cursor) else { return };
        let Some(donor) = self.donors.get(self.donor_index).copied() else {
            // The next epoch, or the next word about it, brings donors.
            self.step = Step::EpochUnknown;
            return;
        };
        let request = FetchRequest {
            epoch: mark.epoch,
            spans: mark.spans.behind(from, self.config.chunk_spans_max.max(1)),
            snapshot: self.snapshot,
            not_before: self.not_before(),
            keys_max: self.config.chunk_keys_max,
            bytes_max: self.config.chunk_bytes_max,
        };
        self.step = Step::Asking(number);
        out.push(FetchAction::Fetch { number, donor, request });
    }

    /// A snapshot before this would put older values under effects that are in the store already.
    fn not_before(&self) -> Position {
        let Some(mark) = &self.mark else { return self.replayed };
        let q = mark.q.map_or(Position::ZERO, |q| q.position);
        mark.floor.max(q).max(self.replayed)
    }

    pub(super) fn chunk_fetched(
        &mut self,
        now: Tick,
        number: u64,
        chunk: Chunk,
        out: &mut Vec<FetchAction>,
    ) {
        if self.step != Step::Asking(number) {
            return;
        }
        let pending = match self.accept(number, &chunk) {
            Ok(pending) => pending,
            Err(failure) => return self.fetch_failed(now, number, failure, out),
        };
        self.snapshot = Some(chunk.at);
        self.failures = 0;
        self.last_failure = None;
        let Some(mark) = &mut self.mark else { return };
        if mark.q.is_none_or(|q| q < chunk.at) {
            mark.q = Some(chunk.at);
            let number = self.save(out);
            self.step = Step::RecordingQ(number, pending);
        } else {
            self.apply(pending, out);
        }
    }

    fn accept(&self, number: u64, chunk: &Chunk) -> Result<Pending, FetchFailure> {
        let (Some(mark), Fetched::Before(from)) = (&self.mark, &self.cursor) else {
            return Err(FetchFailure::Malformed);
        };
        if chunk.at.epoch > mark.epoch {
            return Err(FetchFailure::OtherEpoch);
        }
        if chunk.at.position < self.not_before() {
            return Err(FetchFailure::Behind);
        }
        let asked = mark.spans.behind(from, self.config.chunk_spans_max.max(1));
        let asked_end = asked.last().and_then(Span::to);
        // What was not asked is not answered, whatever the donor says.
        let next = chunk.next.as_ref().filter(|next| asked_end.is_none_or(|end| *next < end));
        let end = match next {
            Some(next) => Fetched::Before(next.clone()),
            None => asked_end
                .filter(|end| !mark.spans.behind(end, 1).is_empty())
                .map_or(Fetched::All, |end| Fetched::Before(end.clone())),
        };
        let spans: Vec<_> = match next {
            Some(next) => asked.iter().filter_map(|span| span.before(next)).collect(),
            None => asked,
        };
        let cost = chunk.cost;
        let too_much = cost.keys > self.config.chunk_keys_max as u64
            || cost.bytes > self.config.chunk_bytes_max && cost.keys > 1;
        // A chunk that answers nothing would be asked for again, for ever.
        if too_much || spans.is_empty() {
            return Err(FetchFailure::Malformed);
        }
        Ok(Pending { fetched: number, at: chunk.at, spans, end, cost })
    }

    fn apply(&mut self, pending: Pending, out: &mut Vec<FetchAction>) {
        let number = self.number();
        let (fetched, spans, at) = (pending.fetched, pending.spans.clone(), pending.at);
        self.step = Step::Applying(number, pending);
        out.push(FetchAction::ApplyChunk { number, fetched, spans, at });
    }

    pub(super) fn applied(&mut self, number: u64, out: &mut Vec<FetchAction>) {
        let Step::Applying(wanted, pending) = &self.step else { return };
        if *wanted != number {
            return;
        }
        self.cursor = pending.end.clone();
        let cost = pending.cost;
        self.unsaved_bytes = self.unsaved_bytes.saturating_add(cost.bytes);
        if let Some(mark) = &mut self.mark {
            mark.costs.round = mark.costs.round.plus(cost);
            mark.costs.spent = mark.costs.spent.plus(cost);
        }
        self.go_on(out);
    }

    pub(super) fn mark_saved(&mut self, number: u64, out: &mut Vec<FetchAction>) {
        match self.step.clone() {
            Step::Marking(wanted) if wanted == number => {
                let begun = self.requests.drain(..);
                out.extend(begun.map(|request| FetchAction::Begun { request }));
                self.go_on(out);
            }
            Step::RecordingQ(wanted, pending) if wanted == number => self.apply(pending, out),
            Step::RecordingProgress(wanted) if wanted == number => self.go_on(out),
            _ => {}
        }
    }

    pub(super) fn rewound(&mut self, number: u64, out: &mut Vec<FetchAction>) {
        if self.step != Step::Rewinding(number) {
            return;
        }
        // Saved together with Q, before which nothing is replayed or written.
        if let Some(Purpose::Resync { fork, rewound, .. }) =
            self.mark.as_mut().map(|mark| &mut mark.purpose)
        {
            *rewound = true;
            self.replayed = fork.position;
        }
        self.go_on(out);
    }

    pub(super) fn checkpointed(
        &mut self,
        now: Tick,
        number: u64,
        to: Position,
        out: &mut Vec<FetchAction>,
    ) {
        if self.step == Step::Checkpointing(number) {
            self.unsaved_bytes = 0;
            if let Some(mark) = &mut self.mark {
                mark.fetched = self.cursor.clone();
            }
            let number = self.save(out);
            self.step = Step::RecordingProgress(number);
        } else if self.step == Step::Settling(number) {
            let q = self.mark.as_ref().and_then(|mark| mark.q);
            let durable = q.is_some_and(|q| q.position <= to);
            if durable || self.config.weakness == Weakness::TrustBeforeQ {
                let number = self.number();
                self.step = Step::Clearing(number);
                out.push(FetchAction::ClearMark { number });
            } else {
                self.pause(now);
            }
        }
    }

    pub(super) fn replayed_to(&mut self, to: Position, out: &mut Vec<FetchAction>) {
        let rewinds = self
            .mark
            .as_ref()
            .is_some_and(|mark| matches!(mark.purpose, Purpose::Resync { rewound: false, .. }));
        if rewinds {
            return; // Ordered before the fork was found: a position on it.
        }
        self.replayed = self.replayed.max(to);
        if self.step == Step::Replaying {
            self.trust_at_q(out);
        }
    }

    fn trust_at_q(&mut self, out: &mut Vec<FetchAction>) {
        self.step = Step::Replaying;
        let Some(mark) = &self.mark else { return };
        let reached = mark.q.is_some_and(|q| q.position <= self.replayed);
        if !reached && self.config.weakness != Weakness::TrustBeforeQ {
            return;
        }
        if !self.trusted {
            self.trusted = true;
            out.push(FetchAction::Trust);
        }
        let number = self.number();
        self.step = Step::Settling(number);
        out.push(FetchAction::Checkpoint { number });
    }

    pub(super) fn mark_cleared(&mut self, number: u64, out: &mut Vec<FetchAction>) {
        if self.step != Step::Clearing(number) {
            return;
        }
        self.step = Step::Whole;
        self.cursor = Fetched::Before(StoreKey::FIRST);
        if let Some(mark) = self.mark.take() {
            out.push(FetchAction::Finished { spent: mark.costs.spent, rounds: mark.rounds });
        }
    }

    pub(super) fn fetch_failed(
        &mut self,
        now: Tick,
        number: u64,
        failure: FetchFailure,
        out: &mut Vec<FetchAction>,
    ) {
        let asked = matches!(&self.step, Step::Asking(wanted) if *wanted == number);
        let dropped = matches!(&self.step, Step::Applying(wanted, _) if *wanted == number);
        if !asked && !dropped {
            return;
        }
        self.last_failure = Some(failure);
        let same_again = failure == FetchFailure::SnapshotGone && self.snapshot.is_some();
        self.snapshot = None;
        if !same_again {
            self.donor_index += 1;
        }
        if self.donor_index < self.donors.len() {
            self.ask(out);
        } else {
            self.pause(now);
        }
    }

    pub(super) fn store_full(&mut self, now: Tick, number: u64) {
        let waits = match &self.step {
            Step::Rewinding(wanted)
            | Step::Applying(wanted, _)
            | Step::Checkpointing(wanted)
            | Step::Settling(wanted) => *wanted == number,
            _ => false,
        };
        if waits {
            self.pause(now);
        }
    }

    fn pause(&mut self, now: Tick) {
        let doubled = self.config.retry_first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.donor_index = 0;
        self.step = Step::Pausing(now.after(doubled.min(self.config.retry_max)));
    }

    pub(super) fn wake(&mut self, now: Tick, out: &mut Vec<FetchAction>) {
        if matches!(self.step, Step::Pausing(until) if until <= now) {
            self.go_on(out);
        }
    }
}

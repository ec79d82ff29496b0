//! Tests of `range_fetch`: a bench that plays the driver, then one file per area.

mod crashes;
mod epochs;
mod marks;
mod order;
mod spans;
mod trust;

use std::time::Duration;

use bytes::Bytes;
use keelson_types::{CopyId, CopyRole, Epoch, LogEnd, LogId, MemberId, Position, Tick};

use super::*;

fn user(key: &str) -> StoreKey {
    StoreKey::User(Bytes::copy_from_slice(key.as_bytes()))
}

fn key(name: &str) -> Span {
    Span::key(user(name))
}

fn range(from: &str, to: &str) -> Span {
    Span::new(user(from), Some(user(to))).expect("not empty")
}

fn at(offset: u64) -> Position {
    Position::new(1, offset)
}

fn epoch(counter: u64) -> Epoch {
    Epoch::new(0, counter)
}

fn end(counter: u64, offset: u64) -> LogEnd {
    LogEnd { epoch: epoch(counter), position: at(offset) }
}

fn donor(n: u128) -> Donor {
    Donor { copy: CopyId::from_u128(n), member: MemberId::from_u128(n) }
}

fn cost(keys: u64, bytes: u64) -> FetchCost {
    FetchCost { keys, bytes }
}

/// A resync of the fork behind 1:600, in epoch 2, from donors 1 and 2.
fn resync(spans: &[Span]) -> FetchOrder {
    FetchOrder {
        request: 7,
        cause: Cause::Resync { fork: end(1, 600), salvage: LogId::from_u128(5) },
        role: CopyRole::Passive,
        spans: spans.iter().cloned().collect(),
        epoch: epoch(2),
        donors: vec![donor(1), donor(2)],
        estimate: cost(2, 200),
    }
}

fn repair(spans: &[Span]) -> FetchOrder {
    FetchOrder { cause: Cause::Repair, ..resync(spans) }
}

/// The machine and everything that a driver keeps of it.
struct Bench {
    machine: RangeFetch,
    now: Tick,
    /// The mark as the disk has it.
    disk: Option<Mark>,
}

impl Bench {
    fn new() -> Self {
        Self::with(FetchConfig::default())
    }

    fn with(config: FetchConfig) -> Self {
        let mut bench = Self { machine: RangeFetch::new(config), now: Tick(0), disk: None };
        let restarted = FetchEvent::Restarted { mark: None, replayed: at(1_000) };
        bench.check(restarted, &[]);
        bench
    }

    fn step(&mut self, event: FetchEvent) -> Vec<FetchAction> {
        let mut out = Vec::new();
        self.machine.step(self.now, event, &mut out);
        out
    }

    #[track_caller]
    fn check(&mut self, event: FetchEvent, expected: &[FetchAction]) {
        assert_eq!(self.step(event.clone()), expected, "after {event:?}");
    }

    /// Steps, then completes saves, rewinds, chunks, checkpoints and clears until a donor or replay
    /// is waited for. Returns the names of what was done.
    fn settle(&mut self, event: FetchEvent) -> Vec<&'static str> {
        let mut names = Vec::new();
        let mut todo = self.step(event);
        while !todo.is_empty() {
            let action = todo.remove(0);
            names.push(self.name(&action));
            let done = match action {
                FetchAction::SaveMark { number, mark } => {
                    self.disk = Some(mark);
                    FetchEvent::MarkSaved { number }
                }
                FetchAction::ClearMark { number } => {
                    self.disk = None;
                    FetchEvent::MarkCleared { number }
                }
                FetchAction::Rewind { number, .. } => FetchEvent::Rewound { number },
                FetchAction::ApplyChunk { number, .. } => FetchEvent::Applied { number },
                FetchAction::Checkpoint { number } => {
                    FetchEvent::Checkpointed { number, to: self.machine.replayed }
                }
                FetchAction::Fetch { .. }
                | FetchAction::Begun { .. }
                | FetchAction::Refused { .. }
                | FetchAction::Trust
                | FetchAction::Finished { .. } => continue,
            };
            todo.extend(self.step(done));
        }
        names
    }

    fn name(&self, action: &FetchAction) -> &'static str {
        match action {
            FetchAction::SaveMark { mark, .. } if mark.fetched == Fetched::All => "save all",
            FetchAction::SaveMark { mark, .. } if mark.q.is_some() => "save Q",
            FetchAction::SaveMark { .. } => "save",
            FetchAction::Begun { .. } => "begun",
            FetchAction::Refused { .. } => "refused",
            FetchAction::Rewind { .. } => "rewind",
            FetchAction::Fetch { .. } => "fetch",
            FetchAction::ApplyChunk { .. } => "apply",
            FetchAction::Checkpoint { .. } => "checkpoint",
            FetchAction::Trust => "trust",
            FetchAction::ClearMark { .. } => "clear",
            FetchAction::Finished { .. } => "finished",
        }
    }

    fn begin(&mut self, order: FetchOrder) -> Vec<&'static str> {
        self.settle(FetchEvent::Begin(order))
    }

    /// The number of the fetch that is waited for.
    #[track_caller]
    fn asked(&self) -> u64 {
        match self.machine.step {
            Step::Asking(number) => number,
            ref step => panic!("nobody was asked: {step:?}"),
        }
    }

    fn chunk(&mut self, at: LogEnd, next: Option<StoreKey>) -> Vec<&'static str> {
        let chunk = Chunk { at, next, cost: cost(1, 100) };
        let number = self.asked();
        self.settle(FetchEvent::ChunkFetched { number, chunk })
    }

    fn follow(&mut self, counter: u64) -> Vec<&'static str> {
        let donors = vec![donor(1), donor(2)];
        self.settle(FetchEvent::EpochChanged { epoch: epoch(counter), donors })
    }

    fn replay(&mut self, offset: u64) -> Vec<&'static str> {
        self.settle(FetchEvent::Replayed { to: at(offset) })
    }

    /// The process ends; the store is found at this offset.
    fn restart(&mut self, offset: u64) {
        self.machine = RangeFetch::new(self.machine.config.clone());
        let mark = self.disk.as_ref().map(Mark::encode);
        let mark = mark.map(|bytes| Mark::decode(&bytes).expect("as it was written"));
        self.check(FetchEvent::Restarted { mark, replayed: at(offset) }, &[]);
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    fn phase(&self) -> Option<FetchPhase> {
        self.machine.view().map(|view| view.phase)
    }
}

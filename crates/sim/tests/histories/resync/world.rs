//! One copy that resyncs: the real ladder and the real machine over an in-memory store, a mark on a
//! simulated disk, and the logs that the other copies serve.
//!
//! Log and shipping are taken as durable and instant: they have histories of
//! their own.

mod copy;
mod model;

use keelson_copy_core::divergence::{Rung, Standing, Touched, climb};
use keelson_copy_core::range_fetch::{Cause, Donor, FetchEvent, FetchOrder, TouchedSet};
use keelson_sim::checkers::Violation;
use keelson_types::{CopyId, CopyRole, Epoch, LogEnd, LogId, MemberId, Position, Weakness};

use copy::Copy;
pub(super) use model::Frame;

/// The logs of the three epochs, each with what it shares with the ones before.
pub(super) struct Scene {
    pub(super) first: Vec<Frame>,
    pub(super) second: Vec<Frame>,
    pub(super) third: Vec<Frame>,
}

/// When the machine of the copy loses power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Crash {
    Never,
    /// In this step from now.
    AtStep(u64),
    /// In this write, sync or rename of the mark from now.
    AtDiskCall(u64),
    /// When all data is recorded, before replay.
    BetweenDataAndQ,
}

/// Who wins if the store could replay and the machine wants something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pace {
    /// Replay comes as far as it may, and tries to pass Q.
    ReplayFirst,
    /// All data is there before replay goes on.
    ReplayLast,
}

/// Steps after which a run is stuck.
const STEPS_MAX: u64 = 2_000;

pub(super) struct World {
    scene: Scene,
    copy: Copy,
    epoch: u64,
    crashed_in: Vec<u64>,
    seed: u64,
}

impl World {
    /// The copy has replayed all of the first log, and holds no mark.
    pub(super) fn new(scene: Scene, weakness: Weakness, pace: Pace, seed: u64) -> Self {
        let copy = Copy::new(scene.first.clone(), weakness, pace);
        Self { scene, copy, epoch: 1, crashed_in: Vec::new(), seed }
    }

    fn served(&self) -> &[Frame] {
        match self.epoch {
            1 => &self.scene.first,
            2 => &self.scene.second,
            _ => &self.scene.third,
        }
    }

    /// The copy hears of an epoch, climbs the ladder, and follows its log.
    pub(super) fn follow(&mut self, counter: u64) {
        self.epoch = counter;
        let served = self.served().to_vec();
        self.copy.connect(Epoch::new(0, counter), &served);
        let mut touched = Touched::Unknown;
        for _ in 0..10 {
            let standing = self.standing(touched);
            match climb(&standing).rung {
                Rung::Nothing => return self.followed(served),
                Rung::CutFork { to } => self.copy.cut(to),
                Rung::ReopenAtCheckpoint { .. } => self.copy.restart(),
                Rung::CountFork { from, to } => {
                    touched = Touched::Counted(self.fork(from, to).cost());
                }
                Rung::Resync { fork, estimated } => {
                    let set = self.fork(fork.position, standing.own_end.position);
                    let order = FetchOrder {
                        request: 1,
                        cause: Cause::Resync { fork, salvage: LogId::from_u128(1) },
                        role: CopyRole::Passive,
                        spans: set.spans(),
                        epoch: Epoch::new(0, counter),
                        donors: donors(counter),
                        estimate: estimated,
                    };
                    // The fork is cut, and the log followed, once the mark is durable.
                    return self.copy.begin(order, served);
                }
                rung @ (Rung::Seed { .. } | Rung::Wait { .. }) => panic!("{rung:?}"),
            }
        }
        panic!("the ladder has no end");
    }

    fn followed(&mut self, served: Vec<Frame>) {
        self.copy.log = served;
        let (epoch, donors) = (Epoch::new(0, self.epoch), donors(self.epoch));
        self.copy.step(FetchEvent::EpochChanged { epoch, donors });
    }

    fn standing(&self, touched: Touched) -> Standing {
        let copy = &self.copy;
        let shared = copy.log.iter().zip(self.served()).take_while(|(own, other)| own == other);
        let mark = copy.mark();
        let stands = |found: Position| mark.as_ref().map_or(found, |m| m.store_position(found));
        Standing {
            own_end: copy.log.last().map_or(LogEnd::ZERO, |frame| frame.end),
            common: shared.last().map_or(LogEnd::ZERO, |(own, _)| own.end),
            own_log_from: Position::ZERO,
            donor_log_from: Position::ZERO,
            donor_opens_here: false,
            replayed: stands(copy.position().position),
            checkpointed: stands(copy.checkpointed),
            committed: copy.position().position,
            discard_allowed: true,
            touched,
            store_bytes: 1 << 30,
            resync_percent_max: 50,
            generation_bytes: 1 << 20,
        }
    }

    fn fork(&self, from: Position, to: Position) -> TouchedSet {
        let mut set = TouchedSet::default();
        let inside = |frame: &&Frame| frame.end.position > from && frame.end.position <= to;
        let records = self.copy.log.iter().filter(inside).flat_map(|frame| &frame.records);
        records.for_each(|record| set.add(record));
        set
    }

    /// Lets the copy work until it crashes, has nothing left to do, or breaks a rule. After a crash
    /// it is started again, and knows no epoch yet.
    pub(super) fn go_on(&mut self, crash: Crash) {
        if let Crash::AtDiskCall(call) = crash {
            self.copy.disk.crash_at(self.copy.disk.operations() + call);
        }
        for step in 1..=STEPS_MAX {
            let due = match crash {
                Crash::Never => false,
                Crash::AtStep(wanted) => step == wanted,
                Crash::AtDiskCall(_) => self.copy.disk_crashed,
                Crash::BetweenDataAndQ => self.copy.has_recorded_data(),
            };
            if due {
                self.crashed_in.push(self.epoch);
                self.copy.power_cycle(self.seed);
                return;
            }
            if self.copy.violation.is_some() || !self.copy.work() {
                return;
            }
        }
        panic!("stuck at {}", self.state());
    }

    pub(super) fn violation(&self) -> Option<&Violation> {
        self.copy.violation.as_ref()
    }

    pub(super) fn violated(&self) -> Option<&'static str> {
        self.violation().map(|violation| violation.property)
    }

    /// No mark stands, and everything is replayed.
    pub(super) fn is_done(&self) -> bool {
        let end = self.served().last().map(|frame| frame.end);
        self.copy.machine.is_whole() && end == Some(self.copy.position())
    }

    pub(super) fn state(&self) -> String {
        format!("{} with {:?}", self.copy.position(), self.copy.machine.view())
    }

    pub(super) fn has_crashed_in(&self, epoch: u64) -> bool {
        self.crashed_in.contains(&epoch)
    }
}

fn donors(counter: u64) -> Vec<Donor> {
    let (copy, member) = (u128::from(counter), u128::from(counter));
    vec![Donor { copy: CopyId::from_u128(copy), member: MemberId::from_u128(member) }]
}

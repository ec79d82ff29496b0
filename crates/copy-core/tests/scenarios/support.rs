//! A machine on a bench: short names for ids and positions, and steps that return their actions.

use std::collections::BTreeSet;
use std::time::Duration;

use keelson_copy_core::divergence::Verdict;
use keelson_copy_core::{
    Action, Assignment, CopyConfig, CopyMachine, Event, LogSource, MountOrder, OpenOffer, PeerCopy,
    Recovered,
};
use keelson_types::{
    CommitConstraint, CommitRule, CopyId, DatabaseId, Epoch, EpochStart, EpochTable, LogEnd,
    MemberId, Participant, Position, SiteName, StreamId, Suspension, Tick, Weakness,
};

/// This copy is `copy(0)` on `member(0)`; the others count on.
pub(crate) fn copy(n: u128) -> CopyId {
    CopyId::from_u128(n)
}

pub(crate) fn member(n: u128) -> MemberId {
    MemberId::from_u128(100 + n)
}

pub(crate) fn epoch(counter: u64) -> Epoch {
    Epoch::new(0, counter)
}

/// Generation and offset.
pub(crate) fn at(generation: u64, offset: u64) -> Position {
    Position::new(generation, offset)
}

pub(crate) fn end(counter: u64, position: Position) -> LogEnd {
    LogEnd { epoch: epoch(counter), position }
}

pub(crate) fn start(counter: u64, previous_end: Position) -> EpochStart {
    EpochStart {
        epoch: epoch(counter),
        previous_end,
        chain: u32::try_from(counter).expect("small"),
    }
}

pub(crate) fn table(rows: &[EpochStart]) -> EpochTable {
    EpochTable::from_rows(rows.to_vec()).expect("rising")
}

pub(crate) fn rule(version: u64, active: u128, copies: &[u128]) -> CommitRule {
    let participants = copies.iter().map(|n| Participant {
        copy: copy(*n),
        member: member(*n),
        site: SiteName::new("a").expect("valid"),
    });
    CommitRule {
        version,
        active: copy(active),
        constraint: CommitConstraint::SecondCopy,
        participants: participants.collect(),
    }
}

/// Three copies; `degrade_after` 10 s, `dismount_after` 30 s.
pub(crate) fn assignment(epoch: Epoch, active: Option<u128>) -> Assignment {
    let peer = |n| PeerCopy {
        copy: copy(n),
        member: member(n),
        site: SiteName::new("a").expect("valid"),
        may_count: true,
        suspended: false,
    };
    Assignment {
        epoch,
        active: active.map(copy),
        rule: None,
        constraint: CommitConstraint::SecondCopy,
        copies: (0..3).map(peer).collect(),
        degrade_after: Some(Duration::from_secs(10)),
        dismount_after: Duration::from_secs(30),
        suspension: Suspension::NONE,
        discards: Vec::new(),
        bounded: false,
        ceiling: keelson_copy_core::RecordedCeiling::default(),
    }
}

pub(crate) fn order(counter: u64, required_end: LogEnd, sources: &[u128]) -> MountOrder {
    let source = |n: &u128| LogSource { member: member(*n), copy: copy(*n), end: required_end };
    MountOrder {
        epoch: epoch(counter),
        rule: rule(1, 0, &[0, 1, 2]),
        required_end,
        sources: sources.iter().map(source).collect(),
        ceiling: None,
    }
}

/// An offer of `member(1)`.
pub(crate) fn offer(counter: u64, rows: &[EpochStart], end: Position) -> OpenOffer {
    OpenOffer {
        member: member(1),
        epoch: epoch(counter),
        stream: StreamId::from_u128(7),
        table: table(rows),
        end,
        committed: Position::ZERO,
        log_from: Position::ZERO,
    }
}

pub(crate) struct Bench {
    pub(crate) machine: CopyMachine,
    pub(crate) now: Tick,
    /// What the ladder of divergence said.
    pub(crate) verdicts: Vec<Verdict>,
}

impl Bench {
    pub(crate) fn new(found: Recovered) -> Self {
        Self::weak(found, Weakness::None)
    }

    pub(crate) fn weak(found: Recovered, weakness: Weakness) -> Self {
        let config = CopyConfig {
            database: DatabaseId::from_u128(1),
            copy: copy(0),
            member: member(0),
            stream: StreamId::from_u128(7),
            weakness,
        };
        let machine = CopyMachine::new(config, found);
        Self { machine, now: Tick(0), verdicts: Vec::new() }
    }

    pub(crate) fn empty() -> Self {
        Self::new(Recovered::default())
    }

    /// Steps; what the ladder of divergence says is kept apart.
    pub(crate) fn step(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.machine.step(self.now, event, &mut out);
        out.retain(|action| match action {
            Action::Climbed(verdict) => {
                self.verdicts.push(verdict.clone());
                false
            }
            _ => true,
        });
        out
    }

    /// Steps and asserts the exact actions.
    #[track_caller]
    pub(crate) fn check(&mut self, event: Event, expected: &[Action]) {
        let shown = format!("{event:?}");
        let actions = self.step(event);
        assert_eq!(actions, expected, "after {shown}");
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        self.now = self.now.after(duration);
    }

    /// Carries out saves and cuts at once until nothing more comes; returns all other actions.
    pub(crate) fn settle(&mut self, event: Event) -> Vec<Action> {
        let mut todo = self.step(event);
        let mut others = Vec::new();
        while !todo.is_empty() {
            let mut next = Vec::new();
            for action in todo {
                match action {
                    Action::SaveControl { save, .. } => {
                        next.extend(self.step(Event::ControlSaved { save }));
                    }
                    other => others.push(other),
                }
            }
            todo = next;
        }
        others
    }

    /// Seals for the epoch.
    pub(crate) fn seal(&mut self, counter: u64) {
        let replies = self.settle(Event::Seal { request: 900, epoch: epoch(counter) });
        assert!(matches!(replies.last(), Some(Action::SealReply { answer: Ok(_), .. })));
    }

    /// Active in the epoch with the given peers connected and matched; the opening frame ends at
    /// 1:100 and is durable here, but not committed. The log before it was empty.
    pub(crate) fn active(counter: u64, peers: &[u128]) -> Self {
        let mut bench = Self::empty();
        bench.step(Event::Assigned(assignment(epoch(counter), None)));
        bench.seal(counter);
        for n in peers {
            bench.step(Event::PeerUp { member: member(*n) });
        }
        let begun =
            bench.settle(Event::Mount { request: 1, order: order(counter, LogEnd::ZERO, &[]) });
        assert_eq!(begun, [Action::BeginEpoch { epoch: epoch(counter) }]);
        bench.step(Event::Assigned(Assignment {
            rule: Some(rule(1, 0, &[0, 1, 2])),
            ..assignment(epoch(counter), Some(0))
        }));
        bench.settle(Event::EpochBegun { start: start(counter, Position::ZERO), end: at(1, 100) });
        for n in peers {
            bench.opened(*n, counter, Position::ZERO);
        }
        bench.step(Event::Logged { end: end(counter, at(1, 100)) });
        bench
    }

    /// As [`Self::active`], serving, with everything acknowledged by all peers.
    pub(crate) fn serving(counter: u64, peers: &[u128]) -> Self {
        let mut bench = Self::active(counter, peers);
        for n in peers {
            bench.acked(*n, counter, at(1, 100));
        }
        let actions = bench.step(Event::Replayed { to: at(1, 100) });
        assert!(actions.contains(&Action::Serve { epoch: epoch(counter) }), "{actions:?}");
        bench
    }

    pub(crate) fn opened(&mut self, n: u128, counter: u64, matched: Position) -> Vec<Action> {
        let (copy, epoch) = (copy(n), epoch(counter));
        self.step(Event::Opened { copy, epoch, matched, chain_matches: true })
    }

    pub(crate) fn acked(&mut self, n: u128, counter: u64, durable: Position) -> Vec<Action> {
        self.step(Event::Acked { copy: copy(n), epoch: epoch(counter), durable })
    }

    /// Appends a frame up to `position` that is durable at once.
    pub(crate) fn write(&mut self, counter: u64, position: Position) -> Vec<Action> {
        let mut actions = self.step(Event::Appended { end: position });
        actions.extend(self.step(Event::Logged { end: end(counter, position) }));
        actions
    }

    /// A passive of `member(1)` in the epoch, matched, with an empty log.
    pub(crate) fn passive(counter: u64) -> Self {
        let mut bench = Self::empty();
        let offer = offer(counter, &[start(counter, Position::ZERO)], at(1, 100));
        let accepted = bench.settle(Event::Open(offer));
        assert!(matches!(accepted[..], [Action::SendOpened { .. }]), "{accepted:?}");
        bench.step(Event::Matched { epoch: epoch(counter) });
        bench
    }

    /// Bytes up to `position` of the session of this epoch arrive.
    pub(crate) fn received(&mut self, counter: u64, position: Position) -> Vec<Action> {
        let starts = match self.machine.table().last_epoch() < epoch(counter) {
            true => vec![start(counter, self.machine.end().position)],
            false => Vec::new(),
        };
        self.settle(Event::Received { epoch: epoch(counter), end: end(counter, position), starts })
    }

    pub(crate) fn dead(&mut self, members: &[u128]) -> Vec<Action> {
        let dead: BTreeSet<_> = members.iter().map(|n| member(*n)).collect();
        self.step(Event::MembersDead(dead))
    }
}

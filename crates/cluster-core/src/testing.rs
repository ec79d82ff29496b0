//! Small worlds for the tests of this crate.

use keelson_types::{
    CommitConstraint, CommitRule, CopyId, DatabaseId, DatabaseName, Epoch, IncarnationId, LogEnd,
    MemberId, MemberName, Participant, Position, SiteName, StreamId,
};

use crate::command::{Answer, Command, Outcome};
use crate::member::MemberConfig;
use crate::order::SealReply;
use crate::state::{ClusterState, CopyKind, DatabaseSettings, NewCopy, RuleRecord};

pub(crate) const DB: DatabaseId = DatabaseId::from_u128(1);

pub(crate) fn member(n: u128) -> MemberId {
    MemberId::from_u128(n)
}

/// The first life of a member's data process.
pub(crate) fn life(n: u128) -> IncarnationId {
    IncarnationId::from_u128(100 + n)
}

/// The copy of [`DB`] on member `n`.
pub(crate) fn copy(n: u128) -> CopyId {
    copy_of(1, n)
}

pub(crate) fn copy_of(database: u128, n: u128) -> CopyId {
    CopyId::from_u128(database * 1_000 + n)
}

pub(crate) fn epoch(counter: u64) -> Epoch {
    Epoch::new(0, counter)
}

pub(crate) fn end(counter: u64, offset: u64) -> LogEnd {
    LogEnd { epoch: epoch(counter), position: Position::new(1, offset) }
}

pub(crate) fn site(name: &str) -> SiteName {
    SiteName::new(name).expect("a valid name")
}

pub(crate) fn member_config(n: u128) -> MemberConfig {
    MemberConfig {
        id: member(n),
        node: u64::try_from(n).expect("small"),
        name: MemberName::new(format!("m{n}")).expect("a valid name"),
        site: site("here"),
        control_address: format!("m{n}:7001"),
        data_address: format!("m{n}:7002"),
        replication_addresses: Vec::new(),
        voter: true,
    }
}

pub(crate) fn new_copy(database: u128, n: u128) -> NewCopy {
    NewCopy {
        copy: copy_of(database, n),
        member: member(n),
        preference: u32::try_from(n).expect("small"),
        kind: CopyKind::Ha,
    }
}

pub(crate) fn create(database: u128, copies: &[u128]) -> Command {
    Command::CreateDatabase {
        id: DatabaseId::from_u128(database),
        name: DatabaseName::new(format!("DB{database}")).expect("a valid name"),
        stream: StreamId::from_u128(database),
        settings: DatabaseSettings::default(),
        copies: copies.iter().map(|n| new_copy(database, *n)).collect(),
    }
}

/// A rule of [`DB`] under which the copies of members `n` count.
pub(crate) fn rule(
    version: u64,
    active: u128,
    constraint: CommitConstraint,
    members: &[u128],
) -> CommitRule {
    let participants = members.iter().map(|n| Participant {
        copy: copy(*n),
        member: member(*n),
        site: site("here"),
    });
    let (active, participants) = (copy(active), participants.collect());
    CommitRule { version, active, constraint, participants }
}

pub(crate) fn rule_record(counter: u64, rule: CommitRule) -> RuleRecord {
    let incarnation =
        IncarnationId::from_u128(100 + u128::from_be_bytes(rule.active.into_bytes()) % 1_000);
    RuleRecord::new(epoch(counter), incarnation, rule)
}

pub(crate) fn reply(n: u128, sealed: Epoch, end: LogEnd) -> SealReply {
    SealReply {
        copy: copy(n),
        member: member(n),
        sealed,
        end,
        committed: Position::ZERO,
        replayed: Position::ZERO,
        fault: None,
        may_have_lost: false,
        ha: true,
        health: crate::CopyHealth::default(),
    }
}

/// A state and the index of its last command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) state: ClusterState,
    pub(crate) index: u64,
}

impl Log {
    /// Members 1 to `members` with their first lives, no databases.
    pub(crate) fn with_members(members: u128) -> Self {
        let mut log = Self::default();
        for n in 1..=members {
            log.ok(&Command::AddMember { member: member_config(n) });
            log.ok(&Command::StartIncarnation { member: member(n), incarnation: life(n) });
        }
        log
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, command)
    }

    #[track_caller]
    pub(crate) fn ok(&mut self, command: &Command) -> Answer {
        self.apply(command).into_result().expect("the command is accepted")
    }

    /// Applies a command that must be refused, and checks that it changed nothing.
    #[track_caller]
    pub(crate) fn refused(&mut self, reason: keelson_types::RefusalReason, command: &Command) {
        let before = self.state.clone();
        let refusal = self.apply(command).into_result().expect_err("the command is refused");
        assert_eq!(refusal.reason, reason, "{}", refusal.message);
        assert_eq!(self.state, before, "a refused command changes nothing");
    }
}

/// Numbers from a seed (splitmix64), for tests that try many orders.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound.max(1) as u64).expect("below the bound")
    }

    pub(crate) fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

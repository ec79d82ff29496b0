//! Long work that a client can ask about: the id is the client's, so a retried request is the same
//! work.

use keelson_types::{
    CopyId, DatabaseId, DatabaseState, Epoch, MemberId, MountDial, MountIntent, OperationId,
    RehearsalStep, SeedProgress,
};
use serde::{Deserialize, Serialize};

use crate::command::Refusal;
use crate::loss::{AcceptedLoss, LossReceipt};
use crate::point_in_time::ActivateAt;
use crate::schedule::ScheduledMove;
use crate::state::Database;

/// What is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// A planned move of the active role.
    Switchover {
        /// The database.
        database: DatabaseId,
        /// Where to.
        to: MemberId,
        /// Why, in the operator's words; may be empty.
        #[serde(default)]
        comment: String,
        /// What the operator's word allows beyond an ordinary move.
        #[serde(default)]
        options: MoveOptions,
    },
    /// A switchover that waits for its time, and ends when that begins.
    ScheduledMove(Box<ScheduledMove>),
    /// Opens a database.
    Mount {
        /// The database.
        database: DatabaseId,
        /// If no copy can be opened without loss, one that can be opened with it.
        #[serde(default)]
        accept_loss: Option<AcceptedLoss>,
    },
    /// Makes an instant of a copy the truth.
    ActivateAt {
        /// The database.
        database: DatabaseId,
        /// The copy and the instant.
        order: ActivateAt,
    },
    /// Closes a database.
    Dismount {
        /// The database.
        database: DatabaseId,
    },
    /// Seeds a copy.
    Seed {
        /// The database.
        database: DatabaseId,
        /// The copy to be filled.
        copy: CopyId,
    },
    /// Rehearses a move to a copy; the leader carries it out and changes nothing by it.
    Rehearsal {
        /// The database.
        database: DatabaseId,
        /// The copy that the move would activate.
        copy: CopyId,
    },
    /// Anything else, by a short name.
    Other(String),
}

/// What an operator allows a switchover.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveOptions {
    /// Where the old active is not reached and nothing proves that nothing is missing, the target
    /// is opened with loss, whatever it is (the mount dial `best_effort`, F22).
    #[serde(default)]
    pub accept_loss: bool,
    /// How much may be missing; none for the dial of the target's member (F23).
    #[serde(default = "lossless")]
    pub dial: Option<MountDial>,
}

// A move without another word is lossless, whatever the dials of members say.
#[expect(clippy::unnecessary_wraps, reason = "the default of a field")]
const fn lossless() -> Option<MountDial> {
    Some(MountDial::Lossless)
}

impl Default for MoveOptions {
    fn default() -> Self {
        Self::of_dial(lossless())
    }
}

impl MoveOptions {
    /// The options that a mount dial means.
    #[must_use]
    pub fn of_dial(dial: Option<MountDial>) -> Self {
        Self { accept_loss: dial == Some(MountDial::BestEffort), dial }
    }
}

/// Where a database was and is, for the result of a switchover (F37).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The member of its active copy.
    pub active: Option<MemberId>,
    /// Whether it serves.
    pub mounted: bool,
}

impl Whereabouts {
    /// Where a database is by the replicated state.
    #[must_use]
    pub fn of(database: &Database) -> Self {
        let open = database.intent == MountIntent::Mounted;
        let mounted = open && database.state == DatabaseState::Established;
        Self { active: database.target_member(), mounted }
    }
}

/// The result of a switchover (F37).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// When it was asked for.
    pub start: Whereabouts,
    /// The database's epoch then.
    pub epoch: Epoch,
    /// When it ended.
    #[serde(default)]
    pub end: Option<Whereabouts>,
    /// What was given up on the way; nothing by a lossless move.
    #[serde(default)]
    pub receipt: Option<LossReceipt>,
}

impl Moved {
    /// The beginning of a move.
    #[must_use]
    pub fn begin(database: &Database) -> Self {
        let (start, epoch) = (Whereabouts::of(database), database.epoch);
        Self { start, epoch, end: None, receipt: None }
    }

    /// Its end.
    pub fn finish(&mut self, database: &Database) {
        self.end = Some(Whereabouts::of(database));
        let mut receipts = database.receipts.iter().rev();
        self.receipt = receipts.find(|receipt| receipt.epoch > self.epoch).cloned();
    }
}

/// Where an operation stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Over without success.
    Failed(Refusal),
}

/// An operation and its progress.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// Chosen by the client.
    pub id: OperationId,
    /// What is done.
    pub kind: OperationKind,
    /// Where it stands.
    pub state: OperationState,
    /// 0 to 100.
    pub progress_percent: u8,
    /// For people.
    pub message: String,
    /// How far a seed is.
    #[serde(default)]
    pub seed: Option<Box<SeedProgress>>,
    /// What became of a switchover.
    #[serde(default)]
    pub moved: Option<Box<Moved>>,
    /// Index of the command that recorded it.
    pub started_at_index: u64,
    /// Wall clock when it was recorded, in Unix milliseconds.
    #[serde(default)]
    pub started_unix_ms: u64,
    /// Wall clock of the last change, in Unix milliseconds.
    pub updated_unix_ms: u64,
}

impl Operation {
    /// Whether it ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state != OperationState::Running
    }

    /// What it is about at the moment, in a word for people, as its database shows it.
    #[must_use]
    pub fn phase(&self, database: Option<&Database>) -> &'static str {
        if self.is_finished() {
            return "ended";
        }
        if let Some(seed) = &self.seed {
            return seed.phase.name();
        }
        match self.kind {
            OperationKind::ScheduledMove(_) => return "waiting for its time",
            OperationKind::Rehearsal { .. } => {
                return RehearsalStep::at(self.progress_percent).name();
            }
            _ => {}
        }
        let Some(database) = database else { return "begun" };
        let open = database.intent == MountIntent::Mounted;
        let shows_it = match &self.kind {
            OperationKind::Dismount { .. } => return if open { "begun" } else { "closing" },
            OperationKind::Seed { .. }
            | OperationKind::ScheduledMove(_)
            | OperationKind::Rehearsal { .. }
            | OperationKind::Other(_) => false,
            OperationKind::Mount { .. } => open,
            // Until its own epoch is recorded, the database shows the former active's.
            OperationKind::Switchover { to, .. }
            | OperationKind::ActivateAt { order: ActivateAt { on: to, .. }, .. } => {
                database.state == DatabaseState::Sealing || database.target_member() == Some(*to)
            }
        };
        match database.state {
            DatabaseState::Sealing if shows_it => "sealing copies",
            DatabaseState::Activating if shows_it => "mounting",
            DatabaseState::Established if shows_it => "serving",
            _ => "begun",
        }
    }

    /// The database that it is about.
    #[must_use]
    pub const fn database(&self) -> Option<DatabaseId> {
        match &self.kind {
            OperationKind::Switchover { database, .. }
            | OperationKind::Mount { database, .. }
            | OperationKind::ActivateAt { database, .. }
            | OperationKind::Dismount { database }
            | OperationKind::Seed { database, .. }
            | OperationKind::Rehearsal { database, .. } => Some(*database),
            OperationKind::ScheduledMove(order) => Some(order.database),
            OperationKind::Other(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DB, Log, copy, create, member};

    fn operation(kind: OperationKind) -> Operation {
        Operation {
            id: OperationId::from_u128(1),
            kind,
            state: OperationState::Running,
            progress_percent: 0,
            message: String::new(),
            seed: None,
            moved: None,
            started_at_index: 1,
            started_unix_ms: 0,
            updated_unix_ms: 0,
        }
    }

    #[test]
    fn the_phase_follows_the_database() {
        use DatabaseState::{Activating, Established, New, Sealing};
        let to = |n| OperationKind::Switchover {
            database: DB,
            to: member(n),
            comment: String::new(),
            options: MoveOptions::default(),
        };
        let (mount, dismount) = (
            OperationKind::Mount { database: DB, accept_loss: None },
            OperationKind::Dismount { database: DB },
        );
        let (open, closed) = (MountIntent::Mounted, MountIntent::Dismounted);
        // The target of the database is on member 1.
        let cases = [
            (to(2), Established, open, "begun"),
            (to(2), Sealing, open, "sealing copies"),
            (to(2), Activating, open, "begun"),
            (to(1), Activating, open, "mounting"),
            (to(1), Established, open, "serving"),
            (mount.clone(), Established, closed, "begun"),
            (mount.clone(), New, open, "begun"),
            (mount, Sealing, open, "sealing copies"),
            (dismount.clone(), Established, open, "begun"),
            (dismount, Established, closed, "closing"),
        ];
        let mut log = Log::with_members(2);
        log.ok(&create(1, &[1, 2]));
        let database = log.state.databases.get_mut(&DB).unwrap();
        database.target = Some(copy(1));
        for (kind, state, intent, phase) in cases {
            (database.state, database.intent) = (state, intent);
            assert_eq!(operation(kind.clone()).phase(Some(database)), phase, "{kind:?}, {state:?}");
        }
        let ended = Operation { state: OperationState::Succeeded, ..operation(to(1)) };
        assert_eq!((ended.phase(Some(database)), ended.phase(None)), ("ended", "ended"));
    }
}

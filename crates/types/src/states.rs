//! States that status pages and errors show.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a copy is doing, as shown by `copy status` (F47-F51; the model's vocabulary).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum CopyStatus {
    /// Active and serving.
    Mounted,
    /// Active copy of a database that is being opened.
    Mounting,
    /// Active copy of a database that is not open.
    Dismounted,
    /// Active copy of a database that is being closed.
    Dismounting,
    /// Active without a lease: it answers nothing until the lease returns or it dismounts.
    Held,
    /// Passive, connected, replaying.
    Healthy,
    /// Passive and not yet connected since its start.
    Initializing,
    /// Passive, connected, behind, catching up.
    Resynchronizing,
    /// Passive that lost its source and knows nothing newer.
    DisconnectedAndHealthy,
    /// Passive that lost its source while it was catching up.
    DisconnectedAndResynchronizing,
    /// Cannot go on; retried.
    Failed,
    /// Cannot go on and waits for an operator.
    FailedAndSuspended,
    /// Stopped by an operator.
    Suspended,
    /// Being seeded.
    Seeding,
    /// Passive, healthy, and read as the source of a seed.
    SeedingSource,
    /// Passive with damaged ranges that are being fetched from another copy.
    RangeRepair,
    /// Its member does not answer.
    ServiceDown,
    /// The status could not be obtained.
    Unknown,
}

impl CopyStatus {
    /// All states, for those who read their names.
    pub const ALL: [Self; 18] = [
        Self::Mounted,
        Self::Mounting,
        Self::Dismounted,
        Self::Dismounting,
        Self::Held,
        Self::Healthy,
        Self::Initializing,
        Self::Resynchronizing,
        Self::DisconnectedAndHealthy,
        Self::DisconnectedAndResynchronizing,
        Self::Failed,
        Self::FailedAndSuspended,
        Self::Suspended,
        Self::Seeding,
        Self::SeedingSource,
        Self::RangeRepair,
        Self::ServiceDown,
        Self::Unknown,
    ];
}

impl fmt::Display for CopyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mounted => "Mounted",
            Self::Mounting => "Mounting",
            Self::Dismounted => "Dismounted",
            Self::Dismounting => "Dismounting",
            Self::Held => "Held",
            Self::Healthy => "Healthy",
            Self::Initializing => "Initializing",
            Self::Resynchronizing => "Resynchronizing",
            Self::DisconnectedAndHealthy => "DisconnectedAndHealthy",
            Self::DisconnectedAndResynchronizing => "DisconnectedAndResynchronizing",
            Self::Failed => "Failed",
            Self::FailedAndSuspended => "FailedAndSuspended",
            Self::Suspended => "Suspended",
            Self::Seeding => "Seeding",
            Self::SeedingSource => "SeedingSource",
            Self::RangeRepair => "RangeRepair",
            Self::ServiceDown => "ServiceDown",
            Self::Unknown => "Unknown",
        })
    }
}

/// What consensus says a copy is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyRole {
    /// Serves (or will, in the newest epoch).
    Active,
    /// Receives and replays.
    Passive,
}

/// Whether an operator wants a database open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountIntent {
    /// The active manager keeps one copy mounted.
    Mounted,
    /// It stays closed until an operator mounts it.
    Dismounted,
}

/// What consensus knows of a database's newest epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseState {
    /// Never activated.
    New,
    /// An epoch is allocated, its copy not yet chosen.
    Sealing,
    /// The copy of the newest epoch is recorded and has not yet reported itself established.
    Activating,
    /// The active of the newest epoch committed its opening frame.
    Established,
}

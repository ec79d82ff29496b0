//! Seeding a copy as values: what was asked for, how far it is.
//!
//! An order is part of the configuration of the copy in consensus while the seed runs, so that the
//! copy's member finds it after a restart, and nothing else is done with the copy meanwhile.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{CopyId, MemberId, OperationId};

/// Space that a seed leaves free on each volume, beside what it needs: recovery of the member's
/// copies must go on (G7).
pub const SEED_RESERVE_BYTES: u64 = 128 * 1024 * 1024;

/// Log that comes along with a checkpoint, at most, in bytes: so that its index can go on.
pub const SEED_LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What becomes of the files that the seed replaces, once the new ones are in place (G4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldFiles {
    /// They stay, under the id of the copy that they belong to.
    #[default]
    Keep,
    /// They are removed: only what the old copy's own control file names.
    Delete,
}

/// What a seed makes anew (F53).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedScope {
    /// Store and log, and the content index if the source has a healthy one.
    #[default]
    Everything,
    /// Store and log; the new copy makes its index itself.
    Database,
    /// The content index of a copy that otherwise stays what it is, and goes on.
    Catalog,
}

impl SeedScope {
    /// Its name, for people and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Database => "database",
            Self::Catalog => "catalog",
        }
    }

    /// Whether a new copy takes the place of the old one.
    #[must_use]
    pub const fn makes_copy(self) -> bool {
        !matches!(self, Self::Catalog)
    }

    /// Whether a content index is fetched.
    #[must_use]
    pub const fn takes_catalog(self) -> bool {
        !matches!(self, Self::Database)
    }
}

impl fmt::Display for SeedScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// That a seed leaves a failed volume of its member for a spare one (F131).
///
/// It names the volume that is left, so that an order that is carried out twice moves a copy once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SpareOrder {
    /// The directory of the failed volume, as its member names it.
    pub leaves: String,
    /// Bytes that the spare must have beside what stays free on it.
    pub bytes: u64,
}

/// A seed that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeedOrder {
    /// The operation that shows it.
    pub operation: OperationId,
    /// The copy that the seed makes: what it holds was acknowledged by no copy (review R4). Means
    /// nothing for an index alone.
    pub copy: CopyId,
    /// What is made anew.
    #[serde(default)]
    pub scope: SeedScope,
    /// The only source allowed; nothing for any healthy copy (F54).
    #[serde(default)]
    pub source: Option<MemberId>,
    /// What becomes of the old files (F67).
    #[serde(default)]
    pub old_files: OldFiles,
    /// The copy stays suspended afterwards (F58).
    #[serde(default)]
    pub manual_resume: bool,
    /// Send as fast as it goes, whatever the writers of the source's member feel (F66).
    #[serde(default)]
    pub no_throttle: bool,
    /// The network to use before any other (F55).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Whether to compress, whatever the policy says (F57).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<bool>,
    /// The copy is made on a spare volume; nothing for where the old one lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spare: Option<SpareOrder>,
}

/// Where a seed is; the 28 steps of the model in six phases.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedPhase {
    /// Recorded; its member has not heard of it (steps 1 to 8).
    #[default]
    Begun,
    /// Directories are made, what an earlier life left is looked at (9).
    Preparing,
    /// The source makes a checkpoint and lists it with sizes and digests (10, 11).
    Checkpointing,
    /// Files arrive in `temp-seeding` and `ci-seed.temp` (12 to 15, 21 to 24).
    Transferring,
    /// One write makes the files those of the copy (16, 25).
    Installing,
    /// Consensus takes the new copy in; it resumes (27, 28).
    Resuming,
}

impl SeedPhase {
    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Preparing => "preparing",
            Self::Checkpointing => "checkpointing",
            Self::Transferring => "transferring",
            Self::Installing => "installing",
            Self::Resuming => "resuming",
        }
    }
}

impl fmt::Display for SeedPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How far a seed is (F69).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SeedProgress {
    /// The phase.
    pub phase: SeedPhase,
    /// The member that it is fed by.
    pub source: Option<MemberId>,
    /// What is made anew.
    pub scope: SeedScope,
    /// Files that are verified and durable.
    pub files_done: u64,
    /// All files.
    pub files: u64,
    /// Their bytes.
    pub bytes_done: u64,
    /// All bytes; while the source lists its checkpoint, those that it has to read.
    pub bytes: u64,
    /// Bytes that came over the network in this attempt, those sent again included.
    pub bytes_received: u64,
    /// Bytes per second of late, over the network.
    pub bytes_per_second: u64,
    /// The same as they lie in files: more, if they are compressed on their way. 0 if it is not
    /// known.
    pub plain_bytes_per_second: u64,
    /// The network that the source was reached over last; empty if it has no name.
    pub network: String,
    /// Whether what comes is compressed on its way.
    pub compressed: bool,
    /// Who sends the log behind the checkpoint, while files arrive.
    pub log_source: Option<MemberId>,
    /// Bytes of that log that are durable on the target.
    pub log_bytes: u64,
    /// Why it began again, or what it waits for; for people.
    pub note: String,
}

impl SeedProgress {
    /// 0 to 100.
    #[must_use]
    pub fn percent(&self) -> u8 {
        if self.phase < SeedPhase::Transferring || self.bytes == 0 {
            return 0;
        }
        let share = u128::from(self.bytes_done) * 100 / u128::from(self.bytes);
        u8::try_from(share.min(100)).unwrap_or(100)
    }

    /// Seconds until everything has arrived, at the present rate.
    #[must_use]
    pub const fn seconds_left(&self) -> Option<u64> {
        let rate = match self.plain_bytes_per_second {
            0 => self.bytes_per_second,
            plain => plain,
        };
        self.bytes.saturating_sub(self.bytes_done).checked_div(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_the_share_of_verified_bytes() {
        let mut progress = SeedProgress { bytes: 200, bytes_done: 50, ..SeedProgress::default() };
        assert_eq!(progress.percent(), 0, "nothing is transferred yet");
        progress.phase = SeedPhase::Transferring;
        assert_eq!((progress.percent(), progress.seconds_left()), (25, None));
        progress.bytes_per_second = 10;
        assert_eq!(progress.seconds_left(), Some(15));
        progress.plain_bytes_per_second = 30;
        assert_eq!(progress.seconds_left(), Some(5), "what is left is not compressed");
        progress.bytes_done = 300;
        assert_eq!((progress.percent(), progress.seconds_left()), (100, Some(0)));
    }
}

//! Volumes of a member that has several: what state one is in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a volume, as its member sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// It holds copies, or may, and nothing is known against it.
    #[default]
    Healthy,
    /// A copy on it failed, and so did the last look at the volume; one more look decides.
    Suspect,
    /// It cannot be written, synced and read: two looks in a row failed.
    Failed,
    /// Something else lies there, as an empty mount point: two looks did not find its marker.
    Missing,
    /// Copies left it for a spare. It keeps what it has and gets nothing new by itself.
    Retired,
    /// It waits until another volume fails.
    Spare,
}

impl VolumeState {
    /// All of them.
    pub const ALL: &'static [Self] =
        &[Self::Healthy, Self::Suspect, Self::Failed, Self::Missing, Self::Retired, Self::Spare];

    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
            Self::Missing => "missing",
            Self::Retired => "retired",
            Self::Spare => "spare",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.name() == name)
    }

    /// Whether copies cannot live there, whatever is tried with them.
    #[must_use]
    pub const fn is_lost(self) -> bool {
        matches!(self, Self::Failed | Self::Missing | Self::Retired)
    }
}

impl fmt::Display for VolumeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_a_name_of_its_own() {
        for state in VolumeState::ALL {
            assert_eq!(VolumeState::named(state.name()), Some(*state));
        }
    }
}

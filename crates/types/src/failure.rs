//! Classes of failures: one stable tag for each, the same in status, events, health and decisions
//! (F13).
//!
//! What is done about a tag stands in one table, in `cluster-core`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::CopyFault;

macro_rules! tags {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// What kind of failure a copy has. Names are never changed or used again.
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum FailureTag {
            $($(#[$doc])* $variant,)*
        }

        impl FailureTag {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The tag of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|tag| tag.name() == name)
            }
        }
    };
}

tags! {
    /// A write or sync of the log failed.
    LogIo = "log_io";
    /// Bytes of the log are damaged.
    LogDamaged = "log_damaged";
    /// The store failed, and opening it anew did not help.
    Store = "store";
    /// Bytes of the store are damaged.
    StoreDamaged = "store_damaged";
    /// The volume is full.
    NoSpace = "no_space";
    /// The copy left the log of its active beyond what it may cut by itself.
    Diverged = "diverged";
    /// Log that it needs is gone everywhere.
    MissingLog = "missing_log";
    /// A newer version wrote what it has to read.
    NeedsVersion = "needs_version";
    /// Keys of its store wait for another copy.
    Untrusted = "untrusted";
    /// Its files are gone; it becomes another copy.
    Forgotten = "forgotten";
    /// The data process died again and again while it started the copy.
    CrashLoop = "crash_loop";
    /// Its log makes no progress for longer than `slow_io_after`.
    SlowIo = "slow_io";
    /// Its log makes no progress for longer than `hung_io_after`.
    HungIo = "hung_io";
    /// No other copy's member reaches the data process of its member, and the other way round.
    DataNetwork = "data_network";
}

impl fmt::Display for FailureTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl CopyFault {
    /// The class of the fault.
    #[must_use]
    pub const fn tag(&self) -> FailureTag {
        match self {
            Self::LogIo(_) => FailureTag::LogIo,
            Self::LogDamaged(_) => FailureTag::LogDamaged,
            Self::Store(_) => FailureTag::Store,
            Self::StoreDamaged(_) => FailureTag::StoreDamaged,
            Self::DiskFull => FailureTag::NoSpace,
            Self::Diverged(_) => FailureTag::Diverged,
            Self::MissingLog(_) => FailureTag::MissingLog,
            Self::NeedsVersion(_) => FailureTag::NeedsVersion,
            Self::Untrusted(_) => FailureTag::Untrusted,
            Self::Forgotten => FailureTag::Forgotten,
            Self::CrashLoop => FailureTag::CrashLoop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_lead_back() {
        let names: BTreeSet<_> = FailureTag::ALL.iter().map(|tag| tag.name()).collect();
        assert_eq!(names.len(), FailureTag::ALL.len());
        for tag in FailureTag::ALL {
            assert_eq!(FailureTag::named(tag.name()), Some(*tag));
        }
    }
}

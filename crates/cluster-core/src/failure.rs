//! What is done about each class of failure: one table (F13).
//!
//! A row says what happens by itself when the *active* copy has the failure, what happens at a
//! *passive* one, and what automation may do if that did not help for long. The machines that act
//! (`copy-core` for a copy, [`crate::Manager`] for a database, [`crate::autoreseed`] for copies
//! that stay failed) follow these rows; tests compare them. What a row calls *alert* needs a
//! person.

use std::fmt;

use keelson_types::FailureTag;

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureAction {
    /// It is told; nothing else would help.
    Alert,
    /// The copy looks at the cause again and again and goes on when it is gone.
    Retry,
    /// What is damaged is made anew from the log or fetched from another copy.
    Mend,
    /// The database moves to another copy.
    Failover,
    /// The copy is made anew from another one.
    Reseed,
    /// The copy is left alone until an operator resumes it: what happened to it may happen again.
    Quarantine,
}

impl FailureAction {
    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Retry => "retry",
            Self::Mend => "mend",
            Self::Failover => "failover",
            Self::Reseed => "reseed",
            Self::Quarantine => "quarantine",
        }
    }
}

impl fmt::Display for FailureAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response {
    /// At the active copy.
    pub active: FailureAction,
    /// At a passive copy.
    pub passive: FailureAction,
    /// At a passive copy that has it still after a while.
    pub lasting: FailureAction,
}

/// The row of a tag.
#[must_use]
pub const fn response(tag: FailureTag) -> Response {
    use FailureAction::{Alert, Failover, Mend, Quarantine, Reseed, Retry};
    let (active, passive, lasting) = match tag {
        FailureTag::LogIo | FailureTag::Store => (Failover, Retry, Reseed),
        FailureTag::LogDamaged | FailureTag::StoreDamaged | FailureTag::Untrusted => {
            (Failover, Mend, Reseed)
        }
        // The log of another copy is as long; writes are refused until there is room (G7). A seed
        // needs more room, not less.
        FailureTag::NoSpace => (Alert, Retry, Alert),
        FailureTag::Diverged | FailureTag::MissingLog => (Failover, Reseed, Reseed),
        // The files are good.
        FailureTag::NeedsVersion => (Failover, Alert, Alert),
        // It becomes another copy as soon as consensus says so, and takes the log or a seed as
        // that.
        FailureTag::Forgotten => (Failover, Retry, Reseed),
        // Another copy of the same content may kill the process as well.
        FailureTag::CrashLoop => (Failover, Quarantine, Quarantine),
        // An active goes on, a passive leaves the commit rule by itself when it holds writers up.
        FailureTag::SlowIo => (Alert, Alert, Alert),
        // A disk that does not answer takes no seed either.
        FailureTag::HungIo => (Failover, Alert, Alert),
        // The files are good, and a seed would not get there either.
        FailureTag::DataNetwork => (Failover, Alert, Alert),
    };
    Response { active, passive, lasting }
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureAction as A;
    use FailureTag as T;

    /// F13: each tag and its actions, in words that stay.
    #[test]
    fn the_table_of_failures() {
        let table = [
            (T::LogIo, [A::Failover, A::Retry, A::Reseed]),
            (T::LogDamaged, [A::Failover, A::Mend, A::Reseed]),
            (T::Store, [A::Failover, A::Retry, A::Reseed]),
            (T::StoreDamaged, [A::Failover, A::Mend, A::Reseed]),
            (T::NoSpace, [A::Alert, A::Retry, A::Alert]),
            (T::Diverged, [A::Failover, A::Reseed, A::Reseed]),
            (T::MissingLog, [A::Failover, A::Reseed, A::Reseed]),
            (T::NeedsVersion, [A::Failover, A::Alert, A::Alert]),
            (T::Untrusted, [A::Failover, A::Mend, A::Reseed]),
            (T::Forgotten, [A::Failover, A::Retry, A::Reseed]),
            (T::CrashLoop, [A::Failover, A::Quarantine, A::Quarantine]),
            (T::SlowIo, [A::Alert, A::Alert, A::Alert]),
            (T::HungIo, [A::Failover, A::Alert, A::Alert]),
            (T::DataNetwork, [A::Failover, A::Alert, A::Alert]),
        ];
        assert_eq!(table.len(), FailureTag::ALL.len());
        for (tag, actions) in table {
            let Response { active, passive, lasting } = response(tag);
            assert_eq!([active, passive, lasting], actions, "{tag}");
            let json = serde_json::to_value(tag).expect("a word");
            assert_eq!(json, tag.name(), "events and status spell it alike");
        }
    }
}

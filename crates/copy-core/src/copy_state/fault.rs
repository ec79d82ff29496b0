//! Which faults heal by themselves and which wait for an operator (F47).

use keelson_types::{CopyFault, CopyStatus};

/// How a copy gets rid of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Healing {
    /// The cause is looked at again and again; the copy goes on when it is gone.
    Recheck,
    /// What is damaged is fetched from another copy, with growing pauses for as long as it takes:
    /// whoever has it may come back (F73 gives up after three times).
    Fetch,
    /// Only a resume, a seed or an automatic reseed helps.
    Operator,
}

/// How a fault heals.
#[must_use]
pub const fn healing(fault: &CopyFault) -> Healing {
    match fault {
        // Space returns, a volume answers again, a newer version is installed. A log whose sync
        // failed is never synced again: the recheck opens the copy anew and verifies its tail.
        CopyFault::LogIo(_)
        | CopyFault::Store(_)
        | CopyFault::StoreDamaged(_)
        | CopyFault::DiskFull
        | CopyFault::NeedsVersion(_)
        // Asks the cluster again for its new id.
        | CopyFault::Forgotten
        | CopyFault::Untrusted(_) => Healing::Recheck,
        CopyFault::LogDamaged(_) => Healing::Fetch,
        // Retrying cannot bring back log that is gone (F107), undo a fork (F82), or make a start
        // succeed that killed the process again and again (S9.6).
        CopyFault::MissingLog(_) | CopyFault::Diverged(_) | CopyFault::CrashLoop => {
            Healing::Operator
        }
    }
}

/// Failed while a fault may heal by itself, FailedAndSuspended when it does not. The driver then
/// suspends the copy, so that it stays so across restarts; not one that diverged, since what can be
/// done about that is found out anew at every connect.
#[must_use]
pub const fn fault_status(fault: &CopyFault) -> CopyStatus {
    match healing(fault) {
        Healing::Recheck | Healing::Fetch => CopyStatus::Failed,
        Healing::Operator => CopyStatus::FailedAndSuspended,
    }
}

//! Which faults heal by themselves and which wait for an operator (F47).

use keelson_types::{CopyFault, CopyStatus};

/// How often damaged or unfit log is fetched again before the copy waits for an operator (F73).
pub const RECOPY_ATTEMPTS_MAX: u32 = 3;

/// How a copy gets rid of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Healing {
    /// The cause is looked at again and again; the copy goes on when it is gone.
    Recheck,
    /// What is damaged is fetched from another copy, at most this often.
    Fetch {
        /// Attempts without success after which the copy waits for an operator.
        attempts_max: u32,
    },
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
        CopyFault::LogDamaged(_) => Healing::Fetch { attempts_max: RECOPY_ATTEMPTS_MAX },
        // Retrying cannot bring back log that is gone (F107), undo a fork (F82), or make a start
        // succeed that killed the process again and again (S9.6).
        CopyFault::MissingLog(_) | CopyFault::Diverged(_) | CopyFault::CrashLoop => {
            Healing::Operator
        }
    }
}

/// Failed while a fault may heal by itself, FailedAndSuspended when it does not or not any more.
/// The driver then suspends the copy, so that it stays so across restarts.
#[must_use]
pub const fn fault_status(fault: &CopyFault, attempts: u32) -> CopyStatus {
    match healing(fault) {
        Healing::Recheck => CopyStatus::Failed,
        Healing::Fetch { attempts_max } if attempts < attempts_max => CopyStatus::Failed,
        Healing::Fetch { .. } | Healing::Operator => CopyStatus::FailedAndSuspended,
    }
}

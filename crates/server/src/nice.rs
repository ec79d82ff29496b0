//! Raises the priority of the control process's threads a little, so that heartbeats and leases are
//! on time while the data process uses every core, and lowers that of threads that can wait. The
//! only module with unsafe code in this crate.
#![allow(unsafe_code)]

/// Five steps above normal: about three times the share of a normal thread.
const NICE: libc::c_int = -5;

/// The lowest priority: a sixtieth of the share of a normal thread, and whoever wakes up goes
/// first.
const QUIET: libc::c_int = 19;

/// Lowers the priority of the calling thread; threads that it starts are like it.
pub(crate) fn quiet_this_thread() {
    // SAFETY: as below.
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, QUIET) };
    debug_assert_eq!(outcome, 0, "lowering needs no privilege");
}

/// Tries to raise the priority of the calling thread. Fails without a privilege; that is no
/// problem.
pub(crate) fn raise_this_thread() {
    // SAFETY: setpriority takes three integers and touches no memory of this process. On Linux
    // PRIO_PROCESS with id 0 means the calling thread.
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if outcome != 0 {
        tracing::trace!("priority stays normal");
    }
}

//! The serve gate: may this process answer for a database right now?
//!
//! Written by the plane (lease messages, assignments) and by the owner of a copy (serving or not),
//! read on every reply path without a lock. A database answers only while its copy serves, the
//! process's lease has not run out, and the lease's revision covers the assignment (R8, R9).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keelson_types::{Epoch, Tick};

/// `CLOCK_BOOTTIME` now; it runs on while the machine sleeps (review S6).
#[must_use]
pub fn boottime_now() -> Tick {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    let time = time.expect("CLOCK_BOOTTIME exists on every supported kernel");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    Tick(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0))
}

/// The lease of this process's incarnation.
#[derive(Debug, Default)]
pub struct LeaseClock {
    expires: AtomicU64,
    revision: AtomicU64,
    /// Revision for which waiting answers were let go already.
    told: AtomicU64,
}

impl LeaseClock {
    /// Takes a grant: valid until `expires`, covering assignments up to `revision`.
    pub fn renew(&self, expires: Tick, revision: u64) {
        // Revision first: a reader that sees the later expiry with the older revision only waits.
        self.revision.store(revision, Ordering::SeqCst);
        self.expires.store(expires.0, Ordering::SeqCst);
    }

    /// Whether this revision is new: something assigned since may be covered now.
    pub(crate) fn take_news(&self, revision: u64) -> bool {
        self.told.swap(revision, Ordering::SeqCst) != revision
    }

    /// When the lease ends; zero if there never was one.
    #[must_use]
    pub fn expires(&self) -> Tick {
        Tick(self.expires.load(Ordering::SeqCst))
    }

    /// Whether there was a lease in this life. Before the first one, what consensus is said to have
    /// assigned may be an older picture than an earlier life of this member acted on.
    pub(crate) fn was_granted(&self) -> bool {
        self.expires() != Tick(0)
    }

    fn covers(&self, assigned_at: u64, now: Tick) -> bool {
        assigned_at <= self.revision.load(Ordering::SeqCst) && now < self.expires()
    }
}

/// The gate of one database's copy.
#[derive(Debug)]
pub struct ServeGate {
    lease: Arc<LeaseClock>,
    /// Epoch that the copy serves, packed; 0 while it serves none.
    serving: AtomicU64,
    /// Newest epoch that consensus assigned to this copy, packed; 0 if none.
    assigned: AtomicU64,
    assigned_at: AtomicU64,
}

/// One word that is equal for equal epochs alone: a database is not activated four billion times.
/// A generation takes all of its 32 bits, being a time.
fn pack(epoch: Epoch) -> u64 {
    u64::from(epoch.recovery) << 32 | epoch.counter & u64::from(u32::MAX)
}

impl ServeGate {
    /// A closed gate.
    #[must_use]
    pub fn new(lease: Arc<LeaseClock>) -> Self {
        Self {
            lease,
            serving: AtomicU64::new(0),
            assigned: AtomicU64::new(0),
            assigned_at: AtomicU64::new(u64::MAX),
        }
    }

    /// Takes news from consensus: the epoch assigned to this copy at that index, or none. A copy
    /// that still serves an older epoch is shut out from this moment.
    pub fn assign(&self, epoch: Option<Epoch>, assigned_at: u64) {
        let packed = epoch.map_or(0, pack);
        if packed == self.assigned.load(Ordering::SeqCst) {
            return;
        }
        // In this order no reader can pair the new epoch with the older index.
        self.assigned.store(0, Ordering::SeqCst);
        self.assigned_at.store(assigned_at, Ordering::SeqCst);
        self.assigned.store(packed, Ordering::SeqCst);
    }

    /// Opens the gate for an epoch as far as the copy is concerned.
    pub fn open(&self, epoch: Epoch) {
        self.serving.store(pack(epoch), Ordering::SeqCst);
    }

    /// Closes it.
    pub fn close(&self) {
        self.serving.store(0, Ordering::SeqCst);
    }

    /// Whether the copy serves, whatever lease and assignment say.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::SeqCst) != 0
    }

    /// The epoch that the copy serves, as one word; 0 while it serves none. A read that began in
    /// one epoch must not be answered in another.
    #[must_use]
    pub fn serving_epoch(&self) -> u64 {
        self.serving.load(Ordering::SeqCst)
    }

    /// Whether consensus has this copy as the active: it serves, or is about to.
    pub(crate) fn is_assigned(&self) -> bool {
        self.assigned.load(Ordering::SeqCst) != 0
    }

    /// Whether an answer may leave now: the copy serves the assigned epoch and the lease covers it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let serving = self.serving.load(Ordering::SeqCst);
        serving != 0
            && serving == self.assigned.load(Ordering::SeqCst)
            && self.lease.covers(self.assigned_at.load(Ordering::SeqCst), boottime_now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_gate_needs_a_serving_copy_its_assignment_and_a_lease_that_covers_it() {
        let lease = Arc::new(LeaseClock::default());
        let gate = ServeGate::new(lease.clone());
        let (one, two) = (Epoch::new(0, 1), Epoch::new(0, 2));
        gate.assign(Some(one), 7);
        gate.open(one);
        assert!(!gate.is_open(), "no lease yet");
        let later = boottime_now().after(Duration::from_secs(60));
        lease.renew(later, 6);
        assert!(!gate.is_open(), "the lease does not cover the assignment");
        lease.renew(later, 7);
        assert!(gate.is_open());
        gate.close();
        assert!(!gate.is_open(), "the copy stopped");
        gate.open(one);
        gate.assign(Some(two), 7);
        assert!(!gate.is_open(), "the copy serves an older epoch");
        gate.open(two);
        assert!(gate.is_open());
        lease.renew(Tick(1), 7);
        assert!(!gate.is_open(), "the lease ran out");
    }
}

//! The times of consensus and leases. Equal on all members of a cluster.
//!
//! How the library turns them into an election (verified, see DESIGN.md): heartbeats leave every
//! 1.5 × `heartbeat`; a follower elects after `election_max` + a value between `election_min` and
//! `election_max` drawn once per process; so the profile `lan` has a new leader 0.7 to 1.2 s after
//! the old one fell silent.

use std::time::Duration;

use keelson_cluster_core::{LeaseConfig, ManagerConfig};

/// All times of the control plane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timings {
    /// Base of the heartbeat interval, and deadline of one consensus message.
    pub heartbeat: Duration,
    /// Lower bound of the drawn part of the election timeout.
    pub election_min: Duration,
    /// Upper bound of the drawn part, and for how long a follower is loyal to a silent leader.
    pub election_max: Duration,
    /// Leases and their renewal.
    pub lease: LeaseConfig,
    /// Deadline of one renewal; below two renewal intervals, so that a lost answer costs one round.
    pub renewal_deadline: Duration,
    /// How long a member may take to seal.
    pub seal_deadline: Duration,
    /// How long a member may take to mount.
    pub mount_deadline: Duration,
    /// Longest silence of the data process before its lease is no longer renewed.
    pub progress_max: Duration,
}

impl Timings {
    /// One site, round trips below 10 ms.
    #[must_use]
    pub fn lan() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(500),
            lease: LeaseConfig { loyalty: Duration::from_millis(500), ..LeaseConfig::default() },
            renewal_deadline: Duration::from_millis(300),
            seal_deadline: Duration::from_millis(300),
            mount_deadline: Duration::from_secs(10),
            progress_max: Duration::from_secs(5),
        }
    }

    /// Several sites, round trips up to 150 ms.
    #[must_use]
    pub fn wan() -> Self {
        let lease = LeaseConfig {
            renewal: Duration::from_millis(600),
            lease: Duration::from_secs(4),
            loyalty: Duration::from_millis(2_000),
            ..LeaseConfig::default()
        };
        Self {
            heartbeat: Duration::from_millis(400),
            election_min: Duration::from_millis(800),
            election_max: Duration::from_millis(2_000),
            lease,
            renewal_deadline: Duration::from_millis(1_000),
            seal_deadline: Duration::from_millis(1_000),
            ..Self::lan()
        }
    }

    pub(crate) fn consensus(&self) -> openraft::Config {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: "keelson".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            // Not within the first moments of a life (`loyalty`).
            enable_elect: false,
            install_snapshot_timeout: 10_000,
            // As JSON a chunk takes up to four times its length, and a message at most 4 MiB.
            snapshot_max_chunk_size: 256 * 1024,
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(2_000),
            max_in_snapshot_log_to_keep: 1_000,
            replication_lag_threshold: 5_000,
            max_payload_entries: 256,
            ..openraft::Config::default()
        }
    }

    pub(crate) fn manager(&self) -> ManagerConfig {
        ManagerConfig {
            seal_deadline: self.seal_deadline,
            mount_deadline: self.mount_deadline,
            lease_wait: self.lease.for_waiting(self.lease.lease),
            // A decision record has up to 8 KiB, and a message to a follower 4 MiB.
            batch_max: 256,
            ..ManagerConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_profiles_are_valid_and_leave_room_between_their_times() {
        for timings in [Timings::lan(), Timings::wan()] {
            timings.consensus().validate().expect("valid");
            let beat = timings.heartbeat * 3 / 2;
            assert!(beat * 3 < timings.election_max + timings.election_min, "{timings:?}");
            assert!(timings.renewal_deadline < timings.lease.lease / 3, "{timings:?}");
            assert!(beat * 2 < timings.lease.lease / 2, "{timings:?}");
            assert_eq!(timings.lease.loyalty, timings.election_max, "what the library promises");
        }
    }
}

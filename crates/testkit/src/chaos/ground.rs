//! Where faults are applied: what a cluster's surroundings must be able to do to it.
//!
//! The runner draws, waits, writes and judges; a ground knows how a member is killed or cut off
//! there. [`super::processes`] does it to processes of this machine, [`super::containers`] to
//! containers of a Docker engine.

use anyhow::Result;

use super::fault::Kind;
use crate::View;

/// What members log because of what is done to them.
pub(super) const EXPECTED_ERRORS: &[&str] = &["data process died status=signal: 9"];

/// A member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) site: String,
    /// It has a vote and no copies.
    pub(super) witness: bool,
}

/// Directions of the network, from a member to a member.
pub(super) type Ways = [(String, String)];

/// A running cluster and its surroundings. Faults are applied one at a time.
pub(super) trait Ground {
    /// The cluster from outside.
    fn view(&self) -> &View;

    /// All members.
    fn places(&self) -> &[Place];

    /// Why this kind cannot be done here; none if it can.
    fn lacks(&self, kind: Kind) -> Option<String>;

    /// kill -9 of the data process alone.
    async fn kill_data(&mut self, member: &str) -> Result<()>;

    /// kill -9 of all processes of a member.
    async fn kill(&mut self, member: &str) -> Result<()>;

    /// Stops a member in order.
    async fn stop(&mut self, member: &str) -> Result<()>;

    /// Starts a member that was killed or stopped.
    async fn start(&mut self, member: &str) -> Result<()>;

    /// Stops all processes of a member in their tracks.
    async fn pause(&mut self, member: &str) -> Result<()>;

    /// Lets a paused member go on.
    async fn resume(&mut self, member: &str) -> Result<()>;

    /// Nothing gets along these ways any more.
    async fn cut(&mut self, ways: &Ways) -> Result<()>;

    /// What a member says takes long, and what it hears.
    async fn slow_network(&mut self, member: &str) -> Result<()>;

    /// The network is whole and fast again.
    async fn heal_network(&mut self) -> Result<()>;

    /// Fills the volume of a member's logs.
    async fn fill_log(&mut self, member: &str) -> Result<()>;

    /// Gives the space back.
    async fn empty_log(&mut self, member: &str) -> Result<()>;

    /// Fills the volume of all files of a member, to the last block.
    async fn fill_disk(&mut self, member: &str) -> Result<()>;

    /// Gives the space back.
    async fn empty_disk(&mut self, member: &str) -> Result<()>;

    /// Each sync of a member's disk takes long, or as long as ever.
    async fn slow_disk(&mut self, member: &str, slow: bool) -> Result<()>;

    /// The wall clock of a member is ahead by so many seconds, behind if they are negative.
    async fn shift_clock(&mut self, member: &str, seconds: i64) -> Result<()>;

    /// A member's certificate ends while it runs, and its connections with it.
    async fn expire_certificate(&mut self, member: &str) -> Result<()>;

    /// A member gets a new certificate while it runs.
    async fn renew_certificate(&mut self, member: &str) -> Result<()>;

    /// Stops a member in order and starts it with the other version of the program than it has.
    async fn change_version(&mut self, member: &str) -> Result<()>;

    /// Fails if a member logged an error that what was done to it does not explain.
    async fn check_logs(&self) -> Result<()>;
}

//! What the generator asks of a system: connections for its loads, copies made anew, and faults.

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;

use crate::options::Kind;
use crate::place::Place;
use crate::{etcd, keelson, postgres, redis};

/// One client's connection. Every write returns once it is as durable as the system's settings
/// promise.
#[async_trait]
pub(crate) trait Connection: Send {
    /// Writes or overwrites one record.
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()>;

    /// Bytes of a record's value; `None` if it is not there. Never an old value.
    async fn get(&mut self, key: Bytes) -> Result<Option<usize>>;

    /// Writes or overwrites records with different keys, in order of keys, all or none.
    async fn batch(&mut self, records: Vec<(Bytes, Bytes)>) -> Result<()>;
}

/// Connections, one for each client.
pub(crate) type Connections = Vec<Box<dyn Connection>>;

/// A running system. Dropping it kills its processes.
#[async_trait(?Send)]
pub(crate) trait Target {
    /// What its program says that it is.
    fn version(&self) -> String;

    /// Connections to the active copy.
    async fn connect(&self, clients: usize, purpose: Purpose) -> Result<Connections>;

    /// What not every system can do.
    fn abilities(&self) -> Abilities;

    /// Starts what only a system that is to survive faults needs.
    async fn expect_faults(&mut self) -> Result<()> {
        Ok(())
    }

    /// Moves the active role in order, and returns once it is moved.
    async fn switch_over(&mut self) -> Result<()>;

    /// Kills with SIGKILL what a fault takes, and returns once it is gone. Where nobody takes over
    /// by himself, somebody is told to at once.
    async fn kill(&mut self, fault: Fault) -> Result<()>;

    /// Brings back what was killed, and returns once everything is as before.
    async fn recover(&mut self) -> Result<()>;

    /// Kills a passive copy that writes do not need; only of those that catch up.
    async fn stop_passive(&mut self) -> Result<()>;

    /// Starts that copy again, and returns once it has, durably, all that was written.
    async fn catch_up(&mut self) -> Result<()>;

    /// Makes a whole copy anew, durably: bytes of its files, and seconds.
    async fn seed(&mut self) -> Result<(u64, f64)>;
}

/// What not every system can do; where it cannot, the table has no figure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Abilities {
    /// A copy that was away is sent only what it missed.
    pub(crate) catches_up: bool,
    /// The process that serves data can die alone.
    pub(crate) has_data_process: bool,
}

/// What connections are for, which matters where clients decide how long to wait for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A load on a healthy system.
    Load,
    /// Writing on while the active role moves.
    Fault,
}

/// What is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Every process of the member with the active copy.
    Member,
    /// Only the process that serves data, where there are two.
    Process,
}

/// Starts a system in `place`.
///
/// # Errors
/// Its programs are missing, or it does not answer within a minute.
pub(crate) async fn start(kind: Kind, place: &Place) -> Result<Box<dyn Target>> {
    Ok(match kind {
        Kind::Keelson => Box::new(keelson::Keelson::start(place, true).await?),
        Kind::KeelsonPlain => Box::new(keelson::Keelson::start(place, false).await?),
        Kind::Postgres => Box::new(postgres::Postgres::start(place).await?),
        Kind::Etcd => Box::new(etcd::Etcd::start(place).await?),
        Kind::Redis => Box::new(redis::Redis::start(place).await?),
    })
}

/// How a system is set up, for the page of results.
pub(crate) fn settings(kind: Kind) -> &'static str {
    match kind {
        Kind::Keelson => keelson::SETTINGS,
        Kind::KeelsonPlain => keelson::SETTINGS_PLAIN,
        Kind::Postgres => postgres::SETTINGS,
        Kind::Etcd => etcd::SETTINGS,
        Kind::Redis => redis::SETTINGS,
    }
}

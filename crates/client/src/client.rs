//! The entry point: one client per cluster, cheap to clone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keelson_net::Credentials;

use crate::pool::Pool;
use crate::topology::TopologyCache;
use crate::{Admin, ClientConfig, ClientError, Database, Operations, Topology};

/// Bounds of every call of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// A call ends within this time, retries included. Default 30 s.
    pub deadline: Duration,
    /// A single try ends within this time; a member that lost the database is left earlier.
    /// Default 12 s: longer than the 10 s after which a slow participant is dropped.
    pub per_try: Duration,
    /// HTTP/2 connections per member. Default 2.
    pub channels_per_member: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            per_try: Duration::from_secs(12),
            channels_per_member: 2,
        }
    }
}

pub(crate) struct Shared {
    pub(crate) pool: Pool,
    pub(crate) topology: TopologyCache,
    pub(crate) options: ClientOptions,
}

impl Shared {
    /// Connects to the other members that hold copies of `database`, once, in the background: when
    /// it moves there, no handshake stands between a client and the new active.
    pub(crate) fn warm(&self, database: &str) {
        for address in self.topology.take_cold(database) {
            self.pool.connect_in_background(&address);
        }
    }
}

/// A client of one cluster.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// Connects with default options and fetches the topology.
    ///
    /// # Errors
    /// `unreachable` or `bad_certificate` if no endpoint answers, `bad_configuration` if the files
    /// cannot be read, and whatever the answering member refuses.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let client = Self::new(config, ClientOptions::default())?;
        client.refresh_topology().await?;
        Ok(client)
    }

    /// A client that contacts nobody yet.
    ///
    /// # Errors
    /// `bad_configuration` if the certificate files cannot be read, `bad_certificate` if they
    /// cannot be used.
    pub fn new(config: ClientConfig, options: ClientOptions) -> Result<Self, ClientError> {
        let credentials = config.credentials()?;
        Ok(Self::with_credentials(config.endpoints, credentials, options))
    }

    /// A client of the servers at `endpoints` that shows these credentials; it contacts nobody yet.
    #[must_use]
    pub fn with_credentials(
        endpoints: Vec<String>,
        credentials: Credentials,
        options: ClientOptions,
    ) -> Self {
        let shared = Shared {
            pool: Pool::new(credentials, options.channels_per_member),
            topology: TopologyCache::new(endpoints),
            options,
        };
        Self { shared: Arc::new(shared) }
    }

    /// A handle for a database. Nothing is checked before the first call.
    #[must_use]
    pub fn database(&self, name: impl Into<String>) -> Database {
        Database::new(self.shared.clone(), name.into())
    }

    /// What operators ask for.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.shared.clone())
    }

    /// Long work and its progress.
    #[must_use]
    pub fn operations(&self) -> Operations {
        Operations::new(self.shared.clone())
    }

    /// The last picture of the cluster; empty before the first call.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        self.shared.topology.picture()
    }

    /// What the client shows to servers, for calls that it has no method for.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.shared.pool.credentials()
    }

    /// Fetches a new picture from any member.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn refresh_topology(&self) -> Result<Arc<Topology>, ClientError> {
        self.shared.topology.refresh(&self.shared.pool).await?;
        Ok(self.topology())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

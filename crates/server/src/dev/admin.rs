//! The few administrative calls that `keelson dev` makes itself. They are repeated until they
//! succeed or time is up: members are only starting. Every one of them is safe to repeat.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use keelson_net::{Connector, Expect, Lane, PeerChannel, TlsFiles, TlsStore};
use keelson_types::RefusalReason;
use keelson_wire::v1::admin_client::AdminClient;
use keelson_wire::{Refusal, refusal_of, v1};
use tonic::{Request, Status};
use uuid::Uuid;

use super::DevCluster;

/// Deadline of one call.
const CALL: Duration = Duration::from_secs(5);

/// Time for everything that one step needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Calls the members as the client of `client.toml`.
pub(super) struct DevAdmin {
    connector: Connector,
    endpoints: Vec<String>,
}

impl DevAdmin {
    pub(super) fn new(cluster: &DevCluster) -> anyhow::Result<Self> {
        let certs = cluster.dir.join("certs");
        let files = TlsFiles {
            ca: certs.join("ca.pem"),
            cert: certs.join("client.pem"),
            key: certs.join("client.key"),
        };
        let tls: Arc<TlsStore> = TlsStore::open(files).map_err(crate::Problem::from)?;
        let endpoints = cluster.members.iter().map(|m| m.control_address.clone()).collect();
        Ok(Self { connector: Connector::new(tls), endpoints })
    }

    /// Forms the cluster out of the first member, unless it is formed.
    pub(super) async fn init(&self) -> anyhow::Result<()> {
        // Only the first member may form it: any other would make a cluster of its own.
        let first = Self {
            connector: self.connector.clone(),
            endpoints: self.endpoints.iter().take(1).cloned().collect(),
        };
        let done = first.call("forming the cluster", async |mut admin| {
            admin.init_cluster(timed(v1::InitClusterRequest {})).await.map(|_| ())
        });
        done.await
    }

    pub(super) async fn add_member(&self, name: &str, control_address: &str) -> anyhow::Result<()> {
        let what = format!("adding {name}");
        let done = self.call(&what, async |mut admin| {
            let (control_address, name) = (control_address.to_owned(), name.to_owned());
            let request = v1::AddMemberRequest { control_address, name, witness: false };
            admin.add_member(timed(request)).await.map(|_| ())
        });
        done.await
    }

    pub(super) async fn create_database(
        &self,
        name: &str,
        members: &[String],
    ) -> anyhow::Result<()> {
        let database = Bytes::copy_from_slice(Uuid::new_v4().as_bytes());
        let what = format!("creating {name}");
        let done = self.call(&what, async |mut admin| {
            let request = v1::CreateDatabaseRequest {
                name: name.to_owned(),
                database: database.clone(),
                members: members.to_vec(),
                settings: None,
            };
            admin.create_database(timed(request)).await.map(|_| ())
        });
        done.await
    }

    /// Waits until every database has an active copy that serves, and gives all copies.
    pub(super) async fn wait_until_mounted(&self) -> anyhow::Result<Vec<v1::CopyStatusRow>> {
        let rows = RefCell::default();
        let done = self.call("waiting for the databases", async |mut admin| {
            let request = v1::CopyStatusRequest::default();
            let status = admin.copy_status(timed(request)).await?.into_inner();
            let serves = |row: &v1::CopyStatusRow| row.facts.as_ref().is_some_and(|f| f.serving);
            let actives = status.rows.iter().filter(|row| row.active && serves(row)).count();
            let mut names: Vec<_> = status.rows.iter().map(|row| row.database.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            if actives >= names.len() {
                rows.replace(status.rows);
                return Ok(());
            }
            let what = format!("{actives} of {} databases serve", names.len());
            Err(Refusal::new(RefusalReason::Activating, what).into())
        });
        done.await?;
        Ok(rows.into_inner())
    }

    async fn call(
        &self,
        what: &str,
        attempt: impl AsyncFn(AdminClient<PeerChannel>) -> Result<(), Status>,
    ) -> anyhow::Result<()> {
        self.call_at(&self.endpoints, what, attempt).await
    }

    /// Repeats a call, at the next member or at the leader that a refusal names. "Exists already"
    /// is success: an earlier attempt whose answer was lost did it.
    async fn call_at(
        &self,
        endpoints: &[String],
        what: &str,
        attempt: impl AsyncFn(AdminClient<PeerChannel>) -> Result<(), Status>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut next = endpoints.iter().cycle();
        let mut address = next.next().context("a cluster has members")?.clone();
        loop {
            let channel = self.connector.channel(&address, Expect::Address, Lane::Control);
            let refusal = match attempt(AdminClient::new(channel)).await {
                Ok(()) => return Ok(()),
                Err(status) => refusal_of(&status),
            };
            match refusal.reason {
                RefusalReason::AlreadyExists => return Ok(()),
                _ if Instant::now() > deadline => bail!("{what}: {refusal}"),
                RefusalReason::DeadlineExceeded | RefusalReason::Precondition => {}
                _ if refusal.is_retryable() => {}
                _ => bail!("{what}: {refusal}"),
            }
            tracing::debug!(what, %refusal, "again");
            address = match refusal.address {
                Some(address) => address,
                None => next.next().context("a cluster has members")?.clone(),
            };
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL);
    request
}

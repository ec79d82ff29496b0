//! Calls other members: one place for clients, deadlines and the translation of failures.

use std::future::Future;
use std::time::{Duration, SystemTime};

use keelson_net::{CONTROL_MESSAGE_BYTES_MAX, Connector, Expect, Lane, PeerChannel};
use keelson_types::{MemberName, RefusalReason};
use keelson_wire::v1::admin_client::AdminClient;
use keelson_wire::v1::cluster_client::ClusterClient;
use keelson_wire::v1::replication_client::ReplicationClient;
use keelson_wire::{Refusal, refusal_of};
use tonic::{Request, Response, Status};

/// A client of another member's control process.
pub(crate) type Client = ClusterClient<PeerChannel>;

/// Makes clients for the services of other members. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    connector: Connector,
}

impl Peers {
    pub(crate) const fn new(connector: Connector) -> Self {
        Self { connector }
    }

    /// When the certificate of this member expires, in Unix milliseconds.
    pub(crate) fn certificate_expires_unix_ms(&self) -> u64 {
        let end = self.connector.certificate_expires().duration_since(SystemTime::UNIX_EPOCH);
        u64::try_from(end.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    }

    /// The control process at `address`, which must be that of member `name`.
    pub(crate) fn cluster(&self, name: &str, address: &str, lane: Lane) -> Client {
        let expect = MemberName::new(name).map_or(Expect::Address, Expect::Member);
        ClusterClient::new(self.connector.channel(address, expect, lane))
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
    }

    /// The `Admin` service of the control process at `address`.
    pub(crate) fn admin(&self, name: &str, address: &str) -> AdminClient<PeerChannel> {
        let expect = MemberName::new(name).map_or(Expect::Address, Expect::Member);
        AdminClient::new(self.connector.channel(address, expect, Lane::Control))
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
    }

    /// The data process at `address`, which must be that of member `name`.
    pub(crate) fn replication(&self, name: &str, address: &str) -> ReplicationClient<PeerChannel> {
        let expect = MemberName::new(name).map_or(Expect::Address, Expect::Member);
        ReplicationClient::new(self.connector.channel(address, expect, Lane::Control))
    }

    /// Forgets the connections to an address that is no member's any more.
    pub(crate) fn forget(&self, address: &str) {
        self.connector.forget(address);
    }
}

/// Makes one call that ends by `deadline`, whatever the other side does.
pub(crate) async fn call<M, R, F>(
    deadline: Duration,
    message: M,
    send: impl FnOnce(Request<M>) -> F,
) -> Result<R, Refusal>
where
    F: Future<Output = Result<Response<R>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    match tokio::time::timeout(deadline, send(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refusal_of(&status)),
        Err(_) => {
            let what = format!("no answer within {deadline:?}");
            Err(Refusal::new(RefusalReason::DeadlineExceeded, what))
        }
    }
}

//! Owns the channels to the members: a few per address, opened when first used, shared by all
//! calls.
//!
//! Several channels per member, because each HTTP/2 connection is driven by one task and encrypted
//! in one place; calls take them in turn. A channel reconnects by itself, so an entry is never
//! stale.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use keelson_net::{
    CONTROL_MESSAGE_BYTES_MAX, Credentials, DATA_MESSAGE_BYTES_MAX, Expect, PeerChannel,
};
use keelson_wire::v1::admin_client::AdminClient;
use keelson_wire::v1::kv_client::KvClient;
use keelson_wire::v1::operations_client::OperationsClient;

/// More addresses than any cluster has; beyond it somebody feeds us made-up ones.
const ADDRESSES_MAX: usize = 1024;

struct Lanes {
    channels: Vec<PeerChannel>,
    next: AtomicUsize,
}

/// The channels of one client.
pub(crate) struct Pool {
    credentials: Credentials,
    per_member: usize,
    members: RwLock<HashMap<String, Arc<Lanes>>>,
}

impl Pool {
    pub(crate) fn new(credentials: Credentials, per_member: usize) -> Self {
        Self { credentials, per_member: per_member.max(1), members: RwLock::default() }
    }

    pub(crate) fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// The Kv service at a data address.
    pub(crate) fn kv(&self, address: &str) -> KvClient<PeerChannel> {
        KvClient::new(self.channel(address))
            .max_decoding_message_size(DATA_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(DATA_MESSAGE_BYTES_MAX)
    }

    /// The Admin service at a control address.
    pub(crate) fn admin(&self, address: &str) -> AdminClient<PeerChannel> {
        let client = AdminClient::new(self.channel(address));
        client.max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
    }

    /// The Operations service at a control address.
    pub(crate) fn operations(&self, address: &str) -> OperationsClient<PeerChannel> {
        let client = OperationsClient::new(self.channel(address));
        client.max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
    }

    /// Opens all channels to an address. A failure means nothing: the first call tries again.
    pub(crate) fn connect_in_background(&self, address: &str) {
        for channel in self.lanes(address).channels.clone() {
            tokio::spawn(async move { drop(channel.connect().await) });
        }
    }

    fn lanes(&self, address: &str) -> Arc<Lanes> {
        let known =
            self.members.read().unwrap_or_else(PoisonError::into_inner).get(address).cloned();
        known.unwrap_or_else(|| self.open(address))
    }

    fn channel(&self, address: &str) -> PeerChannel {
        let lanes = self.lanes(address);
        let turn = lanes.next.fetch_add(1, Ordering::Relaxed) % lanes.channels.len();
        lanes.channels[turn].clone()
    }

    fn open(&self, address: &str) -> Arc<Lanes> {
        let dial = |_| PeerChannel::new(self.credentials.clone(), address, Expect::Address);
        let channels = (0..self.per_member).map(dial).collect();
        let lanes = Arc::new(Lanes { channels, next: AtomicUsize::new(0) });
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if members.len() >= ADDRESSES_MAX {
            members.clear();
        }
        members.entry(address.to_owned()).or_insert(lanes).clone()
    }
}

//! How log goes to the other members at present, for status pages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use keelson_copy_core::paths::Way;
use keelson_types::MemberId;
use keelson_wire::v1;

/// The log session to one member.
#[derive(Debug)]
pub(crate) struct LogPath {
    pub(crate) way: Way,
    /// Log sent, and what it was on the wire.
    pub(crate) bytes: AtomicU64,
    pub(crate) wire_bytes: AtomicU64,
}

/// The log sessions that are up.
#[derive(Debug, Default)]
pub(crate) struct LogPaths(Mutex<BTreeMap<MemberId, Arc<LogPath>>>);

impl LogPaths {
    /// A session goes this way; nothing while there is none.
    pub(crate) fn set(&self, member: MemberId, path: Option<Arc<LogPath>>) {
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match path {
            Some(path) => drop(paths.insert(member, path)),
            None => drop(paths.remove(&member)),
        }
    }

    /// For status pages; `name` tells the names of members.
    pub(crate) fn facts(&self, name: impl Fn(MemberId) -> String) -> Vec<v1::LogPath> {
        let paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fact = |(member, path): (&MemberId, &Arc<LogPath>)| v1::LogPath {
            member: name(*member),
            address: path.way.address.clone(),
            network: path.way.network.clone().unwrap_or_default(),
            compressed: path.way.compressed,
            up: true,
            bytes: path.bytes.load(Ordering::Relaxed),
            wire_bytes: path.wire_bytes.load(Ordering::Relaxed),
        };
        paths.iter().map(fact).collect()
    }
}

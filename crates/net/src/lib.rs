//! Connections: mutual TLS in both directions, channels that reconnect, limits of HTTP/2, the
//! private link between the two processes of a member. The only crate that names rustls and rcgen.
//!
//! Nothing here decides anything about databases. A server learns *who* speaks ([`PeerIdentity`],
//! from the certificate); what that peer may do is decided by the services, with
//! [`require_member`].
//!
//! | need | use |
//! | --- | --- |
//! | own certificate and authority, reloaded when the files change | [`TlsFiles`], [`TlsStore`] |
//! | make certificates | [`certs`] |
//! | serve gRPC | [`bind`], [`TlsServer`], [`serve`] |
//! | call another member | [`Connector::channel`] → [`PeerChannel`] |
//! | talk to the other process of this member | [`link`] |
//! | say what this process uses | [`ProcessUsage`] |

mod channel;
mod connect;
mod failure;
mod identity;
mod limits;
mod server;
mod tls;
mod usage;
mod verify;

pub mod certs;
pub mod link;

pub use channel::{Connector, Lane, PeerChannel};
pub use connect::Expect;
pub use failure::{ConnectFailure, ConnectFailureKind};
pub use identity::{PeerIdentity, Role, peer_of, require_member};
pub use limits::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, CONTROL_MESSAGE_BYTES_MAX, DATA_MESSAGE_BYTES_MAX,
    FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
    STREAMS_PER_CONNECTION_MAX,
};
pub use server::{BindError, RefusedHandshake, TlsServer, bind, serve};
pub use tls::{TlsError, TlsFiles, TlsIdentity, TlsStore};
pub use usage::ProcessUsage;

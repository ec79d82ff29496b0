//! Connections: TLS in both directions, channels that reconnect, limits of HTTP/2, the private link
//! between the two processes of a member. The only crate that names rustls and rcgen.
//!
//! Nothing here decides anything about databases. A server learns *who* speaks ([`PeerIdentity`],
//! from the certificate or the token); which calls its role may make is one table ([`may_call`]),
//! enforced before any service; what depends on the contents of a request is for the services, with
//! [`require_member`] and [`require_database`].
//!
//! | need | use |
//! | --- | --- |
//! | own certificate and authority, reloaded when the files change | [`TlsFiles`], [`TlsStore`] |
//! | make certificates, make secrets of tokens | [`certs`], [`AccessSecret`] |
//! | what a client shows | [`Credentials`] |
//! | which tokens there are | [`TokenBook`] |
//! | which members there are | [`Membership`] |
//! | count calls, and how long they take | [`CallMeters`], [`Histogram`] |
//! | hear who was refused | [`RefusedCalls`] |
//! | serve gRPC | [`bind`], [`TlsServer`], [`serve`] |
//! | serve pages to programs without gRPC | [`serve_pages`] |
//! | serve a web site to browsers | [`serve_site`] |
//! | call another member | [`Connector::channel`] → [`PeerChannel`] |
//! | talk to the other process of this member | [`link`] |
//! | say what this process uses | [`ProcessUsage`] |
//! | make spans of traces, and carry traces on | [`SPANS`], [`carry_traces`] |

mod access;
mod answer;
mod call_meters;
mod channel;
mod connect;
mod credentials;
mod failure;
mod handshakes;
mod histogram;
mod identity;
mod intake;
mod limits;
mod membership;
mod pages;
mod places;
mod refused_calls;
mod secret;
mod server;
mod site;
mod spans;
mod tls;
mod tokens;
mod usage;
mod verify;

pub mod certs;
pub mod link;

pub use access::may_call;
pub use answer::{Disconnect, Kept};
pub use call_meters::CallMeters;
pub use channel::{Connector, Lane, PeerChannel};
pub use connect::Expect;
pub use credentials::{Credentials, TokenFiles};
pub use failure::{ConnectFailure, ConnectFailureKind};
pub use histogram::Histogram;
pub use identity::{PeerIdentity, Role, peer_of, require_database, require_member};
pub use limits::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW_BYTES, CONTROL_MESSAGE_BYTES_MAX, DATA_MESSAGE_BYTES_MAX,
    FRAME_BYTES_MAX, HANDSHAKE_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
    STREAMS_PER_CONNECTION_MAX, UNKNOWN_TIMEOUT,
};
pub use membership::{Membership, Standing};
pub use pages::{Page, serve_pages};
pub use refused_calls::{RefusedCalls, line_of};
pub use secret::AccessSecret;
pub use server::{BindError, RefusedHandshake, TlsServer, bind, serve};
pub use site::{SiteRequest, SiteResponse, serve_site};
pub use spans::{SPANS, SpanCounts, TraceCarrier, TracePlace, carry_traces, note_database};
pub use tls::{TlsError, TlsFiles, TlsIdentity, TlsStore};
pub use tokens::TokenBook;
pub use usage::ProcessUsage;

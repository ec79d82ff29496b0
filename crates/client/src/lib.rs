//! Typed client of a Keelson cluster: finds the active copy of a database, retries what may be
//! retried, follows switchovers and failovers, and gives exactly-once writes through sessions.
//!
//! ```no_run
//! # async fn example() -> Result<(), keelson_client::ClientError> {
//! use keelson_client::{Client, ClientConfig};
//!
//! let config = ClientConfig::load("client.toml".as_ref())?;
//! let client = Client::connect(config).await?;
//! let database = client.database("DB1");
//! database.put("greeting", "hello").await?;
//! assert_eq!(database.get("greeting").await?.as_deref(), Some("hello".as_bytes()));
//! # Ok(())
//! # }
//! ```
//!
//! # What a retry may do
//!
//! Reads are always retried. A write through a [`Session`] is retried and applies once; conditional
//! writes always go through one. A plain write without conditions is retried and may apply twice
//! (the second time over a newer value of somebody else). A write that neither succeeded nor
//! certainly failed ends with `outcome_unknown`. Every call ends within its deadline (30 s by
//! default).
//!
//! # Cost
//!
//! All handles are cheap to clone and share the connections: a few HTTP/2 channels per member,
//! opened when first needed, watched by keep-alive pings while calls are under way.

mod admin;
mod backoff;
mod batch;
mod call;
mod client;
mod config;
mod database;
mod error;
mod limits;
mod operations;
mod pool;
mod salvage;
mod scan;
mod search;
mod session;
mod topology;
mod watch;

pub use admin::{Admin, TokenRequest};
pub use batch::WriteBatch;
pub use client::{Client, ClientOptions};
pub use config::ClientConfig;
pub use database::{Database, Read, Written};
pub use error::ClientError;
/// The secret of a token, and what a client shows.
pub use keelson_net::{AccessSecret, Credentials};
/// How calls carry the trace of the program that makes them.
pub use keelson_net::{TraceCarrier, carry_traces};
/// The messages that answers consist of; see the protobuf files.
pub use keelson_wire::v1;
pub use operations::{Operations, succeeded};
pub use salvage::SalvageStream;
pub use scan::{ScanOptions, ScanStream};
pub use search::Search;
pub use session::Session;
pub use topology::{DatabaseRoute, MemberAddresses, Topology};
pub use watch::{Change, WatchEvent, WatchStream};

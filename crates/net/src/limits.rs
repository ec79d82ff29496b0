//! Bounds and times of every connection, in one place. Both sides use the same values.

use std::time::Duration;

/// Flow-control window of one stream: 8 MiB, so that one log session fills a link of 1 Gbit/s at
/// 60 ms round-trip time.
pub const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Flow-control window of one connection: 16 MiB, two busy streams.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Largest HTTP/2 frame: 1 MiB; fewer, larger frames cost less per byte.
pub const FRAME_BYTES_MAX: u32 = 1024 * 1024;

/// Calls under way on one connection; more wait in the client.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 4096;

/// Calls of one client under way at one process, those that wait for their answers to leave
/// included: two full connections. A call may hold a value of 16 MiB.
pub(crate) const CALLS_PER_CLIENT_MAX: usize = 8192;

/// Bytes of requests that one client may have under way at one process: four full batches.
pub(crate) const REQUEST_BYTES_OF_CLIENT_MAX: usize = 64 * 1024 * 1024;

/// The same of all clients together.
pub(crate) const REQUEST_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A request of this size is not counted.
pub(crate) const REQUEST_FREE_BYTES: usize = 16 * 1024;

/// A request of a client of which nothing came for this long is ended.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between two pings on a connection, idle or not.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A connection whose ping is not answered for this long is closed.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for TCP and TLS together, on the connecting side.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for the TLS handshake, on the accepting side.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection without a certificate on which no valid token was shown for this long is closed.
pub const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest message of `Kv` and `Replication`: a batch of 16 MiB and what surrounds it. Services set
/// it with `max_decoding_message_size` and `max_encoding_message_size`.
pub const DATA_MESSAGE_BYTES_MAX: usize = 20 * 1024 * 1024;

/// Largest message of `Cluster`, `Admin` and `Operations`.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Connections one listener holds; more are closed at once. An eighth of them is for members alone.
pub(crate) const CONNECTIONS_MAX: usize = 8192;

/// Handshakes under way at one listener; the oldest makes room for a new one.
pub(crate) const HANDSHAKES_MAX: usize = 256;

/// First wait after a failed connect; doubles up to [`BACKOFF_MAX`].
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(20);

/// Longest wait between two attempts to connect. Short, because a member that comes back is wanted
/// at once.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Time that calls under way have to end after a server was told to stop.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

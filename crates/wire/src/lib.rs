//! What travels between processes: generated protobuf, conversions to and from the vocabulary of
//! `types`, protocol versions, and the one mapping from refusals to gRPC status.

mod convert;
mod error;
mod store_keys;
mod token;

pub use convert::{Invalid, epoch_rows, epoch_table, ids};
pub use error::{Refusal, refusal_of};
pub use token::{CommitToken, TokenError};

/// Generated messages and service traits of package `keelson.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("keelson.v1");
}

/// The compiled descriptors, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Lowest protocol version this build speaks.
pub const PROTOCOL_MIN: u32 = 1;

/// Highest protocol version this build speaks; see the table in `proto/README.md`.
pub const PROTOCOL_MAX: u32 = 1;

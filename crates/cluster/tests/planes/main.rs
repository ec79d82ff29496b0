//! The control planes of a cluster, over real gRPC, with data processes that do at once what they
//! are told.

#![allow(clippy::unwrap_used)]

mod digests;
mod fake_data;
mod forming;
mod moving;
mod recovering;
mod trust;
mod world;

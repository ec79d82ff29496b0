//! The commands, one file per noun.

pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod copy;
pub(crate) mod database;
pub(crate) mod decision;
pub(crate) mod event;
pub(crate) mod guarantee;
pub(crate) mod health;
pub(crate) mod kv;
pub(crate) mod log;
pub(crate) mod member;
pub(crate) mod network;
pub(crate) mod operation;
pub(crate) mod redistribute;
mod rehearsal;
pub(crate) mod scrub;
pub(crate) mod search;
pub(crate) mod server;
pub(crate) mod site;
pub(crate) mod switchover;
pub(crate) mod token;
pub(crate) mod volume;

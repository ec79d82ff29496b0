//! The pure machine of one database copy: sealing, shipping, acknowledging, committing, activating.
//!
//! [`CopyMachine::step`] takes one event and pushes actions. It never reads a clock, a file or a
//! socket; the driver (`replication`, or the simulator) carries the actions out in order and
//! reports completions as further events. What must be durable before what is expressed by waiting
//! for those completions.
//!
//! Beside the machine stand the decisions that need no history of events, as plain functions over
//! values: [`checkpoint`], [`copy_state`], [`divergence`], [`expanded_truncation`], [`io_watch`],
//! [`lag`], [`rehearsal`], [`salvage`], [`scrub`], [`truncate`].

mod activation;
mod active;
mod byte_codec;
pub mod catalog;
mod ceiling;
pub mod checkpoint;
pub mod copy_state;
pub mod divergence;
mod event;
pub mod expanded_truncation;
pub mod io_watch;
pub mod lag;
mod machine;
mod outcome;
mod passive;
pub mod paths;
pub mod range_fetch;
pub mod reach_watch;
pub mod rehearsal;
pub mod room;
mod rule_change;
pub mod salvage;
pub mod scrub;
mod seal;
pub mod seed;
mod status;
pub mod truncate;
mod undo;

pub use active::PeerView;
pub use byte_codec::DecodeError;
pub use event::{
    Action, Assignment, CopyConfig, Event, LogSource, MountOrder, OpenOffer, PeerCopy,
    RecordedCeiling, Recovered,
};
pub use keelson_types::Refused;
pub use machine::CopyMachine;
pub use outcome::{MountFailure, OpenRefusal, SealAnswer, SealRefusal, StopReason};
pub use status::CopyView;
pub use undo::{Ground, Marking};

//! The pure machine of one database copy: sealing, shipping, acknowledging, committing, activating.
//!
//! [`CopyMachine::step`] takes one event and pushes actions. It never reads a clock, a file or a
//! socket; the driver (`replication`, or the simulator) carries the actions out in order and
//! reports completions as further events. What must be durable before what is expressed by waiting
//! for those completions.

mod activation;
mod active;
pub mod divergence;
mod event;
mod machine;
mod passive;
pub mod range_fetch;
mod rule_change;
mod seal;
mod status;

pub use active::PeerView;
pub use event::{
    Action, Assignment, CopyConfig, Event, LogSource, MountFailure, MountOrder, OpenOffer,
    OpenRefusal, PeerCopy, Recovered, SealAnswer, SealRefusal, StopReason,
};
pub use machine::CopyMachine;
pub use status::CopyView;

//! A whole cluster in one thread and one seed: the real cores, log and formats over a simulated
//! network, disk and clock, with a model of consensus between them. `DESIGN.md` says what is real
//! and what is not.

pub mod checkers;
mod copy_node;
mod manager_world;
mod messages;
mod params;
mod probes;
pub mod scale;
mod trace;
mod world;

pub use manager_world::{ManagerCounts, ManagerParams, ManagerReport, ManagerWorld};
pub use params::{FaultRates, MS, Params, SEC};
pub use probes::{Probe, Probes};
pub use world::{Counts, Report, World};

//! Composition root of a member: configuration, identity, the two processes and their supervision,
//! the wiring of the control plane and the data plane, and `keelson dev`.
//!
//! | process | starts with | runs |
//! | --- | --- | --- |
//! | control | [`run_server`] | consensus, leases, active manager; parent of the data process |
//! | data | [`run_data_process`] | logs, stores, log shipping, the services for data |
//!
//! Nothing here decides about databases. What must hold: the data process never outlives the
//! control process, at most one of each runs on a data directory, and a life of the data process is
//! certified dead only after its parent reaped it.

mod bounds;
pub mod config;
mod console;
mod control;
mod data;
pub mod dev;
mod files;
mod identity;
mod logging;
mod metrics;
mod nice;
mod problem;
mod restore;
mod services;
mod telemetry;
mod witness;

pub use config::Config;
pub use control::{run_server, run_witness};
pub use data::{DataProcessArgs, run_data_process};
pub use dev::{DevOptions, run_dev};
pub use identity::MemberIdentity;
pub use keelson_cluster::{RecoveryPlan, SiteToRecover, Survivor, SurvivorState};
pub use problem::Problem;
pub use restore::SiteRestore;
pub use witness::is_witness;

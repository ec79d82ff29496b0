//! The control plane of a member: consensus, leases, the active manager's driver, and the services
//! `Cluster`, `Admin` and `Operations`.
//!
//! All decisions are made by the pure machines of `cluster-core`. This crate brings them together
//! with disk, network and time, and carries out what they ask for. See `DESIGN.md` for the life of
//! a lease, the crash cases, and what was verified about the consensus library.
//!
//! | module | owns |
//! | --- | --- |
//! | `storage`, `applied` | the consensus file, the applied state |
//! | `network`, `quorum` | consensus messages, and when a majority last acknowledged one |
//! | `loyalty` | when this member votes |
//! | `manager_task` | the leader's manager and lease table |
//! | `leases`, `assignments`, `reports` | a member's lease, its orders to and reports from the data
//! process |
//! | `member_orders`, `orders`, `propose`, `peers` | seals and mounts, proposals, calls to other
//! members |
//! | `cluster_service`, `admin`, `operations`, `facts`, `picture` | what is served |
//! | `recovery`, `generation`, `readmission` | a cluster that was forced up without its majority |
//! | `rounds` | what the leader looks at from time to time |
//! | `standing_down` | a leader under maintenance lets another one lead |
//! | `activations` | counts of decisions, for metrics |
//! | `audit_log` | who did or tried what, on this member's disk |
//! | `tokens` | which access tokens this process lets in |
//! | `giving_away` | what a member does with its databases before it stops |
//! | `control_plane`, `context` | start, stop, shared handles |

mod activations;
mod admin;
mod applied;
mod assignments;
mod audit_log;
mod clock;
mod cluster_service;
mod context;
mod control_plane;
mod data_link;
mod facts;
mod generation;
mod giving_away;
mod leases;
mod loyalty;
mod manager_task;
mod member_orders;
mod membership;
mod network;
mod operations;
mod orders;
mod peers;
mod picture;
mod propose;
mod quorum;
mod raft_types;
mod readmission;
mod recovery;
mod reports;
mod rounds;
mod scheduled;
mod standing_down;
mod storage;
mod suspensions;
mod timings;
mod tokens;

pub use applied::Applied;
pub use audit_log::{AuditLog, AuditSettings};
pub use clock::now as boottime_now;
pub use context::Identity;
pub use control_plane::{ControlPlane, ControlPlaneConfig, Ending, StartError};
pub use data_link::{DataEvent, DataLink, LinkDown};
pub use picture::{MemberPicture, Pictures};
pub use raft_types::{ClusterNode, NodeId, node_id};
pub use recovery::{RecoveryError, RecoveryPlan, SiteToRecover, Survivor, SurvivorState};
pub use storage::StorageFault;
pub use timings::Timings;

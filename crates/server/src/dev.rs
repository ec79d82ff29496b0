//! `keelson dev`: a whole cluster on one machine, for trying out and for tests.
//!
//! Files (fixed, other programs read them):
//!
//! ```text
//! DIR/client.toml                 endpoints, authority, client certificate
//! DIR/certs/                      ca.pem, ca.key, client.pem, client.key
//! DIR/<member>/keelson.toml       and member.pem, member.key, data/, keelson.log, control.pid,
//! data.pid
//! ```
//!
//! Members run as processes of their own, in process groups of their own: Ctrl-C reaches `keelson
//! dev` alone, which then stops those that it started. A member that was killed by hand is left
//! alone. A directory of a former run is started again with what it holds.

mod admin;
mod prepare;
mod run;

use std::path::PathBuf;

pub use prepare::{DevCluster, DevMember, prepare};
pub use run::run_dev;

/// What `keelson dev` is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DevOptions {
    /// Members, 1 to 9.
    pub members: u32,
    /// Databases to create, named DB1, DB2, ...
    pub databases: u32,
    /// Copies of each database; all members up to 3 by default.
    pub copies: Option<u32>,
    /// Where everything is kept.
    pub dir: PathBuf,
}

/// Most members of a `dev` cluster: ports are 10 apart, and voters at most 7 anyway.
pub const MEMBERS_MAX: u32 = 9;

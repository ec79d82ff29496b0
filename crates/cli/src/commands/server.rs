//! `keelson server`, `keelson witness`, `keelson dev` and the hidden data process: the programs
//! that run a cluster.
//!
//! They run on the main thread without a runtime of their own here: the control process reaps its
//! child from the thread that started it.

use std::path::PathBuf;

use clap::Args;
use keelson_server::{DataProcessArgs, DevOptions};
use keelson_types::IncarnationId;

use crate::context::Global;
use crate::failure::Outcome;

#[derive(Args, Debug)]
pub(crate) struct Server {
    /// Configuration of the member; keelson config explain shows every key
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Witness {
    /// Configuration of the witness, in the form of a member's; addresses of data are not used
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct DataProcess {
    /// Configuration of the member
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// This life of the data process
    #[arg(long)]
    incarnation: IncarnationId,
    /// Process id of the control process
    #[arg(long)]
    parent: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// Number of members
    #[arg(long, default_value_t = 3)]
    members: u32,
    /// Number of databases, named DB1, DB2, ...
    #[arg(long, default_value_t = 2)]
    databases: u32,
    /// Copies of each database; default: one on each member, at most 3
    #[arg(long)]
    copies: Option<u32>,
    /// Where everything is kept; a directory of an earlier run is started again
    #[arg(long, default_value = "keelson-dev")]
    dir: PathBuf,
}

impl Server {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        if global.what_if {
            let report = keelson_server::config::check(&self.config)?;
            global.only_shows(&format!("run member {}", report.config.name()));
            return Ok(());
        }
        Ok(keelson_server::run_server(&self.config)?)
    }
}

impl Witness {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        if global.what_if {
            let report = keelson_server::config::check(&self.config)?;
            global.only_shows(&format!("run witness {}", report.config.name()));
            return Ok(());
        }
        Ok(keelson_server::run_witness(&self.config)?)
    }
}

impl DataProcess {
    pub(crate) fn run(self) -> Outcome {
        let Self { config, incarnation, parent } = self;
        Ok(keelson_server::run_data_process(DataProcessArgs { config, incarnation, parent })?)
    }
}

impl Dev {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        let Self { members, databases, copies, dir } = self;
        let plan = format!("run a cluster of {members} members in {}", dir.display());
        if global.only_shows(&plan) {
            return Ok(());
        }
        Ok(keelson_server::run_dev(DevOptions { members, databases, copies, dir })?)
    }
}

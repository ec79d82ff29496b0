//! Forcing a cluster up without its majority, in the place of a server that is stopped (F126).
//!
//! Holds the lock of the data directory from the first look to the end, so that no server starts
//! in between, and asks the other members with this member's certificate.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keelson_cluster::{RecoveryError, RecoveryPlan, SiteToRecover};
use keelson_net::{Connector, TlsStore};

use crate::files::Lock;
use crate::{Config, MemberIdentity, Problem, config};

/// What a recovery would do, and the right to do it.
#[derive(Debug)]
pub struct SiteRestore {
    /// Members and databases, and what becomes of them.
    pub plan: RecoveryPlan,
    connector: Connector,
    _lock: Lock,
}

impl SiteRestore {
    /// Reads the consensus of the member that `config_path` configures, asks all other members,
    /// and checks that nothing speaks against it. Changes nothing.
    ///
    /// # Errors
    /// `second_holder` if the server runs; configuration, directory, certificates; or what speaks
    /// against the recovery.
    pub async fn prepare(config_path: &Path, wanted: SiteToRecover) -> Result<Self, Problem> {
        let config = Config::load(config_path)?;
        let data_dir = config.data_dir().to_owned();
        if !data_dir.join("member.json").is_file() {
            let message = format!("no member has run in {}", data_dir.display());
            let hint = "name the configuration of a member of the cluster, on its own machine";
            return Err(Problem::new("directory_unusable", message, hint));
        }
        let lock = Lock::take(&data_dir.join("control.lock"), Duration::ZERO)?;
        // A witness keeps no log of its own.
        let identity = MemberIdentity::open(&data_dir, &data_dir, config.name())?;
        let tls = TlsStore::open(config.tls().clone())?;
        config::check_certificate(config.tls(), config.name(), tls.current().own())?;
        let directory = data_dir.join("cluster");
        let read = move || RecoveryPlan::read(&directory, identity.member, &wanted);
        let read = tokio::task::spawn_blocking(read).await;
        let plan = read.map_err(|panic| RecoveryError::panicked(&panic)).and_then(|plan| plan);
        let mut plan = plan.map_err(|error| problem(&error))?;
        let connector = Connector::new(tls);
        plan.ask(connector.clone()).await;
        plan.check().map_err(|error| problem(&error))?;
        Ok(Self { plan, connector, _lock: lock })
    }

    /// Asks and checks once more, since an operator may have thought about it for long, and founds
    /// the consensus anew. Returns where that of before is kept.
    ///
    /// # Errors
    /// What speaks against it by now; or the file could not be written. Then nothing changed.
    pub async fn carry_out(mut self) -> Result<PathBuf, Problem> {
        self.plan.ask(self.connector).await;
        self.plan.check().map_err(|error| problem(&error))?;
        let plan = self.plan;
        let founded = tokio::task::spawn_blocking(move || plan.carry_out()).await;
        let founded = founded.map_err(|panic| RecoveryError::panicked(&panic));
        founded.and_then(|kept| kept).map_err(|error| problem(&error))
    }
}

fn problem(error: &RecoveryError) -> Problem {
    Problem::of(error.reason(), error.to_string())
}

//! `keelson cluster witness`: votes without data.
//!
//! Two members cannot outvote the loss of one; a witness in a third place gives them the majority.

use clap::Subcommand;
use serde_json::json;

use crate::commands::cluster;
use crate::context::Global;
use crate::failure::Outcome;
use crate::output;
use crate::text;
use crate::watch::Watch;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Add a running witness that is in no cluster yet
    Add {
        /// Name of the witness, as in its configuration and its certificate
        witness: String,
        /// Its control address, host:port
        address: String,
    },
    /// Remove a witness
    Remove {
        /// Name of the witness
        witness: String,
    },
    /// List the witnesses
    List(Watch),
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Add { witness, address } => add(global, &witness, &address).await,
            Self::Remove { witness } => remove(global, &witness).await,
            Self::List(watch) => list(global, &watch).await,
        }
    }
}

async fn add(global: &Global, witness: &str, address: &str) -> Outcome {
    if global.only_shows(&format!("add the witness {witness} at {address}")) {
        return Ok(());
    }
    let admin = global.connect().await?.admin();
    let id = text::id(&admin.add_witness(address, witness).await?.member);
    let data = json!({ "witness": witness, "id": id, "control_address": address });
    output::print_done(global.output, &format!("added witness {witness}"), &data);
    Ok(())
}

async fn remove(global: &Global, witness: &str) -> Outcome {
    let admin = global.connect().await?.admin();
    admin.remove_witness(witness, true).await?;
    let plan = format!("remove witness {witness} from the cluster");
    if global.only_shows(&plan) {
        return Ok(());
    }
    global.confirm(&plan)?;
    admin.remove_witness(witness, false).await?;
    let data = json!({ "witness": witness });
    output::print_done(global.output, &format!("removed witness {witness}"), &data);
    Ok(())
}

async fn list(global: &Global, watch: &Watch) -> Outcome {
    let admin = global.client()?.admin();
    let read = async |format| {
        let mut status = admin.cluster_status().await?;
        status.members.retain(|member| member.witness);
        let (rows, data) = (cluster::rows(&status), cluster::members(&status));
        Ok(output::list(format, cluster::COLUMNS, rows, &data).into())
    };
    watch.show(global.output, read).await
}

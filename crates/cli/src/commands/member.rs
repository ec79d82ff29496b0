//! `keelson member`: servers of the cluster.

mod maintenance;
mod ping;
mod remove;
mod reseed;

use clap::{Args, Subcommand};
use keelson_types::{ActivationPolicy, MountDial};
use keelson_wire::v1::SetMemberRequest;
use serde_json::json;

use crate::commands::{cluster, switchover};
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::text;
use crate::watch::Watch;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Add a running server that is in no cluster yet
    Add(Add),
    /// Remove a member, with its copies if so asked; it need not be there. Files stay
    Remove(remove::Remove),
    /// List the members
    List(Watch),
    /// Change site, addresses, or which activations a member takes
    Set(Set),
    /// Ask whether the processes of this machine's member serve (for health checks)
    Ping(ping::Ping),
    /// Move the databases of a member away and keep them away, or end that
    #[command(subcommand)]
    Maintenance(maintenance::Command),
    /// Suspend and seed anew all passive copies of a member
    Reseed(reseed::Reseed),
}

#[derive(Args, Debug)]
pub(crate) struct Add {
    /// Name of the server, as in its configuration and its certificate
    member: String,
    /// Control address of the server, host:port
    address: String,
}

#[derive(Args, Debug)]
pub(crate) struct Set {
    /// Name of the member
    member: String,
    /// Site (datacenter) of the member
    #[arg(long)]
    site: Option<String>,
    /// Where Admin and Operations are, host:port
    #[arg(long)]
    control_address: Option<String>,
    /// Where Kv is, host:port
    #[arg(long)]
    data_address: Option<String>,
    /// Where it is for other members besides, IP:port, separated by commas; "" for nowhere
    #[arg(long, value_delimiter = ',')]
    replication_addresses: Option<Vec<String>>,
    /// Which automatic activations it takes: unrestricted, intrasite_only or blocked
    #[arg(long, value_name = "POLICY")]
    activation_policy: Option<ActivationPolicy>,
    /// Most databases that may be active there, or none for no limit
    #[arg(long, value_name = "COUNT", value_parser = limit)]
    max_active: Option<i64>,
    /// Most databases that become active there while another copy can serve, or none
    #[arg(long, value_name = "COUNT", value_parser = limit)]
    max_active_preferred: Option<i64>,
    /// How much may be missing from a copy there that becomes active by itself: lossless,
    /// good_availability (6 MiB of log) or best_availability (12 MiB)
    #[arg(long, value_name = "DIAL")]
    auto_database_mount_dial: Option<MountDial>,
    /// Move its databases away at once and keep them away while another copy can serve
    #[arg(long, value_name = "BOOL")]
    activation_disabled_and_move_now: Option<bool>,
}

/// A limit as the server takes it, where negative means none.
fn limit(text: &str) -> Result<i64, String> {
    match text {
        "none" => Ok(-1),
        number => number.parse::<u32>().map(i64::from).map_err(|error| error.to_string()),
    }
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Add(add) => add.run(global).await,
            Self::Remove(remove) => remove.run(global).await,
            Self::List(watch) => list(global, &watch).await,
            Self::Set(set) => set.run(global).await,
            Self::Ping(ping) => ping.run(global).await,
            Self::Maintenance(command) => command.run(global).await,
            Self::Reseed(reseed) => reseed.run(global).await,
        }
    }
}

impl Add {
    async fn run(self, global: &Global) -> Outcome {
        let Self { member, address } = self;
        if global.only_shows(&format!("add the server {member} at {address}")) {
            return Ok(());
        }
        let admin = global.connect().await?.admin();
        let id = text::id(&admin.add_member(&address, &member).await?.member);
        let data = json!({ "member": member, "id": id, "control_address": address });
        output::print_done(global.output, &format!("added member {member}"), &data);
        Ok(())
    }
}

async fn list(global: &Global, watch: &Watch) -> Outcome {
    let admin = global.client()?.admin();
    let read = async |format| {
        let status = admin.cluster_status().await?;
        let (rows, data) = (cluster::rows(&status), cluster::members(&status));
        Ok(output::list(format, cluster::COLUMNS, rows, &data).into())
    };
    watch.show(global.output, read).await
}

impl Set {
    async fn run(self, global: &Global) -> Outcome {
        let changes = [
            self.site.is_some(),
            self.control_address.is_some(),
            self.data_address.is_some(),
            self.replication_addresses.is_some(),
            self.activation_policy.is_some(),
            self.max_active.is_some(),
            self.max_active_preferred.is_some(),
            self.auto_database_mount_dial.is_some(),
            self.activation_disabled_and_move_now.is_some(),
        ];
        if !changes.contains(&true) {
            return Err(Failure::usage("nothing to set", "name at least one option; see --help"));
        }
        if global.only_shows(&format!("change member {}", self.member)) {
            return Ok(());
        }
        let addresses = self.replication_addresses.clone().unwrap_or_default();
        let addresses = addresses.into_iter().filter(|address| !address.is_empty()).collect();
        let request = SetMemberRequest {
            name: self.member.clone(),
            site: self.site,
            control_address: self.control_address,
            data_address: self.data_address,
            set_replication_addresses: self.replication_addresses.is_some(),
            replication_addresses: addresses,
            activation_policy: self.activation_policy.map(|policy| policy.to_string()),
            max_active: self.max_active,
            max_active_preferred: self.max_active_preferred,
            auto_database_mount_dial: self.auto_database_mount_dial.map(|dial| dial.to_string()),
            move_away: self.activation_disabled_and_move_now,
        };
        let client = global.connect().await?;
        let moves = client.admin().set_member(request).await?;
        let moves = switchover::followed(&client, moves).await?;
        let data = json!({ "member": self.member, "moves": switchover::data(&moves) });
        let sentence = format!("changed member {}{}", self.member, switchover::summary(&moves));
        output::print_done(global.output, &sentence, &data);
        Ok(())
    }
}

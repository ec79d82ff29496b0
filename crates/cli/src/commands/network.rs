//! `keelson network`: named lists of subnets, and what is compressed on them.

use clap::{Args, Subcommand};
use keelson_wire::v1::{ListNetworksResponse, SetNetworkRequest};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Format, column, wide};
use crate::watch::Watch;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List networks, policies, and which way log goes between members
    List(Watch),
    /// Add or change a network
    Set(Set),
    /// Remove a network
    Remove {
        /// Name of the network
        network: String,
    },
    /// Say when log and seeds are compressed
    Policy(Policy),
}

#[derive(Args, Debug)]
pub(crate) struct Set {
    /// Name of the network
    network: String,
    /// What it is for: client or replication; a new one is for replication
    #[arg(long)]
    role: Option<String>,
    /// Its subnets, as 10.1.0.0/16,fd00::/64; instead of those that there are
    #[arg(long, value_delimiter = ',')]
    subnets: Vec<String>,
    /// Whether nothing is to be sent over it
    #[arg(long)]
    ignored: Option<bool>,
}

#[derive(Args, Debug)]
pub(crate) struct Policy {
    /// disabled, enabled, inter-subnet-only (the default) or seed-only
    #[arg(long)]
    compression: Option<String>,
    /// enabled: everything between members is encrypted; anything else is refused
    #[arg(long)]
    encryption: Option<String>,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List(watch) => list(global, &watch).await,
            Self::Set(set) => {
                if set.role.is_none() && set.subnets.is_empty() && set.ignored.is_none() {
                    return Err(nothing());
                }
                let plan = format!("set network {}", set.network);
                let request = SetNetworkRequest {
                    name: set.network,
                    role: set.role,
                    subnets: set.subnets,
                    ignored: set.ignored,
                    ..SetNetworkRequest::default()
                };
                change(global, &plan, request).await
            }
            Self::Remove { network } => {
                let plan = format!("remove network {network}");
                let request =
                    SetNetworkRequest { name: network, remove: true, ..Default::default() };
                change(global, &plan, request).await
            }
            Self::Policy(Policy { compression, encryption }) => {
                if compression.is_none() && encryption.is_none() {
                    return Err(nothing());
                }
                let request = SetNetworkRequest { compression, encryption, ..Default::default() };
                change(global, "set the policies of networks", request).await
            }
        }
    }
}

fn nothing() -> Failure {
    Failure::usage("nothing to set", "name at least one option; see --help")
}

async fn change(global: &Global, plan: &str, request: SetNetworkRequest) -> Outcome {
    let request = SetNetworkRequest { what_if: global.what_if, ..request };
    let network = request.name.clone();
    global.connect().await?.admin().set_network(request).await?;
    if !global.only_shows(plan) {
        output::print_done(global.output, &format!("done: {plan}"), &json!({ "network": network }));
    }
    Ok(())
}

async fn list(global: &Global, watch: &Watch) -> Outcome {
    let admin = global.client()?.admin();
    let read = async |format| Ok(listed(format, &admin.list_networks().await?).into());
    watch.show(global.output, read).await
}

fn listed(format: Format, found: &ListNetworksResponse) -> String {
    if format.is_data() {
        return output::document(format, &data(found));
    }
    let columns = [
        column("network"),
        column("role"),
        column("subnets"),
        column("ignored"),
        wide("addresses"),
    ];
    let rows = found.networks.iter().map(|row| {
        vec![
            row.name.clone(),
            row.role.clone(),
            row.subnets.join(","),
            row.ignored.to_string(),
            row.addresses.join(","),
        ]
    });
    let networks = output::list(format, &columns, rows.collect(), &Value::Null);
    let policies = format!("compression: {}; encryption: enabled (always)", found.compression);
    let columns = [
        column("log from"),
        column("to"),
        column("network"),
        column("compressed"),
        wide("address"),
    ];
    let rows = found.paths.iter().map(|row| {
        let path = row.path.clone().unwrap_or_default();
        let compressed = path.compressed.to_string();
        vec![row.member.clone(), path.member, path.network, compressed, path.address]
    });
    let paths = output::list(format, &columns, rows.collect(), &Value::Null);
    format!("{networks}\n{policies}\n\n{paths}")
}

fn data(found: &ListNetworksResponse) -> Value {
    let networks = found.networks.iter().map(|row| {
        json!({
            "name": row.name,
            "role": row.role,
            "subnets": row.subnets,
            "ignored": row.ignored,
            "addresses": row.addresses,
        })
    });
    let paths = found.paths.iter().map(|row| {
        let path = row.path.clone().unwrap_or_default();
        json!({
            "from": row.member,
            "to": path.member,
            "address": path.address,
            "network": path.network,
            "compressed": path.compressed,
            "bytes": path.bytes,
            "wire_bytes": path.wire_bytes,
        })
    });
    json!({
        "networks": networks.collect::<Vec<_>>(),
        "compression": found.compression,
        "encryption": "enabled",
        "log_paths": paths.collect::<Vec<_>>(),
        "silent_members": found.silent_members,
    })
}

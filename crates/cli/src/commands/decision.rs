//! `keelson decision`: why the active manager did what it did.

mod explain;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Subcommand;
use keelson_client::Client;
use keelson_status::decision::Names;
use serde_json::Value;

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, Format};
use crate::text;
use crate::watch::Watch;

/// Names and comments make a table easier to read, and are not waited for longer than this.
const NAMES_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List the newest decision records, the newest last; -o json gives them with every input
    List {
        /// Only those of this database
        #[arg(default_value = "")]
        database: String,
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: u32,
        #[command(flatten)]
        watch: Watch,
    },
    /// Explain one: each candidate with each criterion, decided again from its recorded inputs
    Explain {
        /// Number of the record, from decision list
        id: u64,
        /// Decide with inputs changed (--what-if m2.alive=false): MEMBER.KEY=VALUE,
        /// requested=MEMBER or mount_dial=DIAL
        #[arg(value_name = "KEY=VALUE")]
        changes: Vec<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let (database, limit, watch) = match self {
            Self::Explain { id, changes } => return explain::run(global, id, changes).await,
            Self::List { database, limit, watch } => (database, limit, watch),
        };
        let client = global.client()?;
        let read = async |format| {
            let records = client.admin().list_decisions(&database, limit).await?;
            Ok(listed(format, &client, records).await.into())
        };
        watch.show(global.output, read).await
    }
}

async fn listed(format: Format, client: &Client, records: Vec<String>) -> String {
    let record = |record: String| serde_json::from_str(&record).unwrap_or(Value::String(record));
    let records: Vec<Value> = records.into_iter().map(record).collect();
    if format.is_data() {
        return output::document(format, &Value::Array(records));
    }
    let names = names(client).await;
    let rows = records.iter().map(|record| table::row(&names, record)).collect();
    output::list(format, table::COLUMNS, rows, &Value::Null)
}

/// What the ids in records stand for, as far as it can be learned now.
async fn names(client: &Client) -> Names {
    // Records can be read without names, and are wanted most when the cluster is not well.
    let topology = tokio::time::timeout(NAMES_PATIENCE, client.refresh_topology());
    let topology = match topology.await {
        Ok(Ok(topology)) => topology,
        _ => client.topology(),
    };
    let members = topology.members.iter();
    let members = members.filter_map(|(name, member)| Some((member.id?.to_string(), name.clone())));
    let databases = topology.databases.iter();
    let databases = databases.filter_map(|(name, one)| Some((one.id?.to_string(), name.clone())));
    let operations = client.operations();
    let comments = match tokio::time::timeout(NAMES_PATIENCE, operations.list()).await {
        Ok(Ok(operations)) => operations
            .into_iter()
            .filter(|operation| !operation.comment.is_empty())
            .map(|operation| (text::id(&operation.operation), operation.comment))
            .collect(),
        _ => BTreeMap::new(),
    };
    Names { of: members.chain(databases).collect(), comments }
}

//! `keelson decision`: why the active manager did what it did.

use clap::Subcommand;
use serde_json::Value;

use crate::context::Global;
use crate::failure::Outcome;
use crate::output;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List the newest decision records, the newest last
    List {
        /// Only those of this database
        #[arg(default_value = "")]
        database: String,
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let Self::List { database, limit } = self;
        let records = global.client()?.admin().list_decisions(&database, limit).await?;
        let records: Vec<Value> = records
            .into_iter()
            .map(|record| serde_json::from_str(&record).unwrap_or(Value::String(record)))
            .collect();
        if global.output.is_data() {
            output::print_data(global.output, &Value::Array(records));
            return Ok(());
        }
        for record in records {
            output::emit(&format!("{record}\n"));
        }
        Ok(())
    }
}

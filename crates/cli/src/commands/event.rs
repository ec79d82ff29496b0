//! `keelson event`: what happened in the cluster.

use clap::Subcommand;
use serde_json::json;

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, column, wide};
use crate::text;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List the newest events, the newest last
    List {
        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let Self::List { limit } = self;
        let events = global.client()?.admin().list_events(limit).await?;
        let columns =
            [column("time"), column("kind"), column("subject"), column("message"), wide("index")];
        let rows = events.iter().map(|event| {
            vec![
                text::time(event.unix_millis),
                event.kind.clone(),
                event.subject.clone(),
                event.message.clone(),
                event.index.to_string(),
            ]
        });
        let data = events.iter().map(|event| {
            json!({
                "index": event.index,
                "time": text::time(event.unix_millis),
                "unix_millis": event.unix_millis,
                "kind": event.kind,
                "subject": event.subject,
                "message": event.message,
            })
        });
        output::print_list(global.output, &columns, rows.collect(), &data.collect());
        Ok(())
    }
}

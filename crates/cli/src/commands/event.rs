//! `keelson event`: what happened in the cluster.

use clap::Subcommand;
use keelson_wire::v1::EventInfo;
use serde_json::json;

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, Format, column, wide};
use crate::text;
use crate::watch::Watch;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List the newest events, the newest last
    List {
        /// At most this many
        #[arg(long, default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        watch: Watch,
    },
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let Self::List { limit, watch } = self;
        let admin = global.client()?.admin();
        let read = async |format| Ok(listed(format, &admin.list_events(limit).await?).into());
        watch.show(global.output, read).await
    }
}

fn listed(format: Format, events: &[EventInfo]) -> String {
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
    output::list(format, &columns, rows.collect(), &data.collect())
}

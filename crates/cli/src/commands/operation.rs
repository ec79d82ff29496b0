//! `keelson operation`: long work and its progress.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Subcommand;
use keelson_client::{Client, succeeded};
use keelson_types::OperationId;
use keelson_wire::v1::Operation;
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, column, wide};
use crate::text;

/// How long a command waits for an operation that it started or watches.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(600);

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List the operations that are remembered
    List,
    /// Show one operation
    Show {
        /// Id of the operation
        operation: OperationId,
    },
    /// Follow an operation to its end
    Watch {
        /// Id of the operation
        operation: OperationId,
    },
    /// Ask an operation to stop at its next safe point
    Cancel {
        /// Id of the operation
        operation: OperationId,
    },
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List => list(global).await,
            Self::Show { operation } => {
                let operation = global.connect().await?.operations().get(operation).await?;
                show(global, &operation);
                Ok(())
            }
            Self::Watch { operation } => {
                let client = global.connect().await?;
                let ended = follow(&client, operation).await?;
                show(global, &ended);
                succeeded(ended)?;
                Ok(())
            }
            Self::Cancel { operation } => {
                if global.only_shows(&format!("cancel operation {operation}")) {
                    return Ok(());
                }
                let operation = global.connect().await?.operations().cancel(operation).await?;
                show(global, &operation);
                Ok(())
            }
        }
    }
}

/// Follows an operation to its end; on a terminal its phases are shown on standard error.
pub(crate) async fn follow(client: &Client, operation: OperationId) -> Outcome<Operation> {
    let shown = io::stderr().is_terminal();
    let mut last = String::new();
    let operations = client.operations();
    let ended = operations.watch(operation, WAIT_MAX, |now| {
        let line = progress(now);
        if shown && line != last {
            eprintln!("{line}");
            last = line;
        }
    });
    Ok(ended.await?)
}

fn progress(operation: &Operation) -> String {
    let share = match operation.total {
        0 => String::new(),
        total => format!(" {} %", operation.done * 100 / total),
    };
    format!("{} {}: {}{share}", operation.kind, operation.subject, operation.phase)
}

async fn list(global: &Global) -> Outcome {
    let operations = global.connect().await?.operations().list().await?;
    let columns = [
        column("operation"),
        column("kind"),
        column("subject"),
        column("state"),
        column("phase"),
        column("started"),
        wide("ended"),
        wide("comment"),
        wide("message"),
    ];
    let rows = operations.iter().map(|operation| {
        vec![
            text::id(&operation.operation),
            operation.kind.clone(),
            operation.subject.clone(),
            operation.state.clone(),
            operation.phase.clone(),
            text::time(operation.started_unix_millis),
            text::time(operation.ended_unix_millis),
            operation.comment.clone(),
            operation.message.clone(),
        ]
    });
    let data = operations.iter().map(data).collect();
    output::print_list(global.output, &columns, rows.collect(), &data);
    Ok(())
}

fn show(global: &Global, operation: &Operation) {
    let rows = [
        ("operation", text::id(&operation.operation)),
        ("kind", operation.kind.clone()),
        ("subject", operation.subject.clone()),
        ("state", operation.state.clone()),
        ("phase", operation.phase.clone()),
        ("comment", operation.comment.clone()),
        ("message", operation.message.clone()),
        ("code", operation.code.clone()),
        ("started", text::time(operation.started_unix_millis)),
        ("ended", text::time(operation.ended_unix_millis)),
        ("done", format!("{} of {}", operation.done, operation.total)),
    ];
    output::print_one(global.output, &rows, &data(operation));
}

/// An operation as JSON.
pub(crate) fn data(operation: &Operation) -> Value {
    json!({
        "operation": text::id(&operation.operation),
        "kind": operation.kind,
        "subject": operation.subject,
        "state": operation.state,
        "phase": operation.phase,
        "comment": operation.comment,
        "message": operation.message,
        "code": operation.code,
        "started": text::time(operation.started_unix_millis),
        "ended": text::time(operation.ended_unix_millis),
        "started_unix_millis": operation.started_unix_millis,
        "ended_unix_millis": operation.ended_unix_millis,
        "done": operation.done,
        "total": operation.total,
    })
}

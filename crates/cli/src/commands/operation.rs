//! `keelson operation`: long work and its progress.

use std::io::{self, IsTerminal};
use std::sync::LazyLock;
use std::time::Duration;

use clap::Subcommand;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use keelson_client::{Client, succeeded};
use keelson_types::{LogEnd, OperationId};
use keelson_wire::v1::{MoveResult, Operation, SeedFigures};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, Format, column, wide};
use crate::text;
use crate::watch::Watch;

/// How long a command waits for an operation that it started or watches.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(600);

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List the operations that are remembered
    List(Watch),
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
            Self::List(watch) => list(global, &watch).await,
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

/// The lines of the seeds that are followed, below each other on a terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Follows an operation to its end; on a terminal its phases are shown on standard error, those of
/// a seed in one line that is written over.
pub(crate) async fn follow(client: &Client, operation: OperationId) -> Outcome<Operation> {
    follow_for(client, operation, WAIT_MAX).await
}

/// The same for as long as it may take.
pub(crate) async fn follow_for(
    client: &Client,
    operation: OperationId,
    limit: Duration,
) -> Outcome<Operation> {
    let shown = io::stderr().is_terminal();
    let (mut last, mut bar) = (String::new(), None::<ProgressBar>);
    let operations = client.operations();
    let ended = operations.watch(operation, limit, |now| {
        if !shown {
            return;
        }
        if let Some(figures) = &now.seed {
            bar.get_or_insert_with(line).set_message(seed_bar(now, figures));
            return;
        }
        let line = progress(now);
        if line != last {
            eprintln!("{line}");
            last = line;
        }
    });
    let ended = ended.await;
    // Its last state stays to be read.
    bar.iter().for_each(ProgressBar::abandon);
    Ok(ended?)
}

/// A line of its own, which is written over.
fn line() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    BARS.add(ProgressBar::new_spinner().with_style(style))
}

fn progress(operation: &Operation) -> String {
    let share = match operation.total {
        0 => String::new(),
        total => format!(" {} %", operation.done * 100 / total),
    };
    format!("{} {}: {}{share}", operation.kind, operation.subject, operation.phase)
}

/// Phase, bar, bytes, rate and time left of a seed in one line.
fn seed_bar(operation: &Operation, figures: &SeedFigures) -> String {
    const WIDTH: usize = 24;
    let SeedFigures { bytes_done, bytes, files_done, files, .. } = figures;
    let share = bytes_done.saturating_mul(WIDTH as u64).checked_div(*bytes).unwrap_or(0);
    let full = usize::try_from(share).unwrap_or(WIDTH).min(WIDTH);
    let bar = format!("{}{}", "#".repeat(full), ".".repeat(WIDTH - full));
    let left = match figures.seconds_left {
        Some(seconds) => format!(", {} left", text::span(Duration::from_secs(seconds))),
        None => String::new(),
    };
    format!(
        "{} {}: {} [{bar}] {} of {}, {files_done} of {files} files, {}/s{left}{}",
        operation.kind,
        operation.subject,
        operation.phase,
        text::size(*bytes_done),
        text::size(*bytes),
        text::size(figures.bytes_per_second),
        match operation.message.as_str() {
            "" => String::new(),
            why => format!(" ({why})"),
        }
    )
}

async fn list(global: &Global, watch: &Watch) -> Outcome {
    let client = global.client()?;
    let read = async |format| {
        client.refresh_topology().await?;
        Ok(listed(format, &client.operations().list().await?).into())
    };
    watch.show(global.output, read).await
}

fn listed(format: Format, operations: &[Operation]) -> String {
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
    output::list(format, &columns, rows.collect(), &data)
}

fn show(global: &Global, operation: &Operation) {
    let figures = operation.seed.clone().unwrap_or_default();
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
        ("source", figures.source.clone()),
        ("files", format!("{} of {}", figures.files_done, figures.files)),
        ("bytes", format!("{} of {}", figures.bytes_done, figures.bytes)),
        ("network", network(&figures)),
        ("received", text::size(figures.bytes_received)),
        ("rate", format!("{}/s", text::size(figures.bytes_per_second))),
        ("log behind it", log_behind(&figures)),
    ];
    let rows = if operation.seed.is_some() { &rows[..] } else { &rows[..11] };
    output::print_one(global.output, rows, &data(operation));
}

/// The log that comes beside the files of a seed, for people.
fn log_behind(figures: &SeedFigures) -> String {
    let bytes = text::size(figures.log_bytes);
    match figures.log_source.as_str() {
        "" => bytes,
        source => format!("{bytes}, from {source}"),
    }
}

/// The network of a seed, for people.
fn network(figures: &SeedFigures) -> String {
    let name = if figures.network.is_empty() { "unnamed" } else { &figures.network };
    let how = if figures.compressed { ", compressed" } else { "" };
    format!("{name}{how}")
}

/// The result of a switchover as JSON.
fn moved(moved: &MoveResult) -> Value {
    json!({
        "active_at_start": moved.active_at_start,
        "active_at_end": moved.active_at_end,
        "mount_status_at_start": moved.mount_status_at_start,
        "mount_status_at_end": moved.mount_status_at_end,
        "logs_lost": moved.logs_lost,
        "recovery_point": moved.recovery_point.map(|end| LogEnd::from(end).to_string()),
    })
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
        "seed": operation.seed.as_ref().map(|figures| json!({
            "source": figures.source,
            "scope": figures.scope,
            "files_done": figures.files_done,
            "files": figures.files,
            "bytes_done": figures.bytes_done,
            "bytes": figures.bytes,
            "bytes_received": figures.bytes_received,
            "bytes_per_second": figures.bytes_per_second,
            "seconds_left": figures.seconds_left,
            "network": figures.network,
            "compressed": figures.compressed,
            "log_source": figures.log_source,
            "log_bytes": figures.log_bytes,
        })),
        "moved": operation.moved.as_ref().map(moved),
    })
}

//! Where log lines go: standard error, or a file that both processes append to line by line. And
//! where spans go, if traces are exported.
//!
//! Times are UTC in ISO 8601. `KEELSON_LOG` in the environment overrides the configured filter.
//!
//! One filter is for both: a line that is logged is also an event of the span that it was written
//! in. Spans have a target of their own ([`SPANS`]) and with it the level `info`, whatever the
//! level of lines is; a directive for it in the filter says otherwise. Lines never show spans.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use keelson_net::SPANS;
use tracing::Subscriber;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::Config;
use crate::telemetry::{self, Exporting, Process};

/// Name of the variable that overrides the filter.
const VARIABLE: &str = "KEELSON_LOG";

/// Libraries that are talkative below a warning. The consensus library also calls its own clean end
/// an error; its real failures are reported by the control plane.
const QUIET: &str = "openraft=off,rocksdb=error,h2=warn,hyper=warn,hyper_util=warn,\
    rustls=warn,tonic=warn,tower=warn";

/// Starts logging for this process, and the export of traces if that is wanted. A second call
/// changes nothing.
///
/// # Errors
/// The file cannot be opened, the filter cannot be read, or a thread cannot be started.
pub(crate) fn start(config: &Config, process: Process) -> anyhow::Result<Exporting> {
    let filter = match std::env::var(VARIABLE) {
        Ok(filter) if !filter.is_empty() => filter,
        _ => format!("{QUIET},{}", config.log_level()),
    };
    let lines = lines(config.log_file(), parse(&filter)?)?;
    let all = Registry::default().with(lines);
    // An error says that logging runs already, as in tests.
    let Some(settings) = config.telemetry() else {
        let _ = all.try_init();
        return Ok(Exporting::default());
    };
    let (exporting, spans) = telemetry::start(config, settings, process, parse(&filter)?)?;
    let _ = all.with(spans).try_init();
    Ok(exporting)
}

/// A filter; directives of its own for spans stand behind ours and win.
pub(crate) fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    let filter = format!("{SPANS}=info,{filter}");
    EnvFilter::builder().parse(&filter).with_context(|| format!("log filter {filter:?}"))
}

/// Log lines, without a word about spans.
fn lines<S>(
    file: Option<&Path>,
    filter: EnvFilter,
) -> anyhow::Result<Box<dyn Layer<S> + Send + Sync>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    Ok(match file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file =
                file.with_context(|| format!("cannot open the log file {}", path.display()))?;
            lines_to(Mutex::new(file), false, filter)
        }
        None => {
            let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let ansi = wanted && std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines_to(std::io::stderr, ansi, filter)
        }
    })
}

/// Both filters in one, and none for all layers: only so a span that nobody wants costs a flag.
pub(crate) fn lines_to<S, W>(
    writer: W,
    ansi: bool,
    filter: EnvFilter,
) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_timer(SystemTime);
    // A line that cannot be written is lost: to say so on standard error would fail on the same
    // full disk, and end whoever logs.
    let lines = lines.with_ansi(ansi).with_writer(writer).log_internal_errors(false);
    // With a hint, the other filter's is heard: lines of lower levels cost a look at a number.
    let no_spans = filter_fn(|metadata| metadata.target() != SPANS);
    lines.with_filter(no_spans.with_max_level_hint(LevelFilter::TRACE).and(filter)).boxed()
}

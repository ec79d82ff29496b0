//! Where log lines go: standard error, or a file that both processes append to line by line.
//!
//! Times are UTC in ISO 8601. `KEELSON_LOG` in the environment overrides the configured filter.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// Name of the variable that overrides the filter.
const VARIABLE: &str = "KEELSON_LOG";

/// Libraries that are talkative below a warning. The consensus library also calls its own clean end
/// an error; its real failures are reported by the control plane.
const QUIET: &str = "openraft=off,rocksdb=error,h2=warn,hyper=warn,hyper_util=warn,\
    rustls=warn,tonic=warn,tower=warn";

/// Starts logging for this process. A second call changes nothing.
///
/// # Errors
/// The file cannot be opened, or the filter cannot be read.
pub(crate) fn start(level: &str, file: Option<&Path>) -> anyhow::Result<()> {
    let filter = match std::env::var(VARIABLE) {
        Ok(filter) if !filter.is_empty() => filter,
        _ => format!("{QUIET},{level}"),
    };
    let filter =
        EnvFilter::builder().parse(&filter).with_context(|| format!("log filter {filter:?}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_timer(SystemTime);
    // An error says that logging runs already, as in tests.
    let _ = match file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file =
                file.with_context(|| format!("cannot open the log file {}", path.display()))?;
            lines.with_ansi(false).with_writer(Mutex::new(file)).try_init()
        }
        None => {
            let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let ansi = wanted && std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(ansi).with_writer(std::io::stderr).try_init()
        }
    };
    Ok(())
}

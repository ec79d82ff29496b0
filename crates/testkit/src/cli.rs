//! Runs commands of the `keelson` program as a person would.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs commands with one client configuration.
#[derive(Clone, Debug)]
pub struct Cli {
    binary: PathBuf,
    client: Option<PathBuf>,
}

/// What a command gave.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cli {
    /// Commands with the configuration `client`, or without any.
    #[must_use]
    pub fn new(binary: &Path, client: Option<&Path>) -> Self {
        Self { binary: binary.to_owned(), client: client.map(Path::to_owned) }
    }

    /// The command line, not yet started. Killed when dropped.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true).env("NO_COLOR", "1");
        match &self.client {
            Some(client) => command.env("KEELSON_CLIENT", client),
            None => command.env_remove("KEELSON_CLIENT"),
        };
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// It cannot be started, or hangs.
    pub async fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut command = self.command(args);
        let output = timeout(PATIENCE, command.output()).await;
        let output = output.with_context(|| format!("{command:?} hangs"))?;
        let output = output.with_context(|| format!("cannot start {command:?}"))?;
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that must succeed, and gives its standard output.
    ///
    /// # Errors
    /// It failed.
    pub async fn succeed<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let output = self.run(&args).await?;
        if output.code != Some(0) {
            bail!("keelson {args:?} ended with {:?}: {}", output.code, output.stderr.trim());
        }
        Ok(output.stdout)
    }

    /// Runs a command that must succeed, with `-o json`, and reads its output.
    ///
    /// # Errors
    /// It failed, or printed no JSON.
    pub async fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Value> {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        let text = self.succeed(args.chain(["-o".into(), "json".into()])).await?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }
}

impl Output {
    /// The stable code of the error that was printed, if any.
    #[must_use]
    pub fn error_code(&self) -> Option<&str> {
        let line = self.stderr.lines().find_map(|line| line.strip_prefix("error["))?;
        line.split_once(']').map(|(code, _)| code)
    }

    /// The hint that was printed, if any.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.stderr.lines().find_map(|line| line.strip_prefix("hint: "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_hint_are_read_from_standard_error() {
        let stderr = "note\nerror[bad_key]: too long\nhint: shorter\n".to_owned();
        let output = Output { code: Some(3), stdout: String::new(), stderr };
        assert_eq!((output.error_code(), output.hint()), (Some("bad_key"), Some("shorter")));
    }
}

//! Ctrl-C ends a long run as a failure does: whatever it started is dropped, and so stopped.

use std::future::Future;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Does `work` until it is done, or somebody presses Ctrl-C or ends this process in order.
///
/// # Errors
/// Those of the work; that it was interrupted.
pub async fn until_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut terminate = signal(SignalKind::terminate()).context("signals")?;
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("interrupted"),
    }
}

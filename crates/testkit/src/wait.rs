//! Waiting for a level: something holds, or the deadline passes and says what was seen last.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often a condition is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long conditions are waited for, unless said otherwise: long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A condition was waited for in vain.
static GAVE_UP: AtomicBool = AtomicBool::new(false);

/// Whether something was waited for in vain in this process: somebody will want to know why.
pub(crate) fn gave_up() -> bool {
    GAVE_UP.load(Ordering::Relaxed)
}

/// Waits until `probe` succeeds; at most a minute.
///
/// # Errors
/// The last failure of the probe, with what was waited for.
pub async fn eventually<T, F, Fut>(what: &str, probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    eventually_for(PATIENCE, what, probe).await
}

/// The same with another deadline.
///
/// # Errors
/// As [`eventually`].
pub async fn eventually_for<T, F, Fut>(patience: Duration, what: &str, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + patience;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                GAVE_UP.store(true, Ordering::Relaxed);
                return Err(error).with_context(|| format!("after {patience:?} not yet: {what}"));
            }
            Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[tokio::test]
    async fn a_condition_that_never_holds_ends_with_its_last_failure() {
        let mut count = 0;
        let result: Result<()> = eventually_for(Duration::from_millis(50), "the moon", || {
            count += 1;
            std::future::ready(Err(anyhow!("try {count}")))
        })
        .await;
        let text = format!("{:#}", result.unwrap_err());
        assert!(text.contains("not yet: the moon: try"), "{text}");
    }
}

//! Ends suspensions whose time is over (`copy suspend --for`), and tells that a discarded timeline
//! was kept long enough (S13).
//!
//! Every member keeps the appointment, asleep until the next one; only the leader proposes. A
//! leader that is late ends them late; nothing depends on the moment.

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::{ClusterState, Command, retention};
use tokio::time::sleep;

use crate::clock;
use crate::context::Context;

/// Pause after a proposal that came to nothing, and the longest sleep: the wall clock may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Runs until the control plane stops.
pub(crate) async fn run(context: Arc<Context>) {
    let mut applied = context.applied.watch();
    loop {
        applied.mark_unchanged();
        let end = context.applied.read(next_end);
        let due = end.is_some_and(|end| end <= clock::unix_millis());
        if due && context.is_leader() {
            // What was not recorded is tried again; what was, changes the applied state.
            drop(context.propose_here(Command::EndSuspensions).await);
        }
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = pause(end, due) => {}
        }
    }
}

async fn pause(end: Option<u64>, due: bool) {
    match end {
        None => std::future::pending().await,
        Some(_) if due => sleep(LOOK_AGAIN).await,
        Some(end) => {
            let left = Duration::from_millis(end.saturating_sub(clock::unix_millis()));
            sleep(left.min(LOOK_AGAIN)).await;
        }
    }
}

/// When the next suspension, or retention of a discarded timeline, ends, in Unix milliseconds.
fn next_end(state: &ClusterState) -> Option<u64> {
    let copies = state.databases.values().flat_map(|database| database.copies.values());
    let ends = copies.flat_map(|copy| {
        [copy.suspension.next_end_unix_ms(), retention::next_end_unix_ms(copy, &state.settings)]
    });
    ends.flatten().min()
}

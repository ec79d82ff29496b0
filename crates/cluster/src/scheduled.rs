//! Keeps the appointments of scheduled moves (`switchover --at`).
//!
//! Every member keeps the time, asleep until the next one; only the leader acts. What is due and
//! what is too late decides `cluster_core::schedule`.

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::schedule::{self, Due, ScheduledMove};
use keelson_cluster_core::{Command, OperationState};
use keelson_types::OperationId;
use tokio::time::sleep;

use crate::clock;
use crate::context::Context;

/// Pause after one that could not be begun, and the longest sleep: the wall clock may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Runs until the control plane stops.
pub(crate) async fn run(context: Arc<Context>) {
    let mut applied = context.applied.watch();
    loop {
        applied.mark_unchanged();
        let now = clock::unix_millis();
        if context.is_leader() {
            context.end_orphaned_rehearsals().await;
            for (id, order, due) in context.applied.read(|state| schedule::due(state, now)) {
                keep(&context, id, order, due).await;
            }
        }
        let next = context.applied.read(schedule::next_unix_ms);
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            () = pause(next) => {}
        }
    }
}

async fn pause(next: Option<u64>) {
    let Some(next) = next else { return std::future::pending().await };
    let left = Duration::from_millis(next.saturating_sub(clock::unix_millis()));
    let left = if left.is_zero() { LOOK_AGAIN } else { left };
    sleep(left.min(LOOK_AGAIN)).await;
}

/// Begins one move, or drops it; what cannot be recorded is tried again.
async fn keep(context: &Arc<Context>, id: OperationId, order: ScheduledMove, due: Due) {
    let result = match due {
        Due::TooLate => {
            let refused = schedule::too_late();
            Err(keelson_cluster_core::Refusal::new(refused.reason, refused.message))
        }
        Due::Begin => match context.begin_scheduled(id, order).await {
            Some(result) => result,
            None => return,
        },
    };
    let (state, message) = match result {
        Ok(message) => (OperationState::Succeeded, message),
        Err(refusal) => {
            let message = refusal.message.clone();
            (OperationState::Failed(refusal), message)
        }
    };
    let command = Command::UpdateOperation { id, state, progress_percent: 100, message };
    if let Err(refusal) = context.propose_here(command).await {
        tracing::info!(%refusal, "the end of a scheduled move was not recorded");
    }
}

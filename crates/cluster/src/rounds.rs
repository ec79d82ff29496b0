//! What the leader looks at from time to time: whether databases have enough copies, whether they
//! are where they prefer to be, and which copies stay failed.
//!
//! All are settings of the cluster. Every member keeps the time, only the leader looks; a new
//! leader begins a period of its own and goes on from the replicated state.

use std::sync::Arc;
use std::time::Duration;

use keelson_cluster_core::Command;
use keelson_cluster_core::autoreseed::ReseedWatch;
use keelson_cluster_core::redundancy::RedundancyWatch;
use keelson_types::Setting;
use tokio::time::Instant;

use crate::clock;
use crate::context::Context;

/// How often the settings are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often databases are looked for on members that are to be empty.
const KEEP_LEFT: Duration = Duration::from_secs(10);

/// Runs until the control plane stops.
pub(crate) async fn run(context: Arc<Context>) {
    let (mut watch, mut reseeds) = (RedundancyWatch::default(), ReseedWatch::default());
    let (mut looked, mut moved, mut reseeded) = (Instant::now(), Instant::now(), Instant::now());
    let mut left = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        if !context.is_leader() {
            (watch, reseeds) = (RedundancyWatch::default(), ReseedWatch::default());
            (looked, moved, reseeded) = (Instant::now(), Instant::now(), Instant::now());
            left = Instant::now();
            continue;
        }
        let span = |setting| context.applied.read(|state| state.settings.span(setting));
        if looked.elapsed() >= span(Setting::RedundancyCheckPeriod) {
            looked = Instant::now();
            look_at_redundancy(&context, &mut watch).await;
        }
        if reseeded.elapsed() >= span(Setting::AutoreseedCheckPeriod) {
            reseeded = Instant::now();
            context.look_for_reseeds(&mut reseeds).await;
        }
        if left.elapsed() >= KEEP_LEFT {
            left = Instant::now();
            if let Err(refusal) = context.keep_left().await {
                tracing::info!(%refusal, "databases did not leave a member that is to be empty");
            }
        }
        context.begin_readmission();
        let period = span(Setting::PreferenceMovePeriod);
        if !period.is_zero() && moved.elapsed() >= period {
            moved = Instant::now();
            if let Err(refusal) = context.move_to_preferred().await {
                tracing::info!(%refusal, "databases were not moved to where they prefer to be");
            }
        }
    }
}

async fn look_at_redundancy(context: &Arc<Context>, watch: &mut RedundancyWatch) {
    let now = clock::now().0 / 1_000_000;
    let after = context.applied.read(|s| s.settings.number(Setting::RedundancyAlertAfter));
    for verdict in context.redundancies(None).await {
        let told = context.applied.read(|state| watch.look(state, &verdict, (now, after)));
        let Some(kind) = told else { continue };
        let (member, database) = (None, Some(verdict.database));
        let command = Command::AppendEvent { member, database, kind };
        // What is not recorded is told in the next round.
        if let Err(refusal) = context.propose_here(command).await {
            tracing::debug!(%refusal, "the redundancy of a database was not recorded");
        }
    }
}

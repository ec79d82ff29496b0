//! Refused switchovers, kept as decisions that can be explained (G8).

use std::sync::Arc;

use keelson_cluster_core::{
    ActivationReason, Besides, ClusterState, Command, DecisionRecord, MovePlan, RefusedMove,
};
use keelson_types::DatabaseId;

use super::moves::MoveOrder;
use crate::context::Context;

/// Refusals of one request that are kept, so that a big one does not push other decisions out.
const REFUSALS_KEPT: usize = 16;

impl Context {
    /// Keeps why databases were not moved, as decisions that can be explained. The same refusal as
    /// the newest decision of its database is kept once.
    pub(super) async fn keep_refusals(
        self: &Arc<Self>,
        order: &MoveOrder,
        plans: &[(DatabaseId, MovePlan)],
    ) {
        let refused = plans.iter().filter(|(_, plan)| !plan.checked.is_empty());
        let refused = refused.filter_map(|(id, plan)| {
            let (facts, refusal) = (plan.facts.as_deref()?, plan.refusal.as_ref()?);
            let to = order.databases.iter().find(|(database, _)| database == id)?.1;
            let refused = RefusedMove {
                to,
                careful: order.terminate_on_warning,
                comment: order.comment.clone(),
                facts: facts.clone(),
                refusal: refusal.clone(),
            };
            Some((*id, refused))
        });
        let commands: Vec<_> = self.applied.read(|state| {
            let fresh = refused.filter(|(id, refused)| !was_refused(state, *id, refused));
            let record = |(id, refused)| refusal_record(state, id, refused);
            fresh.filter_map(record).take(REFUSALS_KEPT).collect()
        });
        for record in commands {
            // Who asked hears the refusal in any case.
            if let Err(refusal) = self.propose_here(Command::RecordDecision(record)).await {
                tracing::debug!(%refusal, "a refused move was not recorded");
            }
        }
    }
}

/// Whether the newest decision about a database says the same.
fn was_refused(state: &ClusterState, database: DatabaseId, refused: &RefusedMove) -> bool {
    let mut newest = state.decisions.iter().rev();
    let newest = newest.find(|entry| entry.record.database == database);
    match newest.and_then(|entry| entry.record.besides.as_deref()) {
        Some(Besides::RefusedMove(known)) => {
            (known.to, &known.refusal) == (refused.to, &refused.refusal)
        }
        Some(Besides::Reseed(_)) | None => false,
    }
}

fn refusal_record(
    state: &ClusterState,
    id: DatabaseId,
    refused: RefusedMove,
) -> Option<Box<DecisionRecord>> {
    let database = state.databases.get(&id)?;
    let to = refused.to.or_else(|| refused.facts.copies.first().map(|copy| copy.member))?;
    let (reason, version) = (ActivationReason::Switchover { to }, env!("CARGO_PKG_VERSION"));
    let of = (id, database.epoch);
    Some(Box::new(DecisionRecord::of(version, of, reason, Besides::RefusedMove(refused))))
}

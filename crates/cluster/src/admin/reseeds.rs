//! The automatic reseed of copies that stay failed (F128-F131): asks the members, lets
//! `cluster_core::autoreseed` decide, and proposes what it wants.

use std::sync::Arc;

use keelson_cluster_core::autoreseed::{
    CopySeen, ReseedOrder, ReseedStep, ReseedVerdict, ReseedWatch, ReseedWish, Seen, order,
};
use keelson_cluster_core::{
    ActivationReason, Besides, ClusterState, Command, DecisionRecord, EventKind, ReseedDecision,
    ReseedEvent,
};
use keelson_types::{
    CopyId, FailureTag, MemberId, OldFiles, OperationId, RefusalReason, SeedOrder,
};
use keelson_wire::Refusal;
use uuid::Uuid;

use super::losses::facts_of;
use super::moves::status_named;
use super::refusal;
use super::status::failure_of;
use super::volumes::seen_places;
use crate::clock;
use crate::context::Context;
use crate::facts::AllFacts;

impl Context {
    /// One look of the leader at all copies.
    pub(crate) async fn look_for_reseeds(self: &Arc<Self>, watch: &mut ReseedWatch) {
        let members: Vec<MemberId> =
            self.applied.read(|state| state.members.keys().copied().collect());
        let facts = self.facts_of(members, &[]).await;
        let now = clock::unix_millis();
        let orders = self.applied.read(|state| {
            let (seen, places) = (seen(state, &facts), seen_places(state, &facts));
            watch.look(state, (&seen, &places), now)
        });
        for order in orders {
            let copy = order.copy;
            if let Err(refusal) = self.carry_out(order).await {
                // The next look decides anew.
                tracing::info!(%copy, %refusal, "a step of an automatic reseed was not taken");
            }
        }
    }

    async fn carry_out(self: &Arc<Self>, wanted: ReseedOrder) -> Result<(), Refusal> {
        let (copy, command) = (wanted.copy, self.applied.read(|state| command(state, &wanted)));
        let record = self.applied.read(|state| record(state, &wanted));
        let Some(command) = command else {
            return Err(refusal(RefusalReason::UnknownCopy, "the copy is gone"));
        };
        tracing::info!(%copy, ?command, "automatic reseed");
        self.propose_here(command).await?.answer()?;
        if let Some(record) = record {
            self.propose_here(Command::RecordDecision(record)).await?.answer()?;
        }
        Ok(())
    }
}

fn command(state: &ClusterState, wanted: &ReseedOrder) -> Option<Command> {
    let ReseedOrder { database, copy, wish, .. } = wanted;
    let (database, copy) = (*database, *copy);
    let config = state.databases.get(&database)?.copies.get(&copy)?;
    let step = match wish {
        Err(why) => {
            let step = ReseedEvent::Blocked { why: why.clone() };
            let kind = EventKind::AutoReseed { copy, step };
            let (member, database) = (Some(config.member), Some(database));
            return Some(Command::AppendEvent { member, database, kind });
        }
        Ok(ReseedWish::Suspend(tag)) => {
            return Some(Command::SuspendFailed {
                database,
                copy,
                resumes: config.resumes,
                comment: format!("failed for long ({tag})"),
                needs_seed: *tag == FailureTag::MissingLog,
                tag: Some(*tag),
            });
        }
        Ok(ReseedWish::Resume) => ReseedStep::Resume,
        Ok(ReseedWish::Seed(old_files)) => ReseedStep::Seed(fresh_order(*old_files)),
        Ok(ReseedWish::AssignSpare(spare)) => {
            let spare = Some(spare.clone());
            ReseedStep::Seed(SeedOrder { spare, ..fresh_order(OldFiles::Keep) })
        }
        Ok(ReseedWish::Stop) => ReseedStep::Stop,
        Ok(ReseedWish::Reset) => ReseedStep::Reset,
        Ok(ReseedWish::Done) => ReseedStep::Done,
    };
    let steps = config.autoreseed.unwrap_or_default().steps();
    Some(Command::ReseedStep { database, copy, steps, step })
}

fn fresh_order(old_files: OldFiles) -> SeedOrder {
    order(OperationId::new(Uuid::new_v4()), CopyId::new(Uuid::new_v4()), old_files)
}

/// The decision behind an order, with what it was decided from.
fn record(state: &ClusterState, wanted: &ReseedOrder) -> Option<Box<DecisionRecord>> {
    let found = state.databases.get(&wanted.database)?;
    let config = found.copies.get(&wanted.copy)?;
    let facts = wanted.facts.as_ref().clone();
    let tag = config.failure.or_else(|| facts.seen?.tag);
    let reason = tag.map_or(ActivationReason::Wedged, |tag| ActivationReason::Failed { tag });
    let verdict = match wanted.wish.clone() {
        Ok(wish) => ReseedVerdict::Act(wish),
        Err(why) => ReseedVerdict::Blocked(why),
    };
    let (copy, member) = (wanted.copy, config.member);
    let besides = Besides::Reseed(ReseedDecision { copy, member, facts, verdict });
    let (version, of) = (env!("CARGO_PKG_VERSION"), (wanted.database, found.epoch));
    Some(Box::new(DecisionRecord::of(version, of, reason, besides)))
}

/// What members said of their copies. What is said of another copy in the same place is not taken
/// for this one.
fn seen(state: &ClusterState, facts: &AllFacts) -> Seen {
    let copies = state.databases.values().flat_map(|database| {
        database.copies.iter().map(move |(id, config)| (database, *id, config))
    });
    let seen = copies.filter_map(|(database, id, config)| {
        let told = facts_of(database, facts, config.member)?;
        if told.copy[..] != id.into_bytes()[..] {
            return None;
        }
        let tag = failure_of(config, Some(told));
        Some((id, CopySeen { status: status_named(&told.status), tag }))
    });
    seen.collect()
}

//! Mounting with loss: what an operator accepts, what it would cost, what it did cost.
//!
//! The decision is the active manager's; the preview is the same pure decision over what the
//! members say of themselves now.

use std::collections::BTreeSet;
use std::sync::Arc;

use keelson_cluster_core::{AcceptedLoss, Candidate, CopyHealth, Database, LossReceipt, SealReply};
use keelson_types::{DatabaseState, Epoch, MemberId, MountIntent, Position, RefusalReason};
use keelson_wire::v1::{self, CopyFacts, MountDatabaseRequest, PreviewMountResponse};
use keelson_wire::{Refusal, ids};

use super::refusal;
use crate::admin::databases::label;
use crate::context::Context;
use crate::facts::{AllFacts, of_copy};

impl Context {
    /// The word of a mount request.
    pub(super) fn accepted_loss(
        &self,
        request: &MountDatabaseRequest,
        database: &Database,
    ) -> Result<Option<AcceptedLoss>, Refusal> {
        let on = match request.on.as_str() {
            "" => None,
            name => Some(self.member_called(name)?),
        };
        if let Some(member) = &on
            && database.copy_on(member.id).is_none()
        {
            let what = format!("{} holds no copy of {}", member.name, database.name);
            return Err(refusal(RefusalReason::UnknownCopy, what));
        }
        if on.is_some() && !request.accept_loss {
            let what = "a copy is named only for a mount that accepts loss; a switchover moves";
            return Err(refusal(RefusalReason::BadArgument, what));
        }
        let on = on.map(|member| member.id);
        Ok(request.accept_loss.then_some(AcceptedLoss { on }))
    }

    pub(super) async fn admin_preview_mount(
        self: &Arc<Self>,
        request: MountDatabaseRequest,
    ) -> Result<PreviewMountResponse, Refusal> {
        self.require_leader()?;
        let database = self.database_called(&request.name)?;
        let accepted = self.accepted_loss(&request, &database)?.unwrap_or_default();
        let holders = database.copies.values().map(|copy| copy.member);
        let facts = self.facts_of(holders, &[database.id]).await;
        let alive = alive(&facts);
        let reports = reports(&database, &facts);
        let foretold = self.applied.read(|state| {
            let (members, reports) = (&state.members, reports.as_slice());
            let there = (&alive, &state.active_counts());
            keelson_cluster_core::preview_mount(&database, members, reports, there, &accepted)
        });
        let target = foretold.target.and_then(|copy| database.copies.get(&copy));
        let mounted =
            database.intent == MountIntent::Mounted && database.state == DatabaseState::Established;
        let candidate = |candidate: &Candidate| self.candidate(&database, candidate, &facts);
        let loss = foretold.receipt.filter(|_| !mounted);
        Ok(PreviewMountResponse {
            target: target.map(|copy| self.name_of_member(copy.member)).unwrap_or_default(),
            candidates: foretold.candidates.iter().map(candidate).collect(),
            loss: loss.as_ref().map(|receipt| self.receipt(&database, receipt)),
            generated: generated(&database, &facts).map(Into::into),
            mounted,
        })
    }

    fn candidate(
        &self,
        database: &Database,
        candidate: &Candidate,
        facts: &AllFacts,
    ) -> v1::MountCandidate {
        let told = facts_of(database, facts, candidate.member);
        let marks = told.and_then(|facts| facts.watermarks);
        v1::MountCandidate {
            member: self.name_of_member(candidate.member),
            reachable: told.is_some(),
            end: told.and_then(|facts| facts.log_end),
            committed: marks.and_then(|marks| marks.committed),
            last_unix_millis: told.map_or(0, |facts| facts.last_inspected_unix_millis),
            excluded: candidate.excluded.iter().map(label).collect(),
        }
    }

    /// A receipt as operators see it.
    pub(super) fn receipt(&self, database: &Database, receipt: &LossReceipt) -> v1::LossReceipt {
        let member = |copy| match database.copies.get(copy) {
            Some(copy) => self.name_of_member(copy.member),
            None => format!("{copy} (removed)"),
        };
        v1::LossReceipt {
            epoch: Some(receipt.epoch.into()),
            kept: Some(receipt.kept.into()),
            certain: receipt.certain.map(Into::into),
            unreached: receipt.unreached.iter().map(member).collect(),
            operation: receipt.operation.map(ids::bytes).unwrap_or_default(),
            missing_logs: receipt.missing_logs,
            dial: receipt.dial.map(|dial| dial.to_string()).unwrap_or_default(),
        }
    }
}

/// Members that answer with a data process that holds a lease.
pub(super) fn alive(facts: &AllFacts) -> BTreeSet<MemberId> {
    let told = facts.iter().filter_map(|(id, facts)| Some((*id, facts.as_ref().ok()?)));
    told.filter(|(_, facts)| facts.data_process_up && facts.lease_left_millis > 0)
        .map(|(id, _)| id)
        .collect()
}

pub(super) fn facts_of<'a>(
    database: &Database,
    facts: &'a AllFacts,
    member: MemberId,
) -> Option<&'a CopyFacts> {
    facts.get(&member).and_then(|facts| of_copy(facts.as_ref().ok()?, database.id))
}

/// What the copies say of themselves, in the form of an answer to a seal.
fn reports(database: &Database, facts: &AllFacts) -> Vec<SealReply> {
    let holders = database.copies.values().map(|copy| copy.member);
    holders
        .filter_map(|member| {
            let facts = facts_of(database, facts, member)?;
            let marks = facts.watermarks.unwrap_or_default();
            let at = |position: Option<v1::Position>| position.map(Position::from);
            Some(SealReply {
                copy: ids::copy(&facts.copy).ok()?,
                member,
                sealed: Epoch::ZERO,
                end: facts.log_end?.into(),
                committed: at(marks.committed).unwrap_or_default(),
                replayed: at(marks.replayed).unwrap_or_default(),
                fault: serde_json::from_slice(&facts.fault_value).ok(),
                may_have_lost: facts.may_have_lost,
                ha: true,
                health: CopyHealth::default(),
            })
        })
        .collect()
}

/// The furthest that any copy heard an active had written.
pub(super) fn generated(database: &Database, facts: &AllFacts) -> Option<Position> {
    let holders = database.copies.values().map(|copy| copy.member);
    let told = holders.filter_map(|member| facts_of(database, facts, member)?.watermarks);
    told.filter_map(|marks| marks.generated.map(Position::from)).max()
}

//! Why a decision fell: the record, and what deciding again on its inputs gives.

use std::sync::Arc;

use keelson_cluster_core::{DecisionRecord, Explained, Fence, FenceEvidence, Verdict, explain};
use keelson_types::RefusalReason;
use keelson_wire::Refusal;
use keelson_wire::v1::{
    Criterion, DecisionCandidate, ExplainDecisionRequest, ExplainDecisionResponse, FenceRow,
};

use super::refusal;
use crate::context::Context;

impl Context {
    /// Answered from the local applied state, so that it works while the cluster does not.
    pub(super) async fn admin_explain_decision(
        self: &Arc<Self>,
        request: ExplainDecisionRequest,
    ) -> Result<ExplainDecisionResponse, Refusal> {
        self.cluster()?;
        let found = self.applied.read(|state| {
            let mut records = state.decisions.iter().rev();
            records.find(|entry| entry.index == request.index).cloned()
        });
        let entry = found.ok_or_else(|| {
            let what = format!("no decision {} is kept (keelson decision list)", request.index);
            refusal(RefusalReason::BadArgument, what)
        })?;
        let again = explain(&entry.record, &request.what_if)
            .map_err(|refused| refusal(refused.reason, refused.message))?;
        let chosen = again.candidates.iter().find(|one| Some(one.candidate.copy) == again.chosen);
        Ok(ExplainDecisionResponse {
            decision: serde_json::to_string(&entry).expect("records have string keys only"),
            candidates: again
                .candidates
                .iter()
                .map(|one| candidate(one, Some(one.candidate.copy) == again.chosen))
                .collect(),
            agrees: again.differences.is_empty(),
            differences: again.differences.iter().map(|what| (*what).to_owned()).collect(),
            incomplete: again.incomplete,
            verdict: self.verdict(&entry.record, &again.verdict),
            chosen: chosen.map(|one| one.name.clone()).unwrap_or_default(),
            outcome: again.outcome.unwrap_or_default(),
            fences: again.fences.iter().map(|fence| row(&entry.record, fence)).collect(),
        })
    }

    fn verdict(&self, record: &DecisionRecord, verdict: &Verdict) -> String {
        match verdict {
            Verdict::Lossless => "lossless".into(),
            Verdict::PossibleLoss { epoch, rule_version, unreached } => {
                let holder = |copy| {
                    let known = record.copies.iter().find(|known| known.copy == copy);
                    known.map_or_else(|| copy.to_string(), |known| known.name.clone())
                };
                let unreached: Vec<_> = unreached.iter().map(|copy| holder(*copy)).collect();
                format!(
                    "{} were not reached and could have acknowledged by rule {rule_version} of \
                     epoch {epoch} alone",
                    unreached.join(", ")
                )
            }
        }
    }
}

fn row(record: &DecisionRecord, fence: &Fence) -> FenceRow {
    let known = record.copies.iter().find(|copy| copy.copy == fence.copy);
    FenceRow {
        member: known.map_or_else(|| fence.copy.to_string(), |copy| copy.name.clone()),
        epoch: Some(fence.epoch.into()),
        evidence: fence.by.name().to_owned(),
        holds: fence.by != FenceEvidence::None,
    }
}

fn candidate(explained: &Explained, chosen: bool) -> DecisionCandidate {
    let criteria = explained.criteria.iter().map(|criterion| Criterion {
        name: criterion.name.to_owned(),
        measured: criterion.measured.clone(),
        met: criterion.met,
    });
    DecisionCandidate {
        member: explained.name.clone(),
        chosen,
        excluded: explained.excluded,
        answer_age_millis: explained.age_ms,
        criteria: criteria.collect(),
    }
}

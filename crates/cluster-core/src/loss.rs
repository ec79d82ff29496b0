//! Activation with loss: an operator's word where the proof fails, and the receipt of what was
//! given up (design §6, G3).
//!
//! Decides which copy such an activation takes and what is lost by it. The word stands in for the
//! lossless proof alone. Everything else holds as always: copies are sealed first, a copy that can
//! be activated without loss comes before any other (R6), every earlier active is fenced (R9), the
//! attempt has its own epoch (R5), and the target takes over the highest end among the reached
//! logs. From its opening frame on the new epoch wins every comparison of log ends (R3), so what
//! was given up never comes back as the truth; until that frame is committed, the older rules stay
//! in every proof (R2) and nothing was acknowledged in between.
//!
//! What unreached copies hold is not known, so it counts as infinite, unless the active kept a
//! ceiling ([`crate::dial`]).

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{
    CopyId, Discard, Epoch, LogEnd, MemberId, MountDial, OperationId, Position, Weakness,
};
use serde::{Deserialize, Serialize};

use crate::dial::missing;
use crate::member::Member;
use crate::order::SealReply;
use crate::proof::{Verdict, lossless};
use crate::select::{Candidate, Selection, SelectionInput, select};
use crate::state::Database;

/// Receipts remembered per database.
pub const RECEIPTS_MAX: usize = 16;

/// An operator's word that a database may be opened although acknowledged writes may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AcceptedLoss {
    /// Only the copy of this member may be opened with loss; any if none.
    pub on: Option<MemberId>,
}

/// What was given up by an activation: every frame of an epoch below `epoch` whose end comes behind
/// `kept`, by epoch first. (A timeline of a higher epoch may be lost while an older one goes on
/// beyond it in position.)
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LossReceipt {
    /// The epoch that goes on behind `kept`.
    pub epoch: Epoch,
    /// End of the log that is kept.
    pub kept: LogEnd,
    /// Log known to have been committed ends here: what lies between `kept` and here was certainly
    /// acknowledged and is lost. None if nothing is known to be.
    pub certain: Option<Position>,
    /// Copies of the failed proof that were not reached. They may hold more, and nobody knows how
    /// much was acknowledged.
    pub unreached: BTreeSet<CopyId>,
    /// The operator's operation; none for what a mount dial allowed by itself.
    pub operation: Option<OperationId>,
    /// Logs of 1 MiB that can be missing at most; none if nobody knows.
    #[serde(default)]
    pub missing_logs: Option<u64>,
    /// The mount dial that allowed it.
    #[serde(default)]
    pub dial: Option<MountDial>,
}

impl LossReceipt {
    /// The receipt of going on at `kept` after what the copies said and the proof left open.
    #[must_use]
    pub fn new(
        epoch: Epoch,
        kept: LogEnd,
        replies: &[SealReply],
        verdict: &Verdict,
        operation: Option<OperationId>,
    ) -> Self {
        let known =
            replies.iter().filter(|reply| LogEnd { position: reply.committed, ..reply.end } > kept);
        let certain = known.map(|reply| reply.committed).max();
        let unreached = match verdict {
            Verdict::Lossless => BTreeSet::new(),
            Verdict::PossibleLoss { unreached, .. } => unreached.clone(),
        };
        Self { epoch, kept, certain, unreached, operation, missing_logs: None, dial: None }
    }

    /// The same, with what is known of its size.
    #[must_use]
    pub fn of_size(self, missing_logs: Option<u64>) -> Self {
        Self { missing_logs, ..self }
    }

    /// Whether the frame that ends here is given up.
    #[must_use]
    pub fn covers(&self, end: LogEnd) -> bool {
        self.discard().covers(end)
    }

    /// What of it the copies must know.
    #[must_use]
    pub const fn discard(&self) -> Discard {
        Discard { epoch: self.epoch, kept: self.kept }
    }
}

impl AcceptedLoss {
    /// The input of a selection by this word: the named copy alone.
    pub(crate) fn applied_to<'a>(&self, input: SelectionInput<'a>) -> SelectionInput<'a> {
        let requested = self.on.and_then(|member| input.database.copy_on(member));
        SelectionInput { requested, ..input }
    }
}

/// What the word of an operator makes of a selection: the same, for the named copy alone.
#[must_use]
pub fn select_accepted(input: &SelectionInput<'_>, accepted: &AcceptedLoss) -> Selection {
    let selection = select(&accepted.applied_to(*input));
    match accepted.on.map(|member| input.database.copy_on(member)) {
        // The named member holds no copy: nothing can be chosen.
        Some(None) => Selection { candidates: Vec::new(), ..selection },
        Some(Some(_)) | None => selection,
    }
}

/// What a mount would do now, as far as the copies' own reports tell without a seal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountPreview {
    /// Whether the copies that answer prove that nothing can be missing.
    pub verdict: Verdict,
    /// All copies, with what speaks against each.
    pub candidates: Vec<Candidate>,
    /// The copy that would be opened, if one could be.
    pub target: Option<CopyId>,
    /// What would be given up; none for an activation without loss.
    pub receipt: Option<LossReceipt>,
}

/// Foretells a mount that accepts loss. `reports` are what reachable copies say of themselves,
/// `alive` the members that answer, `actives` their databases: the seal and the leases of the real
/// attempt may find less.
#[must_use]
pub fn preview(
    database: &Database,
    members: &BTreeMap<MemberId, Member>,
    reports: &[SealReply],
    (alive, actives): (&BTreeSet<MemberId>, &BTreeMap<MemberId, u32>),
    accepted: &AcceptedLoss,
) -> MountPreview {
    let reports: Vec<_> = reports
        .iter()
        .map(|report| SealReply { sealed: database.epoch, ..report.clone() })
        .collect();
    let input = SelectionInput {
        database,
        members,
        epoch: database.epoch,
        replies: &reports,
        alive,
        actives,
        requested: None,
        avoid: &BTreeSet::new(),
        data_cut: &BTreeSet::new(),
        weakness: Weakness::None,
    };
    let selection = select(&input);
    let verdict = lossless(&database.unestablished, &selection.reached, Weakness::None);
    if verdict.is_lossless() && selection.best().is_some() {
        let target = selection.best().map(|best| best.copy);
        return MountPreview { verdict, candidates: selection.candidates, target, receipt: None };
    }
    let selection = select_accepted(&input, accepted);
    let target = selection.best().map(|best| best.copy);
    let next = database.epoch.next(database.epoch.recovery);
    let missing = missing(&database.unestablished, &selection.reached, selection.required_end);
    let receipt = LossReceipt::new(next, selection.required_end, &reports, &verdict, None);
    let receipt = receipt.of_size(missing);
    let receipt = target.map(|_| receipt);
    MountPreview { verdict, candidates: selection.candidates, target, receipt }
}

#[cfg(test)]
mod tests;

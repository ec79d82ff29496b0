//! Decision records: why a copy was activated, or why none was, with every input.
//!
//! A record is explained afterwards by deciding again on its inputs ([`crate::explain()`], G8).
//! Records are bounded to about 8 KiB of JSON; what did not fit is counted in `omitted`.

use keelson_types::{
    CopyFault, CopyId, DatabaseId, Epoch, FailureTag, LogEnd, MemberId, OperationId,
};
use serde::{Deserialize, Serialize};

use crate::dial::DialQuestion;
use crate::loss::LossReceipt;
use crate::order::SealReply;
use crate::point_in_time::ActivateAt;
use crate::proof::Verdict;
use crate::select::{Candidate, CopyInput, Exclusion};
use crate::state::RuleRecord;

mod besides;

pub use besides::{Besides, RefusedMove, ReseedDecision};

/// Version of the record's format.
pub const DECISION_FORMAT: u32 = 1;
/// Bound of one record as JSON.
pub const DECISION_BYTES_MAX: usize = 8192;

/// Why an activation was begun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationReason {
    /// The database was never activated.
    NewDatabase,
    /// An operator mounted it.
    Mount,
    /// The active's member lost its lease.
    LeaseExpired,
    /// The active's data process was certified dead.
    DeathCertified,
    /// The active's data process stopped in order, or its member is gone.
    Released,
    /// The active's data process is another one than the bound one (R5).
    Restarted,
    /// The active makes no progress, or gave its epoch up, on a member that lives (S8, S10).
    Wedged,
    /// The active gave its epoch up and said of what kind its failure is (F13).
    Failed {
        /// The class.
        tag: FailureTag,
    },
    /// An operator moves it.
    Switchover {
        /// Where to.
        to: MemberId,
    },
    /// An operator makes an instant of a copy the truth.
    PointInTime {
        /// The member of the copy.
        on: MemberId,
    },
    /// The cluster was forced up without the members of another site (F126).
    SiteRecovered,
    /// The attempt before this one failed to mount.
    MountFailed {
        /// The copy that failed.
        copy: CopyId,
    },
}

/// A waiting point of an activation, for timings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationStep {
    /// The epoch was asked for.
    Allocating,
    /// The epoch is recorded; the activation waits for its turn.
    Queued,
    /// Seals were sent.
    Sealing,
    /// The decision fell.
    Binding,
    /// The target was told to mount.
    Mounting,
    /// The target mounted; its opening frame is not committed yet.
    Opening,
    /// The attempt failed; the next one waits.
    BackingOff,
    /// No candidate.
    Waiting,
    /// The opening frame is committed: the target serves.
    Established,
}

/// When a step was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepTiming {
    /// The step.
    pub step: ActivationStep,
    /// Milliseconds since the activation began.
    pub at_ms: u64,
}

/// A seal reply and its age when the decision fell.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AgedReply {
    /// Milliseconds between arrival and decision.
    pub age_ms: u64,
    /// The reply.
    pub reply: SealReply,
}

/// How an earlier active was kept from serving (R9), the strongest evidence that there was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FenceEvidence {
    /// Its life is over: certified dead, or it gave its lease back.
    LifeOver,
    /// Its member holds no lease.
    LeaseOver,
    /// The very life that was bound answered the seal.
    Sealed,
    /// Every grant from before the epoch has run out.
    GrantsRunOut,
    /// Nothing kept it from serving when the decision fell.
    None,
}

impl FenceEvidence {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LifeOver => "its process is over",
            Self::LeaseOver => "its member holds no lease",
            Self::Sealed => "it answered the seal",
            Self::GrantsRunOut => "every grant from before has run out",
            Self::None => "nothing",
        }
    }
}

/// An earlier active, and what keeps it from serving.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fence {
    /// The epoch in which it was bound.
    pub epoch: Epoch,
    /// The copy.
    pub copy: CopyId,
    /// The evidence.
    pub by: FenceEvidence,
}

/// Inputs, arithmetic and result of one attempt to activate a copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// [`DECISION_FORMAT`].
    pub format: u32,
    /// Version of the code that decided; another version may decide differently (F10).
    pub code_version: String,
    /// The database.
    pub database: DatabaseId,
    /// The epoch of the attempt.
    pub epoch: Epoch,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Why.
    pub reason: ActivationReason,
    /// The operator's operation, if any.
    pub operation: Option<OperationId>,
    /// Rules the proof had to pass, oldest first.
    pub rules: Vec<RuleRecord>,
    /// The copies and their members, as the replicated state had them.
    #[serde(default)]
    pub copies: Vec<CopyInput>,
    /// The only copy that was allowed.
    #[serde(default)]
    pub requested: Option<CopyId>,
    /// Copies that had failed in an earlier attempt.
    #[serde(default)]
    pub avoid: Vec<CopyId>,
    /// The instant that an operator makes the truth.
    #[serde(default)]
    pub at: Option<ActivateAt>,
    /// What the copies said.
    pub replies: Vec<AgedReply>,
    /// Copies with lease-capable contact.
    pub alive: Vec<MemberId>,
    /// What kept each copy from serving that was bound since the last established epoch; older
    /// versions did not say.
    #[serde(default)]
    pub fences: Vec<Fence>,
    /// Copies that count as reached (R4).
    pub reached: Vec<CopyId>,
    /// The proof's result.
    pub verdict: Verdict,
    /// All copies in order of preference, with what excludes them.
    pub candidates: Vec<Candidate>,
    /// The target; none if the database stays dismounted.
    pub chosen: Option<CopyId>,
    /// Highest end among the reached logs.
    pub required_end: LogEnd,
    /// What the mount dials were asked, if the proof failed and no operator accepted loss.
    #[serde(default)]
    pub dial: Option<DialQuestion>,
    /// What was given up, if an operator accepted loss, or a dial did.
    #[serde(default)]
    pub loss: Option<LossReceipt>,
    /// When the steps were reached, up to the decision; the end of the activation follows when the
    /// target serves.
    pub steps: Vec<StepTiming>,
    /// Entries of the lists above that were left out to keep the record small.
    pub omitted: u32,
    /// Some of those were inputs, so it cannot be decided again.
    #[serde(default)]
    pub inputs_omitted: bool,
    /// What was decided, if no activation was; the lists above are empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub besides: Option<Box<Besides>>,
}

impl DecisionRecord {
    /// The record of a decision that activates nothing.
    #[must_use]
    pub fn of(
        code_version: &str,
        (database, epoch): (DatabaseId, Epoch),
        reason: ActivationReason,
        besides: Besides,
    ) -> Self {
        let blank = Self::blank(code_version, (database, epoch), reason);
        Self { besides: Some(Box::new(besides)), ..blank }.bounded()
    }

    /// The record of an attempt of which nothing is known yet.
    pub(crate) fn blank(
        code_version: &str,
        (database, epoch): (DatabaseId, Epoch),
        reason: ActivationReason,
    ) -> Self {
        Self {
            format: DECISION_FORMAT,
            code_version: code_version.to_owned(),
            database,
            epoch,
            attempt: 1,
            reason,
            operation: None,
            rules: Vec::new(),
            copies: Vec::new(),
            requested: None,
            avoid: Vec::new(),
            at: None,
            replies: Vec::new(),
            alive: Vec::new(),
            fences: Vec::new(),
            reached: Vec::new(),
            verdict: Verdict::Lossless,
            candidates: Vec::new(),
            chosen: None,
            required_end: LogEnd::ZERO,
            dial: None,
            loss: None,
            steps: Vec::new(),
            omitted: 0,
            inputs_omitted: false,
            besides: None,
        }
    }

    /// Whether it is about an activation.
    #[must_use]
    pub const fn is_activation(&self) -> bool {
        self.besides.is_none()
    }

    /// A cautious estimate of the record's length as JSON, where an id has 38 bytes.
    fn estimated_bytes(&self) -> usize {
        let participants = self.rules.iter().flat_map(|record| &record.rule.participants);
        let participants: usize = participants.map(|p| 112 + p.site.as_str().len()).sum();
        let replies = self.replies.iter().map(|aged| 640 + fault_bytes(aged.reply.fault.as_ref()));
        let copies = self
            .copies
            .iter()
            .map(|copy| 420 + copy.name.len() + copy.site.as_str().len() + copy.marks.len() * 14);
        let exclusions = self.candidates.iter().flat_map(|candidate| &candidate.excluded);
        let exclusions = exclusions.map(|exclusion| match exclusion {
            Exclusion::Faulty(fault) => 16 + fault_bytes(Some(fault)),
            Exclusion::OtherEpoch(_) => 60,
            Exclusion::BeyondDial { .. } => 90,
            _ => 16,
        });
        let ids = self.alive.len() + self.reached.len() + self.verdict.named() + self.avoid.len();
        let lists = self.rules.len() * 250
            + self.fences.len() * 130
            + self.candidates.len() * 380
            + self.steps.len() * 36;
        let loss = self.loss.as_ref().map_or(0, |loss| 420 + loss.unreached.len() * 39);
        let lists = lists + copies.sum::<usize>();
        let sums = participants + replies.sum::<usize>() + exclusions.sum::<usize>() + loss;
        let besides = self.besides.as_ref().map_or(0, |besides| besides.estimated_bytes());
        besides + 1_100 + self.code_version.len() + ids * 39 + lists + sums
    }

    /// Leaves entries out until the record is below [`DECISION_BYTES_MAX`], the least telling
    /// first: early steps, the lowest candidates, the oldest rules, then whatever is left.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        while self.estimated_bytes() > DECISION_BYTES_MAX && self.leave_one_out() {
            self.omitted += 1;
        }
        self
    }

    fn leave_one_out(&mut self) -> bool {
        if self.steps.len() > 4 {
            self.steps.remove(0);
            return true;
        }
        self.inputs_omitted = true;
        if let Some(besides) = &mut self.besides {
            return besides.leave_one_out();
        }
        if self.candidates.len() > 3 {
            self.candidates.pop();
        } else if self.fences.len() > 2 {
            self.fences.remove(0);
        } else if self.rules.len() > 2 {
            self.rules.remove(0);
        } else if self.replies.len() > 3 {
            self.replies.pop();
        } else {
            return self.copies.pop().is_some()
                || self.rules.pop().is_some()
                || self.fences.pop().is_some()
                || self.candidates.pop().is_some()
                || self.replies.pop().is_some()
                || self.alive.pop().is_some()
                || self.reached.pop().is_some()
                || self.avoid.pop().is_some();
        }
        true
    }
}

/// A fault as JSON; its text may grow by escapes.
fn fault_bytes(fault: Option<&CopyFault>) -> usize {
    fault.map_or(0, |fault| 24 + fault.to_string().escape_default().count())
}

/// A record in the ring.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DecisionEntry {
    /// Index of the command that recorded it.
    pub index: u64,
    /// Wall clock of the newest stamped command, in Unix milliseconds.
    pub unix_ms: u64,
    /// The record.
    pub record: DecisionRecord,
}

#[cfg(test)]
mod tests;

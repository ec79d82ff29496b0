//! Decisions that activate nothing, kept in the same ring: a switchover that was refused, a step of
//! the automatic reseed or what keeps it from one.
//!
//! Each keeps what it was decided from as values, so it can be decided again like an activation.

use keelson_types::{CopyId, MemberId};
use serde::{Deserialize, Serialize};

use crate::autoreseed::{ReseedFacts, ReseedVerdict};
use crate::command::Refusal;
use crate::select::CopyInput;
use crate::switchover::MoveFacts;

/// What was decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Besides {
    /// A switchover that an operator asked for was refused.
    RefusedMove(RefusedMove),
    /// The automatic reseed looked at a copy that stays failed.
    Reseed(ReseedDecision),
}

/// A switchover that was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefusedMove {
    /// The target that was named.
    pub to: Option<MemberId>,
    /// A warning was to be as good as a failed check.
    #[serde(default)]
    pub careful: bool,
    /// What the operator said of it.
    #[serde(default)]
    pub comment: String,
    /// What it was decided from.
    pub facts: MoveFacts,
    /// Why.
    pub refusal: Refusal,
}

/// A step of the automatic reseed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReseedDecision {
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// What it was decided from.
    pub facts: ReseedFacts,
    /// What is done, or what keeps it from being done.
    pub verdict: ReseedVerdict,
}

impl Besides {
    /// A cautious estimate of its length as JSON.
    pub(super) fn estimated_bytes(&self) -> usize {
        let copy = |copy: &CopyInput| 780 + copy.name.len() + copy.site.as_str().len();
        match self {
            Self::RefusedMove(refused) => {
                let copies: usize = refused.facts.copies.iter().map(copy).sum();
                let faults = refused.facts.reports.values();
                let faults: usize = faults.filter_map(|r| Some(escaped(r.fault.as_ref()?))).sum();
                let texts = escaped(&refused.comment) + escaped(&refused.refusal.message);
                700 + copies + faults + texts
            }
            Self::Reseed(decision) => {
                let facts = &decision.facts;
                let refusal = facts.seed_refusal.as_deref().map_or(0, escaped);
                let blocked = match &decision.verdict {
                    ReseedVerdict::Blocked(why) => escaped(why),
                    ReseedVerdict::Nothing | ReseedVerdict::Wait(_) | ReseedVerdict::Act(_) => 60,
                };
                // The verdict may name the volume once more.
                let volume = facts.volume.as_ref().map_or(0, |v| 300 + 2 * escaped(&v.path));
                1_500 + facts.member.len() + refusal + blocked + volume
            }
        }
    }

    /// Leaves a copy out; it cannot be decided again then. False if there is none to leave out.
    pub(super) fn leave_one_out(&mut self) -> bool {
        match self {
            Self::RefusedMove(refused) => match refused.facts.copies.pop() {
                Some(copy) => {
                    refused.facts.reports.remove(&copy.copy);
                    true
                }
                None => false,
            },
            Self::Reseed(_) => false,
        }
    }
}

fn escaped(text: &(impl AsRef<str> + ?Sized)) -> usize {
    text.as_ref().escape_default().count()
}

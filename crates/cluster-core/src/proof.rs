//! The lossless proof: could the copies that were not reached have acknowledged something by
//! themselves?
//!
//! Decides one thing, from set arithmetic alone. Everything acknowledged in an epoch is durable on
//! a set that satisfies the epoch's rule. Every rule is monotone, so if *all* unreached
//! participants together do not satisfy it, no acknowledged frame is on unreached copies only: some
//! reached copy has it, and the highest reached end contains it.
//!
//! The verdict holds only if "reached" means what R4 says (see [`crate::select()`]), if log ends
//! compare by epoch first (R3), if the target takes over the highest reached end before it serves,
//! and if the rules are those of *all* epochs since the last established one (R2).

use std::collections::BTreeSet;

use keelson_types::{CopyId, Epoch, Weakness};
use serde::{Deserialize, Serialize};

use crate::state::RuleRecord;

/// What the proof says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No acknowledged write can be missing from the highest reached end.
    Lossless,
    /// These unreached copies could have acknowledged writes by themselves.
    PossibleLoss {
        /// The newest epoch whose rule they satisfy.
        epoch: Epoch,
        /// Version of that rule.
        rule_version: u64,
        /// The set that could have acknowledged.
        unreached: BTreeSet<CopyId>,
    },
}

impl Verdict {
    /// Whether the proof passed.
    #[must_use]
    pub const fn is_lossless(&self) -> bool {
        matches!(self, Self::Lossless)
    }

    /// How many copies it names.
    pub(crate) fn named(&self) -> usize {
        match self {
            Self::Lossless => 0,
            Self::PossibleLoss { unreached, .. } => unreached.len(),
        }
    }
}

/// Proves that no rule in `rules` (oldest first, see [`crate::Database::unestablished`]) can have
/// been satisfied without a copy in `reached`. No rules means that nothing was ever acknowledged.
#[must_use]
pub fn lossless(rules: &[RuleRecord], reached: &BTreeSet<CopyId>, weakness: Weakness) -> Verdict {
    let relevant = match weakness {
        // H2: forgets what epochs before the newest acknowledged (S2b).
        Weakness::ProofWithNewestRuleOnly => rules.get(rules.len().saturating_sub(1)..),
        _ => rules.get(..),
    };
    let mut newest_first = relevant.unwrap_or_default().iter().rev();
    let failing = newest_first.find_map(|record| {
        let participants = record.rule.participants.iter().map(|p| p.copy);
        let unreached: BTreeSet<_> = participants.filter(|copy| !reached.contains(copy)).collect();
        record.rule.satisfied_by(&unreached).then_some((record, unreached))
    });
    match failing {
        None => Verdict::Lossless,
        Some((record, unreached)) => Verdict::PossibleLoss {
            epoch: record.epoch,
            rule_version: record.rule.version,
            unreached,
        },
    }
}

#[cfg(test)]
mod tests;

//! What the mount dials allow where the lossless proof fails (F22-F24, G3).
//!
//! Decides how much can be missing at most from the highest log end that was reached, and which of
//! the eligible copies may be activated by themselves all the same: those whose member's dial is
//! not below that. A switchover brings a dial of its own. What cannot be told is more than any dial
//! allows, and a copy whose former active is being started again, with everything, is waited for.

use std::collections::BTreeSet;

use keelson_types::{CopyId, LogEnd, MountDial, missing_logs};
use serde::{Deserialize, Serialize};

use crate::select::{CopyInput, Exclusion, Selection};
use crate::state::RuleRecord;

/// What the dials were asked in one decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DialQuestion {
    /// Logs of 1 MiB that can be missing; none if nobody knows.
    pub missing_logs: Option<u64>,
    /// The dial of a switchover; none for those of the members.
    #[serde(default)]
    pub over: Option<MountDial>,
    /// The process of the former active died, and its member starts it again.
    #[serde(default)]
    pub process_expected: bool,
}

/// Logs that can be missing at most behind `held`, the highest end of the reached logs. None if one
/// of the rules that unreached copies can have satisfied has no ceiling, or it cannot be compared.
#[must_use]
pub fn missing(rules: &[RuleRecord], reached: &BTreeSet<CopyId>, held: LogEnd) -> Option<u64> {
    let failing = rules.iter().filter(|record| {
        let participants = record.rule.participants.iter().map(|p| p.copy);
        let unreached: BTreeSet<_> = participants.filter(|copy| !reached.contains(copy)).collect();
        record.rule.satisfied_by(&unreached)
    });
    let of_epoch =
        |record: &RuleRecord| record.ceiling?.missing(record.epoch, record.begins?, held);
    // Each went on with all that those before it had committed.
    let bytes = failing.map(of_epoch).try_fold(0, |most: u64, one| Some(most.max(one?)));
    missing_logs(bytes)
}

/// The selection with what the dials say against its eligible copies.
#[must_use]
pub fn dialled(selection: Selection, copies: &[CopyInput], question: &DialQuestion) -> Selection {
    let Selection { reached, required_end, sources, mut candidates } = selection;
    for candidate in candidates.iter_mut().filter(|candidate| candidate.excluded.is_empty()) {
        let copy = copies.iter().find(|copy| copy.copy == candidate.copy);
        let dial = question.over.or(copy.map(|copy| copy.dial)).unwrap_or_default();
        let missing_logs = question.missing_logs;
        if !dial.allows(missing_logs) {
            candidate.excluded.push(Exclusion::BeyondDial { dial, missing_logs });
        } else if question.process_expected {
            candidate.excluded.push(Exclusion::ProcessExpected);
        }
    }
    candidates.sort_by_key(|candidate| !candidate.excluded.is_empty());
    Selection { reached, required_end, sources, candidates }
}

#[cfg(test)]
mod tests;

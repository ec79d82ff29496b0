//! What the checks of a move depend on, as values: a decision record keeps them, and the same facts
//! give the same plan (G8).

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{CopyId, DatabaseName, DatabaseState, MemberId, MountIntent, RefusalReason};
use serde::{Deserialize, Serialize};

use super::{
    CheckVerdict, CopyReport, MoveInput, MovePlan, Skip, best_first, check, feeds_seed, inputs,
    nowhere, refusal,
};
use crate::command::Refusal;
use crate::select::CopyInput;

/// Everything that the checks of one database depend on, as values.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MoveFacts {
    /// The database.
    pub name: DatabaseName,
    /// Whether it is wanted open.
    pub intent: MountIntent,
    /// How it is.
    pub state: DatabaseState,
    /// The member of its active copy.
    pub from: Option<MemberId>,
    /// Its copies and their members.
    pub copies: Vec<CopyInput>,
    /// What members said of the copies.
    pub reports: BTreeMap<CopyId, CopyReport>,
    /// Members of copies whose data process answers and holds a lease.
    pub alive: BTreeSet<MemberId>,
    /// Checks that are left out.
    #[serde(default)]
    pub skip: BTreeSet<Skip>,
    /// The active copy feeds a seed.
    #[serde(default)]
    pub feeds_seed: bool,
    /// Moves within the window of move suppression, and how many are too many.
    pub moves: (usize, usize),
}

impl MoveFacts {
    /// What there is to know for the move of a database.
    #[must_use]
    pub fn of(input: &MoveInput<'_>) -> Self {
        let database = input.database;
        let copies = inputs(input);
        let known = |id: &CopyId| copies.iter().any(|copy| copy.copy == *id);
        let reports = input.reports.iter().filter(|(id, _)| known(id));
        let alive = copies.iter().map(|copy| copy.member).filter(|id| input.alive.contains(id));
        Self {
            name: database.name.clone(),
            intent: database.intent,
            state: database.state,
            from: database.target_member(),
            reports: reports.map(|(id, report)| (*id, report.clone())).collect(),
            alive: alive.collect(),
            skip: input.skip.clone(),
            feeds_seed: feeds_seed(input),
            moves: input.moves,
            copies,
        }
    }

    /// The copies that are considered, their checks, and what follows.
    #[must_use]
    pub fn plan(&self, to: Option<MemberId>) -> MovePlan {
        let mut plan =
            MovePlan { from: self.from, to: None, checked: Vec::new(), refusal: None, facts: None };
        let targets = match to {
            Some(member) => self.copies.iter().filter(|copy| copy.member == member).collect(),
            None => best_first(self),
        };
        if targets.is_empty() {
            plan.refusal = Some(nowhere(self));
            return plan;
        }
        for target in targets {
            let rows = check(self, target, to.is_some());
            let failed = rows.iter().find(|row| row.verdict == CheckVerdict::Failed).cloned();
            plan.checked.push((target.member, rows));
            match failed {
                None => {
                    plan.to = Some(target.member);
                    plan.refusal = None;
                    return plan;
                }
                Some(row) if plan.refusal.is_none() => {
                    plan.refusal = Some(refusal(self, target, &row));
                }
                Some(_) => {}
            }
        }
        if to.is_none() && plan.checked.len() > 1 {
            let first = plan.refusal.take().map(|refusal| refusal.message).unwrap_or_default();
            let message = format!("no copy of {} passes the checks; {first}", self.name);
            plan.refusal = Some(Refusal::new(RefusalReason::NoCandidate, message));
        }
        plan
    }
}

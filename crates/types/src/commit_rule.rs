//! The commit rule: which copies must hold a frame durably before it may be acknowledged.
//!
//! A rule is one versioned value in consensus: constraint, participants, their roles and sites
//! (review R1). The predicate is *monotone*: adding copies to a set never makes it unsatisfied. The
//! lossless proof rests on that.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{CopyId, MemberId, SiteName};

/// How many and which copies an acknowledgement needs, besides the active itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitConstraint {
    /// The active alone.
    None,
    /// One other participant.
    SecondCopy,
    /// One other participant in a site other than the active's.
    SecondDatacenter,
    /// One other participant in every site that holds a participant.
    AllDatacenters,
    /// Every participant.
    AllCopies,
    /// More than half of the participants, the active among them.
    Majority,
}

impl fmt::Display for CommitConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::SecondCopy => "second_copy",
            Self::SecondDatacenter => "second_datacenter",
            Self::AllDatacenters => "all_datacenters",
            Self::AllCopies => "all_copies",
            Self::Majority => "majority",
        })
    }
}

impl FromStr for CommitConstraint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "none" => Self::None,
            "second_copy" => Self::SecondCopy,
            "second_datacenter" => Self::SecondDatacenter,
            "all_datacenters" => Self::AllDatacenters,
            "all_copies" => Self::AllCopies,
            "majority" => Self::Majority,
            _ => return Err(format!("{text:?} is not a commit constraint")),
        })
    }
}

/// A copy whose acknowledgements count. Lagged copies are never participants.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Participant {
    /// The copy; a reseeded copy has another id and must be admitted anew (review R4).
    pub copy: CopyId,
    /// The member that holds it.
    pub member: MemberId,
    /// The member's site.
    pub site: SiteName,
}

/// One version of a database's commit rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CommitRule {
    /// Rises by one with every recorded change.
    pub version: u64,
    /// The active of the epoch under which this rule holds; its own durable log is always required.
    pub active: CopyId,
    /// What is required.
    pub constraint: CommitConstraint,
    /// Who counts, ordered by copy id; the active is one of them.
    pub participants: Vec<Participant>,
}

impl CommitRule {
    /// Whether `durable`, a set of copies that hold a frame durably, satisfies the rule. With the
    /// active as the only participant every constraint is met by the active alone: the database is
    /// then *degraded*.
    #[must_use]
    pub fn satisfied_by(&self, durable: &BTreeSet<CopyId>) -> bool {
        if !durable.contains(&self.active) {
            return false;
        }
        let others = || self.participants.iter().filter(|p| p.copy != self.active);
        if others().next().is_none() {
            return true;
        }
        let holds = |p: &&Participant| durable.contains(&p.copy);
        match self.constraint {
            CommitConstraint::None => true,
            CommitConstraint::SecondCopy => others().any(|p| holds(&p)),
            CommitConstraint::SecondDatacenter => self.second_datacenter(durable),
            CommitConstraint::AllDatacenters => self.all_datacenters(durable),
            CommitConstraint::AllCopies => others().all(|p| holds(&p)),
            CommitConstraint::Majority => {
                let held = self.participants.iter().filter(holds).count();
                held * 2 > self.participants.len()
            }
        }
    }

    fn active_site(&self) -> Option<&SiteName> {
        self.participants.iter().find(|p| p.copy == self.active).map(|p| &p.site)
    }

    /// With no participant elsewhere the constraint falls back to a second copy, so that losing a
    /// whole site degrades the rule instead of dropping it.
    fn second_datacenter(&self, durable: &BTreeSet<CopyId>) -> bool {
        let site = self.active_site();
        let others: Vec<_> = self.participants.iter().filter(|p| p.copy != self.active).collect();
        let elsewhere = |p: &&&Participant| Some(&p.site) != site;
        if others.iter().any(|p| elsewhere(&p)) {
            others.iter().filter(elsewhere).any(|p| durable.contains(&p.copy))
        } else {
            others.iter().any(|p| durable.contains(&p.copy))
        }
    }

    fn all_datacenters(&self, durable: &BTreeSet<CopyId>) -> bool {
        let others = || self.participants.iter().filter(|p| p.copy != self.active);
        let sites: BTreeSet<_> = others().map(|p| &p.site).collect();
        sites.iter().all(|site| others().any(|p| p.site == **site && durable.contains(&p.copy)))
    }

    /// Whether `copy` counts.
    #[must_use]
    pub fn has(&self, copy: CopyId) -> bool {
        self.participants.iter().any(|p| p.copy == copy)
    }

    /// Whether fewer copies count than the constraint speaks of: the active stands alone although
    /// the constraint asks for more.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.constraint != CommitConstraint::None && self.participants.len() < 2
    }

    /// The next version of this rule with other participants.
    #[must_use]
    pub fn with_participants(&self, mut participants: Vec<Participant>) -> Self {
        participants.sort();
        Self { version: self.version + 1, participants, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(constraint: CommitConstraint, sites: &[&str]) -> CommitRule {
        let participants = sites.iter().enumerate().map(|(i, site)| Participant {
            copy: CopyId::from_u128(i as u128),
            member: MemberId::from_u128(i as u128),
            site: SiteName::new(*site).expect("valid"),
        });
        CommitRule {
            version: 1,
            active: CopyId::from_u128(0),
            constraint,
            participants: participants.collect(),
        }
    }

    fn check(constraint: CommitConstraint, sites: &[&str], held: &[u128], expected: bool) {
        let durable = held.iter().map(|i| CopyId::from_u128(*i)).collect();
        let rule = rule(constraint, sites);
        assert_eq!(rule.satisfied_by(&durable), expected, "{constraint} {sites:?} {held:?}");
    }

    #[test]
    fn the_active_is_always_required() {
        for constraint in [
            CommitConstraint::None,
            CommitConstraint::SecondCopy,
            CommitConstraint::AllCopies,
            CommitConstraint::Majority,
        ] {
            check(constraint, &["a", "a", "a"], &[1, 2], false);
        }
    }

    #[test]
    fn each_constraint_asks_for_what_it_says() {
        use CommitConstraint as C;
        check(C::None, &["a", "a"], &[0], true);
        check(C::SecondCopy, &["a", "a", "a"], &[0], false);
        check(C::SecondCopy, &["a", "a", "a"], &[0, 2], true);
        check(C::SecondDatacenter, &["a", "a", "b"], &[0, 1], false);
        check(C::SecondDatacenter, &["a", "a", "b"], &[0, 2], true);
        check(C::SecondDatacenter, &["a", "a"], &[0, 1], true);
        check(C::AllDatacenters, &["a", "a", "b"], &[0, 2], false);
        check(C::AllDatacenters, &["a", "a", "b"], &[0, 1, 2], true);
        check(C::AllCopies, &["a", "a", "b"], &[0, 2], false);
        check(C::Majority, &["a", "a", "b", "b"], &[0, 1], false);
        check(C::Majority, &["a", "a", "b"], &[0, 1], true);
    }

    #[test]
    fn a_lonely_active_satisfies_every_constraint_and_is_degraded() {
        check(CommitConstraint::AllCopies, &["a"], &[0], true);
        assert!(rule(CommitConstraint::SecondCopy, &["a"]).is_degraded());
        assert!(!rule(CommitConstraint::None, &["a"]).is_degraded());
    }

    #[test]
    fn rules_are_monotone() {
        use CommitConstraint as C;
        let all = [
            C::None,
            C::SecondCopy,
            C::SecondDatacenter,
            C::AllDatacenters,
            C::AllCopies,
            C::Majority,
        ];
        for (constraint, bits, extra) in all
            .into_iter()
            .flat_map(|c| (0u8..16).flat_map(move |bits| (0u8..4).map(move |x| (c, bits, x))))
        {
            let rule = rule(constraint, &["a", "a", "b", "c"]);
            let set = |bits: u8| -> BTreeSet<CopyId> {
                (0..4).filter(|i| bits & (1 << i) != 0).map(CopyId::from_u128).collect()
            };
            let more = rule.satisfied_by(&set(bits | (1 << extra)));
            assert!(!rule.satisfied_by(&set(bits)) || more, "{constraint} {bits:b} + {extra}");
        }
    }
}

//! Best-copy selection from the answers to a seal.
//!
//! Decides which copies count as *reached* (R4), which log end a new active must hold (R3), which
//! copies may become active and in which order, from whom log is fetched, and the first rule of the
//! new epoch. Pure: the same answers give the same selection, so a decision record can be checked
//! afterwards.

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{
    CommitRule, CopyFault, CopyId, Epoch, LogEnd, MemberId, Participant, Position, Weakness,
};
use serde::{Deserialize, Serialize};

use crate::order::{SealReply, Source};
use crate::point_in_time::Turn;
use crate::state::{CopyConfig, CopyKind, Database, Member};

/// Why a copy may not become active in this attempt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// It did not answer the seal.
    NoAnswer,
    /// The answer is for another epoch.
    OtherEpoch(Epoch),
    /// Its member has no lease-capable contact with the leader (S22).
    NoContact,
    /// It failed.
    Faulty(CopyFault),
    /// It was wiped or cut since it was admitted (R4).
    Forgetful,
    /// It is a lagged copy.
    Lagged,
    /// An operator wants it gone.
    Leaving,
    /// Its replication or its activation is suspended (F43).
    Suspended,
    /// Another copy was asked for.
    NotRequested,
    /// Its store has replayed beyond the instant at which it was to be activated.
    ReplayedBeyond(Position),
    /// Its log ends before the instant at which it was to be activated.
    LacksInstant,
}

/// A copy and what speaks against it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// The copy.
    pub copy: CopyId,
    /// Its member.
    pub member: MemberId,
    /// Its log end, if it answered.
    pub end: Option<LogEnd>,
    /// Its activation preference.
    pub preference: u32,
    /// Empty for an eligible copy.
    pub excluded: Vec<Exclusion>,
}

/// Everything that a selection depends on.
#[derive(Clone, Copy, Debug)]
pub struct SelectionInput<'a> {
    /// The database in the applied state.
    pub database: &'a Database,
    /// The members in the applied state.
    pub members: &'a BTreeMap<MemberId, Member>,
    /// The epoch of the attempt.
    pub epoch: Epoch,
    /// At most one answer per member.
    pub replies: &'a [SealReply],
    /// Members with lease-capable contact.
    pub alive: &'a BTreeSet<MemberId>,
    /// The only copy allowed, for the first attempt of a switchover.
    pub requested: Option<CopyId>,
    /// Copies that failed in an earlier attempt; they come last.
    pub avoid: &'a BTreeSet<CopyId>,
    /// Production: none.
    pub weakness: Weakness,
}

/// What follows from the answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// Copies that count in the proof.
    pub reached: BTreeSet<CopyId>,
    /// Highest end among the reached logs: what the target must hold.
    pub required_end: LogEnd,
    /// Reached logs, highest end first.
    pub sources: Vec<Source>,
    /// All copies, eligible ones first, best first.
    pub candidates: Vec<Candidate>,
}

impl Selection {
    /// The best eligible copy.
    #[must_use]
    pub fn best(&self) -> Option<&Candidate> {
        self.candidates.first().filter(|candidate| candidate.excluded.is_empty())
    }
}

/// Orders log ends: by epoch first, then by position (R3).
fn end_key(end: LogEnd, weakness: Weakness) -> LogEnd {
    match weakness {
        // H3: prefers a long, discarded fork (S3).
        Weakness::EndsByPosition => LogEnd { epoch: Epoch::ZERO, position: end.position },
        _ => end,
    }
}

/// Whether the answer is one of a recorded copy whose log is intact since its admission (R4).
fn is_reached(input: &SelectionInput<'_>, reply: &SealReply) -> bool {
    let recorded = input.database.copies.get(&reply.copy).is_some_and(|c| c.member == reply.member);
    let log_fault = matches!(reply.fault, Some(CopyFault::LogIo(_) | CopyFault::LogDamaged(_)));
    recorded && reply.sealed == input.epoch && !log_fault && !reply.may_have_lost
}

/// The copies that count in the proof.
fn reached(input: &SelectionInput<'_>) -> BTreeSet<CopyId> {
    let mut reached: BTreeSet<_> =
        input.replies.iter().filter(|r| is_reached(input, r)).map(|r| r.copy).collect();
    if input.weakness == Weakness::ForgetfulCopyCounts {
        // H4: whatever answers from a member stands for every copy ever admitted there (S4).
        let members: BTreeSet<_> = input.replies.iter().map(|reply| reply.member).collect();
        let rules = input.database.unestablished.iter();
        let participants = rules.flat_map(|record| &record.rule.participants);
        reached.extend(participants.filter(|p| members.contains(&p.member)).map(|p| p.copy));
        reached.extend(input.replies.iter().map(|reply| reply.copy));
    }
    reached
}

/// Works out what the answers allow. Bounded by the number of copies.
#[must_use]
pub fn select(input: &SelectionInput<'_>) -> Selection {
    let reached = reached(input);
    let holders = || input.replies.iter().filter(|reply| reached.contains(&reply.copy));
    let key = |end| end_key(end, input.weakness);
    let required_end = holders().map(|r| r.end).max_by_key(|end| key(*end)).unwrap_or(LogEnd::ZERO);
    let mut sources: Vec<_> = holders()
        .map(|reply| Source { member: reply.member, copy: reply.copy, end: reply.end })
        .collect();
    sources.sort_by(|a, b| key(b.end).cmp(&key(a.end)).then(a.copy.cmp(&b.copy)));
    let mut candidates: Vec<_> = input.database.copies.keys().map(|id| judge(input, *id)).collect();
    candidates.sort_by_key(|candidate| {
        let reply = input.replies.iter().find(|reply| reply.copy == candidate.copy);
        let given_up = reply.is_some_and(|reply| holds_given_up(input, reply));
        let complete = candidate.end.is_some_and(|end| key(end) == key(required_end));
        let name = input.members.get(&candidate.member).map(|member| member.config.name.clone());
        (
            !candidate.excluded.is_empty(),
            // It would have to undo what its store may hold, and cannot.
            given_up,
            input.avoid.contains(&candidate.copy),
            !complete,
            candidate.preference,
            name,
            candidate.copy,
        )
    });
    Selection { reached, required_end, sources, candidates }
}

/// One copy and everything that speaks against it.
fn judge(input: &SelectionInput<'_>, id: CopyId) -> Candidate {
    let copy = &input.database.copies[&id];
    let reply = input.replies.iter().find(|reply| reply.copy == id && reply.member == copy.member);
    let mut excluded = Vec::new();
    let mut exclude = |condition: bool, reason: Exclusion| {
        if condition {
            excluded.push(reason);
        }
    };
    match reply {
        None => exclude(true, Exclusion::NoAnswer),
        Some(reply) => {
            exclude(reply.sealed != input.epoch, Exclusion::OtherEpoch(reply.sealed));
            if let Some(fault) = &reply.fault {
                exclude(true, Exclusion::Faulty(fault.clone()));
            }
            let forgetful = reply.may_have_lost && input.weakness != Weakness::ForgetfulCopyCounts;
            exclude(forgetful, Exclusion::Forgetful);
        }
    }
    let lagged = copy.kind == CopyKind::Lagged || reply.is_some_and(|reply| !reply.ha);
    let turned_back = input.database.turned_back.as_ref();
    let is_truth = turned_back.is_some_and(|turned| turned.is_truth(id, reply));
    exclude(!input.alive.contains(&copy.member), Exclusion::NoContact);
    exclude(lagged && !is_truth, Exclusion::Lagged);
    exclude(copy.leaving, Exclusion::Leaving);
    exclude(!copy.suspension.is_none() && !is_truth, Exclusion::Suspended);
    exclude(input.requested.is_some_and(|requested| requested != id), Exclusion::NotRequested);
    Candidate {
        copy: id,
        member: copy.member,
        end: reply.map(|reply| reply.end),
        preference: copy.preference,
        excluded,
    }
}

/// Whether the copy's log ends in a timeline that was given up, and another copy holds the one that
/// went on.
fn holds_given_up(input: &SelectionInput<'_>, reply: &SealReply) -> bool {
    let went_on = |epoch| input.replies.iter().any(|other| other.end.epoch >= epoch);
    let mut receipts = input.database.receipts.iter();
    receipts.any(|receipt| receipt.covers(reply.end) && went_on(receipt.epoch))
}

/// The first rule of an epoch whose target is `target`: the target and the HA copies that answered
/// the seal and can go on (S2); one that holds what a receipt gave up must be brought back first. A
/// copy that is behind may be in it: it counts only once it has matched the chain and holds the
/// opening frame, and until then the older rules stay in every proof (R2). With `degrade_after` =
/// never the copies that did not answer stay in the rule, so that writes wait for them instead of
/// going on degraded.
#[must_use]
pub fn first_rule(input: &SelectionInput<'_>, target: CopyId) -> CommitRule {
    first_rule_after(input, target, None)
}

/// The same after an activation at an instant: who may hold what it gave up does not count.
pub(crate) fn first_rule_after(
    input: &SelectionInput<'_>,
    target: CopyId,
    turn: Option<&Turn>,
) -> CommitRule {
    let database = input.database;
    let answers = |id: CopyId| {
        let sane = |r: &SealReply| {
            let fit = r.fault.is_none() && !r.may_have_lost && !holds_given_up(input, r);
            r.sealed == input.epoch && fit && turn.is_none_or(|turn| turn.lets_count(r))
        };
        input.replies.iter().any(|r| r.copy == id && r.ha && sane(r))
    };
    let held = |id: &CopyId| turn.is_some_and(|turn| turn.holders.contains(id));
    let counts = |id: &CopyId, c: &CopyConfig| *id == target || (c.may_count() && !held(id));
    let ha = || database.copies.iter().filter(|(id, c)| counts(id, c));
    let mut chosen: Vec<_> = ha().filter(|(id, _)| **id == target || answers(**id)).collect();
    let block = database.settings.degrade_after_ms.is_none();
    if block && chosen.len() < 2 {
        chosen = ha().collect();
    }
    let participants = chosen.into_iter().filter_map(|(id, copy)| {
        let site = input.members.get(&copy.member)?.config.site.clone();
        Some(Participant { copy: *id, member: copy.member, site })
    });
    CommitRule {
        version: database.rule.as_ref().map_or(1, |rule| rule.version + 1),
        active: target,
        constraint: database.wanted_constraint(),
        participants: participants.collect(),
    }
}

#[cfg(test)]
mod tests;

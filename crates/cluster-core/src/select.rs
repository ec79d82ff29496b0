//! Best-copy selection from the answers to a seal.
//!
//! Decides which copies count as *reached* (R4), which log end a new active must hold (R3), which
//! copies may become active and in which order, from whom log is fetched, and the first rule of the
//! new epoch. Pure: the same answers give the same selection, so a decision record can be checked
//! afterwards.
//!
//! The order of candidates (F18, F19): those that failed in an earlier attempt come last; then who
//! is wanted there, the health constraint and the criteria set decide; in one set a copy that holds
//! the whole log comes first, then the activation preference. Since every activation here is
//! lossless or an operator's word, the model's second sort order (by the newest log alone) has no
//! use of its own.

use std::collections::{BTreeMap, BTreeSet};

use keelson_types::{
    ActivationPolicy, CommitRule, CopyFault, CopyId, Epoch, LogEnd, MemberId, MountDial,
    Participant, Position, Weakness,
};
use serde::{Deserialize, Serialize};

use crate::criteria::Fit;
use crate::member::Member;
use crate::order::{SealReply, Source};
use crate::point_in_time::Turn;
use crate::state::{CopyConfig, Database};

mod picture;

pub use picture::{CopyInput, Mark, Picture};
pub(crate) use picture::{copy_inputs, describe, set_by_operators};

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
    /// Its replication is suspended (F43).
    Suspended,
    /// Its automatic activation is suspended, and it was not asked for (F25).
    ActivationSuspended,
    /// The policy of the copy or of its member lets nothing come by itself (F26).
    PolicyBlocked,
    /// The policy lets only databases come that were active in the same site (F26).
    OtherSite,
    /// Its member is under maintenance.
    Maintenance,
    /// As many databases are active on its member as may be (F27).
    MaximumActive(u32),
    /// Another copy was asked for.
    NotRequested,
    /// Its store has replayed beyond the instant at which it was to be activated.
    ReplayedBeyond(Position),
    /// Its log ends before the instant at which it was to be activated.
    LacksInstant,
    /// The proof failed, and more may be missing than the mount dial allows (F24).
    BeyondDial {
        /// The dial.
        dial: MountDial,
        /// Logs of 1 MiB that can be missing; none if nobody knows, which is within no dial.
        missing_logs: Option<u64>,
    },
    /// The process of the former active is being started again, with all that it acknowledged.
    ProcessExpected,
    /// The data address of its member is cut off.
    DataCut,
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
    /// How well it fits; orders the eligible ones.
    #[serde(default)]
    pub fit: Fit,
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
    /// How many databases each member is the active of ([`crate::ClusterState::active_counts`]).
    pub actives: &'a BTreeMap<MemberId, u32>,
    /// The only copy allowed, for the first attempt of a switchover.
    pub requested: Option<CopyId>,
    /// Copies that failed in an earlier attempt; they come last.
    pub avoid: &'a BTreeSet<CopyId>,
    /// Members whose data address is cut off: their copies count as not reached.
    pub data_cut: &'a BTreeSet<MemberId>,
    /// Production: none.
    pub weakness: Weakness,
}

impl<'a> SelectionInput<'a> {
    /// The same as values.
    pub(crate) fn picture(&self, copies: &'a [CopyInput]) -> Picture<'a> {
        Picture {
            epoch: self.epoch,
            copies,
            replies: self.replies,
            alive: self.alive,
            requested: self.requested,
            avoid: self.avoid,
            weakness: self.weakness,
        }
    }
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

/// Whether the answer is one of a recorded copy whose log is intact since its admission (R4). Log
/// that nobody can fetch is not reached.
fn is_reached(picture: &Picture<'_>, reply: &SealReply) -> bool {
    let recorded = |copy: &CopyInput| {
        copy.copy == reply.copy && copy.member == reply.member && !copy.is(Mark::DataCut)
    };
    let log_fault = matches!(reply.fault, Some(CopyFault::LogIo(_) | CopyFault::LogDamaged(_)));
    let intact = reply.sealed == picture.epoch && !log_fault && !reply.may_have_lost;
    // H4: a copy under another id, or one that forgot, counts as well.
    picture.weakness == Weakness::ForgetfulCopyCounts
        || (intact && picture.copies.iter().any(recorded))
}

/// Works out what the answers allow. Bounded by the number of copies.
#[must_use]
pub fn select(input: &SelectionInput<'_>) -> Selection {
    let copies = copy_inputs(input);
    let mut selection = rank(&input.picture(&copies));
    if input.weakness == Weakness::ForgetfulCopyCounts {
        // H4: whatever answers from a member stands for every copy ever admitted there (S4).
        let members: BTreeSet<_> = input.replies.iter().map(|reply| reply.member).collect();
        let rules = input.database.unestablished.iter();
        let participants = rules.flat_map(|record| &record.rule.participants);
        let there = participants.filter(|p| members.contains(&p.member)).map(|p| p.copy);
        selection.reached.extend(there);
    }
    selection
}

/// [`select()`] on values alone: the same picture gives the same selection, now and from a decision
/// record.
#[must_use]
pub fn rank(picture: &Picture<'_>) -> Selection {
    let key = |end| end_key(end, picture.weakness);
    let holders = || picture.replies.iter().filter(|reply| is_reached(picture, reply));
    let reached = holders().map(|reply| reply.copy).collect();
    let required_end = holders().map(|r| r.end).max_by_key(|end| key(*end)).unwrap_or(LogEnd::ZERO);
    let mut sources: Vec<_> = holders()
        .map(|reply| Source { member: reply.member, copy: reply.copy, end: reply.end })
        .collect();
    sources.sort_by(|a, b| key(b.end).cmp(&key(a.end)).then(a.copy.cmp(&b.copy)));
    let empty = required_end == LogEnd::ZERO;
    let judged = picture.copies.iter().map(|copy| (copy, judge(picture, copy, empty)));
    let mut judged: Vec<_> = judged.collect();
    judged.sort_by_key(|(copy, candidate)| {
        let complete = candidate.end.is_some_and(|end| key(end) == key(required_end));
        (
            !candidate.excluded.is_empty(),
            // It would have to undo what its store may hold, and cannot.
            copy.is(Mark::GivenUp),
            picture.avoid.contains(&candidate.copy),
            candidate.fit.rank(),
            !complete,
            candidate.preference,
            copy.actives,
            copy.name.clone(),
            candidate.copy,
        )
    });
    let candidates = judged.into_iter().map(|(_, candidate)| candidate).collect();
    Selection { reached, required_end, sources, candidates }
}

/// One copy, everything that speaks against it, and how well it fits.
fn judge(picture: &Picture<'_>, copy: &CopyInput, empty: bool) -> Candidate {
    let reply = reply_of(picture, copy);
    let mut excluded = Vec::new();
    let mut exclude = |condition: bool, reason: Exclusion| {
        if condition {
            excluded.push(reason);
        }
    };
    match reply {
        None => exclude(true, Exclusion::NoAnswer),
        Some(reply) => {
            exclude(reply.sealed != picture.epoch, Exclusion::OtherEpoch(reply.sealed));
            if let Some(fault) = &reply.fault {
                exclude(true, Exclusion::Faulty(fault.clone()));
            }
            let tolerant = picture.weakness == Weakness::ForgetfulCopyCounts;
            exclude(reply.may_have_lost && !tolerant, Exclusion::Forgetful);
            let beyond = copy.is(Mark::ReplayedGivenUp);
            exclude(beyond, Exclusion::ReplayedBeyond(reply.replayed));
        }
    }
    let lagged = copy.is(Mark::Lagged) || reply.is_some_and(|reply| !reply.ha);
    let truth = copy.is(Mark::Truth);
    exclude(!picture.alive.contains(&copy.member), Exclusion::NoContact);
    exclude(copy.is(Mark::DataCut), Exclusion::DataCut);
    exclude(lagged && !truth, Exclusion::Lagged);
    exclude(copy.is(Mark::Leaving), Exclusion::Leaving);
    exclude(copy.is(Mark::Stopped) && !truth, Exclusion::Suspended);
    for reason in policies(picture, copy) {
        exclude(true, reason);
    }
    let requested = picture.requested;
    exclude(requested.is_some_and(|requested| requested != copy.copy), Exclusion::NotRequested);
    let source = picture.copies.iter().find(|copy| copy.is(Mark::Incumbent));
    let source = source.and_then(|copy| reply_of(picture, copy)).map(|reply| &reply.health);
    let left = copy.is(Mark::MoveAway) || copy.is(Mark::Maintenance) || copy.is(Mark::Blocked);
    let wanted = !left && copy.policy != ActivationPolicy::Blocked && copy.room().1;
    let fit = Fit::judge(wanted, reply.map(|reply| &reply.health), source, empty);
    let (end, preference) = (reply.map(|reply| reply.end), copy.preference);
    Candidate { copy: copy.copy, member: copy.member, end, preference, excluded, fit }
}

fn reply_of<'a>(picture: &Picture<'a>, copy: &CopyInput) -> Option<&'a SealReply> {
    let mut replies = picture.replies.iter();
    replies.find(|reply| reply.copy == copy.copy && reply.member == copy.member)
}

/// What policies and limits say against an activation that does not name the copy (F25-F28). They
/// keep databases from coming, not from staying: the former active goes on where it is. The maximum
/// of its member holds for all.
fn policies(picture: &Picture<'_>, copy: &CopyInput) -> Vec<Exclusion> {
    let mut against = Vec::new();
    let free = picture.requested == Some(copy.copy) || copy.is(Mark::Incumbent);
    if !free && !copy.is(Mark::Truth) {
        let source = picture.copies.iter().find(|copy| copy.is(Mark::Incumbent));
        let elsewhere = source.is_some_and(|source| source.site != copy.site);
        if copy.is(Mark::Blocked) {
            against.push(Exclusion::ActivationSuspended);
        }
        match copy.policy {
            ActivationPolicy::Blocked => against.push(Exclusion::PolicyBlocked),
            ActivationPolicy::IntrasiteOnly if elsewhere => against.push(Exclusion::OtherSite),
            ActivationPolicy::IntrasiteOnly | ActivationPolicy::Unrestricted => {}
        }
        if copy.is(Mark::Maintenance) {
            against.push(Exclusion::Maintenance);
        }
    }
    if let (Some(max), (false, _)) = (copy.max_active, copy.room()) {
        against.push(Exclusion::MaximumActive(max));
    }
    against
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
            if input.data_cut.contains(&r.member) {
                return false;
            }
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

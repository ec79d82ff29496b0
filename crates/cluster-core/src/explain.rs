//! Explaining a decision afterwards, by deciding again from its recorded inputs (G8).
//!
//! The same functions run as when it fell: [`rank`] and [`lossless`]. With changed inputs
//! (`--what-if m2.alive=false`) they tell what would have been decided then.

use std::collections::BTreeSet;

use keelson_types::{
    ActivationPolicy, ContentIndexState, CopyId, LOG_UNIT_BYTES, MemberId, MountDial,
    RefusalReason, Weakness,
};

use crate::command::Refusal;
use crate::criteria::{COPY_QUEUE_LOGS, CopyHealth, IndexFit, MemberFit, REPLAY_QUEUE_LOGS};
use crate::decision::{DecisionRecord, Fence, FenceEvidence};
use crate::dial::{DialQuestion, dialled, missing};
use crate::order::SealReply;
use crate::point_in_time::rank_at;
use crate::proof::{Verdict, lossless};
use crate::select::{Candidate, CopyInput, Exclusion, Mark, Picture, Selection, rank};

mod besides;

/// One criterion of one candidate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Criterion {
    /// A stable name.
    pub name: &'static str,
    /// What was found.
    pub measured: String,
    /// Whether it is met.
    pub met: bool,
}

/// One candidate and its criteria.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// The copy, with what excludes it and how it fits.
    pub candidate: Candidate,
    /// Name of its member.
    pub name: String,
    /// Something speaks against it.
    pub excluded: bool,
    /// Milliseconds between its answer and the decision.
    pub age_ms: Option<u64>,
    /// Each criterion with its verdict.
    pub criteria: Vec<Criterion>,
}

/// What deciding again gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// In order of preference.
    pub candidates: Vec<Explained>,
    /// The proof.
    pub verdict: Verdict,
    /// The target.
    pub chosen: Option<CopyId>,
    /// What keeps each earlier active from serving (R9).
    pub fences: Vec<Fence>,
    /// What was decided, in words, if no activation was.
    pub outcome: Option<String>,
    /// Where the record says something else.
    pub differences: Vec<&'static str>,
    /// Inputs are missing in the record.
    pub incomplete: bool,
}

/// Decides again what `record` tells, with the inputs that `changes` name changed.
///
/// # Errors
/// `bad_argument` for a change that has no meaning, `unknown_member` for one of a member that the
/// record does not know.
pub fn explain(record: &DecisionRecord, changes: &[String]) -> Result<Explanation, Refusal> {
    if let Some(besides) = &record.besides {
        return besides::explain(record, besides, changes);
    }
    let mut inputs = Inputs::of(record);
    for change in changes {
        inputs.change(change)?;
    }
    let selection = inputs.select(record);
    let verdict = lossless(&record.rules, &selection.reached, Weakness::None);
    // With other inputs the proof may fail that held then, and the dials are asked.
    let unasked = (!changes.is_empty() && record.loss.is_none()).then(DialQuestion::default);
    let asked = record.dial.or(unasked).filter(|_| !verdict.is_lossless());
    let asked = asked.map(|question| DialQuestion { over: inputs.dial, ..question });
    let missing_logs = missing(&record.rules, &selection.reached, selection.required_end);
    let selection = match asked.map(|question| DialQuestion { missing_logs, ..question }) {
        Some(question) => dialled(selection, &inputs.copies, &question),
        None => selection,
    };
    let fenced = inputs.fences.iter().all(|fence| fence.by != FenceEvidence::None);
    // Without a target nobody has to be fenced.
    let fenced = fenced || record.chosen.is_none();
    let proven = verdict.is_lossless() || record.loss.is_some() || asked.is_some();
    let allowed = proven && fenced;
    let best = selection.best().map(|best| best.copy);
    let chosen = best.filter(|_| allowed);
    let differences = differences(record, &selection, &verdict, chosen);
    let explained = selection.candidates.iter().map(|candidate| {
        let of_copy = |copy: &&CopyInput| copy.copy == candidate.copy;
        let copy = inputs.copies.iter().find(of_copy);
        let aged = record.replies.iter().find(|aged| aged.reply.copy == candidate.copy);
        let reply = inputs.replies.iter().find(|reply| reply.copy == candidate.copy);
        Explained {
            candidate: candidate.clone(),
            name: copy.map(|copy| copy.name.clone()).unwrap_or_default(),
            excluded: !candidate.excluded.is_empty(),
            age_ms: aged.map(|aged| aged.age_ms),
            criteria: criteria(candidate, copy, reply, &selection),
        }
    });
    let candidates = explained.collect();
    // Records of versions that did not keep the copies have none.
    let incomplete = record.inputs_omitted || record.copies.is_empty();
    let (fences, outcome) = (inputs.fences, None);
    Ok(Explanation { candidates, verdict, chosen, fences, outcome, differences, incomplete })
}

fn differences(
    record: &DecisionRecord,
    selection: &Selection,
    verdict: &Verdict,
    chosen: Option<CopyId>,
) -> Vec<&'static str> {
    let reached: BTreeSet<_> = record.reached.iter().copied().collect();
    let checks = [
        (record.candidates == selection.candidates, "candidates"),
        (reached == selection.reached, "reached copies"),
        (record.required_end == selection.required_end, "required log end"),
        (record.verdict == *verdict, "verdict"),
        (record.chosen == chosen, "chosen copy"),
    ];
    checks.into_iter().filter(|(same, _)| !same).map(|(_, what)| what).collect()
}

/// The inputs of a record, which may be changed.
struct Inputs {
    copies: Vec<CopyInput>,
    replies: Vec<SealReply>,
    alive: BTreeSet<MemberId>,
    requested: Option<CopyId>,
    avoid: BTreeSet<CopyId>,
    fences: Vec<Fence>,
    /// The dial of a switchover.
    dial: Option<MountDial>,
    /// Members whose answer is left out.
    silent: BTreeSet<MemberId>,
}

impl Inputs {
    fn of(record: &DecisionRecord) -> Self {
        Self {
            copies: record.copies.clone(),
            replies: record.replies.iter().map(|aged| aged.reply.clone()).collect(),
            alive: record.alive.iter().copied().collect(),
            requested: record.requested,
            avoid: record.avoid.iter().copied().collect(),
            fences: record.fences.clone(),
            dial: record.dial.and_then(|question| question.over),
            silent: BTreeSet::new(),
        }
    }

    fn select(&mut self, record: &DecisionRecord) -> Selection {
        self.replies.retain(|reply| !self.silent.contains(&reply.member));
        let picture = Picture {
            epoch: record.epoch,
            copies: &self.copies,
            replies: &self.replies,
            alive: &self.alive,
            requested: self.requested,
            avoid: &self.avoid,
            weakness: Weakness::None,
        };
        match &record.at {
            Some(order) => rank_at(&picture, order),
            None => rank(&picture),
        }
    }

    /// One change: `requested=m2`, or `m2.key=value`.
    fn change(&mut self, text: &str) -> Result<(), Refusal> {
        let bad = || {
            let message = format!(
                "{text:?} is no change: requested=MEMBER, mount_dial=DIAL, or MEMBER.KEY=VALUE \
                 with one of the keys {}",
                KEYS.join(", ")
            );
            Refusal::new(RefusalReason::BadArgument, message)
        };
        let (key, value) = text.split_once('=').ok_or_else(bad)?;
        if key == "requested" {
            self.requested = match value {
                "none" => None,
                name => Some(self.copies[self.named(name)?].copy),
            };
            return Ok(());
        }
        if key == "mount_dial" {
            self.dial = Some(value.parse().map_err(|_| bad())?);
            return Ok(());
        }
        let (name, key) = key.rsplit_once('.').ok_or_else(bad)?;
        let index = self.named(name)?;
        self.set(index, key, value).ok_or_else(bad)
    }

    fn named(&self, name: &str) -> Result<usize, Refusal> {
        let found = self.copies.iter().position(|copy| copy.name == name);
        found.ok_or_else(|| {
            let message = format!("the record knows no copy on {name}");
            Refusal::new(RefusalReason::UnknownMember, message)
        })
    }

    fn set(&mut self, index: usize, key: &str, value: &str) -> Option<()> {
        let copy = &mut self.copies[index];
        let (member, id) = (copy.member, copy.copy);
        let yes = || value.parse::<bool>().ok();
        match key {
            "alive" if yes()? => drop(self.alive.insert(member)),
            "alive" => drop(self.alive.remove(&member)),
            "answers" if yes()? => drop(self.silent.remove(&member)),
            "answers" => drop(self.silent.insert(member)),
            "failed_before" if yes()? => drop(self.avoid.insert(id)),
            "failed_before" => drop(self.avoid.remove(&id)),
            "fenced" => {
                let by = if yes()? { FenceEvidence::LeaseOver } else { FenceEvidence::None };
                let own = self.fences.iter_mut().filter(|fence| fence.copy == id);
                own.for_each(|fence| fence.by = by);
            }
            _ if set_copy(copy, key, value).is_some() => {}
            _ => {
                let reply = self.replies.iter_mut().find(|reply| reply.copy == id)?;
                set_health(&mut reply.health, key, value)?;
            }
        }
        Some(())
    }
}

/// Changes what the replicated state says of a copy and its member.
fn set_copy(copy: &mut CopyInput, key: &str, value: &str) -> Option<()> {
    let limit = || match value {
        "none" => Some(None),
        number => number.parse().ok().map(Some),
    };
    if let Some((_, mark)) = MARKS.iter().find(|(name, _)| *name == key) {
        match value.parse::<bool>().ok()? {
            true => drop(copy.marks.insert(*mark)),
            false => drop(copy.marks.remove(mark)),
        }
        return Some(());
    }
    match key {
        "preference" => copy.preference = value.parse().ok()?,
        "policy" => copy.policy = value.parse::<ActivationPolicy>().ok()?,
        "actives" => copy.actives = value.parse().ok()?,
        "max_active" => copy.max_active = limit()?,
        "max_active_preferred" => copy.max_active_preferred = limit()?,
        "mount_dial" => copy.dial = value.parse::<MountDial>().ok()?,
        _ => return None,
    }
    Some(())
}

/// Changes what a copy said of itself.
fn set_health(health: &mut CopyHealth, key: &str, value: &str) -> Option<()> {
    let logs = || value.parse::<u64>().ok().map(|logs| logs.saturating_mul(LOG_UNIT_BYTES));
    match key {
        "content_index" => {
            let mut states = ContentIndexState::ALL.into_iter();
            health.content_index = states.find(|s| s.to_string().eq_ignore_ascii_case(value))?;
        }
        "copy_queue" => health.copy_queue_bytes = logs()?,
        "replay_queue" => health.replay_queue_bytes = logs()?,
        "short_of_space" => health.short_of_space = value.parse().ok()?,
        _ => return None,
    }
    Some(())
}

/// Keys that a change may name.
const KEYS: [&str; 20] = [
    "alive",
    "answers",
    "preference",
    "policy",
    "actives",
    "max_active",
    "max_active_preferred",
    "mount_dial",
    "failed_before",
    "fenced",
    "content_index",
    "copy_queue",
    "replay_queue",
    "short_of_space",
    "lagged",
    "suspended",
    "activation_suspended",
    "maintenance",
    "move_away",
    "data_cut",
];

/// Those that are marks of a copy.
const MARKS: [(&str, Mark); 6] = [
    ("lagged", Mark::Lagged),
    ("suspended", Mark::Stopped),
    ("activation_suspended", Mark::Blocked),
    ("maintenance", Mark::Maintenance),
    ("move_away", Mark::MoveAway),
    ("data_cut", Mark::DataCut),
];

/// Every criterion of a candidate: those that exclude first, then those that order.
fn criteria(
    candidate: &Candidate,
    copy: Option<&CopyInput>,
    reply: Option<&SealReply>,
    selection: &Selection,
) -> Vec<Criterion> {
    let found = |name: &'static str, matches: &dyn Fn(&Exclusion) -> bool, measured: String| {
        let met = !candidate.excluded.iter().any(matches);
        Criterion { name, measured, met }
    };
    let is = |reason: Exclusion| move |one: &Exclusion| *one == reason;
    let mark = |mark| copy.is_some_and(|copy| copy.is(mark)).to_string();
    let fault = reply.and_then(|reply| reply.fault.as_ref());
    let policy = copy.map(|copy| copy.policy.to_string()).unwrap_or_default();
    let actives = copy.map(|copy| copy.actives.to_string()).unwrap_or_default();
    let said = |text: &dyn Fn(&SealReply) -> String| reply.map(text).unwrap_or_default();
    let at =
        |one: &Exclusion| matches!(one, Exclusion::ReplayedBeyond(_) | Exclusion::LacksInstant);
    let mut rows = vec![
        found("answered", &is(Exclusion::NoAnswer), reply.is_some().to_string()),
        found(
            "sealed",
            &|one| matches!(one, Exclusion::OtherEpoch(_)),
            said(&|reply| reply.sealed.to_string()),
        ),
        found(
            "no_fault",
            &|one| matches!(one, Exclusion::Faulty(_)),
            fault.map_or_else(|| "none".into(), ToString::to_string),
        ),
        found("remembers", &is(Exclusion::Forgetful), said(&|r| (!r.may_have_lost).to_string())),
        found("contact", &is(Exclusion::NoContact), "lease of its member".into()),
        found("not_lagged", &is(Exclusion::Lagged), mark(Mark::Lagged)),
        found("not_leaving", &is(Exclusion::Leaving), mark(Mark::Leaving)),
        found("replicates", &is(Exclusion::Suspended), mark(Mark::Stopped)),
        found("may_activate", &is(Exclusion::ActivationSuspended), mark(Mark::Blocked)),
        found("policy", &is(Exclusion::PolicyBlocked), policy),
        found(
            "site",
            &is(Exclusion::OtherSite),
            copy.map_or_else(String::new, |c| c.site.to_string()),
        ),
        found("no_maintenance", &is(Exclusion::Maintenance), mark(Mark::Maintenance)),
        found("max_active", &|one| matches!(one, Exclusion::MaximumActive(_)), actives.clone()),
        found("requested", &is(Exclusion::NotRequested), String::new()),
        found("instant", &at, String::new()),
        found("mount_dial", &is_beyond_dial, beyond_dial(candidate, copy)),
        found("data_network", &is(Exclusion::DataCut), mark(Mark::DataCut)),
        found("process_gone", &is(Exclusion::ProcessExpected), String::new()),
    ];
    rows.extend(order(candidate, reply, selection, actives));
    rows
}

const fn is_beyond_dial(one: &Exclusion) -> bool {
    matches!(one, Exclusion::BeyondDial { .. })
}

/// The dial of a copy, and what it would have to allow.
fn beyond_dial(candidate: &Candidate, copy: Option<&CopyInput>) -> String {
    let beyond = candidate.excluded.iter().find_map(|one| match one {
        Exclusion::BeyondDial { dial, missing_logs } => Some((dial, missing_logs)),
        _ => None,
    });
    match beyond {
        None => copy.map(|copy| copy.dial.to_string()).unwrap_or_default(),
        Some((dial, Some(missing))) => format!("{dial}, {missing} logs may be missing"),
        Some((dial, None)) => format!("{dial}, nobody knows how much is missing"),
    }
}

/// The criteria that put candidates in order.
fn order(
    candidate: &Candidate,
    reply: Option<&SealReply>,
    selection: &Selection,
    actives: String,
) -> Vec<Criterion> {
    let fit = candidate.fit;
    let logs = |bytes: u64| bytes.div_ceil(LOG_UNIT_BYTES);
    let health = reply.map(|reply| reply.health).unwrap_or_default();
    let row = |name, measured: String, met| Criterion { name, measured, met };
    let member = match fit.member {
        MemberFit::AllHealthy => "all healthy",
        MemberFit::NormalHealthy => "normal healthy",
        MemberFit::BetterThanSource => "better than the source",
        MemberFit::SameAsSource => "as the source",
        MemberFit::Any => "worse than the source",
    };
    let complete = candidate.end == Some(selection.required_end);
    let end = candidate.end.map(|end| end.to_string()).unwrap_or_default();
    vec![
        row("wanted", format!("{actives} active"), fit.wanted),
        row("member_health", member.to_owned(), fit.member <= MemberFit::NormalHealthy),
        row("content_index", health.content_index.to_string(), fit.index == IndexFit::Healthy),
        row(
            "copy_queue",
            format!("{} of {COPY_QUEUE_LOGS} logs", logs(health.copy_queue_bytes)),
            fit.copy_queue,
        ),
        row(
            "replay_queue",
            format!("{} of {REPLAY_QUEUE_LOGS} logs", logs(health.replay_queue_bytes)),
            fit.replay_queue,
        ),
        row("criteria_set", fit.set.to_string(), fit.set == 1),
        row("whole_log", end, complete),
        row("preference", candidate.preference.to_string(), candidate.preference == 1),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::AgedReply;
    use crate::select::{SelectionInput, copy_inputs, select};
    use crate::testing::{DB, Log, copy, create, end, epoch, member, reply, rule, rule_record};
    use keelson_types::CommitConstraint as C;
    use std::collections::BTreeMap;

    /// Copies on members 1 to 3; epoch 1 was written by 1 and acknowledged by it and one more; 2
    /// and 3 answer in epoch 2.
    fn record() -> DecisionRecord {
        let mut log = Log::with_members(3);
        log.ok(&create(1, &[1, 2, 3]));
        let replies = [reply(2, epoch(2), end(1, 10)), reply(3, epoch(2), end(1, 10))];
        let alive: BTreeSet<_> = [member(2), member(3)].into();
        let input = SelectionInput {
            database: &log.state.databases[&DB],
            members: &log.state.members,
            epoch: epoch(2),
            replies: &replies,
            alive: &alive,
            actives: &BTreeMap::new(),
            requested: None,
            avoid: &BTreeSet::new(),
            data_cut: &BTreeSet::new(),
            weakness: Weakness::None,
        };
        let selection = select(&input);
        let aged = |reply: &SealReply| AgedReply { age_ms: 5, reply: reply.clone() };
        DecisionRecord {
            rules: vec![rule_record(1, rule(1, 1, C::SecondCopy, &[1, 2, 3]))],
            copies: copy_inputs(&input),
            replies: replies.iter().map(aged).collect(),
            alive: alive.iter().copied().collect(),
            reached: selection.reached.iter().copied().collect(),
            chosen: selection.best().map(|best| best.copy),
            required_end: selection.required_end,
            candidates: selection.candidates,
            ..crate::apply::tests::decision(DB, epoch(2))
        }
    }

    fn chosen(changes: &[&str]) -> Option<CopyId> {
        let changes: Vec<_> = changes.iter().map(|change| (*change).to_owned()).collect();
        explain(&record(), &changes).expect("a change").chosen
    }

    /// G8: the record alone gives the same verdict, also after it was stored.
    #[test]
    fn a_record_is_decided_again_in_the_same_way() {
        let json = serde_json::to_string(&record()).expect("serializes");
        let read: DecisionRecord = serde_json::from_str(&json).expect("reads");
        let explanation = explain(&read, &[]).expect("no changes");
        assert_eq!((explanation.chosen, &explanation.differences[..]), (Some(copy(2)), &[][..]));
        assert!(!explanation.incomplete);
        let ages: Vec<_> = explanation.candidates.iter().map(|one| one.age_ms).collect();
        assert_eq!(ages, [Some(5), Some(5), None]);
        let rows = &explanation.candidates[2].criteria;
        let unmet = rows.iter().filter(|row| !row.met).map(|row| row.name);
        assert!(unmet.clone().any(|name| name == "answered"), "{rows:?}");
        assert_eq!(rows.len(), explanation.candidates[0].criteria.len(), "the table has no holes");
    }

    #[test]
    fn a_record_that_says_something_else_is_found_out() {
        let record = DecisionRecord { chosen: Some(copy(3)), ..record() };
        assert_eq!(explain(&record, &[]).expect("no changes").differences, ["chosen copy"]);
    }

    #[test]
    fn changed_inputs_give_what_would_have_been_decided() {
        assert_eq!(chosen(&["m2.alive=false"]), Some(copy(3)));
        assert_eq!(chosen(&["m2.policy=blocked"]), Some(copy(3)));
        assert_eq!(chosen(&["m3.preference=0"]), Some(copy(3)));
        assert_eq!(chosen(&["m3.content_index=healthy"]), Some(copy(3)));
        assert_eq!(chosen(&["m2.replay_queue=50"]), Some(copy(3)));
        assert_eq!(chosen(&["m2.maintenance=true"]), Some(copy(3)));
        assert_eq!(chosen(&["m2.max_active=0"]), Some(copy(3)));
        assert_eq!(chosen(&["requested=m3"]), Some(copy(3)));
        assert_eq!(chosen(&["m2.answers=false"]), None, "1 and 2 may have acknowledged alone");
    }

    /// A dial is asked what it would have allowed, also where the proof held when it fell.
    #[test]
    fn a_changed_input_asks_the_dials() {
        let with = |change: &[&str]| {
            let ceiling = keelson_types::Ceiling {
                border: end(1, 10),
                previous_end: None,
                ahead_bytes: 2 * LOG_UNIT_BYTES,
            };
            let mut record = record();
            let rule = &mut record.rules[0];
            (rule.begins, rule.ceiling) = (Some(end(1, 0)), Some(ceiling));
            let changes: Vec<_> = change.iter().map(|change| (*change).to_owned()).collect();
            explain(&record, &changes).expect("a change")
        };
        assert!(with(&[]).differences.is_empty());
        let dialled = with(&["m2.answers=false", "m3.mount_dial=good_availability"]);
        assert_eq!(dialled.chosen, Some(copy(3)), "{:?}", dialled.candidates[0].candidate);
        let dialled = with(&["m2.answers=false", "mount_dial=good_availability"]);
        assert_eq!(dialled.chosen, Some(copy(3)));
        let without = with(&["m2.answers=false"]);
        let excluded = &without.candidates.iter().find(|c| c.candidate.copy == copy(3));
        let excluded = &excluded.expect("named").candidate.excluded;
        assert!(matches!(excluded[..], [Exclusion::BeyondDial { missing_logs: Some(_), .. }]));
    }

    #[test]
    fn who_is_not_fenced_keeps_everybody_from_being_chosen() {
        let fence = Fence { epoch: epoch(1), copy: copy(1), by: FenceEvidence::Sealed };
        let record = DecisionRecord { fences: vec![fence], ..record() };
        assert_eq!(explain(&record, &[]).expect("no changes").fences, [fence]);
        let open = explain(&record, &["m1.fenced=false".to_owned()]).expect("a change");
        assert_eq!((open.chosen, open.fences[0].by), (None, FenceEvidence::None));
    }

    #[test]
    fn changes_without_meaning_are_refused() {
        for change in ["m2", "m2.alive", "m2.alive=perhaps", "m2.colour=red", "alive=true"] {
            let refusal = explain(&record(), &[change.to_owned()]).expect_err(change);
            assert_eq!(refusal.reason, RefusalReason::BadArgument, "{change}");
        }
        let refusal = explain(&record(), &["m7.alive=true".to_owned()]).expect_err("unknown");
        assert_eq!(refusal.reason, RefusalReason::UnknownMember);
    }
}

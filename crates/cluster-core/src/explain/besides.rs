//! Explaining decisions that activate nothing: the same functions run on the recorded facts.

use keelson_types::{CopyId, LogEnd, RefusalReason, Setting, VolumeState};

use super::{Criterion, Explained, Explanation, set_copy, set_health};
use crate::autoreseed::{Away, OnVolume, ReseedVerdict, ReseedWish};
use crate::command::Refusal;
use crate::criteria::Fit;
use crate::decision::{Besides, DecisionRecord, RefusedMove, ReseedDecision};
use crate::failure::response;
use crate::proof::Verdict;
use crate::select::Candidate;
use crate::switchover::{CheckRow, CheckVerdict};

pub(super) fn explain(
    record: &DecisionRecord,
    besides: &Besides,
    changes: &[String],
) -> Result<Explanation, Refusal> {
    match besides {
        Besides::RefusedMove(refused) => refused_move(record, refused, changes),
        Besides::Reseed(decision) => reseed(record, decision, changes),
    }
}

fn refused_move(
    record: &DecisionRecord,
    refused: &RefusedMove,
    changes: &[String],
) -> Result<Explanation, Refusal> {
    let mut changed = refused.clone();
    for change in changes {
        change_move(&mut changed, change)?;
    }
    let plan = changed.facts.plan(changed.to);
    let plan = match changed.careful {
        true => plan.without_warnings(&changed.facts.name),
        false => plan,
    };
    let copies = &changed.facts.copies;
    let explained = plan.checked.iter().filter_map(|(member, rows)| {
        let copy = copies.iter().find(|copy| copy.member == *member)?;
        let failed = rows.iter().any(|row| row.verdict == CheckVerdict::Failed);
        let rows = rows.iter().map(criterion).collect();
        Some(explained(copy.copy, (*member, &copy.name[..]), failed, rows))
    });
    let to = copies.iter().find(|copy| Some(copy.member) == plan.to);
    let outcome = match (&plan.refusal, to) {
        (Some(refusal), _) => refusal.message.clone(),
        (None, Some(to)) => format!("it would move to {}", to.name),
        (None, None) => "it would stay".to_owned(),
    };
    let same = plan.refusal.as_ref() == Some(&refused.refusal);
    Ok(explanation(record, explained.collect(), (to.map(|to| to.copy), outcome), same))
}

fn criterion(row: &CheckRow) -> Criterion {
    let skipped = match row.verdict {
        CheckVerdict::Overridden => ", overridden",
        CheckVerdict::Passed | CheckVerdict::Failed => "",
    };
    let measured = format!("{} ({} passes{skipped})", row.measured, row.threshold);
    Criterion { name: row.check.name(), measured, met: row.verdict != CheckVerdict::Failed }
}

/// `to=MEMBER` or `none`, or a key of a copy as in an activation.
fn change_move(refused: &mut RefusedMove, text: &str) -> Result<(), Refusal> {
    let bad = || bad(text, "to=MEMBER or MEMBER.KEY=VALUE, with a key of an activation");
    let (key, value) = text.split_once('=').ok_or_else(bad)?;
    let copies = &mut refused.facts.copies;
    let known = |copies: &[crate::select::CopyInput], name: &str| {
        copies.iter().position(|copy| copy.name == name).ok_or_else(|| unknown(name))
    };
    if key == "to" {
        refused.to = match value {
            "none" => None,
            name => Some(copies[known(copies, name)?].member),
        };
        return Ok(());
    }
    let (name, key) = key.rsplit_once('.').ok_or_else(bad)?;
    let index = known(copies, name)?;
    let copy = &mut copies[index];
    let (id, member) = (copy.copy, copy.member);
    if key == "alive" {
        match value.parse::<bool>().map_err(|_| bad())? {
            true => drop(refused.facts.alive.insert(member)),
            false => drop(refused.facts.alive.remove(&member)),
        }
        return Ok(());
    }
    if set_copy(copy, key, value).is_some() {
        return Ok(());
    }
    let report = refused.facts.reports.get_mut(&id).ok_or_else(bad)?;
    set_health(&mut report.health, key, value).ok_or_else(bad)
}

fn reseed(
    record: &DecisionRecord,
    decision: &ReseedDecision,
    changes: &[String],
) -> Result<Explanation, Refusal> {
    let mut changed = decision.clone();
    for change in changes {
        change_reseed(&mut changed, change)?;
    }
    let verdict = changed.facts.verdict();
    let rows = reseed_rows(&changed);
    let blocked = matches!(verdict, ReseedVerdict::Blocked(_));
    let name = (decision.member, &decision.facts.member[..]);
    let one = explained(decision.copy, name, blocked, rows);
    let outcome = (None, in_words(&verdict));
    Ok(explanation(record, vec![one], outcome, verdict == decision.verdict))
}

fn in_words(verdict: &ReseedVerdict) -> String {
    match verdict {
        ReseedVerdict::Nothing => "nothing is to be done".into(),
        ReseedVerdict::Wait(until) => format!("it waits until {until} (Unix milliseconds)"),
        ReseedVerdict::Blocked(why) => format!("nothing is done: {why}"),
        ReseedVerdict::Act(wish) => match wish {
            ReseedWish::Suspend(tag) => format!("it is suspended as {tag}"),
            ReseedWish::Resume => "it is resumed".into(),
            ReseedWish::Seed(_) => "it is seeded in place".into(),
            ReseedWish::AssignSpare(order) => {
                format!("it leaves volume {} and is seeded on a spare", order.leaves)
            }
            ReseedWish::Stop => "it is left to a person".into(),
            ReseedWish::Reset => "it begins again".into(),
            ReseedWish::Done => "it is well".into(),
        },
    }
}

fn reseed_rows(decision: &ReseedDecision) -> Vec<Criterion> {
    let facts = &decision.facts;
    let row = |name, measured: String, met| Criterion { name, measured, met };
    let tag = facts.failure.or_else(|| facts.seen?.tag);
    let lasting = tag.map(|tag| response(tag).lasting);
    let class = tag.map_or_else(|| "unknown".into(), |tag| tag.to_string());
    let progress = facts.progress.unwrap_or_default();
    let most = facts.settings.number(Setting::AutoreseedCopiesMax);
    let away = match facts.away {
        None => "there",
        Some(Away::Maintenance) => "under maintenance",
        Some(Away::Silent) => "silent",
    };
    let below = most == 0 || facts.failed_there as u64 <= most;
    let seeds = facts.seeds_there < crate::autoreseed::SEEDS_AT_ONCE_MAX;
    let mut rows = vec![
        row("cluster_switch", String::new(), facts.settings.is_on(Setting::Autoreseed)),
        row("database_switch", String::new(), facts.on),
        row("class", class, lasting == Some(crate::failure::FailureAction::Reseed)),
        row("resumes", progress.resumes.to_string(), true),
        row("seeds", progress.seeds.to_string(), !progress.stopped),
        row("member", away.into(), facts.away.is_none()),
        row("failed_there", format!("{} of {most}", facts.failed_there), below),
        row("seeds_there", facts.seeds_there.to_string(), seeds),
        row("open", facts.open.to_string(), facts.open),
        row("sources", facts.sources.to_string(), facts.sources > 0),
        row(
            "seed_checks",
            facts.seed_refusal.clone().unwrap_or_else(|| "passed".into()),
            facts.seed_refusal.is_none(),
        ),
    ];
    if let Some(volume) = &facts.volume {
        let OnVolume { path, state, actives, well, bytes, spares } = volume;
        let there = format!("{actives} active, {well} not failed");
        let room = format!("{spares} with room for {bytes} bytes");
        let lost = state.is_lost();
        rows.extend([
            row("volume", format!("{path} is {state}"), !lost),
            row("volume_copies", there, !lost || actives + well == 0),
            row("spares", room, !lost || *spares > 0),
            row("spare_seeds", progress.spares.to_string(), !progress.stopped),
        ]);
    }
    rows
}

fn change_reseed(decision: &mut ReseedDecision, text: &str) -> Result<(), Refusal> {
    let keys = "on, open, sources, failed_there, seeds_there, resumes, seeds, now, and of a copy \
                on one of several volumes: volume, actives, well, spares, spare_seeds";
    let bad = || bad(text, keys);
    let (key, value) = text.split_once('=').ok_or_else(bad)?;
    let facts = &mut decision.facts;
    let number = || value.parse::<usize>().map_err(|_| bad());
    let small = || value.parse::<u32>().map_err(|_| bad());
    let yes = || value.parse::<bool>().map_err(|_| bad());
    match key {
        "on" => facts.on = yes()?,
        "open" => facts.open = yes()?,
        "sources" => facts.sources = number()?,
        "failed_there" => facts.failed_there = number()?,
        "seeds_there" => facts.seeds_there = number()?,
        "resumes" => facts.progress.get_or_insert_default().resumes = small()?,
        "seeds" => facts.progress.get_or_insert_default().seeds = small()?,
        "spare_seeds" => facts.progress.get_or_insert_default().spares = small()?,
        "now" => facts.now = value.parse().map_err(|_| bad())?,
        _ => {
            let volume = facts.volume.as_mut().ok_or_else(bad)?;
            change_volume(volume, key, value).ok_or_else(bad)?;
        }
    }
    Ok(())
}

fn change_volume(volume: &mut OnVolume, key: &str, value: &str) -> Option<()> {
    match key {
        "volume" => volume.state = VolumeState::named(value)?,
        "actives" => volume.actives = value.parse().ok()?,
        "well" => volume.well = value.parse().ok()?,
        "spares" => volume.spares = value.parse().ok()?,
        _ => return None,
    }
    Some(())
}

fn bad(text: &str, keys: &str) -> Refusal {
    let message = format!("{text:?} is no change of this record: {keys}");
    Refusal::new(RefusalReason::BadArgument, message)
}

fn unknown(name: &str) -> Refusal {
    let message = format!("the record knows no copy on {name}");
    Refusal::new(RefusalReason::UnknownMember, message)
}

fn explained(
    copy: CopyId,
    (member, name): (keelson_types::MemberId, &str),
    excluded: bool,
    criteria: Vec<Criterion>,
) -> Explained {
    let (end, excluded_by, fit): (Option<LogEnd>, _, _) = (None, Vec::new(), Fit::default());
    let candidate = Candidate { copy, member, end, preference: 0, excluded: excluded_by, fit };
    Explained { candidate, name: name.to_owned(), excluded, age_ms: None, criteria }
}

fn explanation(
    record: &DecisionRecord,
    candidates: Vec<Explained>,
    (chosen, outcome): (Option<CopyId>, String),
    same: bool,
) -> Explanation {
    Explanation {
        candidates,
        verdict: Verdict::Lossless,
        chosen,
        fences: Vec::new(),
        outcome: Some(outcome),
        differences: if same { Vec::new() } else { vec!["what was decided"] },
        incomplete: record.inputs_omitted,
    }
}

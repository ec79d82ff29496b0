//! `keelson decision explain`: each candidate with each criterion, decided again from the record.

use keelson_wire::v1::{ExplainDecisionResponse, FenceRow};
use serde_json::{Value, json};

use crate::context::Global;
use crate::failure::Outcome;
use crate::output::{self, Column, column};
use crate::text;

/// Criteria of one candidate, side by side with those of the others.
const FIXED: usize = 1;

pub(super) async fn run(global: &Global, index: u64, what_if: Vec<String>) -> Outcome {
    let changed = !what_if.is_empty();
    let answer = global.client()?.admin().explain_decision(index, what_if).await?;
    if global.output.is_data() {
        output::print_data(global.output, &data(&answer));
        return Ok(());
    }
    let record: Value = serde_json::from_str(&answer.decision).unwrap_or_default();
    let epoch = &record["record"]["epoch"];
    output::emit(&format!(
        "decision {index} of {}, epoch {}.{}, attempt {}\n\n",
        text::time(record["unix_ms"].as_u64().unwrap_or(0)),
        epoch["recovery"],
        epoch["counter"],
        record["record"]["attempt"],
    ));
    output::print_list(global.output, &columns(&answer), rows(&answer), &Value::Null);
    if answer.outcome.is_empty() {
        output::emit(&format!("\n{}\n", steps(&record["record"]["steps"])));
        answer.fences.iter().for_each(|fence| output::emit(&format!("{}\n", fenced(fence))));
    } else {
        output::emit("\n");
    }
    output::emit(&format!("{}\n", conclusion(&answer, changed)));
    Ok(())
}

/// What kept an earlier active from serving.
fn fenced(fence: &FenceRow) -> String {
    let kept = if fence.holds { "cannot serve" } else { "could still serve" };
    let epoch = text::epoch(fence.epoch.as_ref());
    format!("fence: {}, active in epoch {epoch}, {kept}: {}", fence.member, fence.evidence)
}

/// When each step was reached, since the activation began.
fn steps(recorded: &Value) -> String {
    let reached = recorded.as_array().into_iter().flatten().map(|timing| {
        let name = timing["step"].as_str().unwrap_or("?").replace('_', " ");
        format!("{name} {} ms", timing["at_ms"])
    });
    format!("steps: {}", reached.collect::<Vec<_>>().join(", "))
}

/// A column for the criterion, then one for each candidate.
fn columns(answer: &ExplainDecisionResponse) -> Vec<Column> {
    const NAMES: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "sixth"];
    let candidates = answer.candidates.len().min(NAMES.len());
    let names = NAMES.into_iter().take(candidates).map(column);
    std::iter::once(column("criterion")).chain(names).collect()
}

fn rows(answer: &ExplainDecisionResponse) -> Vec<Vec<String>> {
    let shown = columns(answer).len() - FIXED;
    let candidates = || answer.candidates.iter().take(shown);
    let mut rows = vec![
        row("member", candidates().map(|one| one.member.clone())),
        row(
            "verdict",
            candidates().map(|one| match (one.chosen, one.excluded) {
                (true, _) => "chosen".into(),
                (false, true) => "excluded".into(),
                (false, false) => "eligible".into(),
            }),
        ),
        row(
            "answer age",
            candidates().map(|one| match one.answer_age_millis {
                Some(millis) => format!("{millis} ms"),
                None => "no answer".into(),
            }),
        ),
    ];
    let names = answer.candidates.first().map(|one| one.criteria.as_slice()).unwrap_or_default();
    rows.extend(names.iter().enumerate().map(|(at, criterion)| {
        let name = criterion.name.replace('_', " ");
        row(&name, candidates().map(move |one| verdict(one.criteria.get(at))))
    }));
    rows
}

fn row(name: &str, values: impl Iterator<Item = String>) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(values).collect()
}

fn verdict(criterion: Option<&keelson_wire::v1::Criterion>) -> String {
    let Some(criterion) = criterion else { return String::new() };
    let met = if criterion.met { "yes" } else { "NO" };
    match criterion.measured.as_str() {
        "" => met.to_owned(),
        measured => format!("{met} ({measured})"),
    }
}

fn conclusion(answer: &ExplainDecisionResponse, changed: bool) -> String {
    let outcome = match answer.chosen.as_str() {
        _ if !answer.outcome.is_empty() => answer.outcome.clone(),
        "" => "no copy is activated".to_owned(),
        member => format!("the copy on {member} is activated"),
    };
    let proof = match answer.verdict.as_str() {
        _ if !answer.outcome.is_empty() => String::new(),
        "lossless" => "nothing acknowledged can be missing".to_owned(),
        against => against.to_owned(),
    };
    let agrees = match (answer.incomplete, answer.agrees, changed) {
        (true, _, _) => "inputs were left out of the record, which can not be decided again".into(),
        (_, true, false) => "decided again from its inputs it is the same".into(),
        (_, false, false) => {
            format!("decided again it differs: {}", answer.differences.join(", "))
        }
        (_, true, true) => "the changes make no difference".into(),
        (_, false, true) => {
            format!("the changes make a difference: {}", answer.differences.join(", "))
        }
    };
    match proof.is_empty() {
        true => format!("{outcome}; {agrees}"),
        false => format!("{outcome}: {proof}; {agrees}"),
    }
}

fn fence_data(fence: &FenceRow) -> Value {
    json!({
        "member": fence.member,
        "epoch": text::epoch(fence.epoch.as_ref()),
        "evidence": fence.evidence,
        "holds": fence.holds,
    })
}

fn data(answer: &ExplainDecisionResponse) -> Value {
    let candidates = answer.candidates.iter().map(|one| {
        let criteria = one.criteria.iter().map(|criterion| {
            json!({ "name": criterion.name, "measured": criterion.measured, "met": criterion.met })
        });
        json!({
            "member": one.member,
            "chosen": one.chosen,
            "excluded": one.excluded,
            "answer_age_millis": one.answer_age_millis,
            "criteria": criteria.collect::<Value>(),
        })
    });
    json!({
        "decision": serde_json::from_str::<Value>(&answer.decision).unwrap_or_default(),
        "candidates": candidates.collect::<Value>(),
        "verdict": answer.verdict,
        "chosen": (!answer.chosen.is_empty()).then_some(&answer.chosen),
        "outcome": (!answer.outcome.is_empty()).then_some(&answer.outcome),
        "fences": answer.fences.iter().map(fence_data).collect::<Value>(),
        "agrees": answer.agrees,
        "differences": answer.differences,
        "incomplete": answer.incomplete,
    })
}

#[cfg(test)]
mod tests {
    use keelson_wire::v1::{Criterion, DecisionCandidate};

    use super::*;

    fn answer(agrees: bool) -> ExplainDecisionResponse {
        let candidate = |member: &str, chosen, met: bool| DecisionCandidate {
            member: member.into(),
            chosen,
            excluded: !met,
            answer_age_millis: met.then_some(3),
            criteria: vec![Criterion { name: "may_activate".into(), measured: "x".into(), met }],
        };
        ExplainDecisionResponse {
            candidates: vec![candidate("m2", true, true), candidate("m1", false, false)],
            agrees,
            differences: if agrees { Vec::new() } else { vec!["chosen copy".into()] },
            verdict: "lossless".into(),
            chosen: "m2".into(),
            ..ExplainDecisionResponse::default()
        }
    }

    #[test]
    fn each_candidate_has_a_column_and_each_criterion_a_row() {
        let answer = answer(true);
        assert_eq!(columns(&answer).len(), 3);
        let rows = rows(&answer);
        assert_eq!(rows[0], ["member", "m2", "m1"]);
        assert_eq!(rows[1], ["verdict", "chosen", "excluded"]);
        assert_eq!(rows[2], ["answer age", "3 ms", "no answer"]);
        assert_eq!(rows[3], ["may activate", "yes (x)", "NO (x)"]);
    }

    #[test]
    fn the_steps_are_told_with_their_times() {
        let recorded = json!([
            { "step": "sealing", "at_ms": 0 },
            { "step": "backing_off", "at_ms": 12 },
        ]);
        assert_eq!(steps(&recorded), "steps: sealing 0 ms, backing off 12 ms");
    }

    #[test]
    fn the_conclusion_says_whether_it_is_decided_in_the_same_way() {
        assert!(conclusion(&answer(true), false).ends_with("it is the same"));
        assert!(conclusion(&answer(false), false).ends_with("differs: chosen copy"));
        assert!(conclusion(&answer(false), true).ends_with("a difference: chosen copy"));
        let refused = ExplainDecisionResponse { outcome: "DB1 stays".into(), ..answer(true) };
        let text = conclusion(&refused, false);
        assert_eq!(text, "DB1 stays; decided again from its inputs it is the same");
    }

    #[test]
    fn fences_are_told_with_their_evidence() {
        let (member, evidence) = ("m1".into(), "it answered the seal".into());
        let epoch = Some(keelson_types::Epoch::new(0, 3).into());
        let fence = FenceRow { member, epoch, evidence, holds: true };
        let text = "fence: m1, active in epoch 0.3, cannot serve: it answered the seal";
        assert_eq!(fenced(&fence), text);
    }
}

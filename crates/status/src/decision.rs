//! A decision record as one line for people.
//!
//! Records are JSON of the deciding member's version. Whatever is not as expected is left out of
//! the line, so that records of other versions can be listed too.

use std::collections::BTreeMap;
use std::fmt::Display;

use keelson_types::{Epoch, LogEnd};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Names of members and databases, and comments of operations, by id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// Of members and databases.
    pub of: BTreeMap<String, String>,
    /// Of operations.
    pub comments: BTreeMap<String, String>,
}

impl Names {
    /// The name, or as much of the id as tells it from others.
    fn name(&self, id: &Value) -> String {
        let id = id.as_str().unwrap_or_default();
        self.of.get(id).cloned().unwrap_or_else(|| id.chars().take(8).collect())
    }
}

/// What a record comes to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DecisionLine {
    /// Number of the record.
    pub index: u64,
    /// When it was written, in Unix milliseconds.
    pub unix_ms: u64,
    /// Name of the database.
    pub database: String,
    /// The epoch that was decided about.
    pub epoch: String,
    /// Why it was to be decided.
    pub reason: String,
    /// Member of the chosen copy, or a dash.
    pub chosen: String,
    /// closed, with loss, lossless, possible loss; refused, blocked or reseed if nothing was to be
    /// activated.
    pub verdict: &'static str,
    /// What speaks against the others.
    pub why: String,
    /// How often it was tried.
    pub attempt: String,
    /// Log end that the chosen copy must hold.
    pub log_end: String,
    /// The operation that asked for it.
    pub operation: String,
}

/// Reads a record.
#[must_use]
pub fn line(names: &Names, entry: &Value) -> DecisionLine {
    let record = &entry["record"];
    let holder = |copy: &Value| {
        let candidate = list(&record["candidates"]).find(|candidate| candidate["copy"] == *copy);
        candidate.map_or_else(|| names.name(copy), |candidate| names.name(&candidate["member"]))
    };
    let chosen = match &record["chosen"] {
        Value::Null => "-".to_owned(),
        copy => holder(copy),
    };
    DecisionLine {
        index: entry["index"].as_u64().unwrap_or(0),
        unix_ms: entry["unix_ms"].as_u64().unwrap_or(0),
        database: names.name(&record["database"]),
        epoch: shown::<Epoch>(&record["epoch"]),
        reason: reason(names, &record["reason"], holder),
        chosen,
        verdict: verdict(record),
        why: why(names, record, holder),
        attempt: record["attempt"].to_string(),
        log_end: shown::<LogEnd>(&record["required_end"]),
        operation: record["operation"].as_str().unwrap_or_default().to_owned(),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A value of a type that both sides know, as that type is shown.
fn shown<T: DeserializeOwned + Display>(value: &Value) -> String {
    T::deserialize(value).map(|known| known.to_string()).unwrap_or_default()
}

/// The name of an enum's value, in words, and what it holds.
fn variant(value: &Value) -> (String, &Value) {
    let words = |name: &str| name.replace('_', " ");
    match value {
        Value::String(name) => (words(name), &Value::Null),
        Value::Object(fields) => {
            fields.iter().next().map_or((String::new(), &Value::Null), |(k, v)| (words(k), v))
        }
        _ => (String::new(), &Value::Null),
    }
}

fn reason(names: &Names, reason: &Value, holder: impl Fn(&Value) -> String) -> String {
    let (name, details) = variant(reason);
    match (details.get("to"), details.get("copy")) {
        (Some(to), _) => format!("{name} to {}", names.name(to)),
        (None, Some(copy)) => format!("{name} on {}", holder(copy)),
        (None, None) => name,
    }
}

/// Whether anything could be lost; nothing can while no copy is activated.
fn verdict(record: &Value) -> &'static str {
    if record["besides"]["refused_move"].is_object() {
        return "refused";
    }
    if let Some(decision) = record["besides"].get("reseed") {
        return if decision["verdict"].get("blocked").is_some() { "blocked" } else { "reseed" };
    }
    match (&record["chosen"], record["verdict"].as_str()) {
        (Value::Null, _) => "closed",
        _ if record["loss"].is_object() => "with loss",
        (_, Some("lossless")) => "lossless",
        _ => "possible loss",
    }
}

/// What was said by whoever asked, what speaks against the lossless proof, and against each copy.
fn why(names: &Names, record: &Value, holder: impl Fn(&Value) -> String) -> String {
    if let Some(words) = besides(record) {
        return words;
    }
    let mut parts = Vec::new();
    let operation = record["operation"].as_str();
    if let Some(comment) = operation.and_then(|id| names.comments.get(id)) {
        parts.push(format!("{comment:?}"));
    }
    if let Some(loss) = record["verdict"].get("possible_loss") {
        let unreached: Vec<_> = list(&loss["unreached"]).map(holder).collect();
        let (unreached, epoch) = (unreached.join(", "), shown::<Epoch>(&loss["epoch"]));
        parts.push(format!("not reached: {unreached}, which may hold more of epoch {epoch}"));
    }
    let excluded = list(&record["candidates"]).filter_map(|candidate| {
        let reasons: Vec<_> = list(&candidate["excluded"]).map(|one| variant(one).0).collect();
        let member = names.name(&candidate["member"]);
        (!reasons.is_empty()).then(|| format!("{member}: {}", reasons.join(", ")))
    });
    parts.extend(excluded);
    if parts.is_empty() && !record["chosen"].is_null() {
        let candidates = list(&record["candidates"]).count();
        parts.push(format!("first of {candidates} by log end and preference"));
    }
    parts.join("; ")
}

/// What was decided if it was no activation.
fn besides(record: &Value) -> Option<String> {
    let besides = &record["besides"];
    if let Some(message) = besides["refused_move"]["refusal"]["message"].as_str() {
        return Some(message.to_owned());
    }
    let verdict = besides["reseed"].get("verdict")?;
    let member = besides["reseed"]["facts"]["member"].as_str().unwrap_or_default();
    let (name, details) = variant(verdict);
    let (act, _) = variant(details);
    Some(match details.as_str() {
        Some(why) if name == "blocked" => format!("{member}: {why}"),
        _ => format!("{member}: {act}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names() -> Names {
        let of = [("id-m1", "m1"), ("id-m2", "m2"), ("id-db", "DB1")];
        Names {
            of: of.map(|(id, name)| (id.to_owned(), name.to_owned())).into(),
            comments: [("op".to_owned(), "new disk".to_owned())].into(),
        }
    }

    fn entry(record: Value) -> Value {
        let mut all = json!({
            "database": "id-db",
            "epoch": { "recovery": 0, "counter": 4 },
            "attempt": 1,
            "reason": "death_certified",
            "operation": null,
            "verdict": "lossless",
            "candidates": [
                { "copy": "c2", "member": "id-m2", "excluded": [] },
                { "copy": "c1", "member": "id-m1", "excluded": ["no_contact", { "faulty": "x" }] },
            ],
            "chosen": "c2",
            "required_end": {
                "epoch": { "recovery": 0, "counter": 3 },
                "position": { "generation": 1, "offset": 96 },
            },
        });
        all.as_object_mut().unwrap().extend(record.as_object().unwrap().clone());
        json!({ "index": 7, "unix_ms": 1_000, "record": all })
    }

    #[test]
    fn a_failover_names_who_is_active_and_why_the_others_are_not() {
        let expected = DecisionLine {
            index: 7,
            unix_ms: 1_000,
            database: "DB1".into(),
            epoch: "0.4".into(),
            reason: "death certified".into(),
            chosen: "m2".into(),
            verdict: "lossless",
            why: "m1: no contact, faulty".into(),
            attempt: "1".into(),
            log_end: "0.3/1:96".into(),
            operation: String::new(),
        };
        assert_eq!(line(&names(), &entry(json!({}))), expected);
    }

    #[test]
    fn a_switchover_tells_its_comment() {
        let record = json!({ "reason": { "switchover": { "to": "id-m2" } }, "operation": "op" });
        let line = line(&names(), &entry(record));
        assert_eq!((line.reason.as_str(), &line.why[..10]), ("switchover to m2", "\"new disk\""));
    }

    #[test]
    fn a_database_that_stays_closed_says_whose_log_is_missing() {
        let loss = json!({
            "epoch": { "recovery": 0, "counter": 3 }, "rule_version": 1, "unreached": ["c1"],
        });
        let record = json!({ "chosen": null, "verdict": { "possible_loss": loss } });
        let line = line(&names(), &entry(record));
        assert_eq!((line.chosen.as_str(), line.verdict), ("-", "closed"));
        let why = "not reached: m1, which may hold more of epoch 0.3";
        assert!(line.why.starts_with(why), "{line:?}");
    }

    #[test]
    fn a_record_of_another_version_is_still_listed() {
        let line = line(&Names::default(), &Value::String("?".into()));
        assert_eq!((line.index, line.verdict), (0, "closed"));
    }

    #[test]
    fn what_activates_nothing_says_what_it_was() {
        let refusal = json!({ "message": "copy_queue is 12 logs" });
        let refused = json!({ "refused_move": { "refusal": refusal } });
        let entry = |besides| json!({ "record": { "chosen": null, "besides": besides } });
        let shown = line(&names(), &entry(refused));
        assert_eq!((shown.verdict, &shown.why[..]), ("refused", "copy_queue is 12 logs"));
        let reseed =
            |verdict| json!({ "reseed": { "verdict": verdict, "facts": { "member": "m3" } } });
        let acts = line(&names(), &entry(reseed(json!({ "act": "resume" }))));
        assert_eq!((acts.verdict, &acts.why[..]), ("reseed", "m3: resume"));
        let blocked = line(&names(), &entry(reseed(json!({ "blocked": "it is off" }))));
        assert_eq!((blocked.verdict, &blocked.why[..]), ("blocked", "m3: it is off"));
    }
}

//! A decision record as one line for people.
//!
//! Records are JSON of the deciding member's version. Whatever is not as expected is left out of
//! the line, so that records of other versions can be listed too.

use std::collections::BTreeMap;
use std::fmt::Display;

use keelson_types::{Epoch, LogEnd};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::output::{Column, column, wide};
use crate::text;

pub(super) const COLUMNS: &[Column] = &[
    column("id"),
    column("time"),
    column("database"),
    column("epoch"),
    column("reason"),
    column("chosen"),
    column("verdict"),
    column("why"),
    wide("attempt"),
    wide("log end"),
    wide("operation"),
];

/// Names of members and databases, and comments of operations, by id.
#[derive(Default)]
pub(super) struct Names {
    pub(super) of: BTreeMap<String, String>,
    pub(super) comments: BTreeMap<String, String>,
}

impl Names {
    /// The name, or as much of the id as tells it from others.
    fn name(&self, id: &Value) -> String {
        let id = id.as_str().unwrap_or_default();
        self.of.get(id).cloned().unwrap_or_else(|| id.chars().take(8).collect())
    }
}

pub(super) fn row(names: &Names, entry: &Value) -> Vec<String> {
    let record = &entry["record"];
    let holder = |copy: &Value| {
        let candidate = list(&record["candidates"]).find(|candidate| candidate["copy"] == *copy);
        candidate.map_or_else(|| names.name(copy), |candidate| names.name(&candidate["member"]))
    };
    let chosen = match &record["chosen"] {
        Value::Null => "-".to_owned(),
        copy => holder(copy),
    };
    vec![
        entry["index"].to_string(),
        text::time(entry["unix_ms"].as_u64().unwrap_or(0)),
        names.name(&record["database"]),
        shown::<Epoch>(&record["epoch"]),
        reason(names, &record["reason"], holder),
        chosen,
        verdict(record).to_owned(),
        why(names, record, holder),
        record["attempt"].to_string(),
        shown::<LogEnd>(&record["required_end"]),
        record["operation"].as_str().unwrap_or_default().to_owned(),
    ]
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
    match (&record["chosen"], record["verdict"].as_str()) {
        (Value::Null, _) => "closed",
        _ if record["loss"].is_object() => "with loss",
        (_, Some("lossless")) => "lossless",
        _ => "possible loss",
    }
}

/// What was said by whoever asked, what speaks against the lossless proof, and against each copy.
fn why(names: &Names, record: &Value, holder: impl Fn(&Value) -> String) -> String {
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
        let row = row(&names(), &entry(json!({})));
        let expected = [
            "7",
            "1970-01-01T00:00:01Z",
            "DB1",
            "0.4",
            "death certified",
            "m2",
            "lossless",
            "m1: no contact, faulty",
            "1",
            "0.3/1:96",
            "",
        ];
        assert_eq!(row, expected);
        assert_eq!(row.len(), COLUMNS.len());
    }

    #[test]
    fn a_switchover_tells_its_comment() {
        let record = json!({ "reason": { "switchover": { "to": "id-m2" } }, "operation": "op" });
        let row = row(&names(), &entry(record));
        assert_eq!((row[4].as_str(), &row[7][..10]), ("switchover to m2", "\"new disk\""));
    }

    #[test]
    fn a_database_that_stays_closed_says_whose_log_is_missing() {
        let loss = json!({
            "epoch": { "recovery": 0, "counter": 3 }, "rule_version": 1, "unreached": ["c1"],
        });
        let record = json!({ "chosen": null, "verdict": { "possible_loss": loss } });
        let row = row(&names(), &entry(record));
        assert_eq!((row[5].as_str(), row[6].as_str()), ("-", "closed"));
        assert!(row[7].starts_with("not reached: m1, which may hold more of epoch 0.3"), "{row:?}");
    }

    #[test]
    fn a_record_of_another_version_is_still_listed() {
        let row = row(&Names::default(), &Value::String("?".into()));
        assert_eq!(row.len(), COLUMNS.len());
    }
}

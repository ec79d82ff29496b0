//! A line of the audit: who did or tried what, from where, and how it ended; and how repeats are
//! folded, so that nobody fills a disk by being refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Characters of the arguments that are kept.
pub const AUDIT_ARGUMENTS_CHARS_MAX: usize = 400;

/// How long repeats of one thing are one line.
const WINDOW_MS: u64 = 60_000;

/// Calls of one caller that are told apart in a window.
const CALLS_PER_CALLER: usize = 8;

/// Callers with their calls that are told apart in a window: what one process writes of refusals
/// is at most twice as many lines a minute.
const KEYS: usize = 64;

/// Stands for what is not told apart any more.
const OTHERS: &str = "others";

/// What kind of thing somebody did.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditKind {
    /// Asked for a change.
    #[default]
    Change,
    /// Made a call that the role does not allow, or that nobody vouched for.
    Refused,
    /// Logged in to the console, or tried to.
    Login,
}

/// One line. Format version 1: fields and kinds may be added, none change their meaning.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditLine {
    /// When, in Unix milliseconds; of several the last.
    pub unix_millis: u64,
    /// What kind of thing.
    pub kind: AuditKind,
    /// Name in the certificate or of the token; empty if nobody vouched for the caller.
    pub by: String,
    /// Role of the caller.
    pub role: String,
    /// The caller showed a token, not a certificate.
    pub by_token: bool,
    /// Address that the caller connected from; of several the first.
    pub from: String,
    /// The call.
    pub call: String,
    /// The beginning of its arguments.
    pub arguments: String,
    /// `done`, or the code of the refusal.
    pub outcome: String,
    /// How often, in the minute before.
    pub times: u64,
}

impl AuditLine {
    /// Shortens the arguments to what is kept.
    #[must_use]
    pub fn with_arguments(self, text: &str) -> Self {
        Self { arguments: text.chars().take(AUDIT_ARGUMENTS_CHARS_MAX).collect(), ..self }
    }

    /// Who it is, as far as is known: strangers are told apart by where they come from, as calls.
    fn key(&self) -> Key {
        let caller = format!("{} {} {}", self.by, self.role, self.by_token);
        let host = self.from.rsplit_once(':').map_or("", |(host, _)| host);
        let host = if self.by.is_empty() { host } else { "" };
        (caller, format!("{:?} {} {} {host}", self.kind, self.call, self.outcome))
    }
}

/// Caller and call.
type Key = (String, String);

/// What was repeated since the line that went out.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Folded {
    since_ms: u64,
    line: AuditLine,
}

/// Folds lines that repeat: the first of a minute goes out at once, the rest of the minute as one
/// with their number. Few callers and few calls of each are told apart; the rest is one more line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuditRepeats {
    folded: BTreeMap<Key, Folded>,
}

impl AuditRepeats {
    /// Takes a line; gives back what is to be written at once.
    pub fn note(&mut self, line: AuditLine) -> Option<AuditLine> {
        let line = AuditLine { times: 1, ..line };
        let (key, line) = self.place(line);
        let since_ms = line.unix_millis;
        if let Some(folded) = self.folded.get_mut(&key) {
            folded.line.times += 1;
            folded.line.unix_millis = since_ms;
            return None;
        }
        let rest = AuditLine { times: 0, ..line.clone() };
        self.folded.insert(key, Folded { since_ms, line: rest });
        Some(line)
    }

    /// What was repeated in minutes that are over by `now_ms`.
    pub fn due(&mut self, now_ms: u64) -> Vec<AuditLine> {
        // A clock that was put back ends every minute.
        let is_over = |folded: &Folded| now_ms.abs_diff(folded.since_ms) >= WINDOW_MS;
        let over = self.folded.extract_if(.., |_, folded| is_over(folded));
        over.map(|(_, folded)| folded.line).filter(|line| line.times > 0).collect()
    }

    /// Where a line is counted: under its own name while there is room for more names.
    fn place(&self, line: AuditLine) -> (Key, AuditLine) {
        let (caller, call) = line.key();
        let own = (caller.clone(), call);
        if self.folded.contains_key(&own) {
            return (own, line);
        }
        let of_caller = self.folded.keys().filter(|(other, _)| *other == caller).count();
        if of_caller < CALLS_PER_CALLER && self.folded.len() < KEYS {
            return (own, line);
        }
        let line = AuditLine { call: OTHERS.into(), arguments: String::new(), ..line };
        let shared = (caller, OTHERS.to_owned());
        if self.folded.contains_key(&shared) || self.folded.len() < KEYS {
            return (shared, line);
        }
        let by = AuditLine { by: OTHERS.into(), role: String::new(), from: String::new(), ..line };
        ((OTHERS.into(), OTHERS.into()), by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(by: &str, call: &str, unix_millis: u64) -> AuditLine {
        AuditLine {
            unix_millis,
            kind: AuditKind::Refused,
            by: by.into(),
            call: call.into(),
            outcome: "forbidden".into(),
            ..AuditLine::default()
        }
    }

    #[test]
    fn repeats_of_a_minute_are_one_line_with_their_number() {
        let mut repeats = AuditRepeats::default();
        let first = repeats.note(refused("ann", "Kv.Put", 1_000)).unwrap();
        assert_eq!((first.times, first.unix_millis), (1, 1_000));
        for at in 1..=500 {
            assert_eq!(repeats.note(refused("ann", "Kv.Put", 1_000 + at)), None);
        }
        assert!(repeats.note(refused("ann", "Kv.Get", 1_600)).is_some(), "another call");
        assert_eq!(repeats.due(60_999), []);
        let due = repeats.due(61_000);
        assert_eq!(due, [AuditLine { times: 500, ..refused("ann", "Kv.Put", 1_500) }]);
        assert_eq!(repeats.due(70_000), [], "what came once was told");
        assert!(repeats.note(refused("ann", "Kv.Put", 70_001)).is_some(), "a new minute");
    }

    #[test]
    fn whoever_tries_everything_hides_nobody_else_and_gets_few_lines() {
        let mut repeats = AuditRepeats::default();
        let calls = |by: &'static str| (0..1_000).map(move |n| refused(by, &format!("c{n}"), n));
        let at_once = calls("eve").filter_map(|line| repeats.note(line)).count();
        assert_eq!(at_once, CALLS_PER_CALLER + 1);
        assert!(repeats.note(refused("ann", "Kv.Put", 1_000)).is_some());
        let due = repeats.due(100_000);
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].call.as_str(), due[0].times), (OTHERS, 991));
    }

    #[test]
    fn many_callers_are_bounded_too() {
        let mut repeats = AuditRepeats::default();
        let lines = (0..10_000).map(|n| refused(&format!("caller{n}"), "Kv.Put", n));
        assert_eq!(lines.filter_map(|line| repeats.note(line)).count(), KEYS + 1);
        let due = repeats.due(100_000);
        assert_eq!((due.len(), due[0].by.as_str()), (1, OTHERS));
        assert_eq!(due[0].times, 10_000 - KEYS as u64 - 1);
    }

    #[test]
    fn strangers_are_told_apart_by_where_they_come_from() {
        let mut repeats = AuditRepeats::default();
        let from = |from: &str| AuditLine { from: from.into(), ..refused("", "Kv.Get", 5) };
        assert!(repeats.note(from("10.0.0.1:4000")).is_some());
        assert!(repeats.note(from("10.0.0.1:4001")).is_none(), "the port is another one each time");
        assert!(repeats.note(from("10.0.0.2:4000")).is_some());
    }
}

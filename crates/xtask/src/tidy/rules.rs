//! The table of rules that look at one file at a time.
//!
//! Every rule has a test in `tests.rs` that sees it fire. Words that a rule forbids are written in
//! two halves here, so that the rule does not find itself.

use std::fmt;

use super::source::SourceFile;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    /// Asks for a second look; the gate stays open.
    Warning,
    /// Fails the gate.
    Error,
}

/// One place that breaks one rule.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) rule: &'static str,
    pub(super) path: String,
    pub(super) line: usize,
    pub(super) text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { severity, rule, path, line, text } = self;
        let severity = if *severity == Severity::Error { "error" } else { "warning" };
        write!(f, "{path}:{line}: {severity}[{rule}]: {text}")
    }
}

/// Which files a rule reads.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    Rust,
    AllText,
}

impl Scope {
    pub(super) fn includes(self, file: &SourceFile) -> bool {
        match self {
            Scope::Rust => file.is_rust(),
            Scope::AllText => true,
        }
    }
}

/// Receives severity, line (from 1) and text of a finding.
pub(super) type Report<'a> = &'a mut dyn FnMut(Severity, usize, String);

/// One rule.
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) applies_to: Scope,
    pub(super) check: fn(&SourceFile, Report<'_>),
}

pub(super) const RULES: &[Rule] = &[
    Rule { name: "module-doc", applies_to: Scope::Rust, check: module_doc },
    Rule { name: "file-length", applies_to: Scope::Rust, check: file_length },
    Rule { name: "test-length", applies_to: Scope::Rust, check: inline_test_length },
    Rule { name: "line-length", applies_to: Scope::Rust, check: line_length },
    Rule { name: "forbidden-word", applies_to: Scope::Rust, check: forbidden_words },
    Rule { name: "lone-matches", applies_to: Scope::Rust, check: lone_matches },
    Rule { name: "sleep-in-test", applies_to: Scope::Rust, check: sleep_in_test },
    Rule { name: "mod-rs", applies_to: Scope::Rust, check: mod_rs },
    Rule { name: "machine-path", applies_to: Scope::AllText, check: machine_path },
];

const FILE_LINES_SOFT: usize = 600;
const FILE_LINES_HARD: usize = 1_000;
const INLINE_TEST_LINES_SOFT: usize = 200;
const INLINE_TEST_LINES_HARD: usize = 400;
/// Characters of a line, as rustfmt is told too.
pub(super) const LINE_CHARS_MAX: usize = 100;

/// Marks of unfinished work. Pure words need a border on both sides, so `XXXX` in a template is
/// free.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("FIX", "ME"), "finish it or write an issue"),
    (concat!("XX", "X"), "finish it or write an issue"),
    (concat!("HA", "CK"), "say what it does and why"),
    (concat!("to", "do!("), "finish it"),
    (concat!("unimple", "mented!("), "finish it"),
    (concat!("db", "g!("), "trace it or remove it"),
    (concat!("#[ign", "ore"), "a test that nobody runs protects nothing"),
];

/// Folders of the machines this was written on.
const MACHINE_PATHS: &[&str] = &[concat!("/ro", "ot/"), concat!("/wo", "rk/")];

fn module_doc(file: &SourceFile, report: Report<'_>) {
    let first = file.lines.first().map(String::as_str).unwrap_or_default();
    if !first.starts_with("//! ") {
        report(Severity::Error, 1, "the first line says what the module decides or owns".into());
    } else if first == concat!("//! Place", "holder.") {
        report(Severity::Error, 1, "an empty module is not finished".into());
    }
}

fn file_length(file: &SourceFile, report: Report<'_>) {
    let lines = match file.is_test_file() {
        true => file.lines.len(),
        false => file.is_test.iter().filter(|is_test| !**is_test).count(),
    };
    let text = format!("{lines} lines: split by what it decides or owns");
    if lines > FILE_LINES_HARD {
        report(Severity::Error, 1, text);
    } else if lines > FILE_LINES_SOFT {
        report(Severity::Warning, 1, text);
    }
}

fn inline_test_length(file: &SourceFile, report: Report<'_>) {
    if file.is_test_file() {
        return;
    }
    let lines = file.is_test.iter().filter(|is_test| **is_test).count();
    let text = format!("{lines} lines of inline tests: move them to a file tests.rs");
    if lines > INLINE_TEST_LINES_HARD {
        report(Severity::Error, 1, text);
    } else if lines > INLINE_TEST_LINES_SOFT {
        report(Severity::Warning, 1, text);
    }
}

/// rustfmt keeps code within the limit, but not comments and long strings.
fn line_length(file: &SourceFile, report: Report<'_>) {
    for (number, line, _) in file.numbered() {
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX {
            report(
                Severity::Error,
                number,
                format!("{chars} characters, {LINE_CHARS_MAX} at most"),
            );
        }
    }
}

fn forbidden_words(file: &SourceFile, report: Report<'_>) {
    for (number, line, _) in file.numbered() {
        for (word, advice) in FORBIDDEN {
            if contains_word(line, word) {
                report(Severity::Error, number, format!("'{word}': {advice}"));
            }
        }
    }
}

/// A `matches!` whose value nobody uses is a check that cannot fail, and no compiler tells.
fn lone_matches(file: &SourceFile, report: Report<'_>) {
    let mut previous = ";";
    for (number, line, _) in file.numbered() {
        let line = line.trim();
        let starts_statement = previous.ends_with([';', '{', '}', ']']);
        if line.starts_with("matches!(") && starts_statement && ends_with_semicolon(file, number) {
            report(Severity::Error, number, "nobody uses this value: assert it".into());
        }
        if !line.is_empty() && !line.starts_with("//") {
            previous = line;
        }
    }
}

/// Whether the parentheses opened on line `number` close before a semicolon.
fn ends_with_semicolon(file: &SourceFile, number: usize) -> bool {
    let mut depth = 0_usize;
    for line in &file.lines[number - 1..] {
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match c {
                '(' => depth += 1,
                ')' if depth <= 1 => return chars.next() == Some(';'),
                ')' => depth -= 1,
                _ => {}
            }
        }
    }
    false
}

fn sleep_in_test(file: &SourceFile, report: Report<'_>) {
    let call = concat!("sle", "ep");
    for (number, line, is_test) in file.numbered() {
        let code = line.trim_start();
        let names = ["thread::", "time::"].iter().any(|module| {
            let path = format!("{module}{call}");
            line.contains(&path)
        });
        let calls = contains_word(line, &format!("{call}(")) && !line.contains("fn ");
        if is_test && !code.starts_with("//") && (names || calls) {
            let advice = "wait for a condition with a deadline, or use simulated time";
            report(Severity::Error, number, advice.into());
        }
    }
}

fn mod_rs(file: &SourceFile, report: Report<'_>) {
    if file.path.ends_with("/mod.rs") {
        report(Severity::Error, 1, "name the file after its module: x.rs beside x/".into());
    }
}

fn machine_path(file: &SourceFile, report: Report<'_>) {
    for (number, line, _) in file.numbered() {
        for path in MACHINE_PATHS {
            // Only at the start of a path: `{dir}/work/` or an address is somebody else's folder.
            let starts = line.match_indices(path).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|c| c.is_whitespace() || "\"'`(=:<[,".contains(c))
            });
            if starts {
                report(Severity::Error, number, format!("'{path}' exists on one machine only"));
            }
        }
    }
}

/// Whether `word` occurs with no letter, digit or underscore directly before it, nor after a bare
/// word, and, for a call, no dot before it.
fn contains_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let bare = word.ends_with(part_of_name);
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let clear_before = before.is_none_or(|c| !part_of_name(c) && (bare || c != '.'));
        clear_before && !(bare && after.is_some_and(part_of_name))
    })
}

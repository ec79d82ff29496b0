//! Looks through the logs of members for what should not be there.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A line that a person would have to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The file.
    pub file: PathBuf,
    /// Number of the line, from 1.
    pub number: usize,
    /// The line.
    pub text: String,
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.number, self.text)
    }
}

/// Lines of level ERROR and panics that contain none of `expected`.
///
/// # Errors
/// The file cannot be read.
pub fn unexpected_errors(file: &Path, expected: &[&str]) -> Result<Vec<LogLine>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().enumerate().filter(|(_, line)| {
        is_alarming(line) && !expected.iter().any(|expected| line.contains(expected))
    });
    Ok(lines
        .map(|(index, line)| LogLine {
            file: file.to_owned(),
            number: index + 1,
            text: line.to_owned(),
        })
        .collect())
}

/// The last `count` lines of a log; nothing if it cannot be read.
pub(crate) fn last_lines(file: &Path, count: usize) -> Vec<String> {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

fn is_alarming(line: &str) -> bool {
    // The level stands behind the time.
    let level = line.split_whitespace().nth(1).unwrap_or_default();
    level == "ERROR" || line.contains("panicked at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_those_at_the_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("log");
        assert!(last_lines(&file, 2).is_empty());
        std::fs::write(&file, "one\ntwo\nthree\n").expect("written");
        assert_eq!(last_lines(&file, 2), ["two", "three"]);
        assert_eq!(last_lines(&file, 9).len(), 3);
    }

    #[test]
    fn errors_and_panics_are_alarming_and_words_in_messages_are_not() {
        assert!(is_alarming("2026-11-22T17:00:00.1Z ERROR keelson_log: sync failed"));
        assert!(is_alarming("thread 'main' panicked at src/x.rs:1:2:"));
        assert!(!is_alarming("2026-11-22T17:00:00.1Z  INFO keelson_log: no ERROR here"));
    }
}

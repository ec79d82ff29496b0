//! Checks that the commands which the README and the pages of `deploy/` show exist.
//!
//! Looks at the lines of fenced code blocks and at code within sentences. `cargo xtask X` must be a
//! subcommand. A line that starts with `keelson` is given to the built binary with `--help` at its
//! end, which parses the whole line and does nothing: a renamed command or flag fails the gate.
//! Without a built binary these lines are counted and named as unchecked, since the gate itself
//! builds no binary; `cargo xtask test` does.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::subcommand_names;
use crate::workspace::Workspace;

/// The pages whose commands are checked.
const PAGES: &[&str] =
    &["README.md", "deploy/README.md", "deploy/OPERATIONS.md", "deploy/COMMANDS.md"];

/// Reads the pages and fails with one line per command that does not exist.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut found = Vec::new();
    for page in PAGES {
        let text = std::fs::read_to_string(workspace.root.join(page)).context(*page)?;
        found.extend(commands(&text));
    }
    let binary = workspace.keelson_binary("debug")?;
    let commands = found;
    let mut problems = Vec::new();
    let mut unchecked = 0;
    for command in &commands {
        match command.first().map(String::as_str) {
            Some("cargo") => problems.extend(xtask_problem(command)),
            Some(_) if binary.is_file() => problems.extend(keelson_problem(&binary, command)?),
            _ => unchecked += 1,
        }
    }
    for problem in &problems {
        eprintln!("readme: {problem}");
    }
    if !problems.is_empty() {
        bail!("{} commands of {} do not work", problems.len(), PAGES.join(", "));
    }
    if unchecked > 0 {
        println!("readme: {unchecked} keelson commands unchecked, as no binary is built");
    }
    println!("readme: {} commands exist", commands.len() - unchecked);
    Ok(())
}

/// The `cargo xtask` and `keelson` commands in the fenced blocks of a page, as words.
fn commands(page: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut fenced = false;
    for line in page.lines() {
        let line = line.trim();
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            let words = words(line.strip_prefix("$ ").unwrap_or(line));
            commands.extend(is_ours(&words).then_some(words));
        } else {
            // In a sentence, every second part between backquotes is code; bare names are no
            // commands.
            let spans = line.split('`').skip(1).step_by(2).filter(|span| span.contains(' '));
            commands.extend(spans.map(words).filter(|words| is_ours(words)));
        }
    }
    commands
}

/// Whether the words start `cargo xtask` or `keelson`, from whatever folder.
fn is_ours(words: &[String]) -> bool {
    match words.first().and_then(|word| word.rsplit('/').next()) {
        Some("keelson") => true,
        Some("cargo") => words.get(1).is_some_and(|word| word == "xtask"),
        _ => false,
    }
}

/// Splits a shell line at blanks outside quotes, up to a comment, a pipe, a redirection or `&`.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | '&' | ';') => break,
            (None, '#') if word.is_none() => break,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn xtask_problem(command: &[String]) -> Option<String> {
    let name = command.get(2).map(String::as_str).unwrap_or_default();
    let known = subcommand_names().any(|candidate| candidate == name);
    (!known).then(|| format!("no subcommand '{name}' in '{}'", command.join(" ")))
}

fn keelson_problem(binary: &Path, command: &[String]) -> Result<Option<String>> {
    let output = Command::new(binary)
        .args(&command[1..])
        .arg("--help")
        .output()
        .with_context(|| format!("start {}", binary.display()))?;
    if output.status.success() {
        return Ok(None);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("no message").to_string();
    Ok(Some(format!("'{}': {said}", command.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(page: &str) -> Vec<String> {
        commands(page).into_iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn only_our_commands_in_code_are_taken() {
        let page = "keelson outside, `keelson`, `keelson health`keelson is no code`ls x`\n```sh\n\
                    $ keelson kv put 'a b' x | tee y\ncargo build\n\
                    cargo xtask test # all\nls\ntarget/debug/keelson dev &\n```\nkeelson after\n";
        assert_eq!(
            joined(page),
            [
                "keelson health",
                "keelson kv put a b x",
                "cargo xtask test",
                "target/debug/keelson dev"
            ]
        );
        assert_eq!(commands(page)[1].len(), 5, "a quoted argument is one word");
    }

    #[test]
    fn unknown_subcommand_is_a_problem() {
        assert_eq!(xtask_problem(&words("cargo xtask test")), None);
        assert!(xtask_problem(&words("cargo xtask tests")).is_some());
        assert!(xtask_problem(&words("cargo xtask")).is_some());
    }

    #[test]
    fn command_that_the_binary_refuses_is_a_problem() {
        let ok = keelson_problem(Path::new("true"), &words("keelson status")).unwrap();
        assert_eq!(ok, None);
        let refused = keelson_problem(Path::new("false"), &words("keelson status")).unwrap();
        assert_eq!(refused.as_deref(), Some("'keelson status': no message"));
    }
}

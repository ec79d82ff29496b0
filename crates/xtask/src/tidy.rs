//! `cargo xtask tidy`: the house rules that neither rustfmt, rustc nor clippy checks.
//!
//! Rules for one file are a table in `tidy/rules.rs`; rules for the tree as a whole are here. Looks
//! at the files that git knows or would add, so build output never counts. A warning asks for a
//! second look; an error fails the gate. There is no list of exceptions: a rule that needs one is a
//! wrong rule.

mod rules;
mod source;
#[cfg(test)]
mod tests;
mod wrap;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use rules::{Finding, RULES, Severity};
use source::SourceFile;

/// Crates whose decisions are explained on a page of their own.
const DESIGN_PAGES: &[&str] =
    &["log", "store", "copy-core", "cluster-core", "replication", "cluster", "net", "sim"];

/// Crates without clock, randomness, I/O and unordered collections.
const PURE_CRATES: &[&str] = &["types", "format", "env", "copy-core", "cluster-core"];

/// The clippy configuration of every pure crate. A member's file replaces the root's, so it repeats
/// it.
const PURE_CLIPPY: &str = include_str!("../data/pure-clippy.toml");

/// Endings of files that are read as text.
const TEXT_ENDINGS: &[&str] =
    &["rs", "toml", "md", "proto", "sh", "yml", "yaml", "json", "service", "txt"];

/// Reads the tree, prints every finding, and fails if one of them is an error.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let files = read_tree(&workspace.root)?;
    let mut findings = Vec::new();
    for file in &files {
        check_file(file, &mut findings);
    }
    check_tree(&files, &mut findings);
    for finding in &findings {
        eprintln!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if errors > 0 {
        bail!("{errors} findings in {} files", files.len());
    }
    println!("tidy: {} files, {} warnings", files.len(), findings.len());
    Ok(())
}

/// Copies the shared clippy configuration into the pure crates.
pub(crate) fn write_pure_clippy(workspace: &Workspace) -> Result<()> {
    for name in PURE_CRATES {
        let path = workspace.root.join(pure_clippy_path(name));
        std::fs::write(&path, PURE_CLIPPY).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Wraps the long comments of every Rust file below one of `folders`, or of all files if none is
/// named.
pub(crate) fn wrap_comments(workspace: &Workspace, folders: &[String]) -> Result<()> {
    for file in read_tree(&workspace.root)? {
        let below =
            |folder: &String| file.path.starts_with(&format!("{}/", folder.trim_end_matches('/')));
        if !file.is_rust() || !(folders.is_empty() || folders.iter().any(below)) {
            continue;
        }
        let path = workspace.root.join(&file.path);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", file.path))?;
        let wrapped = wrap::wrap_comments(&text);
        if wrapped != text {
            std::fs::write(&path, wrapped).with_context(|| format!("write {}", file.path))?;
            println!("fix: wrapped comments of {}", file.path);
        }
    }
    Ok(())
}

fn check_file(file: &SourceFile, findings: &mut Vec<Finding>) {
    for rule in RULES {
        if rule.applies_to.includes(file) {
            (rule.check)(file, &mut |severity, line, text| {
                let path = file.path.clone();
                findings.push(Finding { severity, rule: rule.name, path, line, text });
            });
        }
    }
}

/// Rules about which files exist and agree with each other.
fn check_tree(files: &[SourceFile], findings: &mut Vec<Finding>) {
    let find = |path: &str| files.iter().find(|file| file.path == path);
    let mut error = |rule, path: String, text: &str| {
        let severity = Severity::Error;
        findings.push(Finding { severity, rule, path, line: 1, text: text.to_string() });
    };
    for name in DESIGN_PAGES {
        let path = format!("crates/{name}/DESIGN.md");
        if find(&path).is_none_or(|page| page.lines.len() < 5) {
            error("design-page", path, "this crate explains its design here");
        }
    }
    let root = find(".clippy.toml").map(|file| file.lines.clone()).unwrap_or_default();
    for name in PURE_CRATES {
        let path = pure_clippy_path(name);
        let copy = find(&path).map(|file| file.lines.join("\n") + "\n").unwrap_or_default();
        if copy != PURE_CLIPPY {
            error("pure-clippy", path, "differs from the shared list: run 'cargo xtask fix'");
        }
    }
    for line in root.iter().filter(|line| !line.is_empty()) {
        if !PURE_CLIPPY.lines().any(|shared| shared == line) {
            let path = "crates/xtask/data/pure-clippy.toml".to_string();
            error("pure-clippy", path, &format!("must repeat the root's '{line}'"));
        }
    }
}

fn pure_clippy_path(name: &str) -> String {
    format!("crates/{name}/clippy.toml")
}

/// The text files that git knows or would add, in path order.
fn read_tree(root: &Path) -> Result<Vec<SourceFile>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("start git, which tells tidy the files of the tree")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let listing = String::from_utf8(output.stdout).context("a path is not UTF-8")?;
    let mut paths: Vec<&str> = listing.split('\0').filter(|path| is_text(path)).collect();
    paths.sort_unstable();
    paths.dedup();
    let mut files = Vec::new();
    for path in paths {
        match std::fs::read_to_string(root.join(path)) {
            Ok(text) => files.push(SourceFile::new(path, &text)),
            // Deleted in the work tree and not yet in the index.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {path}")),
        }
    }
    Ok(files)
}

fn is_text(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.starts_with(".ci/")
        || name.rsplit_once('.').is_some_and(|(_, ending)| TEXT_ENDINGS.contains(&ending))
}

//! The list of complaints names the tests that answer them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Every `fn` below a directory.
fn functions(directory: &Path, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && path.file_name() != Some("target".as_ref()) {
            functions(&path, found)?;
        } else if path.extension() == Some("rs".as_ref()) {
            let text = std::fs::read_to_string(&path)?;
            let names = text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
            found.extend(names.map(str::to_owned));
        }
    }
    Ok(())
}

#[test]
fn every_test_that_the_pains_name_exists() -> Result<()> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("the tests have a parent")?;
    let mut found = BTreeSet::new();
    functions(&root.join("crates"), &mut found)?;
    functions(&root.join("tests"), &mut found)?;
    let text = std::fs::read_to_string(here.join("PAINS.md"))?;
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| C")).collect();
    for number in 1..=22 {
        let row = format!("| C{number} |");
        ensure!(rows.iter().any(|line| line.starts_with(&row)), "{row} is not there");
    }
    for row in rows {
        let tests = row.rsplit('|').nth(1).unwrap_or_default();
        let named: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        ensure!(!named.is_empty(), "no test in {row}");
        let gone: Vec<_> = named.into_iter().filter(|name| !found.contains(*name)).collect();
        ensure!(gone.is_empty(), "{gone:?} of {row}");
    }
    Ok(())
}

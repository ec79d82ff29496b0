//! Has systemd read the units of `deploy/`.
//!
//! systemd only warns of a key or value that it does not know and ignores the line, and that is how
//! a mistyped one would stay unnoticed. So every word that it has about one of our units fails the
//! gate, but for the keys that are newer than the systemd of this machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, find_program};

/// What reads units, of systemd.
pub(crate) const PROGRAM: &str = "systemd-analyze";

const UNITS: &[&str] = &["keelson.service", "keelson-witness.service"];

/// What the units start; it need not be installed where they are checked.
const STARTED: &str = "/usr/local/bin/keelson ";

/// Keys that an older systemd ignores without harm, and the version that has them.
const NEWER_KEYS: &[(&str, u32)] = &[("RestartSteps", 254), ("RestartMaxDelaySec", 254)];

/// Fails with one line for each complaint, and where systemd is missing.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let program = find_program("true").context("there is no program true")?;
    let folder = workspace.root.join("target/units");
    std::fs::create_dir_all(&folder).context("make target/units")?;
    let mut problems = Vec::new();
    for unit in UNITS {
        let text = std::fs::read_to_string(workspace.root.join("deploy").join(unit));
        let text = text.with_context(|| format!("read deploy/{unit}"))?;
        let copy = folder.join(unit);
        std::fs::write(&copy, text.replace(STARTED, &format!("{} ", program.display())))?;
        problems.extend(problems_of(unit, &copy)?);
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    println!("units: systemd understands {}", UNITS.join(", "));
    Ok(())
}

/// What systemd says of one unit.
fn problems_of(unit: &str, file: &Path) -> Result<Vec<String>> {
    // The manual pages need not be installed either.
    let mut command = Command::new(PROGRAM);
    let output = command.args(["verify", "--man=no"]).arg(file).output();
    let output = output.context("start systemd-analyze")?;
    let said = String::from_utf8_lossy(&output.stderr);
    // It reads the units that ours depend on, too, and what it says of them is not about us.
    let ours = said.lines().filter(|line| line.contains(unit));
    let (newer, mut problems): (Vec<_>, Vec<_>) =
        ours.map(str::to_owned).partition(|line| newer_key(line).is_some());
    for (key, version) in newer.iter().filter_map(|line| newer_key(line)) {
        println!("NOT CHECKED: {key} of {unit}, which needs systemd {version}");
    }
    if !output.status.success() && problems.is_empty() {
        problems.push(format!("systemd-analyze verify of {unit}: {}: {said}", output.status));
    }
    Ok(problems)
}

/// The key that a line complains of, if it is just too new here.
fn newer_key(line: &str) -> Option<(&'static str, u32)> {
    let unknown = line.contains("Unknown key");
    let named = |key: &str| line.contains(&format!("'{key}'"));
    NEWER_KEYS.iter().copied().find(|(key, _)| unknown && named(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_are_too_new_are_let_through() {
        let line = |key: &str| format!("/x/keelson.service:50: Unknown key '{key}' in section, x");
        assert_eq!(newer_key(&line("RestartSteps")), Some(("RestartSteps", 254)));
        assert_eq!(newer_key(&line("RestartStep")), None);
        assert_eq!(newer_key("keelson.service:51: Failed to parse 'RestartSteps'"), None);
    }

    #[test]
    fn every_unit_starts_the_program_that_is_replaced() {
        for unit in UNITS {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(unit);
            let text = std::fs::read_to_string(path).unwrap();
            let starts = text.lines().filter(|line| line.starts_with("Exec"));
            assert!(starts.clone().count() > 0 && starts.clone().all(|l| l.contains(STARTED)));
        }
    }
}

//! `cargo xtask check`, the one read-only gate, the same at a desk and in CI; and `fix`, which
//! writes.
//!
//! All steps run even if one fails, so that one run tells everything; the gate passes only if all
//! did.

use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace::{Workspace, find_program, run as run_command, timed};
use crate::{dag, no_arguments, readme, tidy, units};

/// Seeds the simulator runs in the gate; campaigns with more are run apart.
const SIMULATION_SEEDS: &str = "20";

/// One step of the gate, cheap ones first.
struct Step {
    name: &'static str,
    run: fn(&Workspace) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step {
        name: "format",
        run: |workspace| run_command(&mut workspace.cargo(&["fmt", "--all", "--check"])),
    },
    Step { name: "tidy", run: tidy::run },
    Step { name: "dag", run: dag::run },
    Step { name: "clippy", run: clippy },
    Step { name: "docs", run: docs },
    Step { name: "simulation", run: simulation },
    Step { name: "readme", run: readme::run },
    Step { name: "deploy", run: deploy },
];

/// Runs the gate and prints each step, its time, and a closing line.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    no_arguments("check", args)?;
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    for (index, step) in STEPS.iter().enumerate() {
        println!("\n== check {}/{}: {}", index + 1, STEPS.len(), step.name);
        let (result, seconds) = timed(|| (step.run)(workspace));
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        if let Err(error) = result {
            eprintln!("{}: {error:#}", step.name);
            failed.push(step.name);
        }
        lines.push(format!("  {:<11} {verdict:<7} {seconds:>5} s", step.name));
    }
    println!("\n{}", lines.join("\n"));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    println!("check: all {} steps passed", STEPS.len());
    Ok(())
}

/// `cargo xtask fix [FOLDER...]`: the one command that rewrites sources.
///
/// With folders it only wraps the long comments below them, which leaves the work of others alone.
pub(crate) fn fix(workspace: &Workspace, folders: &[String]) -> Result<()> {
    if let Some(folder) = folders.iter().find(|folder| !workspace.root.join(folder).is_dir()) {
        bail!("no folder '{folder}' below the root");
    }
    tidy::wrap_comments(workspace, folders)?;
    if !folders.is_empty() {
        return Ok(());
    }
    tidy::write_pure_clippy(workspace)?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--fix"];
    let dirty = ["--allow-dirty", "--allow-staged"];
    run_command(workspace.cargo(&clippy).args(dirty))?;
    run_command(&mut workspace.cargo(&["fmt", "--all"]))
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let args = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run_command(&mut workspace.cargo(&args))
}

fn docs(workspace: &Workspace) -> Result<()> {
    let args = ["doc", "--workspace", "--no-deps", "--document-private-items"];
    run_command(workspace.cargo(&args).env("RUSTDOCFLAGS", "-D warnings"))
}

/// What operators install. Both are looked at even if the first one fails.
fn deploy(workspace: &Workspace) -> Result<()> {
    let (units, alerts) = (units::check(workspace), alert_rules(workspace));
    if let (Err(error), Err(_)) = (&units, &alerts) {
        eprintln!("deploy: {error:#}");
    }
    alerts.and(units)
}

/// The grammar and the tests of the alert rules; that their metrics exist is a test of `status`.
fn alert_rules(workspace: &Workspace) -> Result<()> {
    if find_program("promtool").is_none() {
        println!("NOT CHECKED: the alert rules, as promtool (Debian: prometheus) is not installed");
        return Ok(());
    }
    let folder = workspace.root.join("deploy/monitoring");
    for args in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        run_command(Command::new("promtool").args(args).current_dir(&folder))?;
    }
    Ok(())
}

/// Skipped, with a word, only while the simulator has no program.
fn simulation(workspace: &Workspace) -> Result<()> {
    if !workspace.root.join("crates/sim/src/main.rs").is_file() {
        println!("skipped: crates/sim has no program yet");
        return Ok(());
    }
    let mut command: Command = workspace.cargo(&["run", "--quiet", "-p", "keelson-sim", "--"]);
    run_command(command.args(["--seeds", SIMULATION_SEEDS]))
}

//! `cargo xtask check`, the one read-only gate, the same at a desk and in CI; and `fix`, which
//! writes.
//!
//! All steps run even if one fails, so that one run tells everything; the gate passes only if all
//! did. A step whose program is missing on this machine is not run, and the last line says so.

use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace::{Workspace, find_program, run as run_command, timed};
use crate::{dag, monitoring, no_arguments, readme, tidy, units};

/// Seeds the simulator runs in the gate; campaigns with more are run apart.
const SIMULATION_SEEDS: &str = "20";

/// One step of the gate, cheap ones first.
struct Step {
    name: &'static str,
    run: fn(&Workspace) -> Result<()>,
    /// A program that not every machine has, without which the step is not run.
    needs: Option<&'static str>,
}

impl Step {
    const fn new(name: &'static str, run: fn(&Workspace) -> Result<()>) -> Self {
        Self { name, run, needs: None }
    }

    /// The program that it lacks here.
    fn lacks(&self) -> Option<&'static str> {
        self.needs.filter(|program| find_program(program).is_none())
    }
}

const STEPS: &[Step] = &[
    Step::new("format", |workspace| {
        run_command(&mut workspace.cargo(&["fmt", "--all", "--check"]))
    }),
    Step::new("tidy", tidy::run),
    Step::new("dag", dag::run),
    Step::new("clippy", clippy),
    Step::new("docs", docs),
    Step::new("simulation", simulation),
    Step::new("readme", readme::run),
    Step { name: "monitoring", run: monitoring::run, needs: Some(monitoring::PROGRAM) },
    Step { name: "units", run: units::check, needs: Some(units::PROGRAM) },
];

/// Runs the gate and prints each step, its time, and a closing line.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    no_arguments("check", args)?;
    let mut lines = Vec::new();
    let (mut failed, mut unchecked) = (Vec::new(), Vec::new());
    for (index, step) in STEPS.iter().enumerate() {
        println!("\n== check {}/{}: {}", index + 1, STEPS.len(), step.name);
        if let Some(program) = step.lacks() {
            println!("NOT CHECKED: {program} is not installed");
            lines.push(format!("  {:<11} NOT CHECKED: no {program}", step.name));
            unchecked.push(step.name);
            continue;
        }
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
    if unchecked.is_empty() {
        println!("check: all {} steps passed", STEPS.len());
    } else {
        println!("check: the other steps passed, NOT CHECKED: {}", unchecked.join(", "));
    }
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

/// Skipped, with a word, only while the simulator has no program.
fn simulation(workspace: &Workspace) -> Result<()> {
    if !workspace.root.join("crates/sim/src/main.rs").is_file() {
        println!("skipped: crates/sim has no program yet");
        return Ok(());
    }
    let mut command: Command = workspace.cargo(&["run", "--quiet", "-p", "keelson-sim", "--"]);
    run_command(command.args(["--seeds", SIMULATION_SEEDS]))
}

//! `cargo xtask test`: set up, build, run every test, and close with one plain summary.
//!
//! Test targets and the binary `keelson` are built in one cargo call, because cargo resolves
//! features per call: two calls could build RocksDB twice. Black-box tests find the binary in
//! `KEELSON_BIN`. Tests run under nextest where it is installed, else under `cargo test`; doc tests
//! always under cargo.

use anyhow::{Context, Result, bail};

use crate::setup::{self, Trigger};
use crate::workspace::{Workspace, run as run_command, timed};

/// Packages whose tests start real members, and so need the binary.
const NEED_BINARY: &[&str] = &["keelson-tests", "keelson-testkit", "keelson-cli"];

/// Runs the tests; `args` go to the test runner as they are.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    setup::run(workspace, Trigger::OnTheWay)?;
    let selection = Selection::of(args);
    let binary = workspace.keelson_binary("debug")?;

    let (built, build_seconds) = timed(|| build(workspace, &selection));
    built.context("the build failed, so no test was run")?;
    if selection.needs_binary() && !binary.is_file() {
        bail!("the build left no binary at {}", binary.display());
    }

    let mut failed = Vec::new();
    let ((), test_seconds) = timed(|| {
        for (name, step) in steps(workspace, args, &selection) {
            let mut command = workspace.cargo(&as_strs(&step));
            if let Err(error) = run_command(command.env("KEELSON_BIN", &binary)) {
                failed.push(format!("{name}: {error}"));
            }
        }
    });

    println!("\ntest: built in {build_seconds} s, ran in {test_seconds} s");
    if !failed.is_empty() {
        bail!("FAILED\n  {}", failed.join("\n  "));
    }
    println!("test: all passed");
    Ok(())
}

/// Which packages the caller narrowed the run to; none means all.
struct Selection {
    packages: Vec<String>,
}

impl Selection {
    /// Reads `-p X`, `-pX`, `--package X` and `--package=X` before a bare `--`.
    fn of(args: &[String]) -> Selection {
        let mut packages = Vec::new();
        let mut args = args.iter().take_while(|arg| *arg != "--");
        while let Some(arg) = args.next() {
            if arg == "-p" || arg == "--package" {
                packages.extend(args.next().cloned());
            } else if let Some(name) = arg.strip_prefix("--package=") {
                packages.push(name.to_string());
            } else if let Some(name) = arg.strip_prefix("-p").filter(|_| !arg.starts_with("--")) {
                packages.push(name.to_string());
            }
        }
        Selection { packages }
    }

    fn is_all(&self) -> bool {
        self.packages.is_empty()
    }

    fn needs_binary(&self) -> bool {
        self.is_all() || self.packages.iter().any(|name| NEED_BINARY.contains(&name.as_str()))
    }
}

fn build(workspace: &Workspace, selection: &Selection) -> Result<()> {
    if !selection.needs_binary() {
        return Ok(());
    }
    // `--tests` also for a narrowed run: the features are then the same as those of a whole run.
    run_command(&mut workspace.cargo(&["build", "--workspace", "--tests", "--bin", "keelson"]))
}

/// The cargo calls that make up the run, each with its name in the summary.
fn steps(
    workspace: &Workspace,
    args: &[String],
    selection: &Selection,
) -> Vec<(&'static str, Vec<String>)> {
    let nextest = workspace.cargo(&["nextest", "--version"]).output();
    let nextest = nextest.is_ok_and(|output| output.status.success());
    plan_steps(nextest, workspace.ci, args, selection)
}

fn plan_steps(
    nextest: bool,
    ci: bool,
    args: &[String],
    selection: &Selection,
) -> Vec<(&'static str, Vec<String>)> {
    let mut first = if nextest { owned(&["nextest", "run"]) } else { owned(&["test"]) };
    if selection.is_all() {
        first.push("--workspace".into());
    }
    // In CI one run must tell all that is wrong; at a desk the first failure is what one waits for.
    if ci && !args.iter().any(|arg| arg == "--no-fail-fast") {
        first.push("--no-fail-fast".into());
    }
    first.extend_from_slice(args);
    let mut steps = vec![("tests", first)];
    if nextest && args.is_empty() {
        steps.push(("doc tests", owned(&["test", "--workspace", "--doc"])));
    }
    steps
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

fn as_strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(nextest: bool, ci: bool, args: &[&str]) -> Vec<String> {
        let args = owned(args);
        let steps = plan_steps(nextest, ci, &args, &Selection::of(&args));
        steps.into_iter().map(|(_, step)| step.join(" ")).collect()
    }

    #[test]
    fn whole_run_covers_the_workspace_and_its_doc_tests() {
        assert_eq!(planned(false, false, &[]), ["test --workspace"]);
        assert_eq!(
            planned(true, true, &[]),
            ["nextest run --workspace --no-fail-fast", "test --workspace --doc"]
        );
    }

    #[test]
    fn narrowed_run_names_only_its_packages() {
        let plan = planned(false, true, &["-p", "keelson-log", "--", "torn_tail"]);
        assert_eq!(plan, ["test --no-fail-fast -p keelson-log -- torn_tail"]);
    }

    #[test]
    fn binary_is_built_for_those_who_start_it() {
        let needs = |args: &[&str]| Selection::of(&owned(args)).needs_binary();
        assert!(needs(&[]));
        assert!(needs(&["--package=keelson-tests"]));
        assert!(needs(&["-pkeelson-log", "-p", "keelson-cli"]));
        assert!(!needs(&["-p", "keelson-log"]));
        assert!(!needs(&["--package=keelson-log"]));
        assert!(needs(&["--", "-p", "keelson-log"]), "after -- it belongs to the test binary");
    }
}

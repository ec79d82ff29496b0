//! `cargo xtask`: set-up, tests, demo and the read-only gate of the workspace.
//!
//! This file owns the list of subcommands and nothing else; each one lives in its own module. Exit
//! codes: 0 all is well, 1 a step failed or a rule is broken, 2 the command line was not
//! understood.

mod check;
mod compose;
mod console;
mod dag;
mod demo;
mod monitoring;
mod peers;
mod readme;
mod setup;
mod testing;
mod tidy;
mod units;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;

use workspace::Workspace;

/// A subcommand: its name, one line of help, and what runs it with the arguments after the name.
struct Subcommand {
    name: &'static str,
    help: &'static str,
    run: fn(&Workspace, &[String]) -> Result<()>,
}

const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        name: "setup",
        help: "install what the build needs and this machine lacks",
        run: |workspace, args| {
            no_arguments("setup", args)?;
            setup::run(workspace, setup::Trigger::Asked)
        },
    },
    Subcommand {
        name: "test",
        help: "set up, build, and run every test; arguments go to the test runner",
        run: testing::run,
    },
    Subcommand {
        name: "demo",
        help: "set up, build, and show a failover; --profile dev for the quick build",
        run: demo::run,
    },
    Subcommand {
        name: "chaos",
        help: "hit a cluster with random faults; --docker, --seed, --faults, --only",
        run: demo::chaos,
    },
    Subcommand {
        name: "profile",
        help: "what a put, a get and a batch cost, by kind of thread, as Markdown; [SECONDS]",
        run: demo::profile,
    },
    Subcommand {
        name: "peers",
        help: "install PostgreSQL, etcd and Redis, and measure Keelson beside them; --quick",
        run: peers::run,
    },
    Subcommand {
        name: "compose",
        help: "a cluster in containers: up, down, test, or arguments for Compose itself",
        run: compose::run,
    },
    Subcommand {
        name: "console-shots",
        help: "the web console in a real browser, with an image of each page; [FOLDER]",
        run: console::run,
    },
    Subcommand { name: "check", help: "the read-only gate, as in CI", run: check::run },
    Subcommand {
        name: "dag",
        help: "compare the crate graph with its table",
        run: |workspace, args| {
            no_arguments("dag", args)?;
            dag::run(workspace)
        },
    },
    Subcommand {
        name: "tidy",
        help: "check the house rules that no compiler knows",
        run: |workspace, args| {
            no_arguments("tidy", args)?;
            tidy::run(workspace)
        },
    },
    Subcommand {
        name: "fix",
        help: "format, wrap comments, apply clippy's fixes; [FOLDER...] wraps only there",
        run: check::fix,
    },
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    if matches!(name.as_str(), "" | "help" | "-h" | "--help") {
        print!("{}", usage());
        return if name.is_empty() { ExitCode::from(2) } else { ExitCode::SUCCESS };
    }
    let Some(subcommand) = SUBCOMMANDS.iter().find(|candidate| candidate.name == name) else {
        eprint!("cargo xtask: no subcommand '{name}'\n\n{}", usage());
        return ExitCode::from(2);
    };
    match Workspace::discover().and_then(|workspace| (subcommand.run)(&workspace, &rest)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The names that `cargo xtask` understands, for the check of the README.
fn subcommand_names() -> impl Iterator<Item = &'static str> {
    SUBCOMMANDS.iter().map(|subcommand| subcommand.name)
}

fn usage() -> String {
    let mut text = String::from("usage: cargo xtask SUBCOMMAND [ARGUMENTS]\n\n");
    for subcommand in SUBCOMMANDS {
        text.push_str(&format!("  {:<13} {}\n", subcommand.name, subcommand.help));
    }
    text
}

/// Refuses arguments, so that a misspelt option is not silently ignored.
fn no_arguments(name: &str, args: &[String]) -> Result<()> {
    match args.first() {
        None => Ok(()),
        Some(arg) => anyhow::bail!("'{name}' takes no arguments, found '{arg}'"),
    }
}

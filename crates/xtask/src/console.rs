//! `cargo xtask console-shots`: the web console in a real browser, which is installed if it is
//! missing. Not in the normal tests: a browser is large, and not everywhere to be had; CI says
//! loudly when it has none.
//!
//! What is looked at is the program `keelson-console-shots` of the crate `keelson-testkit`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Trigger};
use crate::workspace::{Workspace, find_program, run as run_command};

/// Programs, and the packages of Debian that bring them.
const BROWSER: &[(&str, &str)] =
    &[("chromium", "chromium"), ("chromedriver", "chromium-driver"), ("fc-list", "fontconfig")];

/// Takes images of every page into the directory that is named, else below the target directory.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let binary = workspace.keelson_binary("debug")?;
    let directory = match args {
        [] => binary.with_file_name("console-shots"),
        [directory] if !directory.starts_with('-') => PathBuf::from(directory),
        _ => bail!("console-shots takes at most a directory"),
    };
    setup::run(workspace, Trigger::OnTheWay)?;
    let missing = BROWSER.iter().filter(|(program, _)| find_program(program).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    let installed = setup::install_besides(workspace, &packages);
    let lacks = BROWSER.iter().any(|(program, _)| find_program(program).is_none());
    if let Err(error) = installed
        && lacks
    {
        let error = error.context("NOTHING WAS TESTED: there is no browser");
        if !workspace.ci {
            return Err(error);
        }
        // A machine for tests may reach no packages.
        println!("console-shots: ##########################################################");
        println!("console-shots: {error:#}");
        println!("console-shots: ##########################################################");
        return Ok(());
    }
    let build = ["build", "--workspace", "--bin", "keelson", "--bin", "keelson-console-shots"];
    run_command(&mut workspace.cargo(&build)).context("build the binary keelson")?;
    let shots = binary.with_file_name("keelson-console-shots");
    let mut command = std::process::Command::new(shots);
    run_command(command.arg(directory).env("KEELSON_BIN", &binary))
}

//! `cargo xtask chaos --docker`: the faults of `cargo xtask chaos` on a cluster of its own in
//! containers, which is removed afterwards.
//!
//! Faults, writers and judgement are those of the program `keelson-chaos`; here are the cluster and
//! what that program needs: a file that describes it, an administrator's identity, and the members'
//! names, which this machine does not know. It gets a hosts file of its own, in a mount namespace
//! of its own, so this needs root, as the cuts inside the members' networks do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{Stack, docker, engine, image};
use crate::workspace::{Workspace, find_program, run as run_command};
use crate::{demo, setup};

/// Networks of its own, so that it can run beside others.
const SETTINGS: &[(&str, &str)] = &[
    ("KEELSON_CLIENT_NET", "172.29.91"),
    ("KEELSON_CONSOLE_PORTS", "761"),
    ("KEELSON_REPLICATION_NET", "172.29.92"),
    ("KEELSON_MEMORY", "1g"),
];

const MEMBERS: [&str; 5] = ["m1", "m2", "m3", "m4", "w1"];

/// Images of the program and of its other version.
const IMAGES: [&str; 2] = ["keelson:chaos", "keelson:chaos-other"];

/// What cuts and shapes networks from outside.
const PROGRAMS: [&str; 5] = ["unshare", "nsenter", "iptables", "ip", "tc"];

const RUN: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";

/// Runs faults; every argument but `--keep` goes to the program. With it the containers stay.
pub(crate) fn run(workspace: &Workspace, profile: &str, args: &[String]) -> Result<()> {
    if let Err(error) = engine() {
        println!("chaos: ##################################################################");
        println!("chaos: NOTHING WAS TESTED: no Docker engine answers here");
        println!("chaos: ##################################################################");
        return Err(error);
    }
    check_rights()?;
    let (keep, args): (Vec<_>, Vec<_>) = args.iter().cloned().partition(|arg| arg == "--keep");
    let stack = Stack::new(workspace, "keelson-chaos", IMAGES[0].into(), SETTINGS)?;
    let program = program(workspace, profile)?;
    let binary = image::make(workspace, IMAGES[0], profile)?;
    match std::env::var_os("KEELSON_OTHER_BIN") {
        Some(other) => image::pack_as(workspace, Path::new(&other), IMAGES[1])?,
        None => {
            println!("chaos: KEELSON_OTHER_BIN is not set: an upgrade changes containers only");
            docker(&["tag", IMAGES[0], IMAGES[1]])?;
        }
    }
    stack.down(true)?;
    let folder = std::env::temp_dir().join(format!("keelson-chaos-{}", std::process::id()));
    let outcome = shoot(&stack, &folder, &binary, &program, &args);
    if outcome.is_err() {
        for service in MEMBERS {
            let _ = run_command(&mut stack.compose(&["logs", "--tail", "20", service]));
        }
    }
    if keep.is_empty() {
        stack.down(true)?;
        // It is not there if the cluster was never formed.
        let _ = std::fs::remove_dir_all(&folder);
        stack.nothing_left()?;
    } else {
        println!("chaos: kept: project {}, files in {}", stack.project, folder.display());
    }
    outcome
}

fn check_rights() -> Result<()> {
    let missing: Vec<_> =
        PROGRAMS.into_iter().filter(|name| find_program(name).is_none()).collect();
    if !missing.is_empty() {
        bail!("faults in networks of containers need the programs {}", missing.join(", "));
    }
    if !setup::user_is_root() {
        bail!("faults in networks of containers need root: run this as root");
    }
    Ok(())
}

/// The program that shoots: beside that of `KEELSON_BIN`, or built now.
fn program(workspace: &Workspace, profile: &str) -> Result<PathBuf> {
    if let Some(ready) = demo::ready("keelson-chaos") {
        return Ok(ready);
    }
    let mut build = workspace.cargo(&["build", "--profile", profile, "-p", "keelson-testkit"]);
    run_command(build.args(["--bin", "keelson-chaos"])).context("build keelson-chaos")?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(workspace.keelson_binary(folder)?.with_file_name("keelson-chaos"))
}

fn shoot(
    stack: &Stack,
    folder: &Path,
    binary: &Path,
    program: &Path,
    args: &[String],
) -> Result<()> {
    stack.up()?;
    std::fs::create_dir_all(folder)?;
    stack.take_identity("admin", folder)?;
    let endpoints: Vec<_> = MEMBERS.iter().map(|member| format!("\"{member}:7400\"")).collect();
    let client = folder.join("client.toml");
    let text = format!(
        "endpoints = [{}]\nca = \"ca.pem\"\ncert = \"admin.pem\"\nkey = \"admin.key\"\n",
        endpoints.join(", ")
    );
    std::fs::write(&client, text)?;
    let mut hosts = std::fs::read_to_string("/etc/hosts")?;
    for (number, member) in MEMBERS.iter().enumerate() {
        hosts.push_str(&format!("\n172.29.91.{} {member}", 11 + number));
    }
    std::fs::write(folder.join("hosts"), hosts + "\n")?;
    let compose: Vec<_> = stack.words(&[]);
    let told = json!({
        "client": client, "compose": compose, "project": stack.project, "images": IMAGES,
    });
    let file = folder.join("cluster.json");
    std::fs::write(&file, told.to_string())?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", RUN]);
    command.arg(folder.join("hosts")).arg(program).arg("--containers").arg(&file).args(args);
    command.env("KEELSON_BIN", binary).envs(SETTINGS.iter().copied());
    run_command(&mut command)
}

//! `cargo xtask chaos --docker`: the faults of `cargo xtask chaos` on a cluster of its own in
//! containers, which is removed afterwards.
//!
//! Faults, writers and judgement are those of the program `keelson-chaos`; here are the cluster and
//! what that program needs: a file that describes it, an administrator's identity, and the members'
//! names, which this machine does not know. It gets a hosts file of its own, in a mount namespace
//! of its own, so this needs root, as the cuts inside the members' networks do.
//!
//! All files are in one folder of the target directory, among them the members' volumes: file
//! systems of their own, which that program makes and mounts and which are unmounted here. A run
//! that was interrupted leaves containers and folder to the next one, which begins by removing
//! both.

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

/// Runs faults; every argument but `--keep` goes to the program. With it the containers stay, until
/// `--down` alone removes them.
pub(crate) fn run(workspace: &Workspace, profile: &str, args: &[String]) -> Result<()> {
    if let Err(error) = engine() {
        println!("chaos: ##################################################################");
        println!("chaos: NOTHING WAS TESTED: no Docker engine answers here");
        println!("chaos: ##################################################################");
        return Err(error);
    }
    check_rights()?;
    let (keep, args): (Vec<_>, Vec<_>) = args.iter().cloned().partition(|arg| arg == "--keep");
    let folder =
        workspace.keelson_binary("keelson-chaos")?.parent().context("no folder")?.to_owned();
    let stack = stack(workspace, &folder)?;
    if args.iter().any(|arg| arg == "--down") {
        return remove(&stack, &folder);
    }
    let program = program(workspace, profile)?;
    let binary = image::make(workspace, IMAGES[0], profile)?;
    match std::env::var_os("KEELSON_OTHER_BIN") {
        Some(other) => image::pack_as(workspace, Path::new(&other), IMAGES[1])?,
        None => {
            println!("chaos: KEELSON_OTHER_BIN is not set: an upgrade changes containers only");
            docker(&["tag", IMAGES[0], IMAGES[1]])?;
        }
    }
    remove(&stack, &folder)?;
    let outcome = shoot(stack.clone(), &folder, &binary, &program, &args);
    if outcome.is_err() {
        for service in MEMBERS {
            let _ = run_command(&mut stack.compose(&["logs", "--tail", "20", service]));
        }
    }
    if !keep.is_empty() {
        println!("chaos: kept: project {}, files in {}", stack.project, folder.display());
        println!("chaos: cargo xtask chaos --docker --down  removes them");
        return outcome;
    }
    let removed = remove(&stack, &folder);
    outcome.and(removed)
}

/// The cluster, with what makes disks and clocks of its members bad.
fn stack(workspace: &Workspace, folder: &Path) -> Result<Stack> {
    let mut stack = Stack::new(workspace, "keelson-chaos", IMAGES[0].into(), SETTINGS)?;
    stack.files.push(workspace.root.join("deploy/compose.chaos.yaml"));
    stack.settings.push(("KEELSON_CHAOS_FOLDER", folder.display().to_string()));
    Ok(stack)
}

/// Removes containers, volumes, networks and files, and fails if something is left.
fn remove(stack: &Stack, folder: &Path) -> Result<()> {
    stack.down(true)?;
    for volume in MEMBERS.map(|member| folder.join("volumes").join(member)) {
        if is_mounted(&volume) {
            run_command(Command::new("umount").arg(&volume))?;
        }
    }
    if folder.exists() {
        let removed = std::fs::remove_dir_all(folder);
        removed.with_context(|| format!("remove {}", folder.display()))?;
    }
    stack.nothing_left()
}

/// Whether a file system begins at this path.
fn is_mounted(path: &Path) -> bool {
    let asked = Command::new("mountpoint").arg("--quiet").arg(path).status();
    asked.is_ok_and(|status| status.success())
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
    mut stack: Stack,
    folder: &Path,
    binary: &Path,
    program: &Path,
    args: &[String],
) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = describe(&stack, folder)?;
    run_command(Command::new(program).arg("--prepare").arg(&file))?;
    if folder.join("host/bad_host.so").exists() {
        stack.settings.push(("KEELSON_CHAOS_PRELOAD", "/host/bad_host.so".into()));
    }
    stack.up()?;
    stack.take_identity("admin", folder)?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", RUN]);
    command.arg(folder.join("hosts")).arg(program).arg("--containers").arg(&file).args(args);
    // It has Compose make containers anew, which are to be as these are.
    command.env("KEELSON_BIN", binary).envs(stack.settings);
    run_command(&mut command)
}

/// Writes what the program needs of a cluster that is not up yet; the path of its description.
fn describe(stack: &Stack, folder: &Path) -> Result<PathBuf> {
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
    let told = json!({
        "client": client, "compose": stack.words(&[]), "project": stack.project, "images": IMAGES,
        "members": MEMBERS,
    });
    let file = folder.join("cluster.json");
    std::fs::write(&file, told.to_string())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise a full disk would be one that nobody uses.
    #[test]
    fn volumes_of_members_are_replaced_by_small_ones() {
        let cluster = include_str!("../../../../deploy/compose.yaml");
        let added = include_str!("../../../../deploy/compose.chaos.yaml");
        for member in MEMBERS {
            for place in ["data", "log"] {
                let path = format!("{place}:/var/lib/keelson/{place}\n");
                let wanted = cluster.contains(&format!("- {member}-{path}"));
                let found = added.contains(&format!("/volumes/{member}/{path}"));
                assert_eq!(found, wanted, "{member} {place}");
            }
            assert!(added.contains(&format!("CLOCK_FILE: /host/{member}.clock")), "{member}");
        }
    }
}

//! Packs a built program into an image, on a base image of the distribution's own packages if none
//! is named: this needs no image registry.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::output;
use crate::setup::{self, Trigger};
use crate::workspace::{Workspace, find_program, run as run_command};

/// The base image that `deploy/base-image.sh` makes.
const OWN_BASE: &str = "keelson-base";

/// Makes the image `tag` of the program in `KEELSON_BIN`, or of one built now; gives its path.
pub(super) fn make(workspace: &Workspace, tag: &str, profile: &str) -> Result<PathBuf> {
    let binary = program(workspace, profile)?;
    pack_as(workspace, &binary, tag)?;
    Ok(binary)
}

/// Makes the image `tag` of a program.
pub(super) fn pack_as(workspace: &Workspace, binary: &Path, tag: &str) -> Result<()> {
    let base = base(workspace)?;
    let folder = workspace.keelson_binary("compose")?;
    let folder = folder.parent().context("no target directory")?;
    std::fs::create_dir_all(folder)?;
    pack(binary, &folder.join("keelson"))?;
    let file = workspace.root.join("deploy/Dockerfile");
    let argument = format!("RUNTIME_IMAGE={base}");
    let mut build = Command::new("docker");
    build.args(["build", "--quiet", "--target", "packed", "--build-arg", &argument, "-t", tag]);
    run_command(build.arg("-f").arg(file).arg(folder))
}

fn program(workspace: &Workspace, profile: &str) -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("KEELSON_BIN") {
        return Ok(binary.into());
    }
    setup::run(workspace, Trigger::OnTheWay)?;
    run_command(&mut workspace.cargo(&["build", "--profile", profile, "-p", "keelson-cli"]))
        .context("build the binary keelson")?;
    workspace.keelson_binary(if profile == "dev" { "debug" } else { profile })
}

/// The image that others begin with.
pub(super) fn base(workspace: &Workspace) -> Result<String> {
    if let Ok(named) = std::env::var("RUNTIME_IMAGE") {
        return Ok(named);
    }
    let known =
        output(Command::new("docker").args(["image", "inspect", "--format", "x", OWN_BASE]));
    if known.is_err() {
        println!("compose: no image {OWN_BASE} yet; making it takes one to two minutes");
        if find_program("debootstrap").is_none() {
            setup::install_besides(workspace, &["debootstrap"])?;
        }
        let script = workspace.root.join("deploy/base-image.sh");
        run_command(Command::new(script).arg(OWN_BASE)).context(
            "make a base image; where debootstrap does not work, set RUNTIME_IMAGE to an image of \
             this system's release",
        )?;
    }
    Ok(OWN_BASE.into())
}

/// Symbols are most of the file and of no use inside.
fn pack(binary: &Path, to: &Path) -> Result<()> {
    if find_program("strip").is_some() {
        return run_command(Command::new("strip").arg("-o").arg(to).arg(binary));
    }
    std::fs::copy(binary, to).with_context(|| format!("copy {}", binary.display())).map(|_| ())
}

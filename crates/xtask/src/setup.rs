//! Decides what the build needs of the machine, and installs what is missing.
//!
//! RocksDB is compiled from source and its bindings are made with libclang; everything else is
//! Rust. On Debian and Ubuntu the missing packages are installed with apt-get, as root or through
//! sudo; on any other system the needs are printed and the build goes on, since our search may not
//! know where that system keeps its libraries. Nothing is done, and nothing printed but one line,
//! when all is present.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, compiler_cache, find_program, run as run_command};

/// Who wants the set-up: a person who asked for it, or another subcommand on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// `cargo xtask setup`: also installs what only saves time.
    Asked,
    /// Part of `test` or `demo`: never calls a package manager for an optional thing alone.
    OnTheWay,
}

/// One thing the build needs, and the Debian package that brings it.
struct Need {
    what: &'static str,
    why: &'static str,
    debian_package: &'static str,
    required: bool,
    present: fn(&Machine) -> bool,
}

/// `g++` brings gcc, the linker `cc`, binutils and the C headers. `libclang-dev` rather than the
/// smaller `libclang1`, because bindgen also needs clang's own `stdbool.h` and `stddef.h`, whose
/// package carries the clang version in its name. Neither make, cmake, pkg-config nor protoc is
/// needed.
const NEEDS: &[Need] = &[
    Need {
        what: "C++ compiler",
        why: "compiles RocksDB",
        debian_package: "g++",
        required: true,
        present: |machine| machine.has_cxx,
    },
    Need {
        what: "libclang with its headers",
        why: "makes the bindings of RocksDB",
        debian_package: "libclang-dev",
        required: true,
        present: Machine::has_libclang,
    },
    Need {
        what: "ccache",
        why: "compiles RocksDB once for all clones and profiles",
        debian_package: "ccache",
        required: false,
        present: |machine| machine.has_ccache,
    },
];

/// What was found on this machine. A value, so that the decisions below can be tested without one.
struct Machine {
    /// Folder under which `usr/lib` is searched; `/` except in tests.
    filesystem_root: PathBuf,
    libclang_path_set: bool,
    has_cxx: bool,
    has_ccache: bool,
    has_apt: bool,
    has_sudo: bool,
    is_root: bool,
}

impl Machine {
    fn inspect() -> Machine {
        let has = |name: &str| find_program(name).is_some();
        Machine {
            filesystem_root: PathBuf::from("/"),
            libclang_path_set: std::env::var_os("LIBCLANG_PATH").is_some(),
            has_cxx: std::env::var_os("CXX").is_some() || has("c++") || has("g++"),
            has_ccache: has("ccache"),
            has_apt: has("apt-get"),
            has_sudo: has("sudo"),
            is_root: user_is_root(),
        }
    }

    /// Whether both the library and clang's own headers are there; a path set by hand is believed.
    fn has_libclang(&self) -> bool {
        self.libclang_path_set || (self.has_libclang_library() && self.has_clang_headers())
    }

    fn has_libclang_library(&self) -> bool {
        let usr = self.filesystem_root.join("usr");
        let mut folders = vec![usr.join("lib"), usr.join("lib64"), usr.join("local/lib")];
        for entry in entries(&usr.join("lib")) {
            folders.push(entry.join("lib"));
            folders.push(entry);
        }
        folders.iter().flat_map(|folder| entries(folder)).any(|file| is_libclang(&file))
    }

    fn has_clang_headers(&self) -> bool {
        let usr = self.filesystem_root.join("usr");
        let mut folders = vec![usr.join("lib/clang"), usr.join("lib64/clang")];
        folders.extend(entries(&usr.join("lib")).into_iter().map(|llvm| llvm.join("lib/clang")));
        let versions = folders.iter().flat_map(|folder| entries(folder));
        versions.into_iter().any(|version| version.join("include/stdbool.h").is_file())
    }
}

/// What to do about the needs of one machine.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// All is present, or only an optional thing is missing that nobody asked for.
    Nothing,
    /// Install these packages, through sudo or directly.
    Install { packages: Vec<&'static str>, sudo: bool },
    /// Not a system we install on: say what is needed.
    Explain,
    /// Debian or Ubuntu, but we may not install.
    Refused,
}

/// The decision, from the facts alone.
fn plan(machine: &Machine, trigger: Trigger) -> Plan {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !(need.present)(machine)).collect();
    let blocking = missing.iter().any(|need| need.required);
    if missing.is_empty() || (!blocking && trigger == Trigger::OnTheWay) {
        return Plan::Nothing;
    }
    if !machine.has_apt {
        return Plan::Explain;
    }
    if !machine.is_root && !machine.has_sudo {
        return if blocking { Plan::Refused } else { Plan::Explain };
    }
    let packages = missing.iter().map(|need| need.debian_package).collect();
    Plan::Install { packages, sudo: !machine.is_root }
}

/// Brings the machine to the point where the workspace can be built, or says why it cannot.
pub(crate) fn run(workspace: &Workspace, trigger: Trigger) -> Result<()> {
    let machine = Machine::inspect();
    match plan(&machine, trigger) {
        Plan::Nothing => {}
        Plan::Explain => {
            print_missing(&machine);
            println!(
                "setup: installed nothing here; the build shows whether these are truly missing"
            );
            return Ok(());
        }
        Plan::Refused => {
            print_missing(&machine);
            bail!("not root and no sudo: have an administrator run '{}'", by_hand(&machine));
        }
        Plan::Install { packages, sudo } => {
            print_missing(&machine);
            install(workspace, &packages, sudo)
                .with_context(|| format!("install by hand: {}", by_hand(&machine)))?;
            let machine = Machine::inspect();
            if NEEDS.iter().any(|need| need.required && !(need.present)(&machine)) {
                print_missing(&machine);
                bail!("the packages are installed, but something is still missing");
            }
        }
    }
    match compiler_cache().is_empty() {
        true => println!("setup: ready (no ccache: each clean clone compiles RocksDB anew)"),
        false => println!("setup: ready, C and C++ go through ccache"),
    }
    Ok(())
}

fn install(workspace: &Workspace, packages: &[&str], sudo: bool) -> Result<()> {
    println!("setup: installing {} with apt-get", packages.join(", "));
    // Nobody can type a password where there is no terminal: fail at once there, instead of
    // hanging.
    let may_ask = std::io::stdin().is_terminal() && !workspace.ci;
    run_command(&mut apt_get(&["update", "-qq"], sudo, may_ask))?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(packages);
    run_command(&mut apt_get(&args, sudo, may_ask))
}

/// Installs programs that only some subcommands use, and keeps the packages' own services from
/// being started: a policy file, as the distribution provides for it, is there meanwhile. Does
/// nothing without packages.
pub(crate) fn install_besides(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let machine = Machine::inspect();
    let names = packages.join(" ");
    if !machine.has_apt || !(machine.is_root || machine.has_sudo) {
        bail!(
            "programs are missing and cannot be installed here: install {names}, or leave them out"
        );
    }
    println!("setup: installing {names} with apt-get, without starting their services");
    let mut command = match machine.is_root {
        true => Command::new("sh"),
        false => {
            let mut command = Command::new("sudo");
            if !std::io::stdin().is_terminal() || workspace.ci {
                command.arg("--non-interactive");
            }
            command.arg("sh");
            command
        }
    };
    command.args(["-c", INSTALL_WITHOUT_STARTING, "sh"]).args(packages);
    let status = command.status().context("start sh for apt-get")?;
    if !status.success() {
        bail!("installing {names} failed: {status}");
    }
    Ok(())
}

const INSTALL_WITHOUT_STARTING: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@"
"#;

fn apt_get(args: &[&str], sudo: bool, may_ask: bool) -> Command {
    if !sudo {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        return command;
    }
    let mut command = Command::new("sudo");
    if !may_ask {
        command.arg("--non-interactive");
    }
    // sudo drops the environment, so the variable travels as an argument.
    command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(args);
    command
}

fn print_missing(machine: &Machine) {
    println!("setup: this machine lacks");
    for need in NEEDS.iter().filter(|need| !(need.present)(machine)) {
        let weight = if need.required { "needed" } else { "optional" };
        println!(
            "  {} ({weight}: {}; Debian package {})",
            need.what, need.why, need.debian_package
        );
    }
}

fn by_hand(machine: &Machine) -> String {
    let missing = NEEDS.iter().filter(|need| need.required && !(need.present)(machine));
    let packages: Vec<&str> = missing.map(|need| need.debian_package).collect();
    format!("apt-get install {}", packages.join(" "))
}

/// Whether this runs with every right.
pub(crate) fn user_is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// The paths in a folder, in name order; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The C interface that bindgen loads, not the C++ one beside it (`libclang-cpp`).
fn is_libclang(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let library = name.starts_with("libclang.so") || name.starts_with("libclang-");
    library && name.contains(".so") && !name.starts_with("libclang-cpp")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare() -> Machine {
        Machine {
            filesystem_root: PathBuf::from("/nonexistent"),
            libclang_path_set: false,
            has_cxx: false,
            has_ccache: false,
            has_apt: true,
            has_sudo: false,
            is_root: true,
        }
    }

    fn complete() -> Machine {
        Machine { libclang_path_set: true, has_cxx: true, has_ccache: true, ..bare() }
    }

    #[test]
    fn complete_machine_is_left_alone() {
        assert_eq!(plan(&complete(), Trigger::Asked), Plan::Nothing);
    }

    #[test]
    fn bare_debian_gets_all_packages_at_once() {
        let packages = vec!["g++", "libclang-dev", "ccache"];
        assert_eq!(
            plan(&bare(), Trigger::OnTheWay),
            Plan::Install { packages: packages.clone(), sudo: false }
        );
        let user = Machine { is_root: false, has_sudo: true, ..bare() };
        assert_eq!(plan(&user, Trigger::OnTheWay), Plan::Install { packages, sudo: true });
    }

    #[test]
    fn optional_alone_is_installed_only_when_asked() {
        let machine = Machine { has_ccache: false, ..complete() };
        assert_eq!(plan(&machine, Trigger::OnTheWay), Plan::Nothing);
        let install = Plan::Install { packages: vec!["ccache"], sudo: false };
        assert_eq!(plan(&machine, Trigger::Asked), install);
    }

    #[test]
    fn no_rights_is_refused_and_other_systems_are_told() {
        let user = Machine { is_root: false, ..bare() };
        assert_eq!(plan(&user, Trigger::OnTheWay), Plan::Refused);
        let other = Machine { has_apt: false, ..bare() };
        assert_eq!(plan(&other, Trigger::OnTheWay), Plan::Explain);
    }

    #[test]
    fn library_without_headers_is_not_enough() {
        let root = std::env::temp_dir().join(format!("xtask-setup-{}", std::process::id()));
        let library = root.join("usr/lib/x86_64-linux-gnu");
        let headers = root.join("usr/lib/llvm-14/lib/clang/14/include");
        let machine = Machine { filesystem_root: root.clone(), ..bare() };
        std::fs::create_dir_all(&library).unwrap();
        std::fs::write(library.join("libclang-cpp.so.14"), "").unwrap();
        assert!(!machine.has_libclang_library());
        std::fs::write(library.join("libclang-14.so.1"), "").unwrap();
        assert!(machine.has_libclang_library() && !machine.has_libclang());
        std::fs::create_dir_all(&headers).unwrap();
        std::fs::write(headers.join("stdbool.h"), "").unwrap();
        assert!(machine.has_libclang());
        std::fs::remove_dir_all(&root).unwrap();
    }
}

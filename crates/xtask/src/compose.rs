//! `cargo xtask compose`: the cluster of `deploy/compose.yaml` on the Docker engine of this
//! machine.
//!
//! `up` makes the images where they are missing, `test` proves a cluster of its own project and
//! removes it again, anything else goes to Compose as it is, with project and file named. Compose
//! is the engine's plugin or the older program `docker-compose`, whichever is there.

pub(crate) mod chaos;
mod image;
mod prometheus;
mod proof;
mod visit;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, run as run_command};

/// The project of the cluster that people use.
const PROJECT: &str = "keelson";

/// How often the cluster may fail to form: Compose starts `forming` again while members are late.
const FORMING_TRIES: usize = 5;

/// How long a question to the engine is worth reading when it fails.
const LINES_SHOWN: usize = 20;

const HELP: &str = "\
usage: cargo xtask compose up [--dev]         make images, start, form the cluster; may be repeated
       cargo xtask compose down [--volumes]   stop; with --volumes delete data and certificates
       cargo xtask compose test [--keep]      prove a cluster of its own and remove it
       cargo xtask compose ARGUMENTS          for Compose itself, as
                       ps | logs m1 | run --rm client cluster status
KEELSON_BIN names a program built before; RUNTIME_IMAGE the image it is packed into.";

/// Runs a subcommand.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["help" | "--help"] => {
            println!("{HELP}");
            Ok(())
        }
        ["up", options @ ..] => {
            let dev = flag(options, "--dev")?;
            let stack = Stack::of_people(workspace)?;
            image::make(workspace, &stack.image, if dev { "dev" } else { "release" })?;
            stack.up()?;
            println!("compose: try  cargo xtask compose run --rm client cluster status");
            Ok(())
        }
        ["down", options @ ..] => {
            let volumes = flag(options, "--volumes")?;
            Stack::of_people(workspace)?.down(volumes)
        }
        ["test", options @ ..] => proof::run(workspace, flag(options, "--keep")?),
        others => run_command(&mut Stack::of_people(workspace)?.compose(others)),
    }
}

fn flag(options: &[&str], known: &str) -> Result<bool> {
    match options {
        [] => Ok(false),
        [option] if *option == known => Ok(true),
        others => bail!("'{}' is not understood\n{HELP}", others.join(" ")),
    }
}

/// One running set of containers, volumes and networks.
#[derive(Clone)]
struct Stack {
    /// How Compose is started.
    program: Vec<&'static str>,
    project: String,
    image: String,
    /// What later ones say is added to what earlier ones say, or replaces it.
    files: Vec<PathBuf>,
    /// More of the environment that these read.
    settings: Vec<(&'static str, String)>,
}

impl Stack {
    fn of_people(workspace: &Workspace) -> Result<Stack> {
        let image = std::env::var("KEELSON_IMAGE").unwrap_or_else(|_| "keelson:latest".into());
        Stack::new(workspace, PROJECT, image, &[])
    }

    fn new(
        workspace: &Workspace,
        project: &str,
        image: String,
        settings: &[(&'static str, &'static str)],
    ) -> Result<Stack> {
        engine().context("no Docker engine")?;
        let files = vec![workspace.root.join("deploy/compose.yaml")];
        let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let program = compose_program()?;
        Ok(Stack { program, project: project.into(), image, files, settings })
    }

    /// A command of Compose.
    fn compose(&self, args: &[&str]) -> Command {
        let words = self.words(args);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("KEELSON_IMAGE", &self.image);
        command.envs(self.settings.iter().cloned());
        command
    }

    /// The words of a command of Compose, its program first.
    fn words(&self, args: &[&str]) -> Vec<String> {
        let mut words: Vec<_> = self.program.iter().copied().map(str::to_owned).collect();
        words.extend(["-p".to_owned(), self.project.clone()]);
        for file in &self.files {
            words.extend(["-f".to_owned(), file.display().to_string()]);
        }
        words.extend(args.iter().copied().map(str::to_owned));
        words
    }

    /// Starts everything and waits until the cluster is formed.
    fn up(&self) -> Result<()> {
        run_command(&mut self.compose(&["up", "-d", "--no-build"]))?;
        let forming = self.container("forming")?;
        let formed = succeeds_once(FORMING_TRIES, || docker(&["wait", &forming]))?;
        let said = docker(&["logs", "--tail", "3", &forming])?;
        if !formed {
            bail!("the cluster was not formed (cargo xtask compose logs forming): {said}");
        }
        println!("compose: {said}");
        Ok(())
    }

    fn down(&self, volumes: bool) -> Result<()> {
        let volumes: &[&str] = if volumes { &["--volumes"] } else { &[] };
        let all = [&["down", "--remove-orphans"], volumes].concat();
        run_command(&mut self.compose(&all))
    }

    /// The id of a service's container, running or not.
    fn container(&self, service: &str) -> Result<String> {
        let project = format!("label=com.docker.compose.project={}", self.project);
        let service = format!("label=com.docker.compose.service={service}");
        let list = ["ps", "-aq", "--filter", &project, "--filter", &service];
        let found = output(Command::new("docker").args(list))?;
        let id = found.lines().next().with_context(|| format!("no container with {service}"))?;
        Ok(id.to_owned())
    }

    /// Copies an identity of the cluster out of its volume: certificate, key and authority.
    fn take_identity(&self, name: &str, to: &Path) -> Result<()> {
        let from = format!("{}:/identities/{name}/.", self.container("identities")?);
        docker(&["cp", &from, &to.display().to_string()]).map(drop)
    }

    /// Fails if the engine still has something of this project.
    fn nothing_left(&self) -> Result<()> {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        for kind in ["container", "volume", "network"] {
            let all: &[&str] = if kind == "container" { &["--all"] } else { &[] };
            let left = docker(&[&[kind, "ls", "--quiet", "--filter", &filter], all].concat())?;
            if !left.is_empty() {
                bail!("{kind}s are left: {left}");
            }
        }
        Ok(())
    }
}

/// Waits for a container that is started again when it fails: each wait ends with a try.
fn succeeds_once(tries: usize, mut wait: impl FnMut() -> Result<String>) -> Result<bool> {
    for _ in 0..tries {
        if wait()? == "0" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Asks the engine whether it is there.
fn engine() -> Result<String> {
    output(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]))
}

fn compose_program() -> Result<Vec<&'static str>> {
    let candidates = [vec!["docker", "compose"], vec!["docker-compose"]];
    let works = |program: &Vec<&str>| {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg("version");
        command.output().is_ok_and(|output| output.status.success())
    };
    candidates
        .into_iter()
        .find(works)
        .context("neither 'docker compose' nor 'docker-compose' works")
}

/// Runs `docker` and gives what it printed.
fn docker(args: &[&str]) -> Result<String> {
    output(Command::new("docker").args(args))
}

/// Runs a command to its end and gives what it printed, both streams, without the last line end.
fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().with_context(|| format!("start {shown}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        if text.is_empty() {
            text = errors.trim_end().to_owned();
        }
        return Ok(text);
    }
    let lines: Vec<_> = errors.lines().chain(text.lines()).rev().take(LINES_SHOWN).collect();
    let lines: Vec<_> = lines.into_iter().rev().collect();
    bail!("{shown}: {}: {}", output.status, lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_or_refused() {
        assert!(!flag(&[], "--keep").unwrap() && flag(&["--keep"], "--keep").unwrap());
        assert!(flag(&["--kepp"], "--keep").is_err());
    }

    #[test]
    fn a_try_that_failed_is_not_the_end() {
        let ended = |codes: &[&str]| {
            let mut codes = codes.iter();
            succeeds_once(3, || Ok((*codes.next().unwrap()).to_owned())).unwrap()
        };
        assert!(ended(&["1", "1", "0"]) && ended(&["0"]));
        assert!(!ended(&["1", "1", "1"]));
        assert!(succeeds_once(3, || bail!("no such container")).is_err());
    }

    #[test]
    fn a_command_that_fails_tells_what_it_said() {
        let text = output(Command::new("sh").args(["-c", "echo out; echo bad >&2; exit 3"]));
        let text = text.unwrap_err().to_string();
        assert!(text.contains("bad\nout") && text.contains("exit status: 3"), "{text}");
        assert_eq!(output(Command::new("sh").args(["-c", "echo a; echo b >&2"])).unwrap(), "a");
    }
}

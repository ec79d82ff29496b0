//! `keelson dev`: what it prints is what works.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cli, keelson_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The commands that are printed up to the end of the greeting.
async fn suggested(dev: &mut Child) -> Result<Vec<String>> {
    let mut lines = BufReader::new(dev.stdout.take().context("no output")?).lines();
    let mut suggested = Vec::new();
    loop {
        let line = timeout(PATIENCE, lines.next_line()).await.context("dev says nothing")??;
        let line = line.context("dev ended")?;
        if line.starts_with("Ctrl-C") {
            return Ok(suggested);
        }
        let commands = line.trim().split(" && ").filter_map(|text| text.strip_prefix("keelson "));
        suggested.extend(commands.map(str::to_owned));
    }
}

async fn all_succeed(suggested: &[String], dir: &Path) -> Result<()> {
    ensure!(suggested.iter().any(|text| text.starts_with("switchover DB1 ")), "{suggested:?}");
    let cli = Cli::new(&keelson_binary()?, Some(&dir.join("client.toml")));
    for command in suggested {
        cli.succeed(command.split(' ')).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_that_dev_suggests_succeed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dir = directory.path().join("dev");
    let plain = Cli::new(&keelson_binary()?, None);
    let args = ["dev", "--dir", &dir.display().to_string(), "--databases", "1"];
    let mut dev = plain.command(args).stdout(Stdio::piped()).spawn()?;
    let outcome = match suggested(&mut dev).await {
        Ok(suggested) => all_succeed(&suggested, &dir).await,
        Err(error) => Err(error),
    };
    // Killed outright it would leave its members behind.
    let pid = i32::try_from(dev.id().context("dev has ended")?)?;
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    ensure!(timeout(PATIENCE, dev.wait()).await??.success(), "dev did not stop well");
    outcome
}

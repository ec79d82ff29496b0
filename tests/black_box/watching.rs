//! `--watch`: readings that follow each other, for people and for programs; and that nothing but a
//! terminal gets escape codes.

use std::fs::File;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keelson_testkit::{Cli, Cluster, eventually_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::data::cluster;
use crate::moves::another;

/// Long enough for a loaded machine, and for a client that tries members that are not there.
const PATIENCE: Duration = Duration::from_secs(120);

/// Everything that an operator may want to look at again and again.
const WATCHED: &[&[&str]] = &[
    &["cluster", "status"],
    &["cluster", "witness", "list"],
    &["member", "list"],
    &["site", "list"],
    &["network", "list"],
    &["volume", "list"],
    &["database", "list"],
    &["database", "show", "DB1"],
    &["copy", "list"],
    &["copy", "status"],
    &["operation", "list"],
    &["event", "list"],
    &["decision", "list"],
    &["audit", "m1"],
    &["health"],
    &["redundancy"],
    &["guarantee", "health", "DB1"],
];

/// A command that goes on until it is stopped.
struct Watching {
    child: Child,
    lines: UnboundedReceiver<String>,
}

impl Watching {
    /// Starts it with `-o json`; what it says of failures goes to `errors`.
    fn start(cli: &Cli, args: &[&str], errors: impl Into<Stdio>) -> Result<Self> {
        let args = args.iter().chain(&["--watch=100ms", "-o", "json"]);
        let mut child = cli.command(args).stdout(Stdio::piped()).stderr(errors).spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?).lines();
        let (sender, lines) = unbounded_channel();
        // All the time, because a full pipe would keep the command from its next reading.
        tokio::spawn(async move {
            while let Ok(Some(line)) = output.next_line().await {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// The next reading.
    async fn reading(&mut self) -> Result<Value> {
        let line = timeout(PATIENCE, self.lines.recv()).await.context("no reading")?;
        let line = line.context("it ended")?;
        serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))
    }

    /// Reads on until a reading is as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let seen = async {
            loop {
                if wanted(&self.reading().await?) {
                    return Ok(());
                }
            }
        };
        timeout(PATIENCE, seen).await.with_context(|| format!("never seen: {what}"))?
    }

    async fn interrupted(mut self) -> Result<ExitStatus> {
        let pid = i32::try_from(self.child.id().context("it has ended")?)?;
        kill(Pid::from_raw(pid), Signal::SIGINT)?;
        Ok(timeout(PATIENCE, self.child.wait()).await.context("it goes on")??)
    }
}

/// The member whose copy is active, in a reading of `copy status`.
fn active(reading: &Value) -> Option<&str> {
    let mut rows = reading.as_array()?.iter();
    rows.find(|row| row["active"] == true)?["member"].as_str()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_watched_gives_one_line_of_json_for_each_reading() -> Result<()> {
    let cluster = cluster().await?;
    cluster.wait_until_caught_up("DB1").await?;
    let cli = cluster.cli();
    for command in WATCHED {
        let once = cli.run(command.iter().chain(&["-o", "json"])).await?;
        let once: Value = serde_json::from_str(&once.stdout).context(command.join(" "))?;
        let watch = ["--watch=100ms", "--watch-count=2", "-o", "json"];
        let output = cli.run(command.iter().chain(&watch)).await?;
        let lines: Vec<_> = output.stdout.lines().collect();
        ensure!(lines.len() == 2, "{command:?}: {output:?}");
        for line in lines {
            let reading: Value = serde_json::from_str(line).context(command.join(" "))?;
            ensure!(reading.is_array() == once.is_array(), "{command:?}: {reading}");
        }
    }
    let yaml = ["member", "list", "--watch=100ms", "--watch-count=2", "-o", "yaml"];
    let yaml = cli.succeed(yaml).await?;
    ensure!(yaml.matches("---\n- ").count() == 2, "{yaml}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_changes_until_it_is_interrupted() -> Result<()> {
    let cluster = cluster().await?;
    cluster.wait_until_caught_up("DB1").await?;
    let mut watching = Watching::start(cluster.cli(), &["copy", "status", "DB1"], Stdio::null())?;
    let before = cluster.active_of("DB1").await?;
    watching.until("the active", |reading| active(reading) == Some(before.as_str())).await?;
    let to = another(&cluster, &before);
    cluster.cli().succeed(["switchover", "DB1", "--to", &to]).await?;
    watching.until("the move", |reading| active(reading) == Some(to.as_str())).await?;
    let status = watching.interrupted().await?;
    ensure!(status.success(), "to stop looking is no failure: {status}");

    // Whoever reads the lines goes away.
    let mut watching = Watching::start(cluster.cli(), &["event", "list"], Stdio::null())?;
    watching.reading().await?;
    drop(watching.lines);
    timeout(PATIENCE, watching.child.wait()).await.context("it writes to nobody")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_when_nobody_answered_for_a_while() -> Result<()> {
    let mut cluster = cluster().await?;
    let errors = cluster.path().join("watch-errors");
    let term = |reading: &Value| reading["term"].as_u64().unwrap_or(0);
    let told = Stdio::from(File::create(&errors)?);
    let mut watching = Watching::start(cluster.cli(), &["cluster", "status"], told)?;
    let before = term(&watching.reading().await?);
    for name in cluster.names() {
        cluster.member(&name).kill()?;
    }
    eventually_for(PATIENCE, "the failure is told", || async {
        let told = std::fs::read_to_string(&errors)?;
        ensure!(told.contains("error["), "only {told:?}");
        Ok(())
    })
    .await?;
    for name in cluster.names() {
        cluster.member(&name).start()?;
    }
    watching.until("another term", |reading| term(reading) > before).await?;
    ensure!(watching.interrupted().await?.success(), "the last readings were good");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waiting_does_not_mend_is_not_watched() -> Result<()> {
    let cluster = cluster().await?;
    for (args, exit, code) in [
        (&["database", "show", "DB9", "--watch"][..], 3, "unknown_database"),
        (&["copy", "list", "DB9", "--watch=1s"], 3, "unknown_database"),
        (&["member", "list", "--watch=1ms"], 2, "usage"),
        (&["member", "list", "--watch=soon"], 2, "usage"),
        (&["member", "list", "--watch-count=2"], 2, "usage"),
    ] {
        let output = cluster.cli().run(args).await?;
        assert_eq!((output.code, output.error_code()), (Some(exit), Some(code)), "{output:?}");
    }
    Ok(())
}

/// What a command writes where nobody asked for plain text, to both of its outputs.
async fn piped(cli: &Cli, args: &[&str]) -> Result<String> {
    let output = cli.command(args).env_remove("NO_COLOR").output();
    let output = timeout(PATIENCE, output).await.context("it hangs")??;
    Ok(String::from_utf8([output.stdout, output.stderr].concat())?)
}

/// What a command writes to a terminal, with this value of `NO_COLOR`, or without any.
async fn on_terminal(cluster: &Cluster, args: &[&str], no_color: Option<&str>) -> Result<String> {
    let mut command = Command::new("script");
    let program = keelson_testkit::keelson_binary()?;
    let line = format!("'{}' {}", program.display(), args.join(" "));
    command.args(["--quiet", "--command", &line, "/dev/null"]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command.env("KEELSON_CLIENT", cluster.client_toml()).env_remove("NO_COLOR");
    if let Some(value) = no_color {
        command.env("NO_COLOR", value);
    }
    let output = timeout(PATIENCE, command.output()).await.context("it hangs")?;
    let output = output.context("cannot start script (Debian: bsdutils)")?;
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_terminal_gets_escape_codes() -> Result<()> {
    let cluster = cluster().await?;
    cluster.wait_until_indexed("DB1").await?;
    cluster.client().database("DB1").put("greeting", r#"{"text": "hello world"}"#).await?;
    cluster.wait_until_caught_up("DB1").await?;
    let search = ["search", "DB1", "hello", "--current"];
    let watch = ["member", "list", "--watch=100ms", "--watch-count=2"];
    let wrong = ["no-such-noun"];
    for (args, word) in [(&search[..], "[hello]"), (&watch, "read at "), (&wrong, "error[usage]: ")]
    {
        let text = piped(cluster.cli(), args).await?;
        ensure!(text.contains(word) && !text.contains('\x1b'), "{args:?}: {text:?}");
    }
    for (no_color, plain) in [(None, false), (Some(""), false), (Some("1"), true)] {
        for (args, word) in [(&search[..], "\x1b[1mhello"), (&wrong, "\x1b[1;31merror[usage]")] {
            let text = on_terminal(&cluster, args, no_color).await?;
            ensure!(text.contains(word) != plain, "{args:?} with {no_color:?}: {text:?}");
            ensure!(!plain || !text.contains('\x1b'), "{args:?} with {no_color:?}: {text:?}");
        }
    }
    let text = on_terminal(&cluster, &watch, Some("1")).await?;
    let pages = text.matches("\x1b[2J\x1b[Hread at ").count();
    ensure!(pages == 2, "each reading in the place of the last one: {text:?}");
    Ok(())
}

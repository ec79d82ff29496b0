//! `--watch`: one reading repeated until it is interrupted, for every command that an operator
//! watches.
//!
//! A command hands in how it reads, and prints nothing itself. People get the time of the reading
//! above each table, on a terminal always in the same place; programs get one line of JSON, or one
//! YAML document, for each reading. A failed reading goes to standard error and the next one comes,
//! because what is watched may be just what keeps the answer away.

use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use crate::failure::Outcome;
use crate::output::{self, Format};
use crate::text;

/// Members are asked for every reading; more often than this helps nobody.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// Clears the screen and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

// The arguments of a command that can be watched. (A doc comment would become that of the command.)
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Watch {
    /// Show again every second, or as often as --watch=TIME says, until interrupted; with -o json
    /// one line for each reading
    #[arg(long, value_name = "TIME", value_parser = interval)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "1s")]
    watch: Option<Duration>,
    /// End after so many readings, failed ones included
    #[arg(long, value_name = "COUNT", requires = "watch", hide = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    watch_count: Option<u64>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < SHORTEST_INTERVAL {
        return Err(format!("at least {}", text::span(SHORTEST_INTERVAL)));
    }
    Ok(interval)
}

/// What a command has to show, and whether that is as it should be.
pub(crate) struct Reading {
    text: String,
    verdict: Outcome,
}

impl Reading {
    /// What is shown before the command fails, or does not.
    pub(crate) fn judged(text: String, verdict: Outcome) -> Self {
        Self { text, verdict }
    }
}

impl From<String> for Reading {
    fn from(text: String) -> Self {
        Self { text, verdict: Ok(()) }
    }
}

impl Watch {
    /// Shows what `read` gives, once or as often as asked for.
    ///
    /// # Errors
    /// Without `--watch` that of the reading. With it that of a first reading which waiting does
    /// not mend, such as a wrong name.
    pub(crate) async fn show(
        &self,
        format: Format,
        read: impl AsyncFn(Format) -> Outcome<Reading>,
    ) -> Outcome {
        let Some(interval) = self.watch else {
            let reading = read(format).await?;
            output::emit(&reading.text);
            return reading.verdict;
        };
        tokio::select! {
            ended = self.repeat(format.repeated(), interval, read) => ended,
            Ok(()) = tokio::signal::ctrl_c() => Ok(()),
        }
    }

    async fn repeat(
        &self,
        format: Format,
        interval: Duration,
        read: impl AsyncFn(Format) -> Outcome<Reading>,
    ) -> Outcome {
        let terminal = io::stdout().is_terminal();
        let mut screen = Screen { format, terminal, interval, last: None };
        let mut number = 0;
        loop {
            number += 1;
            let (drawn, verdict) = match read(format).await {
                Ok(reading) => (screen.read(now(), reading.text), reading.verdict),
                Err(failure) if screen.last.is_none() && !failure.may_pass() => {
                    return Err(failure);
                }
                Err(failure) => (screen.failed(), Err(failure)),
            };
            // Not on this thread: a reader that stands still must not keep Ctrl-C away.
            let written = tokio::task::spawn_blocking(move || output::write(&drawn)).await;
            // If whoever read the lines has gone, nobody watches.
            let watched = matches!(written, Ok(Ok(())));
            if !watched || self.watch_count == Some(number) {
                return verdict;
            }
            // Its exit code is for the end. Not on this thread, as above.
            let told = tokio::task::spawn_blocking(move || {
                if let Err(failure) = verdict {
                    failure.report();
                }
            });
            let _ = told.await;
            tokio::time::sleep(interval).await;
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What stands on a terminal, or goes into a pipe.
struct Screen {
    format: Format,
    terminal: bool,
    interval: Duration,
    /// Time and text of the last reading that did not fail.
    last: Option<(u64, String)>,
}

impl Screen {
    /// Takes a reading and gives what is written for it.
    fn read(&mut self, unix_millis: u64, text: String) -> String {
        let drawn = match self.format {
            Format::Table | Format::Wide if self.terminal => {
                page(self.interval, unix_millis, &text)
            }
            Format::Table | Format::Wide => {
                format!("read at {}\n{text}\n", text::time(unix_millis))
            }
            Format::Yaml => format!("---\n{text}"),
            Format::Json | Format::JsonLines => text.clone(),
        };
        self.last = Some((unix_millis, text));
        drawn
    }

    /// What is written before the words of a failure: on a terminal the last reading stays, and the
    /// failures do not push it away.
    fn failed(&self) -> String {
        match &self.last {
            _ if !self.terminal || self.format.is_data() => String::new(),
            Some((unix_millis, text)) => page(self.interval, *unix_millis, text) + "\n",
            None => format!("{CLEAR}not read yet, tried every {}\n\n", text::span(self.interval)),
        }
    }
}

/// A reading in place of the one before it.
fn page(interval: Duration, unix_millis: u64, text: &str) -> String {
    let (at, every) = (text::time(unix_millis), text::span(interval));
    format!("{CLEAR}read at {at}, again every {every}\n\n{text}")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use clap::Parser;
    use keelson_types::RefusalReason;

    use super::*;
    use crate::failure::Failure;

    #[derive(Parser)]
    struct Line {
        name: Option<String>,
        #[command(flatten)]
        watch: Watch,
    }

    fn screen(format: Format, terminal: bool) -> Screen {
        Screen { format, terminal, interval: Duration::from_secs(1), last: None }
    }

    #[test]
    fn an_interval_is_optional_and_takes_no_other_argument() {
        let parse = |args: &[&str]| Line::try_parse_from([&["keelson"][..], args].concat());
        let line = parse(&["--watch", "DB1"]).unwrap();
        assert_eq!(line.name.as_deref(), Some("DB1"));
        assert_eq!(line.watch.watch, Some(Duration::from_secs(1)));
        let line = parse(&["--watch=250ms"]).unwrap();
        assert_eq!((line.name, line.watch.watch), (None, Some(Duration::from_millis(250))));
        assert_eq!(parse(&[]).unwrap().watch.watch, None);
        for bad in [&["--watch=1ms"][..], &["--watch=x"], &["--watch-count=2"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&["--watch", "--watch-count=0"]).is_err());
    }

    #[test]
    fn only_a_terminal_is_cleared() {
        let text = || "TABLE\n".to_owned();
        let mut terminal = screen(Format::Table, true);
        assert!(terminal.failed().starts_with(CLEAR));
        let drawn = terminal.read(1_700_000_000_123, text());
        assert!(drawn.starts_with(CLEAR) && drawn.ends_with("\n\nTABLE\n"), "{drawn:?}");
        assert!(drawn.contains("2023-11-14T22:13:20.123Z, again every 1s"), "{drawn:?}");
        assert_eq!(terminal.failed(), drawn + "\n", "the last reading and its time stay");
        for format in [Format::Table, Format::JsonLines, Format::Yaml] {
            let mut pipe = screen(format, false);
            assert!(!pipe.read(1, text()).contains('\x1b') && pipe.failed().is_empty());
        }
        let mut lines = screen(Format::JsonLines, true);
        assert_eq!(lines.read(1, "{}\n".into()), "{}\n");
        assert_eq!(lines.failed(), "");
    }

    #[tokio::test]
    async fn a_failed_reading_ends_only_what_has_not_begun() {
        let watch = Watch { watch: Some(Duration::ZERO), watch_count: Some(3) };
        for (first, goes_on) in
            [(RefusalReason::UnknownDatabase, false), (RefusalReason::Unreachable, true)]
        {
            let readings = Cell::new(0);
            let ended = watch.show(Format::Json, async |_| {
                readings.set(readings.get() + 1);
                match readings.get() {
                    1 => Err(Failure::new(first, "not there")),
                    2 => Ok(String::new().into()),
                    _ => Err(Failure::new(RefusalReason::UnknownDatabase, "gone")),
                }
            });
            let ended = ended.await;
            assert!(ended.is_err(), "the last reading decides");
            assert_eq!(readings.get(), if goes_on { 3 } else { 1 });
        }
    }
}

//! What an import did: counts, speed, and the places of what was wrong.

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::batch::Place;
use super::source::Source;
use crate::context::Global;
use crate::output;

/// So many problems are printed one by one.
const SHOWN_MAX: u64 = 20;

/// So many problems are listed in a document.
const LISTED_MAX: usize = 1000;

pub(super) struct Report {
    database: String,
    path: String,
    format: &'static str,
    /// Nothing was written.
    what_if: bool,
    started: Instant,
    bar: ProgressBar,
    records: u64,
    bytes: u64,
    already: u64,
    resumable: bool,
    skipped: u64,
    note: Option<String>,
    bad: u64,
    listed: Vec<Value>,
    /// Since when the import waits for the copies, and how long it waited before.
    waits_since: Option<Instant>,
    waited: Duration,
}

impl Report {
    pub(super) fn new(global: &Global, database: &str, path: &Path, source: &Source) -> Self {
        let style = "{bar:30} {bytes}/{total_bytes}  {msg}  {eta}";
        let bar = match io::stderr().is_terminal() && !global.output.is_data() {
            true => ProgressBar::new(source.total_bytes()),
            false => ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self {
            database: database.into(),
            path: path.display().to_string(),
            format: source.format().name(),
            what_if: global.what_if,
            started: Instant::now(),
            bar,
            records: 0,
            bytes: 0,
            already: 0,
            resumable: source.is_resumable(),
            skipped: source.skipped(),
            note: None,
            bad: 0,
            listed: Vec::new(),
            waits_since: None,
            waited: Duration::ZERO,
        }
    }

    /// A batch was acknowledged.
    pub(super) fn imported(&mut self, records: u64, bytes: u64, read: u64) {
        self.records += records;
        self.bytes += bytes;
        if read > self.bar.position() {
            self.bar.set_position(read);
        }
        let per_second = self.records as f64 / self.elapsed().as_secs_f64();
        self.bar.set_message(format!("{} records, {per_second:.0}/s", self.records));
    }

    /// The copies do not keep up.
    pub(super) fn waits(&mut self, why: &str) {
        self.bar.set_message(format!("waits for the copies: {why}"));
        if self.waits_since.is_none() {
            self.waits_since = Some(Instant::now());
            self.bar.suspend(|| eprintln!("the import waits for the copies: {why}"));
        }
    }

    /// They do.
    pub(super) fn goes_on(&mut self) {
        if let Some(since) = self.waits_since.take() {
            self.waited += since.elapsed();
            self.bar.suspend(|| eprintln!("the import goes on"));
        }
    }

    /// Records of an earlier run.
    pub(super) fn skipped(&mut self, records: u64) {
        self.already += records;
    }

    /// Something that is no record.
    pub(super) fn bad(&mut self, place: &Place, reason: &dyn Display) {
        self.bad += 1;
        if self.bad <= SHOWN_MAX {
            self.bar.suspend(|| eprintln!("not imported: {place}: {reason}"));
        } else if self.bad == SHOWN_MAX + 1 {
            self.bar.suspend(|| eprintln!("not imported: further ones are only counted"));
        }
        if self.listed.len() < LISTED_MAX {
            let reason = reason.to_string();
            self.listed.push(
                json!({ "file": place.file.to_string(), "line": place.line, "reason": reason }),
            );
        }
    }

    /// A remark about the source; one is enough.
    pub(super) fn note(&mut self, place: &Place, text: &str) {
        if self.note.is_none() {
            let note = format!("{place}: {text}");
            self.bar.suspend(|| eprintln!("note: {note} (further lines like it are not named)"));
            self.note = Some(note);
        }
    }

    pub(super) fn bad_count(&self) -> u64 {
        self.bad
    }

    pub(super) fn records(&self) -> u64 {
        self.records
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed().max(Duration::from_millis(1))
    }

    /// Prints the result.
    pub(super) fn print(&self, global: &Global) {
        self.bar.finish_and_clear();
        let seconds = self.elapsed().as_secs_f64();
        let (records, megabytes) =
            (self.records as f64 / seconds, self.bytes as f64 / 1e6 / seconds);
        let verb = if self.what_if { "would import" } else { "imported" };
        let mut sentence = format!(
            "{verb} {} records, {:.1} MB, from {} ({}) into {}",
            self.records,
            self.bytes as f64 / 1e6,
            self.path,
            self.format,
            self.database,
        );
        if !self.what_if {
            sentence += &format!(" in {seconds:.1} s: {records:.0} records/s, {megabytes:.1} MB/s");
        }
        if self.already > 0 {
            sentence += &format!("; {} were there from an earlier run", self.already);
        }
        if self.skipped > 0 {
            sentence += &format!("; {} skipped (links, pipes and devices)", self.skipped);
        }
        let data = json!({
            "database": self.database,
            "source": self.path,
            "format": self.format,
            "what_if": self.what_if,
            "records": self.records,
            "bytes": self.bytes,
            "records_of_earlier_run": self.already,
            "resumable": self.resumable,
            "skipped": self.skipped,
            "note": self.note,
            "bad_records": self.bad,
            "seconds": seconds,
            "waited_seconds": self.waited.as_secs_f64(),
            "records_per_s": records,
            "megabytes_per_s": megabytes,
            "bad": self.listed,
        });
        output::print_done(global.output, &sentence, &data);
    }
}

//! The page of results: machine, settings, tables, and what to keep in mind.

use std::fmt::Write;
use std::fs;

use crate::options::{Kind, Plan};
use crate::report::Results;
use crate::target;

/// The whole page in Markdown.
pub(crate) fn page(kinds: &[Kind], plan: &Plan, machine: &str, results: &Results) -> String {
    let mut text = format!(
        "# Keelson beside its peers\n\n\
         Made by `cargo xtask peers --results benches/RESULTS.md`. One run, one machine, one disk, \
         one load generator;\nonly one system runs at a time.\n\n\
         ## Settings\n\n| | |\n| --- | --- |\n| machine | {machine} |\n| load | {} |\n",
        load(plan)
    );
    for kind in kinds {
        let version = results.versions.get(kind).map_or("", String::as_str);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {version}: {} |", kind.title(), target::settings(*kind));
    }
    text.push_str(&format!("\n## Results\n\n{}\n{READING}", results.tables()));
    if !results.notes.is_empty() {
        text.push_str("\n## What did not go as it should\n\n");
        for note in &results.notes {
            let _ = writeln!(text, "- {note}");
        }
    }
    text
}

const READING: &str = "\
How to read it:

- *Times better* is Keelson's rate by the peer's, or the peer's gap by Keelson's.
- A rate is the median of the rounds; a gap is the median of all, with the 95th percentile.
- Keelson encrypts every connection, its peers here none; Redis's replica has not synced what it
  acknowledges.
- Catch-up is the time from the start of the copy's process until it has, durably, what it
  missed: bytes of values by that time. A replica of Redis that starts again takes a whole copy
  instead, whatever it missed.
- A whole copy is bytes of its files by the time until all are durable. Keelson and PostgreSQL
  make one on request. etcd and Redis make one for a member without files: time from the start
  of its process, bytes of its database file (etcd) and of the file that its append-only file
  begins with (Redis).
- A gap is the longest time without an acknowledged put of any of 4 clients. Keelson, etcd and
  Redis's sentinels find out by themselves that a member is gone. PostgreSQL has nothing that
  does: a standby is promoted in the instant of the kill, no detection, a lower bound (≥) of what
  any tool around it needs.
- A switchover by Redis's sentinels can lose puts that were acknowledged: the old master goes on
  with a replica that was not told yet. The others lose none.
- The line of fdatasync is the disk alone, right before each system: where it differs, the disk
  did.
";

fn load(plan: &Plan) -> String {
    format!(
        "{} rounds; {} records of {} bytes that do not compress are there first, and puts \
         overwrite them at random; each load runs for {:?} after {:?}; batches of {}; a copy that \
         was away misses {} MiB; per round {} switchovers and {} kills of each kind",
        plan.rounds,
        plan.keys,
        plan.value_bytes,
        plan.duration,
        plan.warm_up,
        plan.batch,
        plan.catch_up_bytes / 1024 / 1024,
        plan.switchovers,
        plan.kills,
    )
}

/// Processor, memory and kernel, as far as the system tells.
pub(crate) fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    describe(&read("/proc/cpuinfo"), &read("/proc/meminfo"), kernel.trim())
}

fn describe(cpus: &str, memory: &str, kernel: &str) -> String {
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let model = value(cpus, "model name").unwrap_or_else(|| "unknown processor".into());
    let total = value(memory, "MemTotal").unwrap_or_default();
    let kib: f64 = total.trim_end_matches(" kB").parse().unwrap_or(0.0);
    format!("{count} × {model}, {:.1} GiB of memory, Linux {kernel}", kib / 1024.0 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Arguments;
    use clap::Parser;

    #[test]
    fn the_machine_is_described_from_what_the_system_says() {
        let cpus =
            "processor\t: 0\nmodel name\t: Fast CPU\nprocessor\t: 1\nmodel name\t: Fast CPU\n";
        let text = describe(cpus, "MemTotal:        8388608 kB\n", "6.1");
        assert_eq!(text, "2 × Fast CPU, 8.0 GiB of memory, Linux 6.1");
    }

    #[test]
    fn the_page_has_settings_of_every_system_and_what_went_wrong() {
        let plan = Arguments::try_parse_from(["keelson-peers"]).unwrap().plan();
        let mut results = Results::default();
        results.notes.push("etcd was slow".into());
        let text = page(&Kind::ALL, &plan, "a machine", &results);
        for part in ["a machine", "appendfsync", "mutual TLS", "- etcd was slow", "256 MiB"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

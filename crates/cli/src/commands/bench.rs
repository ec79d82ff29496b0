//! `keelson bench`: how fast is it, measured from outside.
//!
//! The loops are closed: every client sends its next request when the last one was answered.
//! Latencies are of single requests, retries included, in an HDR histogram with three digits. The
//! longest gap is the longest time in which no client got an answer. `idle` measures the opposite:
//! what members use while nobody asks for anything.

mod beside;
mod fsync;
mod idle;
mod load;
mod seed;
mod usage;
mod yardstick;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::block_on;
use crate::context::Global;
use crate::failure::{Failure, Outcome};
use crate::output;
use yardstick::Yardstick;

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Single writes, each acknowledged by the database's commit rule
    Put(Load),
    /// Single linearizable reads; writes the keys first
    Get(Load),
    /// Atomic writes of several records
    Batch(Batch),
    /// Memory and processor time of the members while many databases lie idle
    Idle(idle::Idle),
    /// Raw fdatasync of rewritten 4 KiB blocks, without any database, for comparison
    Fsync(fsync::Fsync),
    /// A seed at full speed beside a plain copy of as many bytes over TCP with fsync; with
    /// --clients one that is held back, and what writers feel of it
    Seed(seed::Seed),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Load {
    /// Name of the database
    #[arg(long, default_value = "DB1")]
    database: String,
    /// Clients that write or read at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    clients: u32,
    /// Size of a value
    #[arg(long, default_value = "1KiB")]
    value_size: bytesize::ByteSize,
    /// How long to measure
    #[arg(long, default_value = "10s")]
    duration: humantime::Duration,
    /// How long to run before measuring
    #[arg(long, default_value = "1s")]
    warm_up: humantime::Duration,
    /// Number of different keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Put this before every key
    #[arg(long, default_value = "bench/")]
    key_prefix: String,
    /// Write through sessions (exactly once)
    #[arg(long)]
    sessions: bool,
    /// HTTP/2 connections to the active member
    #[arg(long, default_value_t = 2)]
    connections: usize,
    /// Measure the raw fdatasync of this directory, and calls that do nothing, first: for
    /// comparison in the same run
    #[arg(long, value_name = "DIR")]
    fsync_dir: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Batch {
    #[command(flatten)]
    load: Load,
    /// Records per write
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
}

/// What each request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    Put,
    Get,
    Batch(u32),
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Batch(_) => "batch",
        }
    }

    fn records(self) -> u64 {
        match self {
            Self::Put | Self::Get => 1,
            Self::Batch(records) => records.into(),
        }
    }
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Put(load) => load.run(global, Work::Put),
            Self::Get(load) => load.run(global, Work::Get),
            Self::Batch(batch) => batch.load.run(global, Work::Batch(batch.batch)),
            Self::Idle(idle) => block_on(idle.run(global)),
            Self::Fsync(fsync) => fsync.run(global),
            Self::Seed(seed) => block_on(seed.run(global)),
        }
    }
}

impl Load {
    /// Single writes of 1 KiB for so long.
    fn of_puts(database: &str, clients: u32, duration: Duration) -> Self {
        Self {
            database: database.into(),
            clients,
            value_size: bytesize::ByteSize::kib(1),
            duration: duration.into(),
            warm_up: Duration::ZERO.into(),
            keys: 100_000,
            key_prefix: "bench/".into(),
            sessions: false,
            connections: 2,
            fsync_dir: None,
        }
    }

    fn run(self, global: &Global, work: Work) -> Outcome {
        let plan = format!("load {} with {} clients", self.database, self.clients);
        if global.only_shows(&plan) {
            return Ok(());
        }
        let fsync = match &self.fsync_dir {
            None => None,
            Some(dir) => Some(
                fsync::measure(dir, 1, Duration::from_secs(2))
                    .map_err(|error| Failure::file(dir, &error))?,
            ),
        };
        let yardstick = match &self.fsync_dir {
            None => None,
            Some(dir) => Some(Yardstick::measure(global, &self.database, dir)?),
        };
        let result = block_on(load::run(global, &self, work, load::Stop::default()))?;
        self.print(global, work, &result, fsync.as_ref().zip(yardstick.as_ref()));
        if result.errors > 0 {
            return Err(Failure::local(format!(
                "{} requests failed, the last one with: {}",
                result.errors, result.last_error
            )));
        }
        Ok(())
    }

    fn print(
        &self,
        global: &Global,
        work: Work,
        result: &load::Result,
        limits: Option<(&fsync::Rate, &Yardstick)>,
    ) {
        let seconds = result.seconds;
        let operations = result.latencies.len();
        let per_second = operations as f64 / seconds;
        let records = per_second * work.records() as f64;
        let megabytes = records * self.value_size.as_u64() as f64 / 1e6;
        let micros = |quantile| result.latencies.value_at_quantile(quantile);
        let max = result.latencies.max();
        let gap = result.longest_gap.as_secs_f64() * 1e3;
        let data = json!({
            "workload": work.name(),
            "database": self.database,
            "clients": self.clients,
            "connections": self.connections,
            "value_bytes": self.value_size.as_u64(),
            "records_per_operation": work.records(),
            "sessions": self.sessions,
            "seconds": seconds,
            "operations": operations,
            "errors": result.errors,
            "operations_per_s": per_second,
            "records_per_s": records,
            "value_megabytes_per_s": megabytes,
            "latency_micros": {
                "mean": result.latencies.mean(),
                "p50": micros(0.5),
                "p95": micros(0.95),
                "p99": micros(0.99),
                "p999": micros(0.999),
                "max": max,
            },
            "longest_gap_millis": gap,
            "fsync": limits.map(|(fsync, _)| fsync.data()),
            "yardstick": limits.map(|(_, yardstick)| yardstick.data(micros(0.5))),
        });
        let mut rows = vec![
            (
                "workload",
                format!("{}, {} clients, values of {}", work.name(), self.clients, self.value_size),
            ),
            ("operations", format!("{operations} in {seconds:.1} s, {} failed", result.errors)),
            ("operations/s", format!("{per_second:.0}")),
            ("records/s", format!("{records:.0} ({megabytes:.1} MB/s of values)")),
            ("latency p50", millis(micros(0.5))),
            ("latency p95", millis(micros(0.95))),
            ("latency p99", millis(micros(0.99))),
            ("latency max", millis(max)),
            ("longest gap", format!("{gap:.1} ms")),
        ];
        if let Some((rate, yardstick)) = limits {
            rows.push(("raw fdatasync", rate.sentence()));
            rows.push(("yardstick", yardstick.sentence(micros(0.5))));
        }
        output::print_one(global.output, &rows, &data);
    }
}

/// Microseconds as milliseconds with enough digits.
fn millis(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1e3)
}

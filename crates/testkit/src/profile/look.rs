//! Looks at what the kernel and the members have counted.

use std::collections::BTreeMap;
use std::fs;
use std::ops::{AddAssign, Sub};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::{Cluster, collect_metrics};

/// Whose thread it is, and what kind of thread.
pub(super) type Group = (&'static str, String);

/// What threads of a group have used.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Used {
    pub(super) cpu_nanos: u64,
    pub(super) switches: u64,
}

/// Syncs of logs, or writes in a stage: how many, and how long all of them took.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Timed {
    pub(super) count: f64,
    pub(super) seconds: f64,
}

/// The unit of the kernel's counts of disks.
const SECTOR_BYTES: u64 = 512;

/// Everything counted so far.
#[derive(Debug)]
pub(super) struct Look {
    /// By number, because threads come and go.
    threads: BTreeMap<u32, (Group, Used)>,
    written_bytes: u64,
    /// By metric and stage.
    timed: BTreeMap<String, Timed>,
}

/// The difference of two looks.
#[derive(Debug)]
pub(super) struct Cost {
    pub(super) groups: BTreeMap<Group, Used>,
    pub(super) written_bytes: u64,
    pub(super) timed: BTreeMap<String, Timed>,
}

impl AddAssign for Used {
    fn add_assign(&mut self, other: Self) {
        self.cpu_nanos += other.cpu_nanos;
        self.switches += other.switches;
    }
}

impl Sub for Used {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            cpu_nanos: self.cpu_nanos.saturating_sub(other.cpu_nanos),
            switches: self.switches.saturating_sub(other.switches),
        }
    }
}

impl Look {
    pub(super) fn until(&self, later: &Self) -> Cost {
        let mut groups: BTreeMap<Group, Used> = BTreeMap::new();
        for (number, (group, used)) in &later.threads {
            let before = self.threads.get(number).map_or_else(Used::default, |(_, used)| *used);
            *groups.entry(group.clone()).or_default() += *used - before;
        }
        let since = |(name, now): (&String, &Timed)| {
            let before = self.timed.get(name).copied().unwrap_or_default();
            let (count, seconds) = (now.count - before.count, now.seconds - before.seconds);
            (name.clone(), Timed { count, seconds })
        };
        Cost {
            groups,
            written_bytes: later.written_bytes.saturating_sub(self.written_bytes),
            timed: later.timed.iter().map(since).collect(),
        }
    }
}

/// Looks at all members and at the load.
pub(super) fn look(
    cluster: &mut Cluster,
    ports: &[(String, u16)],
    active: &str,
    load: u32,
) -> Result<Look> {
    let written_bytes = written_bytes(cluster.path())?;
    let mut look = Look { threads: BTreeMap::new(), written_bytes, timed: BTreeMap::new() };
    for (name, port) in ports {
        let member = cluster.member(name);
        let data = member.data_pid().with_context(|| format!("{name} has no data process"))?;
        let control = member.control_pid().with_context(|| format!("{name} does not run"))?;
        let data = u32::try_from(data.as_raw())?;
        let whose = if name == active { "active" } else { "two passives" };
        look.threads_of(data, whose)?;
        look.threads_of(control, "three control processes")?;
        look.count(&collect_metrics(*port)?, name == active);
    }
    look.threads_of(load, "load generator")?;
    Ok(look)
}

impl Look {
    fn threads_of(&mut self, process: u32, whose: &'static str) -> Result<()> {
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let (path, thread) = thread.map(|thread| (thread.path(), thread.file_name()))?;
            // A thread that ends meanwhile has no files any more.
            let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
            let Ok(times) = fs::read_to_string(path.join("schedstat")) else { continue };
            let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
            let number = thread.to_string_lossy().parse()?;
            let used = Used { cpu_nanos: first_number(&times), switches: switches(&status) };
            self.threads.insert(number, ((whose, kind(name.trim())), used));
        }
        Ok(())
    }

    /// Takes what the metrics of a member tell; stages of writes are those of the active.
    fn count(&mut self, metrics: &str, active: bool) {
        for line in metrics.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let name = series.replace("_seconds_count", "").replace("_seconds_sum", "");
            let is_wanted = name.starts_with("keelson_log_sync")
                || (active && name.starts_with("keelson_write_stage"));
            if is_wanted && series.contains("_seconds_count") {
                self.timed.entry(name).or_default().count += value;
            } else if is_wanted && series.contains("_seconds_sum") {
                self.timed.entry(name).or_default().seconds += value;
            }
        }
    }
}

/// The name of a thread without the number that tells it from others of its kind.
fn kind(name: &str) -> String {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned()
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Both kinds of changes of context.
fn switches(status: &str) -> u64 {
    let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
    lines.map(|(_, number)| first_number(number)).sum()
}

/// Bytes that the disk below a directory has written; none if there is no disk below it. What the
/// kernel counts for each process is larger by far: a whole folio for each byte that is changed.
fn written_bytes(directory: &Path) -> Result<u64> {
    let device = fs::metadata(directory)?.dev();
    let numbers = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let path = format!("/sys/dev/block/{}:{}/stat", numbers.0, numbers.1);
    let Ok(text) = fs::read_to_string(path) else { return Ok(0) };
    let sectors = text.split_whitespace().nth(6).and_then(|number| number.parse::<u64>().ok());
    Ok(sectors.unwrap_or(0) * SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(cpu_nanos: u64, metrics: &str) -> Look {
        let threads = [
            (1, (("active", "log".to_owned()), Used { cpu_nanos, switches: cpu_nanos / 10 })),
            (2, (("active", "log".to_owned()), Used { cpu_nanos: 7, switches: 1 })),
        ];
        let (threads, timed) = (threads.into(), BTreeMap::new());
        let mut look = Look { threads, written_bytes: cpu_nanos, timed };
        look.count(metrics, true);
        look.count("keelson_log_sync_seconds_count 1\nkeelson_write_stage_seconds_sum 9", false);
        look
    }

    #[test]
    fn a_cost_is_the_difference_of_two_looks_by_kind_of_thread() {
        let metrics = "keelson_log_sync_seconds_sum 0.5\nkeelson_log_sync_seconds_count 10\n\
            keelson_write_stage_seconds_count{stage=\"queue\"} 4\n# HELP x y\n";
        let cost = look(100, "").until(&look(400, metrics));
        let group = ("active", "log".to_owned());
        assert_eq!(cost.groups[&group].cpu_nanos, 300);
        assert_eq!((cost.groups[&group].switches, cost.written_bytes), (30, 300));
        let syncs = cost.timed["keelson_log_sync"];
        assert_eq!((syncs.count, syncs.seconds), (10.0, 0.5));
        assert_eq!(cost.timed["keelson_write_stage{stage=\"queue\"}"].count, 4.0);
        assert!(!cost.timed.contains_key("keelson_write_stage"), "of the active alone");
    }

    #[test]
    fn what_the_kernel_tells_is_read() {
        assert_eq!((kind("log-3"), kind("tokio-rt")), ("log".into(), "tokio-rt".into()));
        assert_eq!(first_number("1234 5 6\n"), 1234);
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switches(status), 42);
        assert!(written_bytes(&std::env::temp_dir()).is_ok());
    }
}
